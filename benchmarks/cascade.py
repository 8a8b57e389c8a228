"""A weakened pico in front of pico: how many calls of the strong guard it saves, and what it misses.

    python benchmarks/cascade.py [--scenes 2000] [--noise 0.1] [--misses 0.005] [--seed 0]

Goal: on fresh scenes, recall within 0.5 points of the strong guard alone, at no more than half of its calls.
The cheap guard is pico with noise on its weights; the band is measured on as many scenes as are judged then.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

from policyguard import Guard
from policyguard.authoring import measure_band
from policyguard.backends import CascadeBackend, Stage
from policyguard.backends.registry import resolve_model
from policyguard.pictosafe.render import Renderer
from policyguard.pictosafe.rules import PictoPolicy, is_unsafe
from policyguard.pictosafe.scene import draw_scene
from policyguard.policy import load_policy

POLICY = "pictosafe/l3"


@dataclass(frozen=True)
class Figures:
    """``recall`` and ``precision`` of the cascade, of the strong and of the cheap guard, on fresh scenes."""

    recall: tuple[float, float, float]
    precision: tuple[float, float, float]
    calls: float
    """The share of the images that the strong guard was asked about."""
    unsafe: int
    images: int
    band: str


def weakened(folder: Path, noise: float, *, seed: int = 0) -> Path:
    """A copy of pico whose weights are off by ``noise`` times their own spread."""
    import torch
    from safetensors.torch import load_file, save_file

    source = resolve_model("pico").path
    assert source is not None
    shutil.copytree(source, folder)
    dice = torch.Generator().manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim > 1:
            drawn = torch.randn(weight.shape, generator=dice)
            weights[name] = (weight.float() + noise * weight.float().std() * drawn).to(weight.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def scenes(count: int, *, seed: int) -> tuple[list[object], list[bool]]:
    """Scenes with their exact labels under ``POLICY``."""
    symbols = PictoPolicy.from_resolved(load_policy(POLICY).resolve())
    dice, renderer = Random(seed), Renderer("noto")
    drawn = [draw_scene(dice) for _ in range(count)]
    return [renderer.draw(scene) for scene in drawn], [is_unsafe(symbols, scene) for scene in drawn]


def rates(blocked: list[bool], labels: list[bool]) -> tuple[float, float]:
    """Recall and precision."""
    hits = sum(one and label for one, label in zip(blocked, labels, strict=True))
    return hits / max(1, sum(labels)), hits / max(1, sum(blocked))


def measure(count: int, noise: float, misses: float, seed: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        weak = str(weakened(Path(folder) / "weak-pico", noise, seed=seed))
        # With a cache, no guard is asked twice about a scene; the cascade counts what it asks all the same.
        asking = {"cache": "memory"}
        with Guard(POLICY, model=weak, **asking) as cheap, Guard(POLICY, model="pico", **asking) as strong:
            band = measure_band(cheap, *scenes(count, seed=2 * seed), misses=misses)
            images, labels = scenes(count, seed=2 * seed + 1)
            both = CascadeBackend(
                [
                    Stage(backend=cheap.backend, band=band, misses=misses, name="weak"),
                    Stage(backend=strong.backend),
                ]
            )
            guards = (Guard(POLICY, backend=both), strong, cheap)
            judged = [[not verdict.allowed for verdict in guard.check_many(images)] for guard in guards]
            figures = [rates(one, labels) for one in judged]
    recall, precision = zip(*figures, strict=True)
    return Figures(
        recall,
        precision,
        both.asked[1] / both.asked[0],
        sum(labels),
        count,
        f"safe below {band.low:.3f}, violates from {band.high or 2:.3f}",
    )


def main(count: int = 2000, noise: float = 0.1, misses: float = 0.005, seed: int = 0) -> None:
    import torch

    torch.set_num_threads(1)  # a model this small is slower on several, and much slower on busy ones
    figures = measure(count, noise, misses, seed)
    print(f"{figures.images} fresh scenes, {figures.unsafe} unsafe; {figures.band}")
    for name, recall, precision in zip(
        ("cascade", "strong", "cheap"), figures.recall, figures.precision, strict=True
    ):
        print(f"{name:8} recall {recall:.4f}, precision {precision:.4f}")
    print(f"the strong guard was asked about {figures.calls:.1%} of them")


if __name__ == "__main__":
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--misses", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.scenes, given.noise, given.misses, given.seed)
