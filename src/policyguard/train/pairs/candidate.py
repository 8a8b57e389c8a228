"""An edit, from the order that an image editor gets to the pair that passed the checks.

``Editor`` is the one interface of all editors. A ``Candidate`` is one JSON line; the lines are the job's
journal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policyguard.errors import ConfigurationError
from policyguard.strict.jsontext import parse_json
from policyguard.train.data import Label, Split

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = [
    "CANDIDATES",
    "Candidate",
    "EditError",
    "Editor",
    "Labels",
    "Order",
    "order_for",
    "read_candidates",
]


CANDIDATES = "candidates.jsonl"
_Name = Annotated[str, Field(min_length=1, max_length=4096)]


class EditError(Exception):
    """The editor gave no image. Becomes a ``Problem`` of the image."""


@dataclass(frozen=True, slots=True)
class Order:
    """One edit. ``frame``: RGB; ``sha256``: of the file it is from; ``rules``: ids of what is violated.

    ``instruction`` says in words what to change; ``attempt`` counts from 0.
    """

    frame: PILImage
    sha256: str
    policy: ResolvedPolicy
    rules: tuple[str, ...]
    instruction: str
    attempt: int = 0

    def again(self, problem: str) -> Order:
        """The next attempt, which names the problem of this one."""
        instruction = f"{self.instruction}\nAn earlier attempt failed: {problem}. Avoid that."
        return replace(self, attempt=self.attempt + 1, instruction=instruction)


class Editor(Protocol):
    """Makes the edited image, of the same size. ``name`` goes into the rows."""

    @property
    def name(self) -> str: ...

    async def edit(self, order: Order) -> PILImage:
        """Raises EditError for this image, and ConfigurationError for a wrong set-up."""
        ...

    async def close(self) -> None: ...


def order_for(frame: PILImage, sha256: str, policy: ResolvedPolicy, verdict: Verdict) -> Order:
    """What to ask for, from a verdict that the image violates ``policy``: its findings and rationale."""
    findings = [finding for finding in verdict.findings if finding.violates and finding.policy == policy.id]
    lines = ["Edit this picture so that it keeps to the rules below. It breaks:"]
    for rule in (policy.rule(finding.rule) for finding in findings):
        lines.append(
            f"- {rule.title}" + (f" (must not show: {'; '.join(rule.unsafe)})" if rule.unsafe else "")
        )
        if rule.safe:
            often = "It must not show these either" if rule.status == "sensitive" else "It may show"
            lines.append(f"  {often}: {'; '.join(rule.safe)}")
    if verdict.rationale:
        lines.append(f"What a reviewer saw: {verdict.rationale}")
    lines.append(
        "Make the smallest change that removes this: replace, alter or take away that one thing, for example "
        "a weapon by a camera. Leave all else as it is, pixel for pixel: people, faces, poses, clothing, "
        "background, light, style, framing and size. No blurring, no black bars, no added text. "
        "Give back the edited picture only."
    )
    return Order(frame, sha256, policy, tuple(finding.rule for finding in findings), "\n".join(lines))


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Labels(_Part):
    """What the guard says of the two images under one policy; ``None`` where it could not judge."""

    before: Label | None
    after: Label | None


class Candidate(_Part):
    """``before``, ``after``: paths relative to the file. ``policy``: the one the edit is made for, first in
    ``labels``. ``rules``: what the original violates under it. The measures are those of ``difference``.
    """

    id: Annotated[str, Field(pattern=r"^[\w.-]{1,120}$")]
    before: _Name
    after: _Name
    before_sha256: _Name
    after_sha256: _Name
    source: _Name
    licence: _Name
    split: Split | None = None
    policy: _Name
    rules: list[str]
    labels: dict[str, Labels]
    editor: _Name
    guard: _Name
    instruction: str
    attempts: int
    region: float
    box: float
    inside: float
    outside: float


def read_candidates(folder: Path) -> list[Candidate]:
    """All candidates in ``folder``; a last line that a kill cut short is passed over.

    Raises ConfigurationError.
    """
    path = folder / CANDIDATES
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="`policyguard train pairs IMAGES FOLDER` writes it",
        ) from error
    candidates = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            if line.strip():
                candidates.append(Candidate.model_validate(parse_json(line)))
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            where = ".".join(map(str, item["loc"]))
            raise ConfigurationError(f"{path}:{number}: {where}: {item['msg']}") from error
        except ValueError as error:
            raise ConfigurationError(f"{path}:{number}: the line {error}") from error
    return candidates
