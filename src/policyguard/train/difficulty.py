"""Which prompts can still teach something: those that a sample of answers gets right at times and wrong at
times.

A group whose answers all earn the same has no advantage to learn from, and TRL does not skip it. The filter
works on halves (``grpo_data``): it keeps those in which at least one prompt is unsettled, so both labels
stay balanced under each policy text; and a few of the easy ones, against forgetting.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from policyguard.strict.files import write_lines
from policyguard.strict.jsontext import parse_json
from policyguard.train.grpo_data import Half, Prompt, Units
from policyguard.train.recipe import Difficulty

__all__ = ["Measured", "filter_units"]


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


def filter_units(
    units: Units,
    settings: Difficulty,
    *,
    share_right: Callable[[Prompt], float],
    log: Path,
    seed: int,
) -> tuple[Units, list[Measured]]:
    """``units`` without the halves that teach nothing, and what was measured. ``log`` keeps it for a
    resumed run.

    If nothing would be left, all is kept: the run then shows on its first steps that nothing is learnt.
    """
    measured = _read(log, units)
    if measured is None:
        measured = [Measured(share_right(half.first), share_right(half.second)) for half in units.halves]
        write_lines(
            log,
            (
                json.dumps(
                    {
                        "policy": half.first.policy.fingerprint,
                        "first": measure.first,
                        "second": measure.second,
                    }
                )
                for half, measure in zip(units.halves, measured, strict=True)
            ),
        )
    teaching = [half for half, measure in zip(units.halves, measured, strict=True) if measure.teaches]
    easy = [half for half, measure in zip(units.halves, measured, strict=True) if measure.easy]
    random_ = random.Random(f"difficulty/{seed}")
    anchors = random_.sample(easy, min(len(easy), int(len(teaching) * settings.keep_at_most_easy)))
    kept = {id(half) for half in (*teaching, *anchors)}
    halves: Sequence[Half] = [half for half in units.halves if id(half) in kept]
    return (Units(tuple(halves), units.dropped) if halves else units), measured


def _read(log: Path, units: Units) -> list[Measured] | None:
    """What an earlier start of this run measured, if it is about the same prompts."""
    try:
        lines = [parse_json(line) for line in log.read_text(encoding="utf-8").splitlines()]
        measured = [Measured(line["first"], line["second"]) for line in lines]
        fingerprints = [line["policy"] for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return measured if fingerprints == [half.first.policy.fingerprint for half in units.halves] else None
