"""From the rows that a recipe names to what a stage trains and evaluates on.

What is wrong with rows is reported line by line, all at once. An image is on one side of the split: the same
for every row of it, for both images of an edit pair, and on every machine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic

from policyguard.errors import ConfigurationError, ImageError, MissingExtraError, PolicyGuardError, Problem
from policyguard.policy import ResolvedPolicy
from policyguard.strict.files import sha256_of
from policyguard.train.data import CaptionRow, LabelRow, ReadRows, Row, Split, read_rows
from policyguard.train.policies import PolicyShelf, problem_of
from policyguard.train.recipe import Data

__all__ = [
    "Located",
    "Rows",
    "Validation",
    "assign_splits",
    "check_images",
    "contradictions",
    "gather",
    "image_dataset",
    "images_on_two_sides",
    "listing",
    "locate",
    "open_frame",
    "ties",
    "validate_rows",
]

LONGEST_SIDES = 200
"""The longer side over the shorter one, at most."""


def assign_splits(rows: Sequence[Row], *, shares: Mapping[Split, float], seed: int = 0) -> list[Row]:
    """Copies of ``rows`` with ``split`` set, drawn by image hash; ``shares`` add up to 1.

    Images that edit pairs tie together share a side. Rows that have a split already keep it, and take all
    that they are tied to with them; so a data set that grows does not move what was decided.
    """
    if abs(sum(shares.values()) - 1.0) > 1e-6 or min(shares.values()) < 0:
        raise ValueError(f"shares must add up to 1: {dict(shares)}")
    roots = ties(rows)
    decided: dict[str, Split] = {}
    for row in rows:
        if row.split is not None:
            decided.setdefault(roots[row.sha256], row.split)
    return [
        row.model_copy(
            update={"split": decided.get(roots[row.sha256]) or _draw(roots[row.sha256], shares, seed)}
        )
        for row in rows
    ]


def images_on_two_sides(rows: Sequence[CaptionRow | LabelRow]) -> dict[str, tuple[str, ...]]:
    """Hash of an image -> its splits, for images that are in more than one, directly or by a pair."""
    roots = ties(rows)
    sides: dict[str, set[str]] = {}
    for row in rows:
        if row.split is not None:
            sides.setdefault(roots[row.sha256], set()).add(row.split)
    return {root: tuple(sorted(splits)) for root, splits in sorted(sides.items()) if len(splits) > 1}


def ties(rows: Sequence[CaptionRow | LabelRow]) -> dict[str, str]:
    """Hash of an image -> the smallest hash among all images that edit pairs tie it to."""
    parent: dict[str, str] = {row.sha256: row.sha256 for row in rows}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for row in rows:
        pair = getattr(row, "pair_id", None)
        if pair is not None:
            ends = sorted((root(first.setdefault(pair, row.sha256)), root(row.sha256)))
            parent[ends[1]] = ends[0]
    return {name: root(name) for name in parent}


def _draw(name: str, shares: Mapping[Split, float], seed: int) -> Split:
    digest = hashlib.sha256(f"split/{seed}/{name}".encode()).digest()
    place, total = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, share in shares.items():
        total += share
        if place < total:
            return split
    return max(shares, key=lambda split: shares[split])


@dataclass(frozen=True, slots=True)
class Located(Generic[Row]):
    """A row, its image's path, and for label rows its policy."""

    row: Row
    path: Path
    policy: ResolvedPolicy | None = None


@dataclass(slots=True)
class Rows(Generic[Row]):
    """``problems``: lines that were skipped. ``files``: path -> SHA-256 of the row files. ``digest``: of all
    that a run learns from them: rows, sides and policies, in order.
    """

    train: list[Located[Row]] = field(default_factory=list)
    validation: list[Located[Row]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        lines = hashlib.sha256()
        for item in (*self.train, *self.validation):
            policy = "" if item.policy is None else item.policy.fingerprint + item.policy.decision_fingerprint
            lines.update(f"{item.row.to_json()}{policy}\n".encode())
        return lines.hexdigest()


def gather(
    data: Data, kind: type[Row], *, seed: int, inspect: Callable[[Located[Row]], str | None]
) -> Rows[Row]:
    """Read and split all rows. ``inspect`` gives a reason to skip a row, or ``None``. Rows of images that are
    too long for the models are skipped too, and are not bad.

    Rows in the split ``test`` are left out. Raises ConfigurationError if more than ``data.skip_bad`` of the
    lines are bad, if an image is on two sides, or if nothing is left to train on.
    """
    result: Rows[Row] = Rows()
    good: list[Located[Row]] = []
    bad = 0
    for name in data.rows:
        path = Path(name).expanduser()
        read = read_rows(path, kind)
        result.problems += read.problems
        bad += read.bad
        result.files[name] = sha256_of(path)
        if not read.rows and not read.problems:
            raise ConfigurationError(f"{path} holds no rows", hint="docs/training.md says what a row holds")
        shelf, useless, too_long = PolicyShelf(read.folder), set[str](), cache(_too_long)
        for row in read.rows:
            problem, located = locate(row, read.folder, shelf)
            problem = problem or inspect(located)
            if problem is None and (problem := too_long(located.path)) is not None:
                result.problems.append(Problem(problem, str(path), field=row.image))
            elif problem is None:
                good.append(located)
            else:
                bad += 1
                if isinstance(row, LabelRow) and located.policy is None:  # once for each policy is enough
                    if row.policy in useless:
                        continue
                    useless.add(row.policy)
                where = f"{row.image}" if not isinstance(row, LabelRow) else f"{row.image} under {row.policy}"
                result.problems.append(Problem(problem, str(path), field=where))
    if bad > data.skip_bad * max(1, bad + len(good)):
        raise ConfigurationError(
            f"{bad} of {bad + len(good)} rows are bad, and `data.skip_bad` allows {data.skip_bad:g}:\n"
            + listing(result.problems),
            hint="fix them, or let them be skipped with `data: {skip_bad: 0.05}`",
        )
    if problems := contradictions(good):
        raise ConfigurationError(
            listing(problems), hint="keep the one that is right, or give them other policies"
        )
    shares: dict[Split, float] = {"train": 1.0 - data.held_out, "validation": data.held_out}
    rows = assign_splits([item.row for item in good], shares=shares, seed=seed)
    if divided := images_on_two_sides(rows):
        names = [item.row.image for item in good if item.row.sha256 in divided][:5]
        raise ConfigurationError(
            f"{len(divided)} images, or edit pairs, are in two splits, such as {', '.join(names)}",
            hint="leave `split` out of the rows, or give all rows of an image, and of a pair, the same",
        )
    for row, item in zip(rows, good, strict=True):
        if row.split in ("train", "validation"):
            side = result.train if row.split == "train" else result.validation
            side.append(Located(row, item.path, item.policy))
    if not result.train:
        raise ConfigurationError(
            "there are no rows to train on", hint="check `data.rows`, and the rows' `split` fields"
        )
    return result


def contradictions(items: Sequence[Located[Row]]) -> list[Problem]:
    """Images that have both labels under one policy."""
    first: dict[tuple[str, str], str] = {}
    problems: dict[tuple[str, str], Problem] = {}
    for item in items:
        if isinstance(item.row, LabelRow) and item.policy is not None:
            key = (item.row.sha256, item.policy.fingerprint)
            if first.setdefault(key, item.row.label) != item.row.label:
                message = f"rows call it both safe and unsafe under {item.row.policy}"
                problems[key] = Problem(message, str(item.path))
    return list(problems.values())


def locate(row: Row, folder: Path, shelf: PolicyShelf) -> tuple[str | None, Located[Row]]:
    """What is wrong with the row's policy, or ``None``, and where image and policy are."""
    path = folder / row.image
    if not isinstance(row, LabelRow):
        return None, Located(row, path)
    try:
        policy = shelf.get(row.policy)
    except PolicyGuardError as error:
        return f"its policy cannot be used: {problem_of(error)}", Located(row, path)
    unknown = _unknown_rules(row, policy)
    problem = f"policy '{policy.id}' has no rule '{unknown[0]}'" if unknown else None
    return problem, Located(row, path, policy)


def _too_long(path: Path) -> str | None:
    """Why the processors of the Qwen families refuse an image of these proportions, or ``None``."""
    from policyguard.images.decode import header_size

    size = header_size(path)
    if size is None or max(size) <= LONGEST_SIDES * max(1, min(size)):
        return None
    return f"the image has {size[0]} x {size[1]} pixels, and models take at most {LONGEST_SIDES}:1"


def _unknown_rules(row: LabelRow, policy: ResolvedPolicy) -> list[str]:
    rules = {rule.id for rule in policy.rules}
    return [
        name for name in (row.category, *(row.violations or ())) if name is not None and name not in rules
    ]


def open_frame(path: Path) -> Any:
    """The RGB image of ``path``, as the runtime sees it; of an animation, the first frame.

    Raises ImageError.
    """
    from policyguard.images import decode

    return decode(path, frames="sample").frames[0]


def check_images(items: Sequence[Located[Row]], *, look_into: int = 200) -> list[Problem]:
    """Missing files; and of ``look_into`` files, spread evenly, wrong hashes and unreadable images."""
    problems = []
    hashes_of: dict[Path, set[str]] = {}
    for item in items:
        hashes_of.setdefault(item.path, set()).add(item.row.sha256)
    step = max(1, len(hashes_of) // max(1, look_into))
    for number, (path, hashes) in enumerate(sorted(hashes_of.items())):
        if len(hashes) > 1:
            problems.append(Problem("rows give this file more than one `sha256`", str(path)))
        else:
            messages = _image_problems(path, min(hashes), open_it=number % step == 0)
            problems += [Problem(message, str(path)[:500]) for message in messages]
    return problems


def _image_problems(path: Path, sha256: str, *, open_it: bool = True) -> Iterator[str]:
    try:
        if not path.is_file():
            yield "there is no such image"
        elif open_it:
            if sha256_of(path) != sha256:
                yield "the file is not the one that `sha256` names"
            open_frame(path)
    except ImageError as error:
        yield str(error).splitlines()[0].removeprefix(f"{path}: ")
    except OSError as error:
        yield error.strerror or str(error)


def listing(problems: Sequence[Problem], *, limit: int = 20) -> str:
    """The first ``limit`` problems, one to a line, and how many there are beyond."""
    lines = [*map(str, problems[:limit])]
    return "\n".join([*lines, f"and {len(problems) - limit} more"] if len(problems) > limit else lines)


@dataclass(slots=True)
class Validation:
    """``problems`` name bad rows; ``notes`` are about the file as a whole."""

    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def validate_rows(
    path: Path, *, progress: Callable[[int, int | None, str], None] = lambda done, total, words: None
) -> Validation:
    """Check every row of a file, of either kind, and open every image.

    Raises ConfigurationError if the file cannot be read.
    """
    read = _read_either(path)
    result = Validation(len(read.rows), list(read.problems))
    images = sorted({(row.image, row.sha256) for row in read.rows})
    for done, (image, sha256) in enumerate(images, 1):
        progress(done, len(images), f"{len(result.problems):,} bad")
        messages = _image_problems(read.folder / image, sha256)
        result.problems += [Problem(message, str(path), field=f"image {image}") for message in messages]
        if (message := _too_long(read.folder / image)) is not None:
            result.notes.append(f"skipped in training: {Problem(message, str(path), field=image)}")
    labels = [row for row in read.rows if isinstance(row, LabelRow)]
    result.problems += _policy_problems(labels, path)
    for root, sides in images_on_two_sides(read.rows).items():
        image = next(row.image for row in read.rows if row.sha256 == root)
        result.problems.append(
            Problem(f"its splits are {' and '.join(sides)}", str(path), field=f"image {image}")
        )
    if labels:
        _count_labels(labels, result, path)
    else:
        result.notes.append(f"{len(read.rows):,} captions")
    return result


def _read_either(path: Path) -> ReadRows[CaptionRow] | ReadRows[LabelRow]:
    """As the kind of row that more of the lines are."""
    captions, labels = read_rows(path, CaptionRow), read_rows(path, LabelRow)
    if not captions.rows and not labels.rows and not captions.problems:
        raise ConfigurationError(f"{path} holds no rows", hint="docs/training.md says what a row holds")
    wants_caption = sum(problem.field in ("label", "policy") for problem in labels.problems)
    wants_label = sum(problem.field in ("prompt", "caption") for problem in captions.problems)
    return captions if (len(captions.rows), wants_caption) > (len(labels.rows), wants_label) else labels


def _policy_problems(rows: Sequence[LabelRow], path: Path) -> list[Problem]:
    """Policies and rules that do not exist, each once, with the first image that names it."""
    shelf = PolicyShelf(path.parent)
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        try:
            unknown = _unknown_rules(row, shelf.get(row.policy))
            problems = [("category", f"policy '{row.policy}' has no rule '{name}'") for name in unknown]
        except PolicyGuardError as error:
            problems = [("policy", f"'{row.policy}' cannot be used: {problem_of(error)}")]
        for problem in problems:
            first.setdefault(problem, row.image)
    return [
        Problem(f"{message} (first at {image})", str(path), field=name)
        for (name, message), image in first.items()
    ]


def _count_labels(rows: Sequence[LabelRow], result: Validation, path: Path) -> None:
    labels: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        labels.setdefault((row.sha256, row.policy), set()).add(row.label)
        if len(labels[row.sha256, row.policy]) == 2:
            result.problems.append(
                Problem(f"both labels under {row.policy}", str(path), field=f"image {row.image}")
            )
    counts = Counter(row.label for row in rows)
    result.notes.append(f"{len(rows):,} labels: {counts['safe']:,} safe, {counts['unsafe']:,} unsafe")
    if len(counts) == 1:
        result.notes.append(
            f"all rows are {rows[0].label}: a guard learns nothing from one label, add images of the other"
        )


def image_dataset(rows: Sequence[dict[str, Any]]) -> Any:
    """A ``datasets.Dataset`` of ``rows``, whose ``image`` is a path that is opened when the row is used."""
    try:
        from datasets import Dataset
    except ImportError:
        raise MissingExtraError("datasets", "train") from None
    return Dataset.from_list([dict(row) for row in rows]).with_transform(_open_batch)


def _open_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Open the images, and take out the ``None`` that Arrow fills into parts of another kind."""
    opened = batch | {"image": [open_frame(Path(path)) for path in batch["image"]]}
    for name in ("prompt", "completion"):
        if name in opened:
            opened[name] = [[_turn(turn) for turn in turns] for turns in opened[name]]
    return opened


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    parts = [{key: value for key, value in part.items() if value is not None} for part in turn["content"]]
    return turn | {"content": parts}
