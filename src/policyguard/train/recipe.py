"""Recipes: one YAML file holds everything that one run depends on.

``load_recipe`` reports all mistakes at once, each with file, line, column, field and the key that was likely
meant. It reads YAML by the same safe rules as policies (``policyguard.strict.documents``). ``settings`` are
``key.path=value`` texts from the command line, which change single values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from policyguard.errors import ConfigurationError, PolicyError, Problem
from policyguard.strict.documents import parse, plain
from policyguard.strict.explain import Hints, explain, nearest

__all__ = [
    "AssessRecipe",
    "GrpoRecipe",
    "RecaptionRecipe",
    "Recipe",
    "SftRecipe",
    "find_recipes",
    "load_recipe",
]

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(_Part):
    """``rows``: JSONL files. ``held_out``: the share of images kept for evaluation, drawn by image hash,
    among rows that name no split. ``skip_bad``: the share of lines that may be bad; with more the run does
    not start. ``one_label``: whether all training rows may have one label. A guard learns nothing from such
    rows but that label; experiments want to see it.
    """

    rows: Annotated[list[Name], BeforeValidator(_listed), Field(min_length=1)]
    held_out: Share = 0.05
    skip_bad: Share = 0.0
    one_label: bool = False


class Tune(_Part):
    """What is trained. ``vision``: ``frozen`` keeps the vision tower as it is (and LoRA out of it)."""

    mode: Literal["lora", "full"] = "lora"
    vision: Literal["frozen", "trained"] = "frozen"
    rank: Positive = 64
    alpha: Positive = 128
    dropout: Share = 0.0


class Optim(_Part):
    """``batch``: rows (GRPO: completions) per device and step; ``accumulate``: steps per update."""

    lr: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: Positive | None = None
    batch: Positive = 1
    accumulate: Positive = 8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class Run(_Part):
    """``devices``: how many the run is meant for; estimates and batch checks use it. ``sharding``: how they
    share weights and optimiser, as the configuration for accelerate has it; with ``none`` each has them all.
    ``max_pixels``: larger images are scaled down; give the guard the same bound. ``save_every``,
    ``eval_every``, ``log_every``: in updates. ``keep``: how many checkpoints stay. ``report_to``: as in
    transformers.
    """

    devices: Positive = 1
    sharding: Literal["none", "zero2", "zero3", "fsdp2"] = "none"
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    max_pixels: Positive | None = None
    save_every: Positive = 100
    keep: Annotated[int, Field(ge=2)] = 2
    eval_every: Positive = 100
    log_every: Positive = 10
    loader_workers: Annotated[int, Field(ge=0)] = 2
    report_to: Name = "none"


class Stop(_Part):
    """End a run when a figure of the held-out rows has not got better by more than ``min_gain`` in
    ``patience`` evaluations, and keep the weights at which it was best. ``loss`` is for sft and assess, the
    others, see ``evaluate``, for assess and grpo.
    """

    on: Literal[
        "none",
        "loss",
        "accuracy",
        "balanced_accuracy",
        "f1",
        "recall",
        "specificity",
        "auc",
        "edit_pairs",
        "policy_pairs",
    ] = "none"
    patience: Positive = 3
    min_gain: Annotated[float, Field(ge=0)] = 0.0


class Measure(_Part):
    """``rows``: at most so many held-out rows are judged at each evaluation; 0 for none."""

    rows: Annotated[int, Field(ge=0)] = 200


class _Stage(_Part):
    model: Name
    out: Name
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data
    tune: Tune = Tune()
    optim: Optim
    run: Run = Run()
    stop: Stop = Stop()

    @property
    def saves_every(self) -> int:
        """Updates between checkpoints. With early stopping each evaluation has one: it may be best."""
        return self.run.save_every if self.stop.on == "none" else self.run.eval_every


class SftRecipe(_Stage):
    """Stage 1: learn to describe. Reads ``CaptionRow``s and nothing else."""

    stage: Literal["sft"]


class Augment(_Part):
    """Label-preserving and label-flipping changes of the rows they can apply to.

    ``exceptions``: the share of unsafe rows repeated with their rules declared exempt, and so safe.
    ``irrelevant``: how often rows (``irrelevant_of``) are repeated with up to ``exempt_up_to`` other rules
    declared exempt; a fraction is a share of them. ``decision_sentences``: end each rationale with the
    sentence that says what decides. ``balance``: repeat rows of the rarer label.
    """

    decision_sentences: bool = True
    exceptions: Share = 0.5
    irrelevant: Annotated[float, Field(ge=0, le=10)] = 0.5
    irrelevant_of: Literal["all", "unsafe"] = "all"
    exempt_up_to: Annotated[int, Field(ge=1, le=25)] = 3
    balance: bool = True


class AssessRecipe(_Stage):
    """SFT on rating, category and rationale, in the dialect's own layout. ``answer``: whether the model rates
    at once, or thinks first; a guard gives a thinking model the time.
    """

    stage: Literal["assess"]
    dialect: Name = "safeguard"
    answer: Literal["rating-first", "thinking-first"] = "rating-first"
    augment: Augment = Augment()
    measure: Measure = Measure()


class RewardSettings(_Part):
    """See ``reward``. ``bare_words``: whether a bare verdict counts in a dialect that also reads it, though
    the guard asks for more. ``safe_weight`` and ``unsafe_weight`` multiply the reward of a right verdict;
    they only count when rewards are not scaled within a group, because a group holds one label.
    ``min_thought``: different words. ``near``: what an answer earns that only a code fence or line breaks in
    its JSON make unreadable, as a share of the way from ``unreadable`` to ``wrong``; it fades to nothing by
    update ``near_until``, and exported rewards do not have it.
    """

    right: float = 1.0
    wrong: float = 0.0
    unreadable: float = -0.5
    bare_words: bool = False
    safe_weight: Annotated[float, Field(gt=0)] = 1.0
    unsafe_weight: Annotated[float, Field(gt=0)] = 1.0
    category_bonus: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    rationale_bonus: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    min_thought: Annotated[int, Field(ge=1)] = 8
    near: Share = 0.0
    near_until: Positive = 100


class Variants(_Part):
    """Shares of the units that get each change of their policy; see ``grpo_data``. ``lone``: what to do
    with rows of a policy under which all rows have one label: leave them out, or keep them although their
    text tells it.
    """

    swap: Share = 0.5
    exempt: Share = 0.3
    subset: Share = 0.3
    rename: Share = 0.5
    reorder: Share = 0.5
    reword: Share = 0.3
    lone: Literal["drop", "keep"] = "drop"
    wordings: Name | None = None
    units: Positive | None = None


class Rollout(_Part):
    """``by``: transformers' own generation; vLLM beside the trainer (``colocate``) or on its own server.

    ``max_tokens``: longest answer. ``gpu_share``: of the memory, for vLLM beside the trainer. ``server``: its
    address; docs/training.md has the command that starts one.
    """

    by: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    group: Annotated[int, Field(ge=2)] = 8
    max_tokens: Positive = 256
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    gpu_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    tensor_parallel: Positive = 1
    server: Name | None = None


class Grpo(_Part):
    """The objective. ``beta``: weight of the KL term against the model the run started from."""

    beta: Annotated[float, Field(ge=0)] = 0.0
    loss: Literal["dapo", "dr_grpo", "grpo", "bnpo"] = "dapo"
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0, lt=1)] = 0.28
    scale_rewards: Literal["group", "batch", "none"] = "group"
    iterations: Positive = 1
    entropy: Annotated[float, Field(ge=0)] = 0.0


class Difficulty(_Part):
    """Before training, sample each row ``samples`` times and drop those all right or all wrong."""

    filter: bool = False
    samples: Annotated[int, Field(ge=2)] = 8
    keep_at_most_easy: Share = 0.1


class FormatWarmUp(_Part):
    """Before GRPO, ``updates`` of supervised fine-tuning on right answers to the first prompts, so that there
    are answers that can be read. ``batch``: per device. What comes out is the model that GRPO starts from.
    """

    updates: Annotated[int, Field(ge=0)] = 0
    lr: Annotated[float, Field(gt=0)] = 1e-5
    batch: Positive = 8


class Watch(_Part):
    """Stop a run in which hardly any answer can be read (``min_readable``), whose recall of one label stays
    under ``min_recall``, or whose groups mostly hold one answer (``max_zero_variance``), over ``patience``
    logged steps in a row; never before ``grace`` updates.
    """

    min_readable: Share = 0.02
    min_recall: Share = 0.05
    max_zero_variance: Share = 0.98
    patience: Positive = 5
    grace: Annotated[int, Field(ge=0)] = 20
    stop: bool = True


class GrpoRecipe(_Stage):
    """Stage 2: right verdicts under many policies. Reads ``LabelRow``s. ``answer`` as in ``AssessRecipe``."""

    stage: Literal["grpo"]
    dialect: Name = "safeguard"
    answer: Literal["rating-first", "thinking-first"] = "rating-first"
    measure: Measure = Measure()
    reward: RewardSettings = RewardSettings()
    variants: Variants = Variants()
    rollout: Rollout = Rollout()
    grpo: Grpo = Grpo()
    difficulty: Difficulty = Difficulty()
    format_warmup: FormatWarmUp = FormatWarmUp()
    watch: Watch = Watch()


class Images(_Part):
    """``rows``: JSONL files of any rows, whose images, provenance and splits are taken; or ``folder``, with
    the ``source`` and ``licence`` of what is in it.
    """

    rows: Annotated[list[Name], BeforeValidator(_listed)] = []
    folder: Name | None = None
    source: Name | None = None
    licence: Name | None = None


class ChatModel(_Part):
    """A model that is asked: on the OpenAI-compatible server at ``base_url``, or without one in this process.

    ``api_key_env``: the environment variable that holds the server's key. ``device``, ``max_pixels``: for a
    model in this process.
    """

    model: Name
    base_url: Name | None = None
    api_key_env: Name = "POLICYGUARD_API_KEY"
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 1024
    timeout: Annotated[float, Field(gt=0)] = 120.0
    attempts: Positive = 4
    device: Name | None = None
    max_pixels: Positive | None = None


class Checks(_Part):
    """What an edit must be like; otherwise it is asked for again up to ``retries`` times, and then the base
    caption is kept. See ``recaption.checks``. The bounds are this project's own guesses.
    """

    min_kept: Share = 0.6
    min_growth: Annotated[float, Field(ge=0)] = 0.8
    max_growth: Annotated[float, Field(gt=0)] = 2.0
    retries: Annotated[int, Field(ge=0)] = 2


class RecaptionRecipe(_Part):
    """Captions for stage sft: ``captioner`` describes, ``editor`` restores what it left out.

    ``out``: the JSONL file to write. ``mode``: which of the paper's two ways of editing; see
    ``recaption.prompts``. ``workers``: images at a time.
    """

    stage: Literal["recaption"]
    out: Name
    seed: Annotated[int, Field(ge=0)] = 0
    images: Images
    captioner: ChatModel
    editor: ChatModel
    mode: Literal["supplement", "minimal"]
    request: Name | None = None
    checks: Checks = Checks()
    workers: Positive = 16


Recipe = SftRecipe | AssessRecipe | GrpoRecipe
_STAGES: dict[str, type[_Part]] = {
    "sft": SftRecipe,
    "assess": AssessRecipe,
    "grpo": GrpoRecipe,
    "recaption": RecaptionRecipe,
}
_SETTING = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)=(.*)", re.DOTALL)


def find_recipes() -> Path:
    """The folder of the packaged recipes: inside a wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    inside, checkout = package / "recipes", package.parents[2] / "train" / "recipes"
    return inside if inside.is_dir() else checkout


def recipe_names() -> tuple[str, ...]:
    """The names of the packaged recipes, sorted."""
    root = find_recipes()
    return tuple(sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")))


def locate(source: str | Path) -> Path:
    """The file of a recipe: a path if it ends in .yaml or .yml, else a packaged name.

    Raises ConfigurationError.
    """
    if isinstance(source, Path) or source.endswith((".yaml", ".yml")):
        return Path(source).expanduser()
    if source in recipe_names():
        return find_recipes() / f"{source}.yaml"
    meant = nearest(source, recipe_names())
    raise ConfigurationError(
        f"there is no packaged recipe {source!r}" + (f": did you mean {meant!r}?" if meant else ""),
        hint=f"give a path that ends in .yaml, or one of: {', '.join(recipe_names())}",
    )


def load_recipe(
    source: str | Path, *, stage: str | None = None, settings: Sequence[str] = ()
) -> SftRecipe | AssessRecipe | GrpoRecipe:
    """Read a recipe for ``stage`` (default: the one it names).

    Raises ConfigurationError with every problem.
    """
    path = locate(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the recipe {path} cannot be read: {error.strerror or error}",
            hint=f"packaged recipes are {', '.join(recipe_names())}",
        ) from error
    problems: list[Problem] = []
    try:
        document = parse(data, str(path))
    except PolicyError as error:
        raise _refusal([_about_recipes(problem) for problem in error.problems]) from None
    problems += [_about_recipes(problem) for problem in document.problems]
    values = plain(document.root)
    assert isinstance(values, dict)
    overridden = _apply(values, settings, problems)
    named = values.get("stage")
    if not isinstance(named, str) or named not in _STAGES:
        known = ", ".join(_STAGES)
        where = document.root.locate(["stage"])
        problems.append(Problem(f"name the stage: one of {known}", str(path), *where, field="stage"))
        raise _refusal(problems)
    if stage is not None and named != stage:
        problems.append(
            Problem(
                f"this recipe is for stage '{named}', not '{stage}': run `policyguard train {named}`",
                str(path),
                *document.root.locate(["stage"]),
                field="stage",
            )
        )
    try:
        recipe: Any = TypeAdapter(_STAGES[named]).validate_python(values)
    except ValidationError as error:
        unfit = explain(error, _STAGES[named], str(path), hints=Hints(), locate=document.root.locate)
        problems += [
            replace(p, file="--set", line=None, column=None) if p.field in overridden else p for p in unfit
        ]
    if problems:
        raise _refusal(problems)
    return recipe  # type: ignore[no-any-return]


def _apply(values: dict[str, Any], settings: Sequence[str], problems: list[Problem]) -> set[str]:
    """Write ``key.path=value`` into ``values`` and give the paths that were set."""
    paths: set[str] = set()
    for text in settings:
        match = _SETTING.fullmatch(text)
        if match is None:
            problems.append(Problem("expected key=value, such as optim.lr=1e-5", "--set", field=text[:80]))
            continue
        steps = tuple(match.group(1).split("."))
        try:
            value = plain(parse(f"value: {match.group(2)}\n".encode(), "--set").root)
        except PolicyError as error:
            problems += error.problems
            continue
        assert isinstance(value, dict)
        inner = values
        for step in steps[:-1]:
            below = inner.setdefault(step, {})
            if not isinstance(below, dict):
                problems.append(Problem(f"{step!r} holds no keys", "--set", field=match.group(1)))
                break
            inner = below
        else:
            inner[steps[-1]] = value["value"]
            paths.add(match.group(1))
    return paths


def _about_recipes(problem: Problem) -> Problem:
    message = re.sub(r"\b[Oo]ne policy\b", "one recipe", problem.message)
    message = message.replace("a policy is", "a recipe is").replace("holds no policy", "holds no recipe")
    return replace(problem, message=message)


def _refusal(problems: Sequence[Problem]) -> ConfigurationError:
    ordered = sorted(problems, key=lambda problem: (problem.file, problem.line or 0, problem.column or 0))
    return ConfigurationError(
        "\n".join(map(str, ordered)), hint="docs/training.md lists all keys of a recipe"
    )
