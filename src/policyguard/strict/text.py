r"""Text from strangers made safe to print, and the characters that a policy may hold.

Covered: a control character, an escape sequence, a change of text direction or an undecodable byte in a file
name, a policy or a model's answer reaches no terminal; it is shown as an escape such as ``\x1b``. Nothing is
read as rich markup, because tables and lines are made of ``rich.text.Text``. No text is a command to the
build that reads the log: ``::name::`` at the start of a line, ``##[name]`` or ``##vso[name]`` inside one.
A policy holds no such character, and none that cannot be seen, so that a reviewer reads what the model reads.
Not covered: letters of different scripts that look alike. Zero-width joiners and emoji variation selectors
are allowed in policies and on pages: scripts and emoji need them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TextIO

__all__ = [
    "collapsed",
    "describe_character",
    "find_forbidden",
    "is_terminal",
    "one_line",
    "paragraphs",
    "printable",
    "quoted",
    "revealed",
    "shortened",
    "visible",
]

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
    match = _FORBIDDEN.search(text, start)
    return match.start() if match else None


def describe_character(char: str) -> str:
    """Name a refused character without printing it."""
    kinds = {"Cc": "a control character", "Cs": "half a surrogate pair"}
    name = unicodedata.name(char, kinds.get(unicodedata.category(char), "no character"))
    return f"U+{ord(char):04X} ({name})"


def collapsed(text: str) -> str:
    """``text`` with every run of blanks and line ends as one space."""
    return _BLANKS.sub(" ", text).strip(" ")


def paragraphs(text: str) -> str:
    """``text`` with line ends as ``\\n``, without blanks before them and without blank lines around it."""
    return _LINE_END.sub("\n", text).strip(" \t\n")


# GitHub's runner trims a line and looks for `::`; it, Azure and TeamCity know `##` with a bracket besides.
_COMMAND = re.compile(r"(?<=^:):|(?<=#)#(?=\w*\[)")


def printable(text: str) -> str:
    """``visible``, and no command to a build."""
    lead = len(text) - len(text.lstrip())
    return visible(text[:lead] + _COMMAND.sub(lambda match: f"\\x{ord(match[0]):02x}", text[lead:]))


def visible(text: str) -> str:
    """``text`` with every character that is not plainly visible written as its escape."""
    if text.isascii() and text.isprintable():
        return text
    # Blanks of other scripts are no danger, and macOS puts one into the names of screenshots.
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def revealed(text: str) -> str:
    """``text`` with the characters that a policy may not hold written as escapes; for pages."""
    return _FORBIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shortened(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def quoted(text: str, limit: int = 60) -> str:
    """``text`` in quotes, cut, every character that is not plainly visible written as its escape."""
    return repr(shortened(text, limit))


def one_line(text: str) -> str:
    """``printable`` for prose: line ends and runs of blanks become one space."""
    return printable(" ".join(text.split()))


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads ``stream`` as it is written."""
    return not stream.closed and stream.isatty()
