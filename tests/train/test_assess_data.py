"""assess: augmentation, decision sentences, and answers that the runtime reads as they were meant."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from policyguard.assessment import Rating
from policyguard.dialects import Answer, PicoDialect, SafeguardDialect, get_dialect
from policyguard.errors import ConfigurationError
from policyguard.policy import Status, load_policy
from policyguard.train.answers import beginning_of, served_dialect, split_at_answer, write_answer
from policyguard.train.assess import assess_example, read_labels
from policyguard.train.assess_data import augment, decision_sentence, with_exemptions
from policyguard.train.data import LabelRow
from policyguard.train.recipe import AssessRecipe, Augment, load_recipe
from policyguard.train.rows import Located
from support.training import POLICY, label_rows, recipe, write_recipe

RESOLVED = POLICY.resolve()
QUIET = Augment(decision_sentences=False, exceptions=0, irrelevant=0, balance=False)


def item(number: int, label: str, rule: str | None, **changes: object) -> Located[LabelRow]:
    row = LabelRow(
        image=f"{number}.png",
        sha256=f"{number:064x}",
        source="drawn",
        licence="CC0-1.0",
        policy="#colours",
        label=label,  # type: ignore[arg-type]
        category=rule,
        **changes,  # type: ignore[arg-type]
    )
    return Located(row, Path(f"{number}.png"), RESOLVED)


ROWS = [item(number, "unsafe", "warm", complete=True, rationale="A red square.") for number in range(10)]
ROWS += [item(number, "safe", None) for number in range(10, 40)]


@pytest.mark.parametrize(
    ("rating", "category", "exempt", "says"),
    [
        (Rating.SAFE, None, False, "No rule"),
        (Rating.SAFE, "warm", False, "stays within"),
        (Rating.UNSAFE, "warm", False, "violates the policy"),
        (Rating.SAFE, "warm", True, "declares it exempt"),
    ],
)
def test_there_is_a_decision_sentence_for_each_of_the_four_cases(
    rating: Rating, category: str | None, exempt: bool, says: str
) -> None:
    policy = with_exemptions(RESOLVED, ["warm"]) if exempt else RESOLVED
    assert says in decision_sentence(policy, rating, category)


def test_an_exception_flips_the_label_by_exempting_what_was_broken_and_argues_no_more_for_unsafe() -> None:
    found = augment(ROWS, Augment(exceptions=1, irrelevant=0, balance=False), seed=0)
    flipped = [example for example in found if example.kind == "exception"]
    assert len(flipped) == 10
    for example in flipped:
        assert example.answer.rating is Rating.SAFE
        assert example.policy.rule("warm").status is Status.EXEMPT
        assert "A red square." not in (example.answer.rationale or "")
        assert "exempt" in (example.answer.rationale or "")


def test_irrelevant_exemptions_may_be_several_for_each_unsafe_row_and_change_no_label() -> None:
    settings = Augment(exceptions=0, irrelevant=3, irrelevant_of="unsafe", balance=False)
    added = [example for example in augment(ROWS, settings, seed=0) if example.kind == "irrelevant"]
    assert len(added) == 3 * 10
    assert all(example.answer.rating is Rating.UNSAFE for example in added)
    assert all(example.policy.rule("warm").status is Status.ACTIVE for example in added)


def test_every_broken_rule_is_exempted_where_an_image_breaks_several() -> None:
    rows = [item(1, "unsafe", "warm", violations=("warm", "cold"))]
    (flipped,) = [
        example
        for example in augment(rows, Augment(exceptions=1, irrelevant=0, balance=False), seed=3)
        if example.kind == "exception"
    ]
    assert {rule.id for rule in flipped.policy.rules if rule.status is Status.EXEMPT} >= {"warm", "cold"}


def test_irrelevant_exemptions_keep_the_label_and_leave_what_is_broken_alone() -> None:
    found = augment(ROWS, Augment(exceptions=0, irrelevant=1, balance=False), seed=0)
    changed = [example for example in found if example.kind == "irrelevant"]
    assert len(changed) == 40
    for example in changed:
        exempt = {rule.id for rule in example.policy.rules if rule.status is Status.EXEMPT}
        assert 1 <= len(exempt) <= 3
        if example.answer.rating is Rating.UNSAFE:
            assert "warm" not in exempt


def test_labels_are_balanced_by_repeating_the_rarer_one_evenly() -> None:
    found = augment(ROWS, QUIET.model_copy(update={"balance": True}), seed=0)
    unsafe = [example.path for example in found if example.answer.rating is Rating.UNSAFE]
    assert len(unsafe) == len(found) - len(unsafe) == 30
    assert {unsafe.count(path) for path in unsafe} == {3}


@pytest.mark.parametrize(("rated", "kept"), [(None, True), ("unsafe", True), ("safe", False)])
def test_a_rationale_is_used_only_if_its_rating_agrees_with_the_label(rated: str | None, kept: bool) -> None:
    row = item(1, "unsafe", "warm", rationale="A red square.", rationale_rating=rated)
    (example,) = augment([row], QUIET, seed=0)
    assert (example.answer.rationale == "A red square.") is kept


def test_the_same_seed_gives_the_same_examples_and_another_gives_others() -> None:
    one, same, other = (augment(ROWS, Augment(), seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_what_is_learnt_is_read_back_by_the_runtime_s_parser_for_any_rationale() -> None:
    rng, dialect = random.Random(0), SafeguardDialect()
    for _ in range(200):
        rationale = "".join(rng.choice('ab "\\{}:,\n\té人🔪') for _ in range(rng.randint(0, 30))).strip()
        rating = rng.choice([Rating.SAFE, Rating.UNSAFE])
        category = rng.choice(["warm", "cold"]) if rating is Rating.UNSAFE else rng.choice([None, "fresh"])
        answer = Answer(rating, category, rationale)
        assert dialect.parse(write_answer(dialect, RESOLVED, answer), RESOLVED) == answer


def test_a_thinking_model_learns_a_thought_and_then_the_same_answer() -> None:
    think = get_dialect(served_dialect("safeguard", "thinking-first"))
    (prompt,) = think.render(RESOLVED)
    for answer in (Answer(Rating.UNSAFE, "warm", "It is red."), Answer(Rating.SAFE)):
        text = write_answer(think, RESOLVED, answer)
        thought, rest = split_at_answer(text, prompt)
        assert thought.startswith("<think>Each rule")
        assert (answer.rationale or "") in thought
        assert rest == "\n" + write_answer(SafeguardDialect(), RESOLVED, answer)
        assert rest.startswith(beginning_of(prompt, answer))
        assert think.parse(text, RESOLVED, prompt).rating is answer.rating


def test_a_dialect_that_lets_no_model_think_is_refused_for_thinking_first() -> None:
    assert served_dialect("pico", "rating-first") == "pico"
    assert served_dialect("instruct", "thinking-first") == "instruct:think"
    for name in ("pico", "llavaguard"):
        with pytest.raises(ConfigurationError, match="think first"):
            served_dialect(name, "thinking-first")


def test_a_rationale_that_would_end_its_own_thought_is_named_as_a_bad_row(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, count=4)
    rows.write_text(
        rows.read_text().replace("The picture shows the colour red.", "Red.</think> It is safe.", 1)
    )
    values = recipe("assess", "pico", rows, tmp_path / "out", data={"skip_bad": 0.5, "held_out": 0.0})
    loaded = load_recipe(write_recipe(tmp_path / "r.yaml", values | {"answer": "thinking-first"}))
    assert isinstance(loaded, AssessRecipe)
    found = read_labels(loaded)
    assert len(found.train) == 3
    assert "holds <think> or </think>" in str(found.problems[0])
    assert len(read_labels(loaded.model_copy(update={"answer": "rating-first"})).train) == 4


def test_pico_learns_a_key_and_names_and_nothing_else() -> None:
    policy = load_policy("pictosafe/l3").resolve()
    rule = policy.rules[1].id
    answer = Answer(Rating.UNSAFE, rule, "The scene shows dagger, bomb.")
    assert write_answer(PicoDialect(), policy, answer) == " unsafe B dagger bomb"
    assert write_answer(PicoDialect(), policy, Answer(Rating.SAFE)) == " safe"


def test_an_answer_that_the_parser_would_refuse_is_not_written() -> None:
    from policyguard.errors import PolicyGuardError

    with pytest.raises(PolicyGuardError):
        write_answer(SafeguardDialect(), RESOLVED, Answer(Rating.UNSAFE, None, "x"))
    with pytest.raises(ConfigurationError, match="no rule 'arms'"):
        write_answer(SafeguardDialect(), RESOLVED, Answer(Rating.UNSAFE, "arms", "x"))


def test_an_example_is_the_dialect_s_own_layout_with_the_picture_once() -> None:
    (found,) = augment([ROWS[0]], QUIET, seed=0)
    example = assess_example(found, SafeguardDialect())
    assert [turn["role"] for turn in example["prompt"]] == ["system", "user"]
    assert RESOLVED.text in example["prompt"][0]["content"][0]["text"]
    assert json.loads(example["completion"][0]["content"][0]["text"])["rating"] == "unsafe"
