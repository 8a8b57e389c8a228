"""What a model sees of a frame, computed once: the prepared pixels, and what its vision tower makes of them.

Several policies, the questions of a dialect that asks rule by rule, and the second round under stricter rules
all look at the same frames. Frames are told apart by a hash over the very pixels that the model gets, made
here: a name that a caller could choose might give one image the features of another, and so its verdict.

For the families in ``SPLITS`` features are kept by frame, and a batch of frames is put together from them; a
test compares each with the features of the whole batch. For any other family they are kept by batch: the same
frames in the same order. Both are bounded by bytes, and dropped with the model.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections import UserDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any

from policyguard.backends.stats import Counters
from policyguard.strict.lru import LruDict

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["SPLITS", "Frame", "Looks", "PreparedFrames"]

SPLITS = frozenset(
    {
        "gemma3",
        "glm4v",
        "idefics3",
        "internvl",
        "llama4",
        "llava",
        "llava_next",
        "llava_onevision",
        "mistral3",
        "mllama",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_vl",
        "qwen3_vl_moe",
        "shieldgemma2",
        "smolvlm",
    }
)
"""Model types whose features of a batch are those of its frames, one after the other."""

PREPARED_BYTES = 128 << 20
"""Bound on the pixels that are kept ready, in main memory."""

TOKENISED = 256
"""Bound on the texts, with the sizes of their frames, whose tokens are kept."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture as the model gets it, and the name of its pixels."""

    pixels: PILImage
    name: bytes

    @classmethod
    def of(cls, pixels: PILImage) -> Frame:
        """Named by SHA-256 over mode, size and bytes."""
        hashed = hashlib.sha256(f"{pixels.mode} {pixels.size}\n".encode())
        hashed.update(pixels.tobytes())
        return cls(pixels, hashed.digest())


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What a processor makes of texts for frames of certain sizes, and how it calls its image part.

    ``text``: inputs that are not the image part's; ``layout``: what the image part said besides pixels, by
    which the number of image tokens goes; ``order``: the names of all inputs.
    """

    order: tuple[str, ...]
    text: Mapping[str, Any]
    layout: Mapping[str, Any]
    nested: bool
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, inputs: Any, call: tuple[Any, Any, Any], frames: Sequence[Frame]) -> _Tokens | None:
        """Of ``inputs`` and the ``call`` (images, settings, result) for them; ``None`` if that is not all."""
        images, settings, found = call
        if not isinstance(images, list | tuple) or not isinstance(found, Mapping | UserDict):
            return None
        nested = all(isinstance(one, list) and len(one) == 1 for one in images)
        given = [one[0] for one in images] if nested else list(images)
        same = list(map(id, given)) == [id(frame.pixels) for frame in frames]
        layout, text = _layout(found), {name: inputs[name] for name in inputs if name not in found}
        passed_on = all(inputs[name] is found[name] for name in inputs if name in found)
        plain = all(hasattr(value, "clone") for value in text.values())
        if layout is None or not passed_on or not plain or not same:
            return None
        own = {name: value.clone() for name, value in text.items()}  # whoever gets them may write to them
        return cls(tuple(inputs), own, layout, nested, settings)

    def with_pixels(self, image_part: PreparedFrames, frames: Sequence[Frame]) -> dict[str, Any] | None:
        """The inputs for ``frames`` of those sizes; ``None`` where the image part says something else."""
        pixels = [frame.pixels for frame in frames]
        found = image_part([[one] for one in pixels] if self.nested else pixels, **self.settings)
        if _layout(found) != self.layout:
            return None
        text = self.text
        return {name: text[name].clone() if name in text else found[name] for name in self.order}


class PreparedFrames:
    """Stands for a processor's image part, and inside ``of`` prepares no batch of frames twice.

    Thread-safe: ``of`` concerns the thread that it is called in.
    """

    def __init__(self, inner: Any, max_bytes: int = PREPARED_BYTES) -> None:
        self.inner = inner
        self._kept: LruDict[Hashable, Any] = LruDict(max_bytes, weigh=_bytes_of)
        self._tokens: LruDict[Hashable, _Tokens] = LruDict(TOKENISED)
        self._here = local()

    def inputs(
        self, texts: Sequence[str], frames: Sequence[Frame], *, special: bool, whole: Callable[[], Any]
    ) -> Mapping[str, Any]:
        """What ``whole``, a call of the processor, makes of ``texts`` and ``frames``.

        Texts are tokenised once for frames of the same sizes: only the pixels differ then.
        """
        sizes = tuple((frame.pixels.mode, frame.pixels.size) for frame in frames)
        key = tuple(texts), special, sizes
        with self.of(frames):
            known = self._tokens.get(key)
            if known is not None and (inputs := known.with_pixels(self, frames)) is not None:
                return inputs
            made = whole()
            if (call := getattr(self._here, "call", None)) and (learnt := _Tokens.of(made, call, frames)):
                self._tokens.put(key, learnt)
        return dict(made)

    @contextmanager
    def of(self, frames: Sequence[Frame]) -> Iterator[None]:
        """Inside, the processor is called with these frames, in this order."""
        self._here.frames = tuple(frame.name for frame in frames)
        try:
            yield
        finally:
            self._here.__dict__.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        frames = getattr(self._here, "frames", None)
        if frames is None:
            return self.inner(*args, **kwargs)
        settings = sorted((name, repr(value)) for name, value in kwargs.items() if name != "images")
        key = (frames, tuple(settings))
        if (found := self._kept.get(key)) is None:
            found = self.inner(*args, **kwargs)
            self._kept.put(key, found)
        images = args[0] if args else kwargs.get("images")
        self._here.call = images, {name: value for name, value in kwargs.items() if name != "images"}, found
        return copy.copy(found)  # processors take things out of what they get

    def clear(self) -> None:
        self._kept.clear()
        self._tokens.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:  # when a processor is printed or saved
        return copy.deepcopy(self.inner, memo)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The frames of the forward pass that is under way, and how many image tokens each has in it."""

    frames: tuple[bytes, ...]
    tokens: tuple[int, ...]

    def only(self, places: Sequence[int]) -> _Batch:
        return _Batch(tuple(self.frames[i] for i in places), tuple(self.tokens[i] for i in places))

    def rows(self, size: int) -> list[int] | None:
        """Of a tensor with ``size`` rows, how many belong to each frame: one, or by share of the tokens."""
        if size == len(self.frames):
            return [1] * size
        total = sum(self.tokens)
        if not total or any(count * size % total for count in self.tokens):
            return None
        return [count * size // total for count in self.tokens]


class _UnequalError(Exception):
    """A tensor does not fall into frames."""


class Looks:
    """Stands for ``get_image_features`` of a model: inside ``of``, each frame is looked at once.

    ``kept`` holds the features, least recently used out first. Not thread-safe: the model's lock is held.
    """

    def __init__(self, function: Any, *, splits: bool, max_bytes: int, counters: Counters) -> None:
        self.function = function
        if function is not None:
            self.__signature__ = inspect.signature(function)  # ``generate`` passes what is named there
        self.kept: LruDict[Hashable, dict[str, Any]] = LruDict(max_bytes, weigh=_bytes_of)
        self._counters = counters
        self._splits = splits
        self._batch: _Batch | None = None
        self._kind: Any = None  # of output

    @contextmanager
    def of(self, frames: Sequence[Frame], tokens: Sequence[int]) -> Iterator[None]:
        """Inside, the model runs on these frames, one a row, with so many image tokens each."""
        names = tuple(frame.name for frame in frames)
        self._batch = _Batch(names, tuple(tokens))
        try:
            yield
        finally:
            self._batch = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = self._batch
        if batch is None:
            return self.function(*args, **kwargs)
        if self.kept.limit <= 0:
            self._counters.add(looks=len(batch.frames))
            return self.function(*args, **kwargs)
        if not self._splits:
            return self._as_a_whole(batch, args, kwargs)
        try:
            return self._by_frame(batch, args, kwargs)
        except _UnequalError:
            return self._as_a_whole(batch, args, kwargs)

    def _as_a_whole(self, batch: _Batch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        key = ("batch", *batch.frames)
        if (found := self.kept.get(key)) is None:
            self._counters.add(looks=len(batch.frames))
            found = {"": self.function(*args, **kwargs)}
            self.kept.put(key, found)
        else:
            self._counters.add(looks_reused=len(batch.frames))
        return copy.copy(found[""])

    def _by_frame(self, batch: _Batch, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        keys = list(zip(batch.frames, batch.tokens, strict=True))
        have = {key: found for key in keys if (found := self.kept.get(key)) is not None}
        missing = [place for place, key in enumerate(keys) if key not in have]
        missing = [place for place in missing if keys.index(keys[place]) == place]  # twice in one batch
        self._counters.add(looks_reused=len(keys) - len(missing))
        if missing:
            new = batch.only(missing)
            if len(missing) < len(keys):
                args = tuple(_some(value, batch, missing) for value in args)
                kwargs = {name: _some(value, batch, missing) for name, value in kwargs.items()}
            output = self.function(*args, **kwargs)
            self._kind = type(output)
            self._counters.add(looks=len(missing))
            for place, features in zip(missing, _parted(output, new), strict=True):
                have[keys[place]] = features
                self.kept.put(keys[place], features)
        return self._kind(**_joined([have[key] for key in keys]))


def _layout(found: Any) -> dict[str, Any] | None:
    """What an image part says besides the pixels themselves; ``None`` where it cannot be told apart."""
    layout: dict[str, Any] = {}
    for name, value in found.items():
        if hasattr(value, "is_floating_point"):
            layout[name] = tuple(value.shape) if value.is_floating_point() else value.tolist()
        elif isinstance(value, list) and not _bytes_of(value):
            layout[name] = repr(value)
        else:
            return None
    return layout


def _some(value: Any, batch: _Batch, places: Sequence[int]) -> Any:
    """Of an argument the part that belongs to the frames at ``places``. Raises _UnequalError."""
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return value
    parts = _rows(value, batch)
    return torch.cat([parts[place] for place in places])


def _rows(tensor: Any, batch: _Batch) -> list[Any]:
    if (rows := batch.rows(tensor.shape[0])) is None:
        raise _UnequalError
    return list(tensor.split(rows))


def _parted(output: Any, batch: _Batch) -> list[dict[str, Any]]:
    """``output`` by frame: the features that models read, and nothing else of it.

    A list of tensors has one for each frame, one under ``deepstack_features`` a layer's.
    """
    name = "pooler_output" if output.get("pooler_output") is not None else "last_hidden_state"
    parted = [{name: part} for part in _of_frames(output[name], batch)]
    if (layers := output.get("deepstack_features")) is not None:
        by_layer = [_of_frames(layer, batch) for layer in layers]
        for place, features in enumerate(parted):
            features["deepstack_features"] = [layer[place] for layer in by_layer]
    return parted


def _of_frames(value: Any, batch: _Batch) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        # A view would keep the whole batch in memory for as long as any of its frames.
        return [part.clone() for part in _rows(value, batch)]
    if len(value) != len(batch.frames):
        raise _UnequalError
    return [(part.clone(),) for part in value]


def _joined(frames: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The features of ``frames`` as those of one batch, in the shape that the model gives them."""
    joined: dict[str, Any] = {}
    for name, first in frames[0].items():
        if name == "deepstack_features":
            joined[name] = [_join([frame[name][layer] for frame in frames]) for layer in range(len(first))]
        else:
            joined[name] = _join([frame[name] for frame in frames])
    return joined


def _join(parts: Sequence[Any]) -> Any:
    import torch

    if isinstance(parts[0], tuple):
        return tuple(part for (part,) in parts)
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _bytes_of(value: Any) -> int:
    import torch

    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of, value))
    return 0
