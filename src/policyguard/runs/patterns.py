"""Path patterns as in .gitignore, for ``.policyguardignore``, ``exclude`` and policies per path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pathspec import GitIgnoreSpec

from policyguard.errors import Problem, UsageError

__all__ = ["IGNORE_FILE", "Patterns", "read_ignore_file"]

IGNORE_FILE = ".policyguardignore"


class Patterns:
    """Patterns of one file or setting: the last one that matches a path decides, and ``!`` negates.

    Raises UsageError for invalid patterns, with one line for each. ``where``: where they stand.
    """

    def __init__(self, lines: Sequence[str], *, where: str) -> None:
        problems = []
        for number, line in enumerate(lines, 1):
            try:
                GitIgnoreSpec.from_lines([_without_line_ends(line)])
            except ValueError:
                problems.append(Problem(f"{line.strip()!r} is not a valid .gitignore pattern", where, number))
        if problems:
            raise UsageError("\n".join(map(str, problems)))
        self.lines = tuple(lines)
        self._spec = GitIgnoreSpec.from_lines(map(_without_line_ends, lines))

    def match(self, path: str) -> bool:
        """Whether ``path``, relative to the project's root and with forward slashes, matches."""
        return self._spec.match_file(_without_line_ends(path))

    @property
    def positive(self) -> list[str]:
        """The lines that match something by themselves: no comments, and none that takes paths out."""
        return [line for line in self.lines if line.strip() and not line.startswith(("#", "!"))]

    def __bool__(self) -> bool:
        return any(line.strip() and not line.startswith("#") for line in self.lines)


def _without_line_ends(text: str) -> str:
    """``text`` with line ends replaced: pathspec's ``**`` would take one for the end of the name."""
    return text.replace("\n", "\0")


def read_ignore_file(root: Path) -> Patterns:
    """The patterns in the ``.policyguardignore`` of ``root``; none without one. Raises UsageError."""
    path = root / IGNORE_FILE
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # as git does
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{IGNORE_FILE} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return Patterns(lines, where=IGNORE_FILE)
