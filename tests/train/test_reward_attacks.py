"""Answers that try to earn without a right verdict: none does, here or in the exported reward files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from policyguard.assessment import Rating
from policyguard.deciding import decide
from policyguard.dialects import Dialect, PicoDialect, SafeguardDialect, get_dialect
from policyguard.outcomes import Outcome
from policyguard.policy import ResolvedPolicy, load_policy, parse_policy
from policyguard.train.answers import AnswerFormat, served_dialect
from policyguard.train.export import EXPORTED_REWARDS, write_reward
from policyguard.train.policies import PolicyShelf, document_of, write_policies
from policyguard.train.recipe import RewardSettings
from policyguard.train.reward import Expected, assessment_of, score

POLICY = parse_policy(
    {
        "id": "house",
        "version": "1.0.0",
        "title": "House rules",
        "rules": [
            {"id": "arms", "title": "Weapons", "unsafe": ["knives held up", "firearms"]},
            {"id": "smoke", "title": "Smoking", "unsafe": ["cigarettes"], "status": "exempt"},
            {"id": "drinks", "title": "Alcohol", "unsafe": ["bottles of wine"], "action": "flag"},
            {"id": "gore", "title": "Injuries", "unsafe": ["blood"], "threshold": 0.2},
        ],
    }
).resolve()
BANDED = parse_policy(
    {
        "id": "banded",
        "version": "1.0.0",
        "title": "House rules",
        "defaults": {"action": "flag"},
        "rules": [
            {"id": "arms", "title": "Weapons", "unsafe": ["firearms"], "action": "block"},
            {"id": "drinks", "title": "Alcohol", "unsafe": ["bottles of wine"]},
        ],
    }
).resolve()
UNSAFE = Expected(POLICY, Rating.UNSAFE, ("arms",))
FLAGGED = Expected(POLICY, Rating.UNSAFE, ("drinks",))
SAFE = Expected(POLICY, Rating.SAFE)
HELD = "A hand holds a knife up, which the rule on weapons forbids."
ZERO = "\u200b"


def answer(rating: str, category: str = "none", rationale: str = HELD) -> str:
    return json.dumps({"rating": rating, "category": category, "rationale": rationale})


GOOD = answer("unsafe", "A")
THOUGHT = "The picture shows one hand with a long knife, and weapons may not be shown."

WRONG_VERDICTS = {
    "an exempt rule, which the guard lets pass": (UNSAFE, answer("unsafe", "B")),
    "a rule with a milder action": (UNSAFE, answer("unsafe", "C")),
    "a rule with a harsher action": (FLAGGED, answer("unsafe", "A")),
    "safe, naming the broken rule": (UNSAFE, answer("safe", "A")),
    "safe": (UNSAFE, answer("safe")),
    "safe, and a rationale that says unsafe": (UNSAFE, answer("safe", "none", "unsafe")),
    "unsafe for a safe image": (SAFE, GOOD),
    "a flagged rule for a safe image": (SAFE, answer("unsafe", "C")),
    "a low threshold for a safe image": (SAFE, answer("unsafe", "D")),
    "unsafe, and a rationale that says safe": (SAFE, answer("unsafe", "A", "safe")),
    "the policy's default action, where the rule has its own": (
        Expected(BANDED, Rating.UNSAFE, ("arms",)),
        answer("unsafe", "B"),
    ),
    "the milder of two broken rules": (
        Expected(POLICY, Rating.UNSAFE, ("drinks", "gore")),
        answer("unsafe", "C"),
    ),
}
UNREADABLE = {
    "nothing": "",
    "blanks": "   \n",
    "a bare word": "unsafe",
    "another bare word": "safe",
    "a shouted word": "UNSAFE",
    "a letter": "A",
    "yes": "yes",
    "both verdicts": answer("safe or unsafe", "A"),
    "a list of verdicts": '{"rating": ["safe", "unsafe"], "category": "A", "rationale": "x"}',
    "a verdict as an object": '{"rating": {"unsafe": 1}, "category": "A", "rationale": "x"}',
    "an escaped label": GOOD.replace('"unsafe"', '"\\u0075nsafe"'),
    "a label escaped at its end": GOOD.replace('"unsafe"', '"unsaf\\u0065"'),
    "an escaped key": GOOD.replace('"rating"', '"r\\u0061ting"'),
    "an escaped category": GOOD.replace('"A"', '"\\u0041"'),
    "an escaped category key": GOOD.replace('"category"', '"c\\u0061tegory"'),
    "a capital label": answer("Unsafe", "A"),
    "a label with a blank": answer("unsafe ", "A"),
    "a label with a full stop": answer("unsafe.", "A"),
    "a label with a hidden character": answer("unsafe" + ZERO, "A"),
    "a Cyrillic letter": answer("uns\u0430fe", "A"),
    "a fullwidth label": answer("\uff55\uff4e\uff53\uff41\uff46\uff45", "A"),
    "unsafe without a category": answer("unsafe"),
    "a category by its name": answer("unsafe", "arms"),
    "a category by its title": answer("unsafe", "Weapons"),
    "a category in lower case": answer("unsafe", "a"),
    "two categories": answer("unsafe", "A, D"),
    "a list of categories": '{"rating": "unsafe", "category": ["A"], "rationale": "x"}',
    "a category that is not there": answer("unsafe", "Z"),
    "no category key": '{"rating": "unsafe", "rationale": "x"}',
    "no rationale": '{"rating": "unsafe", "category": "A"}',
    "a rationale that is a number": '{"rating": "unsafe", "category": "A", "rationale": 1}',
    "no rationale but null": '{"rating": "unsafe", "category": "A", "rationale": null}',
    "a key more": GOOD[:-1] + ', "score": 1}',
    "a rating twice": GOOD.replace("{", '{"rating": "safe", ', 1),
    "a rating twice, the right one first": GOOD[:-1] + ', "rating": "safe"}',
    "a category twice": GOOD[:-1] + ', "category": "B"}',
    "keys in another order": '{"category": "A", "rating": "unsafe", "rationale": "x"}',
    "no blank after the colon": GOOD.replace('": "', '":"'),
    "pretty-printed": json.dumps(json.loads(GOOD), indent=2),
    "single quotes": GOOD.replace('"', "'"),
    "fenced": f"```json\n{GOOD}\n```",
    "an introduction": f"Here is my answer: {GOOD}",
    "a remark after it": f"{GOOD} I hope this helps.",
    "a safe one after it": GOOD + answer("safe"),
    "a safe word after it": f"{GOOD}\nsafe",
    "a word before it": f"unsafe\n{GOOD}",
    "a list of answers": f"[{GOOD}, {answer('safe')}]",
    "an answer in an answer": json.dumps({"answer": json.loads(GOOD)}),
    "cut off in the rationale": GOOD[:-20],
    "cut off after the category": '{"rating": "unsafe", "category": "A"',
    "a tag": "<answer>unsafe</answer>",
    "a thought nobody asked for": f"<think>{THOUGHT}</think>{GOOD}",
    "a comment": GOOD.replace("}", "} // safe"),
    "a hidden character before it": ZERO + GOOD,
    "hidden characters in the rationale": GOOD.replace("knife", f"kni{ZERO}fe"),
    "escaped hidden characters in the rationale": GOOD.replace("knife", "kni\\u200bfe"),
    "text that runs backwards": GOOD.replace("knife", "\u202eefink\u202c"),
    "half a surrogate pair": GOOD.replace("knife", "\\ud83d"),
    "invisible tags": GOOD.replace("knife", "knife\U000e0041\U000e0042"),
}
EMPTY_THOUGHTS = {
    "no thought": "",
    "an empty thought": "<think></think>",
    "blanks": f"<think>{' ' * 80}</think>",
    "dots": f"<think>{'.' * 80}</think>",
    "hidden characters": f"<think>{ZERO * 80}</think>",
    "digits": f"<think>{'1234567890 ' * 9}</think>",
    "one word again and again": f"<think>{'unsafe ' * 30}</think>",
    "two words in turn": f"<think>{'safe unsafe ' * 20}</think>",
    "letters": f"<think>{' '.join('abcdefghijklmnopqrstuvwxyz')}</think>",
    "emoji": f"<think>{'🔪' * 60}</think>",
    "one very long word": f"<think>{'a' * 200}</think>",
    "hidden characters between words": f"<think>{THOUGHT.replace(' ', ' ' + ZERO)}</think>",
    "a thought that is not closed": f"<think>{THOUGHT}",
    "a thought in a thought": f"<think><think>{THOUGHT}</think>",
    "two thoughts": f"<think>{THOUGHT}</think><think>{THOUGHT}</think>",
    "a word before the thought": f"well <think>{THOUGHT}</think>",
}
IDLE_RATIONALES = {
    "nothing": "",
    "dots": "." * 80,
    "one word again and again": "weapons " * 20,
    "the rule's own words": "Weapons, knives held up, firearms.",
    "the rule's own words without commas": "weapons knives held up firearms",
    "a list of words": "knife, hand, weapon, weapons, blade, steel, sharp, danger, room, table",
    "a list of words without commas": "knife hand weapons blade steel sharp danger room table person",
    "words of another rule": "A bottle of red wine stands on a table in the room.",
    "no word of the rule": "It is what it is, and so it goes on and on.",
    "a wall of text": "The knife is one of the weapons here. " * 60,
}


def value(
    text: str,
    expected: Expected = UNSAFE,
    *,
    form: AnswerFormat = "rating-first",
    dialect: Dialect | None = None,
    settings: RewardSettings | None = None,
) -> float:
    speaks = dialect or get_dialect(served_dialect("safeguard", form))
    return score(text, expected, speaks, settings or RewardSettings()).value


def test_there_are_enough_attacks() -> None:
    assert len(WRONG_VERDICTS) + len(UNREADABLE) + len(EMPTY_THOUGHTS) + len(IDLE_RATIONALES) >= 90


def test_the_honest_answers_earn() -> None:
    assert value(GOOD) == value(answer("safe"), SAFE) == value(answer("unsafe", "C"), FLAGGED) == 1.0
    assert value(answer("unsafe", "D")) == 1.0  # another rule of the same action: the verdict is right
    assert value(f"<think>{THOUGHT}</think>\n{GOOD}", form="thinking-first") == 1.0
    assert value(answer("unsafe", "A"), settings=RewardSettings(rationale_bonus=0.2)) == pytest.approx(1.2)


@pytest.mark.parametrize("name", WRONG_VERDICTS)
def test_what_the_guard_decides_wrongly_earns_nothing(name: str) -> None:
    expected, text = WRONG_VERDICTS[name]
    assert value(text, expected) == 0.0


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_the_guard_does_not_read_costs_the_same_under_both_labels(name: str) -> None:
    assert value(UNREADABLE[name], UNSAFE) == value(UNREADABLE[name], SAFE) == -0.5


@pytest.mark.parametrize("name", EMPTY_THOUGHTS)
def test_a_thought_without_visible_words_earns_nothing(name: str) -> None:
    assert value(EMPTY_THOUGHTS[name] + GOOD, form="thinking-first") == -0.5


@pytest.mark.parametrize("name", IDLE_RATIONALES)
def test_a_rationale_that_is_no_prose_about_the_rule_earns_no_bonus(name: str) -> None:
    text = answer("unsafe", "A", IDLE_RATIONALES[name])
    assert value(text, settings=RewardSettings(rationale_bonus=0.2)) == 1.0


@pytest.mark.parametrize("category", ["A", "B", "C", "D"])
@pytest.mark.parametrize("expected", [UNSAFE, FLAGGED, SAFE])
def test_right_is_what_decide_makes_of_the_answer(category: str, expected: Expected) -> None:
    for rating in ("safe", "unsafe"):
        text = answer(rating, category)
        decision = decide(POLICY, assessment_of(SafeguardDialect().parse(text, POLICY), POLICY))
        outcome = Outcome.VIOLATES if expected.label is Rating.UNSAFE else Outcome.COMPLIES
        right = decision.outcome is outcome and expected.action in (None, decision.action)
        scored = score(text, expected, SafeguardDialect(), RewardSettings())
        assert (scored.right, scored.value) == (right, float(right))


def test_a_bare_word_names_no_rule_and_is_right_by_its_outcome() -> None:
    bare = RewardSettings(bare_words=True)
    assert value("unsafe", settings=bare) == value("unsafe", FLAGGED, settings=bare) == 1.0
    assert value("unsafe", SAFE, settings=bare) == value("safe", settings=bare) == 0.0
    assert value(UNREADABLE["an escaped label"], settings=bare) == -0.5


def test_undecided_is_not_right_under_either_label() -> None:
    policy = load_policy("pictosafe/l3").resolve()
    for label in (Rating.SAFE, Rating.UNSAFE):
        expected = Expected(policy, label, () if label is Rating.SAFE else (policy.rules[0].id,))
        assert value(" undecided", expected, dialect=PicoDialect()) == 0.0


def test_a_policy_that_is_written_and_read_again_decides_alike(tmp_path: Path) -> None:
    for policy in (POLICY, BANDED):
        write_policies(tmp_path, {"p": document_of(policy)})
        again: ResolvedPolicy = PolicyShelf(tmp_path).get("#p")
        assert (again.fingerprint, again.decision_fingerprint) == (
            policy.fingerprint,
            policy.decision_fingerprint,
        )


@pytest.mark.parametrize("form", ["rating-first", "thinking-first"])
def test_the_exported_rewards_agree_on_every_attack(
    form: AnswerFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RewardSettings(rationale_bonus=0.2)
    policies = {"house": POLICY, "banded": BANDED}
    write_reward(tmp_path, policies, dialect=served_dialect("safeguard", form), settings=settings)
    verl, easyr1, swift = (_load(tmp_path, name, monkeypatch) for name in EXPORTED_REWARDS)
    lead = "" if form == "rating-first" else f"<think>{THOUGHT}</think>"
    attacks: list[tuple[Expected, str]] = [
        *((expected, lead + text) for expected, text in WRONG_VERDICTS.values()),
        *((expected, lead + text) for text in UNREADABLE.values() for expected in (UNSAFE, SAFE)),
        *((UNSAFE, thought + GOOD) for thought in EMPTY_THOUGHTS.values()),
        *((UNSAFE, lead + answer("unsafe", "A", words)) for words in IDLE_RATIONALES.values()),
        (UNSAFE, lead + GOOD),
    ]
    for expected, text in attacks:
        name = "house" if expected.policy is POLICY else "banded"
        truth = json.dumps(
            {"policy": name, "label": str(expected.label), "categories": list(expected.categories)}
        )
        ours = value(text, expected, form=form, settings=settings)
        assert verl.compute_score("policyguard", text, truth) == ours
        assert easyr1.compute_score({"response": text, "ground_truth": truth})["overall"] == ours
        assert swift([text], expected=[truth]) == [ours]


def _load(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    import sys
    import types

    plugin = types.ModuleType("swift.rewards")
    plugin.ORM, plugin.orms = object, {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swift", types.ModuleType("swift"))
    monkeypatch.setitem(sys.modules, "swift.rewards", plugin)
    spec = importlib.util.spec_from_file_location(name, folder / f"reward_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plugin.orms["policyguard_verdict"]() if name == "swift" else module  # type: ignore[attr-defined]
