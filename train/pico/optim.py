"""Muon for the matrices, AdamW for the rest; flat, then linear decay to almost nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP_STEPS = 25
FLAT_SHARE = 0.5
CLIP = 1.0


class Optimisers:
    """The two optimisers as one. ``step(progress)`` takes progress in [0, 1], a share of steps or of time."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], *, rate: float, weight_decay: float = 0.02
    ) -> None:
        trained = [(name, p) for name, p in named if p.requires_grad]
        matrices = [p for name, p in trained if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in trained if p.ndim != 2 or "embed" in name]
        self.rate = rate
        self.parameters = matrices + rest
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay),
            torch.optim.Muon(
                matrices, lr=rate, momentum=0.95, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
        ]
        self.steps = 0

    def step(self, loss: Tensor, progress: float) -> None:
        loss.backward()
        self.steps += 1
        warm = min(1.0, self.steps / WARM_UP_STEPS)
        decay = 1.0 if progress < FLAT_SHARE else max(0.03, (1 - progress) / (1 - FLAT_SHARE))
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        for optimiser in self.all:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * warm * decay
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "all": [optimiser.state_dict() for optimiser in self.all]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for optimiser, saved in zip(self.all, state["all"], strict=True):
            optimiser.load_state_dict(saved)
