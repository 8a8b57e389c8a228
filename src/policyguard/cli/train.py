"""``policyguard train``: the training stages, from recipes.

A further command goes into a file of its own and is added with one line below the stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyguard.cli import train_import, train_pairs, train_recaption
from policyguard.cli.errors import command
from policyguard.cli.exits import ExitCode

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train your own guard, one recipe per run.")

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
        "--dry-run", help="Check rows, pictures, policies, model and memory, estimate the time, and stop."
    ),
]


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

    On several devices: accelerate launch -m policyguard.train.sft RECIPE
    """
    return _stage("sft", recipe, settings, dry_run)


@app.command("assess")
@command
def assess(recipe: _Recipe, settings: _Settings = None, dry_run: _DryRun = False) -> ExitCode:
    """Learn rating, category and rationale from labelled images.

    On several devices: accelerate launch -m policyguard.train.assess RECIPE
    """
    return _stage("assess", recipe, settings, dry_run)


@app.command("grpo")
@command
def grpo(recipe: _Recipe, settings: _Settings = None, dry_run: _DryRun = False) -> ExitCode:
    """Stage 2: right verdicts under many policies, by reinforcement learning.

    On several devices: accelerate launch -m policyguard.train.grpo RECIPE
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


train_import.add_to(app)
train_recaption.add_to(app)
train_pairs.add_to(app)


def _stage(stage: str, source: str, settings: list[str] | None, dry_run: bool) -> ExitCode:
    from policyguard.train.command import dry_run as check
    from policyguard.train.command import prepare, start

    recipe = prepare(stage, source, settings=settings or [])
    lines = check(recipe) if dry_run else [f"the model is in {start(recipe)}"]
    print("\n".join(lines))
    return ExitCode.OK
