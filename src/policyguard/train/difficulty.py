"""Which prompts can still teach something: those that a sample of answers gets right at times and wrong at
times.

A group whose answers all earn the same has no advantage to learn from, and TRL does not skip it. The filter
works on halves (``grpo_data``): it keeps those in which at least one prompt is unsettled, so both labels
stay balanced under each policy text; and a few of the easy ones, against forgetting.

Measuring takes hours for many prompts, so ranks share it out. Each writes what it has measured as it goes;
a run that is started again goes on there, on any number of ranks. They wait for each other by looking at
these files, because a barrier would time out.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from policyguard.strict.files import write_lines
from policyguard.strict.jsontext import parse_json
from policyguard.train.grpo_data import Half, Prompt, Units
from policyguard.train.recipe import Difficulty

__all__ = ["Measured", "filter_units", "measure_units"]

LOG = "difficulty.jsonl"
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Share of right answers, in [0, 1], to the first and to the second prompt of one half."""

    first: float
    second: float

    @property
    def teaches(self) -> bool:
        return 0.0 < self.first < 1.0 or 0.0 < self.second < 1.0

    @property
    def easy(self) -> bool:
        return self.first == self.second == 1.0


def measure_units(
    units: Units,
    *,
    shares: Callable[[Sequence[Prompt]], Sequence[float]],
    folder: Path,
    run: str,
    batch: int = 1,
    rank: int = 0,
    world: int = 1,
) -> list[Measured]:
    """What each half of ``units`` measures, the same on all ranks.

    ``shares`` gives the share of right answers to each of ``batch`` prompts or fewer. ``run`` names the model
    and how it is sampled: what another run has measured in ``folder`` does not count.
    """
    keys = {_key(prompt, run): prompt for prompt in units.prompts}
    own = list(keys)[rank::world]
    known = _read(folder)
    for start in range(0, len(own), batch):
        names = own[start : start + batch]
        if all(name in known for name in names):
            continue
        values = shares([keys[name] for name in names])
        lines = [
            json.dumps({"prompt": name, "right": share}) for name, share in zip(names, values, strict=True)
        ]
        _append(folder / f"difficulty-{rank}.jsonl", lines)
    while not keys.keys() <= (known := _read(folder)).keys():
        time.sleep(_POLL_SECONDS)
    measured = [Measured(*(known[_key(prompt, run)] for prompt in half.prompts)) for half in units.halves]
    if rank == 0:
        write_lines(
            folder / LOG,
            (
                json.dumps({"policy": half.first.policy_key, "first": both.first, "second": both.second})
                for half, both in zip(units.halves, measured, strict=True)
            ),
        )
    return measured


def filter_units(units: Units, settings: Difficulty, measured: Sequence[Measured], *, seed: int) -> Units:
    """``units`` without the halves that teach nothing.

    If nothing would be left, all is kept: the run then shows on its first steps that nothing is learnt.
    """
    teaching = [half for half, both in zip(units.halves, measured, strict=True) if both.teaches]
    easy = [half for half, both in zip(units.halves, measured, strict=True) if both.easy]
    random_ = random.Random(f"difficulty/{seed}")
    anchors = random_.sample(easy, min(len(easy), int(len(teaching) * settings.keep_at_most_easy)))
    kept = {id(half) for half in (*teaching, *anchors)}
    halves: Sequence[Half] = [half for half in units.halves if id(half) in kept]
    return Units(tuple(halves), units.dropped) if halves else units


def _key(prompt: Prompt, run: str) -> str:
    text = f"{run} {prompt.path.name} {prompt.policy_key} {prompt.label} {prompt.categories}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _append(path: Path, lines: Sequence[str]) -> None:
    """Add lines, on the disk on return. What a kill left of an unfinished line goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path) -> dict[str, float]:
    """What all ranks have measured so far."""
    known: dict[str, float] = {}
    for path in sorted(folder.glob("difficulty-*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            with suppress(ValueError, KeyError, TypeError):
                entry = parse_json(line)
                known[str(entry["prompt"])] = float(entry["right"])
    return known
