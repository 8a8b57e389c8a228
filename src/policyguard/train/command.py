"""Check a recipe and run its stage: behind ``policyguard train`` and ``python -m policyguard.train``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyguard.backends.transformers.files import find, fingerprint
from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.strict.files import check_place, write_json
from policyguard.strict.jsontext import parse_json
from policyguard.train import assess, grpo, sft
from policyguard.train.models import RUN, WORK, is_complete, model_folder
from policyguard.train.preflight import Preflight, inspect_recipe
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe, load_recipe

__all__ = ["dry_run", "prepare", "remember", "start"]

_FREE = re.compile(
    r"out|run\..*|watch\..*|stop\.(patience|min_gain)|data\.(rows|skip_bad)|optim\.(batch|accumulate|epochs|max_steps)"
    r"|rollout\.(by|max_tokens|gpu_share|tensor_parallel|server)"
)
"""Keys of a recipe that may change between two starts of one run. Rows are compared by what they hold."""


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
    return _inspect(recipe).notes


def _inspect(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> Preflight:
    _check_out(recipe)
    preflight = inspect_recipe(recipe)
    if preflight.problems:
        raise ConfigurationError(
            "\n".join(preflight.problems), hint="nothing was started; fix these and try again"
        )
    _check_same_run(recipe, preflight.data)
    return preflight


def start(
    recipe: SftRecipe | AssessRecipe | GrpoRecipe, *, note: Callable[[str], object] = lambda line: None
) -> Path:
    """Check everything, then run the stage and give the folder of the finished model.

    ``note`` gets the notes of ``dry_run`` before the run begins, on the first rank.
    """
    out = Path(recipe.out).expanduser()
    _check_out(recipe)
    running = int(os.environ.get("WORLD_SIZE", "1"))
    if running != recipe.run.devices:
        raise ConfigurationError(
            f"the recipe is for {recipe.run.devices} devices (run.devices), and {running} processes run",
            hint=f"use the command at the top of the recipe, or --set run.devices={running}, "
            "which makes batches smaller or larger: look at optim.accumulate",
        )
    if (sharding := _sharding()) not in (None, recipe.run.sharding):
        raise ConfigurationError(
            f"run.sharding is {recipe.run.sharding}, and accelerate was started for {sharding}",
            hint=f"use the command at the top of the recipe, or --set run.sharding={sharding}",
        )
    preflight = _inspect(recipe)
    if os.environ.get("RANK", "0") == "0":
        remember(recipe, preflight.data)
        for line in preflight.notes:
            note(line)
    with _training(out):
        if isinstance(recipe, SftRecipe):
            return sft.run(recipe)
        return assess.run(recipe) if isinstance(recipe, AssessRecipe) else grpo.run(recipe)


def _sharding() -> str | None:
    """What ``accelerate launch`` has set up, if it was used."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "fsdp2"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '2')}"
    return None


def remember(recipe: SftRecipe | AssessRecipe | GrpoRecipe, data: Mapping[str, str]) -> None:
    """Write down which run the checkpoints in the output folder belong to, and what this start changes."""
    path = Path(recipe.out).expanduser() / WORK / RUN
    settings, earlier = _flat(recipe.model_dump(mode="json")), _read_run(path)
    changes = list(earlier.get("changes", ()))
    if _has_checkpoints(path.parent):
        changes += _changes(earlier.get("settings", {}), settings, free=True)
    known = {"data": dict(data), "model": _revision(recipe)}
    write_json(path, {"settings": settings, **known, "changes": changes})


def _check_same_run(recipe: SftRecipe | AssessRecipe | GrpoRecipe, data: Mapping[str, str]) -> None:
    """Refuse checkpoints that were made with other data or another recipe."""
    out = Path(recipe.out).expanduser()
    if not (out / WORK / RUN).is_file() or not _has_checkpoints(out / WORK):
        return
    earlier = _read_run(out / WORK / RUN)
    changes = _changes(earlier.get("settings", {}), _flat(recipe.model_dump(mode="json")), free=False)
    before = earlier.get("data", {})
    if any(before.get(name) != data.get(name) for name in ("rows", "prompts")):
        files = [name for name, digest in data.items() if name.startswith("file ") and name in before]
        changed = [name.removeprefix("file ") for name in files if before[name] != data[name]]
        changes.append(f"{' and '.join(changed) or 'the rows, or their policies,'} changed")
    if "model" in earlier and earlier["model"] != _revision(recipe):
        changes.append(f"the files of model {recipe.model} changed")
    if changes:
        raise ConfigurationError(
            f"{out} holds checkpoints of another run: {', '.join(changes)}",
            hint="set these as they were to go on, or name another folder with --set out=...",
        )


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any], *, free: bool) -> list[str]:
    return [
        f"{key} was {earlier.get(key)}" + (f", then {now.get(key)}" if free else "")
        for key in dict.fromkeys([*now, *earlier])
        if earlier.get(key) != now.get(key) and (_FREE.fullmatch(key) is not None) == free
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"optim": {"lr": 1}}`` as ``{"optim.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _revision(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> str:
    return fingerprint(find(str(model_folder(recipe.model))))


def _has_checkpoints(work: Path) -> bool:
    return any(work.glob("checkpoint-*/"))


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _check_out(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> None:
    """Refuse a folder that holds a finished model or other files."""
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
