"""The baseline: violations that a team has reviewed and accepted, by the content of the image.

A file of JSON lines, one entry each, sorted, so that a change is a line in a diff. It is read strictly: an
invalid line accepts nothing and is reported, and the others still hold.

Covered: an entry holds for the exact bytes of one image, one policy and the rules it names, until a date.
So a changed image fails again, and so does a rule that the entry does not name; an image that could not be
judged, wholly or in part, is accepted by no entry. Not covered: who may edit the file; leave that to review.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.errors import Problem
from policyguard.outcomes import Action, Outcome
from policyguard.strict.files import write_atomically
from policyguard.strict.jsontext import JsonError, parse_object

if TYPE_CHECKING:
    from policyguard.verdict import Verdict

__all__ = ["BASELINE_FILE", "Baseline", "BaselineEntry", "blocking_rules", "read_baseline", "write_baseline"]

BASELINE_FILE = ".policyguard-baseline.jsonl"
_MAX_BYTES = 64 * 1024 * 1024
_TEXT = ("path", "policy", "sha256", "until", "by", "reason")
_KEYS = ("path", "policy", "rules", "until", "by", "reason", "sha256")


@dataclass(frozen=True, slots=True, order=True)
class BaselineEntry:
    """One image (by SHA-256 of its bytes) that may break ``rules`` of one policy, until the end of ``until``.

    ``path`` is where the image lay, for people; nothing is looked up by it.
    """

    path: str
    policy: str
    sha256: str
    rules: tuple[str, ...]
    until: date
    by: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, keys in the order of the file."""
        values = {name: getattr(self, name) for name in _KEYS}
        return values | {"rules": list(self.rules), "until": self.until.isoformat()}


@dataclass(frozen=True, slots=True)
class Baseline:
    """Entries by image and policy; ``today`` decides which still hold. ``problems``: invalid lines."""

    entries: tuple[BaselineEntry, ...] = ()
    problems: tuple[Problem, ...] = ()
    today: date = date.max

    def expired(self, entry: BaselineEntry) -> bool:
        return entry.until < self.today

    def by_key(self) -> Mapping[tuple[str, str], BaselineEntry]:
        """The entries by image hash and policy id."""
        return {(entry.sha256, entry.policy): entry for entry in self.entries}


def accepting(
    known: Mapping[tuple[str, str], BaselineEntry], verdict: Verdict, today: date
) -> tuple[BaselineEntry, ...]:
    """The entries that together accept everything that blocks the image; none if something is left."""
    rules = blocking_rules(verdict)
    sha256 = verdict.evidence.image_sha256
    if not rules or sha256 is None:
        return ()
    entries = []
    for policy, broken in rules.items():
        entry = known.get((sha256, policy))
        if entry is None or entry.until < today or not broken <= set(entry.rules):
            return ()
        entries.append(entry)
    return tuple(entries)


def blocking_rules(verdict: Verdict) -> dict[str, set[str]]:
    """Policy id -> rules for which the image is blocked; empty unless nothing else blocks it.

    So it is empty for an image that could not be judged, under one of its policies or in one of its frames;
    also for one that could not be opened and is blocked for its bytes, which are on a list.
    """
    evidence = verdict.evidence
    if verdict.outcome is not Outcome.VIOLATES or verdict.action is not Action.BLOCK or evidence.unexplained:
        return {}
    if not evidence.frames:
        return {}
    rules: dict[str, set[str]] = {}
    for finding in verdict.findings:
        # A finding that is only the closest rule stands for the policy's own action, whatever the rule's is.
        if finding.violates and (finding.action is Action.BLOCK or not finding.attributed):
            rules.setdefault(finding.policy, set()).add(finding.rule)
    return rules


def read_baseline(path: Path, *, today: date, missing_ok: bool = False) -> Baseline:
    """The entries of a file. Invalid lines are in ``problems``; nothing is raised."""
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        problem = Problem("there is no such baseline", name)
        return Baseline(problems=() if missing_ok else (problem,), today=today)
    except OSError as error:
        return Baseline(
            problems=(Problem(f"this baseline cannot be read: {error.strerror}", name),), today=today
        )
    if len(data) > _MAX_BYTES:
        return Baseline(problems=(Problem("this baseline is larger than 64 MiB", name),), today=today)
    entries: dict[tuple[str, str], BaselineEntry] = {}
    lines: dict[tuple[str, str], int] = {}
    problems = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = _entry(line)
            key = (entry.sha256, entry.policy)
            if key in entries:
                raise _InvalidLine(
                    f"line {lines[key]} already has an entry for this image and policy: keep one of the two"
                )
            entries[key], lines[key] = entry, number
        except _InvalidLine as error:
            problems.append(Problem(f"this line is not used: {error}", name, number))
    return Baseline(tuple(sorted(entries.values())), tuple(problems), today)


def write_baseline(path: Path, entries: Iterable[BaselineEntry]) -> None:
    """Put ``entries`` in place of the file, sorted, whole or not at all. Raises OSError."""
    lines = [json.dumps(entry.to_dict(), ensure_ascii=True) + "\n" for entry in sorted(entries)]
    write_atomically(path, "".join(lines))


class _InvalidLine(Exception):  # noqa: N818 (its text becomes a Problem)
    """Why one line is invalid."""


def _entry(line: bytes) -> BaselineEntry:
    if line.startswith((b"<<<<<<<", b"=======", b">>>>>>>", b"|||||||")):
        raise _InvalidLine("it is left over from a merge; keep the entries you want and delete the markers")
    try:
        data = parse_object(line)
    except JsonError as error:
        raise _InvalidLine(f"it {error}") from None
    if missing := [key for key in _KEYS if key not in data]:
        raise _InvalidLine(f"{missing[0]!r} is missing")
    if unknown := [key for key in data if key not in _KEYS]:
        raise _InvalidLine(f"{unknown[0][:64]!r} is not known; an entry has {', '.join(_KEYS)}")
    for key in _TEXT:
        if not isinstance(data[key], str) or not data[key].strip():
            raise _InvalidLine(f"{key!r} must be text, and not empty")
    rules = data["rules"]
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, str) and rule for rule in rules):
        raise _InvalidLine("'rules' must be a list of rule ids, and not empty")
    if not re.fullmatch(r"[0-9a-f]{64}", data["sha256"]):
        raise _InvalidLine("'sha256' must be 64 digits 0-9 a-f")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", data["until"], re.ASCII):
        raise _InvalidLine("'until' must be a date such as 2027-01-31")
    try:
        until = date.fromisoformat(data["until"])
    except ValueError:
        raise _InvalidLine(f"'until': there is no such day: {data['until']}") from None
    return BaselineEntry(
        path=data["path"],
        policy=data["policy"],
        sha256=data["sha256"],
        rules=tuple(sorted(set(rules))),
        until=until,
        by=data["by"],
        reason=data["reason"],
    )
