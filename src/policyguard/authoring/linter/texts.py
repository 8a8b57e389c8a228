"""Rules and items that contradict or repeat each other, found by their words: no model, English only.

Covered: case, punctuation, plurals, articles, lists ("guns, knives or swords"), and words that say that
something is allowed and nothing about what it looks like; of descriptions, plain turns that deny the rule's
status. Not covered: synonyms, negation, other languages (their texts are equal only where they are written
alike).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

from policyguard.authoring.linter.remark import Level, Remark, Step
from policyguard.policy.schema import Status

if TYPE_CHECKING:
    from policyguard.policy.policy import Policy
    from policyguard.policy.schema import Rule

__all__ = [
    "alternatives",
    "content",
    "overlaps",
    "same_words",
    "without_permission",
]


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_LIST = re.compile(r"\s*[,;/]\s*(?:(?:or|and)\s+)?|\s+(?:or|and)\s+", re.IGNORECASE)

# Words that name nothing to see: "any of the weapons" speaks of weapons.
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


_ALL = re.compile(
    r"(?:(?:all|any|every) )?(?:the )?(?:everything|anything|images?|pictures?|photos?|content)"
)
"""An exception that leaves out nothing."""

_TAIL = re.compile(r"(?:and|or|nor|but|if|when|unless|except|such as|including)\s", re.IGNORECASE)
_SAFE_TAIL = re.compile(rf"{_TAIL.pattern}|(?:without|not|only)\s", re.IGNORECASE)
"""Under ``unsafe``, "without a helmet" may be all that is meant."""

_ARE = r"(?<!that )(?<!which )(?<!who )(?:is|are)"
_FORBIDS = re.compile(
    r"^(?:please )?(?:do not|don't|never) (?:show|allow|post|publish)\b"
    rf"|\b(?:{_ARE} (?:(?:always|strictly) )?"
    r"(?:forbidden|prohibited|banned|blocked|disallowed"
    r"|(?:not|never) (?:allowed|permitted|acceptable|tolerated))"
    r"|(?:must|should) (?:not|never) (?:be (?:shown|seen|posted|published|uploaded)|appear)"
    r"|may (?:not|never) be (?:shown|posted|published|uploaded)"
    r"|(?:we|this rule|this policy) (?:forbids?|prohibits?|bans?|blocks?))\b",
    re.IGNORECASE,
)
_ALLOWS = re.compile(
    rf"\b(?:{_ARE} (?:(?:also|always|still) )?"
    r"(?:allowed|permitted|acceptable|fine|ok|okay)|except)\b",
    re.IGNORECASE,
)
_TURNED = re.compile(r"\b(?:no|nothing|none|nobody|neither|nor|no longer)\b", re.IGNORECASE)
"""Words that turn a sentence round, which then says what it does in a way that is not understood here."""

_BARE = re.compile(
    r"^(?:no (?!one\b|longer\b|more\b|less\b|matter\b|need\b)"
    r"|none(?! the)\b|nothing(?= (?:that|which|with|of|showing|like)\b))[^,:]*",
    re.IGNORECASE,
)
"""A text that begins with what must not be there: "No alcohol", "None, except ...", "Nothing that ..."."""

_NO_HARM = re.compile(
    r"\b(?:problems?|harm|harmful|concerns?|objections?|objects?|restrict\w*|limits?|rules?|bans?|doubts?|reasons?"
    r"|risks?|dangers?|issues?|trouble|worr(?:y|ies)|fuss|prohibitions?|exceptions?|difference|difficulty|wrong"
    r"|forbidden|prohibited|banned|blocked|disallowed|interest|importance|consequence|relevance"
    r"|examples?|description|comment)\b",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"(?<!that )(?<!which )(?<!who )\b(?:is|are|was|were|has|have|does|do|may|can|could|must|should|will"
    r"|would|needs?|counts?|matters?|breaks?|violates?|offends?|forbids?)\b",
    re.IGNORECASE,
)
_ALLOWED = re.compile(
    r"\b(?:is|are|may|can|should|must|will)(?: (?:ever|be))*"
    r" (?:allowed|permitted|acceptable|tolerated|welcome|fine|ok|okay|shown|seen|posted|published|appear)\b",
    re.IGNORECASE,
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


def overlaps(policy: Policy) -> Iterator[Remark]:
    """Contradictions, duplicates, and exceptions that repeat what they are an exception from."""
    for index, rule in enumerate(policy.rules):
        yield from _denied_status(index, rule)
        yield from _repeated_items(index, rule)
        if rule.status is Status.ACTIVE:
            said = list(_empty_exceptions(index, rule))
            yield from said
            # Where each exception is named already, no more is to be said.
            if sum(remark.level is Level.ERROR for remark in said) < len(rule.safe):
                yield from _nothing_left(index, rule, policy.world)
    for (first, one), (second, other) in combinations(enumerate(policy.rules), 2):
        yield from _two_rules(first, one, second, other)


def _denied_status(index: int, rule: Rule) -> Iterator[Remark]:
    """A description that a change of status has left behind: the model reads both."""
    if rule.status is Status.ACTIVE:
        return
    exempt = rule.status is Status.EXEMPT
    does = "forbids nothing" if exempt else "makes no exception"
    sentences = re.split(r"[.;!?\n]", rule.description)
    if exempt and (bare := _banned_outright(sentences[0].strip())):
        message = f"the description says {_quote(bare)}, and a rule that is exempt forbids nothing: reword it"
        yield _remark(Level.WARNING, "contradiction", message, index, "status")
        return
    for sentence in sentences:
        match = (_FORBIDS if exempt else _ALLOWS).search(sentence.strip())
        if match and not _TURNED.search(sentence):
            message = f"the description says {match[0]!r}, and a rule that is {rule.status} {does}: reword it"
            yield _remark(Level.WARNING, "contradiction", message, index, "status")
            return


def _banned_outright(sentence: str) -> str:
    """What a sentence begins with if that says that something must not be there, such as "No alcohol"."""
    bare = _BARE.match(sentence)
    if bare is None or _NO_HARM.search(bare[0]):
        return ""
    return "" if _SAYS.search(sentence) and not _ALLOWED.search(sentence) else bare[0].strip()


def _repeated_items(index: int, rule: Rule) -> Iterator[Remark]:
    for name in ("unsafe", "safe"):
        seen: dict[str, int] = {}
        for place, item in enumerate(getattr(rule, name)):
            earlier = seen.setdefault(same_words(item), place)
            if earlier != place:
                message = f"says the same as item {earlier + 1}: delete one of the two"
                yield _remark(Level.WARNING, "duplicate-item", message, index, name, place)
            if (_TAIL if name == "unsafe" else _SAFE_TAIL).match(item):
                message = (
                    f"{_quote(item)} goes on from the item before, and a model reads each by itself: say it "
                    "whole; in [...], a comma begins a new item unless the text is in quotes"
                )
                yield _remark(Level.WARNING, "split-item", message, index, name, place)


def _empty_exceptions(index: int, rule: Rule) -> Iterator[Remark]:
    same = {same_words(item): item for item in rule.unsafe}
    prohibited = {words for item in rule.unsafe for words in alternatives(item)}
    for place, item in enumerate(rule.safe):
        if same_words(item) in same:
            message = f"the rule forbids and permits the same: {_quote(item)} is under `unsafe:` too"
            yield _remark(Level.ERROR, "contradiction", message, index, "safe", place)
        elif content(item) in prohibited:
            message = f"the rule forbids and permits the same: `unsafe:` names {_quote(item)} as well"
            yield _remark(Level.ERROR, "contradiction", message, index, "safe", place)
        elif without_permission(content(item)) in prohibited or not without_permission(content(item)):
            message = (
                f"{_quote(item)} repeats the prohibition, and no image shows what is allowed about it: "
                "say what the exception looks like"
            )
            yield _remark(Level.WARNING, "empty-exception", message, index, "safe", place)


def _nothing_left(index: int, rule: Rule, world: str | None) -> Iterator[Remark]:
    """Exceptions that cover all that the rule forbids, named at the one that takes away the last of it."""
    if not rule.unsafe:
        return
    left = _left_of_pictosafe if world == "pictosafe" else _left_of_words
    for count in range(1, len(rule.safe) + 1):
        if not left(rule.unsafe, rule.safe[:count]):
            message = (
                "nothing can break this rule: its exceptions cover all that it forbids; narrow them, or swap "
                "the lists if what should be under `unsafe:` stands under `safe:`"
            )
            yield _remark(Level.ERROR, "contradiction", message, index, "safe", count - 1)
            return


def _left_of_pictosafe(unsafe: tuple[str, ...], safe: tuple[str, ...]) -> bool:
    """Whether some pictogram breaks it; True too where an item cannot be read, which is said elsewhere."""
    from policyguard.pictosafe.language import parse_item
    from policyguard.pictosafe.rules import PictoRule

    try:
        rule = PictoRule(tuple(map(parse_item, unsafe)), tuple(map(parse_item, safe)))
    except ValueError:
        return True
    return not rule.forbids_nothing()


def _left_of_words(unsafe: tuple[str, ...], safe: tuple[str, ...]) -> bool:
    """Whether some item is not named among the exceptions, alone or in a list.

    A word less makes no exception for the whole: "knives" does not excuse "a knife at a throat".
    """
    if any(_ALL.fullmatch(same_words(item)) for item in safe):
        return False
    excused = {words for item in safe for words in alternatives(item)}

    def is_named(item: str) -> bool:
        parts = [words for words in map(content, _LIST.split(item)) if words]
        return content(item) in excused or (bool(parts) and all(part in excused for part in parts))

    return not all(map(is_named, unsafe))


def _two_rules(first: int, one: Rule, second: int, other: Rule) -> Iterator[Remark]:
    if same_words(one.title) == same_words(other.title):
        message = f"rule '{one.id}' has this title too, so that a model cannot tell the two apart"
        yield _remark(Level.WARNING, "duplicate-rule", message, second, "title")
    mine, theirs = ({same_words(item): place for place, item in enumerate(r.unsafe)} for r in (one, other))
    shared = [item for item in theirs if item in mine]
    statuses = {one.status, other.status}
    if shared and len(shared) == len(mine) == len(theirs) and len(statuses) == 1:
        message = f"forbids exactly what rule '{one.id}' forbids: delete one of the two"
        yield _remark(Level.WARNING, "duplicate-rule", message, second)
    else:
        for item in shared:
            place = theirs[item]
            if Status.EXEMPT in statuses and len(statuses) > 1:
                allows, forbids = (one, other) if one.status is Status.EXEMPT else (other, one)
                message = (
                    f"rule '{allows.id}' declares this non-violating, and rule '{forbids.id}' forbids it: "
                    f"give '{allows.id}' the status active, or drop one of the two"
                )
                yield _remark(Level.ERROR, "contradiction", message, second, "unsafe", place)
            elif len(statuses) == 1:
                message = f"rule '{one.id}' forbids this too, and a finding names either of the two"
                yield _remark(Level.WARNING, "duplicate-item", message, second, "unsafe", place)
    yield from _safe_elsewhere(first, one, other)
    yield from _safe_elsewhere(second, other, one)


def _safe_elsewhere(index: int, rule: Rule, other: Rule) -> Iterator[Remark]:
    """An exception excuses its own rule only; one that another rule forbids changes nothing."""
    if rule.status is not Status.ACTIVE or other.status is Status.EXEMPT:
        return
    forbidden = {same_words(item) for item in other.unsafe}
    for place, item in enumerate(rule.safe):
        if same_words(item) in forbidden:
            message = f"rule '{other.id}' forbids this, and an exception excuses its own rule only"
            yield _remark(Level.WARNING, "contradiction", message, index, "safe", place)


def _remark(level: Level, code: str, message: str, index: int, *path: Step) -> Remark:
    return Remark(level, code, message, ("rules", index, *path))


def _quote(item: str) -> str:
    return f"'{item if len(item) <= 60 else item[:57] + '...'}'"
