"""Small policies, pictures and watched backends for tests of Guard. A picture's score is its shade / 255."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image as Pictures

from policyguard import Policy
from policyguard.assessment import Assessment, Failure
from policyguard.backends.base import AssessmentRequest
from policyguard.policy import parse_policy
from policyguard.testing import FakeBackend


def policy(**changes: Any) -> Policy:
    rules = [{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}]
    return parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": rules} | changes)


def picture(shade: int = 0, side: int = 8) -> Pictures.Image:
    return Pictures.new("RGB", (side, side), (shade % 256, 0, 7))


def png(shade: int = 0, side: int = 8) -> bytes:
    encoded = io.BytesIO()
    picture(shade, side).save(encoded, "PNG")
    return encoded.getvalue()


def shade(request: AssessmentRequest) -> int:
    value = request.frame.getpixel((0, 0))
    assert isinstance(value, tuple)
    return int(value[0])


class Watched(FakeBackend):
    """Scores by shade and counts its calls; ``during(requests)`` runs inside each, off the lock."""

    def __init__(
        self, during: Callable[[Sequence[AssessmentRequest]], Any] | None = None, **more: Any
    ) -> None:
        super().__init__(lambda request: shade(request) / 255, **{"preferred_batch": 1} | more)
        self.during = during
        self.running = self.peak = self.started = self.cancelled = 0
        self.counting = threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.counting:
            self.started += 1
            self.running += 1
            self.peak = max(self.peak, self.running)
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            with self.counting:
                self.running -= 1

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        with self.counted():
            if self.during is not None:
                self.during(requests)
            return super().assess(requests)


class AsyncWatched(Watched):
    """The same, with calls that are coroutines and can be cancelled; ``during`` may be one too."""

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        with self.counted():
            if self.during is not None:
                await self.during(requests)
            return FakeBackend.assess(self, requests)
