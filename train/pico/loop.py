"""The training loop that every stage shares: a budget, a schedule, a log, and checkpoints to resume from.

A step's data depend on the seed and the step's number alone, so a resumed run sees what it would have seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optim import Optimisers

LOG_SECONDS, SAVE_SECONDS = 30.0, 120.0
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Budget:
    """A stage ends after ``minutes`` of its own time or after ``steps``; only steps repeat exactly."""

    minutes: float | None = None
    steps: int | None = None

    def progress(self, step: int, seconds: float) -> float:
        if self.steps is not None:
            return step / self.steps if self.steps else 1.0
        if self.minutes is None:
            raise ValueError("a budget needs minutes or steps")
        return seconds / (60 * self.minutes)


def say(path: Path, **values: Any) -> None:
    """One JSON line to the console and to ``path``."""
    line = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
    print(line, flush=True)
    with path.open("a") as log:
        log.write(line + "\n")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one, never half of one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ``save``: tensors and numbers, no code."""
    state: dict[str, Any] = torch.load(path, weights_only=True)  # noqa: TID251 - our own file, tensors only
    return state


def train(
    stage: str,
    module: nn.Module,
    step: Callable[[int, float], tuple[Tensor, Losses]],
    *,
    out: Path,
    budget: Budget,
    rate: float,
    seed: int,
    check: Callable[[], dict[str, float]] = dict,
    save_seconds: float = SAVE_SECONDS,
) -> None:
    """Train ``module`` on ``step(number, progress) -> (objective, losses to log)`` until the budget is spent.

    Writes ``out/{stage}.jsonl``, ``out/{stage}.checkpoint`` while it runs and ``out/{stage}.pt`` when done.
    """
    done, checkpoint, log = out / f"{stage}.pt", out / f"{stage}.checkpoint", out / f"{stage}.jsonl"
    if done.exists():
        module.load_state_dict(load(done)["weights"])
        return
    optimisers = Optimisers(module.named_parameters(), rate=rate)
    number, spent = 0, 0.0
    if checkpoint.exists():
        state = load(checkpoint)
        module.load_state_dict(state["weights"])
        optimisers.load_state_dict(state["optimisers"])
        number, spent = state["step"], state["seconds"]
    start = time.monotonic() - spent
    logged = saved = time.monotonic()
    mean: dict[str, float] = {}
    while (progress := budget.progress(number, time.monotonic() - start)) < 1:
        torch.manual_seed(seed * 1_000_003 + number)
        objective, losses = step(number, progress)
        optimisers.step(objective, progress)
        number += 1
        for name, value in losses.items():
            mean[name] = 0.96 * mean.get(name, float(value.detach())) + 0.04 * float(value.detach())
        now = time.monotonic()
        if number in (1, 20) or now - logged > LOG_SECONDS:
            logged = now
            say(log, minutes=(now - start) / 60, step=number, progress=progress, **mean)
        if now - saved > save_seconds:
            saved = now
            save(
                checkpoint,
                {
                    "weights": module.state_dict(),
                    "optimisers": optimisers.state_dict(),
                    "step": number,
                    "seconds": now - start,
                },
            )
            if measured := check():
                say(log, minutes=(now - start) / 60, step=number, **measured)
    save(done, {"weights": module.state_dict(), "step": number, "seconds": time.monotonic() - start})
    say(log, done=True, steps=number, minutes=(time.monotonic() - start) / 60, **check())
    checkpoint.unlink(missing_ok=True)
