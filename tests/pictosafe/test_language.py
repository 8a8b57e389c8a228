"""The little language of PictoSafe policies."""

from __future__ import annotations

import pytest

from policyguard.pictosafe.language import (
    CONTEXT_WORDS,
    MANNERS,
    WORDINGS,
    Item,
    normalise,
    parse_item,
    phrase,
)
from policyguard.pictosafe.world import CONTEXTS, GROUP_NAMES, NAMES, Context

CONCEPTS = (*NAMES, *GROUP_NAMES)
ANYWHERE = (None, *CONTEXTS)


@pytest.mark.parametrize("context", ANYWHERE)
def test_what_is_phrased_in_any_wording_is_read_back_the_same(context: Context | None) -> None:
    for concept in CONCEPTS:
        item = Item(concept, context)
        phrases = {phrase(item, wording) for wording in range(WORDINGS)}
        assert len(phrases) >= (20 if context else 6)
        assert {parse_item(text) for text in phrases} == {item}


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("knife", Item("knife")),
        ("a knife", Item("knife")),
        ("an axe", Item("axe")),
        ("the weapons", Item("weapons")),
        ("pictures of weapons", Item("weapons")),
        ("framed knife", Item("knife", "framed")),
        ("museum weapons", Item("weapons", "framed")),
        ("museum exhibits of weapons", Item("weapons", "framed")),
        ("any exhibited weapons", Item("weapons", "framed")),
        ("banned beer", Item("beer", "prohibited")),
        ("every barred beer", Item("beer", "prohibited")),
        ("pictures of prohibition signs of alcohol", Item("alcohol", "prohibited")),
        ("Images of  Museum exhibits of WEAPONS", Item("weapons", "framed")),
    ],
)
def test_items_are_read(text: str, item: Item) -> None:
    assert parse_item(text) == item


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("knifes", "'knifes'.*did you mean 'knife'"),
        ("weapons that are framed", "'that'|'weapons that are framed'"),
        ("no weapons", "'no'"),
        ("all", "'all'"),
        ("framed", "'framed'"),
        ("a a knife", "'a'"),
        ("framed museum knife", "'museum'"),
        ("framed banned knife", "'banned'"),
        ("prohibition knife", "'prohibition'"),
        ("a red knife", "'red'"),
        ("gun", "'gun' is no pictogram or group of the PictoSafe world$"),
        ("drug", "world$"),
        ("", "empty"),
    ],
)
def test_anything_else_is_refused_with_the_word_not_understood(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_item(text)


def test_articles_agree_with_what_follows_them() -> None:
    words = [
        phrase(Item(concept, context), w)
        for concept in CONCEPTS
        for context in ANYWHERE
        for w in range(WORDINGS)
    ]
    for text in words:
        first, _, rest = text.partition(" ")
        if first in ("a", "an"):
            assert (first == "an") == (rest[0] in "aeiou"), text
            assert parse_item(text).concept in NAMES, text


def test_normalised_text_is_what_phrases_look_like() -> None:
    assert normalise("  Any  WEAPONS ") == phrase(Item("weapons"), 4)


def test_every_context_has_as_many_words() -> None:
    assert {context: len(words) for context, words in CONTEXT_WORDS.items()} == dict.fromkeys(
        CONTEXTS, MANNERS
    )
