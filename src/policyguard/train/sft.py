"""Stage 1: learn to describe what a policy may ask about. Run: ``python -m policyguard.train RECIPE``.

SafeGuard-VL's first stage (section 2.1): supervised fine-tuning on recaptions, with no policy and no
verdict in sight. That is enforced: a row that holds one is refused (``data.CaptionRow``). TRL's
``SFTTrainer`` does the training; the loss is on the caption only. On several devices: ``accelerate launch
-m policyguard.train RECIPE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policyguard.train.card import write_card
from policyguard.train.data import CaptionRow, LabelRow
from policyguard.train.models import (
    WORK,
    finish,
    load_weights,
    lora,
    model_folder,
    processor_of,
    restore,
    select_trained,
    weights_of_ranks,
)
from policyguard.train.recipe import AssessRecipe, SftRecipe
from policyguard.train.rows import Located, Rows, gather, image_dataset
from policyguard.train.trainer import (
    check_sharding,
    checkpoint_marker,
    common_arguments,
    expected_noise,
    latest_checkpoint,
    require_trl,
    train_to_the_end,
)
from policyguard.train.verdicts import (
    best_of,
    measuring_callback,
    notes_on,
    reader_of,
    step_of,
    verdicts_at,
)

__all__ = ["caption_example", "fine_tune", "read_captions", "run"]


def read_captions(recipe: SftRecipe) -> Rows[CaptionRow]:
    """The recipe's rows. Raises ConfigurationError; see ``rows.gather``."""
    return gather(recipe.data, CaptionRow, seed=recipe.seed, inspect=lambda item: None)


def caption_example(item: Located[CaptionRow]) -> dict[str, Any]:
    """One row as TRL takes it: the image, then the request, then the caption."""
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": item.row.prompt}]}]
    completion = [{"role": "assistant", "content": [{"type": "text", "text": item.row.caption}]}]
    return {"image": str(item.path), "prompt": prompt, "completion": completion}


def run(recipe: SftRecipe) -> Path:
    """Train, and give the folder of the finished model.

    A run that was stopped goes on from its last checkpoint.
    """
    rows = read_captions(recipe)
    return fine_tune(
        recipe,
        train=[caption_example(item) for item in rows.train],
        validation=[caption_example(item) for item in rows.validation],
        files=rows.files,
        counts={
            "rows": len(rows.train),
            "held-out rows": len(rows.validation),
            "skipped": len(rows.problems),
        },
        dialect=None,
    )


def fine_tune(
    recipe: SftRecipe | AssessRecipe,
    *,
    train: list[dict[str, Any]],
    validation: list[dict[str, Any]],
    files: dict[str, str],
    counts: dict[str, Any],
    dialect: str | None,
    held_out: Sequence[Located[LabelRow]] = (),
) -> Path:
    """SFT on prompt/completion examples; stages sft and assess differ in nothing else.

    ``held_out``: rows to judge at each evaluation.
    """
    trl = require_trl()
    from policyguard.backends.transformers.files import find, fingerprint

    out = Path(recipe.out).expanduser()
    base = model_folder(recipe.model)
    checkpoint = latest_checkpoint(out / WORK)
    with expected_noise():
        config = trl.SFTConfig(
            **common_arguments(recipe, evaluates=bool(validation)),
            per_device_eval_batch_size=recipe.optim.batch,
            eval_on_start=bool(validation) and checkpoint is None,  # the figure to compare with
            max_length=None,  # cutting a sequence would cut image tokens
            completion_only_loss=True,
        )
        _ = config.device  # this rank's, before anything is loaded
        model = load_weights(base, recipe.tune, precision=recipe.run.precision)
        adapter = lora(model, recipe.tune)
        counts = counts | {
            "trained weights": select_trained(model, recipe.tune) if adapter is None else "LoRA"
        }
        log = out / WORK / "watch.jsonl"
        measuring = measuring_callback(reader_of(recipe, held_out, base), recipe.stop, log)
        trainer = trl.SFTTrainer(
            model=model,
            args=config,
            train_dataset=image_dataset(train),
            eval_dataset=image_dataset(validation) if validation else None,
            processing_class=processor_of(base, max_pixels=recipe.run.max_pixels),
            peft_config=adapter,
            callbacks=[measuring, checkpoint_marker(recipe.run.keep)],
        )
        measuring.trainer = trainer
        check_sharding(trainer, recipe.run.sharding)
        train_to_the_end(trainer, checkpoint, recipe)
        if (best := best_of(trainer, recipe.stop)) is not None:
            restore(trainer, best, recipe.tune)
        elif validation and not _evaluated_at_the_end(trainer.state):
            trainer.evaluate()
        history = [  # TRL counts tokens from each start of a run anew
            {name: value for name, value in entry.items() if not name.endswith("num_tokens")}
            for entry in trainer.state.log_history
        ]
        if before := [entry["eval_loss"] for entry in history if "eval_loss" in entry and not entry["step"]]:
            counts |= {"held-out loss before training": before[0]}
        ranks = weights_of_ranks(trainer)

        def card() -> None:
            write_card(
                out,
                recipe=recipe,
                base_revision=fingerprint(find(str(base))),
                files=files,
                counts=counts,
                history=history,
                verdicts=verdicts_at(log, step_of(trainer, best)),
                notes=notes_on(measuring, best, recipe.stop),
                ranks=ranks,
            )

        finish(trainer, base, out, precision=recipe.run.precision, dialect=dialect, card=card)
    return out


def _evaluated_at_the_end(state: Any) -> bool:
    return any("eval_loss" in entry and entry["step"] == state.global_step for entry in state.log_history)
