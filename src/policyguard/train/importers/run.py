"""Import a published format, or a plain folder, into ``OUT/rows.jsonl`` and ``OUT/images``.

A bad row is named (``file:line: field: why``) and left out; nothing is repaired. The rows are written in one
step at the end; images are written as they come, each whole, and used again by an import that is
started anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from policyguard.errors import ConfigurationError, PolicyGuardError, Problem
from policyguard.policy import Policy, ResolvedPolicy, load_policy
from policyguard.policy.files import is_path
from policyguard.strict.files import check_place, write_lines
from policyguard.strict.tables import BadRowError, Record, find_tables, read_table
from policyguard.train.data import LabelRow, Split, write_rows
from policyguard.train.importers.formats import FORMATS
from policyguard.train.importers.images import ImageStore, find_images
from policyguard.train.importers.record import Draft
from policyguard.train.policies import document_of, problem_of, write_policies
from policyguard.train.rows import assign_splits, images_on_two_sides

__all__ = ["FORMATS", "PROBLEMS", "ROWS", "Summary", "import_rows"]

ROWS = "rows.jsonl"
PROBLEMS = "problems.txt"
Progress = Callable[[int, int | None, str], None]


@dataclass(slots=True)
class Summary:
    """How an import went. ``rows``: the file; ``new``: images copied by this run."""

    rows: Path
    labels: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    policies: Counter[str] = field(default_factory=Counter)
    images: int = 0
    new: int = 0
    repeated: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The summary for people."""
        sides = ", ".join(f"{count:,} {name}" for name, count in sorted(self.splits.items()))
        counts = f"{self.labels['safe']:,} safe, {self.labels['unsafe']:,} unsafe"
        lines = [f"{self.labels.total():,} rows of {self.images:,} images in {self.rows}: {counts}"]
        lines.append(f"splits by image: {sides}")
        if len(self.policies) > 1:
            lines.append(f"{len(self.policies):,} policies")
        if self.repeated:
            lines.append(f"{self.repeated:,} rows repeat another row, and are left out")
        if self.problems:
            lines.append(f"{len(self.problems):,} rows are bad and left out; {PROBLEMS} names them all")
        if len(self.labels) == 1:
            lines.append(f"all rows are {next(iter(self.labels))}: add images of the other label to train on")
        return lines


def import_rows(
    kind: str,
    source: Path,
    out: Path,
    *,
    policy: str | None = None,
    images: Path | None = None,
    licence: str | None = None,
    origin: str | None = None,
    copy: bool = True,
    split: Split | None = None,
    validation: float = 0.05,
    test: float = 0.0,
    seed: int = 0,
    progress: Progress = lambda done, total, words: None,
) -> Summary:
    """Import ``source`` (a table, a folder of tables or a folder of images) into the folder ``out``.

    ``policy``: under which the labels hold, where the format does not say. ``images``: the folder that paths
    are relative to; default: the table's. ``copy=False`` leaves images where they are. ``split``: the same
    for all; else drawn by image hash with the shares ``validation`` and ``test``. A table called like a
    split (``test-00000-of-00001.parquet``) keeps it.

    Raises ConfigurationError for what is wrong as a whole; then nothing but images has been written.
    """
    plan = FORMATS.get(kind)
    if plan is None:
        raise ConfigurationError(f"there is no format {kind!r}", hint=f"formats: {', '.join(FORMATS)}")
    name = policy if policy is not None else plan.policy
    licence, origin = licence or plan.licence, origin or plan.source
    if name is None or licence is None or origin is None:
        raise ConfigurationError(
            f"the format '{kind}' needs the policy, the licence and the source of the images",
            hint="--policy policies/house.yaml --licence 'ours' --source-name 'photos of 2026'",
        )
    if not (validation >= 0 and test >= 0 and validation + test < 1):  # nan fails all three
        raise ConfigurationError("the shares of validation and test must be under 1 together")
    check_place(out, name="the output", folder=True)
    if (out / ROWS).exists():
        raise ConfigurationError(
            f"{out / ROWS} already exists", hint="remove it to import again, or name another folder"
        )
    source, root = source.expanduser(), images
    if root is None:
        root = source if source.is_dir() else source.parent
    store = ImageStore(out, root.expanduser(), copy=copy)
    shelf: dict[str, ResolvedPolicy] = {}
    inline: dict[str, Policy] = {}

    def policies(name_or_path: str) -> ResolvedPolicy:
        if name_or_path not in shelf:
            shelf[name_or_path] = load_policy(name_or_path).resolve()
        return shelf[name_or_path]

    read = plan.reader(name, policies, store)
    drafted: list[tuple[Record, LabelRow]] = []
    summary = Summary(out / ROWS)
    for done, record in enumerate(_records(kind, source), 1):
        progress(done, None, f"{len(summary.problems):,} bad")
        if isinstance(record, Problem):
            summary.problems.append(record)
            continue
        try:
            draft = read(record)
            policy_name = _policy_name(draft, inline)
            side = split or _side(record.file)
            drafted.append(
                (record, _row(draft, policy_name, store, origin=origin, licence=licence, split=side))
            )
        except BadRowError as error:
            summary.problems.append(Problem(error.message, str(record.file), record.line, field=error.field))
        except PolicyGuardError as error:
            raise ConfigurationError(f"{record.file}:{record.line}: {problem_of(error)}") from error
    rows = _consistent(drafted, summary)
    if not rows:
        why = [str(problem) for problem in summary.problems[:20]] or [f"{source} holds none"]
        raise ConfigurationError(
            "\n".join(["no row can be used:", *why]),
            hint="check the format, and --images if the paths are relative to another folder",
        )
    shares: dict[Split, float] = {"train": 1 - validation - test, "validation": validation, "test": test}
    rows = assign_splits(rows, shares={side: share for side, share in shares.items() if share > 0}, seed=seed)
    if divided := images_on_two_sides(rows):
        raise ConfigurationError(
            f"{len(divided)} images, or edit pairs, are in two splits, such as {next(iter(divided))}",
            hint="give --split to put all rows on one side, or import the tables one by one",
        )
    if inline:
        used = {row.policy for row in rows}
        write_policies(out, {name: text for name, text in sorted(inline.items()) if f"#{name}" in used})
    write_lines(out / PROBLEMS, map(str, summary.problems))
    write_rows(out / ROWS, rows)
    summary.labels.update(row.label for row in rows)
    summary.splits.update(str(row.split) for row in rows)
    summary.policies.update(row.policy for row in rows)
    summary.images, summary.new = len({row.sha256 for row in rows}), store.added
    return summary


def _records(kind: str, source: Path) -> Iterator[Record | Problem]:
    if kind == "folder" and source.is_dir() and not any(source.glob("*.csv")):
        yield from _folders(source)
        return
    for table in find_tables(source):
        yield from read_table(table)


def _folders(source: Path) -> Iterator[Record | Problem]:
    """Images by the folder they lie in: ``unsafe/x.png``, ``safe/x.png``, ``unsafe/RULE/x.png``."""
    paths, left_out = find_images(source)
    yield from left_out
    if not paths:
        raise ConfigurationError(
            f"there is no image in folder '{source}'",
            hint="put images into folders called safe and unsafe, or give a .csv of path,label",
        )
    for number, path in enumerate(paths, 1):
        inner = path.relative_to(source)
        fields = {"path": inner.as_posix(), "label": inner.parts[0] if len(inner.parts) > 1 else ""}
        if len(inner.parts) > 2:
            fields["category"] = inner.parts[1]
        yield Record(path, number, fields)


def _policy_name(draft: Draft, inline: dict[str, Policy]) -> str:
    """The name a row gives its policy. Files, and policies that the importer made, go into ``policies.jsonl``
    beside the rows, so that the folder can be moved.
    """
    if not draft.policy.startswith("#") and not is_path(draft.policy):
        return draft.policy
    name = draft.policy[1:] if draft.policy.startswith("#") else draft.resolved.id
    inline.setdefault(name, document_of(draft.resolved))
    return f"#{name}"


def _row(
    draft: Draft, policy: str, store: ImageStore, *, origin: str, licence: str, split: Split | None
) -> LabelRow:
    image, sha256 = store.add(draft.image, field="image")
    try:
        return LabelRow(
            image=image,
            sha256=sha256,
            source=draft.source or origin,
            licence=licence,
            split=split,
            policy=policy,
            label=draft.label,
            category=draft.category,
            violations=draft.violations,
            complete=_complete(draft),
            rationale=draft.rationale,
            rationale_rating=draft.rationale_rating,
            pair_id=draft.pair_id,
            severity=draft.severity,
        )
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise BadRowError(str(item["loc"][0]) if item["loc"] else None, item["msg"]) from None


def _complete(draft: Draft) -> bool | None:
    """What the source says; sources that name one category do not say that it is the only one."""
    if draft.label == "safe" or (draft.category is None and draft.violations is None):
        return None
    return draft.violations is not None if draft.complete is None else draft.complete


def _side(file: Path) -> Split | None:
    stem = file.stem.lower()
    for side in ("train", "validation", "test"):
        if stem == side or stem.startswith((f"{side}-", f"{side}_")):
            return side
    return None


def _consistent(drafted: list[tuple[Record, LabelRow]], summary: Summary) -> list[LabelRow]:
    """One row per image and policy. Of two that contradict each other, neither is kept."""
    rows: dict[tuple[str, str], tuple[Record, LabelRow]] = {}
    contradicted: set[tuple[str, str]] = set()
    for record, row in drafted:
        key = (row.sha256, row.policy)
        if key not in rows:
            rows[key] = (record, row)
        elif rows[key][1].label == row.label:
            summary.repeated += 1
        else:
            contradicted.add(key)
            first = rows[key][0]
            message = (
                f"{row.label} under {row.policy}, and {first.file.name}:{first.line} says "
                f"{rows[key][1].label} of the same image"
            )
            summary.problems.append(Problem(message, str(record.file), record.line, field="label"))
    return [replaced for key, (_, replaced) in rows.items() if key not in contradicted]
