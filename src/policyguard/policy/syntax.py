"""YAML syntax errors in plain words: what to change, rather than what the parser wanted."""

from __future__ import annotations

import yaml

__all__ = ["explain_syntax"]

_UNCLOSED_QUOTE = "this quoted text is not closed"
_UNCLOSED_BRACKET = "a value is missing here, a comma is, or a `[` or `{` is not closed"

# What PyYAML says contains this -> what the author should do.
_ADVICE = (
    ("mapping values are not allowed", "a `: ` where no key can be: put the whole text in quotes"),
    ("character '\\t'", "a tab stands here: indent with spaces"),
    ("that cannot start any token", "a text cannot start with this character: put the text in quotes"),
    ("could not find expected ':'", "the line above is not complete: a key needs `: ` after it"),
    ("unexpected end of stream", _UNCLOSED_QUOTE),
    ("found unexpected document separator", _UNCLOSED_QUOTE),
    ("unknown escape character", "write \\\\ for a backslash in double quotes, or use single quotes"),
    ("escape sequence of", "this escape is not complete"),
    ("<block end>", "this line does not fit in with those above it: look at its indentation and quotes"),
    ("expected the node content", _UNCLOSED_BRACKET),
    ("expected ',' or", _UNCLOSED_BRACKET),
    ("block sequence entries are not allowed", "a `- ` where no list can be: start a line with it"),
    ("mapping keys are not allowed", "a `? ` where no key can be: put the text in quotes"),
    ("undefined alias", "aliases are refused: write the text out"),
)


def explain_syntax(error: yaml.MarkedYAMLError) -> tuple[str, int, int]:
    """One sentence for a syntax error, and its line and column, from 1."""
    said = error.problem or error.context or "unreadable"
    message = next((advice for words, advice in _ADVICE if words in said), f"this is not YAML: {said}")
    mark, opening = error.problem_mark or error.context_mark, error.context_mark
    if opening and message == _UNCLOSED_QUOTE:
        mark = opening  # where the quote opens: the end of the file, where it was missed, helps nobody
    elif opening and message == _UNCLOSED_BRACKET:
        message = f"{message} (the last one opens on line {opening.line + 1})"
    return (message, mark.line + 1, mark.column + 1) if mark else (message, 1, 1)
