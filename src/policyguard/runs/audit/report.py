"""The report of an audit: ``report.json``, ``report.html``, two plots, and a list of alike images.

The page opens from a disk, fetches nothing and runs no script; whatever file names, columns and models say is
escaped (``policyguard.strict.page``). Images are in it only where asked for, small and blurred until clicked.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from policyguard._version import __version__
from policyguard.errors import MissingExtraError, UsageError
from policyguard.runs.audit.labels import Images, Labels, cell, read_labels, write_sheet
from policyguard.runs.audit.reading import NotNowError, pictures
from policyguard.runs.audit.rows import Audit, arrow
from policyguard.runs.audit.run import spec_of
from policyguard.runs.audit.tally import COLUMNS, Scale, Tally, chunks
from policyguard.strict.explain import nearest
from policyguard.strict.files import check_place, replacing, write_atomically, write_json

__all__ = ["FORMAT", "Asked", "Written", "make_report", "scale_of", "thumbnails_of"]

FORMAT = 1
"""Of ``report.json``; raised when a field goes or changes its meaning."""

_GROUPS, _IMAGES = 20, 10
"""Groups judged both ways that the page shows, and images of each."""
Thumbnail = Callable[[Mapping[str, Any]], str]
"""The data URI of an example's image; empty if it cannot be shown."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a report is to hold.

    ``prompt``: the carried column that holds the prompt each image was made from (default: ``prompt``, if it
    is carried). ``k``: of how many images per prompt the worst is expected. ``attributed``: from which score
    on a complying image counts under its closest rule. ``values``: how many values of each column are listed.
    ``sample``, ``labels``: draw a sample of that size into that file; without ``sample``, read it.
    ``uniform``: draw every row alike, and not half of the sample from what violates.
    """

    prompt: str | None = None
    k: int = 10
    attributed: float = 0.1
    values: int = 50
    sample: int | None = None
    labels: Path | None = None
    seed: int = 0
    uniform: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report, its figures, and how many rows a sheet for labels got."""

    files: tuple[Path, ...]
    figures: dict[str, Any]
    sampled: int | None = None


def make_report(
    audit: Audit,
    out: Path,
    asked: Asked,
    *,
    thumbnail: Thumbnail | None = None,
    images: Images | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Written:
    """Read all rows and write the report into the folder ``out``. ``images``: see ``write_sheet``.

    Raises UsageError for an audit without any row, a column that was not carried along, a sheet that is wrong
    or would be written over, and MissingExtraError without the extra ``audit``.
    """
    plots = _plots()
    if asked.sample is not None and asked.labels is None:
        raise UsageError("--sample needs --labels", hint="name the file to write, as in --labels labels.csv")
    if asked.uniform and asked.sample is None:
        raise UsageError("--uniform is for --sample", hint="a sheet says by itself how it was drawn")
    if asked.labels is not None and asked.labels.suffix.lower() != ".csv":
        raise UsageError(f"--labels: {asked.labels} is no CSV", hint="name a file that ends in .csv")
    if asked.labels is not None and asked.sample is not None and asked.labels.exists():
        write_sheet(asked.labels, {}, size=asked.sample, seed=asked.seed)  # refuses, before hours of reading
    check_place(out, name="--out", folder=True)
    labels = read_labels(asked.labels) if asked.labels is not None and asked.sample is None else None
    tally = count(audit, asked, labels, progress=progress)
    figures = {
        "format": FORMAT,
        "policyguard": __version__,
        "audit": _about(audit),
        **tally.figures(worst_of_k=asked.k, values=asked.values),
        "labels": None if labels is None else labels.figures(tally.sampler),
    }
    out.mkdir(parents=True, exist_ok=True)
    names = ("report.json", "report.html", "categories.png", "scores.png", "duplicates.csv")
    files = tuple(out / name for name in names)
    figures["duplicates"]["both_ways"] = _write_groups(audit, tally, files[4])
    write_json(files[0], figures)
    from policyguard.runs.audit.page import report_page

    write_atomically(files[1], report_page(figures, thumbnail=thumbnail))
    for file, draw in zip(files[2:4], (plots.categories, plots.scores), strict=True):
        with replacing(file) as stream:
            draw(figures, stream)
    sampled = None
    if asked.sample is not None and asked.labels is not None:
        drawn = tally.sampler.draw(asked.sample, uniform=asked.uniform)
        sampled = write_sheet(
            asked.labels,
            drawn,
            size=asked.sample,
            seed=asked.seed,
            uniform=asked.uniform,
            images=images,
        )
    return Written(files, figures, sampled)


def thumbnails_of(audit: Audit) -> Thumbnail:
    """Reads the images of examples from the audit's source, each only if it still is what was judged."""
    spec = spec_of(audit)

    def thumbnail(example: Mapping[str, Any]) -> str:
        from policyguard.images.written import thumbnail as made

        part, row = audit.part(example["part"]), example["row"]
        image: Any = None
        if part.kind == "files" and "://" not in part.items[row].path:
            image = Path(spec.absolute(part.items[row].path))
        else:
            with suppress(NotNowError):
                found = next(islice(pictures(part, spec, accept_changed=True), row, None), None)
                image = None if found is None or found.image is None else found.image.data
        return "" if image is None else made(image, example["sha256"])

    return thumbnail


def count(
    audit: Audit,
    asked: Asked,
    labels: Labels | None = None,
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> Tally:
    """All rows of ``audit``, counted."""
    prompt = asked.prompt or ("prompt" if "prompt" in audit.keep else None)
    if prompt is not None and prompt not in audit.keep:
        guess = nearest(prompt, audit.keep)
        raise UsageError(
            f"the audit carries no column '{prompt}' along",
            hint=f"did you mean '{guess}'?"
            if guess
            else f"it carries: {', '.join(audit.keep) or 'none'}; "
            "name columns with --keep when the audit starts",
        )
    audit.require_own()
    total = sum(batch.num_rows for batch in audit.rows(["row"]))
    if not total:
        raise UsageError(
            f"{audit.place.url} has no judged row yet",
            hint=f"let the audit finish a part: policyguard audit resume {audit.place.url}",
        )
    draw = asked.sample or (0 if labels is None else labels.size)
    tally = Tally(
        total,
        scale_of(audit.about),
        keep=audit.keep,
        prompt=prompt,
        attributed=asked.attributed,
        draw=draw,
        seed=asked.seed if labels is None else labels.seed,
    )
    for table in chunks(audit.rows([*COLUMNS, *(f"keep_{name}" for name in audit.keep)])):
        tally.add(table)
        progress(tally.rows)
    return tally


def _write_groups(audit: Audit, tally: Tally, file: Path) -> list[dict[str, Any]]:
    """Write the groups of alike images as a CSV, and give the first that were judged both ways."""
    pa, held = arrow(), []
    for table in chunks(audit.rows(["key", "part", "row", "action", "outcome", "score", "sha256"])):
        groups = pa.array(tally.group_of(table))
        held.append(table.append_column("group", groups).filter(pa.compute.greater(groups, 0)))
    found = pa.concat_tables(held).sort_by([(name, "ascending") for name in ("group", "part", "row")])
    names = ("group", "key", "action", "outcome", "score", "sha256")
    both: dict[int, list[dict[str, Any]]] = {}
    with replacing(file) as stream:
        stream.write(f"{','.join(names)}\r\n".encode())
        for batch in found.select(names).to_batches(max_chunksize=65_536):
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\r\n")
            for row in batch.to_pylist():
                if row["group"] <= min(tally.both_ways, _GROUPS):
                    image = {name: row[name] for name in ("key", "action", "outcome", "score")}
                    both.setdefault(row["group"], []).append(image)
                writer.writerow(cell(value) if isinstance(value, str) else value for value in row.values())
            stream.write(text.getvalue().encode())
    return [
        {"group": group, "rows": len(images), "images": images[:_IMAGES]} for group, images in both.items()
    ]


def scale_of(about: Mapping[str, Any]) -> Scale:
    """The thresholds in an ``audit.json``. With several policies, rules are named ``policy:rule``."""
    policies = about["policies"]
    several = len(policies) > 1
    rules = {}
    for policy in policies:
        for rule in policy["rules"]:
            if rule["status"] != "exempt":
                name = f"{policy['id']}:{rule['id']}" if several else rule["id"]
                rules[name] = rule["threshold"]
    return Scale(None if several else policies[0]["threshold"], rules)


def _about(audit: Audit) -> dict[str, Any]:
    """Which audit it is, and how much of it is done."""
    names = ("source", "policies", "model", "settings")
    done, counts = len(audit.files()), audit.about["counts"]
    return {
        **{name: audit.about[name] for name in names},
        "parts": counts["parts"],
        "parts_done": done,
        "rows_planned": counts["rows"],
        "complete": done == counts["parts"],
    }


def _plots() -> Any:
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "audit") from None
    from policyguard.runs.audit import plots

    return plots
