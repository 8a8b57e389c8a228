"""Texts that no picture can decide: intentions, permissions, laws, what happened before and who sent it.

A list of English phrases, so it finds some and not all. Each comes with what could be written instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from policyguard.policy.lint.remark import Level, Remark, Step

if TYPE_CHECKING:
    from policyguard.policy.schema import Policy

__all__ = ["pixels"]

_INTENT = "no picture shows what somebody intends: describe what can be seen, such as an act or a gesture"
_CONSENT = "no picture shows a permission: describe what can be seen, or decide it before the guard is asked"
_LAW = "no picture shows what the law of a place says: describe what can be seen"
_STORY = "no picture shows what came before or will follow: describe what can be seen"
_SENDER = "no picture shows who sent it, or where it is posted: choose a policy for that place instead"
_TRUTH = "no picture shows whether what it says is true: name the claims, or the signs of a fake"

_WHOSE: Final = r"(?:the |any |their |his |her |express |prior |explicit )*"
_PHRASES: Final = (
    (_INTENT, r"inten(?:d|ds|ded|ding|tion|tions|tional|tionally|t)"),
    (_INTENT, r"(?:in order|so as) to"),
    (_INTENT, r"on purpose|(?:for|with) the purposes? of|purposely|deliberate(?:ly)?|accidental(?:ly)?"),
    (_INTENT, r"(?:wants?|wanting|plans?|planning|hopes?|hoping|tries|trying|means|meant) to"),
    (_INTENT, r"motives?|motivated by|in (?:good|bad) faith"),
    (_CONSENT, rf"(?:without|with) {_WHOSE}(?:permission|consent|authori[sz]ation|approval|licen[cs]e)"),
    (_CONSENT, r"(?:non-?)?consensual(?:ly)?|unauthori[sz]ed|unlicen[cs]ed"),
    (_LAW, r"(?:il)?legal(?:ly)?|(?:un)?lawful(?:ly)?|criminal offen[cs]es?|copyrighted|counterfeit"),
    (_STORY, r"stolen|used to be|in the past|previously|formerly|later|going to be|will be used"),
    (_SENDER, r"(?:posted|uploaded|sent|shared|submitted) (?:by|to|on|for)"),
    (_SENDER, r"the (?:uploader|poster|sender|author)"),
    (_TRUTH, r"misinformation|disinformation|untrue|false (?:claims?|statements?|information)|hoax(?:es)?"),
)
_FIND: Final = tuple(
    (re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE), advice) for advice, words in _PHRASES
)
_VAGUE: Final = re.compile(
    r"(?<!\w)(?:inappropriate|objectionable|unacceptable|bad|improper|problematic|unsuitable"
    r"|offensive|questionable|harmful|etc)(?!\w)",
    re.IGNORECASE,
)


def pixels(policy: Policy) -> Iterator[Remark]:
    """Per text, a remark about the first phrase that cannot be seen, and one about words that say little."""
    for index, rule in enumerate(policy.rules):
        if rule.status == "exempt":
            continue
        texts: list[tuple[tuple[Step, ...], str]] = [(("description",), rule.description)]
        texts += [(("unsafe", place), item) for place, item in enumerate(rule.unsafe)]
        texts += [(("safe", place), item) for place, item in enumerate(rule.safe)]
        for path, text in texts:
            yield from _unseen(text, ("rules", index, *path))


def _unseen(text: str, path: tuple[Step, ...]) -> Iterator[Remark]:
    # In a description, a phrase may explain the rule; an item is what the model looks for.
    level = Level.INFO if path[-1] == "description" else Level.WARNING
    for words, advice in _FIND:
        if found := words.search(text):
            yield Remark(level, "not-visible", f"'{found[0]}': {advice}", path)
            break
    if path[-1] != "description" and (found := _VAGUE.search(text)):
        message = f"'{found[0]}' is a judgement, not a sight: name the objects, acts or words that are meant"
        yield Remark(Level.INFO, "vague", message, path)
