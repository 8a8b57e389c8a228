"""Checkpoints that are whole: one counts only when its mark is there, which is written last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from policyguard.errors import MissingExtraError
from policyguard.train.files import write_text

__all__ = ["checkpoint_marker", "latest_checkpoint"]

_MARK = "COMPLETE"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``. Half-written ones, left by a kill, are removed."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if not step.isdecimal():  # somebody's own copy
            continue
        if (path / _MARK).is_file():
            found.append((int(step), path))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    return max(found)[1] if found else None


def checkpoint_marker() -> Any:
    """A ``TrainerCallback`` that marks each checkpoint once all of it is written."""
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtraError("transformers", "train") from None

    class Marker(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                write_text(folder / _MARK, "this checkpoint is whole")

    return Marker()
