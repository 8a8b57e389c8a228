"""``{{ name }}`` in the texts of policies: declared names, plain values, no logic.

A value is one line without control characters and without template markers, so that it can add words to a
text and nothing else. Nothing is read from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from policyguard.strict.explain import nearest
from policyguard.strict.text import describe_character, find_forbidden

__all__ = ["NAME", "Value", "fill", "formatted", "is_name", "problem_with"]

NAME = r"[a-z][a-z0-9_]{0,63}"
MAX_VALUE = 200

Value = str | int | float | bool | None
_MARKER = re.compile(r"\{\{[ \t]*(" + NAME + r")[ \t]*\}\}|\{\{|\}\}")


def is_name(name: object) -> bool:
    """Whether ``name`` can name a parameter."""
    return isinstance(name, str) and re.fullmatch(NAME, name) is not None


def formatted(value: Value) -> str:
    """``value`` as it is written into texts; the same on every machine."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def problem_with(value: object) -> str | None:
    """What is wrong with a parameter's value, or ``None``."""
    if value is None or isinstance(value, (bool, int)):
        huge = isinstance(value, int) and value.bit_length() > 64
        return "is a huge number: put it in quotes" if huge else None
    if isinstance(value, float):
        return None if value == value and abs(value) != float("inf") else "is not a finite number"
    if not isinstance(value, str):
        kind = "list" if isinstance(value, (list, tuple)) else "mapping"
        return f"expected text, a number, true or false, found a {kind}"
    if "{{" in value or "}}" in value:
        return "holds `{{` or `}}`: a value is filled in as it stands"
    if "\n" in value or "\r" in value or "\t" in value:
        return "holds a line end or a tab: a value is one line"
    index = find_forbidden(value)
    if index is not None:
        return f"the character {describe_character(value[index])} is refused"
    if not value.strip():
        return "is empty"
    return f"is too long: at most {MAX_VALUE} characters" if len(value) > MAX_VALUE else None


Report = Callable[[tuple[str | int, ...], str], None]


def fill(data: Mapping[Any, Any], known: Iterable[str], values: Mapping[str, str], report: Report) -> Any:
    """A copy of a file's plain values with the texts filled in. ``report`` is told what cannot be."""
    filler = _Filler(tuple(known), values, report)
    done = dict(data)
    for key in ("title", "description"):
        if key in done:
            done[key] = filler.text(done[key], (key,))
    for key in ("rules", "replace"):
        if isinstance(done.get(key), (list, tuple)):
            done[key] = [filler.rule(rule, (key, index)) for index, rule in enumerate(done[key])]
    if isinstance(done.get("overrides"), Mapping):
        done["overrides"] = {
            key: filler.rule(rule, ("overrides", key)) for key, rule in done["overrides"].items()
        }
    return done


class _Filler:
    def __init__(self, known: tuple[str, ...], values: Mapping[str, str], report: Report) -> None:
        self._known, self._values, self._report = known, values, report

    def rule(self, rule: Any, path: tuple[str | int, ...]) -> Any:
        """A rule, or changes to one, with its texts filled in."""
        if not isinstance(rule, Mapping):
            return rule
        done = dict(rule)
        for key in ("title", "description", "unsafe", "safe", "move"):
            if key in done:
                done[key] = self._texts(done[key], (*path, key))
        return done

    def _texts(self, value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, Mapping):  # {add: [...], remove: [...]}: one level and no more
            return {
                key: inner if isinstance(inner, Mapping) else self._texts(inner, (*path, key))
                for key, inner in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.text(item, (*path, index)) for index, item in enumerate(value)]
        return self.text(value, path)

    def text(self, value: Any, path: tuple[str | int, ...]) -> Any:
        if not isinstance(value, str) or ("{{" not in value and "}}" not in value):
            return value
        messages: list[str] = []
        filled = _MARKER.sub(lambda match: self._marker(match, messages), value)
        for message in dict.fromkeys(messages):
            self._report(path, message)
        return filled

    def _marker(self, match: re.Match[str], messages: list[str]) -> str:
        name = match[1]
        if name is None:
            messages.append(
                f"`{match[0]}` is no parameter: write `{{{{ name }}}}`, with a-z, 0-9 and _ for the name"
            )
        elif name not in self._known:
            close = nearest(name, self._known)
            hint = f"did you mean {close}?" if close else "declare it under `parameters:`"
            messages.append(f"there is no parameter {name!r}: {hint}")
        else:
            return self._values.get(name, match[0])  # one without a value is reported where it is declared
        return match[0]
