"""The key of an assessment: different questions never share one, and thresholds are no part of it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from cache.support import picture, policy, request
from policyguard import Action, Guard
from policyguard.assessment import ModelIdentity, Reading
from policyguard.cache import MemoryCache
from policyguard.cache.keys import assessment_key, digest
from policyguard.testing import FakeBackend

MODEL = ModelIdentity("m", revision="1")
TEXTS = st.lists(st.text(alphabet=st.sampled_from("ab\0|=\x01\x08"), max_size=5), max_size=6)


@given(TEXTS, TEXTS)
def test_two_lists_of_fields_have_one_digest_only_if_they_are_equal(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


@given(st.text(max_size=30), st.integers(0, 30))
def test_a_field_cannot_be_split_into_two_with_the_same_digest(text: str, place: int) -> None:
    assert digest(text) != digest(text[:place], text[place:])


@pytest.mark.parametrize("field", [field.name for field in fields(ModelIdentity)])
def test_every_field_of_the_model_s_identity_is_part_of_the_key(field: str) -> None:
    values = (None, "", "none", "=none", "x")
    models: list[Any] = [replace(MODEL, **{field: value}) for value in values]
    assert len({assessment_key(model, request()) for model in models}) == len(values)


def test_pixels_reading_and_the_policy_s_words_are_part_of_the_key() -> None:
    rules = [{"id": "arms", "title": "Arms", "unsafe": ["knives"]}]
    asked = [
        request(),
        request("b"),
        request(reading=Reading.EXPLAIN),
        request(policy=policy(title="Q")),
        request(policy=policy(rules=rules)),
        request(policy=policy().with_rule_status("arms", "exempt")),
    ]
    assert len({assessment_key(MODEL, one) for one in asked}) == len(asked)


def test_thresholds_actions_names_and_versions_are_not_part_of_the_key() -> None:
    other = policy(threshold=0.9, action=Action.FLAG, min_label_mass=0.3, id="q", version="2.0.0")
    assert assessment_key(MODEL, request()) == assessment_key(MODEL, request(policy=other))


def test_rules_taken_out_of_a_resolved_policy_change_its_key() -> None:
    whole = policy()
    fewer = replace(whole, rules=whole.rules[:1])
    assert assessment_key(MODEL, request(policy=whole)) != assessment_key(MODEL, request(policy=fewer))


def test_pixels_that_nobody_can_name_have_no_key() -> None:
    assert assessment_key(MODEL, request("")) is None


def keys_of(source: object, **changes: Any) -> list[str]:
    backend = FakeBackend()
    Guard(policy(**changes), backend=backend).check(source)
    return [one.frame_key for one in backend.requests]


def test_the_backgrounds_of_a_transparent_picture_have_keys_of_their_own() -> None:
    keys = keys_of(picture(mode="RGBA"))
    assert len(keys) == len(set(keys)) == 2


def test_the_same_bytes_have_the_same_key_and_other_bytes_another() -> None:
    assert keys_of(picture(1)) == keys_of(picture(1)) != keys_of(picture(2))


def test_pictures_of_the_same_pixels_in_another_shape_have_another_key() -> None:
    assert keys_of(Pictures.new("RGB", (8, 32))) != keys_of(Pictures.new("RGB", (32, 8)))


def test_the_stricter_rules_of_a_second_round_are_asked_about_and_cached_by_themselves() -> None:
    rules = [
        {"id": "mild", "title": "Mild", "unsafe": ["toys"], "action": "flag"},
        {"id": "grave", "title": "Grave", "unsafe": ["blood"], "action": "block"},
    ]
    backend = FakeBackend(lambda one: 0.9 if len(one.policy.rules) == 2 else 0.1)
    guard = Guard(policy(rules=rules), backend=backend, cache=MemoryCache())
    first, second = guard.check(picture()), guard.check(picture())
    assert (2, 2) == (backend.calls, len(backend.requests))
    assert [finding.rule for finding in second.findings] == ["mild"]
    assert (first.action, first.score, False) == (second.action, second.score, first.cached)
    assert second.cached
