"""Loads policies: one file, one that builds on others, or plain values.

Every file that the first one builds on is read, its texts are filled in, and all are composed to one flat
policy. Everything wrong in all of the files is reported at once. Bounds: 64 files, 8 levels of ``extends``,
no cycles; ``strict.inside`` keeps paths within the policy root, ``strict.documents`` keeps each file small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from policyguard.errors import PolicyError, Problem
from policyguard.policy.compose import apply, flat
from policyguard.policy.files import Location, PolicyFile, find, include, locate
from policyguard.policy.merge import Flat
from policyguard.policy.parameters import Value, fill, formatted, is_name, problem_with
from policyguard.policy.policy import Policy
from policyguard.policy.schema import Provenance
from policyguard.policy.source import Source, check_layer, check_policy
from policyguard.strict.documents import Document, parse, plain
from policyguard.strict.explain import FieldPath, capped, nearest
from policyguard.strict.text import quoted

__all__ = [
    "MAX_FILES",
    "MAX_INCLUDE_DEPTH",
    "extend_policy",
    "load_edited",
    "load_noting",
    "load_policy",
    "parse_policy",
    "read_document",
    "validate_document",
]

MAX_FILES = 64
MAX_INCLUDE_DEPTH = 8
_MAX_BASES = 32
_NEEDS_BASE = ("replace", "overrides", "drop", "weakens")


def load_policy(
    source: str | Path,
    *,
    root: str | Path | None = None,
    parameters: Mapping[str, Value] | None = None,
) -> Policy:
    """Load one policy from YAML, composed with what it extends.

    ``source`` is a path if it is a ``Path``, ends in .yaml or .yml, or starts with ``.``, ``/`` or ``~``;
    otherwise it is the name of a packaged or installed policy, such as ``"safeedit/l3"``. ``root`` is the
    folder that nothing it extends may lie outside of; by default the nearest parent folder that holds
    ``policyguard.toml`` or ``.git``, else the file's own. ``parameters`` fill ``{{ name }}`` in the texts.

    Raises PolicyError, which holds every problem found, each with file, line and column.
    """
    return load_noting(source, set(), root=root, parameters=parameters)


def load_noting(
    source: str | Path,
    read: set[Path],
    *,
    root: str | Path | None = None,
    parameters: Mapping[str, Value] | None = None,
) -> Policy:
    """``load_policy``; adds to ``read`` every file that was opened for it, also where it raises."""
    file = find(locate(source, root=root))
    stack = _Stack(parameters)
    try:
        return stack.policy(file, _source(parse(file.data, file.display)))
    finally:
        read.update((Path(file.root, *file.parts), *stack.files))


def load_edited(source: str | Path, text: str) -> Policy:
    """The policy that ``source``, a file or a packaged policy, would be with ``text`` in it. Writes nothing.

    What it extends is found, and problems are named, as if ``text`` stood there. Raises PolicyError.
    """
    file = find(locate(source))
    return _Stack(None).policy(file, _source(parse(text.encode(), file.display)))


def parse_policy(
    data: Mapping[str, Any] | str,
    *,
    root: str | Path | None = None,
    parameters: Mapping[str, Value] | None = None,
) -> Policy:
    """A policy from plain values, shaped as in the file, or from the text of a file.

    What they extend is packaged or installed, or lies under ``root``. Raises PolicyError, which holds every
    problem found.
    """
    file = None if root is None else PolicyFile.at_root(str(root))
    source = _source(parse(data.encode(), "<text>")) if isinstance(data, str) else Source("<dict>", data)
    return _Stack(parameters).policy(file, source)


def extend_policy(
    base: Policy, layer: Mapping[str, Any], *, parameters: Mapping[str, Value] | None = None
) -> Policy:
    """``base`` with one layer on top: plain values, shaped as a file that extends it, without ``extends``.

    Raises PolicyError, also for a change that can loosen ``base`` and gives no reason.
    """
    source = Source("<dict>", layer)
    if not isinstance(layer, Mapping):
        _fail(source, (), "expected a mapping: the fields of a layer")
    if "extends" in layer:
        _fail(source, ("extends",), "the base is the policy that is extended: leave this out", key=True)
    known = base.provenance
    pieces = known.pieces or ((base.description,) if base.description else ())
    return _Stack(parameters).layered(Flat(base, pieces, known.origins, known.weakenings), source)


def validate_document(document: Document) -> Policy:
    """The policy of a file that was read already, and that extends nothing but packaged policies.

    Its problems, of YAML and of contents, are reported together.
    """
    return _Stack(None).policy(None, _source(document))


def read_document(path: Path) -> Document:
    """The YAML tree of one file, with positions. Raises PolicyError."""
    file = find(Location(path))
    return parse(file.data, file.display)


@dataclass(slots=True)
class _Unit:
    """One file, the files it extends, and what its parameters are."""

    source: Source
    file: PolicyFile | None
    bases: list[_Unit] = field(default_factory=list)
    complete: bool = True
    height: int = 0
    names: dict[str, Value] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    flat: Flat | None = None
    composed: bool = False

    @property
    def extends(self) -> bool:
        return isinstance(self.source.data, Mapping) and "extends" in self.source.data


def _source(document: Document) -> Source:
    return Source(document.file, plain(document.root), document.root, list(document.problems))


def _fail(source: Source, path: FieldPath, message: str, *, key: bool = False) -> NoReturn:
    source.report(path, message, key=key)
    raise PolicyError(source.problems)


class _Stack:
    def __init__(self, parameters: Mapping[str, Any] | None) -> None:
        self._units: dict[object, _Unit] = {}
        self._sources: list[Source] = []
        self._arguments = self._check_arguments(parameters or {})
        self._values: dict[str, str] = {}
        self._hints: list[str] = []
        self._open: list[object] = []

    @property
    def files(self) -> list[Path]:
        """The files that were opened so far."""
        return [Path(unit.file.root, *unit.file.parts) for unit in self._units.values() if unit.file]

    # The three ways in.

    def policy(self, file: PolicyFile | None, source: Source) -> Policy:
        top = self._unit(file, source)
        return self._finish(top)

    def layered(self, base: Flat, source: Source) -> Policy:
        below = _Unit(Source(base.policy.id, {}), None, flat=base, composed=True)
        self._values.update(base.policy.parameters)  # they are in its texts already
        top = _Unit(source, None, bases=[below])
        self._sources.append(source)
        self._declare(top)
        return self._finish(top, layer=True)

    def _finish(self, top: _Unit, *, layer: bool = False) -> Policy:
        self._settle_values(top)
        composed = self._compose(top, layer=layer)
        problems = [problem for source in self._sources for problem in _sorted(source)]
        if problems or composed is None:
            raise PolicyError(capped(problems), hint=self._hints[0] if self._hints else None)
        used = dict(sorted(self._values.items()))
        return composed.policy.with_provenance(
            Provenance(composed.pieces, composed.origins, composed.weakenings, used)
        )

    # Files.

    def _unit(self, file: PolicyFile | None, source: Source) -> _Unit:
        unit = _Unit(source, file)
        self._sources.append(source)
        key = file.key if file else object()
        self._units[key] = unit
        self._open.append(key)
        for path, name in self._extends(unit):
            base = self._base(unit, path, name)
            if base is None:
                unit.complete = False
            elif base not in unit.bases:
                unit.bases.append(base)
        self._open.pop()
        unit.height = max((base.height + 1 for base in unit.bases), default=0)
        self._declare(unit)
        return unit

    def _extends(self, unit: _Unit) -> list[tuple[FieldPath, str]]:
        if not unit.extends:
            return []
        source, extends = unit.source, unit.source.data["extends"]
        names: list[tuple[FieldPath, Any]] = [(("extends",), extends)]
        if isinstance(extends, (list, tuple)):
            names = [(("extends", index), name) for index, name in enumerate(extends)]
            if not names or len(names) > _MAX_BASES:
                source.report(("extends",), f"expected 1 to {_MAX_BASES} policies, found {len(names)}")
                unit.complete = False
                return []
        bases: list[tuple[FieldPath, str]] = []
        for path, name in names:
            if not isinstance(name, str) or not name.strip():
                source.report(path, "expected the name of a packaged policy, or the path of a file")
                unit.complete = False
            elif name in [other for _, other in bases]:
                source.report(path, f"{name!r} is there already: delete one of the two")
            else:
                bases.append((path, name))
        return bases

    def _base(self, unit: _Unit, path: FieldPath, name: str) -> _Unit | None:
        source = unit.source
        try:
            file = include(name, unit.file)
        except PolicyError as error:
            for problem in error.problems:
                source.report(path, f"{quoted(name)}: {problem.message}")
            if error.hint:
                self._hints.append(error.hint)
            return None
        if file.key in self._open:
            ring = [*self._open[self._open.index(file.key) :], file.key]
            names = " -> ".join(self._units[key].source.file for key in ring)
            source.report(path, f"a cycle: {names}")
            return None
        known = self._units.get(file.key)
        if len(self._open) + (known.height if known else 0) > MAX_INCLUDE_DEPTH:
            source.report(path, f"policies extend each other more than {MAX_INCLUDE_DEPTH} deep")
            return None
        if known is not None:
            return known
        if len(self._units) >= MAX_FILES:
            source.report(path, f"more than {MAX_FILES} files: put some of them together")
            return None
        try:
            document = parse(file.data, file.display)
        except PolicyError as error:
            self._sources.append(Source(file.display, None, problems=list(error.problems)))
            if error.hint:
                self._hints.append(error.hint)
            return None
        return self._unit(file, _source(document))

    # Parameters.

    def _check_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Value]:
        source = Source("<parameters>", arguments)
        self._sources.append(source)
        values: dict[str, Value] = {}
        for name, value in arguments.items():
            problem = "needs a value" if value is None else problem_with(value)
            if problem:
                source.report((str(name),), problem)
            values[str(name)] = value
        return values

    def _declare(self, unit: _Unit) -> None:
        """What the unit's texts may name: what its bases declare, and what it declares itself."""
        source = unit.source
        own = source.data.get("parameters", {}) if isinstance(source.data, Mapping) else {}
        if not isinstance(own, Mapping):
            source.report(("parameters",), "expected a mapping from names to values")
            own = {}
        for base in unit.bases:
            for name, value in base.names.items():
                known = unit.names.get(name)
                differs = known is not None and value is not None and formatted(known) != formatted(value)
                if differs and name not in own and name not in self._arguments:
                    message = f"the bases give the parameter '{name}' the values {known!r} and {value!r}"
                    source.report(("extends",), f"{message}: give it one here, under `parameters:`")
                unit.names[name] = value if known is None else known
        for name, value in own.items():
            path: FieldPath = ("parameters", str(name))
            if not is_name(name):
                source.report(path, "a parameter's name is made of a-z, 0-9 and _", key=True)
            elif problem := problem_with(value):
                source.report(path, problem)
            elif value is None and unit.names.get(name) is not None:
                # Taken back here and given anew above, it would be reworded without a reason.
                message = f"what is extended gives it the value {unit.names[name]!r}: leave this out"
                source.report(path, message)
            else:
                self._own(unit, name, value)

    def _own(self, unit: _Unit, name: str, value: Value) -> None:
        for base in unit.bases:
            was = base.names.get(name)
            if was is not None and formatted(was) != formatted(value):
                unit.changed[name] = f"changed from {was!r} to {value!r}, which rewords what names it"
        unit.names[name] = value

    def _settle_values(self, top: _Unit) -> None:
        source = self._sources[0]
        for name in self._arguments:
            if name not in top.names:
                close = nearest(name, top.names)
                hint = f"did you mean {close}?" if close else f"it has {', '.join(top.names) or 'none'}"
                source.report((name,), f"the policy has no such parameter: {hint}")
        for name, value in top.names.items():
            chosen = self._arguments.get(name, value)
            if chosen is not None:
                self._values[name] = formatted(chosen)
            else:
                message = (
                    f"the parameter '{name}' has no value: give one here, or as parameters={{'{name}': ...}}"
                )
                top.source.report(("parameters", name), message)

    # Composition, from the bottom up.

    def _compose(self, unit: _Unit, *, layer: bool = False) -> Flat | None:
        if unit.composed:
            return unit.flat
        unit.composed = True
        bases = [self._compose(base) for base in unit.bases]
        unit.flat = self._composed(unit, [base for base in bases if base is not None], layer=layer)
        if not unit.complete or None in bases:
            unit.flat = None
        return unit.flat

    def _composed(self, unit: _Unit, bases: list[Flat], *, layer: bool) -> Flat | None:
        source = unit.source
        if not isinstance(source.data, Mapping):
            check_policy(source, source.data)
            return None
        before = len(source.problems)
        source.data = fill(source.data, unit.names, self._values, source.report)
        filled = len(source.problems) == before
        if unit.extends or layer:
            checked = check_layer(source)
            if checked is None or not bases or len(bases) < len(unit.bases) or not unit.complete:
                return None
            composed = apply(checked, bases, unit.changed)
            return composed if filled else None
        for name in _NEEDS_BASE:
            if name in source.data:
                source.report(
                    (name,), "this changes what is extended, and nothing is: add `extends:`", key=True
                )
        rest = {key: v for key, v in source.data.items() if key not in (*_NEEDS_BASE, "parameters")}
        policy = check_policy(source, rest)
        return flat(policy, source) if policy is not None else None


def _sorted(source: Source) -> list[Problem]:
    """In the order of the file. What reading put in place of a refused value is wrong too: once is enough."""
    refused = {(p.line, p.column) for p in source.problems if p.field is None and p.line}
    kept = [p for p in source.problems if p.field is None or (p.line, p.column) not in refused]
    return sorted(kept, key=lambda problem: (problem.line or 0, problem.column or 0))
