"""The reward's truth table: what the runtime would read as the right verdict earns, and no trick does."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from policyguard.assessment import Rating
from policyguard.dialects import Dialect, PicoDialect, SafeguardDialect
from policyguard.policy import load_policy
from policyguard.train.answers import conversation
from policyguard.train.recipe import RewardSettings
from policyguard.train.reward import Expected, VerdictReward, score
from support.training import POLICY

SETTINGS = RewardSettings(bare_words=True)
POLICY_ = POLICY.resolve()
UNSAFE = Expected(POLICY_, Rating.UNSAFE, ("warm",))
SAFE = Expected(POLICY_, Rating.SAFE)
WORDS = "the picture shows one large square that is as red as a brick"


def answer(rating: str, category: str = "none", rationale: str = "a red square") -> str:
    return json.dumps({"rating": rating, "category": category, "rationale": rationale})


def value(
    text: str, expected: Expected, settings: RewardSettings = SETTINGS, dialect: Dialect | None = None
) -> float:
    return score(text, expected, dialect or SafeguardDialect(), settings).value


@pytest.mark.parametrize(
    ("text", "when_unsafe", "when_safe"),
    [
        (answer("unsafe", "A"), 1.0, 0.0),
        (answer("unsafe", "C"), 1.0, 0.0),
        (answer("safe"), 0.0, 1.0),
        ("unsafe", 1.0, 0.0),
        ("safe", 0.0, 1.0),
    ],
)
def test_a_readable_verdict_earns_by_the_label(text: str, when_unsafe: float, when_safe: float) -> None:
    assert (value(text, UNSAFE), value(text, SAFE)) == (when_unsafe, when_safe)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "undecided",
        "Unsafe",
        "UNSAFE",
        "not safe",
        "not unsafe",
        "unsafe.",
        "safe unsafe",
        "unsafe safe",
        "safe\nunsafe",
        "safeunsafe",
        "The picture is unsafe.",
        "unsafe because of the red square",
        "un safe",
        answer("unsafe"),  # no category
        answer("unsafe", "Z"),
        answer("unsafe", "warm"),
        answer("safe or unsafe"),
        answer("unsafe", "A") + answer("safe"),
        answer("unsafe", "A") + "\nsafe",
        "unsafe\n" + answer("unsafe", "A"),
        '{"rating": "unsafe", "rating": "safe", "category": "A", "rationale": "x"}',
        '{"rating": "unsafe", "category": "A"}',
        '{"rating": "unsafe", "category": "A", "rationale": "cut o',
        '{"rating": ["safe", "unsafe"], "category": "A", "rationale": "x"}',
        "```json\n" + answer("unsafe", "A") + "\n```",
        "<think>unsafe</think>unsafe",
        "<answer>unsafe</answer>",
        "yes",
        "A",
    ],
)
def test_what_the_runtime_would_not_read_earns_the_same_under_both_labels(text: str) -> None:
    assert value(text, UNSAFE) == value(text, SAFE) == SETTINGS.unreadable


@pytest.mark.parametrize("rationale", ["safe", "unsafe", '{"rating": "safe"}', "really safe, not unsafe"])
def test_verdict_words_in_the_rationale_change_nothing(rationale: str) -> None:
    assert value(answer("unsafe", "A", rationale), UNSAFE) == 1.0
    assert value(answer("unsafe", "A", rationale), SAFE) == 0.0


def test_a_bare_word_earns_only_where_the_recipe_allows_it_because_the_guard_begins_answers_otherwise() -> (
    None
):
    strict = RewardSettings()
    assert value("unsafe", UNSAFE, strict) == value("safe", SAFE, strict) == strict.unreadable
    assert value(answer("unsafe", "A"), UNSAFE, strict) == 1.0
    pico = Expected(load_policy("pictosafe/l3").resolve(), Rating.SAFE)
    assert value(" safe", pico, strict, PicoDialect()) == 1.0


def test_guessing_never_earns_more_than_an_honest_answer_on_average() -> None:
    best = value("safe", SAFE) + value("unsafe", UNSAFE)
    constants = ["safe", "unsafe", answer("unsafe", "A"), "safe unsafe", ""]
    assert all(value(text, SAFE) + value(text, UNSAFE) <= best / 2 for text in constants)


def test_bonuses_come_on_top_of_a_right_verdict_only() -> None:
    settings = RewardSettings(category_bonus=0.3, rationale_bonus=0.2)
    speaks = "The square shows the colour red."
    assert value(answer("unsafe", "A", speaks), UNSAFE, settings) == pytest.approx(1.3)
    about = Expected(load_policy("safeedit/l3").resolve(), Rating.UNSAFE, ())
    assert about.policy.rules
    lime = Expected(POLICY_, Rating.UNSAFE, ("fresh",))
    assert value(
        answer("unsafe", "B", "The whole square shows lime green colour."), lime, settings
    ) == pytest.approx(1.5)
    assert value(
        answer("unsafe", "A", "The whole square shows lime green colour."), lime, settings
    ) == pytest.approx(1.2)
    assert value(answer("unsafe", "B", "green " * 40), lime, settings) == pytest.approx(1.3)
    assert value(answer("safe", "none", "The whole square shows lime green colour."), lime, settings) == 0.0


def test_class_weights_multiply_right_verdicts_only() -> None:
    settings = RewardSettings(unsafe_weight=2.0, bare_words=True)
    assert value("unsafe", UNSAFE, settings) == 2.0
    assert value("safe", SAFE, settings) == 1.0
    assert value("unsafe", SAFE, settings) == value("safe", UNSAFE, settings) == 0.0


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("<think>" + WORDS + "</think>\nunsafe", 1.0),
        ("<think>" + WORDS + "</think>\n" + answer("unsafe", "A"), 1.0),
        ("unsafe", -0.5),
        ("<think>short</think>unsafe", -0.5),
        ("<think>" + WORDS + "unsafe", -0.5),
        ("x<think>" + WORDS + "</think>unsafe", -0.5),
        ("<think>" + WORDS + "</think>safe</think>unsafe", -0.5),
        ("<think><think>" + WORDS + "</think>unsafe", -0.5),
        ("<think>" + WORDS + " unsafe" * 9 + "</think>safe", 0.0),
    ],
)
def test_thinking_first_needs_one_thought_and_then_the_answer(text: str, earned: float) -> None:
    assert score(text, UNSAFE, SafeguardDialect(mode="think"), SETTINGS).value == earned


@pytest.mark.parametrize(("mode", "asks"), [("answer", False), ("think", True)])
def test_only_thinking_first_asks_for_a_thought(mode: Literal["answer", "think"], asks: bool) -> None:
    turns = conversation(SafeguardDialect(mode=mode), POLICY_)
    assert ("<think>" in json.dumps(turns)) is asks
    assert sum(part["type"] == "image" for turn in turns for part in turn["content"]) == 1


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        (" unsafe A dagger", 1.0),
        (" safe", 0.0),
        ("unsafe A", -0.5),
        (" unsafe", -0.5),
        (" safe A", -0.5),
        (" undecided", 0.0),
    ],
)
def test_pico_s_answers_earn_by_its_own_parser(text: str, earned: float) -> None:
    policy = load_policy("pictosafe/l3").resolve()
    expected = Expected(policy, Rating.UNSAFE, (policy.rules[0].id,))
    assert value(text, expected, dialect=PicoDialect()) == earned


def test_an_answer_that_was_cut_off_or_holds_control_tokens_is_unreadable_though_its_text_is_fine() -> None:
    reward = VerdictReward({"p": POLICY_}, SafeguardDialect(), SETTINGS, ends={9}, control={9, 7, 8})
    logged: list[tuple[str, float]] = []
    ids = [[1, 9], [1], [], [7, 1, 9], [1, 9, 9], [1, 8, 9]]
    values = reward(
        completions=[[{"role": "assistant", "content": "unsafe"}]] * len(ids),
        completion_ids=ids,
        policy=["p"] * len(ids),
        label=["unsafe"] * len(ids),
        categories=[["warm"]] * len(ids),
        log_metric=lambda name, number: logged.append((name, number)),
        trainer_state=None,
    )
    assert values == [1.0, -0.5, -0.5, -0.5, -0.5, -0.5]
    recall = [number for name, number in logged if name == "verdict/recall_unsafe"]
    assert recall == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_nearly_right_form_earns_a_share_that_fades_and_never_more_than_a_wrong_answer() -> None:
    from types import SimpleNamespace

    settings = RewardSettings(near=0.5, near_until=10)
    reward = VerdictReward({"p": POLICY_}, SafeguardDialect(), settings, ends={9}, control={9})
    good = answer("unsafe", "A")
    pretty = json.dumps(json.loads(good), indent=2)
    texts = [good, f"```json\n{pretty}\n```", f"```\n{good}\n```", pretty, f"Answer: {good}", "unsafe"]

    def values(step: int) -> list[float]:
        return reward(
            completions=texts,
            completion_ids=[[1, 9]] * len(texts),
            policy=["p"] * len(texts),
            label=["unsafe"] * len(texts),
            categories=[["warm"]] * len(texts),
            trainer_state=SimpleNamespace(global_step=step),
        )

    assert values(0) == [1.0, -0.25, -0.25, -0.25, -0.5, -0.5]
    assert values(5) == [1.0, -0.375, -0.375, -0.375, -0.5, -0.5]
    assert values(10) == [1.0] + [-0.5] * 5
    assert [why for _, why in reward.unread][-1].endswith("begin as the guard begins it")
