"""Learn to rate, categorise and explain. Run: ``python -m policyguard.train RECIPE``.

LlavaGuard's training (section 4) as a stage of its own: supervised fine-tuning on answers that the
dialect's own parser reads, in the dialect's own layout, with policy exceptions among them. It makes a guard
for the policies it saw; SafeGuard-VL found that it tends to overfit to them (Table 3), which ``grpo`` is
there for. LlavaGuard measured LoRA far behind full fine-tuning on policy exceptions, so these recipes train
fully where memory allows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from policyguard.dialects import Dialect
from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.train.answers import conversation, dialect_of, served_dialect, write_answer
from policyguard.train.assess_data import AssessItem, augment
from policyguard.train.data import LabelRow
from policyguard.train.recipe import AssessRecipe, Data
from policyguard.train.rows import Located, Rows, gather
from policyguard.train.sft import fine_tune

__all__ = ["assess_example", "read_labels", "run"]

_TAG = re.compile("</?think>")


def read_labels(recipe: AssessRecipe) -> Rows[LabelRow]:
    """The recipe's rows; those that the dialect cannot put, or that name no broken rule, are skipped by name.

    Raises ConfigurationError; also if only one label is left.
    """
    dialect = dialect_of(recipe)
    unrendered: dict[str, str | None] = {}

    def inspect(item: Located[LabelRow]) -> str | None:
        assert item.policy is not None
        if item.row.label == "unsafe" and not item.row.violated:
            return "an unsafe row needs a category or violations: the answer must name the broken rule"
        if recipe.answer == "thinking-first" and _TAG.search(item.row.rationale or ""):
            return "its rationale, which becomes a thought, holds <think> or </think>"
        if item.policy.fingerprint not in unrendered:
            unrendered[item.policy.fingerprint] = _render_problem(dialect, item)
        return unrendered[item.policy.fingerprint]

    rows = gather(recipe.data, LabelRow, seed=recipe.seed, inspect=inspect)
    require_both_labels(recipe.data, rows)
    return rows


def require_both_labels(data: Data, rows: Rows[LabelRow]) -> None:
    """Raises ConfigurationError if the rows to train on have one label only, unless that is meant."""
    labels = {item.row.label for item in rows.train}
    if len(labels) == 1 and not data.one_label:
        (label,) = labels
        raise ConfigurationError(
            f"all {len(rows.train)} training rows are {label}: there is nothing to tell apart",
            hint="add rows of the other label, such as edited twins of the unsafe images; "
            "or set data.one_label: true, if it is meant",
        )


def assess_example(item: AssessItem, dialect: Dialect) -> dict[str, Any]:
    """One example as TRL takes it."""
    text = write_answer(dialect, item.policy, item.answer)
    return {
        "image": str(item.path),
        "prompt": conversation(dialect, item.policy),
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
    }


def run(recipe: AssessRecipe) -> Path:
    """Train, and give the folder of the finished model.

    A run that was stopped goes on from its last checkpoint.
    """
    dialect = dialect_of(recipe)
    rows = read_labels(recipe)
    train = augment(rows.train, recipe.augment, seed=recipe.seed)
    plain = recipe.augment.model_copy(update={"exceptions": 0.0, "irrelevant": 0.0, "balance": False})
    validation = augment(rows.validation, plain, seed=recipe.seed)
    counts: dict[str, Any] = {"rows": len(rows.train), "examples": len(train), "skipped": len(rows.problems)}
    counts |= {
        f"examples rated {rating}": sum(item.answer.rating == rating for item in train)
        for rating in ("safe", "unsafe")
    }
    counts |= {
        f"examples {kind}": sum(item.kind == kind for item in train)
        for kind in ("given", "exception", "irrelevant")
    }
    return fine_tune(
        recipe,
        train=[assess_example(item, dialect) for item in train],
        validation=[assess_example(item, dialect) for item in validation],
        files=rows.files,
        counts=counts,
        held_out=rows.validation,
        dialect=served_dialect(recipe.dialect, recipe.answer),
    )


def _render_problem(dialect: Dialect, item: Located[LabelRow]) -> str | None:
    assert item.policy is not None
    try:
        conversation(dialect, item.policy)
    except PolicyGuardError as error:
        return (
            f"policy '{item.policy.id}' cannot be rendered in the dialect '{dialect.name}': {error.message}"
        )
    return None
