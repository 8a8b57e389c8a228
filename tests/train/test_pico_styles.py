"""The drawing styles for training: whole, apart from the one held out, and restyled in their places."""

from __future__ import annotations

import hashlib
import json
from random import Random

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("skimage")

from pixels import HELD_OUT_STYLE, SHARES, Studio
from policyguard.pictosafe.render import STYLES, Renderer
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.pictosafe.world import NAMES
from restyle import STYLE_FOLDER, Restyling, draw_changes, drawings

INDEX = json.loads((STYLE_FOLDER / "index.json").read_text())


def scene(*, without: set[str]) -> Scene:
    rng = Random(5)
    return next(s for s in iter(lambda: draw_scene(rng, count=(3, 3)), None) if not set(s.names) & without)


@pytest.mark.parametrize("style", INDEX["styles"])
def test_a_style_draws_what_it_does_not_miss(style: str) -> None:
    atlas, entry = STYLE_FOLDER / f"{style}.webp", INDEX["styles"][style]
    assert hashlib.sha256(atlas.read_bytes()).hexdigest() == entry["sha256"]
    drawn = drawings(style)
    assert set(NAMES) - set(drawn) == set(entry["missing"])
    for name, sprite in drawn.items():
        left, top, right, bottom = sprite.getbbox() or (0, 0, 0, 0)
        assert max(right - left, bottom - top) >= 90, name
    assert f"{style}.webp" in (STYLE_FOLDER / "NOTICE.md").read_text()


def test_one_style_is_never_trained_on() -> None:
    assert HELD_OUT_STYLE in INDEX["styles"]
    assert set(SHARES) == {*STYLES, *INDEX["styles"]} - {HELD_OUT_STYLE}


def test_without_variety_only_the_benchmarks_own_styles_are_drawn() -> None:
    studio, shown = Studio(), scene(without=set())
    plain = [Renderer(style).render(shown).tobytes() for style in STYLES]
    rng = Random(1)
    for _ in range(12):
        assert studio._render(shown, rng, 0.0, changed=False).tobytes() in plain
    varied = [studio._render(shown, rng, 1.0, changed=False).tobytes() for _ in range(40)]
    assert set(varied) - set(plain)


def test_a_style_is_not_asked_for_what_it_lacks() -> None:
    lacking = Restyling(drawings("emojione"))
    known = scene(without=set(INDEX["styles"]["emojione"]["missing"]))
    assert lacking.knows(known)
    assert not lacking.knows(known.replace(0, name="axe"))


def test_restyling_changes_pictograms_within_their_squares_and_can_be_undone() -> None:
    renderer, shown = Restyling(drawings("noto")), scene(without=set())
    plain = renderer.render(shown)
    assert (plain == Renderer("noto").render(shown)).all()
    changed = 0
    for seed in range(30):
        renderer.restyle(Random(seed))
        different = (renderer.render(shown) != plain).any(axis=2)
        changed += bool(different.any())
        for p in shown.placements:
            different[p.y : p.y + p.size, p.x : p.x + p.size] = False
        assert not different.any()
    assert changed > 20
    renderer.restyle(None)
    assert (renderer.render(shown) == plain).all()


def test_every_change_keeps_colours_and_alpha_in_range() -> None:
    rng = Random(2)
    noise = np.random.default_rng(0)
    colours = noise.uniform(0, 255, (30, 30, 3)).astype(np.float32)
    alpha = (noise.uniform(0, 1, (30, 30, 1)) > 0.4).astype(np.float32)
    for _ in range(200):
        for change in draw_changes(rng):
            new, opacity = change(colours, alpha)
            assert new.shape == colours.shape
            assert opacity.shape == alpha.shape
            assert np.isfinite(new).all()
            assert opacity.min() >= 0
            assert opacity.max() <= 1
