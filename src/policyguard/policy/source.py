"""Checks one file of a policy; one that extends others entry by entry, so that one mistake hides no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from policyguard.errors import MAX_PROBLEMS, Problem
from policyguard.policy.hints import POLICY
from policyguard.policy.layer import LAYER_FIELDS, SECTIONS, Drop, Head, LayerRule, Override
from policyguard.policy.policy import Policy
from policyguard.policy.schema import Model
from policyguard.strict.documents import Node, Place
from policyguard.strict.explain import FieldPath, explain, problem_at

__all__ = ["Layer", "Source", "check_layer", "check_policy"]

M = TypeVar("M", bound=Model)
_HINTS = replace(POLICY, more=LAYER_FIELDS, ignored=("duplicate_rule",))


@dataclass(slots=True)
class Source:
    """One file's plain values, where they stand, and what is wrong with them."""

    file: str
    data: Any
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)

    def report(self, path: FieldPath, message: str, *, key: bool = False) -> None:
        """Note what is wrong at ``path`` (with ``key``, at its key)."""
        self.problems.append(problem_at(path, message, self.file, self._locate, key=key))

    def explain(self, error: ValidationError, model: type[BaseModel], path: FieldPath) -> None:
        """Note all that is wrong with what stands at ``path`` and was validated as ``model``."""
        self.problems += explain(
            error, model, self.file, hints=_HINTS, locate=self._locate, prefix=path, top=Policy
        )

    def line(self, path: FieldPath) -> int | None:
        """The line of the value at ``path``, or of what is nearest to it."""
        return None if self.root is None else self.place(path).line

    def place(self, path: FieldPath) -> Place:
        return Place(1, 1) if self.root is None else self.root.locate(path)

    @property
    def _locate(self) -> Callable[..., Place] | None:
        return None if self.root is None else self.root.locate


@dataclass(slots=True)
class Layer:
    """A checked layer. Entries keep their index in the file, which says where they stand."""

    source: Source
    head: Head
    rules: list[tuple[FieldPath, LayerRule]]
    replace: list[tuple[FieldPath, LayerRule]]
    overrides: list[tuple[FieldPath, str, Override]]
    drop: list[tuple[FieldPath, Drop]]


def check_policy(source: Source, data: object) -> Policy | None:
    """The policy that ``data`` is, which extends nothing; ``source.problems`` holds what is wrong."""
    _report_repeated_ids(source, data)
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        source.explain(error, Policy, ())
        return None


def _report_repeated_ids(source: Source, data: object) -> None:
    """Here as well as in the schema, which looks only once all else is right."""
    rules = data.get("rules") if isinstance(data, Mapping) else None
    first: dict[str, int] = {}
    repeated = 0
    for index, rule in enumerate(rules if isinstance(rules, (list, tuple)) else ()):
        rule_id = rule.get("id") if isinstance(rule, Mapping) else getattr(rule, "id", None)
        if isinstance(rule_id, str) and first.setdefault(rule_id, index) != index and repeated < MAX_PROBLEMS:
            repeated += 1
            message = f"the id '{rule_id[:80]}' is taken by rule {first[rule_id] + 1}: ids are unique"
            source.report(("rules", index, "id"), message)


def check_layer(source: Source) -> Layer | None:
    """The layer, as far as it is right; ``source.problems`` holds the rest. ``None`` without a head."""
    data: Mapping[str, Any] = source.data
    rest = {key: value for key, value in data.items() if key not in SECTIONS}
    head = _model(source, Head, rest, ()) or _right_part(rest)
    overrides = []
    overrides_by_id = data.get("overrides", {})
    if not isinstance(overrides_by_id, Mapping):
        source.report(
            ("overrides",),
            "expected a mapping: the id of each rule that changes, such as `weapons:`, with its changes "
            "indented below it",
        )
        overrides_by_id = {}
    for rule_id, change in overrides_by_id.items():
        path: FieldPath = ("overrides", str(rule_id))
        if (override := _model(source, Override, change, path)) is not None:
            overrides.append((path, str(rule_id), override))
    rules, replace = (_entries(source, LayerRule, section) for section in ("rules", "replace"))
    drop = _entries(source, Drop, "drop")
    return None if head is None else Layer(source, head, rules, replace, overrides, drop)


def _right_part(rest: Mapping[str, Any]) -> Head | None:
    """What is right of a head that is wrong, so that the changes to rules can be checked all the same."""
    stand_in = {"id": "unknown", "version": "0.0.0"}
    for _ in range(2):  # a second look, because validators of the whole run only once the parts are right
        try:
            return Head.model_validate(stand_in | dict(rest))
        except ValidationError as error:
            wrong = {item["loc"][0] for item in error.errors() if item["loc"]}
            rest = {key: value for key, value in rest.items() if key not in wrong}
    return None


def _entries(source: Source, model: type[M], section: str) -> list[tuple[FieldPath, M]]:
    entries = source.data.get(section, ())
    if not isinstance(entries, (list, tuple)):
        source.report((section,), "expected a list: start each entry with `- id:`")
        return []
    checked_entries: list[tuple[FieldPath, M]] = []
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        path: FieldPath = (section, index)
        rule_id = entry.get("id") if isinstance(entry, Mapping) else None
        if isinstance(rule_id, str) and first.setdefault(rule_id, index) != index:
            message = f"the id '{rule_id[:80]}' is taken by entry {first[rule_id] + 1}: ids are unique"
            source.report((*path, "id"), message)
            continue
        if (checked := _model(source, model, entry, path)) is not None:
            checked_entries.append((path, checked))
    return checked_entries


def _model(source: Source, model: type[M], value: object, path: FieldPath) -> M | None:
    if isinstance(value, Model) and not isinstance(value, model):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        source.explain(error, model, path)
        return None
