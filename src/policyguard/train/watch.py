"""The log of a run, and a watch on GRPO: recall of each label, groups without variance, entropy.

A run that has collapsed is stopped. ``verdicts`` writes into the same log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from policyguard.errors import MissingExtraError
from policyguard.strict.files import write_lines
from policyguard.strict.jsontext import parse_json
from policyguard.train.recipe import Watch

__all__ = ["PREFIX", "collapse_of", "read_lines", "trim", "watch_callback", "write_line"]

PREFIX = "held_out/"
"""Of figures of verdicts (``verdicts``), in the trainer's log."""
SHOWN = {
    "verdict/recall_safe": "recall_safe",
    "verdict/recall_unsafe": "recall_unsafe",
    "verdict/says_unsafe": "says_unsafe",
    "verdict/readable": "readable",
    "frac_reward_zero_std": "zero_variance",
    "entropy": "entropy",
    "reward": "reward",
    "kl": "kl",
}


def collapse_of(figures: dict[str, float], settings: Watch) -> str | None:
    """Why the figures of one logged step look collapsed, or ``None``. What can be read comes first: without
    answers, recall says nothing.
    """
    if (readable := figures.get("readable")) is not None and readable < settings.min_readable:
        return f"{readable:.3f} of the answers can be read, under {settings.min_readable}"
    for label in ("safe", "unsafe"):
        recall = figures.get(f"recall_{label}")
        if recall is not None and recall < settings.min_recall:
            return f"recall of {label} is {recall:.3f}, under {settings.min_recall}"
    spread = figures.get("zero_variance")
    if spread is not None and spread > settings.max_zero_variance:
        return f"{spread:.3f} of the groups hold one reward, over {settings.max_zero_variance}"
    return None


def watch_callback(
    settings: Watch, log: Path, *, unread: Callable[[], Sequence[tuple[str, str]]] = tuple
) -> Any:
    """A ``TrainerCallback`` that writes one JSON line per logged step to ``log``, and stops a collapsed run.

    ``unread`` gives the last answers that could not be read, and what is wrong with each; the log has them
    for steps at which hardly any could be.

    A run that goes on from a checkpoint drops the lines after it, and goes on counting where these end. All
    ranks see the same figures, as TRL averages them, and so stop at the same step. ``stopped`` says why.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtraError("transformers", "train") from None

    class WatchCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        def __init__(self) -> None:
            self.streak = 0
            self.stopped: str | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for line in read_lines(log):
                if line["step"] <= state.global_step and "collapse" in line:
                    self.streak = self.streak + 1 if line["collapse"] else 0
            if state.is_world_process_zero:
                trim(log, state)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            figures = {name: float(logs[key]) for key, name in SHOWN.items() if key in (logs or {})}
            if "reward" not in figures:
                return
            why = collapse_of(figures, settings)
            self.streak = self.streak + 1 if why else 0
            if why and self.streak >= settings.patience and state.global_step >= settings.grace:
                self.stopped = f"at update {state.global_step}: {why}, {self.streak} logged steps in a row"
                control.should_training_stop = settings.stop
            if state.is_world_process_zero:
                line = {"step": state.global_step, **figures, "collapse": why}
                if figures.get("readable", 1.0) < settings.min_readable:
                    line["unread"] = [{"answer": text, "problem": problem} for text, problem in unread()]
                write_line(log, line)

    return WatchCallback()


def trim(log: Path, state: Any) -> None:
    """Drop what an earlier start wrote after the checkpoint that ``state`` is from, verdicts on its own
    weights included, if it does not know of them. Only one rank calls it.
    """
    if not log.exists():
        return
    known = {entry["step"] for entry in state.log_history if f"{PREFIX}rows" in entry}
    lines = [
        line
        for line in read_lines(log)
        if (line["step"] in known if "verdicts" in line else line["step"] <= state.global_step)
    ]
    write_lines(log, map(json.dumps, lines))


def write_line(log: Path, line: dict[str, Any]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(log: Path) -> list[dict[str, Any]]:
    """The whole lines of an earlier start."""
    lines = []
    with suppress(OSError, ValueError):
        for text in log.read_text(encoding="utf-8").splitlines():
            line = parse_json(text, constants=True)
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
    return lines
