"""The experiment keeps to the world that its base model knows."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("torch")

EXPERIMENT = Path(__file__).parents[2] / "train" / "experiments" / "cross_policy"
sys.path.insert(0, str(EXPERIMENT))

import torch  # noqa: E402

import exact  # noqa: E402
import material  # noqa: E402
import measure  # noqa: E402
import plain  # noqa: E402
import run  # noqa: E402
import words  # noqa: E402
from base import Level, Questions  # noqa: E402
from policyguard.backends.transformers.loading import prepare  # noqa: E402
from policyguard.dialects import get_dialect  # noqa: E402
from policyguard.dialects.pico import render_rules  # noqa: E402
from policyguard.pictosafe.rules import (  # noqa: E402
    LEVELS,
    is_unsafe,
    symbolic_level,
)
from policyguard.pictosafe.scene import Scene  # noqa: E402
from policyguard.train.answers import conversation  # noqa: E402
from policyguard.train.grpo import read_prompts  # noqa: E402
from policyguard.train.models import load_weights, processor_of  # noqa: E402
from policyguard.train.recipe import GrpoRecipe  # noqa: E402
from policyguard.train.rows import open_frame  # noqa: E402

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


def test_crossed_rows_are_two_pictures_with_both_labels_under_two_policies_with_both() -> None:
    rng = Random(3)
    for _ in range(30):
        (a, first), (b, same), (a_again, second), (b_again, other) = material.crossed(rng)
        assert a is a_again
        assert b is b_again
        assert first is same
        assert second is other
        assert [is_unsafe(p, s) for s, p in ((a, first), (b, first), (a, second), (b, second))] == [
            True,
            False,
            False,
            True,
        ]
        assert_known(a)
        assert_known(b)


def test_grpo_keeps_the_four_rows_of_a_crossing_together(tmp_path: Path) -> None:
    """Every unit of prompts holds both pictures under both policies."""
    step = replace(run.CHAINS["warm-grpo-crossed"][-1], rows=80)
    rows = run.rows_of(step, tmp_path, 0)
    _, units = read_prompts(recipe(step, rows, tmp_path))
    assert units.dropped == 0
    assert len(units) == 2 * (20 - 1)  # one crossing in twenty is held out
    for unit in range(0, len(units), 2):
        first, second = units.halves[unit : unit + 2]
        assert first.unit == second.unit
        asked = [*first.prompts, *second.prompts]
        assert len({(prompt.path, prompt.policy.fingerprint) for prompt in asked}) == 4
        for found in (
            {prompt.path: prompt.label for prompt in asked},
            {prompt.policy.fingerprint: prompt.label for prompt in asked},
        ):
            assert len(found) == 2


def recipe(step: run.Step, rows: Path, folder: Path) -> GrpoRecipe:
    settings = run.recipe_of(step, model=EXPERIMENT / "base-model", out=folder / "model", rows=rows, seed=0)
    return GrpoRecipe.model_validate(settings)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_many_drawn_answers_push_as_the_exact_objective_does(share: float) -> None:
    """The gradient with 10,000 answers to a prompt is that of 2 arcsin(sqrt(p))."""
    gradients = []
    for form in ("scaled", "10000"):
        p = torch.full((50,), share, requires_grad=True)
        exact.objective(p, form, torch.Generator().manual_seed(1)).sum().backward()
        assert p.grad is not None
        gradients.append(float(p.grad.mean()))
    assert gradients[1] == pytest.approx(gradients[0], rel=0.02)
    assert gradients[0] == pytest.approx((share * (1 - share)) ** -0.5, rel=1e-4)


@pytest.mark.parametrize("form", ["4", "scaled", "expected", "log"])
def test_a_likelier_right_answer_is_worth_more(form: str) -> None:
    p = torch.full((4000,), 0.4, requires_grad=True)
    exact.objective(p, form, torch.Generator().manual_seed(2)).sum().backward()
    assert p.grad is not None
    assert float(p.grad.mean()) > 0


def test_a_chance_is_that_of_the_answers_that_the_reward_pays(tmp_path: Path) -> None:
    """For a safe picture P(safe), as it is measured, and no less; an unsafe one needs a rule in force too."""
    step = replace(run.EXACT["exact-log"][-1], rows=24)
    asked = recipe(step, run.rows_of(step, tmp_path, 1), tmp_path)
    _, units = read_prompts(asked)
    folder = Path(asked.model)
    model = load_weights(folder, asked.tune, precision="fp32").eval()
    processor = processor_of(folder, max_pixels=None)
    chances = exact.Chances(asked, model, processor)
    (safe,) = processor.tokenizer.encode(" safe", add_special_tokens=False)
    with torch.inference_mode():
        found = chances(units.prompts).tolist()
        for prompt, chance in zip(units.prompts, found, strict=True):
            alone, keys = chances.right(prompt)
            assert {prompt.policy.keys[key.strip()] for key in keys} >= set(prompt.categories)
            if prompt.label == "unsafe":
                assert not alone
                continue
            assert alone == (" safe",)
            turn = conversation(get_dialect("pico"), prompt.policy)
            text = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            inputs = prepare(processor, [text], [open_frame(prompt.path)], special=False)
            shares = model(**inputs).logits[0, -1].softmax(-1)
            said = float(shares[safe])
            assert chance > said if keys else chance == pytest.approx(said, rel=1e-3)


def test_grpo_by_exact_leaves_a_model_that_is_measured_like_the_trainer_s(tmp_path: Path) -> None:
    step = replace(run.EXACT["exact-log"][-1], rows=24, updates=1, batch=16)
    asked = recipe(step, run.rows_of(step, tmp_path, 1), tmp_path)
    exact.train(asked, step.form)
    said = measure.Subject(Path(asked.out))
    found = measure.safety(said, seed=3, scenes=0, random=4, held_out=0, pairs=0)
    assert found["random"]["n"] == 4
