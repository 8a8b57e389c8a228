"""Pictures from outside pico's world: what is trained on and what is held out stay apart."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import glyphs
from attacks import ATTACKS, TRAINED
from augment import journey, moved, shrunk, turned_picture, undone
from batches import INDEX, token_targets
from drawings import HELD_OUT_DRAWINGS, TRAINING_DRAWINGS
from glyphs import HELD_OUT_GLYPHS, HELD_OUT_PACKS, TRAINING_PACKS
from outside import (
    HELD_OUT_FAMILIES,
    HELD_OUT_PHOTOGRAPHS,
    PLAIN,
    TRAINING_FAMILIES,
    TRAINING_PHOTOGRAPHS,
    draw_training,
    evaluation_sets,
)
from policyguard.pictosafe.scene import draw_scene
from restyle import restyling


def test_no_source_is_both_trained_on_and_held_out() -> None:
    for package, names in TRAINING_PHOTOGRAPHS.items():
        assert not set(names) & set(HELD_OUT_PHOTOGRAPHS.get(package, ()))
    assert not (set(TRAINING_FAMILIES) | set(PLAIN)) & set(HELD_OUT_FAMILIES)


def test_a_third_of_the_photographs_and_a_whole_package_are_held_out() -> None:
    trained = sum(map(len, TRAINING_PHOTOGRAPHS.values()))
    held = sum(map(len, HELD_OUT_PHOTOGRAPHS.values()))
    assert held >= (trained + held) / 3
    assert set(HELD_OUT_PHOTOGRAPHS) - set(TRAINING_PHOTOGRAPHS)


FAMILIES = PLAIN | TRAINING_FAMILIES | HELD_OUT_FAMILIES | TRAINING_DRAWINGS | HELD_OUT_DRAWINGS


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_draws_small_rgb_pictures_and_the_same_ones_again(name: str) -> None:
    family = FAMILIES[name]
    first, again = (family(np.random.default_rng(7)) for _ in range(2))
    assert (first.shape, first.dtype) == ((96, 96, 3), np.uint8)
    assert np.array_equal(first, again)


def test_training_draws_and_evaluation_sets_have_the_right_shape() -> None:
    rng = np.random.default_rng(1)
    assert all(draw_training(rng, glyphs=False)[0].shape == (96, 96, 3) for _ in range(20))
    sets = evaluation_sets(1, seed=0, glyphs=False)
    assert all(p.shape == (96, 96, 3) for pictures in sets.values() for p in pictures)


def test_no_artist_s_glyphs_and_no_drawing_code_are_both_trained_on_and_held_out() -> None:
    assert not set(TRAINING_PACKS) & set(HELD_OUT_PACKS)
    assert not set(TRAINING_DRAWINGS) & set(HELD_OUT_DRAWINGS)
    assert len(HELD_OUT_DRAWINGS) + len(HELD_OUT_GLYPHS) >= 10


def test_training_without_the_glyphs_is_refused_and_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glyphs, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"build_glyphs\.py --out"):
        glyphs.pack.__wrapped__("twemoji")


def test_glyphs_are_laid_out_in_pictures_of_every_kind() -> None:
    rng = np.random.default_rng(3)
    square = np.full((96, 96, 4), 255, np.uint8)
    square[..., :3] = (200, 30, 40)
    pictures = [glyphs.glyph_picture((square,), rng, one_colour=bool(i % 2)) for i in range(40)]
    assert {((96, 96, 3), np.dtype(np.uint8))} == {(p.shape, p.dtype) for p in pictures}
    assert len({p.tobytes() for p in pictures}) == 40


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_picture_shows_each_pictogram_where_its_scene_says(turn: int) -> None:
    scene = draw_scene(Random(turn))
    drawn = np.zeros((96, 96), np.uint8)
    for number, p in enumerate(moved(scene, undone(turn)).placements, 1):
        drawn[p.y : p.y + p.size, p.x : p.x + p.size] = number
    seen = turned_picture(drawn, turn)
    again = np.zeros_like(seen)
    for number, p in enumerate(scene.placements, 1):
        again[p.y : p.y + p.size, p.x : p.x + p.size] = number
    assert np.array_equal(seen, again)


def test_shrunk_pictograms_stay_within_their_places_and_are_named_if_large_enough() -> None:
    scene = draw_scene(Random(5), count=(3, 3), overlap=False)
    small = shrunk(scene, Random(1), (14, 23))
    for before, after in zip(scene.placements, small.placements, strict=True):
        assert before.x <= after.x <= before.x + before.size - after.size
        assert before.y <= after.y <= before.y + before.size - after.size
        assert 14 <= after.size <= 23
    shows, _, _ = token_targets(small)
    assert {INDEX[name] for name in small.names} <= set(shows.tolist())


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_changes_the_picture_and_not_its_size(attack: str) -> None:
    scene, renderer = draw_scene(Random(11), count=(2, 2)), restyling("noto")
    drawn = ATTACKS[attack](renderer, scene, Random(2))
    assert (drawn.shape, drawn.dtype) == ((96, 96, 3), np.uint8)
    assert np.array_equal(drawn, renderer.render(scene)) == (attack == "none")
    assert set(TRAINED) < set(ATTACKS)


def test_a_journey_keeps_shape_and_most_of_the_picture() -> None:
    picture = np.full((96, 96, 3), 200, np.uint8)
    for seed in range(20):
        assert np.abs(journey(picture, Random(seed)).astype(int) - 200).max() < 8
