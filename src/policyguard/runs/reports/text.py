"""Words for reports: names of files, answers of models and texts of policies come from strangers.

Covered: ``visible_line`` has no character that is not plainly visible, ``json_line`` is one line that every
JSON parser reads. What a format itself gives a meaning to (markup, commands) is escaped where that format is
written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.outcomes import Outcome
from policyguard.runs.run import ImageStatus
from policyguard.strict.text import visible

if TYPE_CHECKING:
    from policyguard.outcomes import Action
    from policyguard.policy import ResolvedPolicy
    from policyguard.policy.schema import Rule
    from policyguard.runs.baseline import BaselineEntry
    from policyguard.runs.run import CheckedImage, PolicyInfo, RunSummary
    from policyguard.verdict import Finding

__all__ = [
    "Repository",
    "RunRule",
    "accepted_by",
    "caveats",
    "clip",
    "count_words",
    "describe",
    "ending",
    "json_line",
    "number_rules",
    "reason_line",
    "reasons",
    "run_rules",
    "violations",
    "visible_line",
]

_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST = 2000
"""Characters that any one text is cut to: a model's answer may be long, and a report is read."""
_ENDINGS = {0: "passed", 1: "failed", 2: "the set-up is wrong", 3: "not all could be judged"}


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


def visible_line(text: str, limit: int = _LONGEST) -> str:
    """``text`` on one line, every character that is not plainly visible written as its escape."""
    return visible(clip(" ".join(text.split()), limit))


def clip(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def json_line(value: Any) -> str:
    """``value`` as one line of JSON. Half a surrogate pair, which JSON forbids, is written as its escape."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if line.isascii():
        return line
    return _SURROGATES.sub(lambda half: f"\\\\u{ord(half[0]):04x}", line)


def violations(image: CheckedImage) -> tuple[Finding, ...]:
    """The findings of rules that the image breaks."""
    return tuple(finding for finding in image.verdict.findings if finding.violates)


def describe(finding: Finding, *, several: bool = False) -> str:
    """A finding in a few words; ``several``: with its policy."""
    where = f" in {finding.policy}" if several else ""
    score = "" if finding.score is None else f" ({finding.score:.2f})"
    return f"{finding.title}{where}{score}" + ("" if finding.attributed else ", the closest rule")


def reason_line(image: CheckedImage) -> str:
    """What the image breaks, or why it could not be judged, in one line; without the rationale."""
    verdict = image.verdict
    several = len(image.policies) > 1
    parts = ["; ".join(describe(finding, several=several) for finding in violations(image))]
    parts += reasons(image)
    if image.status is ImageStatus.ACCEPTED:
        parts.append(accepted_by(image.baseline))
    parts += caveats(image)
    return visible_line(" - ".join(part for part in parts if part)) or str(verdict.outcome)


def reasons(image: CheckedImage) -> list[str]:
    """What speaks against the image besides its findings."""
    verdict = image.verdict
    lines = [verdict.reason] if verdict.reason else []
    lines += [reason for reason in verdict.evidence.unexplained if reason != verdict.reason]
    if not lines and verdict.outcome is Outcome.VIOLATES and not violations(image):
        return ["a violation that the model attributes to no rule"]
    return lines


def caveats(image: CheckedImage) -> list[str]:
    """What makes the verdict less than it looks."""
    caveats = ["could not be judged, and its policy does not block it"] if image.verdict.degraded else []
    return [*caveats, "only some of its frames were judged"] if image.verdict.partial else caveats


def accepted_by(entries: Iterable[BaselineEntry]) -> str:
    """Who accepted it, why and until when."""
    parts = (f"accepted by {entry.by} until {entry.until.isoformat()}: {entry.reason}" for entry in entries)
    return visible_line("; ".join(dict.fromkeys(parts)))


def count_words(summary: RunSummary) -> str:
    """The numbers of a run in one line, zeros left out."""
    counts = [f"{number:,} {status}" for status, number in summary.counts.items() if number]
    if summary.unchecked:
        counts.append(f"{len(summary.unchecked):,} not checked")
    return ", ".join(counts) or "no images"


def ending(summary: RunSummary) -> str:
    """How the run ended, in a few words."""
    if summary.stopped is not None:
        return f"stopped ({summary.stopped})"
    return _ENDINGS.get(int(summary.exit_code), "interrupted")
