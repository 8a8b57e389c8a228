"""Check a recipe and run its stage: behind ``policyguard train`` and ``python -m policyguard.train``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.strict.files import check_place, write_json
from policyguard.strict.jsontext import parse_json
from policyguard.train import assess, grpo, sft
from policyguard.train.models import WORK, is_complete
from policyguard.train.preflight import inspect_recipe
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe, load_recipe

__all__ = ["dry_run", "prepare", "remember", "start"]

_RUN = "run.json"
_FIXED = ("stage", "model", "seed", "data", "tune")


def prepare(
    stage: str | None, source: str, *, settings: Sequence[str] = ()
) -> SftRecipe | AssessRecipe | GrpoRecipe:
    """Load the recipe of a stage (default: the one it names); refuse an output folder that cannot be one.

    Raises ConfigurationError.
    """
    recipe = load_recipe(source, stage=stage, settings=settings)
    check_place(Path(recipe.out).expanduser(), name="out", folder=True)
    return recipe


def dry_run(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> list[str]:
    """Notes to read before the run starts. Raises ConfigurationError with everything that is wrong."""
    _check_out(recipe)
    preflight = inspect_recipe(recipe)
    if preflight.problems:
        raise ConfigurationError(
            "\n".join(preflight.problems), hint="nothing was started; fix these and try again"
        )
    return preflight.notes


def start(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> Path:
    """Check everything, then run the stage and give the folder of the finished model."""
    out = Path(recipe.out).expanduser()
    _check_out(recipe)
    running = int(os.environ.get("WORLD_SIZE", "1"))
    if running != recipe.run.devices:
        raise ConfigurationError(
            f"the recipe is for {recipe.run.devices} devices (run.devices), and {running} processes run",
            hint=f"use the command at the top of the recipe, or --set run.devices={running}, "
            "which makes batches smaller or larger: look at optim.accumulate",
        )
    dry_run(recipe)
    if os.environ.get("RANK", "0") == "0":
        remember(recipe)
    with _training(out):
        if isinstance(recipe, SftRecipe):
            return sft.run(recipe)
        return assess.run(recipe) if isinstance(recipe, AssessRecipe) else grpo.run(recipe)


def remember(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> None:
    """Write down which run the checkpoints in the output folder belong to."""
    write_json(Path(recipe.out).expanduser() / WORK / _RUN, _identity(recipe))


def _identity(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> dict[str, Any]:
    """What may not change between two starts of one run; batch sizes and lengths may."""
    return recipe.model_dump(mode="json", include=set(_FIXED))


def _check_out(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> None:
    """Refuse a folder that holds a finished model, other files, or checkpoints of another run."""
    out = Path(recipe.out).expanduser()
    check_place(out, name="out", folder=True)
    if is_complete(out):
        raise ConfigurationError(
            f"{out} holds a finished model", hint="remove it, or name another folder with --set out=..."
        )
    if out.is_dir() and not (out / WORK).is_dir() and (other := min(out.iterdir(), default=None)):
        raise ConfigurationError(
            f"out: {out} holds other files than a training run's, such as {other.name}",
            hint="name a new or an empty folder with --set out=...",
        )
    run = out / WORK / _RUN
    if run.is_file() and any((out / WORK).glob("checkpoint-*/")):
        try:
            earlier = parse_json(run.read_bytes())
        except (OSError, ValueError):
            earlier = {}
        now = _identity(recipe)
        if changed := [f"{key} was {earlier.get(key)}" for key in _FIXED if earlier.get(key) != now[key]]:
            raise ConfigurationError(
                f"{out} holds checkpoints of another run: {', '.join(changed)}",
                hint="set these as they were to go on, or name another folder with --set out=...",
            )


@contextmanager
def _training(out: Path) -> Iterator[None]:
    """Turn whatever torch, transformers and TRL raise into an error of this package."""
    try:
        yield
    except PolicyGuardError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
            raise ConfigurationError(
                f"training ran out of memory: {message}",
                hint="lower optim.batch (and raise optim.accumulate), run.max_pixels or rollout.max_tokens",
            ) from error
        raise PolicyGuardError(
            f"training failed: {message}",
            hint=f"fix the cause and start it again: it goes on from the last checkpoint in {out}",
        ) from error
