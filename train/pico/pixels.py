"""From symbols to pictures: scenes in many styles, and pictures from outside.

Besides the benchmark's three styles there are others for training, drawn by other hands or without colours
(``styles/``); a share of the pictures is restyled as well. ``HELD_OUT_STYLE`` is never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment import TINY_SIDES, TURNS, journey, moved, shrunk, turned_picture, undone
from batches import BACKGROUND, token_targets
from forward import patches
from outside import draw_training
from policyguard.pictosafe.render import STYLES
from policyguard.pictosafe.scene import Scene, draw_scene
from restyle import other_ground, restyling

SHARES = {
    "noto": 4, "twemoji": 4, "fluent": 4,
    "fluent-modern": 1, "fluent-contrast": 1, "noto-mono": 2, "emojione": 3,
}  # fmt: skip
"""How often each style is drawn."""
HELD_OUT_STYLE = "openmoji"
RESTYLED = 0.4
TURNED, OTHER_GROUND = 0.25, 0.15
"""Share of scenes whose picture is mirrored or turned by quarters; that stand on a ground of another kind."""
TINY = 0.06
"""Share, of the pictures from outside, of scenes with pictograms too small to be told apart."""
LARGE = 0.02
"""Share of scenes drawn at four times the size and shrunk, as large renderings are (slow, hence few)."""


class Studio:
    """Renders training pictures; ``None`` among the scenes is a picture from outside the world."""

    def __init__(self, without: Sequence[str] = (), *, glyphs: bool = True) -> None:
        """``without`` names styles to leave out; ``glyphs`` as in ``draw_training``."""
        self.glyphs = glyphs
        chosen = [(style, share) for style, share in SHARES.items() if style not in without]
        self.shares = [share for _, share in chosen]
        self.own = [style in STYLES for style, _ in chosen]
        self.renderers = [restyling(style) for style, _ in chosen]

    def pictures(
        self, scenes: Sequence[Scene | None], rng: Random, *, variety: float = 1.0, changed: bool = True
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Patches [N, 144, 192], and which of them are plain outside pictures (taught as background).

        ``variety``, from 0 to 1, is how much of the styles for training and of the restyling there is.
        """
        noise = np.random.default_rng(rng.getrandbits(64))
        images, plain = [], np.zeros(len(scenes), bool)
        for i, scene in enumerate(scenes):
            if scene is None and changed and rng.random() < TINY:
                tiny = shrunk(draw_scene(rng), rng, TINY_SIDES, share=1.0 if rng.random() < 0.7 else 0.3)
                image = self._render(tiny, rng, variety, changed=changed)
            elif scene is None:
                image, plain[i] = draw_training(noise, glyphs=self.glyphs)
            else:
                image = self._render(scene, rng, variety, changed=changed)
            images.append(journey(image, rng) if changed else image)
        return patches(np.stack(images)), plain

    def _render(self, scene: Scene, rng: Random, variety: float, *, changed: bool) -> NDArray[np.uint8]:
        shares = [share * (1 if own else variety) for share, own in zip(self.shares, self.own, strict=True)]
        while True:
            (renderer,) = rng.choices(self.renderers, shares)
            if renderer.knows(scene):
                break
        renderer.restyle(rng if changed and rng.random() < RESTYLED * variety else None)
        renderer.stand_on(other_ground(rng) if changed and rng.random() < OTHER_GROUND * variety else None)
        if changed and rng.random() < TURNED * variety:
            turn = rng.randrange(1, TURNS)
            return turned_picture(renderer.render(moved(scene, undone(turn))), turn)
        if changed and rng.random() < LARGE:
            return np.asarray(renderer.draw(scene, scale=4).resize((96, 96), 3))
        return renderer.render(scene)


def targets(scenes: Sequence[Scene | None], plain: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """What each image token shows, and in which context: [N, T] and [N, T]."""
    each = [token_targets(scene) for scene in scenes]
    shows = np.stack([shown for shown, _, _ in each])
    shows[plain] = BACKGROUND
    return torch.from_numpy(shows), torch.from_numpy(np.stack([context for _, context, _ in each]))
