"""Guard.check against the same forward pass called directly, on a random-weight model of about 100 M.

Interleaved in one run. Goal: overhead at most 5%. Guard.check starts from the PNG bytes of a 448-pixel
picture, so decoding, hashing, preparing and deciding are overhead; the direct call has its tensors ready.
"""

from __future__ import annotations

import copy
import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from models import build_100m, policy
from PIL import Image

from policyguard import Guard
from policyguard.backends import TransformersBackend

RUNS = 15


def main() -> None:
    import torch

    with (
        tempfile.TemporaryDirectory() as folder,
        TransformersBackend(str(build_100m(Path(folder)))) as backend,
    ):
        guard = Guard(policy(words=400), backend=backend).warm()
        data = noise(448)
        guard.check(data)
        with recorded(model_of(backend)) as forwards:
            guard.check(data)
        model = model_of(backend)
        times: dict[str, list[float]] = {"direct": [], "guard": []}
        for _ in range(RUNS):
            with torch.inference_mode():
                started = perf_counter()
                for forward in forwards:
                    forward()
                times["direct"].append(perf_counter() - started)
            started = perf_counter()
            guard.check(data)
            times["guard"].append(perf_counter() - started)
        size = sum(parameter.numel() for parameter in model.parameters())
        print(f"{size / 1e6:.0f} M parameters, {backend.model.dtype}, {torch.get_num_threads()} threads, "
              f"{len(forwards)} forward pass per check, {RUNS} interleaved runs")  # fmt: skip
    for name, value in (("fastest", min), ("median", statistics.median)):
        direct, whole = value(times["direct"]), value(times["guard"])
        print(f"{name}: forward {direct * 1e3:.1f} ms, Guard.check {whole * 1e3:.1f} ms, "
              f"ratio {whole / direct:.3f} (goal: at most 1.05)")  # fmt: skip


def noise(side: int) -> bytes:
    """A PNG of random noise, ``side`` x ``side`` pixels."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def model_of(backend: TransformersBackend) -> Any:
    """The loaded model inside ``backend``; a benchmark may look where users need not."""
    return backend._load().loaded.model


@contextmanager
def recorded(model: Any) -> Iterator[list[Callable[[], Any]]]:
    """Collects the forward passes made inside as functions that repeat them on the same tensors."""
    forwards: list[Callable[[], Any]] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        kept = dict(kwargs)
        cache = fork(kept.pop("past_key_values", None))
        forwards.append(lambda: model(**kept, **({"past_key_values": fork(cache)} if cache else {})))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield forwards
    finally:
        hook.remove()


def fork(cache: Any) -> Any:
    """The same cache in new layer objects, which a forward pass may extend."""
    if cache is None:
        return None
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    return forked


if __name__ == "__main__":
    main()
