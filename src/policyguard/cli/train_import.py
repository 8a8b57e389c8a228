"""``policyguard train import`` and ``validate``: published data to rows, and a look at rows."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from policyguard.cli.errors import command, warn_of
from policyguard.cli.exits import ExitCode
from policyguard.cli.progress import progress_bar
from policyguard.cli.text import one_line

__all__ = ["add_to"]


class _Format(StrEnum):
    LLAVAGUARD = "llavaguard"
    UNSAFEBENCH = "unsafebench"
    SAFEEDIT = "safeedit"
    FOLDER = "folder"


class _Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def import_(
    kind: Annotated[_Format, typer.Argument(metavar="FORMAT", help=", ".join(_Format))],
    source: Annotated[
        Path, typer.Argument(help="A .csv, .jsonl or .parquet file, a folder of them, or a folder of images.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder for rows.jsonl and images.")],
    policy: Annotated[
        str | None,
        typer.Option(help="The policy that the labels hold under. Default: the packaged one of the format."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="What image paths are relative to. Default: the source's folder."
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="What the images may be used for.")] = None,
    source_name: Annotated[str | None, typer.Option(help="Where the images come from.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Leave image files where they are, and name them there.")
    ] = False,
    split: Annotated[_Split | None, typer.Option(help="Put all rows on one side.")] = None,
    validation: Annotated[float, typer.Option(help="Share of images to evaluate on while training.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share of images kept for the final test.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Other seeds draw other splits.")] = 0,
) -> ExitCode:
    """Import LlavaGuard, UnsafeBench, SafeEditBench or a folder as label rows.

    Bad rows are named and left out; the exit code is 1 if there are any.
    """
    from policyguard.train.importers import import_rows

    with progress_bar(sys.stderr) as move:
        summary = import_rows(
            kind.value,
            source,
            out,
            policy=policy,
            images=images,
            licence=licence,
            origin=source_name,
            copy=not in_place,
            split=None if split is None else split.value,
            validation=validation,
            test=test,
            seed=seed,
            progress=move,
        )
    for line in summary.lines:
        print(one_line(line))
    warn_of(summary.problems)
    return ExitCode.BLOCKED if summary.problems else ExitCode.OK


def validate(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="A .jsonl file of rows.")],
) -> ExitCode:
    """Check rows: fields, images, hashes, policies, splits, labels.

    The exit code is 1 if a row is bad.
    """
    from policyguard.train.importers import validate_rows

    with progress_bar(sys.stderr) as move:
        found = validate_rows(rows, progress=move)
    for note in found.notes:
        print(one_line(note))
    warn_of(found.problems, limit=None)
    return ExitCode.BLOCKED if found.problems else ExitCode.OK


def add_to(app: typer.Typer) -> None:
    """Register both commands."""
    app.command("import")(command(import_))
    app.command("validate")(command(validate))
