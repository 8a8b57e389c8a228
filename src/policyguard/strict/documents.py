"""YAML for policies: a small, safe part of the language, with the position of everything.

Covered: a file from a stranger cannot run code, build objects, expand (anchors, aliases and merge keys are
refused), recurse, or say one thing to a reader and another to the program (duplicate keys, hidden
characters, ``no`` and ``0777`` that turn into false and 511). Size, depth and number of nodes are bounded.
Not covered: what the policy says, which ``schema`` checks.

PyYAML only splits the text into events here; its constructors and resolvers are not used. Its pure Python
parser is used even where libyaml is there: the two differ at the edges, and a policy must mean the same on
every machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from policyguard.errors import MAX_PROBLEMS, PolicyError, Problem
from policyguard.strict.text import describe_character, find_forbidden, visible

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_NODES",
    "Document",
    "Node",
    "Place",
    "decode",
    "explain_syntax",
    "parse",
    "plain",
]


MAX_BYTES = 256 * 1024

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
        place = _place_after(data[: error.start].decode("utf-8"))
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
        problems.append(Problem(message, file, *_place_after(text[:index])))
        index = find_forbidden(text, index + 1)
    return problems


def _place_after(before: str) -> Place:
    lines = re.split(r"\r\n|\r|\n", before)
    return Place(len(lines), len(lines[-1]) + 1)


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


_KEY = re.compile(r"(?: *- +)* *(?P<key>[A-Za-z_][\w.-]*|\"[^\"]*\"|'[^']*')(?=:(?: |$))")
"""A line that begins with one key, after the dashes of a list."""


def too_deep(text: str, place: Place) -> tuple[Place, str] | None:
    """Where a key stands that begins its line deeper than the line above does, and what to do.

    ``place`` is where YAML stumbles: at the key, or at its colon. Blank lines and comments are no lines.
    """
    lines = re.split(r"\r\n|\r|\n", text)
    key = _KEY.match(lines[place.line - 1]) if place.line <= len(lines) else None
    earlier = (one for one in reversed(lines[: place.line - 1]) if one.strip() and one.lstrip()[0] != "#")
    above = next(earlier, None)
    if key is None or above is None or place.column - 1 > key.end():
        return None
    start, indent = (len(line) - len(line.lstrip(" ")) for line in (key.string, above))
    in_list, listed = key.string[start:].startswith("- "), above[indent:].startswith("- ")
    if listed and not in_list and _KEY.match(above):
        indent = len(above) - len(above.lstrip(" -"))  # beside the key behind the dash
    if start <= indent or above.rstrip().endswith((":", "|", ">")):
        return None
    if listed and not in_list and not _KEY.match(above):
        message = "this line is indented further than the list above it: begin it where the list's key begins"
    else:
        message = "this line is indented further than the one above it: begin both in the same column"
    return Place(place.line, start + 1), message


def explain_syntax(error: yaml.MarkedYAMLError) -> tuple[str, int, int]:
    """One sentence for a syntax error, and its line and column, from 1."""
    reason = error.problem or error.context or "unreadable"
    message = next((advice for words, advice in _ADVICE if words in reason), f"this is not YAML: {reason}")
    mark, opening = error.problem_mark or error.context_mark, error.context_mark
    if opening and message == _UNCLOSED_QUOTE:
        mark = opening  # where the quote opens: the end of the file, where it was missed, helps nobody
    elif opening and message == _UNCLOSED_BRACKET:
        message = f"{message} (the last one opens on line {opening.line + 1})"
    return (message, mark.line + 1, mark.column + 1) if mark else (message, 1, 1)


MAX_DEPTH = 16
MAX_NODES = 10_000
Scalar = str | int | float | bool | None
_ODD_SPACE = re.compile(r"(?:^[ -]*|:)([\u00a0\u2007\u202f\u3000])", re.MULTILINE)
"""A space that YAML takes for a letter, where only an ordinary one is of use."""
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None, "~": None, "": None}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_CUT = re.compile(r" +(#[^\s#]\S*)")
"""A comment behind a text that looks like a part of it, such as a hashtag."""
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_MAX_NUMBER = 10.0**18


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands; ``keys`` says where each key of a mapping stands."""

    value: Scalar | list[Node] | dict[str, Node]
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)

    def locate(self, path: Sequence[str | int], *, key: bool = False) -> Place:
        """Where the value at ``path`` stands, or what is nearest to it; with ``key``, its key instead."""
        node, place = self, self.place
        for step in path:
            inner = node.value
            if isinstance(inner, dict) and isinstance(step, str) and step in inner:
                place = node.keys[step] if key else inner[step].place
                node = inner[step]
            elif isinstance(inner, list) and isinstance(step, int) and step < len(inner):
                node = inner[step]
                place = node.place
            else:
                break
        return place


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML file: its tree, and the problems that did not stop the reading."""

    file: str
    root: Node
    problems: tuple[Problem, ...] = ()
    swallowed: tuple[Place, ...] = ()
    """Lines that begin with ``- `` and are read as a part of the text above them."""


def plain(node: Node) -> object:
    """The bare values of ``node``. Its depth is bounded, so this may recurse."""
    if isinstance(node.value, dict):
        return {key: plain(value) for key, value in node.value.items()}
    if isinstance(node.value, list):
        return [plain(value) for value in node.value]
    return node.value


def parse(data: bytes, file: str) -> Document:
    """Read ``data`` as one YAML mapping. Raises PolicyError for what makes the rest unreadable."""
    return _Builder(decode(data, file), file).document()


class _Events(Reader, Scanner, Parser):
    """PyYAML's reader, scanner and parser: text in, events out, and nothing that builds objects."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def next(self) -> yaml.Event:
        event: yaml.Event = self.get_event()  # type: ignore[no-untyped-call]
        return event


class _Builder:
    """Turns events into nodes; collects problems, and stops at those that make the rest unreadable."""

    def __init__(self, text: str, file: str) -> None:
        self._events = _Events(text)
        self._text = text
        self._file = file
        self._problems: list[Problem] = []
        self._nodes = 0
        self._swallowed: list[Place] = []

    def document(self) -> Document:
        try:
            root = self._document()
        except yaml.MarkedYAMLError as error:
            message, line, column = explain_syntax(error)
            found = self._odd_space(line) or self._too_deep(error, Place(line, column)) or self._dash(error)
            found = found or (Place(line, column), message)
            raise self._stop(*found) from None
        except (yaml.YAMLError, ValueError, OverflowError):  # such as the escape "\UFFFFFFFF"
            place = Place(self._events.line + 1, self._events.column + 1)
            raise self._stop(place, "this escape, or this number, is out of range") from None
        if not isinstance(root.value, dict):
            kind = "a list" if isinstance(root.value, list) else "a single value"
            raise self._stop(
                root.place,
                f"a policy is a mapping, and this file holds {kind}",
                hint="start with `id:`, `version:`, `title:` and `rules:` at the left margin",
            )
        return Document(self._file, root, tuple(self._problems), tuple(self._swallowed))

    def _odd_space(self, line: int) -> tuple[Place, str] | None:
        """Where a space that is none to YAML stands in the line of an error or in the one above it."""
        lines = self._text.splitlines()
        for number in (line - 1, line):
            if 0 < number <= len(lines) and (odd := _ODD_SPACE.search(lines[number - 1])):
                return Place(number, odd.start(1) + 1), _space(odd[1])
        return None

    def _too_deep(self, error: yaml.MarkedYAMLError, place: Place) -> tuple[Place, str] | None:
        """What to say of a key that stands deeper than the line above it, which YAML takes for its text."""
        reason = error.problem or ""
        fits = "mapping values are not allowed" in reason or "<block end>" in reason
        return too_deep(self._text, place) if fits else None

    def _dash(self, error: yaml.MarkedYAMLError) -> tuple[Place, str] | None:
        """What to say of an item such as ``-guns``, which YAML takes for a key that is not complete."""
        start = error.context_mark
        if start is None or "expected ':'" not in (error.problem or ""):
            return None
        if not re.match(r" *-[^ -]", self._text.splitlines()[start.line]):
            return None
        return Place(start.line + 1, start.column + 1), "write a blank behind the dash of each item: `- `"

    def _document(self) -> Node:
        self._events.next()  # the stream's start
        start = self._events.next()
        if isinstance(start, yaml.StreamEndEvent):
            raise self._stop(
                Place(1, 1),
                "the file holds no policy: it is empty, or comments only",
                hint="start from a packaged policy: `policyguard policy show safeedit/l3`",
            )
        if isinstance(start, yaml.DocumentStartEvent) and (start.version or start.tags):
            self._note(start, "directives such as %YAML and %TAG are refused: delete the line")
        root = self._node(self._events.next(), depth=1)
        self._events.next()  # the document's end
        after = self._events.next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._stop(_place(after), "a second document starts here (`---`): one policy to a file")
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._nodes += 1
        place = _place(event)
        if self._nodes > MAX_NODES:
            raise self._stop(place, f"the file holds more than {MAX_NODES:,} values: split it")
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            self._note(event, f"aliases are refused: write the text out instead of *{str(anchor)[:40]}")
            return Node(None, place)
        if anchor is not None:
            self._note(event, f"anchors are refused: delete &{anchor[:40]}")
        if tag is not None:
            self._note(event, f"tags are refused: delete {tag[:40]!r}")
        if isinstance(event, yaml.ScalarEvent):
            return Node(self._scalar(event), place)
        if depth > MAX_DEPTH:
            raise self._stop(place, f"values are nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := self._events.next(), yaml.SequenceEndEvent):
                items.append(self._node(item, depth + 1))
            return Node(items, place)
        return self._mapping(place, depth)

    def _mapping(self, place: Place, depth: int) -> Node:
        values: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        while not isinstance(event := self._events.next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(self._events.next(), depth + 1)
            if isinstance(event, yaml.ScalarEvent) and event.style is None and event.value == "<<":
                self._note(event, "merge keys (`<<`) are refused: write the fields out")
            elif not isinstance(key.value, str):
                if isinstance(key.value, dict) and len(key.value) == 1 and value.value is None:
                    name = visible(next(iter(key.value))[:40])
                    raise self._stop(
                        place,
                        f'braces without quotes are a mapping: write "{{{{ {name} }}}}", with the rest of '
                        "the text inside the quotes",
                    )
                if not isinstance(event, yaml.AliasEvent):
                    self._note(event, "a key is a piece of text: put it in quotes if it must look like this")
            elif key.value in values:
                first = keys[key.value].line
                message = f"the key {key.value[:40]!r} is already there, on line {first}"
                self._note(event, f"{message}: delete one of the two")
            else:
                values[key.value] = value
                keys[key.value] = key.place
        return Node(values, place, keys)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text = str(event.value)
        index = find_forbidden(text)  # again, because "\u202e" in double quotes passes the first look
        if index is not None:
            self._note(event, f"the character {describe_character(text[index])} is refused, as an escape too")
        if event.style is not None:
            return text
        if event.start_mark and event.end_mark:
            lines = self._text[event.start_mark.index : event.end_mark.index].splitlines()
            for number, line in enumerate(lines[1:], start=event.start_mark.line + 2):
                if line.lstrip(" ").startswith("- "):
                    self._swallowed.append(Place(number, len(line) - len(line.lstrip(" ")) + 1))
        if odd := _ODD_SPACE.match(text):
            self._note(event, _space(odd[1]))
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            if abs(float(text)) > _MAX_NUMBER:
                self._note(event, f"the number {text[:30]} is out of range")
                return 0
            return int(text) if _INT.fullmatch(text) else float(text)
        if event.end_mark and (cut := _CUT.match(self._text, event.end_mark.index)):
            self._note(
                event,
                f"the text ends before {cut[1][:40]!r}, which begins a comment: put the text in quotes, "
                "or write a blank behind the # of a comment",
            )
        return text

    def _note(self, event: yaml.Event, message: str) -> None:
        self._problems.append(Problem(message, self._file, *_place(event)))
        if len(self._problems) >= MAX_PROBLEMS:
            self._problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
            raise PolicyError(self._problems, hint="there may be more: reading stopped here")

    def _stop(self, place: Place, message: str, *, hint: str | None = None) -> PolicyError:
        return PolicyError([*self._problems, Problem(message, self._file, *place)], hint=hint)


def _space(character: str) -> str:
    return f"{describe_character(character)} stands here: write an ordinary space"


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
