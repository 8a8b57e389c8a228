"""What all stages share of TRL: arguments from the recipe, checkpoints, warnings to silence.

A checkpoint counts only with its mark, which is written after everything else in it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.strict.files import write_text
from policyguard.train.models import WORK
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe
from policyguard.train.verdicts import stop_arguments

__all__ = [
    "check_sharding",
    "checkpoint_marker",
    "common_arguments",
    "expected_noise",
    "latest_checkpoint",
    "require_trl",
]

_MARK = "COMPLETE"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``. Half-written ones, left by a kill, are removed."""
    checkpoints: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if not step.isdecimal():  # somebody's own copy
            continue
        if (path / _MARK).is_file():
            checkpoints.append((int(step), path))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    return max(checkpoints)[1] if checkpoints else None


def checkpoint_marker() -> Any:
    """A ``TrainerCallback`` that marks each checkpoint once all ranks have written their parts of it."""
    try:
        from accelerate import PartialState
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtraError("transformers", "train") from None

    class Marker(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            PartialState().wait_for_everyone()
            if state.is_world_process_zero and folder.is_dir():
                write_text(folder / _MARK, "this checkpoint is whole")

    return Marker()


def check_sharding(trainer: Any, sharding: str) -> None:
    """Refuse devices that do not share out what the recipe says they do: accelerate passes over FSDP where
    there are no GPUs, and each device would hold everything. Raises ConfigurationError.
    """
    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        return
    kind = str(accelerator.distributed_type.value)
    found = {"DEEPSPEED": "zero", "FSDP": "fsdp2" if accelerator.is_fsdp2 else "fsdp1"}.get(kind, "none")
    if found == "zero":
        found += str(accelerator.state.deepspeed_plugin.zero_stage)
    if found != sharding:
        raise ConfigurationError(
            f"run.sharding is {sharding}, and these devices share out {found} ({kind})",
            hint="start it with the command at the top of the recipe, on GPUs; or set "
            f"run.sharding={found} to train so",
        )


def require_trl() -> Any:
    """The module ``trl``. Raises MissingExtraError."""
    try:
        import trl
    except ImportError:
        raise MissingExtraError("trl", "train") from None
    return trl


def common_arguments(recipe: SftRecipe | AssessRecipe | GrpoRecipe, *, evaluates: bool) -> dict[str, Any]:
    """Keyword arguments of ``SFTConfig`` and ``GRPOConfig``."""
    import torch

    optim, run, stop = recipe.optim, recipe.run, stop_arguments(recipe.stop, evaluates=evaluates)
    on_cpu = run.device == "cpu" or not torch.cuda.is_available()
    return {
        "output_dir": str(Path(recipe.out).expanduser() / WORK),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "learning_rate": optim.lr,
        "lr_scheduler_type": optim.schedule,
        "warmup_steps": optim.warmup,  # below 1 it is a share of all steps
        "weight_decay": optim.weight_decay,
        "num_train_epochs": optim.epochs,
        "max_steps": optim.max_steps or -1,
        "per_device_train_batch_size": optim.batch,
        "gradient_accumulation_steps": optim.accumulate,
        "max_grad_norm": optim.max_grad_norm,
        "bf16": run.precision == "bf16",
        "gradient_checkpointing": run.gradient_checkpointing,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "dataloader_num_workers": run.loader_workers,
        "logging_steps": run.log_every,
        "save_strategy": "steps",
        "save_steps": run.eval_every if stop else run.save_every,  # so that the best weights are there
        "save_total_limit": run.keep,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": run.eval_every if evaluates else None,
        "report_to": run.report_to,
        "remove_unused_columns": False,
        "disable_tqdm": None,
        **stop,
    }


@contextmanager
def expected_noise() -> Iterator[None]:
    """Silence warnings of the libraries that mean nothing to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*(pin_memory|use_reentrant|use_cache|torchvision).*")
        yield
