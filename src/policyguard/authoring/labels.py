"""What images are known to be: labels in a CSV file, or those that policy tests imply.

A CSV file has the columns ``image`` (a path, from the file's folder), ``label`` (safe or unsafe, or the
outcome complies or violates) and, if wanted, ``rule``: the ids of all rules that an unsafe image breaks,
separated by ``;``. The filled sheet of an audit is one too, where its images were drawn alike: more of what
violates would move every threshold. Every mistake is reported, with its row.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.errors import ConfigurationError, PolicyError, Problem
from policyguard.outcomes import Outcome
from policyguard.strict.explain import capped, nearest

if TYPE_CHECKING:
    from policyguard.authoring.cases import Cases
    from policyguard.policy import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = ["Label", "Labels", "load_labels"]

_WORDS = {"safe": False, "complies": False, "unsafe": True, "violates": True}
_COLUMNS = ("image", "label", "rule")
_SHEET = {"place", "key", "sha256", "label", "sample"}
"""Columns of the sheet that ``policyguard audit report --sample`` writes."""


@dataclass(frozen=True, slots=True)
class Label:
    """What one image is. ``rules``: all that it breaks, empty for a safe image, None where nobody said."""

    image: Path
    unsafe: bool
    rules: tuple[str, ...] | None
    line: int


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one file, each image once. ``sha256`` is the file's."""

    file: Path
    sha256: str
    all: tuple[Label, ...]

    def of(self, images: Sequence[object]) -> list[Label | None]:
        """The label of each image that is a path; None for others and for those without one.

        Raises PolicyError for labels of files that are not among ``images``.
        """
        by_path = {_key(label.image): label for label in self.all}
        found = [
            by_path.pop(_key(Path(image)), None) if isinstance(image, (str, os.PathLike)) else None
            for image in images
        ]
        if by_path:
            problems = [
                self.problem(label, f"{label.image} is labelled and not among the images")
                for label in by_path.values()
            ]
            raise PolicyError(capped(problems), hint="name all labelled images, or none but the labels' own")
        return found

    def require_one_label_each(self, labelled: Sequence[tuple[Label, Verdict]]) -> None:
        """Raise PolicyError where files of one content (by hash) have different labels.

        Files that are no image, such as a page that says "not found" in the place of each, do not count.
        """
        known: dict[str, Label] = {}
        problems = []
        for label, verdict in labelled:
            sha256 = verdict.evidence.image_sha256
            if sha256 is None or not verdict.evidence.frames:
                continue
            first = known.setdefault(sha256, label)
            if (first.unsafe, first.rules) != (label.unsafe, label.rules):
                message = f"{label.image} is the same picture as {first.image} on line {first.line}"
                problems.append(self.problem(label, f"{message}, and has another label"))
        if problems:
            raise PolicyError(capped(problems), hint="one label for one picture: delete the wrong row")

    def problem(self, label: Label, message: str) -> Problem:
        return Problem(message, str(self.file), label.line)


def load_labels(file: str | Path, policy: ResolvedPolicy, *, root: str | Path | None = None) -> Labels:
    """The labels in ``file`` for ``policy``: CSV, or policy tests (.yaml) of a policy that reads alike.

    Raises PolicyError with every row that is wrong: images that are not there, two labels for one image,
    unknown labels and rules.
    """
    from policyguard.strict.files import sha256_of

    path = Path(file)
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise ConfigurationError(f"the labels cannot be read: {path}: {error.strerror}") from None
    tests = path.suffix.lower() in (".yaml", ".yml")
    labels: dict[str, Label] = {}
    problems = []
    for row in _from_cases(path, policy, root) if tests else _from_csv(path, policy):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        first = labels.setdefault(_key(row.image), row)
        if first is not row and not (tests and first.unsafe is row.unsafe):
            message = f"{row.image} has a label already, on line {first.line}"
            problems.append(Problem(message, str(path), row.line))
    if problems:
        raise PolicyError(capped(problems))
    if not labels:
        raise ConfigurationError(f"{path} holds no label for policy '{policy.id}'")
    return Labels(path, sha256, tuple(labels.values()))


def _key(path: Path) -> str:
    return os.path.realpath(path)


def _from_csv(path: Path, policy: ResolvedPolicy) -> Iterator[Label | Problem]:
    known = [rule.id for rule in policy.rules if rule.status != "exempt"]
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True, restkey="more", restval=None)
            head = [name.strip() for name in reader.fieldnames or ()]
            if set(head) >= _SHEET:
                reader.fieldnames = head
                yield from _from_sheet(path, reader, known)
                return
            if unknown := [name for name in head if name not in _COLUMNS]:
                close = nearest(unknown[0], _COLUMNS)
                guess = f"did you mean {close!r}?" if close else f"there are {', '.join(_COLUMNS)}"
                yield Problem(f"there is no column {unknown[0][:64]!r}: {guess}", str(path), 1)
                return
            if missing := [name for name in _COLUMNS[:2] if name not in head]:
                yield Problem(f"the first row names no column '{missing[0]}'", str(path), 1)
                return
            reader.fieldnames = head
            for row in reader:
                yield _row(path, reader.line_num, row, known)
    except (UnicodeDecodeError, csv.Error) as error:
        yield Problem(f"this is not CSV in UTF-8: {error}", str(path))


def _from_sheet(path: Path, reader: csv.DictReader[str], known: Sequence[str]) -> Iterator[Label | Problem]:
    """The rows of an audit's sheet that are labelled safe or unsafe, and whose image has the bytes it had."""
    from policyguard.strict.files import sha256_of

    for row in reader:
        cells = {name: (row.get(name) or "").strip() for name in (*_SHEET, *_COLUMNS)}
        if re.fullmatch("n[0-9]+s[0-9]+", cells["sample"]):
            raise ConfigurationError(
                f"{path} is a sample with more of what violates than the audit has: a threshold or a recall "
                "of these images would be off",
                hint="draw all images alike: `policyguard audit report AUDIT --sample N --uniform --labels "
                "NEW`. What these labels say of the guard, `policyguard audit report AUDIT --labels` says",
            )
        line = reader.line_num
        if "more" in row:
            yield Problem("the row has more cells than the first one", str(path), line)
        elif not re.fullmatch("u[0-9]+s[0-9]+", cells["sample"]):
            yield Problem(
                f"{cells['sample'][:64]!r} is not what the sheet held, such as u400s0", str(path), line
            )
        elif cells["label"].lower() not in ("", "unsure"):
            name = re.sub(r"^'(?='*[=+\-@\t\r])", "", cells["image"] or cells["key"])
            here = Path(name) if not cells["image"] and Path(name).is_file() else None
            cells["image"] = str(here.absolute()) if here else name
            found = _row(path, line, cells, known)
            if name and "\0" not in name and not (path.parent / cells["image"]).is_file():
                where = "be where the audit was started, or draw the sheet with --images"
                found = Problem(f"there is no image {name[:200]!r}: {where}", str(path), line)
            elif isinstance(found, Label) and sha256_of(found.image) != cells["sha256"].lower():
                found = Problem(
                    f"{found.image} is not the image that was drawn: its bytes differ", str(path), line
                )
            yield found


def _row(path: Path, line: int, row: Mapping[str, str | None], known: Sequence[str]) -> Label | Problem:
    if "more" in row:
        return Problem("the row has more cells than the first one", str(path), line)
    image, label, rule = ((row.get(name) or "").strip() for name in _COLUMNS)
    if not image or "\0" in image:
        return Problem("the row names no image", str(path), line)
    if label.lower() not in _WORDS:
        message = f"{label[:64]!r} is no label: give safe, unsafe, complies or violates"
        return Problem(message, str(path), line)
    place = path.parent / image
    if not place.is_file():
        return Problem(f"there is no image {place}", str(path), line)
    unsafe = _WORDS[label.lower()]
    rules = tuple(dict.fromkeys(name.strip() for name in rule.split(";") if name.strip()))
    if rules and not unsafe:
        return Problem(f"the image is {label} and breaks {rules[0][:64]!r}: one is wrong", str(path), line)
    for name in rules:
        if name not in known:
            close = nearest(name, known)
            guess = f"did you mean {close!r}?" if close else f"there are {', '.join(known[:12])}"
            return Problem(f"the policy has no rule {name[:64]!r}: {guess}", str(path), line)
    return Label(place, unsafe, rules if rules or not unsafe else None, line)


def _from_cases(path: Path, policy: ResolvedPolicy, root: str | Path | None) -> Iterator[Label]:
    """What policy tests expect of the policy that reads as ``policy`` does, or has its id."""
    from policyguard.authoring.cases import load_cases

    cases = load_cases(path, root=root)
    meant = [name for name, known in cases.policies.items() if known.fingerprint == policy.fingerprint]
    meant = meant or [name for name, known in cases.policies.items() if known.id == policy.id]
    if not meant:
        raise ConfigurationError(f"{path} tests no policy that reads as '{policy.id}' does")
    for name in meant:
        yield from _expected(cases, name)


def _expected(cases: Cases, policy: str) -> Iterator[Label]:
    for index, case in enumerate(cases.content.images):
        expected = case.expect.get(policy)
        if expected is None:
            continue
        outcome, findings = expected.outcome, expected.findings
        if outcome is None and findings is not None:
            outcome = Outcome.VIOLATES if findings else Outcome.COMPLIES
        if outcome is None or not outcome.judged:
            continue
        unsafe = outcome is Outcome.VIOLATES
        line = cases.line("images", index, "expect", policy)
        yield Label(cases.folder.find(case.image), unsafe, findings if unsafe else (), line)
    for index, pair in enumerate(cases.content.pairs):
        if pair.policies is None or policy in pair.policies:
            line = cases.line("pairs", index)
            rules = None if pair.rule is None else (pair.rule,)
            yield Label(cases.folder.find(pair.unsafe), True, rules, line)
            yield Label(cases.folder.find(pair.safe), False, (), line)
