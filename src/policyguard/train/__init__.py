"""Train your own guard: recaption, SFT, assess, GRPO; ``python -m policyguard.train RECIPE`` runs a stage.

Importing this package loads nothing; a stage loads torch and TRL when it starts (extra ``train``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.train.command import dry_run, start
    from policyguard.train.recipe import (
        AssessRecipe,
        Checks,
        GrpoRecipe,
        RecaptionRecipe,
        SftRecipe,
        load_recipe,
    )

__all__ = [
    "AssessRecipe",
    "Checks",
    "GrpoRecipe",
    "RecaptionRecipe",
    "SftRecipe",
    "dry_run",
    "load_recipe",
    "start",
]

_RECIPE = ("AssessRecipe", "Checks", "GrpoRecipe", "RecaptionRecipe", "SftRecipe", "load_recipe")
__getattr__ = lazily(
    __name__, {**dict.fromkeys(_RECIPE, ".recipe"), "dry_run": ".command", "start": ".command"}
)
