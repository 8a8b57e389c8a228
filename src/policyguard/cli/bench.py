"""``policyguard bench``: how good a guard is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import BASE_URL, DIALECT, MODEL

if TYPE_CHECKING:
    from policyguard.bench.pictosafe import Sizes

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure guards.")
pictosafe = typer.Typer(no_args_is_help=True, help="PictoSafe: harmless pictogram scenes with exact labels.")
app.add_typer(pictosafe, name="pictosafe")

_Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same pictures.")]
_Scenes = Annotated[int | None, typer.Option("--scenes", help="How many scenes.", show_default=False)]
_Pairs = Annotated[int | None, typer.Option("--pairs", help="How many edit pairs.", show_default=False)]
_HeldOut = Annotated[
    int | None, typer.Option("--held-out", help="How many held-out policies.", show_default=False)
]
_Scale = Annotated[int, typer.Option("--scale", min=1, help="Pictures are 96 pixels a side, times this.")]


@pictosafe.command("make")
@command
def make(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the data set.")],
    seed: _Seed = 0,
    scenes: _Scenes = None,
    pairs: _Pairs = None,
    held_out: _HeldOut = None,
    scale: _Scale = 1,
) -> ExitCode:
    """Write a data set: images, scenes and labels as JSON lines, and a manifest with hashes."""
    from policyguard.bench.pictosafe import make
    from policyguard.cli.progress import progress_bar

    with progress_bar(sys.stderr) as move:
        manifest = make(
            out,
            seed=seed,
            sizes=_sizes(scenes, pairs, held_out),
            scale=scale,
            progress=lambda done, total: move(done, total, "pictures"),
        )
    print(manifest)
    return ExitCode.OK


@pictosafe.command("run")
@command
def run(
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="A data set that `make` wrote. Default: drawn in memory."
        ),
    ] = None,
    seed: _Seed = 0,
    scenes: _Scenes = None,
    pairs: _Pairs = None,
    held_out: _HeldOut = None,
    scale: _Scale = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> ExitCode:
    """Run a guard over PictoSafe and print how good it is, beside guards that look at nothing.

    With --data, the folder settles seed, numbers and scale.
    """
    from policyguard.bench.pictosafe import run
    from policyguard.cli.progress import progress_bar
    from policyguard.guard import Guard

    with (
        Guard("pictosafe/l3", model=model, base_url=base_url, dialect=dialect) as guard,
        progress_bar(sys.stderr) as move,
    ):
        report = run(
            guard,
            data=data,
            seed=seed,
            sizes=_sizes(scenes, pairs, held_out),
            scale=scale,
            progress=lambda done, total: move(done, total, "judged"),
        )
        identity = guard.backend.model
    if as_json:
        print(json.dumps({"model": identity.to_dict()} | report.to_dict(), indent=2))
    else:
        print(f"guard: {identity.id}\n{report.to_text()}")
    return ExitCode.OK


def _sizes(scenes: int | None, pairs: int | None, held_out: int | None) -> Sizes:
    from dataclasses import replace

    from policyguard.bench.pictosafe import Sizes

    given = {"scenes": scenes, "pairs": pairs, "held_out": held_out}
    return replace(Sizes(), **{name: number for name, number in given.items() if number is not None})
