"""Pictures from outside pico's world: on these it must answer " undecided".

Four kinds. *Photographs* are square crops of the pictures that scikit-image, scikit-learn and matplotlib
bring along; whole sources are held out, all of scikit-learn's and matplotlib's among them. *Synthetic*
pictures come in families; some families are never trained on. *Drawings* (``drawings.py``) and *glyphs*
(``glyphs.py``) are flat pictures of other things than the world's; what is held out of them is by other code
and other artists. Every generator takes a numpy ``Generator`` and returns uint8 [96, 96, 3].
"""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawings import HELD_OUT_DRAWINGS, TRAINING_DRAWINGS
from families import HELD_OUT_FAMILIES, PLAIN, SIDE, TRAINING_FAMILIES, Picture, Rng, to_bytes
from glyphs import HELD_OUT_GLYPHS, draw_glyphs

TRAINING_PHOTOGRAPHS = {
    "skimage": (
        "astronaut.png", "camera.png", "motorcycle_left.png", "rocket.jpg", "ihc.png", "gravel.png",
        "grass.png", "cell.png", "clock_motion.png", "text.png", "retina.jpg", "hubble_deep_field.jpg",
        "lfw_subset.npy",
    ),
}  # fmt: skip
HELD_OUT_PHOTOGRAPHS = {
    "sklearn": ("china.jpg", "flower.jpg"),
    "matplotlib": ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png"),
    "skimage": ("coffee.png", "chelsea.png", "moon.png", "coins.png", "brick.png", "page.png"),
}
_FOLDERS = {
    "skimage": ("skimage", "data"),
    "sklearn": ("sklearn.datasets", "images"),
    "matplotlib": ("matplotlib", "mpl-data", "sample_data"),
}


@functools.cache
def photograph(package: str, name: str) -> Image.Image:
    """A sample picture as RGB, at most 640 pixels wide. Face thumbnails are tiled to one sheet."""
    root, *below = _FOLDERS[package]
    path = Path(str(files(root).joinpath(*below, name)))
    if path.suffix == ".npy":
        faces = np.load(path)[:100]
        sheet = faces.reshape(10, 10, 25, 25).transpose(0, 2, 1, 3).reshape(250, 250)
        return Image.fromarray((sheet * 255).astype(np.uint8)).convert("RGB")
    picture = Image.open(path)  # noqa: TID251 - a file of an installed package
    if picture.mode in ("RGBA", "P", "LA"):
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    picture = picture.convert("RGB")
    picture.thumbnail((640, 640))
    return picture


def crop(picture: Image.Image, rng: Rng) -> Image.Image:
    """A random square of ``picture``, from 64 pixels to the whole, resized to 96."""
    width, height = picture.size
    side = int(rng.integers(min(64, width, height), min(width, height) + 1))
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    box = (x, y, x + side, y + side)
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def _training_photograph(rng: Rng) -> Picture:
    """A crop, sometimes flipped, recoloured, blended with another, or cut up: few sources must do for all."""
    names = TRAINING_PHOTOGRAPHS["skimage"]

    def one() -> NDArray[np.float32]:
        x = np.asarray(crop(photograph("skimage", names[rng.integers(len(names))]), rng), np.float32)
        x = np.rot90(x, int(rng.integers(4))) if rng.random() < 0.4 else x
        x = x[:, ::-1] if rng.random() < 0.5 else x
        kind = rng.random()
        if kind < 0.3:
            x = x[..., rng.permutation(3)]
        elif kind < 0.6:  # tint: grey photographs are many, colours few
            tint = rng.uniform(0.4, 1.3, 3) * (x.mean(-1, keepdims=True) if rng.random() < 0.5 else x)
            x = tint + rng.uniform(-50, 50, 3)
        return x

    x = one()
    kind = rng.random()
    if kind < 0.15:
        x = x + (one() - x) * rng.uniform(0.3, 0.7)
    elif kind < 0.25:
        c = int(rng.integers(24, 72))
        x = np.concatenate((x[:, :c], one()[:, c:]), 1)
    elif kind < 0.32:
        x = 255 - x
    contrast = rng.uniform(0.5, 1.4)
    return to_bytes((x - 128) * contrast + 128 + rng.uniform(-40, 40))


GLYPH_SHARE, DRAWING_SHARE, PHOTOGRAPH_SHARE, PLAIN_SHARE = 0.6, 0.16, 0.08, 0.03
_OFTENER = {"letters": 4, "shapes": 3, "blobs": 3, "lines": 2}
"""Families most like unknown pictograms are drawn this many times as often as others."""
_FAMILIES = [family for name, family in TRAINING_FAMILIES.items() for _ in range(_OFTENER.get(name, 1))]
_DRAWINGS = list(TRAINING_DRAWINGS.values())


def draw_training(rng: Rng, *, glyphs: bool = True) -> tuple[Picture, bool]:
    """A picture to train on, and whether it is plain (its tokens are background).

    Raises FileNotFoundError where the glyphs have not been built; without ``glyphs`` none are needed.
    """
    chance = rng.random() - GLYPH_SHARE * glyphs
    if chance < 0:
        return draw_glyphs(rng), False
    if (chance := chance - DRAWING_SHARE) < 0:
        return _DRAWINGS[rng.integers(len(_DRAWINGS))](rng), False
    if (chance := chance - PHOTOGRAPH_SHARE) < 0:
        return _training_photograph(rng), False
    if chance < PLAIN_SHARE:
        return list(PLAIN.values())[rng.integers(len(PLAIN))](rng), True
    return _FAMILIES[rng.integers(len(_FAMILIES))](rng), False


def evaluation_sets(count: int, *, seed: int, glyphs: bool = True) -> dict[str, list[Picture]]:
    """``count`` pictures per source: every synthetic family, and all that is held out of training.

    ``glyphs`` as in ``draw_training``.
    """
    sets: dict[str, list[Picture]] = {}
    families = PLAIN | TRAINING_FAMILIES | HELD_OUT_FAMILIES
    for index, (name, family) in enumerate(families.items()):
        rng = np.random.default_rng((seed, index))
        held = " (family held out)" if name in HELD_OUT_FAMILIES else ""
        sets[f"synthetic/{name}{held}"] = [family(rng) for _ in range(count)]
    for kind, strangers in (("glyphs", HELD_OUT_GLYPHS if glyphs else {}), ("drawings", HELD_OUT_DRAWINGS)):
        for index, (name, family) in enumerate(strangers.items()):
            rng = np.random.default_rng((seed, 200 + index, len(kind)))
            sets[f"{kind}/{name}"] = [family(rng) for _ in range(count)]
    for package, names in HELD_OUT_PHOTOGRAPHS.items():
        for index, name in enumerate(names):
            rng = np.random.default_rng((seed, 100 + index))
            picture = photograph(package, name)
            sets[f"{package}/{name}"] = [np.array(crop(picture, rng)) for _ in range(count)]
    return sets
