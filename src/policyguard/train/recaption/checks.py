"""What a caption, base or edited, must pass before a model learns from it.

Covered: refusals, verdicts, control tokens of models, answers cut short, an edit that kept too little or
grew too much. Not covered: whether what it says is true; read a sample (``--page``).
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from policyguard.strict.text import find_forbidden
from policyguard.train.data import passes_judgement
from policyguard.train.recaption.chat import Reply
from policyguard.train.recipe import Checks

__all__ = ["caption_problem", "edit_problem", "is_refusal", "kept_share", "words"]

_WORD = re.compile(r"\w+(?:['’-]\w+)*", re.UNICODE)
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m|i am) (?:really |very |so )?(?:sorry|unable|not able|not comfortable)\b"
    r"|^\W*(?:sorry|apologies|unfortunately)\b[^.!?]{0,60}\b(?:i|can(?:no|['’])t)\b"
    r"|\b(?:i|we) (?:can['’]?t|cannot|can not|won['’]?t|will not|must decline to|(?:am|are) unable to)"
    r" (?:help|assist|describe|discuss|provide|comply|continue|fulfil|engage|process|respond|answer|do that)"
    r"|\bas an? (?:ai|artificial intelligence|language model|assistant)\b"
    r"|\bagainst my (?:guidelines|programming|policy)\b"
    r"|\bthis (?:request|content) (?:violates|goes against)\b"
    r"|\bcannot respond to this\b",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"<[|｜][^|｜<>]{1,40}[|｜]>|</?s>|<image>|<(?:start|end)_of_\w+>|\[/?INST\]|</?think>")
_LONGEST = 30_000
"""Characters."""


def words(text: str) -> list[str]:
    """The words of ``text``, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def is_refusal(text: str) -> bool:
    """Whether the model declines instead of describing. Judged by phrases at the start."""
    return _REFUSAL.search(" ".join(text[:400].split())) is not None


def kept_share(base: str, edited: str) -> float:
    """Share of ``base``'s words that are in ``edited`` in the same order, in [0, 1]."""
    before, after = words(base), words(edited)
    if not before:
        return 1.0
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(before)


def caption_problem(reply: Reply) -> str | None:
    """Why no model should learn from this text, in a few words; ``None`` if it is fine."""
    text = reply.text
    if reply.cut:
        return "cut short"
    if len(words(text)) < 3:
        return "empty"
    if len(text) > _LONGEST:
        return "too long"
    if is_refusal(text):
        return "a refusal"
    if passes_judgement(text) is not None:
        return "passes judgement"
    if _CONTROL.search(text) is not None or find_forbidden(text) is not None:
        return "holds control tokens or hidden characters"
    return None


def edit_problem(base: str, reply: Reply, bounds: Checks) -> str | None:
    """The same for an edit of ``base``, which must also stay close to it within ``bounds``."""
    if problem := caption_problem(reply):
        return problem
    growth = len(words(reply.text)) / max(1, len(words(base)))
    if growth < bounds.min_growth:
        return "shrunk"
    if growth > bounds.max_growth:
        return "grown"
    if kept_share(base, reply.text) < bounds.min_kept:
        return "kept too little"
    return None
