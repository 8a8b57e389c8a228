"""Run batches of frames under one plan through a loaded model.

The text before the image, the policy's KV prefix, is computed once and shared by all frames under it. Two
things make this exact (with float32, to about 1e-6 in the logits) for models with M-RoPE positions:

- The positions are always passed. Left to itself, such a model takes the text after a cached prefix for
  the continuation of whatever image it saw last (``rope_deltas`` is state on the module), or starts at
  zero again; the logits are then silently wrong.
- A prefix is never written to. Each batch gets a fork: new layer objects around the same tensors, which
  ``DynamicLayer.update`` replaces by concatenation and never changes in place.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading, Result
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.stats import Counters
from policyguard.backends.transformers.loading import prepare, shrink
from policyguard.backends.transformers.plan import control_tokens, make_plan
from policyguard.backends.transformers.reading import Scores, continuations, explained, read_scores
from policyguard.errors import ModelLoadError, UsageError
from policyguard.strict.lru import LruDict

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.backends.transformers.loading import LoadedModel
    from policyguard.backends.transformers.plan import Plan
    from policyguard.dialects.base import Dialect

__all__ = [
    "PrefixCache",
    "Runner",
    "compute_prefix",
    "fork_prefix",
    "shares_prefix",
    "with_positions",
]


FAMILIES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
"""Tested with qwen2_5_vl and qwen3_vl; the others compute positions the same way. The rest run in full."""


def shares_prefix(model: Any) -> bool:
    """Whether a prefix of ``model`` can be shared: a known family, and plain layers in its cache."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if model.config.model_type not in FAMILIES:
        return False
    layers = DynamicCache(config=model.config.get_text_config()).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def compute_prefix(model: Any, ids: Any) -> Any:
    """The KV cache of the text tokens ``ids``, shape (1, tokens)."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config())
    positions = torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1)
    model.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    return cache


def fork_prefix(cache: Any, rows: int) -> Any:
    """A cache for ``rows`` frames that begins with ``cache`` and shares its tensors. Copies no numbers."""
    forked = copy.copy(cache)
    forked.layers = []
    for layer in cache.layers:
        branch = copy.copy(layer)
        branch.keys = layer.keys.expand(rows, -1, -1, -1)
        branch.values = layer.values.expand(rows, -1, -1, -1)
        forked.layers.append(branch)
    return forked


def with_positions(model: Any, inputs: Any, prefix_ids: Any | None) -> dict[str, Any]:
    """``inputs`` with explicit M-RoPE positions, and a mask that covers ``prefix_ids`` before them."""
    import torch

    ids, mask, kinds = inputs["input_ids"], inputs["attention_mask"], inputs["mm_token_type_ids"]
    skip = 0
    if prefix_ids is not None:
        before = prefix_ids.expand(ids.shape[0], -1)
        skip = before.shape[1]
        ids = torch.cat([before, ids], 1)
        mask = torch.cat([torch.ones_like(before), mask], 1)
        kinds = torch.cat([torch.zeros_like(before), kinds], 1)
    positions, _ = model.model.get_rope_index(
        input_ids=ids, mm_token_type_ids=kinds, image_grid_thw=inputs["image_grid_thw"], attention_mask=mask
    )
    rest = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    return rest | {"attention_mask": mask, "position_ids": positions[:, :, skip:]}


class PrefixCache(LruDict[Hashable, Any]):
    """The most recently used prefixes, bounded by the bytes they hold; the last one is always kept."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, weigh=_bytes_of)


def _bytes_of(prefix: Any) -> int:
    return sum(int(layer.keys.nbytes) + int(layer.values.nbytes) for layer in prefix.layers)


_SIDE = 224
"""Of the two frames that show whether a model sees; in pixels."""

_SAME = 1e-4
"""Standard deviations of the logits: a smaller difference is none."""


class _UnfitError(Exception):
    """A frame that the model cannot take, and why."""


class Once:
    """``function``, which inside ``remembering`` is not called again with what it was called with last.

    Images and tensors count by their values. What is remembered belongs to one thread, and ends with it.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._here = threading.local()

    @contextmanager
    def remembering(self) -> Iterator[None]:
        self._here.last = ()
        try:
            yield
        finally:
            del self._here.last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        last = getattr(self._here, "last", None)
        if last is None:
            return self.function(*args, **kwargs)
        if not last or not _equal(last[0], (args, kwargs)):
            self._here.last = last = ((args, kwargs), self.function(*args, **kwargs))
        return copy.copy(last[1])  # processors take things out of what they get

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:  # when a processor is printed or saved
        return copy.deepcopy(self.function, memo)


def _equal(one: Any, other: Any) -> bool:
    import torch

    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and bool(torch.equal(one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


class Runner:
    """A loaded model with its prefix cache. ``lock`` is held while the model runs."""

    def __init__(
        self,
        loaded: LoadedModel,
        dialect: Dialect,
        *,
        lock: Lock,
        max_pixels: int | None,
        prefix_bytes: int,
        counters: Counters | None = None,
    ) -> None:
        self.loaded = loaded
        self.counters = counters or Counters()
        self.dialect = dialect
        self.prefixes = PrefixCache(prefix_bytes)
        self.has_mrope = shares_prefix(loaded.model)
        self.shares_prefixes = self.has_mrope and prefix_bytes > 0
        self._lock = lock
        self._max_pixels = max_pixels
        self._images = Once(loaded.processor.image_processor)
        loaded.processor.image_processor = self._images
        inner: Any = getattr(loaded.model, "model", None)
        self._features = Once(getattr(inner, "get_image_features", None))
        if self._features.function is not None:  # Mllama has none: its images are looked at for each prompt
            inner.get_image_features = self._features
        self._sees = False
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters

    def read(self, plans: Sequence[Plan], requests: Sequence[AssessmentRequest]) -> list[list[Result]]:
        """``attempt`` for each plan: images are prepared once and looked at once, whatever the plans ask."""
        frames = [shrink(self.loaded.processor, request.frame, self._max_pixels) for request in requests]
        asked = [replace(request, frame=frame) for request, frame in zip(requests, frames, strict=True)]
        with self._images.remembering(), self._features.remembering():
            return [self.attempt(plan, asked) for plan in plans]

    def attempt(self, plan: Plan, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request. A batch that fails is tried one by one; what fails then is a Failure."""
        if plan.prompt.thinks_until is not None and len(requests) > 1:
            return [self.attempt(plan, [request])[0] for request in requests]
        try:
            self._require_sight(plan)
            if plan.prompt.thinks_until is not None:
                thought = self._think(plan, requests[0].frame, plan.prompt.thinks_until)
                if isinstance(thought, Assessment | Failure):
                    return [thought]
                return [self._behind(plan, thought, requests[0])]
            return self._run(plan, requests)
        except UsageError:
            raise
        except Exception as error:
            # The edge to torch and transformers: what they raise concerns these frames, and none is lost.
            reason, kind = self._reason(error, requests[0]), FailureKind.ERROR
            if isinstance(error, _UnfitError):
                kind = FailureKind.UNSCANNABLE
        self._free_memory()
        if len(requests) == 1:
            return [Failure(kind, reason)]
        return [self.attempt(plan, [request])[0] for request in requests]

    def _require_sight(self, plan: Plan) -> None:
        """Once, before the first frame: raises ModelLoadError if black and noise look the same to the model.

        Its chat template or processor loses the image on the way then, and every image would be safe.
        """
        from PIL import Image

        if self._sees:
            return
        side = (_SIDE, _SIDE)
        frames = Image.new("RGB", side), Image.effect_noise(side, 120.0).convert("RGB")
        shrunk = [shrink(self.loaded.processor, frame, self._max_pixels) for frame in frames]
        black, noise = (self._forward(plan, [frame], counted=False)[0].float() for frame in shrunk)
        if not (black - noise).abs().max() > _SAME * black.std():  # not a number either
            raise ModelLoadError(
                f"the model does not see images: black and noise give it the same scores under policy "
                f"'{plan.policy.id}'",
                hint="use the chat template and the processor files that the model was published with",
            )
        self._sees = True

    def _think(self, plan: Plan, frame: PILImage, end: str) -> str | Result:
        """What the model decodes up to ``end``, with it; UNDECIDED if it does not come to it in time."""

        with self.counters.timed("prepare"):
            inputs = self._prepare([plan.head], [frame], plan.special, 0)
        self._count(inputs)
        bound = plan.prompt.max_thought_tokens
        if self.loaded.context is not None:
            bound = max(1, min(bound, self.loaded.context - inputs["input_ids"].shape[1]))
        inputs = self._to_device(inputs)
        with self._turn():
            (text,) = continuations(self.loaded, inputs, bound, stop=end)
        thought, found, _ = text.partition(end)
        if not found:
            note = f"the model was still thinking after {bound} tokens"
            return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(note,))
        if control_tokens(self.loaded.processor).search(thought):
            return Failure(FailureKind.ERROR, "the model's thought holds control tokens")
        return thought + end

    def _behind(self, plan: Plan, thought: str, request: AssessmentRequest) -> Result:
        """The reading behind ``thought``, which must not state another rating."""
        (result,) = self._run(self._after_thought(plan, thought), [request])
        if isinstance(result, Assessment) and self.dialect.contradicts(thought, result.rating):
            return Failure(FailureKind.ERROR, "the model's thought states another rating than its answer")
        return result

    def _after_thought(self, plan: Plan, thought: str) -> Plan:
        prompt = replace(plan.prompt, prefill=thought + plan.prompt.prefill, thinks_until=None)
        return make_plan(self.loaded, prompt, plan.policy, share_prefix=False)

    def free(self) -> None:
        """Drop the prefixes, and give GPU memory back."""
        self.prefixes.clear()
        self._free_memory()

    def _run(self, plan: Plan, requests: Sequence[AssessmentRequest]) -> list[Result]:
        frames = [request.frame for request in requests]
        logits = self._forward(plan, frames)
        with self.counters.timed("read"):
            scores = read_scores(plan, logits)
        results: dict[int, Result] = {}
        explain = []
        for index, (request, score) in enumerate(zip(requests, scores, strict=True)):
            if score is None:
                results[index] = Failure(FailureKind.ERROR, "the model's scores are not finite numbers")
            elif request.reading is Reading.EXPLAIN:
                explain.append((index, score))
            else:
                results[index] = score.assessment(plan)
        if explain:
            answers = self._explain(
                plan, [frames[index] for index, _ in explain], [score for _, score in explain]
            )
            results.update(zip((index for index, _ in explain), answers, strict=True))
        return [results[index] for index in range(len(requests))]

    def _forward(self, plan: Plan, frames: Sequence[PILImage], *, counted: bool = True) -> Any:
        """Logits of shape (frames, at least ``plan.keep``, vocabulary), from one forward pass."""

        shared = plan.prefix
        text, special = (plan.text, plan.special) if shared is None else (shared.rest, False)
        with self.counters.timed("prepare"):
            inputs: Any = self._prepare(
                [text] * len(frames), frames, special, 0 if shared is None else shared.ids.shape[1]
            )
            if counted:
                self._count(inputs)
            if self.has_mrope:
                inputs = with_positions(self.loaded.model, inputs, None if shared is None else shared.ids)
            inputs = self._to_device(inputs)
        options: dict[str, Any] = {"use_cache": False}
        if self._keeps_logits:
            options["logits_to_keep"] = plan.keep
        with self._turn():
            if shared is not None:
                key = (plan.policy.fingerprint, plan.prompt.rule)
                hit = key in self.prefixes
                cache = self.prefixes.get_or_make(key, lambda: self._compute(shared.ids))
                tokens, again = shared.ids.shape[1], len(frames) - (not hit)
                self.counters.add(
                    prefix_hits=int(hit),
                    prefix_misses=int(not hit),
                    tokens_computed=0 if hit else tokens,
                    tokens_reused=again * tokens,
                )
                options |= {"past_key_values": fork_prefix(cache, len(frames)), "use_cache": True}
            return self.loaded.model(**inputs, **options).logits[:, -plan.keep :]

    def _explain(self, plan: Plan, frames: Sequence[PILImage], scores: Sequence[Scores]) -> list[Result]:

        begun = [
            plan.answered(score.rating, score.category if score.rating is Rating.UNSAFE else None)
            for score in scores
        ]
        with self.counters.timed("prepare"):
            inputs = self._prepare([plan.head + text for text in begun], frames, plan.special, 0)
        self._count(inputs)
        length = inputs["input_ids"].shape[1]
        bound = plan.prompt.max_new_tokens
        if self.loaded.context is not None:
            bound = max(1, min(bound, self.loaded.context - length))
        inputs = self._to_device(inputs)
        with self._turn():
            more = continuations(self.loaded, inputs, bound)
        texts = [before + after for before, after in zip(begun, more, strict=True)]
        return [explained(plan, self.dialect, score, text) for score, text in zip(scores, texts, strict=True)]

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
        mask = inputs["attention_mask"]
        real = int(mask.sum())
        self.counters.add(batch=len(mask), tokens_computed=real, tokens_padding=mask.numel() - real)

    def _prepare(self, texts: Sequence[str], frames: Sequence[PILImage], special: bool, before: int) -> Any:
        try:
            inputs = prepare(self.loaded.processor, texts, frames, special=special)
        except ValueError as error:
            raise _UnfitError(f"the model's processor does not take this image: {error}") from error
        longest = int(inputs["attention_mask"].sum(-1).max()) + before
        if self.loaded.context is not None and longest > self.loaded.context:
            raise _UnfitError(
                f"policy and image make {longest} tokens and the model takes {self.loaded.context}; "
                "set max_pixels to scale images down"
            )
        return inputs

    def _compute(self, ids: Any) -> Any:
        return compute_prefix(self.loaded.model, ids.to(self.loaded.device))

    def _to_device(self, inputs: Any) -> dict[str, Any]:
        """Tensors on the model's device, pixels in its dtype."""
        loaded = self.loaded
        return {
            name: value.to(loaded.device, loaded.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
            if hasattr(value, "to")
        }

    def _reason(self, error: Exception, request: AssessmentRequest) -> str:
        import torch

        if isinstance(error, _UnfitError):
            return str(error)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            width, height = request.frame.size
            return f"out of memory on an image of {width} x {height}; lower max_pixels or max_batch"
        text = " ".join(str(error).split()) or "no message"
        return f"the model failed: {type(error).__name__}: {text[:300]}"

    def _free_memory(self) -> None:
        import torch

        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()
