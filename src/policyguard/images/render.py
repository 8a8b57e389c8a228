"""From a decoded frame to the RGB pictures that people may see of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL.Image import Image as PILImage
from PIL.ImageCms import PyCMSError

from .colour import rgb, split
from .exif import orientation, upright
from .profile import Profile, disagree, gamma_corrected

__all__ = ["Renderer"]

_BACKGROUNDS = ("white", "black")


@dataclass(slots=True)
class Renderer:
    """Renders the frames of one image. ``notes`` collects what was found on the way, each remark once."""

    exif: bytes | None
    icc: bytes | None
    gamma: float | None
    notes: list[str] = field(default_factory=list)
    _profile: Profile | None = None

    @property
    def faithful(self) -> bool:
        """Whether pictures without transparency are the decoded pixels as they stand."""
        return not self.icc and not self.gamma and orientation(self.exif) == 1

    def __call__(self, frame: PILImage) -> tuple[PILImage, ...]:
        """One to four RGB pictures, upright: each reading of the colours on each background that shows."""
        colours, alpha = split(frame)
        turn = orientation(self.exif)
        return tuple(
            upright(picture, turn)
            for reading in self._readings(colours)
            for picture in _on_backgrounds(rgb(reading), alpha)
        )

    def _readings(self, colours: PILImage) -> list[PILImage]:
        """The colours as the file means them, and, if that is something else altogether, as they stand."""
        meant = None
        if self.icc:
            try:
                self._profile = self._profile or Profile(self.icc)
                meant = self._profile.to_srgb(colours)
            except (OSError, ValueError, TypeError, PyCMSError) as error:
                self._note(f"its colour profile was not applied: {' '.join(str(error).split())[:100]}")
        elif self.gamma and colours.mode != "CMYK":
            meant = gamma_corrected(colours, self.gamma)
        if meant is None:
            return [colours]
        if not disagree(meant, colours):
            return [meant]
        self._note("viewers disagree on its colours; judged with and without its colour information")
        return [meant, colours]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _on_backgrounds(picture: PILImage, alpha: PILImage | None) -> list[PILImage]:
    if alpha is None:
        return [picture]
    shown = []
    for colour in _BACKGROUNDS:
        canvas = pil.new("RGB", picture.size, colour)
        canvas.paste(picture, mask=alpha)
        shown.append(canvas)
    return shown
