"""The vendored sprite archive: one atlas per drawing style, beside the notices of its makers' licences."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Final, Literal, get_args

from PIL import Image

from policyguard.bench.pictosafe.world import NAMES
from policyguard.errors import ConfigurationError

__all__ = ["STYLES", "Style", "read_atlas", "sprites"]

Style = Literal["noto", "twemoji", "fluent"]
STYLES: Final[tuple[Style, ...]] = get_args(Style)


@cache
def sprites(style: Style) -> dict[str, Image.Image]:
    """Every pictogram of ``style`` by name, as square RGBA pictures of about 96 pixels."""
    return read_atlas(files("policyguard.bench.pictosafe") / "assets", style)


def read_atlas(folder: Traversable, style: str) -> dict[str, Image.Image]:
    """The pictograms of one atlas by name; without those that the style lacks."""
    index = json.loads((folder / "index.json").read_text())
    if index["names"] != list(NAMES):
        raise ConfigurationError(
            "the sprite archive was built for other pictograms", hint="run train/pico/build_sprites.py again"
        )
    # Bytes that ship with the package; images/ is for pictures that somebody hands in.
    with Image.open(BytesIO((folder / f"{style}.webp").read_bytes())) as file:  # noqa: TID251
        atlas = file.convert("RGBA")
    cell, columns = index["cell"], index["columns"]
    corners = [(place % columns * cell, place // columns * cell) for place in range(len(NAMES))]
    missing = index["styles"][style].get("missing", ())
    return {
        name: atlas.crop((x, y, x + cell, y + cell))
        for name, (x, y) in zip(NAMES, corners, strict=True)
        if name not in missing
    }
