"""Random policies: within their bounds, apart from the held-out family, and without a tell."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import mean

import pytest

from policyguard.pictosafe.language import MANNERS, parse_item
from policyguard.pictosafe.policyforms import HELD_NAMES, Difficulty, is_held_pair, is_held_wording
from policyguard.pictosafe.randompolicies import FULL, draw_sample, flip_exempt, flip_policy, flip_scene
from policyguard.pictosafe.rules import PictoPolicy, PictoRule, is_unsafe
from policyguard.pictosafe.scene import Scene
from policyguard.pictosafe.world import GROUP_NAMES, MEMBERS, NAMES, RESERVED_NAMES

Sample = tuple[Scene, PictoPolicy]


def samples(number: int, seed: int, **settings: object) -> list[Sample]:
    rng = Random(seed)
    return [draw_sample(rng, **settings) for _ in range(number)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> list[Sample]:
    return samples(3000, 1, include_reserved=True)


@pytest.fixture(scope="module")
def held() -> list[Sample]:
    return samples(2500, 2, held=True)


def listed(rule: PictoRule) -> list[str]:
    return [item.concept for item in rule.unsafe + rule.safe]


def pairs_of_groups(rule: PictoRule) -> list[tuple[str, str]]:
    groups = [concept for concept in listed(rule) if concept in MEMBERS]
    return [(a, b) for i, a in enumerate(groups) for b in groups[:i] if a != b]


def test_the_same_seed_draws_the_same_samples(trained: list[Sample]) -> None:
    assert samples(200, 1, include_reserved=True) == trained[:200]


def test_policies_stay_within_their_difficulty(trained: list[Sample]) -> None:
    for _, policy in trained:
        assert 1 <= len(policy.rules) <= FULL.rules
        assert sum(len(listed(rule)) for rule in policy.rules) <= FULL.items
        assert any(rule.status != "exempt" for rule in policy.rules)
        for rule in policy.rules:
            assert 1 <= len(rule.unsafe) <= FULL.unsafe
            assert len(rule.safe) <= FULL.safe
            assert len(set(rule.unsafe)) == len(rule.unsafe)
            assert len(set(rule.safe)) == len(rule.safe)


def test_a_curriculum_can_begin_with_one_rule_and_no_exceptions() -> None:
    easy = Difficulty(rules=1, unsafe=2, items=2, exceptions=False, statuses=False, pictograms=2)
    for scene, policy in samples(300, 3, difficulty=easy):
        (rule,) = policy.rules
        assert not rule.safe
        assert rule.status == "active"
        assert not any(item.context for item in rule.unsafe)
        assert len(scene.placements) <= 2


def test_all_numbers_of_rules_and_all_statuses_are_common_enough(trained: list[Sample]) -> None:
    numbers = Counter(len(policy.rules) for _, policy in trained)
    assert all(numbers[number] > 0.08 * len(trained) for number in range(1, FULL.rules + 1))
    statuses = Counter(rule.status for _, policy in trained for rule in policy.rules)
    assert 0.07 < statuses["exempt"] / statuses.total() < 0.13
    assert 0.02 < statuses["sensitive"] / statuses.total() < 0.06
    unsafe = [
        item.context is not None for _, policy in trained for rule in policy.rules for item in rule.unsafe
    ]
    assert 0.04 < mean(unsafe) < 0.08


def test_words_say_what_symbols_mean(trained: list[Sample]) -> None:
    for _, policy in trained[:500]:
        for rule in policy.rules:
            unsafe, safe = rule.texts()
            assert tuple(map(parse_item, unsafe)) == rule.unsafe
            assert tuple(map(parse_item, safe)) == rule.safe


def test_labels_are_half_and_half_whatever_the_form_of_the_policy(trained: list[Sample]) -> None:
    labels = [is_unsafe(policy, scene) for scene, policy in trained]
    assert mean(labels) == pytest.approx(0.5, abs=0.03)
    for part in (
        lambda scene, policy: len(policy.rules) > 4,
        lambda scene, policy: sum(len(rule.safe) for rule in policy.rules) > 3,
        lambda scene, policy: any(rule.status == "exempt" for rule in policy.rules),
        lambda scene, policy: (
            sum(item.concept in MEMBERS for rule in policy.rules for item in rule.unsafe) > 4
        ),
        lambda scene, policy: len(scene.placements) == 1,
        lambda scene, policy: len(scene.placements) > 4,
        lambda scene, policy: len(policy.rules) == 1,
        lambda scene, policy: any(placement.context for placement in scene.placements),
    ):
        chosen = [label for label, sample in zip(labels, trained, strict=True) if part(*sample)]
        assert mean(chosen) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("family", ["trained", "held"])
def test_labels_of_shuffled_scenes_agree_by_chance_only(family: str, request: pytest.FixtureRequest) -> None:
    drawn: list[Sample] = request.getfixturevalue(family)
    labels = [is_unsafe(policy, scene) for scene, policy in drawn]
    shuffled = [is_unsafe(policy, drawn[index - 1][0]) for index, (_, policy) in enumerate(drawn)]
    assert mean(a == b for a, b in zip(labels, shuffled, strict=True)) == pytest.approx(0.5, abs=0.05)


def test_exceptions_and_statuses_decide_some_labels(trained: list[Sample]) -> None:
    def without(change: object) -> float:
        return mean(is_unsafe(change(policy), scene) != is_unsafe(policy, scene) for scene, policy in trained)  # type: ignore[operator]

    def plain(policy: PictoPolicy) -> PictoPolicy:
        return PictoPolicy(tuple(PictoRule(rule.unsafe, (), rule.status) for rule in policy.rules))

    def active(policy: PictoPolicy) -> PictoPolicy:
        return PictoPolicy(tuple(PictoRule(rule.unsafe, rule.safe) for rule in policy.rules))

    assert without(plain) > 0.08
    assert without(active) > 0.04


def test_training_policies_keep_off_the_held_out_names_pairs_and_wordings(trained: list[Sample]) -> None:
    for _, policy in trained:
        for rule in policy.rules:
            assert not set(listed(rule)) & HELD_NAMES
            assert not any(is_held_pair(a, b) for a, b in pairs_of_groups(rule))
            unsafe, safe = rule.wordings[: len(rule.unsafe)], rule.wordings[len(rule.unsafe) :]
            if len(set(unsafe)) == len(set(safe)) == 1 and len(rule.wordings) > 3:
                context = unsafe[0] % MANNERS
                if context == safe[0] % MANNERS:
                    assert not is_held_wording(unsafe[0] // MANNERS, safe[0] // MANNERS, context)


def test_held_out_policies_all_have_something_never_trained_on(held: list[Sample]) -> None:
    for scene, policy in held:
        assert not set(scene.names) & set(RESERVED_NAMES)
        assert any(
            set(listed(rule)) & HELD_NAMES or any(is_held_pair(a, b) for a, b in pairs_of_groups(rule))
            for rule in policy.rules
        )
    named = {concept for _, policy in held for rule in policy.rules for concept in listed(rule)}
    assert named >= HELD_NAMES


def test_about_a_fifth_is_held_out() -> None:
    pairs = [is_held_pair(a, b) for i, a in enumerate(GROUP_NAMES) for b in GROUP_NAMES[:i]]
    wordings = [is_held_wording(a, b, c) for a in range(8) for b in range(8) for c in range(4)]
    assert 0.12 < mean(pairs) < 0.28
    assert 0.15 < mean(wordings) < 0.25
    assert 25 <= len(HELD_NAMES) <= 45
    assert all(set(members) - HELD_NAMES for members in MEMBERS.values())
    assert set(NAMES) >= HELD_NAMES


def test_flips_change_one_thing_and_the_label(trained: list[Sample]) -> None:
    rng = Random(9)
    found: Counter[str] = Counter()
    for scene, policy in trained[:800]:
        label = is_unsafe(policy, scene)
        if (other := flip_scene(rng, scene, policy)) is not None:
            found["scene"] += 1
            assert is_unsafe(policy, other) != label
            different = [a for a, b in zip(scene.placements, other.placements, strict=True) if a != b]
            assert len(different) == 1
        if (edited := flip_policy(rng, scene, policy)) is not None:
            found["policy"] += 1
            assert is_unsafe(edited, scene) != label
            (change,) = [(a, b) for a, b in zip(policy.rules, edited.rules, strict=True) if a != b]
            before, after = listed(change[0]), listed(change[1])
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
            assert not set(after) & HELD_NAMES
            assert change[0].wordings == change[1].wordings
        if (exempted := flip_exempt(rng, scene, policy)) is not None:
            found["exempt"] += 1
            assert is_unsafe(exempted, scene) != label
            (change,) = [(a, b) for a, b in zip(policy.rules, exempted.rules, strict=True) if a != b]
            assert (change[0].status == "exempt") != (change[1].status == "exempt")
    assert found["scene"] > 550
    assert found["policy"] > 400
    assert found["exempt"] > 150
