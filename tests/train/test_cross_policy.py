"""The experiment keeps to the world that its base model knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch")

EXPERIMENT = Path(__file__).parents[2] / "train" / "experiments" / "cross_policy"
sys.path.insert(0, str(EXPERIMENT))

import material  # noqa: E402
import measure  # noqa: E402
import plain  # noqa: E402
import words  # noqa: E402
from base import Level, Questions  # noqa: E402
from policyguard.dialects.pico import render_rules  # noqa: E402
from policyguard.pictosafe.rules import (  # noqa: E402
    LEVELS,
    is_unsafe,
    symbolic_level,
)
from policyguard.pictosafe.scene import Scene  # noqa: E402

SIGNS = {"prohibited", "banned", "barred", "prohibition", "signs"}


def assert_known(scene: Scene | None) -> None:
    placements = () if scene is None else scene.placements
    assert len(placements) <= 4
    assert {placement.context for placement in placements} <= {None, "framed"}


def test_scenes_samples_and_pairs_have_frames_only_and_four_pictograms_at_most() -> None:
    rng = Random(1)
    levels = [plain.symbolic_level(name) for name in LEVELS]
    for _ in range(100):
        assert_known(plain.draw_scene(rng))
        scene, policy = plain.draw_sample(rng)
        assert_known(scene)
        assert_known(plain.flip_scene(rng, scene, policy))
        assert not any(item.context == "prohibited" for r in policy.rules for item in r.unsafe + r.safe)
    for _ in range(20):
        pair = plain.edit_pair(rng, levels)
        assert_known(pair.before)
        assert_known(pair.after)


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_labels_its_scenes_as_the_packaged_one_does(name: str) -> None:
    rng = Random(2)
    text = render_rules((r.status, r.unsafe, r.safe) for r in plain.level(name).rules)
    assert not SIGNS & set(text.replace(",", " ").replace(".", " ").split())
    for _ in range(300):
        scene = plain.draw_scene(rng)
        assert is_unsafe(plain.symbolic_level(name), scene) == is_unsafe(symbolic_level(name), scene)


def test_questions_have_answers() -> None:
    for row in Questions("test", 4, 2).batch(0, Level.FULL):
        for scene in row.pictures:
            assert_known(scene)
            if scene is not None and scene.placements:
                found = measure._answer(row.policy, scene)
                assert (found == words.QUESTION.labels[0]) != is_unsafe(row.policy, scene)


def test_rows_of_a_level_carry_the_level_as_the_base_model_can_read_it(tmp_path: Path) -> None:
    rows = material.level_rows(tmp_path, "pictosafe/l3", count=12, seed=0)
    read = [json.loads(line) for line in rows.read_text().splitlines()]
    assert len(read) == 12
    assert {row["policy"] for row in read} == {"#l3"}
    assert not [word for path in tmp_path.glob("*.yaml") for word in SIGNS & set(path.read_text().split())]
