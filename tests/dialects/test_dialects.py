"""One strict rule: exactly one verdict, in its place; anything else is an error."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from policyguard.assessment import Rating
from policyguard.dialects import FRAME, PicoDialect, SafeguardDialect, get_dialect
from policyguard.errors import AnswerError, ConfigurationError
from policyguard.pictosafe.world import NAMES
from policyguard.policy import ResolvedPolicy, load_policy, parse_policy


def house(**changes: Any) -> ResolvedPolicy:
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["any weapons"], "safe": ["museum exhibits of weapons"]},
        {"id": "drink", "title": "Drink", "unsafe": ["alcohol"]},
    ]
    data = {"id": "house", "version": "1.0.0", "title": "House", "world": "pictosafe", "rules": rules}
    return parse_policy(data | changes).resolve()


def answer(**changes: Any) -> str:
    return json.dumps(
        {"rating": "unsafe", "category": "A", "rationale": "A dagger lies on a table."} | changes
    )


def test_safeguard_reads_a_whole_answer() -> None:
    read = SafeguardDialect().parse(answer(), house())
    assert (Rating.UNSAFE, "arms", "A dagger lies on a table.") == (
        read.rating,
        read.category,
        read.rationale,
    )


def test_safeguard_reads_the_rule_that_describes_a_safe_picture_best() -> None:
    read = SafeguardDialect().parse(answer(rating="safe"), house())
    assert (Rating.SAFE, "arms") == (read.rating, read.category)


@pytest.mark.parametrize("word", ["safe", "unsafe", " unsafe\n"])
def test_safeguard_reads_the_bare_word(word: str) -> None:
    assert Rating(word.strip()) is SafeguardDialect().parse(word, house()).rating


TRAPS = [
    "",
    " ",
    "Safe",
    "SAFE",
    "Unsafe",
    "unsafe.",
    "safe!",
    "not safe",
    "Not safe",
    "no way safe",
    "is it safe? no, it is unsafe",
    "safe unsafe",
    "safe\nunsafe",
    "safe safe",
    "s\u0430fe",
    "ｓａｆｅ",
    "<think>safe</think>",
    "<answer>safe</answer>",
    "yes",
    "null",
    "{}",
    "[]",
    '"safe"',
    "```json\n" + answer(rating="safe", category="none") + "\n```",
    answer() + answer(rating="safe", category="none"),
    answer() + " safe",
    "Sure: " + answer(rating="safe", category="none"),
    '{"rating": "unsafe", "rating": "safe", "category": "none", "rationale": ""}',
    '{"rating": "safe", "category": "none"}',
    '{"rating": "safe", "category": "none", "rationale": "", "note": ""}',
    answer(rating="Safe"),
    answer(rating="safe "),
    answer(rating="not safe"),
    answer(rating=None),
    answer(rating=True),
    answer(rating=["safe"]),
    answer(category="none"),
    answer(category="Z"),
    answer(category="a"),
    answer(category="A."),
    answer(category=["A"]),
    answer(category=0),
    answer(rationale=None),
    answer(rationale=float("nan")),
    '{"rating": 1e309, "category": "A", "rationale": ""}',
    '{"rating": "safe", "category": "none", "rationale": "cut of',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", TRAPS, ids=[str(number) for number in range(len(TRAPS))])
def test_safeguard_refuses_everything_else(text: str) -> None:
    with pytest.raises(AnswerError):
        SafeguardDialect().parse(text, house())


def test_no_proper_prefix_of_an_answer_is_an_answer() -> None:
    for whole in (answer(), answer(rating="safe", category="none"), answer(rationale='say "safe"')):
        for end in range(len(whole)):
            with pytest.raises(AnswerError):
                SafeguardDialect().parse(whole[:end], house())


def test_random_texts_are_refused() -> None:
    rng = random.Random(0)
    pieces = [
        "safe",
        "unsafe",
        '"',
        "{",
        "}",
        ":",
        ",",
        " ",
        "rating",
        "category",
        "rationale",
        "none",
        "A",
        "\n",
        "not",
    ]
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 14)))
        if text.strip() in ("safe", "unsafe"):
            continue
        with pytest.raises(AnswerError):
            SafeguardDialect().parse(text, house())


THOUGHT = "<think>A knife lies there.</think>"


@pytest.mark.parametrize("name", ["safeguard:think", "instruct:think"])
def test_a_model_that_thinks_first_is_asked_for_a_thought_and_read_behind_it(name: str) -> None:
    dialect = get_dialect(name)
    (prompt,), (plain,) = dialect.render(house()), get_dialect(name.partition(":")[0]).render(house())
    assert (prompt.thinks_until, plain.thinks_until) == ("</think>", None)
    assert "<think>" in "".join(prompt.texts())
    assert "<think>" not in "".join(plain.texts())
    read = dialect.parse(f"{THOUGHT}\n{answer()}", house(), prompt)
    assert read == SafeguardDialect().parse(answer(), house())
    assert dialect.version != get_dialect(name.partition(":")[0]).version


@pytest.mark.parametrize(
    "text",
    [
        answer(),
        f"{THOUGHT}{THOUGHT}{answer()}",
        f"<think>{THOUGHT}{answer()}",
        f"well {THOUGHT}{answer()}",
        f"{THOUGHT}{answer()}</think>{answer()}",
        f"{THOUGHT}{answer()}{answer()}",
        f"<think>A knife lies there. {answer()}",
        THOUGHT,
    ],
)
def test_without_exactly_one_thought_in_front_nothing_is_read(text: str) -> None:
    dialect = SafeguardDialect(mode="think")
    with pytest.raises(AnswerError):
        dialect.parse(text, house(), dialect.render(house())[0])


def test_a_thought_that_gives_another_answer_or_was_never_begun_contradicts_the_rating() -> None:
    think = SafeguardDialect(mode="think")
    for thought in (f"<think>{answer(rating='unsafe')}</think>", answer(), "</think>", "<think><think>"):
        assert think.contradicts(thought, Rating.SAFE), thought
    assert not think.contradicts(THOUGHT, Rating.SAFE)
    assert not think.contradicts(f"<think>It is {answer(rating='unsafe')}</think>", Rating.UNSAFE)
    assert not SafeguardDialect().contradicts(answer(rating="unsafe"), Rating.SAFE)


def test_policy_first_puts_all_text_that_depends_on_the_policy_before_the_picture() -> None:
    first, second = (
        SafeguardDialect().render(load_policy(f"safeedit/{level}").resolve())[0] for level in ("l2", "l3")
    )
    assert first.messages[0] != second.messages[0]
    assert first.messages[1] == second.messages[1]
    assert FRAME in first.messages[1].parts


def test_image_first_puts_the_picture_before_everything() -> None:
    (prompt,) = SafeguardDialect(layout="image-first").render(house())
    assert (FRAME,) == prompt.messages[0].parts[:1]


def test_the_safeguard_prompt_holds_every_rule_in_order() -> None:
    policy = load_policy("llavaguard/default").resolve()
    text = SafeguardDialect().render(policy)[0].messages[0].parts[0]
    assert isinstance(text, str)
    places = [text.index(rule.title) for rule in policy.rules]
    assert sorted(places) == places
    assert list(policy.keys.values()) == [rule.id for rule in policy.rules]


def test_pico_reads_lists_in_its_own_small_language() -> None:
    (prompt,) = PicoDialect().render(house())
    assert (" A no any weapons. fine museum exhibits of weapons. B no alcohol.",) == prompt.messages[0].parts
    assert {" A": "arms", " B": "drink"} == prompt.categories


def test_pico_is_told_of_statuses() -> None:
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "status": "exempt"},
        {"id": "drink", "title": "Drink", "unsafe": ["alcohol"], "safe": ["beer"], "status": "sensitive"},
    ]
    (prompt,) = PicoDialect().render(house(rules=rules))
    assert (" A exempt. B no alcohol, beer.",) == prompt.messages[0].parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": None}, "world: pictosafe"),
        ({"rules": [{"id": "x", "title": "X", "unsafe": ["unicorns"]}]}, "unicorns"),
        (
            {"rules": [{"id": f"r{n}", "title": "R", "unsafe": ["weapons"]} for n in range(9)]},
            "at most 8 rules",
        ),
        ({"rules": [{"id": "x", "title": "X", "description": "Anything odd."}]}, "reads no descriptions"),
    ],
)
def test_pico_refuses_policies_it_cannot_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PicoDialect().render(house(**changes))


@pytest.mark.parametrize(
    ("count", "status", "fits"), [(22, "active", True), (23, "active", False), (40, "exempt", True)]
)
def test_pico_refuses_more_items_than_it_was_trained_on(count: int, status: str, fits: bool) -> None:
    half = [{"id": "a", "title": "A", "unsafe": list(NAMES[: count - 11]), "status": status}]
    policy = house(rules=[*half, {"id": "b", "title": "B", "unsafe": list(NAMES[-11:])}])
    if fits:
        assert PicoDialect().render(policy)
    else:
        with pytest.raises(
            ConfigurationError, match="at most 22 items in all, and policy 'house' has 23"
        ) as caught:
            PicoDialect().render(policy)
        assert "whole groups" in (caught.value.hint or "")


def test_what_pico_cannot_read_is_one_line_each_and_eight_at_most() -> None:
    rules = [{"id": "x", "title": "X", "unsafe": [f"unicorn{n}" for n in range(11)]}]
    with pytest.raises(ConfigurationError) as caught:
        PicoDialect().render(house(rules=rules))
    head, *lines = caught.value.message.splitlines()
    assert head.endswith(":")
    assert 9 == len(lines)
    assert lines[0].startswith("rule 'x': 'unicorn0' is no pictogram")
    assert "and 3 more" == lines[-1]


def test_pico_answers_are_read_strictly() -> None:
    dialect, policy = PicoDialect(), house()
    read = dialect.parse(" unsafe A dagger knife", policy)
    assert (Rating.UNSAFE, "arms", "The scene shows dagger, knife.") == (
        read.rating,
        read.category,
        read.rationale,
    )
    assert dialect.parse(" safe", policy).rating is Rating.SAFE
    assert dialect.parse(" undecided", policy).rating is Rating.UNDECIDED
    for text in (
        "",
        "safe",
        " Safe",
        " unsafe",
        " unsafe C",
        " unsafe A unicorn",
        " safe A",
        " safe safe",
        " safe ",
        " unsafe  A",
    ):
        with pytest.raises(AnswerError):
            dialect.parse(text, policy)


@pytest.mark.parametrize(
    ("at", "safe", "unsafe", "undecided", "rating"),
    [
        (0.5, 0.5, 0.3, 0.2, "safe"),
        (0.5, 0.3, 0.3, 0.2, "unsafe"),
        (0.5, 0.1, 0.3, 0.3, "unsafe"),
        (0.5, 0.3, 0.1, 0.3, "undecided"),
        (0.5, 0.0, 0.2, 0.2, "undecided"),
        (0.1, 0.01, 0.08, 0.01, "undecided"),
        (0.1, 0.91, 0.0, 0.09, "safe"),
        (0.1, 0.0, 0.91, 0.09, "unsafe"),
    ],
)
def test_shares_stand_for_the_likeliest_rating_unless_too_much_is_undecided(
    at: float, safe: float, unsafe: float, undecided: float, rating: str
) -> None:
    (prompt,) = PicoDialect().render(load_policy("pictosafe/l3").resolve())
    shares = {Rating.SAFE: safe, Rating.UNSAFE: unsafe, Rating.UNDECIDED: undecided}
    assert replace(prompt, undecided_at=at).rating_of(shares) == rating


def test_an_unknown_dialect_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="pico, safeguard"):
        get_dialect("klingon")
