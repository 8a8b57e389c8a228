"""The little language in which a policy names what it forbids and permits.

An item of a rule's ``unsafe`` or ``safe`` list reads ``[determiner] [context] concept``: ``knife``,
``any weapons``, ``pictures of museum exhibits of weapons``. The concept is a pictogram or a group of the
world; a context means that only pictograms framed as a museum exhibit, or only those under a prohibition
sign, are meant. All qualifying words stand before the concept, so that a reader going left to right knows
what is said of it when it arrives there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from policyguard.pictosafe.world import GROUP_NAMES, GROUP_OF, MEMBERS, NAMES, Context

__all__ = ["CONTEXT_WORDS", "DETERMINERS", "MANNERS", "WORDINGS", "Item", "normalise", "parse_item", "phrase"]

DETERMINERS: Final = ("", "any", "all", "every", "a", "the", "pictures of", "images of")
CONTEXT_WORDS: Final[Mapping[Context, tuple[str, ...]]] = MappingProxyType(
    {
        "framed": ("framed", "exhibited", "museum exhibits of", "museum"),
        "prohibited": ("prohibited", "banned", "prohibition signs of", "barred"),
    }
)
"""Words for each context, as many for the one as for the other; no word comes before one that it begins."""
MANNERS: Final = 4
"""How many words there are for each context."""
WORDINGS: Final = len(DETERMINERS) * MANNERS
"""How many ways ``phrase`` has of saying an item; without a context several coincide."""

_PARSED_DETERMINERS: Final = (*DETERMINERS[1:], "an")
_NUMBER: Final = {"all": "every", "every": "all", "a": "any"}
"""``all`` goes with a plural and not with a singular, ``every`` and ``a`` the other way round."""


@dataclass(frozen=True, slots=True)
class Item:
    """A concept (pictogram or group), anywhere or only in one context."""

    concept: str
    context: Context | None = None


def normalise(text: str) -> str:
    """``text`` in lower case with single spaces: the form that ``phrase`` writes and models read."""
    return " ".join(text.lower().split())


def parse_item(text: str) -> Item:
    """Read one item, in any case and spacing. Raises ValueError naming the word not understood."""
    rest = normalise(text)
    if not rest:
        raise ValueError("an item is empty; name a pictogram or a group, such as 'knife' or 'weapons'")
    rest = _without_prefix(rest, _PARSED_DETERMINERS) or rest
    concept, context = rest, None
    for possible, words in CONTEXT_WORDS.items():
        if (bare := _without_prefix(rest, words)) is not None:
            concept, context = bare, possible
    if concept not in GROUP_OF and concept not in MEMBERS:
        raise ValueError(_complaint(text, concept))
    return Item(concept, context)


def _without_prefix(text: str, prefixes: tuple[str, ...]) -> str | None:
    """What follows the first of ``prefixes`` that ``text`` starts with, or ``None``."""
    for prefix in prefixes:
        if text.startswith(prefix + " "):
            return text[len(prefix) + 1 :]
    return None


def _complaint(text: str, concept: str) -> str:
    known = (*NAMES, *GROUP_NAMES)
    word = next((word for word in concept.split() if word not in known), concept)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.76)  # 'drug' is not 'drum'
    guess = f"; did you mean {close[0]!r}?" if close else ""
    where = "" if word == text else f" in {text!r}"
    return f"{word!r}{where} is no pictogram or group of the PictoSafe world{guess}"


@cache
def phrase(item: Item, wording: int) -> str:
    """Say ``item`` in one of ``WORDINGS`` ways, such that ``parse_item(phrase(item, w)) == item``."""
    determiner = DETERMINERS[wording // MANNERS % len(DETERMINERS)]
    context = "" if item.context is None else CONTEXT_WORDS[item.context][wording % MANNERS]
    singular = item.concept in GROUP_OF and not context.endswith(" of")
    if determiner in (("all",) if singular else ("every", "a")):
        determiner = _NUMBER[determiner]
    following = context or item.concept
    if determiner == "a" and following[0] in "aeiou":
        determiner = "an"
    return " ".join(part for part in (determiner, context, item.concept) if part)
