"""Draws images/: small PictoSafe scenes, the same on every machine.

python draw.py
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from policyguard.pictosafe import MARGIN, SIZES, SLOT, Placement, Renderer, Scene

FOLDER = Path(__file__).parent / "images"

# file -> drawing style, pictograms (a * hangs it in a museum frame). Edit pairs share a seed: see _seed.
SCENES = {
    "armoury": ("noto", "swords horse axe"),
    "bar": ("twemoji", "beer pizza cocktail"),
    "boomerang": ("noto", "boomerang tree dog"),
    "casino": ("fluent", "dice guitar slotmachine"),
    "gallery": ("noto", "dagger* piano"),
    "graveyard": ("twemoji", "coffin tree moon"),
    "picnic": ("fluent", "dog apple sunflower cake"),
    "smoker": ("noto", "cigarette bicycle"),
    "pair-dagger": ("fluent", "guitar dagger cactus"),
    "pair-camera": ("fluent", "guitar camera cactus"),
    "pair-wine": ("noto", "wine cheese book"),
    "pair-grapes": ("noto", "grapes cheese book"),
}
SEEDS = {"pair-dagger": 1, "pair-camera": 1, "pair-wine": 2, "pair-grapes": 2}


def scene(words: str, seed: object) -> Scene:
    """The pictograms of ``words``, each in a quarter of its own."""
    rng = Random(f"policy-repo {seed}")
    placements = []
    for word, slot in zip(words.split(), rng.sample(range(4), 4), strict=False):
        size = rng.choice(SIZES)
        x, y = (quarter * SLOT + rng.randint(MARGIN, SLOT - size - MARGIN) for quarter in divmod(slot, 2))
        context = "framed" if word.endswith("*") else None
        placements.append(
            Placement(word.rstrip("*"), x, y, size, rng.randrange(8), context, rng.randrange(4))
        )
    return Scene(tuple(placements), background=rng.randrange(1024), shift=rng.randrange(16), gain=1.0)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (style, words) in SCENES.items():
        picture = Renderer(style).draw(scene(words, SEEDS.get(name, name)))
        picture.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
