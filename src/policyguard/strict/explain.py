"""Pydantic's errors as one line each that says what was expected, what was there, and what to change.

The one home of this wording: policies, policy tests, project files, recipes and training rows are explained
here. A reader of one kind of file passes ``Hints``: its own words for fields, examples, and messages.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from policyguard.errors import MAX_PROBLEMS, Problem
from policyguard.strict.text import quoted, visible

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

__all__ = [
    "FieldPath",
    "Hints",
    "capped",
    "explain",
    "explain_toml",
    "field_name",
    "fields_at",
    "nearest",
    "nearest_file",
    "not_one_of",
    "problem_at",
    "seen",
]

FieldPath = tuple[str | int, ...]
Locate = Callable[..., tuple[int, int]]
"""``Node.locate``: the line and column of what stands at a path, or (``key=True``) of its key."""

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "not_a_list": "a list",
    "not_a_pair": "two numbers such as [0.4, 0.6]",
}
_MAPPINGS = {"yaml": "a mapping", "toml": "a table", "json": "an object"}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
_MAX_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Hints:
    """What the reader of one kind of file knows beyond its pydantic model.

    ``syntax``: how the file is written. ``synonyms``: what people call a field, and its name. ``examples``:
    what to add where a field is missing. ``homes``: a field that holds other models, and how to say "in
    there". ``message``: the reader's own words for one error, or None. ``more``: keys known at the top of
    the file beside those of the model. ``ignored``: kinds of errors that the reader reports itself.
    """

    syntax: Literal["yaml", "toml", "json"] = "yaml"
    synonyms: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    message: Callable[[ErrorDetails], str | None] = lambda _: None
    more: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def explain(
    error: ValidationError,
    model: type[BaseModel],
    file: str,
    *,
    hints: Hints,
    locate: Locate | None = None,
    prefix: FieldPath = (),
    top: type[BaseModel] | None = None,
) -> list[Problem]:
    """What ``error`` found, in the order in which pydantic reports it, each mistake once.

    ``model``: what was validated; it stands at ``prefix`` of ``file``, of which ``top`` is the whole.
    """
    details = error.errors(include_url=False)[: MAX_PROBLEMS * 2]
    reader = _Explainer(model, top or model, hints, prefix)
    keys = [_path(item) for item in details if item["type"] == "extra_forbidden"]
    misspelt = {(*path[:-1], reader.intended(path)) for path in keys}
    problems: list[Problem] = []
    for item in details:
        path = _path(item)
        if item["type"] in hints.ignored or (item["type"] == "missing" and path in misspelt):
            continue  # `idd: weapons` is one mistake, not an unknown key and a missing id
        message = reader.message(item, path)
        at_key = item["type"] == "extra_forbidden" or item["loc"][-1:] == ("[key]",)
        problems.append(problem_at((*prefix, *path), message, file, locate, key=at_key))
    return problems


def explain_toml(error: ValueError, text: str, model: type[BaseModel]) -> str:
    """What to write where ``text`` is not TOML, with its line; the parser's words where we know no better.

    No value is repeated: it may be a secret.
    """
    words = str(error)
    at = re.search(r" \(at line (\d+), column \d+\)$", words)  # else at the end
    lines = (text if at else text.rstrip()).split("\n")
    number = int(at[1]) if at else len(lines)
    line = lines[number - 1].strip()
    heading = re.match(r"\[+ *([^\[\]]*)", line)
    key, equals, value = (part.strip() for part in line.partition("="))
    start = f"{key} = " if equals else ""
    if "twice" in words or "Cannot overwrite" in words:
        if heading is None:
            message = f"`{key}` stands there twice: delete one of the two"
        elif fields_at(model, (heading[1].rpartition(".")[2].strip(), 0)):
            message = f"write [[{heading[1]}]] in two pairs of brackets, each time"
        else:
            message = f"[{heading[1]}] stands there twice: put both together"
    elif "Invalid value" in words and equals and not value.partition("#")[0]:
        message = f"nothing stands behind `{key} =`: write a value, or delete the line"
    elif "Invalid value" in words and at is None:
        message = "a value, or the `]` of a list, is missing here, at the end"
    elif "Invalid value" in words and value.partition("#")[0].strip() in ("True", "False"):
        message = f"write {value[:5].strip().lower()} in small letters"
    elif "after a statement" in words and re.match(r"[\"'].*,", value):
        message = f'several values stand in brackets: write {start}["...", "..."]'
    elif "Invalid value" in words or ("after a statement" in words and re.match(r"\d*[A-Za-z]", value)):
        message = f'text stands in quotes: write {start}"..."'
    elif "Expected '='" in words and ":" in line:
        message = "write = in place of the colon"
    else:
        message = next((advice for part, advice in _TOML if part in words), "")
    return f"line {number}: {message}" if message else words


_TOML = (
    ("Unclosed array", "a comma, or the `]` of a list, is missing"),
    ("Unescaped", "write each \\ twice, or the text in single quotes"),
    ("Illegal character '\\n'", "a quote is not closed"),
    ("Unterminated string", "a quote is not closed"),
)


def problem_at(
    path: FieldPath, message: str, file: str, locate: Locate | None, *, key: bool = False
) -> Problem:
    """A problem with what stands at ``path`` (with ``key``, with its key)."""
    line, column = (None, None) if locate is None else locate(path, key=key)
    return Problem(message, file, line, column, field_name(path) or None)


def field_name(path: FieldPath) -> str:
    """``path`` as people write it: ``rules[0].title``, printable."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path)
    return visible("".join(steps).lstrip("."))


def capped(problems: list[Problem]) -> list[Problem]:
    """At most ``MAX_PROBLEMS`` of ``problems``; a last one says if there are more."""
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem("and more: fix these first", problems[0].file)]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was most likely meant to be."""
    matches = difflib.get_close_matches(word[:64].lower(), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def nearest_file(name: str, known: Iterable[str]) -> str | None:
    """The file among ``known`` that ``name`` was most likely meant to be. Endings do not count, and
    ``south.yaml`` is no guess for ``north.yaml``, which may be the policy of another country.
    """
    stems = {PurePath(file).stem.lower(): file for file in known}
    matches = difflib.get_close_matches(PurePath(name[:255]).stem.lower(), stems, n=1, cutoff=0.65)
    return stems[matches[0]] if matches else None


def fields_at(model: type[BaseModel], path: FieldPath) -> tuple[str, ...]:
    """The keys that ``model`` knows in the mapping at ``path``; none where no model stands."""
    annotation: Any = model
    for step in path:
        annotation = _bare(annotation)
        if hasattr(annotation, "model_fields"):
            known = annotation.model_fields.get(step)
            annotation = None if known is None else known.annotation
        else:  # a list or a dict: what its values are
            inner = [argument for argument in get_args(annotation) if argument is not Ellipsis]
            annotation = inner[-1] if inner else None
    return tuple(getattr(_bare(annotation), "model_fields", ()))


def _bare(annotation: Any) -> Any:
    """``annotation`` without ``Annotated`` and ``| None``."""
    while get_origin(annotation) in (Annotated, Union, types.UnionType):
        arguments = get_args(annotation)
        annotation = next(argument for argument in arguments if argument is not type(None))
    return annotation


def _path(item: ErrorDetails) -> FieldPath:
    """Where the error is, without pydantic's marks for a dict's key and for validators."""
    return tuple(step for step in item["loc"] if isinstance(step, int) or not _MARK.match(step))


_MARK = re.compile(r"\[key\]$|function-(before|after|wrap|plain)\[")


class _Explainer:
    def __init__(self, model: type[BaseModel], top: type[BaseModel], hints: Hints, prefix: FieldPath) -> None:
        self._model, self._top, self._hints, self._prefix = model, top, hints, prefix

    def message(self, item: ErrorDetails, path: FieldPath) -> str:
        whole = (*self._prefix, *path)
        if item["type"] == "extra_forbidden":
            return self._unknown_key(path)
        marks = item["loc"][-1:] if item["loc"][-1:] == ("[key]",) else ()
        own = self._hints.message({**item, "loc": (*whole, *marks)})
        return own or self._general(item, whole)

    def intended(self, path: FieldPath) -> str | None:
        """The field that the unknown key at the end of ``path`` was meant to be."""
        key, known = str(path[-1]).lower().replace("-", "_"), self._known(path)
        synonym = self._hints.synonyms.get(key)
        return synonym if synonym in known else nearest(key, known)

    def _known(self, path: FieldPath) -> tuple[str, ...]:
        more = self._hints.more if not self._prefix and len(path) == 1 else ()
        return tuple(dict.fromkeys((*fields_at(self._model, path[:-1]), *more)))

    def _unknown_key(self, path: FieldPath) -> str:
        key = str(path[-1])
        known = self._known(path)
        start = f"unknown key {quoted(key, 64)}"
        if homes := [home for home, keys in self._homes() if key in keys]:
            return f"{start}: it belongs {' or '.join(homes)}"
        if intended := self.intended(path):
            return f"{start}: did you mean {self._key(intended)}?"
        return f"{start}: known here are {', '.join(known)}" if known else start

    def _homes(self) -> Iterable[tuple[str, Sequence[str]]]:
        yield "at the top level", (*self._top.model_fields, *self._hints.more)
        for name in self._top.model_fields:
            if keys := fields_at(self._top, (name,)):
                yield f"under {self._key(name)}", keys
            elif keys := fields_at(self._top, (name, 0)):
                yield self._hints.homes.get(name, f"in an entry of {self._key(name)}"), keys

    def _key(self, name: str) -> str:
        return f"`{name}:`" if self._hints.syntax == "yaml" else f"`{name}`"

    def _general(self, item: ErrorDetails, path: FieldPath) -> str:
        kind, value, context = item["type"], item["input"], item.get("ctx", {})
        if kind == "missing":
            name = str(path[-1])
            example = self._key(name) if self._hints.syntax == "yaml" else None
            example = self._hints.examples.get(name, example)
            return f"is missing: add {example}" if example else "is missing"
        if kind in ("enum", "literal_error"):
            return not_one_of(value, re.findall(r"'([^']+)'", str(context["expected"])))
        if kind in ("model_type", "model_attributes_type", "dict_type"):
            remedy = _missing_fields(path, value) if self._hints.syntax == "yaml" else ""
            return f"expected {_MAPPINGS[self._hints.syntax]}, found {self._seen(value)}{remedy}"
        if kind in _TYPES:
            remedy = _remedy(kind, value) if self._hints.syntax == "yaml" else ""
            tables = self._hints.syntax == "toml" and fields_at(self._top, (*path, 0))
            if tables and isinstance(value, Mapping):
                remedy = f": write [[{path[-1]}]] in two pairs of brackets"
            return f"expected {_TYPES[kind]}, found {self._seen(value)}{remedy}"
        if kind in _BOUNDS:
            return f"must be {_BOUNDS[kind]} {next(iter(context.values())):g}, found {self._seen(value)}"
        if kind == "string_unicode":
            return "holds half of a character (a lone surrogate), which is refused"
        if kind in ("too_short", "string_too_short"):
            return "is empty: give at least one" if kind == "too_short" else "is empty"
        if kind in ("too_long", "string_too_long"):
            unit = "characters" if isinstance(value, str) else "items"
            return f"is too long: at most {context['max_length']} {unit}"
        return item["msg"].removeprefix("Value error, ")

    def _seen(self, value: object) -> str:
        return _MAPPINGS[self._hints.syntax] if isinstance(value, Mapping) else seen(value)


def not_one_of(value: object, words: Sequence[str], meant: str | None = None) -> str:
    """``value`` is none of ``words``: what is allowed, and which of them was (likely) ``meant``."""
    message = f"expected {' or '.join(filter(None, (', '.join(words[:-1]), words[-1])))}, found {seen(value)}"
    word = meant or (nearest(value, words) if isinstance(value, str) else None)
    return f"{message}: did you mean {word}?" if word else message


def _remedy(kind: str, value: object) -> str:
    if kind == "string_type":
        if value is None:
            return ": write one, or delete the line"
        whole = ": put the whole text in quotes, because of the `: ` in it"
        return whole if isinstance(value, Mapping) else ": put it in quotes"
    if _TYPES[kind] == "a list":
        empty = ": add items, or delete the line"
        if isinstance(value, str) and value.startswith("-"):
            return ": a blank belongs behind each dash: start each item with `- ` on a line of its own"
        return empty if value is None else ": start each item with `- ` on a line of its own"
    return ""


def _missing_fields(path: FieldPath, value: object) -> str:
    """What to do where fields were expected and none, or a text, stands."""
    if value is None and path and isinstance(path[-1], str):
        return f": indent what belongs to `{visible(path[-1][:64])}:`, or delete the line"
    if isinstance(value, str) and (glued := re.match(r"([A-Za-z_][\w-]{0,63}):(?=[^\s/])", value)):
        return f": write a blank behind the colon of `{glued[1]}:`"
    return ""


def seen(value: object) -> str:
    """What was there, shortened and without unprintable characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {quoted(value, _MAX_SHOWN)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"
