"""A sample of an audit's rows for people to label, as a CSV that comes back filled in.

Covered: the sheet does not say what the guard found, and is in random order, so that it does not lead whoever
labels; a cell that a spreadsheet takes for a formula is guarded; rows that are not of the sample are refused,
because only a random sample says something about all rows. Not covered: who labels, and how well.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyguard.errors import MAX_PROBLEMS, ConfigurationError, Problem, UsageError
from policyguard.runs.audit.estimates import Stratum, corrected
from policyguard.runs.audit.sampling import Drawn, Sampler
from policyguard.strict.explain import not_one_of
from policyguard.strict.files import write_bytes
from policyguard.strict.tables import BadRowError, read_table
from policyguard.strict.text import quoted, visible

__all__ = ["Images", "Labels", "cell", "read_labels", "write_sheet"]

_HEAD = ("place", "key", "sha256", "label", "note", "sample")
_WORDS = {"unsafe": True, "safe": False, "unsure": None, "": None}
Images = Callable[[Sequence[Drawn]], Sequence[str]]
"""Puts the images of a sheet's rows, in its order, where people can see them, and says where each is."""
_COUNTS = ("size", "labelled", "unsafe")
_DRAW = "draw a sample with --sample to get a sheet"
_FORMULA = re.compile(r"^(?='*[=+\-@\t\r])")
"""A cell that starts like this is a formula to a spreadsheet, unless an apostrophe stands before it."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a sheet says: ``size`` and ``seed`` of its sample, and by (part, row) its line, hash and label.

    ``uniform``: every row was as likely to be drawn, so that strata can be taken together.
    """

    file: Path
    size: int
    seed: int
    uniform: bool
    lines: Mapping[tuple[int, int], tuple[int, str, str]]

    def figures(self, sampler: Sampler) -> dict[str, Any]:
        """Precision, recall and prevalence of all rows, and how many are unsafe, as JSON.

        Raises UsageError, with every line, if the sheet holds rows that this audit's sample does not.
        """
        sample = sampler.draw(self.size, uniform=self.uniform)
        drawn = {(row.part, row.row): (name, row) for name, rows in sample.items() for row in rows}
        problems = []
        for place, (line, sha256, _) in self.lines.items():
            known = drawn.get(place)
            if known is None or (known[1].sha256 or "") != sha256:
                problems.append(
                    Problem(f"row {_place(*place)} is not in the sample", str(self.file), line, field="place")
                )
        if problems:
            _refuse(
                problems,
                "the audit has changed since the sample was drawn, or the line was added by hand: draw a new "
                "sample of this audit with --sample, and label that",
            )
        found: dict[str, list[bool]] = {name: [] for name in sample}
        for place, (_, _, word) in self.lines.items():
            if (label := _WORDS[word]) is not None:
                found[drawn[place][0]].append(label)
        words = Counter(word for _, _, word in self.lines.values())
        strata = sampler.strata(found)
        if self.uniform:  # a stratum of few rows may have none in the sample
            strata = _by_side(strata)
        estimates = corrected(strata, seed=self.seed)
        prevalence = (estimates or {}).get("prevalence")
        rows = sum(stratum.size for stratum in strata)
        return {
            "drawn": len(drawn),
            "labelled": words["safe"] + words["unsafe"],
            "unsure": words["unsure"],
            "empty": len(drawn) - words["safe"] - words["unsafe"] - words["unsure"],
            "without_labels": [stratum.name for stratum in strata if stratum.size and not stratum.labelled],
            **{
                name: None if estimates is None or name not in estimates else estimates[name].to_dict()
                for name in ("precision", "recall", "prevalence")
            },
            "unsafe": None
            if prevalence is None
            else {name: round(getattr(prevalence, name) * rows) for name in ("value", "low", "high")},
            "strata": [
                {name: getattr(stratum, name) for name in stratum.__slots__}
                for stratum in strata
                if stratum.size
            ],
        }


def write_sheet(
    file: Path,
    sample: Mapping[str, Sequence[Drawn]],
    *,
    size: int,
    seed: int,
    uniform: bool = False,
    images: Images | None = None,
) -> int:
    """Write the sheet, its ``label`` column empty, and give the number of rows. ``images`` says where each
    row's image is, for one more column. Raises UsageError if ``file`` is there: it may hold labels.
    """
    if file.exists():
        raise UsageError(
            f"{file} is there already, and may hold labels",
            hint="leave out --sample to read its labels, or name another file",
        )
    rows = sorted((row for rows in sample.values() for row in rows), key=lambda row: row.lot & 0xFFFFFF)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    found = None if images is None else images(rows)
    writer.writerow(_HEAD if found is None else (*_HEAD, "image"))
    design = f"{'u' if uniform else 'n'}{size}s{seed}"
    for number, row in enumerate(rows):
        cells = _place(row.part, row.row), cell(row.key), row.sha256 or "", "", "", design
        writer.writerow(cells if found is None else (*cells, cell(found[number])))
    write_bytes(file, text.getvalue().encode("utf-8"))
    return len(rows)


def cell(text: str) -> str:
    """``text`` as a cell that no spreadsheet takes for a formula, and that shows what it holds."""
    return _FORMULA.sub("'", visible(text))


def read_labels(file: Path) -> Labels:
    """Read a sheet. Raises UsageError with every line that is wrong."""
    lines: dict[tuple[int, int], tuple[int, str, str]] = {}
    problems: list[Problem] = []
    designs: set[str] = set()
    for record in read_table(file):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        cells = {name: str(value).strip() for name, value in record.fields.items()}
        if missing := [name for name in _HEAD if name not in cells]:
            raise ConfigurationError(
                f"{file} lacks the columns {', '.join(missing)}",
                hint="save it with commas between the cells" if len(cells) == 1 else _hint(cells),
            )
        try:
            place, design = _where(cells)
            if place in lines:
                raise BadRowError(
                    "place", f"row {_place(*place)} is there twice: keep the line that is right"
                )
            word = cells["label"].lower()
            if word not in _WORDS:
                raise BadRowError("label", not_one_of(word, [*_WORDS][:3]))
        except BadRowError as error:
            problems.append(Problem(error.message, str(file), record.line, field=error.field))
            continue
        lines[place] = record.line, cells["sha256"].lower(), word
        designs.add(design)
    if problems:
        _refuse(problems, "a label is unsafe, safe, unsure, or nothing; leave the other columns as they were")
    if len(designs) != 1:
        mixed = ", ".join(sorted(designs))
        raise UsageError(
            f"{file} mixes the samples {mixed}" if designs else f"{file} holds no rows", hint=_DRAW
        )
    (design,) = designs
    size, _, seed = design[1:].partition("s")
    return Labels(file, int(size), int(seed), design.startswith("u"), lines)


def _hint(cells: Mapping[str, str]) -> str:
    if {"image", "label"} <= set(cells):
        return (
            "labels of images that were not drawn from the audit say nothing about all of it: `policyguard "
            f"compare` and `calibrate` take them; for a report, {_DRAW}"
        )
    return _DRAW


def _by_side(strata: Sequence[Stratum]) -> list[Stratum]:
    """``strata`` as two: what the guard calls violating, and all else."""
    return [
        Stratum(
            name,
            called,
            *(sum(getattr(one, n) for one in strata if one.called is called) for n in _COUNTS),
        )
        for name, called in (("complies, or not judged", False), ("violates", True))
    ]


def _where(cells: Mapping[str, str]) -> tuple[tuple[int, int], str]:
    """Part and row of a line, and the sample that it is of. Raises BadRowError."""
    place = re.fullmatch(r"p([0-9]{1,10})r([0-9]{1,10})", cells["place"])
    if place is None:
        raise BadRowError("place", f"{quoted(cells['place'], 40)} is not a part and a row such as p3r17")
    if not re.fullmatch(r"[nu][1-9][0-9]{0,6}s[0-9]{1,10}", cells["sample"]):
        raise BadRowError(
            "sample", f"{quoted(cells['sample'], 40)} is not what the sheet held, such as n400s0"
        )
    return (int(place[1]), int(place[2])), cells["sample"]


def _refuse(problems: Sequence[Problem], hint: str) -> None:
    lines = [str(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_PROBLEMS:,} more")
    raise UsageError("\n".join(lines), hint=hint)


def _place(part: int, row: int) -> str:
    return f"p{part}r{row}"  # a spreadsheet takes 3/17 for a date
