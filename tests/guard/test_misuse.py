"""What people do to the public classes besides what the docs show: each works, or says what to do instead."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle  # noqa: TID251 (process pools use it)
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import policyguard.errors
from policyguard import Action, Guard, Outcome, PolicyViolation, Verdict
from policyguard.errors import ConfigurationError, MissingExtraError, PolicyError, PolicyGuardError, Problem
from policyguard.integrations.gate import gate
from policyguard.integrations.screen import Screen
from policyguard.policy import load_policy, parse_policy
from policyguard.policy.files import find, locate
from policyguard.testing import FakeBackend

IMAGE = Image.new("RGB", (8, 8))
BATCH = np.zeros((2, 8, 8, 3), np.uint8)


def chain_step(guard: Any) -> Any:
    from policyguard.integrations.langchain import GuardRunnable  # not in the light environment

    return GuardRunnable(guard)


@pytest.fixture
def guard() -> Guard:
    return Guard("pictosafe/l3", backend=FakeBackend(0.9))


@pytest.fixture
def verdict(guard: Guard) -> Verdict:
    return guard.check(IMAGE)


def blocked(number: int) -> int:
    """For a process pool, which pickles what this raises."""
    Guard("pictosafe/l3", backend=FakeBackend(0.9)).check(IMAGE).raise_for_block()
    return number


def test_a_block_in_a_worker_process_reaches_the_caller_as_the_same_violation() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(blocked, 1).exception()
    assert isinstance(error, PolicyViolation)
    assert Action.BLOCK is error.verdict.action


def errors() -> list[PolicyGuardError]:
    classes = (getattr(policyguard.errors, name) for name in policyguard.errors.__all__)
    plain = [
        cls("wrong", hint="do this")
        for cls in classes
        if issubclass(cls, PolicyGuardError) and cls not in (MissingExtraError, PolicyError)
    ]
    return [
        *plain,
        MissingExtraError("torch", "train"),
        PolicyError([Problem("bad", line=3)], hint="do this"),
    ]


@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_error_survives_being_copied_and_pickled(
    error: PolicyGuardError, twin: Callable[[Any], Any]
) -> None:
    other = twin(error)
    assert type(error) is type(other)
    assert (str(error), error.__dict__) == (str(other), other.__dict__)


def test_a_violation_keeps_its_verdict_when_pickled(verdict: Verdict) -> None:
    error = PolicyViolation(verdict)
    other = pickle.loads(pickle.dumps(error))
    assert (verdict, str(error)) == (other.verdict, str(other))


def test_verdicts_can_be_compared_hashed_copied_and_pickled(guard: Guard, verdict: Verdict) -> None:
    again = guard.check(IMAGE)
    assert verdict == again, "timings are no part of what a verdict says"
    assert 1 == len({verdict, again, copy.deepcopy(verdict), pickle.loads(pickle.dumps(verdict))})
    assert verdict != Guard("pictosafe/l3", backend=FakeBackend(0.8)).check(IMAGE)


@pytest.mark.parametrize("name", ["allowed", "action", "unknown"])
def test_a_verdict_cannot_be_changed_and_says_so(verdict: Verdict, name: str) -> None:
    with pytest.raises(AttributeError, match=f"a Verdict cannot be changed, and '{name}'"):
        setattr(verdict, name, True)
    for part in (verdict.evidence, verdict.findings[0]):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(part, name, True)
    assert not verdict.allowed


def test_actions_and_outcomes_are_ordered_by_severity() -> None:
    assert [Action.ALLOW, Action.FLAG, Action.BLOCK] == sorted([Action.BLOCK, Action.ALLOW, Action.FLAG])
    assert Action.BLOCK is max(Action)
    assert Action.FLAG <= Action.FLAG < Action.BLOCK >= Action.FLAG > Action.ALLOW
    assert Outcome.ERROR is max(Outcome.COMPLIES, Outcome.ERROR, Outcome.UNDECIDED)
    assert Action.BLOCK == "block", "they stay texts"


@pytest.mark.parametrize("other", ["flag", Outcome.COMPLIES, 1])
def test_an_action_is_compared_with_nothing_else(other: Any) -> None:
    with pytest.raises(TypeError, match="cannot be compared"):
        assert Action.BLOCK > other
    with pytest.raises(TypeError, match="cannot be compared"):
        assert other <= Action.BLOCK


@pytest.mark.parametrize(
    "images",
    [BATCH, BATCH[0], IMAGE, b"bytes", bytearray(b"bytes"), "name.png", io.BytesIO(b"a\nb"), {"a": IMAGE}],
    ids=lambda images: type(images).__name__,
)
@pytest.mark.parametrize("check", ["check_many", "acheck_many", "acheck_as_completed"])
def test_one_thing_is_not_taken_for_many(guard: Guard, check: str, images: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes an iterable of images"):
        getattr(guard, check)(images)


@pytest.mark.parametrize("images", [[IMAGE], (IMAGE,), list(BATCH), iter([IMAGE]), {b"bytes"}])
def test_lists_sets_and_iterators_are_many(guard: Guard, images: Any) -> None:
    assert all(isinstance(verdict, Verdict) for verdict in guard.check_many(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "vllm"}, "'vllm' is a text"),
        ({"backend": FakeBackend}, "FakeBackend is a class"),
        ({"model": 123}, "model is of type int"),
        ({"dialect": 3}, "dialect is of type int"),
        ({"explain": "no"}, "explain must be True or False"),
        ({"timeout": "1"}, "timeout must be a number"),
        ({"cache": 3}, "cache is of type int"),
    ],
)
def test_settings_of_the_wrong_type_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Guard("pictosafe/l3", **options)


def test_a_text_is_not_taken_for_yes(guard: Guard) -> None:
    with pytest.raises(ConfigurationError, match="explain must be True or False, not 'no'"):
        guard.check(IMAGE, explain="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("use", [Screen, chain_step, lambda name: gate(lambda hint, number: IMAGE, name)])
def test_the_name_of_a_policy_is_no_guard(use: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match="a Guard is expected, not a str"):
        use("pictosafe/l3")


def test_a_step_of_a_chain_judges_the_file_that_a_text_names(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "image.PNG"
    IMAGE.save(path, "PNG")
    with pytest.raises(PolicyViolation):
        chain_step(guard).invoke(str(path))
    allowing = chain_step(Guard("pictosafe/l3", backend=FakeBackend(0.0)))
    assert str(path) == allowing.invoke(str(path))


@pytest.mark.parametrize("text", ["What does logo.png show?", "logo.png", "", "a\0.png", "x" * 5000 + ".png"])
def test_any_other_text_is_text(guard: Guard, text: str) -> None:
    assert text == chain_step(guard).invoke(text)


def test_a_policy_can_be_given_as_the_text_of_its_file() -> None:
    text = find(locate("pictosafe/l3")).data.decode()
    assert load_policy("pictosafe/l3").resolve().fingerprint == parse_policy(text).resolve().fingerprint
    with pytest.raises(PolicyError, match=r"<text>:\d+:\d+"):
        parse_policy(text.replace("title:", "tittle:", 1))
    with pytest.raises(PolicyError, match="for the text of a policy use parse_policy"):
        load_policy(text)
