"""Words for reports: names of files, answers of models and texts of policies come from strangers.

Covered: ``shown`` has no character that is not plainly visible, ``json_line`` is one line that every JSON
parser reads, ``percent`` is a valid URI. What a format itself gives a meaning to (markup, commands) is
escaped where that format is written.

Where images lie for a host that knows the repository and not the project's folder in it.

The rules of a run's policies, each with a number and its part of the policy's text.
"""

from __future__ import annotations

import os
from pathlib import Path
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
import json
import re
from typing import Any
from policyguard.runs.run import ImageStatus
from policyguard.strict.text import visible
from policyguard.outcomes import Outcome

if TYPE_CHECKING:
    from policyguard.runs.run import PolicyInfo
    from policyguard.policy import ResolvedPolicy
    from policyguard.policy.schema import Rule
    from policyguard.outcomes import Action
    from policyguard.runs.baseline import BaselineEntry
    from policyguard.runs.run import CheckedImage
    from policyguard.runs.run import RunSummary
    from policyguard.verdict import Finding

__all__ = [
    "Repository",
    "RunRule",
    "accepted_by",
    "clip",
    "count_words",
    "described",
    "json_line",
    "number_rules",
    "reasons",
    "run_rules",
    "shown",
    "violations",
    "why",
]


class Repository:
    """The git work tree around a project's root; the root itself, where there is none."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        tops = [folder for folder in (root, *root.parents) if os.path.lexists(folder / ".git")]
        self._top = os.path.join(tops[0] if tops else root, "")  # noqa: PTH118 (with a slash at its end)

    def path(self, path: str) -> str:
        """A path of the run from the top of the repository; whole, if it lies outside of it."""
        if path.startswith("<"):
            return path  # standard input
        whole = path if path.startswith("/") else os.path.join(self._root, path)  # noqa: PTH118
        return whole.removeprefix(self._top)


@dataclass(frozen=True, slots=True)
class RunRule:
    """A rule as a policy of the run has it. ``text`` is what the model reads of it, a few lines."""

    policy: ResolvedPolicy
    rule: Rule
    text: str

    @property
    def name(self) -> str:
        return f"{self.policy.id}/{self.rule.id}"

    @property
    def action(self) -> Action:
        return self.rule.action or self.policy.action

    @property
    def threshold(self) -> float:
        return self.policy.threshold if self.rule.threshold is None else self.rule.threshold


def run_rules(policies: Iterable[PolicyInfo]) -> tuple[RunRule, ...]:
    """All rules of all policies, in order; a policy that is there twice counts once."""
    rules: dict[tuple[str, str], RunRule] = {}
    for info in policies:
        # The text is a heading and then the rules in order, with a blank line before each of them.
        parts = info.policy.text.split("\n\n")[1:]
        for rule, text in zip(info.policy.rules, parts, strict=True):
            rules.setdefault((info.policy.id, rule.id), RunRule(info.policy, rule, text))
    return tuple(rules.values())


def number_rules(rules: Iterable[RunRule]) -> Mapping[tuple[str, str], int]:
    """(policy id, rule id) -> place in ``rules``."""
    return {(rule.policy.id, rule.rule.id): number for number, rule in enumerate(rules)}


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
