"""What a source holds, what a format makes of one row of it, and how a row is refused.

Look at a file of rows before anything is trained on it: fields, images, policies, splits, labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from policyguard.errors import ConfigurationError, ImageError, PolicyGuardError, Problem
from policyguard.policy import ResolvedPolicy
from policyguard.strict.explain import nearest
from policyguard.strict.files import sha256_of
from policyguard.train.data import CaptionRow, LabelRow, ReadRows, read_rows
from policyguard.train.policies import PolicyShelf, problem_of
from policyguard.train.rows import images_on_two_sides

__all__ = [
    "BadRowError",
    "Draft",
    "Record",
    "Validation",
    "first_of",
    "label_of",
    "rule_named",
    "text_of",
    "validate_rows",
]


@dataclass(slots=True)
class Validation:
    """``problems`` name bad rows; ``notes`` are about the file as a whole."""

    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def validate_rows(
    path: Path, *, progress: Callable[[int, int | None, str], None] = lambda done, total, words: None
) -> Validation:
    """Check every row and open every image. Raises ConfigurationError if the file cannot be read."""
    read = _read(path)
    found = Validation(len(read.rows), list(read.problems))
    images = sorted({(row.image, row.sha256) for row in read.rows})
    for done, (image, sha256) in enumerate(images, 1):
        progress(done, len(images), f"{len(found.problems):,} bad")
        if message := _wrong_with(read.folder / image, sha256):
            found.problems.append(Problem(message, str(path), field=f"image {image}"))
    found.problems += _policies(read, path)
    for root, sides in images_on_two_sides(read.rows).items():
        image = next(row.image for row in read.rows if row.sha256 == root)
        found.problems.append(
            Problem(f"its splits are {' and '.join(sides)}", str(path), field=f"image {image}")
        )
    _labels(read, found, path)
    return found


def _read(path: Path) -> ReadRows[CaptionRow] | ReadRows[LabelRow]:
    """As the kind that more of the lines are."""
    captions, labels = read_rows(path, CaptionRow), read_rows(path, LabelRow)
    if not captions.rows and not labels.rows and not captions.problems:
        raise ConfigurationError(f"{path} holds no rows", hint="docs/training.md says what a row holds")
    wants_caption = sum(problem.field in ("label", "policy") for problem in labels.problems)
    wants_label = sum(problem.field in ("prompt", "caption") for problem in captions.problems)
    return captions if (len(captions.rows), wants_caption) > (len(labels.rows), wants_label) else labels


def _wrong_with(path: Path, sha256: str) -> str | None:
    from policyguard.images import decode

    try:
        if not path.is_file():
            return "there is no such file"
        if sha256_of(path) != sha256:
            return "the file is not the one that `sha256` names"
        decode(path, frames="sample")
    except (ImageError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def _policies(read: ReadRows[CaptionRow] | ReadRows[LabelRow], path: Path) -> Iterator[Problem]:
    shelf = PolicyShelf(read.folder)
    told: set[tuple[str, str]] = set()
    for row in read.rows:
        if not isinstance(row, LabelRow):
            continue
        try:
            rules = {rule.id for rule in shelf.get(row.policy).rules}
        except PolicyGuardError as error:
            wrong = [("policy", f"'{row.policy}' cannot be used: {problem_of(error)}")]
        else:
            wrong = [
                ("category", f"policy '{row.policy}' has no rule '{name}'")
                for name in (row.category, *(row.violations or ()))
                if name is not None and name not in rules
            ]
        for name, message in wrong:
            if (name, message) not in told:
                told.add((name, message))
                yield Problem(f"{message} (first at {row.image})", str(path), field=name)


def _labels(read: ReadRows[CaptionRow] | ReadRows[LabelRow], found: Validation, path: Path) -> None:
    rows = [row for row in read.rows if isinstance(row, LabelRow)]
    if not rows:
        found.notes.append(f"{len(read.rows):,} captions")
        return
    labels: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        labels.setdefault((row.sha256, row.policy), set()).add(row.label)
        if len(labels[row.sha256, row.policy]) == 2:
            found.problems.append(
                Problem(f"both labels under {row.policy}", str(path), field=f"image {row.image}")
            )
    counts = Counter(row.label for row in rows)
    found.notes.append(f"{len(rows):,} labels: {counts['safe']:,} safe, {counts['unsafe']:,} unsafe")
    if len(counts) == 1:
        found.notes.append(
            f"all rows are {rows[0].label}: a guard learns nothing from one label, add images of the other"
        )


Label = Literal["safe", "unsafe"]


class BadRowError(Exception):
    """This row is left out. Never leaves the package."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source, as it came. ``line``: in a text file the line, in parquet the row, from 1."""

    file: Path
    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a format reads out of one record.

    ``image``: a path, or a mapping with ``bytes``. ``policy`` is what the row will call it, ``resolved`` the
    policy itself; a name that starts with ``#`` is one that the importer made.
    """

    image: Any
    policy: str
    resolved: ResolvedPolicy
    label: Label
    category: str | None = None
    rationale: str | None = None
    rationale_rating: Label | None = None
    severity: str | None = None
    pair_id: str | None = None
    source: str | None = None


def first_of(record: Record, *names: str) -> tuple[str, Any]:
    """The first of these columns that is filled, with its name. Raises BadRowError."""
    for name in names:
        value = record.fields.get(name)
        if value is not None and value != "":
            return name, value
    missing = " or ".join(repr(name) for name in names)
    raise BadRowError(names[0], f"this field is missing or empty; expected {missing}")


def text_of(record: Record, *names: str) -> str | None:
    """The text of the first filled column among ``names``, or ``None``. Raises BadRowError."""
    for name in names:
        value = record.fields.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise BadRowError(name, f"expected a text, found {type(value).__name__}")
        return value.strip() or None
    return None


def label_of(field: str, value: Any, labels: Mapping[str, Label]) -> Label:
    """The label that ``value`` stands for, whatever its case. Raises BadRowError if it is outside the set."""
    found = labels.get(" ".join(value.lower().split())) if isinstance(value, str) else None
    if found is None:
        raise BadRowError(field, f"{str(value)[:40]!r} is outside the set: {', '.join(labels)}")
    return found


def rule_named(policy: ResolvedPolicy, name: str, *, field: str) -> str:
    """The id of the rule with this id or title. Raises BadRowError, with the one that was likely meant."""
    wanted = " ".join(name.lower().split())
    for rule in policy.rules:
        if wanted in (rule.id, rule.title.lower(), rule.id.replace("-", " ")):
            return rule.id
    meant = nearest(wanted.replace(" ", "-"), [rule.id for rule in policy.rules])
    known = f"did you mean {meant!r}?" if meant else f"it has {', '.join(rule.id for rule in policy.rules)}"
    raise BadRowError(field, f"policy '{policy.id}' has no rule {name[:60]!r}: {known}")
