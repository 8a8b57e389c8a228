"""Comparing what two texts of a policy speak of, by their words: no model, English only.

Covered: case, punctuation, plurals, articles, lists ("guns, knives or swords"), and words that say that
something is allowed and nothing about what it looks like. Not covered: synonyms, negation, other languages
(their texts are equal only where they are written alike).
"""

from __future__ import annotations

import re
from functools import cache

__all__ = ["alternatives", "content", "same_words", "without_permission"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_LIST = re.compile(r"\s*[,;/]\s*(?:(?:or|and)\s+)?|\s+(?:or|and)\s+", re.IGNORECASE)

# Words that carry no picture: "any of the weapons" speaks of weapons.
_SMALL = frozenset(
    {
        *("a", "all", "an", "and", "any", "are", "as", "at", "be", "being", "by", "each", "either", "every"),
        *("for", "from", "in", "is", "it", "its", "kind", "kinds", "of", "on", "or", "other", "some", "sort"),
        *("sorts", "such", "that", "the", "their", "them", "these", "this", "those", "type", "types", "to"),
        *("which", "who", "with"),
    }
)
# Words that say "this one is fine" and not how it looks.
_PERMISSION = frozenset(
    {
        *("acceptable", "allowed", "appropriate", "approved", "benign", "fine", "good", "harmless"),
        *("innocent", "innocuous", "legal", "legitimate", "nonviolent", "normal", "ok", "okay"),
        *("permissible", "permitted", "proper", "reasonable", "safe", "suitable"),
    }
)


def same_words(text: str) -> str:
    """``text`` as compared for being the same: lower case, words only, single spaces."""
    return " ".join(_WORD.findall(text.lower()))


@cache
def content(text: str) -> frozenset[str]:
    """The words of ``text`` that say what is seen, each in its singular."""
    return frozenset(_singular(word) for word in _WORD.findall(text.lower()) if word not in _SMALL)


def without_permission(words: frozenset[str]) -> frozenset[str]:
    """``words`` without those that only say that it is allowed."""
    return frozenset(word for word in words if word not in _PERMISSION)


@cache
def alternatives(text: str) -> frozenset[frozenset[str]]:
    """What a list in one item names: ``"guns, knives or swords"`` is three, and all of them at once."""
    parts = (content(part) for part in (text, *_LIST.split(text)))
    return frozenset(part for part in parts if part)


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
