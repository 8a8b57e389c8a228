"""Requests without pictures behind them, policies and stores for the tests of the verdict cache."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from PIL import Image as Pictures

from policyguard.assessment import Assessment, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.policy import ResolvedPolicy, parse_policy

PIXEL = Pictures.new("RGB", (1, 1))


RULES = [
    {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
    {"id": "gore", "title": "Gore", "unsafe": ["blood"]},
]
_DECIDING = ("threshold", "action", "undecided_band", "min_label_mass")


def policy(**changes: Any) -> ResolvedPolicy:
    deciding = {name: changes.pop(name) for name in _DECIDING if name in changes}
    document = {"id": "p", "version": "1.0.0", "title": "P", "rules": RULES} | changes
    return replace(parse_policy(document).resolve(), **deciding)


def request(name: str = "a", **changes: Any) -> AssessmentRequest:
    given = {"policy": policy(), "reading": Reading.FAST} | changes
    return AssessmentRequest(PIXEL, frame_key=name, **given)


def assessment(score: float | None = 0.2, **changes: Any) -> Assessment:
    rating = Rating.UNSAFE if score is not None and score >= 0.5 else Rating.SAFE
    given: dict[str, Any] = {"rule_scores": {"arms": 0.9, "gore": 0.1}, "label_mass": 1.0} | changes
    return Assessment(given.pop("rating", rating), score, **given)


def picture(red: int = 0, *, side: int = 16, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    colour = (red, 0, 0) if mode == "RGB" else (red, 0, 0, 100)
    Pictures.new(mode, (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def server_like(request: AssessmentRequest) -> Assessment:
    """Rates every image 0.3, and like a server leaves the rules unread where they cannot matter."""
    first, *others = [rule.id for rule in request.policy.rules]
    share = 1.0 if request.policy.decisive_score <= 0.3 else 0.0
    return Assessment(Rating.SAFE, 0.3, 1.0, rule_scores={first: share} | dict.fromkeys(others, 0.0))


def short_sighted(request: AssessmentRequest) -> Assessment:
    """Like a server that lists few tokens: the label unsafe is not among them, and may have up to 0.3."""
    if request.policy.decisive_score <= 0.3:
        return Assessment(Rating.UNDECIDED, None, 0.7, notes=("the server lists too few tokens",))
    unread = {rule.id: 0.0 for rule in request.policy.rules}
    return Assessment(Rating.SAFE, 0.0, 0.7, rule_scores=unread, blind_below=0.3)
