"""Run batches of frames under one plan through a loaded model.

What several questions have in common is computed once: the policy's KV prefix (``prefix``), what is seen of a
frame (``features``), and, for an explanation, everything that the verdict was read from (``decoding``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading, Result
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.stats import Counters
from policyguard.backends.transformers.batching import Batching, CudaMemory, is_out_of_memory
from policyguard.backends.transformers.decoding import State, continuations, go_on, recording, text_after
from policyguard.backends.transformers.features import SPLITS, Frame, Looks, PreparedFrames
from policyguard.backends.transformers.loading import prepare, shrink
from policyguard.backends.transformers.placement import default_batch
from policyguard.backends.transformers.plan import control_tokens, make_plan
from policyguard.backends.transformers.prefix import (
    PrefixCache,
    cached,
    compute_prefix,
    fork_prefix,
    has_window,
    positions_of,
    why_not,
    with_positions,
)
from policyguard.backends.transformers.reading import Scores, explained, read_scores
from policyguard.backends.transformers.ways import Compiled
from policyguard.errors import ModelLoadError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.transformers.loading import LoadedModel
    from policyguard.backends.transformers.plan import Plan, Prefix
    from policyguard.dialects.base import Dialect

__all__ = ["Runner"]


_SIDE = 224
"""Of the two frames that show whether a model sees; in pixels."""

_SAME = 1e-4
"""Standard deviations of the logits: a smaller difference is none."""


_EACH_TOKEN = ("cross_attention_mask",)
"""Inputs with a row for each token, the last of which goes for the tokens after it too."""


_PREFIX, _WORDS = "the policy's text is read anew", "explanations read the whole prompt again"


class _UnfitError(Exception):
    """A frame that the model cannot take, and why."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A forward pass, ready to run. ``tokens`` show each frame; ``shared``: it goes on from a prefix."""

    inputs: dict[str, Any]
    tokens: list[int]
    shared: bool


class Runner:
    """A loaded model, with what it has computed and may use again. ``lock`` is held while the model runs.

    ``prefix_bytes`` and ``feature_bytes`` bound what is kept of policies and of frames; 0 keeps nothing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        dialect: Dialect,
        *,
        lock: Lock,
        max_pixels: int | None,
        prefix_bytes: int,
        feature_bytes: int,
        max_batch: int | None = None,
        counters: Counters | None = None,
        compiled: bool = False,
    ) -> None:
        from transformers import DynamicCache

        self.loaded = loaded
        self.counters = counters or Counters()
        self.dialect = dialect
        on_gpu = loaded.device.type == "cuda"
        self.batching = Batching(
            loaded.processor,
            max_batch or default_batch(loaded.device),
            self.counters,
            grows=max_batch is None,
            memory=CudaMemory(loaded.device) if on_gpu else None,
        )
        self.prefixes = PrefixCache(prefix_bytes)
        reason = why_not(loaded.model) if prefix_bytes > 0 else "prefix_cache_bytes is 0"
        self.shares_prefixes = not reason
        self._say_in_full(_PREFIX, reason)
        self._places = positions_of(loaded.model)
        self._windowed = has_window(DynamicCache(config=loaded.model.config.get_text_config()))
        self._lock = lock
        self._max_pixels = max_pixels
        self.images = PreparedFrames(loaded.processor.image_processor)
        loaded.processor.image_processor = self.images
        self.looks = _watch(loaded.model, feature_bytes, self.counters)
        self._image_token = getattr(loaded.model.config, "image_token_id", None)
        self._sees = False
        self._compiled = Compiled(loaded.model, self.counters) if compiled else None
        self._looking = Lock()
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters

    def see(self, requests: Sequence[AssessmentRequest]) -> list[Frame]:
        """The frames of ``requests`` as the model gets them."""
        seen: dict[int, Frame] = {}
        for request in requests:
            if id(request.frame) not in seen:
                pixels = shrink(self.loaded.processor, request.frame, self._max_pixels)
                seen[id(request.frame)] = Frame.of(pixels)
        return [seen[id(request.frame)] for request in requests]

    def read(
        self, plans: Sequence[Plan], requests: Sequence[AssessmentRequest], frames: Sequence[Frame]
    ) -> list[list[Result]]:
        """``attempt`` for each plan, on ``frames``, which are what ``see`` makes of ``requests``."""
        return [self.attempt(plan, requests, frames) for plan in plans]

    def attempt(
        self, plan: Plan, requests: Sequence[AssessmentRequest], frames: Sequence[Frame]
    ) -> list[Result]:
        """One result per request. A batch that is too large for memory is tried in halves, one that fails
        otherwise one by one; what fails then is a Failure."""
        sizes = [frame.pixels.size for frame in frames]
        if self.batching.exceeds(sizes):
            return self._in_parts(plan, requests, frames)
        if plan.prompt.thinks_until is not None and len(requests) > 1:
            return self._one_by_one(plan, requests, frames)
        try:
            self._require_sight(plan)
            if plan.prompt.thinks_until is not None:
                thought = self._think(plan, frames[0], plan.prompt.thinks_until)
                if isinstance(thought, Assessment | Failure):
                    return [thought]
                return [self._behind(plan, thought, requests[0], frames[0])]
            return self._run(plan, requests, frames)
        except UsageError:
            raise
        except Exception as error:
            if self._compiled is not None and self._compiled.gave_way(error):
                return self.attempt(plan, requests, frames)
            # The edge to torch and transformers: what they raise concerns these frames, and none is lost.
            reason, kind = self._reason(error, frames[0]), FailureKind.ERROR
            too_large = is_out_of_memory(error)
            if isinstance(error, _UnfitError):
                kind = FailureKind.UNSCANNABLE
        self._free_memory()
        if len(requests) == 1:
            return [Failure(kind, reason)]
        if too_large:
            self.batching.halve(sizes)
            return self._in_parts(plan, requests, frames)
        return self._one_by_one(plan, requests, frames)

    def _in_parts(
        self, plan: Plan, requests: Sequence[AssessmentRequest], frames: Sequence[Frame]
    ) -> list[Result]:
        """``attempt`` in batches that may fit."""
        results: dict[int, Result] = {}
        for batch in self.batching.batches([frame.pixels.size for frame in frames]):
            part = [requests[index] for index in batch], [frames[index] for index in batch]
            results.update(zip(batch, self.attempt(plan, *part), strict=True))
        return [results[index] for index in range(len(requests))]

    def _one_by_one(
        self, plan: Plan, requests: Sequence[AssessmentRequest], frames: Sequence[Frame]
    ) -> list[Result]:
        pairs = zip(requests, frames, strict=True)
        return [self.attempt(plan, [request], [frame])[0] for request, frame in pairs]

    def _require_sight(self, plan: Plan) -> None:
        """Once, before the first frame: raises ModelLoadError if black and noise look the same to the model.

        Its chat template or processor loses the image on the way then, and every image would be safe.
        """
        with self._looking:  # of several threads that come first, one looks
            if not self._sees:
                self._look(plan)
                self._sees = True

    def _look(self, plan: Plan) -> None:
        from PIL import Image

        side = (_SIDE, _SIDE)
        frames = Image.new("RGB", side), Image.effect_noise(side, 120.0).convert("RGB")
        shrunk = [shrink(self.loaded.processor, frame, self._max_pixels) for frame in frames]
        black, noise = (
            self._forward(plan, [Frame.of(frame)], counted=False)[0][0].float() for frame in shrunk
        )
        if not (black - noise).abs().max() > _SAME * black.std():  # not a number either
            raise ModelLoadError(
                f"the model does not see images: black and noise give it the same scores under policy "
                f"'{plan.policy.id}'",
                hint="use the chat template and the processor files that the model was published with",
            )

    def _think(self, plan: Plan, frame: Frame, end: str) -> str | Result:
        """What the model decodes up to ``end``, with it; UNDECIDED if it does not come to it in time."""
        with self.counters.timed("prepare"):
            inputs = self._prepare([plan.head], [frame], plan.special, 0)
        self._count(inputs)
        bound = plan.prompt.max_thought_tokens
        if self.loaded.context is not None:
            bound = max(1, min(bound, self.loaded.context - inputs["input_ids"].shape[1]))
        tokens, inputs = self._image_tokens(inputs), self._to_device(inputs)
        with self._turn(), self.looks.of([frame], tokens):
            (text,) = continuations(self.loaded, inputs, bound, stop=end)
        thought, found, _ = text.partition(end)
        if not found:
            note = f"the model was still thinking after {bound} tokens"
            return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(note,))
        if control_tokens(self.loaded.processor).search(thought):
            return Failure(FailureKind.ERROR, "the model's thought holds control tokens")
        return thought + end

    def _behind(self, plan: Plan, thought: str, request: AssessmentRequest, frame: Frame) -> Result:
        """The reading behind ``thought``, which must not state another rating."""
        (result,) = self._run(self._after_thought(plan, thought), [request], [frame])
        if isinstance(result, Assessment) and self.dialect.contradicts(thought, result.rating):
            return Failure(FailureKind.ERROR, "the model's thought states another rating than its answer")
        return result

    def _after_thought(self, plan: Plan, thought: str) -> Plan:
        prompt = replace(plan.prompt, prefill=thought + plan.prompt.prefill, thinks_until=None)
        return make_plan(self.loaded, prompt, plan.policy, share_prefix=self.shares_prefixes)

    def free(self) -> None:
        """Drop what is kept of policies and frames, and give GPU memory back."""
        self.prefixes.clear()
        self.looks.kept.clear()
        self.images.clear()
        self._free_memory()

    def _run(
        self, plan: Plan, requests: Sequence[AssessmentRequest], frames: Sequence[Frame]
    ) -> list[Result]:
        explaining = any(request.reading is Reading.EXPLAIN for request in requests)
        logits, state = self._forward(plan, frames, going_on=explaining)
        with self.counters.timed("read"):
            scores = read_scores(plan, logits)
        results: dict[int, Result] = {}
        explain: dict[int, Scores] = {}
        for index, (request, score) in enumerate(zip(requests, scores, strict=True)):
            if score is None:
                results[index] = Failure(FailureKind.ERROR, "the model's scores are not finite numbers")
            elif request.reading is Reading.EXPLAIN:
                explain[index] = score
            else:
                results[index] = score.assessment(plan)
        if explain:
            results |= self._explain(plan, frames, explain, state)
        return [results[index] for index in range(len(requests))]

    def _forward(
        self, plan: Plan, frames: Sequence[Frame], *, going_on: bool = False, counted: bool = True
    ) -> tuple[Any, State | None]:
        """Logits of shape (frames, at least ``plan.keep``, vocabulary), from one forward pass.

        ``going_on``: also where it stood at its end, if this model can go on from there.
        """
        from transformers import DynamicCache

        with self.counters.timed("prepare"):
            ready = self._ready(plan, frames)
        if counted:
            self._count(ready.inputs)
        options: dict[str, Any] = {"use_cache": False}
        if self._keeps_logits:
            options["logits_to_keep"] = plan.keep
        looked_at = self.looks.of(frames, ready.tokens) if counted else nullcontext()
        sizes = [frame.pixels.size for frame in frames]
        with self._turn(), looked_at, self.batching.measured(sizes):
            cache = None
            if ready.shared and (prefix := plan.prefix) is not None:
                cache = fork_prefix(self._kept(prefix, len(frames)), len(frames))
            elif going_on and self._places is not None:
                cache = DynamicCache(config=self.loaded.model.config.get_text_config())
            going_on = going_on and cache is not None and recording(cache)
            if cache is not None and (ready.shared or going_on):
                options |= cached(self.loaded.model, cache)
            logits = self.loaded.model(**ready.inputs, **options).logits[:, -plan.keep :]
        if not going_on:
            return logits, None
        mask, positions = ready.inputs["attention_mask"], ready.inputs["position_ids"]
        also = {name: ready.inputs[name][:, -1:] for name in _EACH_TOKEN if name in ready.inputs}
        return logits, State(cache, mask, positions, also)

    def _kept(self, prefix: Prefix, rows: int) -> Any:
        """The KV cache of ``prefix``, for a batch of ``rows``."""
        hit = prefix.key in self.prefixes
        kept = self.prefixes.get_or_make(prefix.key, lambda: self._compute(prefix.ids))
        tokens = len(prefix.key)
        self.counters.add(
            prefix_hits=int(hit),
            prefix_misses=int(not hit),
            tokens_computed=0 if hit else tokens,
            tokens_reused=(rows - (not hit)) * tokens,
        )
        return kept

    def _ready(self, plan: Plan, frames: Sequence[Frame]) -> _Ready:
        """The inputs of a pass over ``plan.text``, or over what follows its prefix, with ``frames``."""
        prefix = plan.prefix
        if prefix is not None:
            inputs = self._prepare([prefix.rest] * len(frames), frames, False, prefix.ids.shape[1])
            if self._windowed and not bool(inputs["attention_mask"].all()):
                prefix = None
                self._say_in_full(_PREFIX, "layers with a window, and images of unequal length in one batch")
        elif self.shares_prefixes:
            first = self.dialect.layout == "image-first"
            reason = "this dialect puts the image first" if first else "too little stands before the image"
            self._say_in_full(_PREFIX, reason)
        if prefix is None:
            inputs = self._prepare([plan.text] * len(frames), frames, plan.special, 0)
        tokens = self._image_tokens(inputs)
        if self._places is not None:
            inputs = with_positions(self.loaded.model, inputs, None if prefix is None else prefix.ids)
        return _Ready(self._to_device(inputs), tokens, prefix is not None)

    def _explain(
        self, plan: Plan, frames: Sequence[Frame], scores: Mapping[int, Scores], state: State | None
    ) -> dict[int, Result]:
        """For the ``frames`` at the keys of ``scores``, their words, begun with what the scores say."""
        begun = [
            plan.answered(score.rating, score.category if score.rating is Rating.UNSAFE else None)
            for score in scores.values()
        ]
        more = None if state is None else self._from_there(plan, state, list(scores), begun)
        if again := more is None:
            reason = why_not(self.loaded.model) or "this answer parts from the prompt before its rating"
            self._say_in_full(_WORDS, reason)
            more = self._from_the_start(plan, [frames[row] for row in scores], begun)
        self.counters.add(**{"explained_in_full" if again else "explained_there": len(scores)})
        return {
            row: explained(plan, self.dialect, score, before + after)
            for (row, score), before, after in zip(scores.items(), begun, more, strict=True)
        }

    def _from_there(
        self, plan: Plan, state: State, rows: Sequence[int], begun: Sequence[str]
    ) -> list[str] | None:
        """What the model says after ``begun`` in ``rows`` of ``state``; ``None`` where they do not fit on."""
        if (known := plan.begun(self.loaded.processor, begun)) is None:
            return None
        drop, starts = known
        bound = self._room(plan, state.mask.shape[1] - drop + max(map(len, starts)))
        options = {"logits_to_keep": 1} if self._keeps_logits else {}
        with self._turn():
            said = go_on(self.loaded, state, rows, drop, starts, bound, **options)
        tokenizer = self.loaded.processor.tokenizer
        return [text_after(tokenizer, start[-1], new) for start, new in zip(starts, said, strict=True)]

    def _from_the_start(self, plan: Plan, frames: Sequence[Frame], begun: Sequence[str]) -> list[str]:
        with self.counters.timed("prepare"):
            inputs = self._prepare([plan.head + text for text in begun], frames, plan.special, 0)
        self._count(inputs)
        bound = self._room(plan, inputs["input_ids"].shape[1])
        tokens, inputs = self._image_tokens(inputs), self._to_device(inputs)
        with self._turn(), self.looks.of(frames, tokens):
            return continuations(self.loaded, inputs, bound)

    def _room(self, plan: Plan, length: int) -> int:
        """How many tokens may be decoded after ``length``. Raises _UnfitError where that is too long."""
        if self.loaded.context is None:
            return plan.prompt.max_new_tokens
        if length > self.loaded.context:
            raise _UnfitError(self._too_long(length))
        return max(1, min(plan.prompt.max_new_tokens, self.loaded.context - length))

    def _image_tokens(self, inputs: Any) -> list[int]:
        ids = inputs["input_ids"]
        if self._image_token is None:
            return [0] * len(ids)
        counts: list[int] = (ids == self._image_token).sum(1).tolist()
        return counts

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Where the model runs: one batch at a time."""
        import torch

        began = perf_counter()
        with self._lock:
            self.counters.spent("wait", perf_counter() - began)
            with self.counters.timed("model"), torch.inference_mode():
                yield

    def _count(self, inputs: Any) -> None:
        """Count a forward pass over ``inputs``."""
        ids = inputs["input_ids"]
        real = int(inputs["attention_mask"][:, -ids.shape[1] :].sum())
        self.counters.add(batch=len(ids), tokens_computed=real, tokens_padding=ids.numel() - real)

    def _say_in_full(self, what: str, reason: str) -> None:
        if reason:
            self.counters.note(f"{what}: {reason}")

    def _prepare(self, texts: Sequence[str], frames: Sequence[Frame], special: bool, before: int) -> Any:
        pixels = [frame.pixels for frame in frames]
        try:
            inputs = self.images.inputs(
                texts,
                frames,
                special=special,
                whole=lambda: prepare(self.loaded.processor, texts, pixels, special=special),
            )
        except ValueError as error:
            raise _UnfitError(f"the model's processor does not take this image: {error}") from error
        longest = int(inputs["attention_mask"].sum(-1).max()) + before
        if self.loaded.context is not None and longest > self.loaded.context:
            raise _UnfitError(self._too_long(longest))
        return inputs

    def _too_long(self, length: int) -> str:
        return (
            f"policy and image make {length} tokens and the model takes {self.loaded.context}; "
            "set max_pixels to scale images down"
        )

    def _compute(self, ids: Any) -> Any:
        return compute_prefix(self.loaded.model, ids.to(self.loaded.device))

    def _to_device(self, inputs: Any) -> dict[str, Any]:
        """Tensors on the model's device, pixels in its dtype."""
        device = self.loaded.device
        found = {}
        for name, value in inputs.items():
            if not hasattr(value, "to"):
                continue
            if device.type == "cuda" and value.device.type == "cpu":  # copied while the model runs
                value = value.pin_memory().to(device, non_blocking=True)
            found[name] = value.to(device, self.loaded.dtype if value.is_floating_point() else value.dtype)
        return found

    def _reason(self, error: Exception, frame: Frame) -> str:
        if isinstance(error, _UnfitError):
            return str(error)
        if is_out_of_memory(error):
            width, height = frame.pixels.size
            self.looks.kept.clear()
            return f"out of memory on an image of {width} x {height}; lower max_pixels or max_batch"
        text = " ".join(str(error).split()) or "no message"
        return f"the model failed: {type(error).__name__}: {text[:300]}"

    def _free_memory(self) -> None:
        import torch

        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()


def _watch(model: Any, max_bytes: int, counters: Counters) -> Looks:
    """Let ``model`` look at each frame once."""
    inner: Any = getattr(model, "model", model)
    splits = model.config.model_type in SPLITS
    if hasattr(inner, "get_image_features"):
        looks = Looks(inner.get_image_features, splits=splits, max_bytes=max_bytes, counters=counters)
        inner.get_image_features = looks
    elif hasattr(inner, "vision_model"):  # Mllama
        looks = Looks(inner.vision_model.forward, splits=splits, max_bytes=max_bytes, counters=counters)
        inner.vision_model.forward = looks
    else:
        looks = Looks(None, splits=False, max_bytes=0, counters=counters)
    return looks
