"""From the bytes of a policy file to its text: size, encoding and characters."""

from __future__ import annotations

import re
from typing import NamedTuple

from policyguard.errors import PolicyError, Problem
from policyguard.policy.characters import describe_character, find_forbidden

__all__ = ["MAX_BYTES", "MAX_PROBLEMS", "Place", "decode"]

MAX_BYTES = 256 * 1024
MAX_PROBLEMS = 50
"""No error lists more problems than this: who must mend fifty things runs it again anyway."""

_MARKS = {
    b"\xef\xbb\xbf": "the file starts with a byte order mark",
    b"\xff\xfe": "the file is UTF-16, not UTF-8",
    b"\xfe\xff": "the file is UTF-16, not UTF-8",
    b"\x00\x00\xfe\xff": "the file is UTF-32, not UTF-8",
}


class Place(NamedTuple):
    """A position in a file; both count from 1, columns in characters."""

    line: int
    column: int


def decode(data: bytes, file: str) -> str:
    """The text of a policy file. Raises PolicyError unless it is small, UTF-8, without hidden characters."""
    if len(data) > MAX_BYTES:
        problem = Problem(f"the file is over {MAX_BYTES // 1024} KiB", file, 1, 1)
        raise PolicyError([problem], hint="split the policy into several files")
    for mark, message in _MARKS.items():
        if data.startswith(mark):
            hint = "save it as UTF-8 without a byte order mark (BOM)"
            raise PolicyError([Problem(message, file, 1, 1)], hint=hint)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode("utf-8"))
        problem = Problem(f"byte 0x{data[error.start]:02x} is not UTF-8", file, *place)
        raise PolicyError([problem], hint="save the file as UTF-8") from None
    if problems := _hidden(text, file):
        raise PolicyError(
            problems, hint="delete it and retype the words around it: it hides or reorders text"
        )
    return text


def _hidden(text: str, file: str) -> list[Problem]:
    problems: list[Problem] = []
    index = find_forbidden(text)
    while index is not None and len(problems) < MAX_PROBLEMS:
        message = f"the character {describe_character(text[index])} is refused"
        problems.append(Problem(message, file, *_place(text[:index])))
        index = find_forbidden(text, index + 1)
    return problems


def _place(before: str) -> Place:
    lines = re.split(r"\r\n|\r|\n", before)
    return Place(len(lines), len(lines[-1]) + 1)
