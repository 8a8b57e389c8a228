"""The reward of one completion: whether the guard, reading this answer, would decide rightly.

The answer goes through the runtime's own parser and its decision rule (``deciding.decide``), and is right
exactly when outcome and action are those of the label. Bonuses come on top of a right answer only.

Covered: what the runtime would not read earns ``unreadable``, whatever words it holds: no verdict, two,
another spelling or escapes where the guard reads scores, prose around it, a cut-off answer, control tokens,
hidden characters, a thought without enough different words. Not covered: whether a rationale is true.
``rationale_bonus`` asks for a few sentences that share words with the rule that decides, no more.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from policyguard.assessment import Assessment, Rating
from policyguard.deciding import decide
from policyguard.dialects import Answer, Dialect, render_one
from policyguard.errors import AnswerError
from policyguard.outcomes import Action, Outcome
from policyguard.policy import ResolvedPolicy, Status
from policyguard.strict.jsontext import parse_json
from policyguard.strict.text import find_forbidden, printable
from policyguard.train.answers import beginning_of, split_at_answer
from policyguard.train.recipe import RewardSettings

__all__ = ["Expected", "Scored", "VerdictReward", "assessment_of", "score", "straightened"]

_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\\d_]{2,40}")
"""A visible word: two letters or more, or one character of a script that does not part its words."""
_LONG = 4
"""Letters from which a word says something; shorter ones hold a sentence together."""
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_TAG = re.compile(r"</?\w+>")
_LONGEST = 1200
"""Characters of a rationale. A longer one earns no bonus."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The right verdict of one image under ``policy``.

    ``categories``: the rules that are broken; empty where they are not known.
    """

    policy: ResolvedPolicy
    label: Rating
    categories: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return Outcome.VIOLATES if self.label is Rating.UNSAFE else Outcome.COMPLIES

    @property
    def action(self) -> Action | None:
        """The most severe action of the broken rules; ``None`` where these are not known."""
        if self.label is Rating.SAFE:
            return self.policy.outcomes[Outcome.COMPLIES]
        actions = [
            rule.action or self.policy.action
            for rule in self.policy.rules
            if rule.id in self.categories and rule.status is not Status.EXEMPT
        ]
        return max(actions, key=lambda action: action.severity, default=None)


@dataclass(frozen=True, slots=True)
class Scored:
    """``rating`` is ``None`` for an answer that cannot be read; ``why`` then says what is wrong with it.
    ``right``: whether the guard's verdict would be.
    """

    value: float
    rating: Rating | None
    why: str = ""
    right: bool = False


def assessment_of(answer: Answer, policy: ResolvedPolicy) -> Assessment:
    """What a guard reads of a model that is certain of this answer: one label and one rule have all of the
    probability. A bare word names no rule, and so has no rule scores.
    """
    unsafe = answer.rating is Rating.UNSAFE
    scores = None
    if answer.category is not None or not unsafe:
        scores = {rule.id: float(rule.id == answer.category) for rule in policy.rules}
    p_unsafe = None if answer.rating is Rating.UNDECIDED else float(unsafe)
    return Assessment(answer.rating, p_unsafe, 1.0, rule_scores=scores, category=answer.category)


def score(text: str, expected: Expected, dialect: Dialect, settings: RewardSettings) -> Scored:
    """The reward of the completion ``text``, which ended by itself and holds no control tokens."""
    policy = expected.policy
    try:
        if find_forbidden(text) is not None:
            raise ValueError("the answer holds hidden characters")
        prompt = render_one(dialect, policy)
        read = dialect.parse(text, policy, prompt)
        thought, begun = split_at_answer(text, prompt)
        beginning = beginning_of(prompt, read)
        if prompt.thinks_until is not None:
            if len(_different_words(_TAG.sub(" ", thought))) < settings.min_thought:
                raise ValueError("the thought is too short")
            # The guard puts one line break behind the thought, and reads on whatever was sampled there.
            begun, beginning = begun.lstrip("\n"), beginning.lstrip("\n")
        bare = settings.bare_words and begun.strip() == str(read.rating)
        if not bare and not begun.startswith(beginning):
            raise ValueError("the answer does not begin as the guard begins it")
        if find_forbidden(read.rationale or "") is not None:
            raise ValueError("the rationale holds hidden characters")
    except (AnswerError, ValueError) as error:
        return Scored(settings.unreadable, None, str(error))
    decision = decide(policy, assessment_of(read, policy))
    names_no_rule = read.rating is Rating.UNSAFE and read.category is None
    action = None if names_no_rule else expected.action
    if decision.outcome is not expected.outcome or action not in (None, decision.action):
        return Scored(settings.wrong, read.rating)
    weight = settings.unsafe_weight if expected.label is Rating.UNSAFE else settings.safe_weight
    value = settings.right * weight
    if expected.label is Rating.UNSAFE and read.category in expected.categories:
        value += settings.category_bonus
    if settings.rationale_bonus and _speaks_of_the_rule(read, expected):
        value += settings.rationale_bonus
    return Scored(value, read.rating, right=True)


class VerdictReward:
    """The reward function that TRL's ``GRPOTrainer`` calls.

    Its data set has the columns ``policy`` (a key of ``policies``), ``label`` and ``categories``. A
    completion must end with one of ``ends`` (else it was cut off) and hold no other token of ``control``.
    """

    __name__ = "verdict"

    def __init__(
        self,
        policies: Mapping[str, ResolvedPolicy],
        dialect: Dialect,
        settings: RewardSettings,
        *,
        ends: Collection[int],
        control: Collection[int],
    ) -> None:
        self._policies = policies
        self._dialect = dialect
        self._settings = settings
        self._ends = frozenset(ends)
        self._control = frozenset(control)
        self.unread: deque[tuple[str, str]] = deque(maxlen=5)
        """The last answers that could not be read, shortened, and what is wrong with each."""

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        policy: Sequence[str],
        label: Sequence[str],
        categories: Sequence[Sequence[str]],
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        values = []
        for completion, ids, name, true_label, rules in zip(
            completions, completion_ids, policy, label, categories, strict=True
        ):
            expected = Expected(self._policies[name], Rating(true_label), tuple(rules))
            scored = self.score_ids(_text(completion), ids, expected)
            values.append(scored.value)
            if scored.rating is None:
                self.unread.append((printable(_text(completion)[:300]), scored.why))
                values[-1] += self._for_near(_text(completion), ids, expected, trainer_state)
            if log_metric is not None:
                log_metric(f"verdict/recall_{true_label}", float(scored.right))
                log_metric("verdict/readable", float(scored.rating is not None))
                log_metric("verdict/says_unsafe", float(scored.rating is Rating.UNSAFE))
        return values

    def _for_near(self, text: str, ids: Sequence[int], expected: Expected, state: Any) -> float:
        """What is added for an answer that is nearly right in form; see ``RewardSettings``."""
        settings = self._settings
        left = 1.0 - (state.global_step if state is not None else 0) / settings.near_until
        if not settings.near or left <= 0.0:
            return 0.0
        body = list(ids)[:-1]
        if not ids or ids[-1] not in self._ends or self._control.intersection(body):
            return 0.0
        near = score(straightened(text), expected, self._dialect, settings)
        whole = (settings.wrong - settings.unreadable) * settings.near * left
        return 0.0 if near.rating is None else whole

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """``ids`` up to and with the first token that ends an answer; all of them where there is none."""
        end = next((place for place, token in enumerate(ids) if token in self._ends), len(ids))
        return list(ids[: end + 1])

    def score_ids(self, text: str, ids: Sequence[int], expected: Expected) -> Scored:
        """As ``score``, with a look at the tokens, which the decoded text does not show."""
        body = list(ids)
        if not body or body[-1] not in self._ends:
            return Scored(self._settings.unreadable, None, "the answer was cut off")
        body.pop()
        if self._control.intersection(body) or self._ends.intersection(body):
            return Scored(self._settings.unreadable, None, "the answer holds control tokens")
        return score(text, expected, self._dialect, self._settings)


def _text(completion: Any) -> str:
    content = completion if isinstance(completion, str) else completion[0]["content"]
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content)
    return str(content)


def straightened(text: str) -> str:
    """``text`` without a code fence and with its JSON object on one line, as ``json.dumps`` writes it."""
    lead, mark, answer = text.rpartition("</think>")
    body = answer.strip()
    if fenced := _FENCED.fullmatch(body):
        body = fenced[1]
    with suppress(ValueError):
        body = json.dumps(parse_json(body), ensure_ascii=False)
    return lead + mark + body


def _different_words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _speaks_of_the_rule(read: Answer, expected: Expected) -> bool:
    """Whether the rationale is short prose that shares words with a rule that decides.

    Prose: at least five words, half of them different, one in eight short (a list of nouns has none), few
    commas, and at most half of the longer words taken from the rule.
    """
    rationale = read.rationale or ""
    spoken = [word.lower() for word in _WORD.findall(rationale)]
    different = set(spoken)
    if len(rationale) > _LONGEST or len(spoken) < 5 or len(different) * 2 < len(spoken):
        return False
    if sum(len(word) < _LONG for word in spoken) * 8 < len(spoken) or rationale.count(",") * 4 > len(spoken):
        return False
    rules = [rule for rule in expected.policy.rules if rule.id in expected.categories]
    if not rules:
        return expected.label is Rating.SAFE
    about = " ".join(
        text for rule in rules for text in (rule.title, rule.description, *rule.unsafe, *rule.safe)
    )
    long = {word for word in different if len(word) >= _LONG}
    shared = len(_different_words(about) & long)
    return 0 < shared <= 12 and shared * 2 <= len(long)
