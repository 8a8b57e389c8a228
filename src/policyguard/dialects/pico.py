"""The ``pico`` dialect: how the packaged toy guard is spoken to.

pico reads nothing but the lists of a PictoSafe policy, in a line of its own small language:
``" A no any weapons, knife. fine museum exhibits of weapons. B exempt."``; it answers
``" unsafe A dagger"``, ``" safe"`` or ``" undecided"``. It does not see titles and descriptions, so a policy
whose texts say outright what its lists deny is refused (``pictosafe.descriptions`` says how that is found).
"""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_uppercase
from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt, require_world
from policyguard.errors import AnswerError, ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import Policy, ResolvedPolicy

__all__ = ["UNDECIDED_AT", "PicoDialect", "count_items", "render_rules"]

MAX_RULES = 8
"""As many rules as pico was trained to tell apart."""
MAX_ITEMS = 22
"""As many items, of all rules that are not exempt, as its training policies had at most."""
UNDECIDED_AT = 0.2
"""pico puts this much on "undecided" for few scenes of its world, and for most other pictures."""
_SHOWN = 8


def render_rules(rules: Iterable[tuple[str, Iterable[str], Iterable[str]]]) -> str:
    """The text pico reads, from (status, unsafe items, safe items) of each rule in order."""
    from policyguard.pictosafe.language import normalise

    lines = []
    for key, (status, forbidden, excused) in zip(ascii_uppercase, rules, strict=False):
        unsafe, safe = [normalise(item) for item in forbidden], [normalise(item) for item in excused]
        if status == "exempt":
            lines.append(f" {key} exempt.")
        elif status == "sensitive":
            lines.append(f" {key} no {', '.join(unsafe + safe)}.")
        else:
            excuse = f" fine {', '.join(safe)}." if safe else ""
            lines.append(f" {key} no {', '.join(unsafe)}.{excuse}")
    return "".join(lines)


class PicoDialect(Dialect):
    """See the module's docstring."""

    name = "pico"
    version = "2"
    world = "pictosafe"
    limits = Limits(
        MAX_RULES,
        (
            "titles and descriptions are not read, only the rules' lists",
            f"the lists have at most {MAX_ITEMS} items in all",
        ),
    )

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """Raises ConfigurationError for another world, too many rules, or words pico never learnt."""
        require_world(self, policy)
        _require_readable(policy)
        text = render_rules((rule.status, rule.unsafe, rule.safe) for rule in policy.rules)
        prompt = Prompt(
            messages=(Message("system", (text,)), Message("user", (FRAME,))),
            prefill="",
            ratings={f" {rating}": rating for rating in Rating},
            category_prefill="",
            categories={f" {key}": rule for key, rule in policy.keys.items()},
            max_new_tokens=12,
            undecided_at=UNDECIDED_AT,
        )
        return (prompt,)

    def precheck(self, frame: PILImage) -> str | None:
        """PictoSafe scenes are square; anything else is outside pico's world."""
        width, height = frame.size
        if width != height:
            return f"pico judges square pictogram scenes only; this image is {width} x {height}"
        return None

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt | None = None) -> Answer:
        """Read ``safe``, ``undecided`` or ``unsafe KEY name...``. Raises AnswerError on anything else."""
        from policyguard.pictosafe.world import NAMES

        rating, *rest = text.split(" ")[1:] if text.startswith(" ") else [""]
        if rating not in {str(member) for member in Rating}:
            raise AnswerError(f"pico's answer does not begin with a rating: {text[:80]!r}")
        if rating != "unsafe":
            if rest:
                raise AnswerError(f"pico's answer goes on after '{rating}': {text[:80]!r}")
            return Answer(Rating(rating))
        if not rest or rest[0] not in policy.keys or not set(rest[1:]) <= set(NAMES):
            raise AnswerError(f"pico's answer is not 'unsafe', a rule and pictograms: {text[:80]!r}")
        names = ", ".join(rest[1:])
        return Answer(Rating.UNSAFE, policy.keys[rest[0]], f"The scene shows {names}." if names else None)


def count_items(policy: Policy | ResolvedPolicy) -> int:
    """Items that pico is shown: of exempt rules it sees none."""
    return sum(len(rule.unsafe) + len(rule.safe) for rule in policy.rules if rule.status != "exempt")


def _require_readable(policy: ResolvedPolicy) -> None:
    from policyguard.pictosafe.descriptions import unlisted
    from policyguard.pictosafe.language import parse_item

    if len(policy.rules) > MAX_RULES:
        raise ConfigurationError(
            f"pico reads at most {MAX_RULES} rules and policy '{policy.id}' has {len(policy.rules)}",
            hint="split it and give both (--policy twice, a list in Python): what either blocks is blocked",
        )
    items = count_items(policy)
    if items > MAX_ITEMS:
        raise ConfigurationError(
            f"pico was trained on at most {MAX_ITEMS} items in all, and policy '{policy.id}' has {items}",
            hint="name whole groups ('weapons' for every weapon), or split it and give both (--policy twice, "
            "a list in Python): what either blocks is blocked",
        )
    problems = []
    for rule in policy.rules:
        if rule.status != "exempt" and not rule.unsafe:
            problems.append(f"rule '{rule.id}' lists nothing under 'unsafe', and pico reads no descriptions")
        for item in (*rule.unsafe, *rule.safe):
            try:
                parse_item(item)
            except ValueError as error:
                problems.append(f"rule '{rule.id}': {error}")
    hint = "docs/pictosafe.md lists the pictograms, the groups and the wordings that it knows"
    if not problems:
        hint = (
            "pico reads the lists only: say it there, under `unsafe:` and `safe:`, or take it out of the text"
        )
        for said in unlisted(policy):
            if said.sure:
                whose = "the policy" if said.rule is None else f"rule '{policy.rules[said.rule].id}'"
                problems.append(f"{whose}: its {said.field} says more than the lists: {said.message}")
    if problems:
        if len(problems) > _SHOWN:
            problems[_SHOWN:] = [f"and {len(problems) - _SHOWN} more"]
        raise ConfigurationError(
            "\n".join([f"pico cannot read policy '{policy.id}':", *problems]),
            hint=hint,
        )
