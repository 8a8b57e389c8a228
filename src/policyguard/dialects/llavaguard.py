"""The ``llavaguard`` dialect: LlavaGuard and QwenGuard, a JSON verdict over numbered categories.

Source: github ml-research/LlavaGuard (policy templates v20 and v16, parser). One user turn: a preamble, each
category as its name, ``Should not:`` and ``Can:`` lists, and the steps of the assessment with the form of
the answer, written with an indent of four: ``{"rating": "Unsafe" | "Safe", "category": "O2: ..." |
"NA: None applying", "rationale": ...}``. A category's status is part of its body: declared as non-violating
(our exempt), declared as sensitive, or neither.

The card puts the image first, the repository's server and evaluation put it last: ``layout`` says which.
Older models spell keys and values otherwise; each of their forms is read as a whole (``_FORMS``).

What is lost: rules become O1 to O9, in the policy's order unless all titles say a number; the models were
trained on nine fixed categories, so other rules are outside of what they know. More than nine rules cannot be
told apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Layout, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import active_rules
from policyguard.dialects.wording import Wording
from policyguard.errors import AnswerError, ConfigurationError
from policyguard.strict.jsontext import JsonError, parse_json

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy, Rule

__all__ = ["RATINGS", "LlavaGuardDialect"]

RATINGS: dict[str, Literal["safe", "unsafe"]] = {
    "safe": "safe",
    "unsafe": "unsafe",
    "highly unsafe": "unsafe",
    "moderately unsafe": "unsafe",
    "barely safe": "safe",
    "generally safe": "safe",
    "highly inappropriate": "unsafe",
    "moderately inappropriate": "unsafe",
    "barely acceptable": "safe",
    "generally acceptable": "safe",
    "compliant": "safe",
    "review needed": "unsafe",
}
"""How LlavaGuard's data rates images: the two ratings, the four severities in both spellings, and the strings
of the first release."""

MAX_RULES = 9
"""Categories are O1 to O9: one digit, so that one token tells them apart."""

_OWN = {
    "preamble": (
        "Assess the image under the policy below. It complies unless it shows what a category says that it "
        "should not."
    ),
    "exempt": "This category is declared as non-violating: anything may be shown.",
    "sensitive": "This category is declared as sensitive: nothing that touches it may be shown.",
    "steps": (
        'Answer with one JSON object of three keys, in this order: rating, "Safe" or "Unsafe"; category, the '
        'one that applies best, or "NA: None applying"; rationale, what the image shows and why the rating '
        "follows from the policy."
    ),
}


class _Form(NamedTuple):
    """One published spelling: the three keys in order, and what is written for unsafe and for safe."""

    rating: str
    category: str
    rationale: str
    unsafe: str
    safe: str


_FORMS = (
    _Form("rating", "category", "rationale", "Unsafe", "Safe"),
    _Form("rating", "image-category", "rationale", "Unsafe", "Safe"),
    _Form("decision", "image-category", "assessment", "Review Needed", "Compliant"),
    _Form("final-assessment", "policy-category", "explanation", "Review Needed", "Compliant"),
)
_NONE = ("NA: None applying", "10: None applying")
_OLDER = {
    "O2: Violence, Harm or Cruelty": "O2: Violence, Harm, or Cruelty",
    "O6: Illegal Weapons or Substance Abuse": "O6: Weapons or Substance Abuse",
}
"""Names of categories as older models spell them."""
_NUMBERED = re.compile(r"O([1-9]): ")


class LlavaGuardDialect(Dialect):
    """See the module's docstring.

    ``wording``: a file with the texts ``preamble``, ``exempt``, ``sensitive`` and ``steps``.
    """

    name = "llavaguard"
    version = "2"
    limits = Limits(
        MAX_RULES, ("rules other than its nine categories are outside of what it was trained on",)
    )

    def __init__(self, *, layout: Layout = "image-first", wording: str | Path | None = None) -> None:
        self.layout = layout
        self._words = Wording.choose(_OWN, wording, dialect=self.name)
        self.wording = self._words.source

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """Raises ConfigurationError for more than nine rules."""
        active_rules(policy)
        if len(policy.rules) > MAX_RULES:
            raise ConfigurationError(
                f"policy '{policy.id}' has {len(policy.rules)} rules, and LlavaGuard tells {MAX_RULES} apart",
                hint="split it and give both (--policy twice, a list in Python); or ask rule by rule, "
                "with the dialect 'llavaguard+per-rule' (--dialect)",
            )
        bodies = [f"{_name(number, rule)}:\n{self._body(rule)}" for number, rule in _numbered(policy)]
        text = "\n\n".join([self._words["preamble"], *bodies, self._words["steps"]])
        parts = (FRAME, text) if self.layout == "image-first" else (text, FRAME)
        prompt = Prompt(
            messages=(Message("user", parts),),
            prefill='{\n    "rating": "',
            ratings={"Safe": Rating.SAFE, "Unsafe": Rating.UNSAFE},
            category_prefill='",\n    "category": "O',
            categories={str(number): rule.id for number, rule in _numbered(policy)},
            max_new_tokens=500,
        )
        return (prompt,)

    def _body(self, rule: Rule) -> str:
        if rule.status == "exempt":
            return self._words["exempt"]
        lines = [rule.description] if rule.description else []
        lines += ["Should not:", *(f"- {item}" for item in rule.unsafe)] if rule.unsafe else []
        if rule.status == "sensitive":
            return "\n".join([self._words["sensitive"], *lines, *(f"- {item}" for item in rule.safe)])
        return "\n".join([*lines, *(["Can:", *(f"- {item}" for item in rule.safe)] if rule.safe else [])])

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read one object in one of the published forms, with a category of the policy or none.

        Raises AnswerError on anything else, also for an unsafe rating without a category.
        """
        try:
            fields = parse_json(text.strip())
        except JsonError:
            raise AnswerError("the answer is not one JSON object") from None
        keys = list(fields) if isinstance(fields, dict) else []
        matches = [form for form in _FORMS if keys == [form.rating, form.category, form.rationale]]
        if not matches or not all(isinstance(value, str) for value in fields.values()):
            raise AnswerError("the answer does not have the keys rating, category and rationale, as texts")
        form = matches[0]
        rating, category, rationale = fields[form.rating], fields[form.category], fields[form.rationale]
        if rating not in (form.safe, form.unsafe):
            raise AnswerError(f"the rating is {rating[:40]!r}, not '{form.safe}' or '{form.unsafe}'")
        unsafe = rating == form.unsafe
        named = {_name(number, rule): rule.id for number, rule in _numbered(policy)}
        category = category if category in named else _OLDER.get(category, category)
        if category not in named and category not in _NONE:
            raise AnswerError(f"the category {category[:60]!r} is not one of the policy's")
        if unsafe and category in _NONE:
            raise AnswerError("the answer says Unsafe and names no category")
        return Answer(
            Rating.UNSAFE if unsafe else Rating.SAFE, named.get(category), rationale.strip() or None
        )


def _numbered(policy: ResolvedPolicy) -> list[tuple[int, Rule]]:
    """Rules with their numbers: those in their titles, where all have one, else in order."""
    own = [_NUMBERED.match(rule.title) for rule in policy.rules]
    numbers = [int(match[1]) for match in own if match is not None]
    if len(numbers) == len(policy.rules) == len(set(numbers)):
        return list(zip(numbers, policy.rules, strict=True))
    return list(enumerate(policy.rules, 1))


def _name(number: int, rule: Rule) -> str:
    return rule.title if rule.title.startswith(f"O{number}: ") else f"O{number}: {rule.title}"
