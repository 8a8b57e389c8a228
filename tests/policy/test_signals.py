"""``signals``: what a guard that reads no policy looks at. No model sees them."""

from __future__ import annotations

from typing import Any

import pytest

from policyguard import Policy, PolicyError
from policyguard.authoring import compare_policies
from policyguard.policy import extend_policy, load_policy, parse_policy


def rule(name: str, *signals: str) -> dict[str, Any]:
    return {"id": name, "title": name.title(), "unsafe": [name], "signals": list(signals)}


def policy(*rules: dict[str, Any], **changes: Any) -> Policy:
    return parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": list(rules)} | changes)


def layer(**changes: Any) -> dict[str, Any]:
    return {"id": "q", "version": "1.0.0"} | changes


def test_no_model_sees_signals_and_decisions_tell_them_apart() -> None:
    plain, mapped = policy(rule("nudity")).resolve(), policy(rule("nudity", "open-nsfw/nsfw")).resolve()
    assert plain.fingerprint == mapped.fingerprint
    assert plain.text == mapped.text
    assert plain.decision_fingerprint != mapped.decision_fingerprint
    assert mapped.rules[0].signals == ("open-nsfw/nsfw",)


@pytest.mark.parametrize(
    "signal", ["nsfw", "/nsfw", "open-nsfw/", "Open NSFW/nsfw", "open-nsfw:nsfw", "", 1, None, {"a": "b"}]
)
def test_what_names_no_sensor_and_signal_is_refused_with_its_place(signal: Any) -> None:
    with pytest.raises(PolicyError, match=r"rules\.nudity\.signals\[0\]|rules\[0\]\.signals\[0\]"):
        policy(rule("nudity", signal))


@pytest.mark.parametrize(
    "signal", ["omni-moderation/violence/graphic", "classifier/Enticing or Sensual", "a/b"]
)
def test_names_of_signals_may_hold_slashes_and_spaces(signal: str) -> None:
    assert policy(rule("nudity", signal)).rules[0].signals == (signal,)


def test_a_lone_text_is_not_taken_apart() -> None:
    with pytest.raises(PolicyError, match="expected a list"):
        policy({"id": "n", "title": "N", "unsafe": ["n"], "signals": "open-nsfw/nsfw"})


def test_a_layer_adds_signals_without_a_reason_and_drops_them_only_with_one() -> None:
    base = policy(rule("nudity", "open-nsfw/nsfw"))
    more = extend_policy(base, layer(overrides={"nudity": {"signals": {"add": ["nudenet/ANUS_EXPOSED"]}}}))
    assert more.rules[0].signals == ("open-nsfw/nsfw", "nudenet/ANUS_EXPOSED")
    fewer = {"signals": {"remove": ["open-nsfw/nsfw"]}}
    with pytest.raises(PolicyError, match=r"no longer looks at(.|\n)*weakens"):
        extend_policy(base, layer(overrides={"nudity": fewer}))
    allowed = extend_policy(base, layer(overrides={"nudity": fewer | {"weakens": "too many statues"}}))
    assert allowed.rules[0].signals == ()
    assert [weakening.reason for weakening in allowed.weakenings] == ["too many statues"]


def test_a_signal_that_is_not_there_cannot_be_removed() -> None:
    gone = {"nudity": {"signals": {"remove": ["open-nsfw/nfsw"]}, "weakens": "w"}}
    with pytest.raises(PolicyError, match=r"does not list this under `signals:`(.|\n)*open-nsfw/nsfw"):
        extend_policy(policy(rule("nudity", "open-nsfw/nsfw")), layer(overrides=gone))


def test_signals_are_inherited_from_packaged_modules_and_their_origin_is_known() -> None:
    family = load_policy("apps/family")
    signals = family.resolve().rule("sexual-content").signals
    assert "open-nsfw/nsfw" in signals
    assert "modules/sexual" in str(family.origins["rules.sexual-content.signals[0]"])


def test_a_diff_names_changed_signals() -> None:
    before, after = policy(rule("nudity", "open-nsfw/nsfw")), policy(rule("nudity", "nudenet/ANUS_EXPOSED"))
    (change,) = [change for change in compare_policies(before, after).changes if change.field == "signals"]
    assert (change.before, change.after) == ("open-nsfw/nsfw", "nudenet/ANUS_EXPOSED")
