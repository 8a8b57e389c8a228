"""From symbols to pictures: scenes in any style, and pictures from outside."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment import journey
from batches import BACKGROUND, token_targets
from forward import patches
from outside import draw_training
from policyguard.bench.pictosafe.render import Renderer, styles
from policyguard.bench.pictosafe.scene import Scene

LARGE = 0.02
"""Share of scenes drawn at four times the size and shrunk, as large renderings are (slow, hence few)."""


class Studio:
    """Renders training pictures; ``None`` among the scenes is a picture from outside the world."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self.renderers = [Renderer(style) for style in (names or styles())]

    def pictures(
        self, scenes: Sequence[Scene | None], rng: Random, *, changed: bool = True
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Patches [N, 144, 192], and which of them are plain outside pictures (taught as background)."""
        noise = np.random.default_rng(rng.getrandbits(64))
        images, plain = [], np.zeros(len(scenes), bool)
        for i, scene in enumerate(scenes):
            if scene is None:
                image, plain[i] = draw_training(noise)
            else:
                image = self._render(scene, rng, changed=changed)
            images.append(journey(image, rng) if changed else image)
        return patches(np.stack(images)), plain

    def _render(self, scene: Scene, rng: Random, *, changed: bool) -> NDArray[np.uint8]:
        renderer = self.renderers[rng.randrange(len(self.renderers))]
        if changed and rng.random() < LARGE:
            return np.asarray(renderer.picture(scene, scale=4).resize((96, 96), 3))
        return renderer.render(scene)


def targets(scenes: Sequence[Scene | None], plain: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """What each image token shows and whether it is framed: [N, T] and [N, T]."""
    each = [token_targets(scene) for scene in scenes]
    shows = np.stack([shown for shown, _, _ in each])
    shows[plain] = BACKGROUND
    return torch.from_numpy(shows), torch.from_numpy(np.stack([framed for _, framed, _ in each]))
