"""What all stages share of TRL: arguments from the recipe, checkpoints, warnings to silence.

A checkpoint counts only with its mark, which is written after everything else in it. Older ones go only after
that, mark first, so that a kill at any moment leaves one that counts, and the best one.
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
from policyguard.train.models import WORK, restore
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe
from policyguard.train.verdicts import standing, stop_arguments

__all__ = [
    "check_sharding",
    "checkpoint_marker",
    "common_arguments",
    "expected_noise",
    "latest_checkpoint",
    "require_trl",
    "train_to_the_end",
]

_MARK = "COMPLETE"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``. Half-written ones, left by a kill, are removed."""
    for path in _checkpoints(folder).values():
        if not (path / _MARK).is_file():
            shutil.rmtree(path, ignore_errors=True)
    whole = _checkpoints(folder, marked=True)
    return whole[max(whole)] if whole else None


def _checkpoints(folder: Path, *, marked: bool = False) -> dict[int, Path]:
    """Update -> checkpoint. Somebody's own copies, under other names, are none."""
    found = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*/")}
    return {
        int(step): path
        for step, path in found.items()
        if step.isdecimal() and (not marked or (path / _MARK).is_file())
    }


def checkpoint_marker(keep: int) -> Any:
    """A ``TrainerCallback`` that marks each checkpoint once all ranks have written their parts of it.

    Then it removes the oldest: ``keep`` stay, the best one among them.
    """
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
                whole = _checkpoints(folder.parent, marked=True)
                spared = {state.global_step, state.best_global_step}
                older = sorted(whole.keys() - spared, reverse=True)
                for step in older[max(0, keep - len(whole.keys() & spared)) :]:
                    (whole[step] / _MARK).unlink()
                    shutil.rmtree(whole[step], ignore_errors=True)

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
        "save_steps": recipe.saves_every,  # and `checkpoint_marker` removes what is older
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": run.eval_every if evaluates else None,
        "report_to": run.report_to,
        "remove_unused_columns": False,
        "disable_tqdm": None,
        **stop,
    }


def train_to_the_end(
    trainer: Any, checkpoint: Path | None, recipe: SftRecipe | AssessRecipe | GrpoRecipe
) -> None:
    """Train to the end, from ``checkpoint`` where there is one.

    A run that was killed after its last update makes no other: transformers makes one before it looks whether
    the run is over, unless the epoch is over too.
    """
    if checkpoint is None:
        trainer.train()
        return
    from transformers import TrainerState

    restore(trainer, checkpoint, recipe.tune)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    *_, planned = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if state.global_step >= planned or standing(state.log_history, recipe.stop):
        trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    trainer.train(resume_from_checkpoint=str(checkpoint))


@contextmanager
def expected_noise() -> Iterator[None]:
    """Silence warnings of the libraries that mean nothing to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*(pin_memory|use_reentrant|use_cache|torchvision).*")
        yield
