"""What the middleware saw in one request and its response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from policyguard.integrations.screen import ScreenResult

if TYPE_CHECKING:
    from policyguard.integrations.extract import ProviderRefusal
    from policyguard.outcomes import Action

__all__ = ["Direction", "HttpResult"]

Direction: TypeAlias = Literal["request", "response"]


@dataclass(slots=True)
class HttpResult:
    """One exchange: how many images stood in it, and what became of them. Holds no image bytes.

    ``request`` and ``response`` are the two screenings; that of a streamed response grows while the stream
    is read. ``blocked`` says which of the two was stopped, and ``reason`` why; ``replaced`` counts the
    images that others were put in place of, ``normalised`` those that went on as plain files of what was
    judged. ``provider_refused`` is what the provider refused by itself.
    ``watched`` names the directions in which nothing is stopped (``on_block="watch"``), ``would_block`` the
    first that would have been. ``sent_unjudged``: the request was out before its verdict
    (``when="alongside"``).
    """

    method: str
    host: str
    path: str
    request: ScreenResult = field(default_factory=ScreenResult)
    response: ScreenResult = field(default_factory=ScreenResult)
    blocked: Direction | None = None
    reason: str | None = None
    replaced: int = 0
    normalised: int = 0
    watched: tuple[Direction, ...] = ()
    would_block: Direction | None = None
    sent_unjudged: bool = False

    def __post_init__(self) -> None:
        for direction in self.watched:
            setattr(self, direction, replace(getattr(self, direction), watched=True))

    @property
    def images_seen(self) -> int:
        return self.request.images_seen + self.response.images_seen

    @property
    def images_checked(self) -> int:
        return self.request.images_checked + self.response.images_checked

    @property
    def action(self) -> Action:
        """The most severe action of both directions."""
        return self._both().action

    @property
    def provider_refused(self) -> tuple[ProviderRefusal, ...]:
        return self.response.provider_refused

    def header(self) -> str:
        """One short line of ASCII, for a header."""
        return self._both().header()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "method": self.method,
            "host": self.host,
            "path": self.path,
            "blocked": self.blocked,
            "reason": self.reason,
            "replaced": self.replaced,
            "normalised": self.normalised,
            "watched": list(self.watched),
            "would_block": self.would_block,
            "sent_unjudged": self.sent_unjudged,
            "request": self.request.to_dict(),
            "response": self.response.to_dict(),
        }

    def note(self, direction: Direction, screened: ScreenResult) -> None:
        """Add a screening, without its images: results are kept longer than those should be."""
        items = tuple(
            replace(item, site=replace(item.site, data=None), fetched=None, passed=None)
            for item in screened.items
        )
        before: ScreenResult = getattr(self, direction)
        setattr(self, direction, replace(before, items=before.items + items))

    def note_refusals(self, refusals: Sequence[ProviderRefusal]) -> None:
        if refusals:
            self.response = self.response.with_refusals((*self.response.provider_refused, *refusals))

    def _both(self) -> ScreenResult:
        items = self.request.items + self.response.items
        return ScreenResult(items, self.response.provider_refused, watched=bool(self.watched))
