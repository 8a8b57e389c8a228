"""PictoSafe's exact editor: it knows the scene that an image was drawn from, and draws the edited one.

For each pictogram that breaks the policy it puts another one into the same place, of the same group if one
complies, and draws everything else as it was. It needs no model, so the whole job can be tested exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from policyguard.errors import ConfigurationError
from policyguard.pictosafe.dataset import load
from policyguard.pictosafe.render import STYLES, Renderer, Style
from policyguard.pictosafe.rules import PictoPolicy, violating
from policyguard.pictosafe.scene import SIDE, Scene
from policyguard.pictosafe.world import BENCHMARK_NAMES, GROUP_OF, MEMBERS
from policyguard.strict.files import sha256_of
from policyguard.strict.jsontext import parse_json
from policyguard.train.pairs.candidate import EditError, Order

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["PictoEditor", "complying"]


class PictoEditor:
    """``scenes``: SHA-256 of an image file -> the scene it shows, and its drawing style."""

    name = "pictosafe"

    def __init__(self, scenes: Mapping[str, tuple[Scene, Style]]) -> None:
        self._scenes = scenes
        self._renderers = {style: Renderer(style) for style in STYLES}
        self._lock = asyncio.Lock()

    @classmethod
    def from_path(cls, path: Path) -> PictoEditor:
        """``path``: a folder of ``policyguard bench pictosafe make``, or a file of JSON lines with ``image``
        (relative to the file), ``style`` and ``scene``. Raises ConfigurationError.
        """
        if path.is_dir():
            shots = load(path).all_shots()
            return cls({sha256_of(shot.path): (shot.scene, shot.style) for shot in shots if shot.path})
        scenes: dict[str, tuple[Scene, Style]] = {}
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                row = parse_json(line)
                if row["style"] not in STYLES:
                    raise ValueError(f"no drawing style {row['style']!r}")
                scene = Scene.from_dict(row["scene"])
                scenes[sha256_of(path.parent / row["image"])] = (scene, row["style"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path}, line {len(scenes) + 1}, says nothing about a scene: {error}",
                hint="make some with: policyguard bench pictosafe make FOLDER, and give FOLDER",
            ) from error
        return cls(scenes)

    async def edit(self, order: Order) -> PILImage:
        if order.sha256 not in self._scenes:
            raise EditError("the scene of this image is not known")
        scene, style = self._scenes[order.sha256]
        try:
            policy = PictoPolicy.from_resolved(order.policy)
        except ValueError as error:
            raise ConfigurationError(
                f"policy '{order.policy.id}' is not one of PictoSafe: {error}"
            ) from error
        edited = complying(policy, scene, Random(f"{order.sha256}/{order.attempt}"))
        if edited is None:
            raise EditError("no pictogram in this place would comply")
        async with self._lock:  # a renderer is not for two at once
            return self._renderers[style].draw(edited, scale=order.frame.width // SIDE)

    async def close(self) -> None:
        """Nothing to close."""


def complying(policy: PictoPolicy, scene: Scene, random: Random) -> Scene | None:
    """``scene`` with each offending pictogram replaced by one that complies; ``None`` if there is none."""
    for place in sorted({place for _, place in violating(policy, scene)}):
        before = scene.placements[place].name
        siblings = [name for name in MEMBERS[GROUP_OF[before]] if name in BENCHMARK_NAMES]
        others = [
            *random.sample(siblings, len(siblings)),
            *random.sample(BENCHMARK_NAMES, len(BENCHMARK_NAMES)),
        ]
        for name in others:
            changed = scene.replace(place, name=name)
            if name not in scene.names and all(where != place for _, where in violating(policy, changed)):
                scene = changed
                break
        else:
            return None
    return scene
