"""The reward of one completion: the runtime's own strict parser as a gate, then the verdict against the
label.

Covered: what the runtime would not accept earns ``unreadable``, whatever words it holds: no verdict, two,
another spelling, prose around it, a cut-off answer, control tokens. Bonuses come on top of a right verdict
only, so nothing is gained by them with a wrong one, and are small. Not covered: whether a rationale is
true. ``rationale_bonus`` only asks for words of the rule that decides, once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyguard.assessment import Rating
from policyguard.dialects import Answer, Dialect
from policyguard.errors import AnswerError
from policyguard.policy import ResolvedPolicy
from policyguard.train.answers import AnswerFormat, split_thought
from policyguard.train.recipe import RewardSettings

__all__ = ["Expected", "Scored", "VerdictReward", "score"]

_WORD = re.compile(r"[^\W\d_]{4,}")
_LONGEST = 1200
"""Characters of a rationale. A longer one earns no bonus."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The right verdict of one image under ``policy``.

    ``categories``: rule ids that are right; may be empty.
    """

    policy: ResolvedPolicy
    label: Rating
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """``rating`` is ``None`` where the gate did not open; ``why`` then says what it met. ``right``: whether
    it is the label.
    """

    value: float
    rating: Rating | None
    why: str = ""
    right: bool = False


def score(
    text: str,
    expected: Expected,
    dialect: Dialect,
    settings: RewardSettings,
    *,
    answer: AnswerFormat = "rating-first",
) -> Scored:
    """The reward of the completion ``text``, which ended by itself and holds no control tokens."""
    try:
        if answer == "thinking-first":
            thought, text = split_thought(text)
            if len(thought) < settings.min_thought:
                return Scored(settings.unreadable, None, "the thought is too short")
        if not settings.bare_words and not text.startswith(dialect.render(expected.policy).prefill):
            return Scored(settings.unreadable, None, "the answer does not begin as the guard begins it")
        read = dialect.parse(text, expected.policy)
    except (AnswerError, ValueError) as error:
        return Scored(settings.unreadable, None, str(error))
    if read.rating is not expected.label:
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
        answer: AnswerFormat,
        ends: Collection[int],
        control: Collection[int],
    ) -> None:
        self._policies = policies
        self._dialect = dialect
        self._settings = settings
        self._answer: AnswerFormat = answer
        self._ends = frozenset(ends)
        self._control = frozenset(control)

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        policy: Sequence[str],
        label: Sequence[str],
        categories: Sequence[Sequence[str]],
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
            if log_metric is not None:
                log_metric(f"verdict/recall_{true_label}", float(scored.rating is expected.label))
                log_metric("verdict/readable", float(scored.rating is not None))
                log_metric("verdict/says_unsafe", float(scored.rating is Rating.UNSAFE))
        return values

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
        return score(text, expected, self._dialect, self._settings, answer=self._answer)


def _text(completion: Any) -> str:
    content = completion if isinstance(completion, str) else completion[0]["content"]
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content)
    return str(content)


def _speaks_of_the_rule(read: Answer, expected: Expected) -> bool:
    """Whether the rationale is short prose that shares words with a rule that decides."""
    if not read.rationale or len(read.rationale) > _LONGEST:
        return False
    spoken = [word.lower() for word in _WORD.findall(read.rationale)]
    if len(spoken) < 3 or len(set(spoken)) * 2 < len(spoken):
        return False
    rules = [rule for rule in expected.policy.rules if rule.id in expected.categories]
    if not rules:
        return expected.label is Rating.SAFE
    about = " ".join(
        text for rule in rules for text in (rule.title, rule.description, *rule.unsafe, *rule.safe)
    )
    words = {word.lower() for word in _WORD.findall(about)}
    shared = len(words.intersection(spoken))
    return 0 < shared <= 12  # a list of all the policy's words is no rationale
