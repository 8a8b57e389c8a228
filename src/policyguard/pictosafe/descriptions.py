"""What a PictoSafe policy's titles and descriptions say, held against its lists: pico reads nothing else.

Covered: plain English about the world's own words ("knives are fine", "no alcohol", "except museum exhibits")
in titles and descriptions of the policy and of its active and sensitive rules. A finding is *sure* where the
text says outright what the lists deny: they forbid all of what it allows, or nothing of what it forbids. All
else is a doubt, for lint. Not covered: other languages, synonyms ("guns", "beverages"), irony, and meaning
spread over several sentences. What is not found here may still say more than the lists do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from policyguard.pictosafe.language import CONTEXT_WORDS
from policyguard.pictosafe.rules import PictoPolicy, PictoRule
from policyguard.pictosafe.world import CONTEXTS, GROUP_OF, MEMBERS, NAMES, Context, names_of

if TYPE_CHECKING:
    from policyguard.policy import Policy, ResolvedPolicy

__all__ = ["Said", "unlisted"]

_EVERYWHERE: Final[tuple[Context | None, ...]] = (None, *CONTEXTS)


@dataclass(frozen=True, slots=True)
class Said:
    """Something a text says and the lists do not. ``rule`` is a rule's index; None: the policy's own text."""

    rule: int | None
    field: str
    message: str
    sure: bool


def unlisted(policy: Policy | ResolvedPolicy) -> Iterator[Said]:
    """Everything found, rule by rule. Nothing for lists that cannot be read: that is said elsewhere."""
    try:
        symbols = PictoPolicy.from_resolved(policy)
    except ValueError:
        return
    rules = [rule for rule in symbols.rules if rule.status != "exempt"]
    for field in ("title", "description"):
        for said, sure in _text(getattr(policy, field), rules, rules):
            yield Said(None, field, said, sure)
    for index, (rule, own) in enumerate(zip(policy.rules, symbols.rules, strict=True)):
        if own.status == "exempt" or not own.unsafe:
            continue
        for field in ("title", "description"):
            for said, sure in _text(getattr(rule, field), [own], rules, heads=True):
                yield Said(index, field, said, sure)


# ---- words

_IRREGULAR: Final = {
    "knives": "knife",
    "leaves": "leaf",
    "dies": "dice",
    "wines": "wine",
    "whiskies": "whisky",
    "swords": "swords",
    "sword": "swords",
    "fish": "fish",
    "hearts": "heart",
}
_CONTEXT_OF: Final[Mapping[str, Context]] = {
    word: context for context, words in CONTEXT_WORDS.items() for word in words
}
_CONTEXT_ONLY: Final[Mapping[Context, str]] = {
    "framed": r"(?:framed|in (?:a |the |their )?frames?|museum exhibits?|museum pieces?|exhibits|exhibited"
    r"|(?:in|from|for) (?:a |the |any )?museums?|behind glass)",
    "prohibited": r"(?:under (?:a |the )?prohibition signs?|prohibition signs|crossed out|barred"
    r"|on prohibition signs)",
}


@cache
def _vocabulary() -> dict[str, str]:
    """How a concept may be written in a sentence -> the concept."""
    words = {name + ending: name for name in NAMES for ending in ("", "s", "es")}
    words |= {name[:-1] + "ies": name for name in NAMES if name.endswith("y")}
    words |= {group.removesuffix("s"): group for group in MEMBERS if group.removesuffix("s") not in NAMES}
    return words | {group: group for group in MEMBERS} | _IRREGULAR


@cache
def _concept() -> re.Pattern[str]:
    words = "|".join(sorted(map(re.escape, _vocabulary()), key=len, reverse=True))
    contexts = "|".join(sorted(map(re.escape, _CONTEXT_OF), key=len, reverse=True))
    determiners = r"any|all|every|an?|the|pictures of|images of|photos of|drawings of|kinds? of"
    return re.compile(rf"\b(?:(?:{determiners}) )*(?:({contexts}) )?(?:(?:{determiners}) )*({words})\b")


@dataclass(frozen=True, slots=True)
class _Concept:
    written: str
    names: tuple[str, ...]
    context: Context | None


class _Clause:
    """A sentence with its concepts replaced by ``<0>``, ``<1>`` and so on."""

    def __init__(self, text: str) -> None:
        self.concepts: list[_Concept] = []
        self.text = _concept().sub(self._keep, text)
        spoken = [c for c, words in _CONTEXT_ONLY.items() if re.search(rf"\b{words}\b", text)]
        self.contexts = tuple(spoken)

    def _keep(self, match: re.Match[str]) -> str:
        concept = _vocabulary()[match[2]]
        context = _CONTEXT_OF[match[1]] if match[1] else None
        self.concepts.append(_Concept(match[0], names_of(concept), context))
        return f"<{len(self.concepts) - 1}>"

    def named(self, part: str) -> list[_Concept]:
        return [self.concepts[int(number)] for number in re.findall(r"<(\d+)>", part)]

    def members(self, part: str) -> list[_Concept]:
        """The concepts that are items of the list ``part``: of "wine bottles or dice", dice."""
        items = [re.fullmatch(r"((?:<\d+> ?)+)(?:of .*)?", item) for item in re.split(_JOIN, part)]
        return [concept for item in items if item for concept in self.named(item[1])]

    def written(self, part: str) -> str:
        return re.sub(r"<(\d+)>", lambda match: self.concepts[int(match[1])].written, part).strip(" ,")


_LIST: Final = r"<\d+>(?:(?: ?, ?| )(?:(?:and|or|nor) )?(?:no )?<\d+>)*"
_END: Final = (
    r"(?= ?$| ?[,:]| (?:and|or|but|in|on|at|of|from|here|there|anywhere|ever|please|that|which|who|whatsoever"
    r"|inside|outside|except|unless|with|without|for|to|by|behind|under|as|is|are|may|can|must|will|nor)\b)"
)
_VERB: Final = r"(?:is|are|was|were|be|may|can|cannot|must|will|would|should|could|do|does|has|have)\b"
_STOP: Final = (
    rf"(?:{_VERB}|(?:and|or|nor|but|no|not|never|neither|if|when|where|whether|that|which|who|in|on|at|of|from"
    r"|here|there|anywhere|ever|please|whatsoever|inside|outside|except|unless|with|without|for|to|by|behind"
    r"|under|as|than|near|beside|next|around|during|about|before|after|it|they|we|you|this|what|whatever"
    r"|apart|aside|excluding)\b)"
)
_WORD: Final = rf"(?:<\d+>|(?!{_STOP})[\w'-]+)"
_THING: Final = rf"{_WORD}(?: (?:of )?{_WORD}){{0,3}}"
_COMMA: Final = r" ?[,/] ?"
_JOIN: Final = rf"(?:{_COMMA}(?:(?:and|or|nor) )?| (?:and|or|nor|&) )(?:no )?"
_MIXED: Final = (
    rf"(?:{_THING}(?:{_JOIN}{_THING})*"
    rf"(?:(?:{_COMMA}| )(?:and|or|nor|&) (?:no )?{_THING}(?= ?$| ?[,:]| {_STOP})"
    rf"|{_COMMA}(?:no )?{_THING}(?= ?$| (?!{_VERB}){_STOP})))"
)
"""A list of concepts and of words that the world does not know. With commas alone, no verb follows: it would
say what the last of them does, as in "no harm, cats are fine"."""
_NAMED: Final = rf"({_MIXED}|{_LIST}{_END})"
"""What a word such as "no" or "allow" is said of."""
_SUBJECT: Final = rf"(^{_MIXED}|{_LIST})"
"""What a verb is said of. Before a list that begins later, words may be anything."""
_NO_HARM: Final = re.compile(
    r"^(?:problems?|harm|worry|worries|fuss|matter|need|doubts?|reasons?|risks?|dangers?|trouble|concerns?"
    r"|objections?|limits?|bans?|entry|exceptions?|difference|longer|more|less|wonder)\b"
)
"""What follows a "no" that denies something else than what is shown."""
_FINE: Final = (
    r"(?:fine|ok|okay|allowed|permitted|acceptable|welcome|exempt|excepted|tolerated|all right|harmless)"
)
_BAD: Final = r"(?:forbidden|banned|prohibited|disallowed|unacceptable|(?:not|never) (?:ever )?" + _FINE + ")"
_STAY: Final = r"(?:be (?:shown|seen)|appear|hang|remain|stay|pass)"
_ADVERB: Final = (
    r"(?:(?:also|always|still|all|both|strictly|explicitly|perfectly|completely|of course|however|too) )*"
)
_WHERE: Final = rf"(?: (?:that|which) (?:is|are|hangs?|stands?))?(?: (?:{'|'.join(_CONTEXT_ONLY.values())}))?"
_EXCEPT: Final = (
    r"(?:except(?:ing)?(?: for)?|apart from|aside from|other than|save for|excluding|not including|but not"
    r"|with the exception of|unless (?:it is|they are|it shows|they show))"
)
_PERMITS: Final = (
    rf"{_SUBJECT}{_WHERE} (?:is|are) {_ADVERB}{_FINE}\b",
    rf"{_SUBJECT}{_WHERE} (?:may|can) (?:also |still )?{_STAY}\b",
    rf"{_SUBJECT}{_WHERE} (?:is|are) not (?:forbidden|banned|prohibited|covered|meant|included|a problem)\b",
    rf"(?:^|\bwe |\brule |\bpolicy )(?:also )?(?:allows?|permits?|ignores?) {_NAMED}",
    rf"\b(?<!no )exceptions?(?: for|:| are| is) {_NAMED}",
    rf"\b(?:does|do) not (?:apply to|cover|include|concern|forbid|ban|prohibit|block) {_NAMED}",
)
_FORBIDS: Final = (
    rf"(?:^|[,:] |, and )(?:no|never|neither|nothing (?:with|showing|like)):? {_NAMED}",
    rf"{_SUBJECT}{_WHERE} (?:is|are) {_ADVERB}{_BAD}\b",
    rf"{_SUBJECT}{_WHERE} (?:(?:must|may|should|can)(?: not| never)|cannot) {_STAY}\b",
    rf"(?:^|\bwe |\brule |\bpolicy )(?:also )?(?:forbids?|bans?|prohibits?|blocks?) {_NAMED}",
    rf"(?:^|\bplease |\bwe )(?:never|do not) (?:show|allow|hang|display) {_NAMED}",
    rf"\b(?:including|as well as) {_NAMED}",
)
_DENIED: Final = rf"\b(?:no|neither|nor|none of) {_NAMED}"
_OTHER_VERB: Final = re.compile(
    r" (?:is|are|was|were) (?!(?:ever |be |to be |being )*"
    rf"(?:{_ADVERB}(?:{_FINE}|{_BAD})|\w+ed|shown|seen|here|there)\b)"
)
"""What is denied may be something else, as in "no book is dull"."""
_UNSURE: Final = re.compile(
    r"\b(?:only|if|when|whether|some|most|sometimes|even|just|there|would|could|might|once|used|nearly|rather"
    r"|mostly|usually|often|(?<!the )like|say|says|said|as long as|other rules?)\b|\?"
)
_DOUBTS: Final = {
    "speaks of a number, and the lists cannot": re.compile(
        r"\b(?:more than|fewer than|less than|at least|at most|up to|two|three|four|five|several|multiple"
        r"|a (?:single|pair|couple|dozen))\b[^<]{0,16}<\d+>"
    ),
    "speaks of things together, and each item of a list counts alone": re.compile(
        r"<\d+> (?:together with|next to|near|beside|along with|alongside) <\d+>"
    ),
    "says how a pictogram looks, and the lists know no more than its name": re.compile(
        r"\b(?:red|blue|green|yellow|black|white|big|large|small|tiny|old|new|toy|real|loaded|sharp|open|empty"
        r"|broken|bloody) <\d+>"
    ),
}
_ONES: Final = (
    r"(?:the |those |these |any )?(?:ones? |things |pictures |images )?(?:(?:that|it|they) )?(?:(?:is|are) )?"
)
_SIGNS: Final = re.compile(
    r"\bsigns? (?:(?:that|which) (?:forbids?|bans?|prohibits?)|against)\b|\bcrossed-out\b"
)
_LENIENT: Final = re.compile(
    r"(?<!no )\bexceptions?\b|\btolerat|\blet\b|\bignor|\bspare|\bno problem\b"
    r"|\bdo not (?:count|matter|break)\b|\b(?:may|fine to|okay to|allowed to|can) (?:show|hang|display)\b"
)
_STRICT: Final = re.compile(
    r"\b(?:also|too|as well|same (?:goes|holds)|counts? as|treat|covers?|block(?:ed)?|must go|off limits)\b"
    r"|\b(?:hide|remove)\b|\b(?:never|do not|not) (?:ever )?(?:show|hang|display|allow|want)\b"
)
_FAR: Final = re.compile(rf"^(?:no|neither)\b.*(?:,|\band|\bor|\bnor) <\d+>{_END}")
"""An item of a list that says too much before it to be followed: "no machines that take coins, or dice"."""
_OUT_OF: Final = re.compile(
    r"\b(?:non-?framed|unframed|not (?:framed|exhibited|in (?:a |the )?frames?)|outside (?:of )?(?:a |the )?"
    r"(?:museums?|frames?))\b"
)
_EXCEPTIVE: Final = re.compile(
    r"\b(?:except|unless|apart from|other than|but not|excluding|only (?:when|if|in|as|where|with|for|on))\b"
)


# ---- what is said


def _text(
    text: str, own: list[PictoRule], all_rules: list[PictoRule], *, heads: bool = False
) -> Iterator[tuple[str, bool]]:
    """(what is said beyond the lists, whether it is sure) of one title or description.

    With ``heads`` a sentence that is a list of concepts, or begins with one, says what its rule is about.
    """
    for sentence in re.split(r"[.;!]+|\n\s*\n|\n\s*[-*•]|--|[()—–]", _plain(text)):
        if words := " ".join(sentence.split()):
            yield from _sentence(
                _Clause(_SIGNS.sub("prohibition signs of", words)), own, all_rules, heads=heads
            )


def _plain(text: str) -> str:
    return text.lower().replace("’", "'").replace("can't", "cannot").replace("n't", " not")


def _sentence(
    clause: _Clause, own: list[PictoRule], all_rules: list[PictoRule], *, heads: bool
) -> Iterator[tuple[str, bool]]:
    text, sure, told = clause.text, not _UNSURE.search(clause.text), False
    denied = [match.span() for match in re.finditer(_DENIED, text)]
    for match in _each(_PERMITS, text):
        if re.search(rf"\b{_EXCEPT} $", text[: match.start()]):
            continue  # what is fine is the rest
        if any(start <= match.start(1) < end for start, end in denied):
            continue  # "no knives are allowed"
        told = told or bool(clause.members(match[1]))
        yield from _permitted(clause, match, own, sure=sure)
    for match in _each(_FORBIDS, text):
        told = told or bool(clause.members(match[1]))
        clear = sure and not _NO_HARM.match(match[1]) and not _OTHER_VERB.match(text, match.end())
        yield from _forbidden(clause, match, all_rules, sure=clear)
    for match in re.finditer(rf"\b{_EXCEPT} {_NAMED}", text):
        told = told or bool(clause.members(match[1]))
        if _permits(text[: match.start()] + text[match.end() :]):  # all is fine but this
            yield from _forbidden(clause, match, all_rules, sure=sure)
        else:
            clear = sure and not re.search(r"\b(?:any|every)thing\b", text[: match.start()])
            yield from _permitted(clause, match, own, sure=clear)
    for context, words in _CONTEXT_ONLY.items():
        out = rf"(?:{_EXCEPT}|unless|except|(?<!no )exceptions?:?) (?:as |in |when |where |if )?"
        fine = rf"{words}(?: ones)? (?:is|are) {_ADVERB}{_FINE}|{_FINE} (?:if|when|as) {_ONES}{words}"
        for match in re.finditer(rf"\b(?:(?P<out>{out}){_ONES}{words}|{fine})\b", text):
            told = True
            if not (match["out"] and _permits(text[: match.start()] + text[match.end() :])):
                yield from _excused(clause, match, context, own, sure="only" not in text)
    whole = clause.written(text)
    if not told and _EXCEPTIVE.search(text) and not any(map(_excepts, own)):
        yield f"{whole!r} makes an exception, and the lists make none", False
    if not told:
        yield from ((f"{whole!r} {doubt}", False) for doubt in _hints(clause, own, all_rules))
    for doubt, pattern in _DOUBTS.items():
        if pattern.search(text):
            yield f"{whole!r} {doubt}", False
    if heads and not told and (head := re.match(rf"({_LIST})(?= ?$| (?:of|in|on|from)\b)", text)):
        for concept in clause.named(head[1]):
            if not any(_names(rule, concept) for rule in own):
                yield f"{concept.written!r} stands there, and the lists do not name it", False


def _hints(clause: _Clause, own: list[PictoRule], all_rules: list[PictoRule]) -> Iterator[str]:
    """What a sentence hints at that was not understood, one doubt for each kind."""
    text = clause.text

    def forbidden(concept: _Concept) -> bool:
        return any(
            rule.is_broken_by(name, context=context)
            for rule in all_rules
            for name in concept.names
            for context in _EVERYWHERE
        )

    if _LENIENT.search(text) and any(map(forbidden, clause.concepts)):
        yield "seems to allow what the lists forbid"
    strict = _STRICT.search(text) or _FAR.search(text)
    if strict and any(not forbidden(concept) for concept in clause.concepts):
        yield "seems to forbid what the lists do not"
    if not any(map(_excepts, own)):
        fine = clause.contexts and re.search(rf"\b{_FINE}\b|\bno problem\b|\bnot break\b", text)
        if _OUT_OF.search(text) or (fine and not re.search(rf"\b(?:not|never|no) {_FINE}\b", text)):
            yield "speaks of a frame, a museum or a sign, and the lists do not"


def _permits(text: str) -> bool:
    """Whether ``text``, which stands before an exception, says that the rest is fine."""
    return bool(re.search(rf"\b{_FINE}\b|\bmay\b|\bcan\b", text)) and not re.search(
        rf"\bnot\b|\bno\b|\bnone\b|\bnever\b|\bcannot\b|{_BAD}", text
    )


def _each(patterns: Iterable[str], text: str) -> Iterator[re.Match[str]]:
    for pattern in patterns:
        yield from re.finditer(pattern, text)


def _contexts(clause: _Clause, concept: _Concept) -> tuple[Context | None, ...]:
    """Where it is meant to be: in its own context, in those that the sentence speaks of, or anywhere."""
    return (concept.context,) if concept.context else clause.contexts or _EVERYWHERE


def _permitted(
    clause: _Clause, match: re.Match[str], rules: list[PictoRule], *, sure: bool
) -> Iterator[tuple[str, bool]]:
    quote = clause.written(match[0])
    for concept in clause.members(match[1]):
        broken = [
            any(rule.is_broken_by(name, context=context) for rule in rules)
            for name in concept.names
            for context in _contexts(clause, concept)
        ]
        if all(broken):
            yield f"{quote!r} allows {concept.written!r}, and the lists forbid it", sure
        elif any(broken) and not clause.contexts:
            yield f"{quote!r} allows {concept.written!r}, and the lists forbid a part of it", False


def _forbidden(
    clause: _Clause, match: re.Match[str], rules: list[PictoRule], *, sure: bool
) -> Iterator[tuple[str, bool]]:
    quote = clause.written(match[0])
    for concept in clause.members(match[1]):
        where = (concept.context,) if concept.context else _EVERYWHERE
        broken = {
            name: any(rule.is_broken_by(name, context=context) for rule in rules for context in where)
            for name in concept.names
        }
        if not any(broken.values()):
            yield f"{quote!r} forbids {concept.written!r}, and the lists do not", sure
        elif left := [n for n, b in broken.items() if not b and not any(_excuses(rule, n) for rule in rules)]:
            yield (
                f"{quote!r} forbids {concept.written!r}, and the lists do not forbid {', '.join(left)}",
                False,
            )


def _excused(
    clause: _Clause, match: re.Match[str], context: Context, rules: list[PictoRule], *, sure: bool
) -> Iterator[tuple[str, bool]]:
    """A context is said to be fine: then something that is forbidden elsewhere must not be so there."""
    broken = [
        rule.is_broken_by(name, context=context)
        for rule in rules
        for name in NAMES
        if any(rule.is_broken_by(name, context=other) for other in _EVERYWHERE)
    ]
    if broken and all(broken):
        yield (
            f"{clause.written(match[0])!r} makes an exception of {context} ones, and the lists make none",
            sure,
        )


def _names(rule: PictoRule, concept: _Concept) -> bool:
    """Whether some item of the rule covers some of ``concept``."""
    covered = {name for item in (*rule.unsafe, *rule.safe) for name in names_of(item.concept)}
    return not covered.isdisjoint(concept.names)


def _excepts(rule: PictoRule) -> bool:
    """Whether the rule's lists have exceptions of any kind."""
    return bool(rule.safe) or any(item.context for item in rule.unsafe)


def _excuses(rule: PictoRule, name: str) -> bool:
    return any(item.concept in (name, GROUP_OF[name]) for item in rule.safe)
