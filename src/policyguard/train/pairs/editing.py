"""What an image editor is asked for, and the one interface that all editors have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = ["EditError", "Editor", "Order", "order_for"]


class EditError(Exception):
    """The editor gave no picture. Becomes a ``Problem`` of the image."""


@dataclass(frozen=True, slots=True)
class Order:
    """One edit. ``picture``: RGB; ``sha256``: of the file it is from; ``rules``: ids of what is violated.

    ``instruction`` says in words what to change; ``attempt`` counts from 0.
    """

    picture: PILImage
    sha256: str
    policy: ResolvedPolicy
    rules: tuple[str, ...]
    instruction: str
    attempt: int = 0

    def again(self, fault: str) -> Order:
        """The next attempt, told what was wrong with this one."""
        told = f"{self.instruction}\nAn earlier attempt failed: {fault}. Avoid that."
        return replace(self, attempt=self.attempt + 1, instruction=told)


class Editor(Protocol):
    """Makes the edited picture, of the same size. ``name`` goes into the rows."""

    @property
    def name(self) -> str: ...

    async def edit(self, order: Order) -> PILImage:
        """Raises EditError for this picture, and ConfigurationError for a wrong set-up."""
        ...

    async def close(self) -> None: ...


def order_for(picture: PILImage, sha256: str, policy: ResolvedPolicy, verdict: Verdict) -> Order:
    """What to ask for, from a verdict that the picture violates ``policy``: its findings and rationale."""
    found = [finding for finding in verdict.findings if finding.violates and finding.policy == policy.id]
    lines = ["Edit this picture so that it keeps to the rules below. It breaks:"]
    for rule in (policy.rule(finding.rule) for finding in found):
        lines.append(
            f"- {rule.title}" + (f" (must not show: {'; '.join(rule.unsafe)})" if rule.unsafe else "")
        )
        if rule.safe:
            lines.append(f"  It may show: {'; '.join(rule.safe)}")
    if verdict.rationale:
        lines.append(f"What a reviewer saw: {verdict.rationale}")
    lines.append(
        "Make the smallest change that removes this: replace, alter or take away that one thing, for example "
        "a weapon by a camera. Leave all else as it is, pixel for pixel: people, faces, poses, clothing, "
        "background, light, style, framing and size. No blurring, no black bars, no added text. "
        "Give back the edited picture only."
    )
    return Order(picture, sha256, policy, tuple(finding.rule for finding in found), "\n".join(lines))
