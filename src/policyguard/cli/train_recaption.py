"""``policyguard train recaption``: captions for stage sft, from two models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from policyguard.cli.errors import command, warn_of
from policyguard.cli.exits import ExitCode
from policyguard.cli.progress import progress_bar
from policyguard.cli.text import one_line

__all__ = ["add_to"]


def recaption(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A path that ends in .yaml, or the name of a packaged recipe."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value, such as out=my.jsonl."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an HTML page to read a sample side by side."),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many rows the page shows.")] = 50,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Put small pictures into the page, blurred until clicked.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe and images, ask no model, and stop.")
    ] = False,
) -> ExitCode:
    """Caption images with one model, and have another restore what it left out.

    Started again, it goes on where it was stopped. The exit code is 1 if an image has no caption.
    """
    from policyguard.train.data import CaptionRow, read_rows
    from policyguard.train.files import check_place, write_text
    from policyguard.train.recaption import sample_page
    from policyguard.train.recaption.recipe import inspect, run
    from policyguard.train.recipe import RecaptionRecipe, load_recipe

    loaded = load_recipe(recipe, stage="recaption", settings=settings or [])
    assert isinstance(loaded, RecaptionRecipe)
    if page is not None:
        check_place(page, name="--page", folder=False)
    if dry_run:
        _, notes, problems = inspect(loaded)
        for note in notes:
            print(one_line(note))
        warn_of(problems)
        return ExitCode.BLOCKED if problems else ExitCode.OK
    with progress_bar(sys.stderr) as move:
        report = run(loaded, progress=move)
    for line in report.lines:
        print(one_line(line))
    warn_of(report.problems)
    if page is not None and report.out.exists():
        rows = read_rows(report.out, CaptionRow).rows
        write_text(
            page,
            sample_page(rows, report.out.parent, count=sample, seed=loaded.seed, pictures=pictures),
        )
        print(f"the sample is in {page}")
    return ExitCode.BLOCKED if report.problems else ExitCode.OK


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("recaption")(command(recaption))
