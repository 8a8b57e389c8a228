"""The result of a screening: one verdict per image, and how many there were."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from policyguard.outcomes import Action

if TYPE_CHECKING:
    from collections.abc import Iterable

    from policyguard.integrations.extract import ImageSite, ProviderRefusal, Replacement, SiteKind
    from policyguard.verdict import Verdict

__all__ = ["ScreenResult", "Screened"]

_NAMED = 3
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Screened:
    """One image and its verdict, whose ``source`` is the site's ``where``.

    ``fetched`` holds the bytes that were judged, for an image given by URL, and ``fetched_type`` their media
    type. ``passed`` is what is to be forwarded of an image that may pass, instead of what stands there: what
    was fetched, or a plain file of what was judged; None: it is forwarded as it stands.
    """

    site: ImageSite
    verdict: Verdict
    fetched: bytes | None = field(default=None, repr=False)
    fetched_type: str | None = None
    passed: Replacement | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """The place of the image in the payload, a JSON Pointer."""
        return self.site.where

    @property
    def kind(self) -> SiteKind:
        """How it stands there: ``inline``, ``url``, ``file``, ``document``, ``link``, ``unreadable``."""
        return self.site.kind


@dataclass(frozen=True, slots=True)
class ScreenResult:
    """All images of one payload, in order, each with its verdict.

    ``images_seen`` counts every image; ``images_checked`` those that were judged (``Outcome.judged``). A
    payload without images is allowed. ``watched``: the verdicts are what they would be, and nothing is
    stopped for them.
    """

    items: tuple[Screened, ...] = ()
    provider_refused: tuple[ProviderRefusal, ...] = ()
    watched: bool = False

    @property
    def images_seen(self) -> int:
        return len(self.items)

    @property
    def images_checked(self) -> int:
        return sum(item.verdict.outcome.judged for item in self.items)

    @property
    def action(self) -> Action:
        """The most severe action of all verdicts; ALLOW without images."""
        actions = (item.verdict.action for item in self.items)
        return max(actions, key=lambda action: action.severity, default=Action.ALLOW)

    @property
    def allowed(self) -> bool:
        """Whether the payload may pass as it is: no image is blocked."""
        return self.action is not Action.BLOCK

    @property
    def blocked(self) -> tuple[Screened, ...]:
        """The items that may not pass."""
        return tuple(item for item in self.items if not item.verdict.allowed)

    def with_refusals(self, refusals: Iterable[ProviderRefusal]) -> Self:
        """This result, with what the provider refused by itself."""
        return replace(self, provider_refused=tuple(refusals))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form. Holds no image bytes."""
        return {
            "action": self.action,
            "allowed": self.allowed,
            "images_seen": self.images_seen,
            "images_checked": self.images_checked,
            "watched": self.watched,
            "items": [
                {"where": item.site.where, "kind": item.site.kind, "verdict": item.verdict.to_dict()}
                for item in self.items
            ],
            "provider_refused": [refusal.to_dict() for refusal in self.provider_refused],
        }

    def header(self) -> str:
        """The result as one short line of ASCII JSON (under 1,000 characters), for an HTTP header.

        ``items`` names the first images that were blocked or flagged, and the rules they break.
        """
        noted = [item for item in self.items if item.verdict.action is not Action.ALLOW]
        noted.sort(key=lambda item: -item.verdict.action.severity)
        short: dict[str, Any] = {
            "action": self.action,
            "images_seen": self.images_seen,
            "images_checked": self.images_checked,
        }
        if self.watched:
            short["watched"] = True
        if noted:
            short["items"] = [_short(item) for item in noted[:_NAMED]]
        if self.provider_refused:
            short["provider_refused"] = len(self.provider_refused)
        text = json.dumps(short, separators=(",", ":"))
        if len(text) >= 1000:  # long names, or names in a script that takes many escapes
            del short["items"]
            text = json.dumps(short, separators=(",", ":"))
        return text


def _short(item: Screened) -> dict[str, Any]:
    verdict = item.verdict
    rules = [finding.rule[:40] for finding in verdict.findings if finding.violates][:_NAMED]
    short = {"where": item.site.where[:_LONGEST], "action": verdict.action, "outcome": verdict.outcome}
    return {**short, "rules": rules} if rules else short
