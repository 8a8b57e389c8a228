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

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from policyguard.errors import PolicyError, Problem
from policyguard.policy.characters import describe_character, find_forbidden
from policyguard.policy.encoding import MAX_PROBLEMS, Place, decode
from policyguard.policy.syntax import explain_syntax

__all__ = ["MAX_DEPTH", "MAX_NODES", "Document", "Node", "parse", "plain"]

MAX_DEPTH = 16
MAX_NODES = 10_000

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None, "~": None, "": None}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
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
        self._file = file
        self._problems: list[Problem] = []
        self._nodes = 0

    def document(self) -> Document:
        try:
            root = self._document()
        except yaml.MarkedYAMLError as error:
            message, line, column = explain_syntax(error)
            raise self._stop(Place(line, column), message) from None
        except (yaml.YAMLError, ValueError, OverflowError):  # such as the escape "\UFFFFFFFF"
            place = Place(self._events.line + 1, self._events.column + 1)
            raise self._stop(place, "this escape, or this number, is out of range") from None
        if not isinstance(root.value, dict):
            found = "a list" if isinstance(root.value, list) else "a single value"
            raise self._stop(
                root.place,
                f"a policy is a mapping, and this file holds {found}",
                hint="start with `id:`, `version:`, `title:` and `rules:` at the left margin",
            )
        return Document(self._file, root, tuple(self._problems))

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
                if not isinstance(event, yaml.AliasEvent):
                    self._note(event, "a key is a piece of text: put it in quotes if it must look like this")
            elif key.value in values:
                first = keys[key.value].line
                said = f"the key {key.value[:40]!r} is already there, on line {first}"
                self._note(event, f"{said}: delete one of the two")
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
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            if abs(float(text)) > _MAX_NUMBER:
                self._note(event, f"the number {text[:30]} is out of range")
                return 0
            return int(text) if _INT.fullmatch(text) else float(text)
        return text

    def _note(self, event: yaml.Event, message: str) -> None:
        self._problems.append(Problem(message, self._file, *_place(event)))
        if len(self._problems) >= MAX_PROBLEMS:
            self._problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
            raise PolicyError(self._problems, hint="there may be more: reading stopped here")

    def _stop(self, place: Place, message: str, *, hint: str | None = None) -> PolicyError:
        return PolicyError([*self._problems, Problem(message, self._file, *place)], hint=hint)


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
