"""Writes the images of `policyguard demo` as files: PictoSafe scenes, and one picture that is no scene.

python examples/make_images.py
"""

from __future__ import annotations

from pathlib import Path

from policyguard.cli.demo import draw

FOLDER = Path(__file__).parent / "images"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, image in draw().items():
        image.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
