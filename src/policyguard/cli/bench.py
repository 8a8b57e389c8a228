"""``policyguard bench``: how good a guard is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, group
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode

__all__ = ["app"]

# The defaults of ``Sizes``, which is not imported for the help.
SCENES, PAIRS, HELD_OUT = 300, 100, 300

app = group("Measure guards.")
pictosafe = group("PictoSafe: harmless pictogram scenes with exact labels.")
app.add_typer(pictosafe, name="pictosafe")

_Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same images.")]
_Scenes = Annotated[int, typer.Option("--scenes", min=2, help="How many scenes.")]
_Pairs = Annotated[int, typer.Option("--pairs", min=0, help="How many edit pairs.")]
_HeldOut = Annotated[int, typer.Option("--held-out", min=0, help="How many held-out policies.")]
_Scale = Annotated[int, typer.Option("--scale", min=1, help="Images are 96 pixels a side, times this.")]


@pictosafe.command("make")
@command
def make(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the data set.")],
    seed: _Seed = 0,
    scenes: _Scenes = SCENES,
    pairs: _Pairs = PAIRS,
    held_out: _HeldOut = HELD_OUT,
    scale: _Scale = 1,
) -> ExitCode:
    """Write a data set: images, scenes and labels as JSON lines, and a manifest with hashes."""
    from policyguard.cli.progress import progress_bar
    from policyguard.pictosafe import Sizes, make

    with progress_bar(sys.stderr) as move:
        manifest = make(
            out,
            seed=seed,
            sizes=Sizes(scenes, pairs, held_out),
            scale=scale,
            progress=lambda done, total: move(done, total, "images"),
        )
    print(manifest)
    return ExitCode.OK


@pictosafe.command("run")
@command
def run(
    context: typer.Context,
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
    scenes: _Scenes = SCENES,
    pairs: _Pairs = PAIRS,
    held_out: _HeldOut = HELD_OUT,
    scale: _Scale = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> ExitCode:
    """Run a guard over PictoSafe and print how good it is, beside guards that look at no image.

    pico takes two to three minutes on two cores, and a quarter of a minute with --scenes 20 --pairs 5
    --held-out 5.

    With --data, the folder determines seed, numbers and scale, and none of them can be set.
    """
    from policyguard.cli.progress import progress_bar
    from policyguard.guard import Guard
    from policyguard.pictosafe import Sizes, run

    if data is not None:
        _refuse_options(context, "seed", "scenes", "pairs", "held_out", "scale")
    with (
        Guard("pictosafe/l3", model=model, base_url=base_url, dialect=dialect) as guard,
        progress_bar(sys.stderr) as move,
    ):
        report = run(
            guard,
            data=data,
            seed=seed,
            sizes=Sizes(scenes, pairs, held_out),
            scale=scale,
            progress=lambda done, total: move(done, total, "judged"),
        )
        identity = guard.backend.model
    if as_json:
        print(json.dumps({"model": identity.to_dict()} | report.to_dict(), indent=2))
    else:
        print(f"guard: {identity.id}\n{report.to_text()}")
    return ExitCode.OK


def _refuse_options(context: typer.Context, *names: str) -> None:
    used = []
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            used.append(f"--{name.replace('_', '-')}")
    if used:
        raise UsageError(
            f"--data determines the seed, the numbers and the scale: leave out {', '.join(used)}",
            hint="use them with `policyguard bench pictosafe make`, which writes such a folder",
        )
