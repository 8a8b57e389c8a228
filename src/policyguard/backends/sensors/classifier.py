"""Image-classification heads of transformers: Falconsai's and its kin, read by the names of their labels.

A label's place says nothing: one maker's 0 is normal, another's is nsfw. Covered: what ``transformers.files``
refuses of any model (pickles, code, adapters, weights outside of the folder); a head without names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from policyguard.assessment import ModelIdentity
from policyguard.backends.sensors.base import LocalSensor, Sensed, Signal
from policyguard.backends.transformers import files as model_files
from policyguard.errors import MissingExtraError, ModelLoadError, UsageError
from policyguard.strict.text import shortened

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["Classifier", "load_vision"]

_SEPARATE = "multi_label_classification"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class Classifier(LocalSensor):
    """A softmax over labels (or a sigmoid for each, where the head was trained so). One signal per label.

    Args:
        model: hub id or local folder of a model that AutoModelForImageClassification loads.
        name: what policies call it: ``NAME/LABEL``.
        device: ``"cuda"``, ``"cpu"`` ...; default: the best one there is. It runs in float32.
        revision: branch, tag or commit of a hub id.

    Raises ModelLoadError for a local folder that is no such model.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str = "classifier",
        device: str | None = None,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self._location, self._device, self._revision = model, device, revision
        self._running = Lock()
        if model_files.is_local(model):
            self.signals  # noqa: B018 (looks at the folder now)

    @cached_property
    def _files(self) -> model_files.ModelFiles:
        return model_files.find(self._location, name=self._location, revision=self._revision)

    @cached_property
    def signals(self) -> Mapping[str, Signal]:
        """One per label of the model's ``id2label``. Fetches the settings of a hub model, no weights."""
        config = model_files.read_json(self._files.folder / "config.json")
        labels = config.get("id2label")
        if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
            raise ModelLoadError(
                f"model '{self._location}' names no labels in config.json",
                hint="a head whose classes have no names cannot be mapped to rules: write them to id2label",
            )
        if any(re.fullmatch(r"LABEL_\d+|\d*", label) for label in labels.values()):
            raise ModelLoadError(
                f"the labels of model '{self._location}' are numbers, which say nothing of what they mean",
                hint="write names into id2label of its config.json: its makers say which is which",
            )
        if len(names := list(dict.fromkeys(labels.values()))) < len(labels):
            raise ModelLoadError(f"model '{self._location}' gives two labels one name: {', '.join(names)}")
        separate = config.get("problem_type") == _SEPARATE
        kind: Literal["probability", "share"] = "probability" if separate else "share"
        return {label: Signal(label, f"label '{label}'", kind) for label in names}

    @cached_property
    def model(self) -> ModelIdentity:
        return ModelIdentity(
            id=self._location,
            revision=model_files.fingerprint(self._files),
            dtype="float32",
            backend="transformers",
            backend_version=version("transformers"),
        )

    @property
    def preferred_batch(self) -> int:
        return 8

    def load(self) -> Any:
        from transformers import AutoModelForImageClassification

        files = model_files.complete(self._files)
        loaded = load_vision(files, AutoModelForImageClassification, self._device)
        if model_files.fingerprint(files) != self.model.revision:
            raise ModelLoadError(
                f"the files of model '{self._location}' changed while they were loaded",
                hint="try again once nothing writes to them",
            )
        return loaded

    def sense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        import torch

        processor, model = self.weights()
        inputs = processor(images=list(frames), return_tensors="pt").to(model.device)
        with self._running, torch.inference_mode():
            logits = model(**inputs).logits.float()
        separate = model.config.problem_type == _SEPARATE
        rows = (logits.sigmoid() if separate else logits.softmax(-1)).tolist()
        names = [model.config.id2label[place] for place in range(len(rows[0]))]
        return [dict(zip(names, row, strict=True)) for row in rows]


def load_vision(files: model_files.ModelFiles, auto: Any, device: str | None) -> tuple[Any, Any]:
    """Image processor and model, from safetensors, without network and without code of its own.

    Raises ModelLoadError if it cannot be loaded, MissingExtraError without transformers.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    from policyguard.backends.transformers.placement import choose_device

    try:
        with model_files.quiet():
            processor = transformers.AutoImageProcessor.from_pretrained(files.folder, **_LOCAL)
            model, info = auto.from_pretrained(
                files.folder, dtype="float32", use_safetensors=True, output_loading_info=True, **_LOCAL
            )
    except UsageError:
        raise
    except Exception as error:
        reason = shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
        raise ModelLoadError(f"model '{files.name}' cannot be loaded: {reason}") from error
    if lacking := sorted(info["missing_keys"]):
        raise ModelLoadError(
            f"the weights of model '{files.name}' lack {len(lacking)} tensors, the first is {lacking[0]}",
            hint="fetch the model again; transformers would fill them with random numbers",
        )
    return processor, model.to(choose_device(device)).eval().requires_grad_(False)
