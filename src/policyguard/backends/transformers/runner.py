"""Run batches of pictures under one plan through a loaded model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, AssessmentRequest, Failure, FailureKind, Rating, Reading
from policyguard.backends.transformers import prefix
from policyguard.backends.transformers.processors import prepare, shrink
from policyguard.backends.transformers.reading import Scores, continuations, explained, read_scores
from policyguard.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.backends.transformers.loading import LoadedModel
    from policyguard.backends.transformers.plan import Plan
    from policyguard.dialects.base import Dialect

__all__ = ["Runner"]

Result = Assessment | Failure


class _UnfitError(Exception):
    """A picture that the model cannot take, and why."""


class Runner:
    """A loaded model with its prefix cache. ``lock`` is held while the model runs."""

    def __init__(
        self, loaded: LoadedModel, dialect: Dialect, *, lock: Lock, max_pixels: int | None, prefix_bytes: int
    ) -> None:
        self.loaded = loaded
        self.dialect = dialect
        self.prefixes = prefix.PrefixCache(prefix_bytes)
        self.has_mrope = prefix.supports(loaded.model)
        self.shares_prefixes = self.has_mrope and prefix_bytes > 0
        self._lock = lock
        self._max_pixels = max_pixels
        self._keeps_logits = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters

    def attempt(self, plan: Plan, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request. A batch that fails is tried one by one; what fails then is a Failure."""
        try:
            return self._run(plan, requests)
        except UsageError:
            raise
        except Exception as error:
            # The edge to torch and transformers: what they raise concerns these pictures, and none is lost.
            reason, kind = self._reason(error, requests[0]), FailureKind.ERROR
            if isinstance(error, _UnfitError):
                kind = FailureKind.UNSCANNABLE
        self._free_memory()
        if len(requests) == 1:
            return [Failure(kind, reason)]
        return [self.attempt(plan, [request])[0] for request in requests]

    def free(self) -> None:
        """Drop the prefixes, and give GPU memory back."""
        self.prefixes.clear()
        self._free_memory()

    def _run(self, plan: Plan, requests: Sequence[AssessmentRequest]) -> list[Result]:
        frames = [shrink(self.loaded.processor, request.frame, self._max_pixels) for request in requests]
        scores = read_scores(plan, self._forward(plan, frames))
        results: dict[int, Result] = {}
        explain = []
        for index, (request, found) in enumerate(zip(requests, scores, strict=True)):
            if found is None:
                results[index] = Failure(FailureKind.ERROR, "the model's scores are not finite numbers")
            elif request.reading is Reading.EXPLAIN:
                explain.append((index, found))
            else:
                results[index] = found.assessment(plan)
        if explain:
            answers = self._explain(
                plan, [frames[index] for index, _ in explain], [found for _, found in explain]
            )
            results.update(zip((index for index, _ in explain), answers, strict=True))
        return [results[index] for index in range(len(requests))]

    def _forward(self, plan: Plan, frames: Sequence[PILImage]) -> Any:
        """Logits of shape (pictures, at least ``plan.keep``, vocabulary), from one forward pass."""
        import torch

        shared = plan.prefix
        text, special = (plan.text, plan.special) if shared is None else (shared.rest, False)
        inputs: Any = self._prepare(
            [text] * len(frames), frames, special, 0 if shared is None else shared.ids.shape[1]
        )
        if self.has_mrope:
            inputs = prefix.with_positions(self.loaded.model, inputs, None if shared is None else shared.ids)
        inputs = self._to_device(inputs)
        options: dict[str, Any] = {"use_cache": False}
        if self._keeps_logits:
            options["logits_to_keep"] = plan.keep
        with self._lock, torch.inference_mode():
            if shared is not None:
                cache = self.prefixes.get(plan.policy.fingerprint, lambda: self._compute(shared.ids))
                options |= {"past_key_values": prefix.fork(cache, len(frames)), "use_cache": True}
            return self.loaded.model(**inputs, **options).logits[:, -plan.keep :]

    def _explain(self, plan: Plan, frames: Sequence[PILImage], scores: Sequence[Scores]) -> list[Result]:
        import torch

        said = [
            plan.answered(found.rating, found.category if found.rating is Rating.UNSAFE else None)
            for found in scores
        ]
        inputs = self._prepare([plan.head + text for text in said], frames, plan.special, 0)
        length = inputs["input_ids"].shape[1]
        bound = plan.prompt.max_new_tokens
        if self.loaded.context is not None:
            bound = max(1, min(bound, self.loaded.context - length))
        inputs = self._to_device(inputs)
        with self._lock, torch.inference_mode():
            more = continuations(self.loaded, inputs, bound)
        texts = [before + after for before, after in zip(said, more, strict=True)]
        return [explained(plan, self.dialect, found, text) for found, text in zip(scores, texts, strict=True)]

    def _prepare(self, texts: Sequence[str], frames: Sequence[PILImage], special: bool, before: int) -> Any:
        try:
            inputs = prepare(self.loaded.processor, texts, frames, special=special)
        except ValueError as error:
            raise _UnfitError(f"the model's processor does not take this picture: {error}") from error
        longest = int(inputs["attention_mask"].sum(-1).max()) + before
        if self.loaded.context is not None and longest > self.loaded.context:
            raise _UnfitError(
                f"policy and picture make {longest} tokens and the model takes {self.loaded.context}; "
                "set max_pixels to scale pictures down"
            )
        return inputs

    def _compute(self, ids: Any) -> Any:
        return prefix.compute(self.loaded.model, ids.to(self.loaded.device))

    def _to_device(self, inputs: Any) -> dict[str, Any]:
        """Tensors on the model's device, pictures in its dtype."""
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
            return f"out of memory on a picture of {width} x {height}; lower max_pixels or max_batch"
        text = " ".join(str(error).split()) or "no message"
        return f"the model failed: {type(error).__name__}: {text[:300]}"

    def _free_memory(self) -> None:
        import torch

        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()
