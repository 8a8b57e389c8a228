"""NudeNet 3.4: boxes of eighteen classes of bare and covered parts of bodies.

The package's metadata say MIT, its licence files AGPL-3.0, and it derives from YOLOv8: it is an extra that
nobody else brings in. Covered: it is given 8-bit pixels that we decoded, in the order of channels of its own
file reader; left to itself it reads the same image in several ways, and 16-bit files as something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from policyguard.assessment import ModelIdentity
from policyguard.backends.sensors.base import LocalSensor, Sensed, Signal
from policyguard.backends.sensors.open_nsfw import packaged_file

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["NudeNet"]

_PARTS = ("ANUS", "ARMPITS", "BELLY", "BUTTOCKS", "FEET")
_CLASSES = (
    *(f"{part}_COVERED" for part in _PARTS),
    *(f"{part}_EXPOSED" for part in _PARTS),
    *("FACE_FEMALE", "FACE_MALE"),
    *("FEMALE_BREAST_COVERED", "FEMALE_BREAST_EXPOSED", "MALE_BREAST_EXPOSED"),
    *("FEMALE_GENITALIA_COVERED", "FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED"),
)


class NudeNet(LocalSensor):
    """The highest confidence of a box of each class; 0 where there is none.

    Raises MissingExtraError without the extra ``nudenet``.
    """

    name = "nudenet"
    signals = {name: Signal(name, kind="confidence") for name in _CLASSES}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._file = packaged_file("nudenet", "320n.onnx", extra="nudenet")

    @cached_property
    def model(self) -> ModelIdentity:
        return ModelIdentity(
            id=self.name,
            revision=f"sha256:{hashlib.sha256(self._file.read_bytes()).hexdigest()}",
            backend="nudenet",
            backend_version=version("nudenet"),
        )

    def load(self) -> Any:
        from nudenet import NudeDetector

        return NudeDetector(str(self._file))

    def sense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        import numpy as np

        detector, answers = self.weights(), []
        for frame in frames:
            bgr = np.ascontiguousarray(np.asarray(frame.convert("RGB"))[..., ::-1])
            scores = dict.fromkeys(_CLASSES, 0.0)
            for box in detector.detect(bgr):
                scores[box["class"]] = max(scores[box["class"]], float(box["score"]))
            answers.append(scores)
        return list(answers)
