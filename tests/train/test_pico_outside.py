"""Pictures from outside pico's world: what is trained on and what is held out stay apart."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from augment import journey
from outside import (
    HELD_OUT_FAMILIES,
    HELD_OUT_PHOTOGRAPHS,
    PLAIN,
    TRAINING_FAMILIES,
    TRAINING_PHOTOGRAPHS,
    draw_training,
    evaluation_sets,
)


def test_no_source_is_both_trained_on_and_held_out() -> None:
    for package, names in TRAINING_PHOTOGRAPHS.items():
        assert not set(names) & set(HELD_OUT_PHOTOGRAPHS.get(package, ()))
    assert not (set(TRAINING_FAMILIES) | set(PLAIN)) & set(HELD_OUT_FAMILIES)


def test_a_third_of_the_photographs_and_a_whole_package_are_held_out() -> None:
    trained = sum(map(len, TRAINING_PHOTOGRAPHS.values()))
    held = sum(map(len, HELD_OUT_PHOTOGRAPHS.values()))
    assert held >= (trained + held) / 3
    assert set(HELD_OUT_PHOTOGRAPHS) - set(TRAINING_PHOTOGRAPHS)


@pytest.mark.parametrize("name", [*PLAIN, *TRAINING_FAMILIES, *HELD_OUT_FAMILIES])
def test_a_family_draws_small_rgb_pictures_and_the_same_ones_again(name: str) -> None:
    family = (PLAIN | TRAINING_FAMILIES | HELD_OUT_FAMILIES)[name]
    first, again = (family(np.random.default_rng(7)) for _ in range(2))
    assert (first.shape, first.dtype) == ((96, 96, 3), np.uint8)
    assert np.array_equal(first, again)


def test_training_draws_and_evaluation_sets_have_the_right_shape() -> None:
    rng = np.random.default_rng(1)
    assert all(draw_training(rng)[0].shape == (96, 96, 3) for _ in range(20))
    assert all(p.shape == (96, 96, 3) for pictures in evaluation_sets(1, seed=0).values() for p in pictures)


def test_a_journey_keeps_shape_and_most_of_the_picture() -> None:
    picture = np.full((96, 96, 3), 200, np.uint8)
    for seed in range(20):
        assert np.abs(journey(picture, Random(seed)).astype(int) - 200).max() < 8
