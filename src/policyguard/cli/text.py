"""Text that is safe to print: names of files and words of models come from strangers.

Covered: a control character, an escape sequence, a change of text direction or an undecodable byte in a file
name, a policy or a model's answer reaches no terminal; it is shown as an escape such as ``\\x1b``. Nothing is
read as rich markup, because tables and lines are made of ``rich.text.Text``. No text is a command to the
build that reads the log: ``::name::`` at the start of a line, ``##[name]`` or ``##vso[name]`` inside one.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TextIO

__all__ = ["is_terminal", "one_line", "printable", "visible"]


# GitHub's runner trims a line and looks for `::`; it, Azure and TeamCity know `##` with a bracket besides.
_COMMAND = re.compile(r"(?<=^:):|(?<=#)#(?=\w*\[)")


def printable(text: str) -> str:
    """``visible``, and no command to a build."""
    lead = len(text) - len(text.lstrip())
    return visible(text[:lead] + _COMMAND.sub(lambda found: f"\\x{ord(found[0]):02x}", text[lead:]))


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


def one_line(text: str) -> str:
    """``printable`` for prose: line ends and runs of blanks become one space."""
    return printable(" ".join(text.split()))


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads ``stream`` as it is written."""
    return not stream.closed and stream.isatty()
