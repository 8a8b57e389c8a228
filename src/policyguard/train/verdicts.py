"""Verdicts on held-out rows while a model is trained, in the log, on the card, and as a reason to stop.

Rows are read as the guard reads them (``backends.transformers``) and decided as it decides, on the weights as
they are: a bounded number, the same ones each time, the first frame of each image. ``train evaluate`` asks a
whole guard.

Ranks share the rows and then all know all answers, so that they agree on when to stop. Each makes as many
forward passes as any other, with a row judged twice where it has none left: where weights are sharded, a pass
that one rank lacks would leave the others waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Rating
from policyguard.deciding import decide
from policyguard.dialects import Dialect, render_one
from policyguard.errors import ConfigurationError, ImageError, MissingExtraError
from policyguard.metrics import Answer, Figure
from policyguard.outcomes import Outcome
from policyguard.policy import ResolvedPolicy
from policyguard.train.answers import dialect_of
from policyguard.train.data import LabelRow
from policyguard.train.evaluate import MEASURED, Evaluation, Judged, few
from policyguard.train.models import processor_of
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe, Stop
from policyguard.train.rows import Located, open_frame
from policyguard.train.watch import PREFIX, read_lines, trim, write_line

if TYPE_CHECKING:
    from policyguard.backends.transformers.loading import LoadedModel
    from policyguard.backends.transformers.plan import Plan

__all__ = ["Reader", "best_of", "measuring_callback", "standing", "stop_arguments", "verdicts_at"]

_BLANK = (64, 64)


class Reader:
    """Judges ``items`` with a model in training. ``processor``: one of its own, not the trainer's."""

    def __init__(
        self, items: Sequence[Located[LabelRow]], dialect: Dialect, processor: Any, *, max_pixels: int | None
    ) -> None:
        self._items = list(items)
        self._dialect = dialect
        self._processor = processor
        self._max_pixels = max_pixels
        self._plans: dict[str, Plan] = {}

    def __call__(self, trainer: Any) -> Evaluation:
        """All rows, on every rank: each judges a share. The model stays as it was, its random states too."""
        from accelerate.utils import gather_object

        accelerator = trainer.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        share = range(rank, rank + world * -(-len(self._items) // world), world)
        # Called as it is trained, adapters and all: shards are gathered by the outermost module.
        model = accelerator.unwrap_model(trainer.model)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        training, generation = model.training, inner.generation_config
        try:
            loaded = self._loaded(model, inner, accelerator.device)
            model.eval()
            with accelerator.autocast():
                mine = [(index, self._judge(loaded, index % len(self._items))) for index in share]
        finally:
            inner.generation_config = generation
            model.train(training)
        found = dict(gather_object(mine))
        return Evaluation(tuple(found[index] for index in range(len(self._items))))

    def _loaded(self, model: Any, inner: Any, device: Any) -> LoadedModel:
        """``model`` as the guard has it, without what the settings of the one ``inner`` say of sampling."""
        import transformers

        from policyguard.backends.transformers.loading import LoadedModel, end_tokens

        ends, tokenizer = end_tokens(inner, self._processor.tokenizer), self._processor.tokenizer
        inner.generation_config = transformers.GenerationConfig(
            do_sample=False, eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id
        )
        context = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
        return LoadedModel(model, self._processor, device, inner.dtype, context, ends)

    def _judge(self, loaded: LoadedModel, index: int) -> Judged:
        item = self._items[index]
        policy = item.policy
        assert policy is not None
        read = self._read(loaded, item.path, policy)
        if isinstance(read, str):
            return Judged(item.row, policy, Answer.UNPARSED, str(Outcome.ERROR), None, reason=read)
        decision = decide(policy, read)
        rules = tuple(finding.rule for finding in decision.findings if finding.violates)
        outcome = decision.outcome
        return Judged(
            item.row, policy, Answer.of(outcome), str(outcome), decision.score, rules, decision.reason
        )

    def _read(self, loaded: LoadedModel, path: Path, policy: ResolvedPolicy) -> Assessment | str:
        """What the model makes of one image, or why it cannot be read."""
        import torch
        from PIL import Image

        from policyguard.backends.transformers.decoding import continuations
        from policyguard.backends.transformers.loading import shrink
        from policyguard.backends.transformers.plan import make_plan
        from policyguard.backends.transformers.reading import read_scores

        problem = None
        try:
            frame = shrink(self._processor, open_frame(path), self._max_pixels)
        except ImageError as error:
            frame, problem = Image.new("RGB", _BLANK), error.message
        plan = self._plans.get(policy.fingerprint)
        if plan is None:
            plan = make_plan(loaded, render_one(self._dialect, policy), policy, share_prefix=False)
            self._plans[policy.fingerprint] = plan
        prompt, end, thought = plan.prompt, plan.prompt.thinks_until, ""
        with torch.no_grad():  # what inference mode makes, sharded weights could not be trained with
            if end is not None:
                asked = _inputs(loaded, plan.head, frame, special=plan.special)
                (text,) = continuations(loaded, asked, prompt.max_thought_tokens, stop=end)
                thought, found, _ = text.partition(end)
                if not found:
                    return Assessment(Rating.UNDECIDED, p_undecided=1.0)
                thought += end
                begun = replace(prompt, prefill=thought + prompt.prefill, thinks_until=None)
                plan = make_plan(loaded, begun, policy, share_prefix=False)
            try:
                inputs = _inputs(loaded, plan.text, frame, special=plan.special)
            except ValueError as error:  # the pass is made all the same: other ranks may wait for it
                problem = f"the model's processor does not take this image: {error}"
                inputs = _inputs(loaded, plan.text, Image.new("RGB", _BLANK), special=plan.special)
            logits = loaded.model(**inputs, use_cache=False).logits[:, -plan.keep :]
        if problem is not None:
            return problem
        (scores,) = read_scores(plan, logits)
        if (reason := self._dialect.precheck(frame)) is not None:
            return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(reason,))
        if scores is None:
            return "the model's scores are not finite numbers"
        if thought and self._dialect.contradicts(thought, scores.rating):
            return "the model's thought states another rating than its answer"
        return scores.assessment(plan)


def reader_of(
    recipe: SftRecipe | AssessRecipe | GrpoRecipe, held_out: Sequence[Located[LabelRow]], base: Path
) -> Reader | None:
    """What reads verdicts of a run from ``base``; ``None`` where there are none to read, or none can be."""
    if isinstance(recipe, SftRecipe) or not held_out or why_not(recipe) is not None:
        return None
    processor = processor_of(base, max_pixels=recipe.run.max_pixels)
    rows = few(held_out, recipe.measure.rows)
    return Reader(rows, dialect_of(recipe), processor, max_pixels=recipe.run.max_pixels)


def why_not(recipe: AssessRecipe | GrpoRecipe) -> str | None:
    """Why no verdicts are measured during a run, or ``None``."""
    if not recipe.measure.rows:
        return "measure.rows is 0"
    if recipe.answer == "thinking-first" and recipe.run.sharding in ("zero3", "fsdp2"):
        return f"with run.sharding: {recipe.run.sharding}, thoughts of different lengths would hang the ranks"
    return None


def _inputs(loaded: LoadedModel, text: str, frame: Any, *, special: bool) -> dict[str, Any]:
    from policyguard.backends.transformers.loading import prepare

    inputs = prepare(loaded.processor, [text], [frame], special=special)
    return {name: value.to(loaded.device) for name, value in inputs.items() if hasattr(value, "to")}


def measuring_callback(read: Reader | None, stop: Stop, log: Path) -> Any:
    """A ``TrainerCallback`` that measures at every evaluation, writes a line into ``log``, and stops early.

    ``read``: None where there are no verdicts to measure, as in stage sft. ``trainer`` must be set before the
    run begins. ``stopped`` says why it ended, if it ended early. What it does follows from the trainer's own
    log, which checkpoints hold, so a run that goes on from one ends as if it had not been stopped.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise MissingExtraError("transformers", "train") from None

    class Measuring(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        def __init__(self) -> None:
            self.trainer: Any = None
            self.stopped: str | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                trim(log, state)
            if state.best_global_step:  # by its place now: the folder may have been moved
                state.best_model_checkpoint = str(_found(args.output_dir, state.best_global_step))
            if why := standing(state.log_history, stop):
                self.stopped = f"at update {state.global_step}: {why}"  # and then it was killed

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
        ) -> None:
            self.measure()
            if stop.on == "none" or not state.global_step:
                return
            if stop.on != "loss" and metrics is not None:  # the trainer keeps the best by what is in here
                (now,) = [entry for entry in state.log_history if _is_of(entry, state.global_step)][-1:]
                metrics[f"eval_{stop.on}"] = now.get(f"{PREFIX}{stop.on}", 0.0)
            if why := standing(state.log_history, stop):
                self.stopped = f"at update {state.global_step}: {why}"
                control.should_training_stop = True

        def measure(self) -> None:
            """Measure now, unless that was done at this update already. All ranks call it."""
            trainer, state = self.trainer, self.trainer.state
            if read is None or any(_is_of(entry, state.global_step) for entry in state.log_history):
                return
            found = read(trainer)
            trainer.model.eval()  # TRL takes what is logged for training's otherwise
            trainer.log({f"{PREFIX}{name}": value for name, value in found.values().items()})
            if state.is_world_process_zero:
                write_line(log, {"step": state.global_step, "verdicts": _with_intervals(found)})

    return Measuring()


def _found(output: str, step: int) -> Path:
    """The checkpoint of update ``step``, which has the best weights. Raises ConfigurationError."""
    path = Path(output) / f"checkpoint-{step}"
    if not path.is_dir():
        raise ConfigurationError(
            f"{path} is gone, whose weights were the best ones so far",
            hint="put it back, or start again in another folder with --set out=...",
        )
    return path


def _is_of(entry: Mapping[str, Any], step: int) -> bool:
    return entry.get("step") == step and f"{PREFIX}rows" in entry


def _with_intervals(found: Evaluation) -> dict[str, Any]:
    measured = found.figures
    figures: dict[str, Figure] = {name: getattr(measured, name) for name in MEASURED}
    figures |= {"edit_pairs": found.edit_pairs[1], "policy_pairs": found.policy_pairs[1]}
    told: dict[str, Any] = {"rows": len(found.judged), "silent": dict(found.silent)}
    return told | {name: list(figure) for name, figure in figures.items() if figure.value is not None}


def standing(history: Sequence[Mapping[str, Any]], stop: Stop) -> str | None:
    """Why a run should end by what was measured so far, or ``None``. What was measured before the first
    update does not count.
    """
    if stop.on == "none":
        return None
    key, sign = ("eval_loss", -1.0) if stop.on == "loss" else (f"{PREFIX}{stop.on}", 1.0)
    counts = "eval_loss" if stop.on == "loss" else f"{PREFIX}rows"
    values = [float(entry.get(key, 0.0)) for entry in history if counts in entry and entry["step"]]
    best, waited = None, 0
    for value in values:
        if best is None or sign * (value - best) > stop.min_gain:
            best, waited = value, 0
        else:
            waited += 1
    if best is None or waited < stop.patience:
        return None
    than = f"{best:.4g}" if not stop.min_gain else f"{best:.4g} by more than {stop.min_gain:g}"
    return f"{stop.on} has not got better than {than} in {waited} evaluations"


def stop_arguments(stop: Stop, *, evaluates: bool) -> dict[str, Any]:
    """Keyword arguments of the trainer's configuration: keep the best checkpoint, and load it at the end."""
    if stop.on == "none" or not evaluates:
        return {}
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{stop.on}",
        "greater_is_better": stop.on != "loss",
    }


def best_of(trainer: Any, stop: Stop) -> Path | None:
    """The checkpoint whose weights the finished model has, where that is not the last one's."""
    best = trainer.state.best_model_checkpoint
    return None if stop.on == "none" or best is None else Path(best)


def step_of(trainer: Any, best: Path | None) -> int:
    """The update after which the weights of the finished model are taken."""
    return int(trainer.state.global_step if best is None else trainer.state.best_global_step)


def notes_on(measuring: Any, best: Path | None, stop: Stop) -> list[str]:
    """What the card says of early stopping."""
    notes = [f"ended early {measuring.stopped}"] if measuring.stopped else []
    if best is not None:
        step = measuring.trainer.state.best_global_step
        notes.append(f"the weights are those of update {step}, at which {stop.on} was best")
    return notes


def verdicts_at(log: Path, step: int) -> dict[str, Any] | None:
    """The figures, with intervals, that were written at ``step``."""
    lines = [line for line in read_lines(log) if line["step"] == step and "verdicts" in line]
    return dict(lines[-1]["verdicts"]) if lines else None
