"""A diffusers pipeline whose pictures are judged by your policy, in place of the built-in safety checker.

    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained(..., safety_checker=None, requires_safety_checker=False)
    pipeline = GuardedPipeline(pipeline, Guard(policy="house.yaml", model="Qwen/Qwen3-VL-4B-Instruct"))
    out = pipeline("a quiet street")
    out.images, out.verdicts

A blocked picture is replaced by a grey one of its size, so that the others of the batch keep their places;
with ``on_block="raise"`` the call raises PolicyViolation. What comes out as latents cannot be judged, and is
refused. Not covered: previews that a ``callback_on_step_end`` is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from policyguard import ConfigurationError, Guard, Verdict

__all__ = ["Generated", "GuardedPipeline"]


@dataclass(frozen=True)
class Generated:
    """What a guarded pipeline gives. ``images`` and ``verdicts`` belong together, one by one."""

    images: list[Image.Image]
    verdicts: list[Verdict]
    pipeline_output: Any

    @property
    def blocked(self) -> list[bool]:
        """Which pictures were blocked, in the manner of ``nsfw_content_detected``."""
        return [not verdict.allowed for verdict in self.verdicts]


class GuardedPipeline:
    """Calls ``pipeline`` and judges every picture that it gives; all else is the pipeline's own."""

    def __init__(
        self, pipeline: Any, guard: Guard, *, on_block: Literal["replace", "raise"] = "replace"
    ) -> None:
        if on_block not in ("replace", "raise"):
            raise ConfigurationError(f"on_block is {on_block!r}; it must be 'replace' or 'raise'")
        self.pipeline, self.guard, self.on_block = pipeline, guard, on_block

    def __call__(self, *args: Any, **kwargs: Any) -> Generated:
        if kwargs.get("output_type", "pil") != "pil" or kwargs.get("return_dict", True) is not True:
            raise ConfigurationError("a guarded pipeline gives PIL images: leave output_type and return_dict")
        output = self.pipeline(*args, **kwargs)
        images = _pictures(output)
        verdicts = list(self.guard.check_many(images))
        if self.on_block == "raise":
            for verdict in verdicts:
                verdict.raise_for_block()
        shown = [
            image if verdict.allowed else Image.new("RGB", image.size, (128, 128, 128))
            for image, verdict in zip(images, verdicts, strict=True)
        ]
        output.images = shown  # what is blocked is not left behind in what the pipeline gave
        return Generated(shown, verdicts, output)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipeline, name)


def _pictures(output: Any) -> list[Image.Image]:
    """The pictures, from a list or (video, several prompts) a list of lists."""
    images: list[Any] = list(getattr(output, "images", None) or [])
    if not images or not all(isinstance(image, Image.Image) for image in images):
        raise ConfigurationError("the pipeline gave no list of PIL images, so nothing of it can be judged")
    return images
