"""Writes the images of `policyguard demo` as files, and the picture at the top of the README.

python examples/make_images.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from policyguard.cli.demo import draw

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "images"
PAIR = ("pair-camera", "pair-dagger")
POLICIES = {  # policy: what it forbids, and what its verdicts on the pair are
    "pictosafe/l1": ("hazard signs only", ("allow", "allow")),
    "pictosafe/l3": ("weapons, drink, smoking, slogans", ("allow", "block")),
}
COLOURS = {"allow": "#1a7f37", "block": "#cf222e"}


def readme_picture() -> Image.Image:
    """Two images that differ in one pictogram, under two policies: four verdicts."""
    picture = Image.new("RGB", (1000, 330), "white")
    pen = ImageDraw.Draw(picture)
    images = draw()
    for row, name in enumerate(PAIR):
        top = 60 + row * 130
        picture.paste(images[name].resize((120, 120), Image.Resampling.LANCZOS), (40, top))
        for column, (policy, (about, verdicts)) in enumerate(POLICIES.items()):
            left, action = 220 + column * 390, verdicts[row]
            if row == 0:
                pen.text((left, 8), f"policy {policy}", fill="black", font=ImageFont.load_default(22))
                pen.text((left, 34), about, fill="#57606a", font=ImageFont.load_default(17))
            pen.rounded_rectangle((left, top + 35, left + 160, top + 85), 25, fill=COLOURS[action])
            pen.text(
                (left + 80, top + 60),
                action.upper(),
                fill="white",
                font=ImageFont.load_default(24),
                anchor="mm",
            )
    return picture


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, image in draw().items():
        image.save(FOLDER / f"{name}.png", optimize=True)
    readme_picture().quantize(128).save(ROOT / "docs" / "two-policies.png", optimize=True)


if __name__ == "__main__":
    main()
