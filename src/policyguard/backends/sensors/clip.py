"""Heads on CLIP's embedding: Q16, MultiHeaded, LAION's NSFW detector, Stable Diffusion's safety checker.

Their makers publish pickles. ``examples/sensors/convert_clip_head.py`` turns one into a folder, once: the
head in ``head.safetensors``, and in ``config.json`` what it is and which CLIP it looks through. Nothing
pickled is read here. A head is one of three kinds:

- ``cosines``: softmax over 100 times the cosines between the embedding and learned prompts (Q16);
- ``layers``: for each signal linear layers, ReLU between them, a sigmoid at the end (LAION, MultiHeaded);
- ``margins``: cosines with concepts less a weight for each, rounded to thousandths, and 0.01 more if any of
  the concepts for special care is above its own (Stable Diffusion). A hit is a margin above 0.

Covered: CLIP looks at the square in the middle of an image, and the makers of heads leave it at that. Here
squares along all of the image are looked at, the middle one among them, and the highest score counts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from policyguard.assessment import Failure, FailureKind, ModelIdentity
from policyguard.backends.sensors.base import LocalSensor, Sensed, Signal
from policyguard.backends.sensors.classifier import load_vision
from policyguard.backends.transformers import files as model_files
from policyguard.errors import ModelLoadError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["ClipHead"]

_KINDS: dict[str, Literal["share", "probability", "margin"]] = {
    "cosines": "share",
    "layers": "probability",
    "margins": "margin",
}
_HEAD = "head.safetensors"
MOST_SQUARES = 9
"""Of an image that is narrower, some parts would not be looked at, so that it is not judged."""
_SCALE = 40.0
"""How steeply a margin becomes a number in [0, 1]: 0.05 above the mark is 0.88."""


def folder_of(model: str) -> Path:
    """The folder that ``model`` names: itself, or where converted heads are kept by name.

    That is ``POLICYGUARD_SENSORS``, or ``~/.cache/policyguard/sensors``. Raises ModelLoadError.
    """
    home = os.environ.get("POLICYGUARD_SENSORS") or "~/.cache/policyguard/sensors"
    for folder in (Path(model).expanduser(), Path(home).expanduser() / model):
        if (folder / _HEAD).is_file():
            return folder
    raise ModelLoadError(
        f"there is no converted head '{model}', neither here nor in {home}",
        hint=f"make it once from its makers' file: python examples/sensors/convert_clip_head.py {model} FILE",
    )


class ClipHead(LocalSensor):
    """A converted head, and the CLIP that it looks through.

    Args:
        model: folder of a converted head, or the name of one that is kept (see ``folder_of``).
        name: what policies call it; default: what its folder says.
        encoder: hub id or folder of the CLIP; default: what its folder says.
        device: ``"cuda"``, ``"cpu"`` ...; default: the best one there is. It runs in float32.

    Raises ModelLoadError for anything else.
    """

    def __init__(
        self, model: str, *, name: str | None = None, encoder: str | None = None, device: str | None = None
    ) -> None:
        super().__init__()
        self._folder = folder_of(model)
        self._settings = settings = _settings(self._folder)
        self.name = name or settings["name"]
        self._kind, self._normalised = settings["kind"], settings["normalised"]
        self._encoder, self._device = encoder or settings["encoder"], device
        if self._encoder == ".":
            self._encoder = str(self._folder / "encoder")
        self._running = Lock()

    @cached_property
    def signals(self) -> Mapping[str, Signal]:
        kind = _KINDS[self._kind]
        return {name: Signal(name, str(about), kind) for name, about in self._settings["signals"].items()}

    @cached_property
    def _files(self) -> model_files.ModelFiles:
        return model_files.find(self._encoder)

    @cached_property
    def model(self) -> ModelIdentity:
        head = model_files.fingerprint(model_files.ModelFiles(self.name, self._folder))
        return ModelIdentity(
            id=self.name,
            revision=head,
            dtype="float32",
            backend="transformers",
            backend_version=version("transformers"),
            settings=f"encoder={self._encoder} {model_files.fingerprint(self._files)}",
        )

    def load(self) -> Any:
        from safetensors.torch import load_file
        from transformers import CLIPVisionModelWithProjection

        files = model_files.complete(self._files)
        processor, encoder = load_vision(files, CLIPVisionModelWithProjection, self._device)
        head = {
            name: tensor.float().to(encoder.device)
            for name, tensor in load_file(self._folder / _HEAD).items()
        }
        self._require_fit(head, encoder.config.projection_dim)
        return processor, encoder, head

    def _require_fit(self, head: Mapping[str, Any], size: int) -> None:
        wanted = {
            "cosines": ["prompts"],
            "margins": ["concepts", "concept_marks", "special", "special_marks"],
            "layers": [f"{signal}.0.weight" for signal in self.signals],
        }[self._kind]
        if missing := [name for name in wanted if name not in head]:
            raise ModelLoadError(f"the head '{self.name}' lacks {missing[0]}", hint="convert it again")
        if self._kind == "cosines" and len(head["prompts"]) != len(self.signals):
            raise ModelLoadError(f"the head '{self.name}' does not name one signal for each prompt")
        if head[wanted[0]].shape[-1] != size:
            raise ModelLoadError(
                f"the head '{self.name}' is for embeddings of {head[wanted[0]].shape[-1]}, and those of "
                f"{self._encoder} have {size}",
                hint="give the CLIP that it was trained on as encoder=",
            )

    def sense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        import torch
        from torch.nn.functional import normalize

        processor, encoder, head = self.weights()
        answers: list[Sensed] = []
        for frame in frames:
            if max(frame.size) > MOST_SQUARES * min(frame.size):
                width, height = frame.size
                reason = f"an image of {width} by {height} is too narrow for '{self.name}' to see all of it"
                answers.append(Failure(FailureKind.UNSCANNABLE, reason))
                continue
            inputs = processor(images=squares(frame), return_tensors="pt").to(encoder.device)
            with self._running, torch.inference_mode():
                embedded = encoder(**inputs).image_embeds.float()
                if self._normalised:
                    embedded = normalize(embedded, dim=-1)
                rows = _READ[self._kind](self, embedded, head)
            highest = (max(column, key=_nan_first) for column in zip(*rows, strict=True))
            answers.append(dict(zip(self.signals, highest, strict=True)))
        return answers

    def _cosines(self, embedded: Any, head: Mapping[str, Any]) -> list[list[float]]:
        from torch.nn.functional import normalize

        rows = (100.0 * embedded @ normalize(head["prompts"], dim=-1).T).softmax(-1).tolist()
        return list(rows)

    def _layers(self, embedded: Any, head: Mapping[str, Any]) -> list[list[float]]:
        import torch
        from torch.nn.functional import linear

        columns = []
        for signal in self.signals:
            values, place = embedded, 0
            while (weight := head.get(f"{signal}.{place}.weight")) is not None:
                values = linear(values.relu() if place else values, weight, head[f"{signal}.{place}.bias"])
                place += 1
            columns.append(values[:, 0].sigmoid())
        return list(torch.stack(columns, dim=1).tolist())

    def _margins(self, embedded: Any, head: Mapping[str, Any]) -> list[list[float]]:
        from torch.nn.functional import normalize

        special = embedded @ normalize(head["special"], dim=-1).T - head["special_marks"]
        concepts = embedded @ normalize(head["concepts"], dim=-1).T - head["concept_marks"]
        rows = []
        for extra, margins in zip(special.tolist(), concepts.tolist(), strict=True):
            care = 0.01 if max(round(margin, 3) for margin in extra) > 0 else 0.0
            rows.append([_of_margin(max(round(margin + care, 3) for margin in margins))])
        return rows


_READ = {"cosines": ClipHead._cosines, "layers": ClipHead._layers, "margins": ClipHead._margins}  # noqa: SLF001


def squares(frame: PILImage) -> list[PILImage]:
    """``frame`` if it is square, else an odd number of squares that cover it, evenly spread."""
    width, height = frame.size
    side = min(width, height)
    number = math.ceil(max(width, height) / side)
    number += 1 - number % 2
    steps = [place / (number - 1) for place in range(number)] if number > 1 else [0.5]
    corners = [(round(step * (width - side)), round(step * (height - side))) for step in steps]
    return [frame.crop((left, top, left + side, top + side)) for left, top in corners]


def _nan_first(score: float) -> float:
    """So that no square hides what is wrong with another."""
    return math.inf if math.isnan(score) else score


def _of_margin(margin: float) -> float:
    """A margin, in whole thousandths, as a number that is 0.5 or more exactly where it is above 0."""
    return 1.0 / (1.0 + math.exp(-_SCALE * (margin - 0.0005)))


def _settings(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says of the head. Raises ModelLoadError unless it is all there."""
    config = model_files.read_json(folder / "config.json").get("policyguard")
    wanted = {"sensor": str, "name": str, "kind": str, "signals": dict, "encoder": str, "normalised": bool}
    if not isinstance(config, dict) or any(
        not isinstance(config.get(field), kind) for field, kind in wanted.items()
    ):
        raise ModelLoadError(
            f"{folder / 'config.json'} does not say what the head is: {json.dumps(sorted(wanted))} under "
            "'policyguard'",
            hint="convert it again",
        )
    if config["kind"] not in _KINDS or not config["signals"]:
        raise ModelLoadError(f"{folder / 'config.json'}: '{config['kind']}' is no kind of head")
    return config
