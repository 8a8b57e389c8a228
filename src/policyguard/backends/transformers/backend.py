"""TransformersBackend: a guard model in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, ModelIdentity, Rating, Result
from policyguard.backends import registry
from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.backends.stats import Counters, GuardStats
from policyguard.backends.transformers import files as model_files
from policyguard.backends.transformers.ways import Ways
from policyguard.dialects.base import require_rule_scores, require_world
from policyguard.dialects.rule_by_rule import merge
from policyguard.errors import ConfigurationError, ModelLoadError
from policyguard.strict.arguments import InOneProcess, count, switch
from policyguard.strict.lru import LruDict

if TYPE_CHECKING:
    from policyguard.backends.transformers.plan import Plan
    from policyguard.backends.transformers.runner import Runner
    from policyguard.dialects.base import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = ["TransformersBackend"]

PLANS = 64
"""Tokenised prompts kept, one per policy; a plan is a few kilobytes."""


def _plan_key(policy: ResolvedPolicy) -> tuple[str, float]:
    """What the model reads, and the threshold, which says whether a broken explanation is a failure."""
    return policy.fingerprint, policy.raw(policy.threshold)


def _installed_version() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


class TransformersBackend(InOneProcess, Backend):
    """Runs any image-text-to-text model of transformers.

    Args:
        model: alias (``policyguard models``), hub id or local folder.
        dialect: how the model is spoken to; default: the one the registry knows for it.
        revision: branch, tag or commit of a hub id.
        device: ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; default: the best one there is.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"``; default: bfloat16 where the hardware has it.
        max_batch: most frames in a forward pass; default: what memory allows on a GPU, 4 on a CPU.
        max_pixels: larger frames are scaled down to it; default: what the model's processor does.
        attention: ``"eager"``, ``"sdpa"``, ``"matmul"``, ``"flash_attention_2"`` and so on; default: sdpa,
            and on a CPU in bfloat16 without AMX matmul.
        quantise: what weights are kept in: ``"int8"``, ``"fp8"`` (by torchao), ``"int4"`` (by bitsandbytes).
        compiled: run the model through ``torch.compile``; where that fails it runs as usual, and is said.
        device_map: ``"auto"`` spreads a model over several GPUs (accelerate); excludes ``device``.
        threads: CPU threads to compute with, while this backend is asked; default: see docs/backends.md.
        prefix_cache_bytes: bound on the KV prefixes of policies kept for reuse; 0 turns the reuse off.
        feature_cache_bytes: the same for what is seen of frames, which several policies share.

    ``given`` holds these arguments. Weights load on the first ``assess`` or in ``warm``. Thread-safe: frames
    are prepared in parallel, the model runs one batch at a time. Not usable in a process forked after that.
    Raises ModelLoadError, and ConfigurationError for a dialect that the model must not be asked in; for a
    local folder already here.
    """

    def __init__(
        self,
        model: str,
        *,
        dialect: Dialect | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_batch: int | None = None,
        max_pixels: int | None = None,
        prefix_cache_bytes: int = 1 << 30,
        feature_cache_bytes: int = 1 << 28,
        threads: int | None = None,
        attention: str | None = None,
        quantise: str | None = None,
        compiled: bool = False,
        device_map: str | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if max_batch is not None and max_batch < 1:
            raise ConfigurationError(
                f"max_batch={max_batch} leaves no room for an image", hint="give 1 or more"
            )
        if max_pixels is not None and max_pixels < 1:
            raise ConfigurationError(
                f"max_pixels={max_pixels} leaves nothing to see", hint="for example 512 * 512"
            )
        if device_map is not None and device is not None:
            raise ConfigurationError(
                f"device_map={device_map!r} chooses devices, and device='{device}' names one",
                hint="give one of the two",
            )
        self._ways = Ways(
            attention=attention,
            quantise=quantise,
            compiled=switch("compiled", compiled),
            device_map=device_map,
        )
        known = registry.resolve_model(model)
        self._by_hand = dialect is not None
        if dialect is None:
            from policyguard.dialects import get_dialect

            if known.sensor is not None:
                raise ModelLoadError(
                    f"model '{model}' rates images by labels of its own and reads no policy",
                    hint=f"it is a sensor: Guard(policy, model={model!r}), docs/sensors.md; or choose one "
                    "that follows instructions, such as Qwen/Qwen3-VL-4B-Instruct",
                )
            dialect = get_dialect(known.dialect)
        self.dialect = dialect
        self._name = model
        self._location = known.location
        self._revision = revision
        self._asked_device = device
        self._asked_dtype = dtype
        self._among = 1
        self._asked_threads = None if threads is None else count("threads", threads)
        self._max_batch = max_batch
        self._max_pixels = max_pixels
        self._prefix_cache_bytes = prefix_cache_bytes
        self._counters = Counters(model)
        self._feature_cache_bytes = feature_cache_bytes
        self._closed = False
        self._process: int | None = None
        self._set_up = RLock()
        self._running = Lock()
        self._files: model_files.ModelFiles | None = None
        self._placement: tuple[Any, Any] | None = None
        self._identity: ModelIdentity | None = None
        self._runner: Runner | None = None
        self._threads: Callable[[], int | None] = lambda: None
        self._plans: LruDict[tuple[str, float], tuple[Plan, ...]] = LruDict(PLANS)
        if model_files.is_local(self._location):
            self._find()

    @property
    def preferred_batch(self) -> int:
        """Frames of one call: those of one forward pass on a CPU, and on a GPU of four, from which frames of
        equal length are put together. Imports torch to look for a GPU."""
        from policyguard.backends.transformers.placement import default_batch

        device = self._place()[0]
        return (self._max_batch or default_batch(device)) * (4 if device.type == "cuda" else 1)

    @property
    def preferred_workers(self) -> int:
        """Calls at the same time: while the model runs for one, the frames of others are prepared."""
        return 3 if self._place()[0].type == "cuda" else 2

    @property
    def model(self) -> ModelIdentity:
        """Which model answers. Finds its files (fetching the settings of a hub model), loads no weights.

        Once the weights are loaded, ``revision`` stays theirs, whatever happens to the files.
        """
        with self._set_up:
            return self._identity or self._identify(model_files.fingerprint(self._find()))

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises ConfigurationError if this model cannot be asked about ``policy``; loads nothing."""
        require_world(self.dialect, policy)
        require_rule_scores(self.dialect, self.dialect.render(policy), policy)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request, in order. Raises UsageError for a wrong set-up, and after ``close``."""
        self._require_open()
        results: dict[int, Result] = {}
        groups: dict[tuple[str, float], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(_plan_key(request.policy), []).append(index)
        for key, indices in groups.items():
            if key not in self._plans:  # a policy with a plan has been accepted
                self.accept(requests[indices[0]].policy)
        for index, request in enumerate(requests):
            if (reason := self.dialect.precheck(request.frame)) is not None:
                results[index] = Assessment(
                    rating=Rating.UNDECIDED, p_undecided=1.0, reading=request.reading, notes=(reason,)
                )
        waiting = {
            key: [index for index in indices if index not in results] for key, indices in groups.items()
        }
        waiting = {key: indices for key, indices in waiting.items() if indices}
        if waiting:
            from policyguard.backends.transformers.placement import limited

            runner = self._load()
            with limited(self._threads()):
                results |= self._read(runner, requests, waiting)
        return [results[index] for index in range(len(requests))]

    def _read(
        self,
        runner: Runner,
        requests: Sequence[AssessmentRequest],
        waiting: dict[tuple[str, float], list[int]],
    ) -> dict[int, Result]:
        """The results of the requests whose indices ``waiting`` holds, by the key of their plans."""
        results: dict[int, Result] = {}
        plans = {key: self._plans_of(runner, requests[indices[0]].policy) for key, indices in waiting.items()}
        frames = runner.see(requests)
        batches = {}
        for key, indices in waiting.items():
            sizes = [frames[index].pixels.size for index in indices]
            batches[key] = [[indices[place] for place in batch] for batch in runner.batching.batches(sizes)]
        for turn in zip_longest(*batches.values(), fillvalue=[]):  # each frame under all policies
            for key, batch in zip(batches, turn, strict=True):
                if not batch:
                    continue
                asked = [requests[index] for index in batch]
                answers = runner.read(plans[key], asked, [frames[index] for index in batch])
                prompts = [plan.prompt for plan in plans[key]]
                for index, row in zip(batch, zip(*answers, strict=True), strict=True):
                    readings = list(zip(prompts, row, strict=True))
                    results[index] = merge(requests[index].policy, readings)
        return results

    def stats(self) -> GuardStats:
        return self._counters.snapshot()

    def warm(self) -> None:
        """Load the weights now."""
        self._load()

    def close(self) -> None:
        """Free the model, once a running batch is done. The backend cannot be used afterwards."""
        with self._set_up, self._running:
            self._closed = True
            self._plans.clear()
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.free()

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError(f"the backend of model '{self._name}' is closed", hint="build a new one")
        if self._process not in (None, os.getpid()):  # threads and GPU do not survive a fork: it would hang
            raise ConfigurationError(
                f"model '{self._name}' was loaded before this process was forked, and cannot be used in it",
                hint="build the guard in the child process, or use multiprocessing's 'spawn' start method",
            )

    def _find(self) -> model_files.ModelFiles:
        with self._set_up:
            if self._files is None:
                files = model_files.find(self._location, name=self._name, revision=self._revision)
                registry.require_dialect(self._name, registry.declared_dialect(files.folder), self.dialect)
                self._files = files
            return self._files

    def _identify(self, revision: str) -> ModelIdentity:
        _, dtype = self._place()
        return ModelIdentity(
            id=self._name,
            revision=revision,
            dialect=self.dialect.name,
            dialect_version=self.dialect.version,
            layout=self.dialect.layout,
            dtype=str(dtype).removeprefix("torch."),
            backend="transformers",
            world=self.dialect.world,
            quantisation=self._ways.quantisation,
            backend_version=_installed_version(),
            settings=" ".join(self._settings()),
        )

    def _settings(self) -> Iterator[str]:
        if self._max_pixels is not None:
            yield f"max_pixels={self._max_pixels}"
        if self.dialect.wording:
            yield f"wording={self.dialect.wording}"
        yield from self._ways.settings()

    def _place(self) -> tuple[Any, Any]:
        from policyguard.backends.transformers.placement import (
            choose_attention,
            choose_device,
            choose_dtype,
            dtype_reason,
        )

        with self._set_up:
            if self._placement is None:
                device = choose_device(self._asked_device)
                self._placement = device, choose_dtype(self._asked_dtype, device)
                ways = self._ways
                attention = choose_attention(
                    ways.attention, self._placement[1], device, compiled=ways.compiled
                )
                self._ways = replace(ways, attention=attention)
                self._counters.set(
                    device=str(device),
                    dtype=str(self._placement[1]).removeprefix("torch."),
                    dtype_reason=dtype_reason(self._asked_dtype, device),
                )
            return self._placement

    def _load(self) -> Runner:
        from policyguard.backends.transformers.loading import load
        from policyguard.backends.transformers.placement import ThreadChoice
        from policyguard.backends.transformers.runner import Runner

        self._require_open()  # before the lock, which a thread that the fork left behind may hold
        with self._set_up:
            self._require_open()
            if self._runner is None:
                self._process = os.getpid()
                device, dtype = self._place()
                files = model_files.complete(self._find())
                revision = model_files.fingerprint(files)
                loaded = load(files, device=device, dtype=dtype, max_pixels=self._max_pixels, ways=self._ways)
                if not self._by_hand:
                    registry.require_own_question(self._name, loaded.template, self.dialect)
                registry.require_template(self._name, loaded.template, self.dialect)
                if model_files.fingerprint(files) != revision:
                    raise ModelLoadError(
                        f"the files of model '{self._name}' changed while they were loaded",
                        hint="try again once nothing writes to them",
                    )
                self._identity = self._identify(revision)
                size = sum(parameter.numel() for parameter in loaded.model.parameters())
                self._threads = ThreadChoice(device, size, self._asked_threads, self._among, self._counters)
                self._threads()
                self._runner = Runner(
                    loaded,
                    self.dialect,
                    lock=self._running,
                    max_pixels=self._max_pixels,
                    prefix_bytes=self._prefix_cache_bytes,
                    counters=self._counters,
                    feature_bytes=self._feature_cache_bytes,
                    compiled=self._ways.compiled,
                    max_batch=self._max_batch,
                )
            return self._runner

    def _plans_of(self, runner: Runner, policy: ResolvedPolicy) -> tuple[Plan, ...]:
        from policyguard.backends.transformers.plan import make_plan

        def make() -> tuple[Plan, ...]:
            share = runner.shares_prefixes
            prompts = self.dialect.render(policy)
            return tuple(make_plan(runner.loaded, prompt, policy, share_prefix=share) for prompt in prompts)

        with self._set_up:
            return self._plans.get_or_make(_plan_key(policy), make)
