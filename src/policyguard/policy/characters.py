"""Which characters a policy may hold, and how its texts are tidied.

Covered: control characters, characters that change the direction of text, and characters that cannot be
seen, so that a reviewer reads what the model reads. Not covered: letters of different scripts that look
alike. Zero-width joiners and emoji variation selectors are allowed: scripts and emoji need them.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["describe_character", "find_forbidden", "one_line", "paragraphs"]

_FORBIDDEN = re.compile(
    "["
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters, but for tab and line endings
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of text
    "\u00ad\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # invisible
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u2800\u3164\ufe00\ufe01\uffa0"  # blank in every font
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # shorthand and music controls
    "\ud800-\udfff\ufffe\uffff"  # no characters at all
    "\U000e0000-\U000e0fff"  # invisible tags, which models can read
    "]"
)
_BLANKS = re.compile(r"[ \t\r\n]+")
_LINE_END = re.compile(r"[ \t]*(?:\r\n|\r|\n)")


def find_forbidden(text: str, start: int = 0) -> int | None:
    """The index of the first refused character at or after ``start``, or ``None``."""
    found = _FORBIDDEN.search(text, start)
    return found.start() if found else None


def describe_character(char: str) -> str:
    """Name a refused character without printing it."""
    kinds = {"Cc": "a control character", "Cs": "half a surrogate pair"}
    name = unicodedata.name(char, kinds.get(unicodedata.category(char), "no character"))
    return f"U+{ord(char):04X} ({name})"


def one_line(text: str) -> str:
    """``text`` with every run of blanks and line ends as one space."""
    return _BLANKS.sub(" ", text).strip(" ")


def paragraphs(text: str) -> str:
    """``text`` with line ends as ``\\n``, without blanks before them and without blank lines around it."""
    return _LINE_END.sub("\n", text).strip(" \t\n")
