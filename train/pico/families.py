"""Synthetic pictures from outside pico's world, in families. Each takes a numpy ``Generator``.

All return uint8 [96, 96, 3]. ``outside`` says which families are trained on and which are held out.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Picture = NDArray[np.uint8]
Rng = np.random.Generator
SIDE = 96


def to_bytes(x: Any) -> Picture:
    return np.ascontiguousarray(np.clip(x, 0, 255).astype(np.uint8))


def _canvas(rng: Rng, *, light: bool | None = None) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    low, high = {None: (0, 256), True: (200, 256), False: (0, 70)}[light]
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in rng.integers(low, high, 3)))
    return image, ImageDraw.Draw(image)


def colour(rng: Rng) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b


def _blank(rng: Rng) -> Picture:
    level = rng.choice([0, 255, -1])
    tone = rng.integers(0, 256, 3) if level < 0 else np.full(3, level)
    return to_bytes(
        np.broadcast_to(tone, (SIDE, SIDE, 3)) + rng.normal(0, rng.choice([0, 0, 2]), (SIDE, SIDE, 1))
    )


def _gradient(rng: Rng) -> Picture:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    if rng.random() < 0.4:
        t = np.hypot(x - rng.random(), y - rng.random())
    else:
        angle = rng.uniform(0, 2 * np.pi)
        t = np.cos(angle) * x + np.sin(angle) * y
    t = (t - t.min()) / np.ptp(t)
    stops = rng.uniform(0, 255, (int(rng.integers(2, 5)), 3))
    at = np.linspace(0, 1, len(stops))
    return to_bytes(np.stack([np.interp(t, at, stops[:, c]) for c in range(3)], -1))


def _noise(rng: Rng) -> Picture:
    block = int(rng.choice([1, 1, 2, 3, 4, 6]))
    n, channels = -(-SIDE // block), int(rng.choice([1, 3]))
    kind = rng.integers(4)
    if kind == 0:
        x = rng.uniform(0, 255, (n, n, channels))
    elif kind == 1:
        x = rng.normal(rng.uniform(60, 200), rng.uniform(20, 90), (n, n, channels))
    elif kind == 2:
        x = 255.0 * (rng.random((n, n, channels)) < rng.uniform(0.1, 0.9))
    else:
        x = np.full((n, n, channels), rng.uniform(0, 255)) + 200 * rng.standard_exponential((n, n, channels))
    x = np.kron(x, np.ones((block, block, 1)))[:SIDE, :SIDE]
    return to_bytes(np.broadcast_to(x, (SIDE, SIDE, 3)))


def _spectrum(rng: Rng) -> Picture:
    """1/f^a textures: clouds, bark, marble."""
    f = np.hypot(np.fft.fftfreq(SIDE)[:, None] * rng.uniform(0.5, 2), np.fft.rfftfreq(SIDE)[None])
    f[0, 0] = 1
    power = f ** -rng.uniform(0.7, 2.2)
    layers = []
    for _ in range(3):
        layer = np.fft.irfft2(power * np.exp(2j * np.pi * rng.random(f.shape)), s=(SIDE, SIDE))
        layers.append((layer - layer.mean()) / (layer.std() + 1e-9))
    mix = rng.uniform(0, 1)
    x = np.stack([layers[0] * mix + layer * (1 - mix) for layer in layers], -1)
    x = np.sin(x * rng.uniform(1, 4)) if rng.random() < 0.25 else x
    return to_bytes(rng.uniform(60, 190, 3) + rng.uniform(20, 80) * x)


_WORDS = [
    "the", "report", "of", "figures", "2024", "total", "and", "is", "page", "name", "value", "x",
    "I", "3.14", "market", "never", "Menu", "File", "Edit", "OK", "Cancel", "click", "hello",
    "world", "$12", "section", "=", "if", "return", "def", "for", "in", "[0]", "not",
]  # fmt: skip


@functools.cache
def font(size: int, face: str = "DejaVuSans.ttf") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(files("matplotlib").joinpath("mpl-data", "fonts", "ttf", face)), size)


_FACES = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "STIXGeneral.ttf")


def write(draw: ImageDraw.ImageDraw, rng: Rng, box: tuple[int, int, int, int], ink: Any, size: int) -> None:
    """Fill ``box`` with lines of words."""
    face = font(size, _FACES[rng.integers(len(_FACES))])
    y = box[1]
    while y + size < box[3]:
        line = " ".join(_WORDS[i] for i in rng.integers(len(_WORDS), size=12))
        room = max(2, int((box[2] - box[0]) / (size * 0.55)))
        draw.text((box[0], y), line[: int(rng.integers(room // 2, room + 1))], fill=ink, font=face)
        y += int(size * rng.uniform(1.1, 1.7)) + 1


def _text(rng: Rng) -> Picture:
    dark = rng.random() < 0.25
    image, draw = _canvas(rng, light=not dark)
    ink = tuple(int(v) for v in (rng.integers(170, 256, 3) if dark else rng.integers(0, 90, 3)))
    write(
        draw,
        rng,
        (int(rng.integers(0, 12)), int(rng.integers(0, 12)), 96, 96),
        ink,
        int(rng.integers(5, 22)),
    )
    return np.array(image)


def _table(rng: Rng) -> Picture:
    image, draw = _canvas(rng, light=True)
    ink = tuple(int(v) for v in rng.integers(0, 140, 3))
    rows, columns = int(rng.integers(3, 11)), int(rng.integers(2, 7))
    if rng.random() < 0.5:
        draw.rectangle((0, 0, 96, 96 // rows), fill=colour(rng))
    for r in range(rows):
        y = r * 96 // rows
        draw.line((0, y, 96, y), fill=ink)
        for c in range(columns):
            word = _WORDS[rng.integers(len(_WORDS))] if rng.random() < 0.5 else str(rng.integers(0, 9999))
            draw.text((c * 96 // columns + 2, y + 1), word[: 70 // columns // 4 + 1], fill=ink, font=font(7))
    for c in range(1, columns):
        if rng.random() < 0.7:
            draw.line((c * 96 // columns, 0, c * 96 // columns, 96), fill=ink)
    return np.array(image)


def _screen(rng: Rng) -> Picture:
    """Windows, bars, buttons, text fields."""
    image, draw = _canvas(rng, light=rng.random() < 0.6)
    for _ in range(int(rng.integers(1, 4))):
        x, y = (int(v) for v in rng.integers(-5, 60, 2))
        w, h = (int(v) for v in rng.integers(25, 90, 2))
        draw.rectangle((x, y, x + w, y + h), fill=colour(rng), outline=colour(rng))
        draw.rectangle((x, y, x + w, y + 6), fill=colour(rng))
        ink = (0, 0, 0) if rng.random() < 0.5 else (240, 240, 240)
        write(draw, rng, (x + 3, y + 9, x + w, y + h), ink, int(rng.integers(5, 9)))
        for _ in range(int(rng.integers(0, 4))):
            bx, by = x + int(rng.integers(0, max(1, w - 10))), y + int(rng.integers(6, max(7, h - 5)))
            bw, bh = int(rng.integers(6, 26)), int(rng.integers(4, 10))
            draw.rounded_rectangle((bx, by, bx + bw, by + bh), 2, fill=colour(rng))
    bar = int(rng.integers(4, 10))
    if rng.random() < 0.6:
        draw.rectangle((0, 0, 96, bar), fill=colour(rng))
    if rng.random() < 0.5:
        draw.rectangle((0, 96 - bar, 96, 96), fill=colour(rng))
    return np.array(image)


def _shapes_on(image: Image.Image, rng: Rng, count: int, low: int, high: int) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        size = int(rng.integers(low, high))
        x, y = (int(v) for v in rng.integers(-8, 96 - size // 2, 2))
        kind = rng.integers(5)
        edge = colour(rng) if rng.random() < 0.4 else None
        box = (x, y, x + size, y + int(size * rng.uniform(0.4, 1.3)) + 1)
        if kind == 0:
            draw.ellipse(box, fill=colour(rng), outline=edge)
        elif kind == 1:
            draw.rectangle(box, fill=colour(rng), outline=edge)
        elif kind == 2:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
            radius = rng.uniform(0.2, 0.6, len(angles)) * size
            points = [
                (x + size / 2 + r * np.cos(a), y + size / 2 + r * np.sin(a))
                for a, r in zip(angles, radius, strict=True)
            ]
            draw.polygon(points, fill=colour(rng), outline=edge)
        elif kind == 3:
            draw.pieslice(box, float(rng.uniform(0, 360)), float(rng.uniform(0, 360)), fill=colour(rng))
        else:
            draw.rounded_rectangle(
                box, size // 5, fill=colour(rng), outline=edge, width=int(rng.integers(1, 4))
            )
    return image


def _shapes(rng: Rng) -> Picture:
    ground = Image.fromarray(_GROUNDS[rng.integers(len(_GROUNDS))](rng))
    image = _shapes_on(ground, rng, int(rng.integers(1, 9)), 8, 64)
    return np.array(
        image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2))) if rng.random() < 0.3 else image
    )


def _lines(rng: Rng) -> Picture:
    image, draw = _canvas(rng, light=None if rng.random() < 0.4 else True)
    ink = colour(rng)
    for _ in range(int(rng.integers(2, 30))):
        width = int(rng.integers(1, 4))
        ink = ink if rng.random() < 0.7 else colour(rng)
        if rng.random() < 0.5:
            draw.line(
                [(int(a), int(b)) for a, b in rng.integers(-10, 106, (int(rng.integers(2, 6)), 2))],
                ink,
                width,
            )
        else:
            x, y, w, h = (int(v) for v in rng.integers(0, 80, 4))
            draw.arc(
                (x - 20, y - 20, x + w, y + h),
                float(rng.uniform(0, 360)),
                float(rng.uniform(0, 720)),
                ink,
                width,
            )
    return np.array(image)


def _stripes(rng: Rng) -> Picture:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
    t = np.cos(angle) * x + np.sin(angle) * y
    wave = np.sin(2 * np.pi * t / period + rng.uniform(0, 6))
    wave = np.sign(wave) if rng.random() < 0.5 else wave
    a, b = rng.uniform(0, 255, (2, 3))
    return to_bytes(a + (b - a) * (wave[..., None] + 1) / 2)


def _blobs(rng: Rng) -> Picture:
    """Soft lumps of colour: the nearest thing to an unknown pictogram."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    out = _GROUNDS[rng.integers(len(_GROUNDS))](rng).astype(np.float32)
    for _ in range(int(rng.integers(1, 7))):
        cx, cy, s = rng.uniform(8, 88), rng.uniform(8, 88), rng.uniform(4, 22)
        lobes, phase, depth = int(rng.integers(1, 7)), rng.uniform(0, 6), rng.uniform(0, 0.5)
        angle, distance = np.arctan2(y - cy, x - cx), np.hypot((x - cx) * rng.uniform(0.6, 1.6), y - cy)
        edge = s * (1 + depth * np.sin(lobes * angle + phase))
        mask = 1 / (1 + np.exp(np.clip((distance - edge) * rng.uniform(0.3, 3), -30, 30)))
        out = out + mask[..., None] * (rng.uniform(0, 255, 3) - out)
    return to_bytes(out)


def _letters(rng: Rng) -> Picture:
    """Big letters and digits, as large as pictograms."""
    image = Image.fromarray(_GROUNDS[rng.integers(len(_GROUNDS))](rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        letter = "ABCDEFGHKMNPQRSTUVWXYZabdefghkmnqrt23456789&%?@"[rng.integers(47)]
        face = font(int(rng.integers(18, 60)), _FACES[rng.integers(len(_FACES))])
        draw.text((int(rng.integers(-4, 66)), int(rng.integers(-8, 56))), letter, fill=colour(rng), font=face)
    return np.array(image)


# ---- never trained on


def _checker(rng: Rng) -> Picture:
    size, skew = int(rng.integers(5, 32)), float(rng.uniform(-0.4, 0.4)) if rng.random() < 0.4 else 0.0
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    board = (np.floor((x + skew * y) / size) + np.floor(y / size)) % 2
    a, b = rng.uniform(0, 255, (2, 3))
    return to_bytes(a + (b - a) * board[..., None])


def _chart(rng: Rng) -> Picture:
    image, draw = _canvas(rng, light=True)
    kind, ink = rng.integers(4), (60, 60, 60)
    n = int(rng.integers(3, 9))
    values = rng.uniform(10, 75, n)
    if kind == 0:
        for i, v in enumerate(values):
            draw.rectangle((12 + i * 80 // n, 88 - v, 10 + (i + 1) * 80 // n, 88), fill=colour(rng))
    elif kind == 1:
        for _ in range(int(rng.integers(1, 4))):
            points = [(12 + i * 80 / (n - 1), 88 - v) for i, v in enumerate(rng.uniform(5, 80, n))]
            draw.line(points, fill=colour(rng), width=int(rng.integers(1, 3)))
    elif kind == 2:
        cuts = np.concatenate(([0], np.cumsum(values) / values.sum())) * 360
        for a, b in itertools.pairwise(cuts):
            draw.pieslice((14, 14, 82, 82), float(a), float(b), fill=colour(rng), outline=(255, 255, 255))
    else:
        for x, y in rng.uniform(10, 90, (int(rng.integers(10, 60)), 2)):
            draw.ellipse((x, y, x + 3, y + 3), fill=colour(rng))
    if kind != 2:
        draw.line((10, 6, 10, 88, 94, 88), fill=ink)
    draw.text((30, 1), _WORDS[rng.integers(len(_WORDS))], fill=ink, font=font(8))
    return np.array(image)


def _code(rng: Rng) -> Picture:
    """Square bar codes: modules and three finder squares."""
    n = int(rng.choice([21, 25, 29]))
    modules = rng.random((n, n)) < 0.5
    for r, c in ((0, 0), (0, n - 7), (n - 7, 0)):
        modules[r : r + 7, c : c + 7] = True
        modules[r + 1 : r + 6, c + 1 : c + 6] = False
        modules[r + 2 : r + 5, c + 2 : c + 5] = True
    quiet = np.pad(modules, 2)
    picture = Image.fromarray((255 * ~quiet).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return np.array(picture.convert("RGB"))


def _mosaic(rng: Rng) -> Picture:
    """Voronoi cells: stained glass."""
    n = int(rng.integers(4, 40))
    seeds, colours = rng.uniform(0, SIDE, (n, 2)), rng.uniform(0, 255, (n, 3))
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    nearest = ((x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2).argmin(-1)
    return to_bytes(colours[nearest])


_GROUNDS: tuple[Callable[[Rng], Picture], ...] = (_blank, _gradient, _gradient, _spectrum)


def ground(rng: Rng) -> tuple[Image.Image, bool]:
    """What a drawing stands on: white, a flat colour, a gradient or a texture; and whether it is dark."""
    kind = rng.random()
    if kind < 0.35:
        drawn = np.full((SIDE, SIDE, 3), 255, np.uint8)
    elif kind < 0.75:
        drawn = np.full((SIDE, SIDE, 3), 1, np.uint8) * np.asarray(colour(rng), np.uint8)
    else:
        drawn = _GROUNDS[rng.integers(len(_GROUNDS))](rng)
    return Image.fromarray(drawn), bool(drawn.mean() < 110)


def caption(image: Image.Image, rng: Rng, *, dark: bool) -> None:
    """A few words at the head or the foot, as under a sign or in a joke."""
    size, ink = int(rng.integers(7, 18)), (245, 245, 245) if dark else (15, 15, 15)
    top = int(rng.integers(0, 8)) if rng.random() < 0.4 else SIDE - size - int(rng.integers(2, 8))
    left = int(rng.integers(0, 30))
    write(ImageDraw.Draw(image), rng, (left, top, SIDE, top + size + 1), ink, size)


PLAIN: dict[str, Callable[[Rng], Picture]] = {"blank": _blank, "gradient": _gradient}
"""Pictures that look like an empty scene: taught as background, which is undecided as well."""
TRAINING_FAMILIES: dict[str, Callable[[Rng], Picture]] = {
    "noise": _noise,
    "spectrum": _spectrum,
    "text": _text,
    "table": _table,
    "screen": _screen,
    "shapes": _shapes,
    "lines": _lines,
    "stripes": _stripes,
    "blobs": _blobs,
    "letters": _letters,
}
HELD_OUT_FAMILIES: dict[str, Callable[[Rng], Picture]] = {
    "checker": _checker,
    "chart": _chart,
    "code": _code,
    "mosaic": _mosaic,
}
