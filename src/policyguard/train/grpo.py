"""Stage 2: right verdicts under many policies. Run: ``python -m policyguard.train RECIPE``.

SafeGuard-VL's second stage (section 2.2): GRPO with a verifiable reward, on prompts whose label depends on
the policy in them (``grpo_data``). TRL's ``GRPOTrainer`` does the training. What differs from a plain run
of it: the reward is gated by the runtime's own parser (``reward``); batches hold both labels under each
policy text; prompts that teach nothing can be dropped beforehand (``difficulty``); a run that collapses to
one answer is stopped (``watch``); image tokens are banned from answers; the model is handed over by path,
so the KL reference is what the run starts from. On several devices: ``accelerate launch -m policyguard.train
RECIPE``, see ``train/accelerate/``.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from policyguard.assessment import Rating
from policyguard.dialects import Answer, Dialect, render_one
from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.policy import ResolvedPolicy, Status
from policyguard.train.answers import conversation, dialect_of, served_dialect, write_answer
from policyguard.train.assess import require_both_labels
from policyguard.train.assess_data import decision_sentence
from policyguard.train.card import write_card
from policyguard.train.data import LabelRow
from policyguard.train.difficulty import filter_units, measure_units
from policyguard.train.evaluate import few
from policyguard.train.grpo_data import Prompt, Units, build_units
from policyguard.train.models import (
    WORK,
    empty_model,
    finish,
    is_complete,
    load_weights,
    loading_options,
    lora,
    model_folder,
    processor_of,
    restore,
    select_trained,
    share_reference,
    weights_of_ranks,
)
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, Optim
from policyguard.train.reward import Expected, VerdictReward
from policyguard.train.rows import Located, Rows, gather, image_dataset, open_frame
from policyguard.train.sft import fine_tune
from policyguard.train.trainer import (
    check_sharding,
    checkpoint_marker,
    common_arguments,
    expected_noise,
    latest_checkpoint,
    require_trl,
    train_to_the_end,
)
from policyguard.train.variants import read_wordings
from policyguard.train.verdicts import (
    best_of,
    measuring_callback,
    notes_on,
    reader_of,
    step_of,
    verdicts_at,
)
from policyguard.train.watch import watch_callback

__all__ = ["banned_tokens", "grpo_example", "held_out_prompts", "read_prompts", "run"]

_VISION_TOKEN = re.compile(r"image|vision|video|img|picture", re.IGNORECASE)


def read_prompts(recipe: GrpoRecipe) -> tuple[Rows[LabelRow], Units]:
    """The recipe's rows and the units to train on. Raises ConfigurationError, also if there are none."""
    dialect = dialect_of(recipe)
    wordings = read_wordings(recipe.variants.wordings)
    known: dict[str, bool] = {}

    def fits(policy: ResolvedPolicy) -> bool:
        if policy.fingerprint not in known:
            try:
                known[policy.fingerprint] = bool(render_one(dialect, policy))
            except PolicyGuardError:
                known[policy.fingerprint] = False
        return known[policy.fingerprint]

    def inspect(item: Located[LabelRow]) -> str | None:
        assert item.policy is not None
        if fits(item.policy):
            return None
        return f"policy '{item.policy.id}' cannot be rendered in the dialect '{dialect.name}'"

    rows = gather(recipe.data, LabelRow, seed=recipe.seed, inspect=inspect)
    require_both_labels(recipe.data, rows)
    units = build_units(rows.train, recipe.variants, wordings=wordings, fits=fits, seed=recipe.seed)
    if not units:
        raise ConfigurationError(
            "no policy has both safe and unsafe rows, so the policy's text alone would tell the label",
            hint="label images under one policy both ways, give violations so that rules can be swapped, or "
            "keep such rows all the same with variants.lone: keep",
        )
    return rows, units


def grpo_example(prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
    """One prompt as TRL takes it; ``policy``, ``label`` and ``categories`` go to the reward."""
    return {
        "image": str(prompt.path),
        "prompt": conversation(dialect, prompt.policy),
        "policy": prompt.policy_key,
        "label": prompt.label,
        "categories": list(prompt.categories),
    }


def banned_tokens(processor: Any) -> list[int]:
    """Tokens that no answer may hold: one more image token than features, and the model fails."""
    banned = {
        number
        for number, token in processor.tokenizer.added_tokens_decoder.items()
        if token.special and _VISION_TOKEN.search(token.content)
    }
    return sorted(banned)


def run(recipe: GrpoRecipe) -> Path:
    """Train, and give the folder of the finished model. A run that was stopped goes on from its last
    checkpoint.

    Raises ConfigurationError if the watch has stopped the run; the checkpoints stay.
    """
    trl = require_trl()
    from policyguard.backends.transformers.files import find, fingerprint

    out = Path(recipe.out).expanduser()
    dialect = dialect_of(recipe)
    rows, units = read_prompts(recipe)
    base = warmed_up(recipe, units.prompts) if recipe.format_warmup.updates else model_folder(recipe.model)
    held_out = held_out_prompts(few(rows.validation, recipe.measure.rows))
    group = recipe.rollout.group
    checkpoint = latest_checkpoint(out / WORK)
    with expected_noise():
        processor = processor_of(base, max_pixels=recipe.run.max_pixels)
        banned = banned_tokens(processor)
        reward = _reward(recipe, dialect, processor, base, [*units.prompts, *held_out])
        if recipe.difficulty.filter:
            units = _filtered(recipe, units, base, processor, reward, banned)
        config = trl.GRPOConfig(
            **common_arguments(recipe, evaluates=bool(held_out)),
            **_rollout(recipe, banned),
            **_objective(recipe),
            per_device_eval_batch_size=math.ceil(recipe.optim.batch / group) * group,  # whole groups
            eval_on_start=bool(held_out) and checkpoint is None,
            shuffle_dataset=False,  # halves and units stay together
            model_init_kwargs=loading_options(recipe.tune, precision=recipe.run.precision),
        )
        watch = watch_callback(recipe.watch, out / WORK / "watch.jsonl", unread=lambda: tuple(reward.unread))
        measuring = measuring_callback(
            reader_of(recipe, rows.validation, base), recipe.stop, out / WORK / "watch.jsonl"
        )
        adapter = lora(empty_model(base), recipe.tune)
        trainer = trl.GRPOTrainer(
            model=str(base),  # a path: the KL reference is read from it again
            args=config,
            train_dataset=image_dataset([grpo_example(prompt, dialect) for prompt in units.prompts]),
            eval_dataset=image_dataset([grpo_example(prompt, dialect) for prompt in held_out])
            if held_out
            else None,
            processing_class=processor,
            reward_funcs=reward,
            peft_config=adapter,
            callbacks=[watch, measuring, checkpoint_marker(recipe.run.keep)],
        )
        measuring.trainer = trainer
        if adapter is None:
            select_trained(trainer.model, recipe.tune)
        check_sharding(trainer, recipe.run.sharding)
        share_reference(trainer, base, recipe.tune, precision=recipe.run.precision)
        train_to_the_end(trainer, checkpoint, recipe)
        if watch.stopped and recipe.watch.stop:
            raise _stopped(watch.stopped, reward, out / WORK / "watch.jsonl")
        if (best := best_of(trainer, recipe.stop)) is not None:
            restore(trainer, best, recipe.tune)
        else:
            measuring.measure()
        counts: dict[str, Any] = {
            "rows": len(rows.train),
            "prompts": len(units.prompts),
            "rows without a partner": units.dropped,
        }
        counts |= {
            f"halves {kind}": sum(half.kind == kind for half in units.halves)
            for kind in ("pair", "swap", "across", "plain", "lone")
        }
        ranks = weights_of_ranks(trainer)

        def card() -> None:
            write_card(
                out,
                recipe=recipe,
                base_revision=fingerprint(find(str(base))),
                files=rows.files,
                counts=counts,
                history=trainer.state.log_history,
                verdicts=verdicts_at(out / WORK / "watch.jsonl", step_of(trainer, best)),
                notes=[*([watch.stopped] if watch.stopped else []), *notes_on(measuring, best, recipe.stop)],
                ranks=ranks,
            )

        spoken = served_dialect(recipe.dialect, recipe.answer)
        finish(trainer, base, out, precision=recipe.run.precision, dialect=spoken, card=card)
    return out


def _stopped(why: str, reward: VerdictReward, log: Path) -> ConfigurationError:
    if "can be read" in why:
        answers = [f"{text!r}: {problem}" for text, problem in reward.unread]
        return ConfigurationError(
            "\n".join([f"the run was stopped {why}. The last of them:", *answers]),
            hint="set format_warmup.updates (40 to 200), or start from stage assess; for answers that are "
            "nearly right in form, reward.near; for long ones, rollout.max_tokens",
        )
    return ConfigurationError(
        f"the run was stopped {why}",
        hint="start from a model with balanced accuracy of 0.6 or more, lower optim.lr, raise grpo.beta or "
        f"rollout.temperature, or set difficulty.filter; the figures are in {log}",
    )


def warmed_up(recipe: GrpoRecipe, prompts: Sequence[Prompt]) -> Path:
    """The folder of the model after the format warm-up, which a later start does not repeat."""
    settings, run = recipe.format_warmup, recipe.run
    out = Path(recipe.out).expanduser() / WORK / "format"
    if is_complete(out):
        return out
    optim = Optim(
        lr=settings.lr, schedule="constant", batch=settings.batch, accumulate=1, max_steps=settings.updates
    )
    values = recipe.model_dump(include={"model", "seed", "data", "tune", "run", "dialect", "answer"})
    short = AssessRecipe.model_validate(values | {"stage": "assess", "out": str(out), "optim": optim})
    count = settings.updates * settings.batch * run.devices
    dialect = dialect_of(recipe)
    examples = [format_example(prompt, dialect) for prompt in prompts[: count + count % 2]]
    counts = {"examples": len(examples)}
    spoken = served_dialect(recipe.dialect, recipe.answer)
    return fine_tune(short, train=examples, validation=[], files={}, counts=counts, dialect=spoken)


def format_example(prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
    """A prompt with a right answer, in the form asked for. Raises ConfigurationError as ``write_answer``."""
    rating = Rating(prompt.label)
    category = next(iter(prompt.categories), None)
    if rating is Rating.UNSAFE and category is None:  # a rule must be named, and any one shows the form
        category = next(rule.id for rule in prompt.policy.rules if rule.status is not Status.EXEMPT)
    sentence = None if prompt.policy.world else decision_sentence(prompt.policy, rating, category)
    text = write_answer(dialect, prompt.policy, Answer(rating, category, sentence))
    return {
        "image": str(prompt.path),
        "prompt": conversation(dialect, prompt.policy),
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
    }


def held_out_prompts(items: Sequence[Located[LabelRow]]) -> list[Prompt]:
    """Held-out rows under the policies they were given with."""
    prompts = []
    for item in items:
        assert item.policy is not None
        categories = tuple(item.row.violated or ())
        prompts.append(Prompt(item.path, item.policy, item.row.label, categories))
    return prompts


def _reward(
    recipe: GrpoRecipe, dialect: Dialect, processor: Any, base: Path, prompts: Sequence[Prompt]
) -> VerdictReward:
    from transformers import GenerationConfig

    tokenizer = processor.tokenizer
    ends = {tokenizer.eos_token_id}
    if (base / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(base, local_files_only=True).eos_token_id
        ends |= set(configured if isinstance(configured, list) else [configured])
    policies = {prompt.policy_key: prompt.policy for prompt in prompts}
    control = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return VerdictReward(
        policies,
        dialect,
        recipe.reward,
        ends={end for end in ends if end is not None},
        control=control,
    )


def _rollout(recipe: GrpoRecipe, banned: Sequence[int]) -> dict[str, Any]:
    rollout = recipe.rollout
    options: dict[str, Any] = {
        "num_generations": rollout.group,
        "max_completion_length": rollout.max_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
    }
    if rollout.by == "transformers":
        return options | {"generation_kwargs": {"suppress_tokens": list(banned)}}
    options |= {"use_vllm": True, "vllm_tensor_parallel_size": rollout.tensor_parallel}
    options["generation_kwargs"] = {"logit_bias": dict.fromkeys(banned, -100.0)}
    if rollout.by == "vllm-colocate":
        memory = {"vllm_gpu_memory_utilization": rollout.gpu_share, "vllm_enable_sleep_mode": True}
        return options | {"vllm_mode": "colocate"} | memory
    return options | {"vllm_mode": "server", "vllm_server_base_url": rollout.server}


def _objective(recipe: GrpoRecipe) -> dict[str, Any]:
    grpo = recipe.grpo
    return {
        "beta": grpo.beta,
        "loss_type": grpo.loss,
        "epsilon": grpo.epsilon,
        "epsilon_high": grpo.epsilon_high,
        "scale_rewards": grpo.scale_rewards,
        "num_iterations": grpo.iterations,
        "entropy_coef": grpo.entropy,
    }


_ANSWERS_AT_ONCE = 64
"""Sampled together when difficulty is measured."""


def _filtered(
    recipe: GrpoRecipe, units: Units, base: Path, processor: Any, reward: VerdictReward, banned: Sequence[int]
) -> Units:
    """The units that can teach something to the model in ``base``; see ``difficulty``."""
    from accelerate import PartialState

    from policyguard.backends.transformers.files import find, fingerprint

    state = PartialState(cpu=recipe.run.device == "cpu")  # knows which device is this rank's
    model = load_weights(base, recipe.tune, precision=recipe.run.precision, whole_on=state.device).eval()
    sampling = recipe.model_dump_json(
        include={
            "dialect": True,
            "answer": True,
            "reward": True,
            "rollout": {"temperature", "top_p", "max_tokens"},
            "difficulty": {"samples"},
            "run": {"precision", "max_pixels"},
        }
    )
    measured = measure_units(
        units,
        shares=partial(_shares_right, model, processor, recipe, reward, list(banned)),
        folder=Path(recipe.out).expanduser() / WORK,
        run=f"{fingerprint(find(str(base)))} {sampling}",
        batch=max(1, _ANSWERS_AT_ONCE // recipe.difficulty.samples),
        rank=state.process_index,
        world=state.num_processes,
    )
    return filter_units(units, recipe.difficulty, measured, seed=recipe.seed)


def _shares_right(
    model: Any,
    processor: Any,
    recipe: GrpoRecipe,
    reward: VerdictReward,
    banned: list[int],
    prompts: Sequence[Prompt],
) -> list[float]:
    """The share of right answers to each prompt, of ``difficulty.samples`` sampled ones."""
    import torch

    dialect, times = dialect_of(recipe), recipe.difficulty.samples
    turns = [conversation(dialect, prompt.policy) for prompt in prompts]
    texts = [processor.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in turns]
    frames = [open_frame(prompt.path) for prompt in prompts]
    inputs = processor(
        text=[text for text in texts for _ in range(times)],
        images=[[frame] for frame in frames for _ in range(times)],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
    ).to(model.device)
    torch.manual_seed(zlib.crc32(f"{recipe.seed} {prompts[0].path.name} {prompts[0].policy_key}".encode()))
    with torch.inference_mode():
        answers = model.generate(
            **inputs,
            do_sample=True,
            temperature=recipe.rollout.temperature,
            top_p=recipe.rollout.top_p,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=recipe.rollout.max_tokens,
            suppress_tokens=banned,
            pad_token_id=processor.tokenizer.pad_token_id,
        )[:, inputs["input_ids"].shape[1] :]
    decoded = processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    right = [
        reward.score_ids(
            text,
            reward.until_end(ids),
            Expected(prompt.policy, Rating(prompt.label), prompt.categories),
        ).right
        for text, ids, prompt in zip(
            decoded, answers.tolist(), [prompt for prompt in prompts for _ in range(times)], strict=True
        )
    ]
    return [sum(right[place : place + times]) / times for place in range(0, len(right), times)]
