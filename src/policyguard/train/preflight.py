"""What can be checked before the first expensive step, reported all at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policyguard.backends.remote.endpoint import Endpoint
from policyguard.errors import PolicyGuardError
from policyguard.train.answers import conversation, dialect_of, served_dialect
from policyguard.train.assess import assess_example, read_labels
from policyguard.train.assess_data import augment
from policyguard.train.estimate import available_disk, available_memory, estimate, measure, total_memory
from policyguard.train.evaluate import few
from policyguard.train.grpo import format_example, read_prompts
from policyguard.train.models import model_folder, processor_of
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, RewardSettings, SftRecipe
from policyguard.train.rows import Rows, check_images, listing, open_frame
from policyguard.train.sft import caption_example, read_captions
from policyguard.train.verdicts import why_not

__all__ = ["Preflight", "check_batches", "inspect_recipe", "reward_problem"]

_LISTED = 30


@dataclass(slots=True)
class Preflight:
    """``problems`` stop a run; ``notes`` do not; each is one line. ``data``: digests of the training data.
    ``examples``: how many an epoch has.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    examples: int = 0


def inspect_recipe(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> Preflight:
    """Look at rows, images, policies, model, batch sizes and memory; nothing is trained, no weights are
    read.
    """
    result = Preflight()
    rows = _rows(recipe, result)
    if rows is not None:
        result.data |= {"rows": rows.digest} | {f"file {name}": digest for name, digest in rows.files.items()}
        items: list[Any] = [*rows.train, *rows.validation]
        if problems := check_images(items):
            result.problems.append(listing(problems, limit=_LISTED))
        result.notes += [f"{len(rows.train)} rows to train on, {len(rows.validation)} held out"]
        if rows.problems:
            result.notes += [
                f"skipped: {line}" for line in listing(rows.problems, limit=_LISTED).splitlines()
            ]
        if not rows.validation:
            result.notes.append(
                "nothing is held out, so nothing is evaluated on the way: set `data.held_out`"
            )
        _note_incomplete(recipe, rows, result)
    if isinstance(recipe, GrpoRecipe):
        check_batches(recipe, result)
    if rows is not None:
        _measuring(recipe, rows, result)
    _libraries(recipe, result)
    _model(recipe, rows, result)
    return result


def check_batches(recipe: GrpoRecipe, result: Preflight) -> None:
    """Whether batches hold whole groups, and both labels."""
    completions = recipe.optim.batch * recipe.optim.accumulate * recipe.run.devices
    group = recipe.rollout.group
    if completions % group:
        result.problems.append(
            f"optim.batch x optim.accumulate x run.devices = {completions} completions per update, which "
            f"rollout.group = {group} does not divide: change one of them"
        )
    elif completions // group % 2:
        result.problems.append(
            f"{completions} completions in groups of {group} are {completions // group} prompts per update: "
            "an even number is needed, so that each update holds both labels under each policy"
        )
    if recipe.saves_every % recipe.grpo.iterations:
        key = "run.save_every" if recipe.stop.on == "none" else "run.eval_every"
        result.problems.append(
            f"{key} = {recipe.saves_every} is no multiple of grpo.iterations = "
            f"{recipe.grpo.iterations}: a run that goes on between two updates on the same answers has to "
            "sample others, and ends elsewhere"
        )
    reward = recipe.reward
    if problem := reward_problem(reward):
        result.problems.append(problem)
    if reward.safe_weight != reward.unsafe_weight and recipe.grpo.scale_rewards == "group":
        result.problems.append(
            "class weights do nothing with grpo.scale_rewards: group, because a group holds one label; "
            "set it to batch or none"
        )
    if recipe.rollout.by == "vllm-server" and not recipe.rollout.server:
        result.problems.append("rollout.by: vllm-server needs rollout.server, the server's address")
    if recipe.rollout.server:
        try:
            Endpoint.parse(recipe.rollout.server)
        except PolicyGuardError as error:
            result.problems.append(f"rollout.server: {error.message.removeprefix('base_url ')}")


def reward_problem(reward: RewardSettings) -> str | None:
    """Why these rewards would teach wrong or unreadable answers, or ``None``."""
    least = reward.right * min(reward.safe_weight, reward.unsafe_weight)
    if reward.unreadable <= reward.wrong < least:
        return None
    return (
        f"reward: right ({least:g} with its weight) must be over wrong ({reward.wrong:g}), and that no "
        f"less than unreadable ({reward.unreadable:g}): otherwise the worse answer pays more"
    )


def _libraries(recipe: SftRecipe | AssessRecipe | GrpoRecipe, result: Preflight) -> None:
    """What the recipe needs to be installed apart from the extra."""
    if isinstance(recipe, GrpoRecipe) and recipe.rollout.by != "transformers" and find_spec("vllm") is None:
        result.problems.append(f"rollout.by: {recipe.rollout.by} needs vllm, which is not installed")
    name = recipe.run.report_to
    if name not in ("none", "all"):
        with suppress(ImportError):  # without transformers, which is reported where the model is read
            from transformers.integrations import get_available_reporting_integrations

            if name not in (known := get_available_reporting_integrations()):
                here = ", ".join(["none", *known])
                result.problems.append(
                    f"run.report_to: {name} is unknown or not installed; available: {here}"
                )


def _rows(recipe: SftRecipe | AssessRecipe | GrpoRecipe, result: Preflight) -> Rows[Any] | None:
    try:
        if isinstance(recipe, SftRecipe):
            captions = read_captions(recipe)
            result.examples = len(captions.train)
            return captions
        if isinstance(recipe, AssessRecipe):
            labels = read_labels(recipe)
            result.examples = len(augment(labels.train, recipe.augment, seed=recipe.seed))
            return labels
        rows, units = read_prompts(recipe)
    except PolicyGuardError as error:
        result.problems.append(str(error))
        return None
    prompts = units.prompts
    if recipe.format_warmup.updates:
        try:
            format_example(prompts[0], dialect_of(recipe))
        except PolicyGuardError as error:
            result.problems.append(f"format_warmup: {error.message}")
    result.data["prompts"], result.examples = units.digest, len(prompts)
    texts = len({prompt.policy.fingerprint for prompt in prompts})
    unsafe = sum(prompt.label == "unsafe" for prompt in prompts)
    result.notes.append(f"{len(prompts)} prompts, {unsafe} of them unsafe, under {texts} policy texts")
    if units.dropped:
        result.notes.append(f"{units.dropped} rows are left out: their policies have rows of one label only")
    return rows


def _measuring(recipe: SftRecipe | AssessRecipe | GrpoRecipe, rows: Rows[Any], result: Preflight) -> None:
    """What is measured while the run goes on, what ends it, and how its model is spoken to."""
    stop, held_out = recipe.stop, rows.validation
    reason = "stage sft makes no verdicts"
    if not isinstance(recipe, SftRecipe):
        reason = why_not(recipe) or ("" if held_out else "there are none")
        spoken = served_dialect(recipe.dialect, recipe.answer)
        result.notes.append(f"answer: {recipe.answer}; the model is served in the dialect {spoken}")
        if reason:
            result.notes.append(f"no held-out rows are judged during training: {reason}")
        else:
            judged = len(few(held_out, recipe.measure.rows))
            result.notes.append(
                f"{judged} of {len(held_out)} held-out rows are judged every {recipe.run.eval_every} updates "
                "(measure.rows, run.eval_every)"
            )
    if stop.on == "none":
        return
    if not held_out:
        result.problems.append(f"stop.on: {stop.on} needs held-out rows: set data.held_out, or rows' `split`")
    elif stop.on == "loss" and isinstance(recipe, GrpoRecipe):
        result.problems.append("stop.on: loss says nothing in grpo: name a figure, such as balanced_accuracy")
    elif stop.on != "loss" and reason:
        result.problems.append(f"stop.on: {stop.on} is not measured: {reason}")
    elif stop.on != "loss" and len({item.row.label for item in held_out}) < 2:
        result.problems.append(f"stop.on: {stop.on} needs held-out rows of both labels")
    else:
        result.notes.append(
            f"the run ends when {stop.on} has not got better in {stop.patience} evaluations, and keeps "
            "the weights at which it was best"
        )


def _note_incomplete(
    recipe: SftRecipe | AssessRecipe | GrpoRecipe, rows: Rows[Any], result: Preflight
) -> None:
    if isinstance(recipe, SftRecipe):
        return
    incomplete = sum(not item.row.knows_all for item in rows.train)
    share, change = (
        (recipe.augment.exceptions, "exceptions (augment.exceptions)")
        if isinstance(recipe, AssessRecipe)
        else (recipe.variants.swap, "swaps (variants.swap)")
    )
    if incomplete and share:
        result.notes.append(
            f"{incomplete} unsafe rows do not say that they list all broken rules (complete: true), and are "
            f"left out of {change}"
        )


def _model(recipe: SftRecipe | AssessRecipe | GrpoRecipe, rows: Rows[Any] | None, result: Preflight) -> None:
    try:
        folder = model_folder(recipe.model)
        processor = processor_of(folder, max_pixels=recipe.run.max_pixels)
        sizes = measure(folder)
    except PolicyGuardError as error:
        result.problems.append(str(error))
        return
    except Exception as error:  # what transformers raises for files that are not a model
        result.problems.append(f"model '{recipe.model}' cannot be read: {type(error).__name__}: {error}")
        return
    if rows is None or result.problems:
        return
    needed = estimate(
        recipe,
        sizes,
        examples=result.examples,
        tokens=_tokens(recipe, rows, processor),
        device_memory=total_memory(recipe),
    )
    result.notes.append(f"estimate: {needed}")
    free = available_memory(recipe)
    if needed.memory > free:
        result.problems.append(
            f"too little memory: about {needed.memory / 2**30:.1f} GiB are needed per device and "
            f"{free / 2**30:.1f} GiB are free; lower optim.batch or run.max_pixels, set tune.mode: lora, "
            "or run on more devices with a configuration from train/accelerate/"
        )
    room = available_disk(Path(recipe.out).expanduser())
    if needed.disk > room:
        result.problems.append(
            f"out: too little disk: the model and {recipe.run.keep} checkpoints need about "
            f"{needed.disk / 2**30:.1f} GiB and {room / 2**30:.1f} GiB are free in {recipe.out}; name a "
            "folder on another disk, lower run.keep, or set tune.mode: lora"
        )


def _tokens(recipe: SftRecipe | AssessRecipe | GrpoRecipe, rows: Rows[Any], processor: Any) -> int:
    """Tokens of the longest of a few rows, image and answer included."""
    longest = 0
    for item in rows.train[:: max(1, len(rows.train) // 8)][:8]:
        inputs = processor(
            text=[processor.apply_chat_template(_turns(recipe, item), tokenize=False)],
            images=[[open_frame(Path(item.path))]],
            return_tensors="pt",
        )
        longest = max(longest, int(inputs["input_ids"].shape[1]))
    return longest + (recipe.rollout.max_tokens if isinstance(recipe, GrpoRecipe) else 0)


def _turns(recipe: SftRecipe | AssessRecipe | GrpoRecipe, item: Any) -> list[Any]:
    """The conversation that a row becomes; for grpo without an answer."""
    if isinstance(recipe, SftRecipe):
        example = caption_example(item)
    elif isinstance(recipe, AssessRecipe):
        plain = recipe.augment.model_copy(update={"exceptions": 0.0, "irrelevant": 0.0, "balance": False})
        (answered,) = augment([item], plain, seed=recipe.seed)
        example = assess_example(answered, dialect_of(recipe))
    else:
        return conversation(dialect_of(recipe), item.policy)
    return [*example["prompt"], *example["completion"]]
