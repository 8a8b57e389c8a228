"""Words for reports: names of files, answers of models and texts of policies come from strangers.

Covered: ``shown`` has no character that is not plainly visible, ``json_line`` is one line that every JSON
parser reads, ``percent`` is a valid URI. What a format itself gives a meaning to (markup, commands) is
escaped where that format is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from policyguard.ci.run import ImageStatus
from policyguard.cli.text import visible
from policyguard.verdict import Outcome

if TYPE_CHECKING:
    from policyguard.ci.baseline import BaselineEntry
    from policyguard.ci.run import CheckedImage, RunSummary
    from policyguard.verdict import Finding

__all__ = [
    "accepted_by",
    "clip",
    "count_words",
    "described",
    "json_line",
    "reasons",
    "shown",
    "violations",
    "why",
]

_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST = 2000
"""Characters that any one text is cut to: a model's answer may be long, and a report is read."""


def shown(text: str, limit: int = _LONGEST) -> str:
    """``text`` on one line, every character that is not plainly visible written as its escape."""
    return visible(clip(" ".join(text.split()), limit))


def clip(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def json_line(value: Any) -> str:
    """``value`` as one line of JSON. Half a surrogate pair is written as its escape, which JSON forbids."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if line.isascii():
        return line
    return _SURROGATES.sub(lambda half: f"\\\\u{ord(half[0]):04x}", line)


def violations(image: CheckedImage) -> tuple[Finding, ...]:
    """The findings that say what the image breaks."""
    return tuple(finding for finding in image.verdict.findings if finding.violates)


def described(finding: Finding, *, several: bool = False) -> str:
    """A finding in a few words; ``several``: with its policy."""
    where = f" in {finding.policy}" if several else ""
    score = "" if finding.score is None else f" ({finding.score:.2f})"
    return f"{finding.title}{where}{score}" + ("" if finding.attributed else ", the closest rule")


def why(image: CheckedImage) -> str:
    """What was found, or why nothing could be, in one line; without the rationale."""
    verdict = image.verdict
    several = len(image.policies) > 1
    parts = ["; ".join(described(finding, several=several) for finding in violations(image))]
    parts += reasons(image)
    if image.status is ImageStatus.ACCEPTED:
        parts.append(accepted_by(image.baseline))
    parts.append("could not be judged, and its policy does not block it" if verdict.degraded else "")
    parts.append("only some of its frames were looked at" if verdict.partial else "")
    return shown(" - ".join(part for part in parts if part)) or str(verdict.outcome)


def reasons(image: CheckedImage) -> list[str]:
    """What there is against the image besides its findings."""
    verdict = image.verdict
    said = [verdict.reason] if verdict.reason else []
    said += [more for more in verdict.evidence.unexplained if more != verdict.reason]
    if not said and verdict.outcome is Outcome.VIOLATES and not violations(image):
        return ["a violation that the model puts down to no rule"]
    return said


def accepted_by(entries: Iterable[BaselineEntry]) -> str:
    """Who accepted it, why and until when."""
    said = (f"accepted by {entry.by} until {entry.until.isoformat()}: {entry.reason}" for entry in entries)
    return shown("; ".join(dict.fromkeys(said)))


def count_words(summary: RunSummary) -> str:
    """The numbers of a run in one line, zeros left out."""
    counts = [f"{number:,} {status}" for status, number in summary.counts.items() if number]
    if summary.unchecked:
        counts.append(f"{len(summary.unchecked):,} not checked")
    return ", ".join(counts) or "no images"
