"""Training pico survives being stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from loop import Budget, train


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))


def _step(module: nn.Module, *, crash_at: int | None = None) -> Callable[[int, float], Any]:
    def step(number: int, progress: float) -> Any:
        if number == crash_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4)  # the loop seeds every step
        loss = ((module(x)[:, 0] - x.sum(-1)) ** 2).mean()
        return loss, {"loss": loss}

    return step


def _train(module: nn.Module, step: Callable[[int, float], Any], out: Path) -> None:
    train("stage", module, step, out=out, budget=Budget(steps=9), rate=1e-2, seed=3, save_seconds=0)


def test_a_stage_that_was_killed_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole, stopped, resumed = _module(), _module(), _module()
    (tmp_path / "whole").mkdir()
    _train(whole, _step(whole), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(stopped, _step(stopped, crash_at=5), tmp_path)
    _train(resumed, _step(resumed), tmp_path)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_stage_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    done, again = _module(), _module()
    _train(done, _step(done), tmp_path)
    _train(again, _step(again, crash_at=0), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(done.parameters(), again.parameters(), strict=True))


def test_the_log_is_json_lines_and_ends_with_the_number_of_steps(tmp_path: Path) -> None:
    module = _module()
    _train(module, _step(module), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "stage.jsonl").read_text().splitlines()]
    assert lines[-1]["steps"] == 9


def test_a_budget_needs_minutes_or_steps() -> None:
    assert Budget(steps=10).progress(5, 0.0) == 0.5
    assert Budget(minutes=2).progress(0, 60.0) == 0.5
    assert Budget(steps=0).progress(0, 0.0) == 1.0
    with pytest.raises(ValueError, match="minutes or steps"):
        Budget().progress(0, 0.0)
