"""``policyguard train``: the training stages from recipes, and the making of training data.

``train import`` and ``validate`` turn published data into rows and check them; ``train recaption`` writes
captions for stage sft, from two models; ``train pairs`` is in ``train_pairs``, ``train evaluate`` in
``train_evaluate``.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from policyguard.cli import train_evaluate, train_pairs
from policyguard.cli.errors import command, warn_of
from policyguard.cli.options import group
from policyguard.cli.progress import progress_bar
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

__all__ = ["app"]

app = group("Train your own guard, one recipe per run.")
_Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A path that ends in .yaml, or the name of a packaged recipe (see `policyguard train recipes`).",
    ),
]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value, such as optim.lr=1e-5; may be repeated."
    ),
]
_DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check rows, images, policies, model and memory, estimate the time, and stop."
    ),
]


class _Format(StrEnum):
    LLAVAGUARD = "llavaguard"
    UNSAFEBENCH = "unsafebench"
    SAFEEDIT = "safeedit"
    FOLDER = "folder"


class _Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@app.command("recipes")
@command
def recipes() -> ExitCode:
    """List the packaged recipes, with what each is for."""
    from policyguard.train.recipe import find_recipes, recipe_names

    for name in recipe_names():
        first = (find_recipes() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:<28} {first.removeprefix('#').strip()}")
    return ExitCode.OK


@app.command("sft")
@command
def sft(recipe: _Recipe, settings: _Settings = None, dry_run: _DryRun = False) -> ExitCode:
    """Stage 1: learn to describe, from captions and nothing else.

    On several devices: accelerate launch -m policyguard.train RECIPE
    """
    return _stage("sft", recipe, settings, dry_run)


@app.command("assess")
@command
def assess(recipe: _Recipe, settings: _Settings = None, dry_run: _DryRun = False) -> ExitCode:
    """Learn rating, category and rationale from labelled images.

    On several devices: accelerate launch -m policyguard.train RECIPE
    """
    return _stage("assess", recipe, settings, dry_run)


@app.command("grpo")
@command
def grpo(recipe: _Recipe, settings: _Settings = None, dry_run: _DryRun = False) -> ExitCode:
    """Stage 2: right verdicts under many policies, by reinforcement learning.

    On several devices: accelerate launch -m policyguard.train RECIPE
    """
    return _stage("grpo", recipe, settings, dry_run)


@app.command("export")
@command
def export(
    recipe: _Recipe,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the files.")],
    settings: _Settings = None,
) -> ExitCode:
    """Write the data and the reward of a grpo recipe for verl, EasyR1 and ms-swift."""
    from policyguard.train.command import prepare
    from policyguard.train.export import export as write
    from policyguard.train.recipe import GrpoRecipe

    loaded = prepare("grpo", recipe, settings=settings or [])
    assert isinstance(loaded, GrpoRecipe)
    for path in write(loaded, out):
        print(path)
    return ExitCode.OK


@app.command("import")
@command
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


@app.command("validate")
@command
def validate(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="A .jsonl file of rows.")],
) -> ExitCode:
    """Check rows: fields, images, hashes, policies, splits, labels.

    The exit code is 1 if a row is bad.
    """
    from policyguard.train.rows import validate_rows

    with progress_bar(sys.stderr) as move:
        validation = validate_rows(rows, progress=move)
    for note in validation.notes:
        print(one_line(note))
    warn_of(validation.problems, limit=None)
    return ExitCode.BLOCKED if validation.problems else ExitCode.OK


@app.command("recaption")
@command
def recaption(
    recipe: _Recipe,
    settings: _Settings = None,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an HTML page to read a sample side by side."),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many rows the page shows.")] = 50,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Put thumbnails into the page, blurred until clicked.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe and images, ask no model, and stop.")
    ] = False,
) -> ExitCode:
    """Caption images with one model, and have another restore what it left out.

    Started again, it continues where it stopped. The exit code is 1 if an image has no caption.
    """
    from policyguard.strict.files import check_place, write_text
    from policyguard.train.data import CaptionRow, read_rows
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
            sample_page(rows, report.out.parent, count=sample, seed=loaded.seed, images=thumbnails),
        )
        print(f"the sample is in {page}")
    return ExitCode.BLOCKED if report.problems else ExitCode.OK


app.command("evaluate")(train_evaluate.evaluate)
app.command("pairs")(train_pairs.pairs)
app.command("pairs-rows")(train_pairs.pairs_rows)


def _stage(stage: str, source: str, settings: list[str] | None, dry_run: bool) -> ExitCode:
    from policyguard.train.command import dry_run as check
    from policyguard.train.command import prepare, start

    recipe = prepare(stage, source, settings=settings or [])
    if dry_run:
        print("\n".join(check(recipe)))
    else:
        folder = start(recipe, note=partial(print, file=sys.stderr))
        print(f"the model is in {folder}")
    return ExitCode.OK
