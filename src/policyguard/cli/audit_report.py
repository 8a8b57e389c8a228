"""``policyguard audit report``, ``select`` and ``copy``: what an audit found, and what it is for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyguard.cli.errors import command, print_error, warn
from policyguard.cli.options import STYLE, TextOrJson
from policyguard.cli.progress import progress_bar
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import is_terminal, one_line, printable

if TYPE_CHECKING:
    from policyguard.runs.audit.report import Written
    from policyguard.runs.audit.rows import Audit

__all__ = ["copy", "report", "select", "warn_of_rest"]

_MOST_NAMED = 20
ONCE = Annotated[bool, typer.Option("--once", help="Of images with equal bytes, the first alone.")]
FOLDER = Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of an audit, or its URL.")]
WHERE = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="""Such as 'action == "block" and score > 0.9' or '"weapons" in rules'; see docs/audit.md.""",
    ),
]


class OrderName(StrEnum):
    """In which order images are listed; the highest scores come first."""

    SOURCE = "source"
    WORST = "worst"
    SCORE = "score"


@command
def report(
    folder: FOLDER,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Where the report goes. Default: FOLDER/report.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="COLUMN",
            help="The carried column with the prompt that each image was made from. Default: prompt.",
        ),
    ] = None,
    worst_of: Annotated[
        int,
        typer.Option(
            "--worst-of", metavar="K", min=1, max=10_000, help="The worst of how many images of a prompt."
        ),
    ] = 10,
    attributed: Annotated[
        float,
        typer.Option(
            "--attributed",
            metavar="SCORE",
            min=0.0,
            max=1.0,
            help="From which score on an image that complies counts under its closest rule.",
        ),
    ] = 0.1,
    values: Annotated[
        int,
        typer.Option(
            "--values", metavar="N", min=1, max=1000, help="How many values of each column are listed."
        ),
    ] = 50,
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails", help="Put small images of the examples in, blurred until clicked."),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            metavar="N",
            min=1,
            max=1_000_000,
            help="Draw N images for people to label.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="With --sample: the CSV to write. Without: the CSV with the labels filled in.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="With --sample: a new folder for the drawn images, numbered as in the CSV.",
        ),
    ] = None,
    uniform: Annotated[
        bool,
        typer.Option(
            "--uniform",
            help="With --sample: draw all images alike, for labels that `calibrate` and `compare` take too. "
            "Default: half of them from what violates.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="For --sample.")] = 0,
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """Report what an audit found: a page, its figures as JSON, and plots.

    With labels that people gave to a random sample, the report says how often the guard is right, corrected
    for the sampling. Exit code: 0 the report is written; 2 it is not.
    """
    from policyguard.runs.audit.report import Asked, make_report, thumbnails_of
    from policyguard.runs.audit.rows import Audit
    from policyguard.runs.audit.select import Copied, numbered

    audit = Audit.open(folder)
    if out is None:
        if audit.place.local is None:
            raise UsageError("the report needs a folder on this machine", hint="name one with --out")
        out = audit.place.local / "report"
    asked = Asked(
        prompt=prompt,
        k=worst_of,
        attributed=attributed,
        values=values,
        sample=sample,
        labels=labels,
        seed=seed,
        uniform=uniform,
    )
    if images is not None and (sample is None or labels is None):
        raise UsageError("--images needs --sample and --labels", hint="it holds the images of a drawn sample")
    copied, put = Copied(), None
    with ExitStack() as stack:
        if images is not None and labels is not None:
            put = stack.enter_context(numbered(audit, images, copied, beside=labels))
        move = stack.enter_context(progress_bar(sys.stderr))
        written = make_report(
            audit,
            out,
            asked,
            thumbnail=thumbnails_of(audit) if thumbnails else None,
            images=put,
            progress=lambda rows: move(rows, None, "rows read"),
        )
    warn_of_rest(audit)
    for problem in copied.problems[:_MOST_NAMED]:
        warn(one_line(problem))
    if (more := copied.counts["failed"] - _MOST_NAMED) > 0:
        warn(f"and {more:,} more images of the sample are not there")
    if style is TextOrJson.JSON:
        print(json.dumps(written.figures))
    else:
        print("\n".join(map(printable, _lines(written, labels))))
    if labels is not None and written.sampled is not None:
        print(f"{written.sampled:,} rows to label are in {printable(str(labels))}", file=sys.stderr)
    return ExitCode.OK


@command
def select(
    folder: FOLDER,
    where: WHERE = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="A .txt file of names, one a line; a .csv or .jsonl with what was found, and why; "
            "or a .parquet file of rows. Default: names on stdout.",
        ),
    ] = None,
    order: Annotated[
        OrderName,
        typer.Option(help="As in the source; blocked ones first, then by score; or by score alone."),
    ] = OrderName.SOURCE,
    once: ONCE = False,
) -> ExitCode:
    """List the images of an audit that a condition holds for.

    Exit code: 0 listed, also if there are none; 2 the condition is wrong.
    """
    from policyguard.runs.audit.rows import Audit
    from policyguard.runs.audit.select import read_where
    from policyguard.runs.audit.select import select as selected

    if where is None:
        raise UsageError("which images?", hint="""say it with --where, such as --where 'action == "block"'""")
    audit = Audit.open(folder)
    condition = read_where(audit, where)
    with progress_bar(sys.stderr) as move:
        count = selected(
            audit,
            condition,
            out or _print_key,
            order=order.value,
            once=once,
            progress=lambda n: move(n, None, "rows read"),
        )
    warn_of_rest(audit)
    where_to = f" in {printable(str(out))}" if out else ""
    print(f"{count:,} image{'' if count == 1 else 's'}{where_to}", file=sys.stderr)
    return ExitCode.OK


@command
def copy(
    folder: FOLDER,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A folder for the images.")],
    allowed: Annotated[
        bool, typer.Option("--allowed", help="Those that are not blocked: flagged ones are among them.")
    ] = False,
    where: WHERE = None,
    link: Annotated[
        bool, typer.Option("--link", help="Make hard links to the source's files instead of copies.")
    ] = False,
    once: ONCE = False,
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """Copy the images of an audit that may be used into a folder.

    An image is copied only if its bytes are those that were judged. What is there already stays, so that a
    copy that was stopped goes on, and nothing is written over.

    Exit code: 0 all are there; 3 some could not be copied; 2 the command is wrong.
    """
    from policyguard.runs.audit.rows import Audit
    from policyguard.runs.audit.select import ALLOWED, read_where
    from policyguard.runs.audit.select import copy as copied

    if allowed is (where is not None):
        raise UsageError("which images?", hint="give either --allowed or --where CONDITION")
    audit = Audit.open(folder)
    condition = read_where(audit, where or ALLOWED)
    with progress_bar(sys.stderr) as move:
        done = copied(
            audit, target, condition, link=link, once=once, progress=lambda n: move(n, None, "images")
        )
    warn_of_rest(audit)
    for problem in done.problems[:_MOST_NAMED]:
        print_error(one_line(problem))
    if (more := done.counts["failed"] - _MOST_NAMED) > 0:
        print_error(f"and {more:,} more")
    names = ("copied", "there already", "failed", "flagged", "degraded", "partial")
    if style is TextOrJson.JSON:
        print(json.dumps({name: done.counts[name] for name in names} | {"problems": done.problems}))
    else:
        print(", ".join(f"{done.counts[name]:,} {name}" for name in names[:3]))
        for name, words in (
            ("flagged", "flagged"),
            ("degraded", "let through without being judged"),
            ("partial", "judged in part"),
        ):
            if done.counts[name]:
                warn(f"{done.counts[name]:,} of them are {words}")
    return ExitCode.UNJUDGED if done.counts["failed"] else ExitCode.OK


def _print_key(line: str) -> None:
    """Names go to another program as they are, and to a terminal without what it would obey."""
    name = line.removesuffix("\n")
    sys.stdout.write(f"{printable(name) if is_terminal(sys.stdout) else name}\n")


def _of_labels(labels: Mapping[str, Any], rows: int, sheet: str) -> Iterator[str]:
    """What the labels say of all rows, or why they do not say it yet."""
    from policyguard.runs.audit.page import count, share

    drawn, labelled = labels["drawn"], labels["labelled"]
    if not labelled:
        yield f"{sheet}: none of the {drawn:,} sampled images is labelled, so there are no figures yet"
        yield "fill its column `label` with unsafe or safe, or with unsure"
        return
    if labels["prevalence"] is None:
        yield f"{sheet}: no figures yet; labelled: {labelled:,} of {drawn:,} sampled images"
        for name in labels["without_labels"]:
            yield f"no label for: {name}"
        return
    why = {"precision": "the guard calls nothing violating", "recall": "no image is unsafe, by the labels"}
    for name in ("precision", "recall", "prevalence"):
        yield f"{name}: {share(labels[name])}" + (f" ({why[name]})" if labels[name] is None else "")
    yield f"unsafe: {count(labels['unsafe'])} of {rows:,} images"


def warn_of_rest(audit: Audit, folder: str = "") -> None:
    """Say what is not judged yet; ``folder`` where it is not plain which audit is meant."""
    done, planned = len(audit.files()), audit.about["counts"]["parts"]
    if done != planned:
        which = f"{printable(folder)}: " if folder else ""
        warn(f"{which}{planned - done:,} of {planned:,} parts are not judged yet, and not in this")


def _lines(written: Written, sheet: Path | None) -> Iterator[str]:
    """The report in a few lines."""
    from policyguard.runs.audit.page import share

    figures = written.figures
    unjudged = figures["rows"] - figures["outcomes"]["violates"] - figures["outcomes"]["complies"]
    yield f"{figures['rows']:,} images; {share(figures['violating'])} of those judged violate the policy"
    if unjudged:
        yield f"{unjudged:,} could not be judged; let through without being judged: {figures['degraded']:,}"
    found: list[dict[str, Any]] = sorted(figures["categories"], key=lambda rule: -rule["violating"])
    for rule in found[:10]:
        if rule["attributed"]:
            near = rule["attributed"] - rule["violating"]
            yield f"  {rule['rule']}: violated by {rule['violating']:,}, closest for {near:,} more"
    if (labels := figures["labels"]) is not None:
        yield from _of_labels(labels, figures["rows"], str(sheet))
    yield f"wrote {', '.join(map(str, written.files))}"
