"""Look at a file of rows before anything is trained on it: fields, images, policies, splits, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from policyguard.errors import ConfigurationError, ImageError, PolicyGuardError, Problem
from policyguard.train.data import CaptionRow, LabelRow, ReadRows, read_rows
from policyguard.train.files import sha256_of
from policyguard.train.policies import PolicyShelf, problem_of
from policyguard.train.splits import images_on_two_sides

__all__ = ["Validation", "validate_rows"]


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
