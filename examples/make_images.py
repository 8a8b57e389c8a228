"""Draws examples/images: PictoSafe scenes at four times their native size, and one picture that is no scene.

python examples/make_images.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from policyguard.pictosafe import Placement, Renderer, Scene

FOLDER = Path(__file__).parent / "images"
SLOTS = ((8, 8), (56, 8), (8, 56), (56, 56))

# file -> drawing style, background, pictograms (a * hangs it in a museum frame)
SCENES = {
    "armoury": ("noto", 6, "dagger horse axe"),
    "museum": ("noto", 6, "dagger* horse axe*"),
    "pair-dagger": ("fluent", 129, "guitar dagger cactus"),
    "pair-camera": ("fluent", 129, "guitar camera cactus"),
    "bar": ("twemoji", 40, "cocktail pizza saxophone beer"),
    "rally": ("noto", 77, "placard megaphone tree"),
    "beach": ("twemoji", 52, "bikini sun palm"),
    "picnic": ("fluent", 20, "dog apple sunflower cake"),
}


def scene(background: int, words: str) -> Scene:
    """The pictograms of ``words`` in the four quarters, each a little turned."""
    placements = tuple(
        Placement(word.rstrip("*"), x, y, 32, place * 3 % 8, "framed" if word.endswith("*") else None, 1)
        for place, (word, (x, y)) in enumerate(zip(words.split(), SLOTS, strict=False))
    )
    return Scene(placements, background, shift=0, gain=1.0)


def chart() -> Image.Image:
    """A bar chart: a perfectly harmless picture that pico knows nothing about."""
    picture = Image.new("RGB", (384, 384), "white")
    draw = ImageDraw.Draw(picture)
    draw.line((48, 30, 48, 340, 356, 340), fill="black", width=3)
    for number, height in enumerate((120, 190, 90, 250, 210)):
        left = 68 + 58 * number
        draw.rectangle((left, 338 - height, left + 38, 338), fill=(70, 110 + 25 * number, 180))
        draw.text((left + 12, 346), f"Q{number + 1}", fill="black")
    draw.text((130, 8), "Orders per quarter", fill="black")
    return picture


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (style, background, words) in SCENES.items():
        Renderer(style).draw(scene(background, words), scale=4).save(FOLDER / f"{name}.png", optimize=True)
    chart().save(FOLDER / "chart.png", optimize=True)


if __name__ == "__main__":
    main()
