"""Pictures, and a guard that knows them by their colour: red violates, orange is flagged, others comply."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from policyguard import Guard
from policyguard.assessment import Assessment, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.policy import parse_policy
from policyguard.testing import FakeBackend

RED, GREEN, BLUE, ORANGE = (220, 20, 20), (20, 180, 40), (30, 40, 200), (250, 150, 10)

_POLICY = {
    "id": "tests/colours",
    "version": "1.0.0",
    "title": "Colours",
    "rules": [
        {"id": "red", "title": "Red", "unsafe": ["red areas"]},
        {"id": "orange", "title": "Orange", "unsafe": ["orange areas"], "action": "flag"},
    ],
}


def picture(
    colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (24, 16), seed: int = 0
) -> bytes:
    """An encoded picture of one colour. ``seed`` makes its bytes differ, not its colour."""
    buffer = io.BytesIO()
    made = Image.new("RGB", size, colour)
    made.putpixel((0, 0), (seed % 256, seed // 256 % 256, 0))
    made.save(buffer, kind)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64(data)}"


def colour_guard(**changes: Any) -> tuple[Guard, FakeBackend]:
    """``changes`` are changes of the policy."""
    backend = FakeBackend(_judge)
    return Guard(parse_policy(_POLICY | changes), backend=backend), backend


def _judge(request: AssessmentRequest) -> Assessment:
    width, height = request.frame.size
    red, green, blue = request.frame.getpixel((width // 2, height // 2))  # type: ignore[misc]
    rule = "red" if green < 100 else "orange"
    # A guard asks again without the rules that only flag: does another rule hide behind them?
    asked = {each.id for each in request.policy.rules if each.status != "exempt"}
    hot = red > 150 and blue < 100 and rule in asked
    return Assessment(
        rating=Rating.UNSAFE if hot else Rating.SAFE,
        p_unsafe=0.97 if hot else 0.02,
        label_mass=1.0,
        rule_scores={each.id: float(hot and each.id == rule) for each in request.policy.rules},
        reading=request.reading,
    )
