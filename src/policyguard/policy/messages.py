"""What is wrong with a policy, in words its author can act on: what was expected, found, and meant.

Checks plain values against the schema, and finds everything that is wrong in one go, with its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policyguard.errors import Problem
from policyguard.outcomes import Outcome
from policyguard.policy.layer import LAYER_FIELDS, Drop, Items, LayerRule, Move, Override
from policyguard.policy.policy import Policy
from policyguard.policy.schema import MAX_RULES, Defaults, Rule
from policyguard.strict.documents import MAX_PROBLEMS, Node
from policyguard.strict.explain import nearest

__all__ = [
    "FieldPath",
    "capped",
    "check_plain",
    "describe",
    "explain",
    "explain_at",
    "meant",
    "problem_at",
]


FieldPath = tuple[str | int, ...]
_FIELDS: dict[str, tuple[str, ...]] = {
    "policy": tuple(dict.fromkeys((*Policy.model_fields, *LAYER_FIELDS))),
    "rule": tuple(Rule.model_fields),
    "layer rule": tuple(LayerRule.model_fields),
    "override": tuple(Override.model_fields),
    "items": tuple(Items.model_fields),
    "move": tuple(Move.model_fields),
    "drop": tuple(Drop.model_fields),
    "defaults": tuple(Defaults.model_fields),
}
_HOMES = {"policy": "at the top level", "rule": "in a rule", "defaults": "under `defaults:`"}
_SYNONYMS = {
    "on": "outcomes",
    "name": "title",
    "text": "description",
    "categories": "rules",
    "policies": "rules",
    "forbidden": "unsafe",
    "disallowed": "unsafe",
    "should_not": "unsafe",
    "must_not": "unsafe",
    "must_not_show": "unsafe",
    "allowed": "safe",
    "exceptions": "safe",
    "can": "safe",
    "may": "safe",
    "may_show": "safe",
    "author": "owner",
    "references": "sources",
    "extend": "extends",
    "include": "extends",
    "includes": "extends",
    "import": "extends",
    "override": "overrides",
    "remove": "drop",
    "reason": "weakens",
    "params": "parameters",
    "variables": "parameters",
}
_EXAMPLES = {
    "id": "id: house-rules",
    "version": "version: 1.0.0",
    "title": "title: a short name for people",
    "rules": "rules:` with at least one rule under `- id:",
}
_TYPES = {
    "string_type": "text",
    "float_type": "a number",
    "finite_number": "a number",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "not_a_pair": "two numbers such as [0.4, 0.6]",
}
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def meant(path: FieldPath, *, level: str | None = None) -> str | None:
    """The field that the unknown key at the end of ``path`` was meant to be."""
    key, fields = str(path[-1]).lower().replace("-", "_"), _FIELDS[level or _level(path)]
    synonym = _SYNONYMS.get(key)
    return synonym if synonym in fields else nearest(key, fields)


def describe(item: ErrorDetails, data: object, *, level: str | None = None) -> str:
    """One of pydantic's errors in our words. ``data`` is the whole policy's plain values."""
    kind, path, given, context = item["type"], item["loc"], item["input"], item.get("ctx", {})
    field = path[-1] if path else None
    if kind == "extra_forbidden":
        return _unknown_key(path, level or _level(path))
    if kind == "missing":
        return _missing(path, data)
    if kind in ("enum", "literal_error"):
        words = re.findall(r"'([^']+)'", str(context["expected"]))
        settable = [outcome.value for outcome in Outcome if not outcome.judged]
        return _not_one_of(given, settable if field == "[key]" else words)
    if kind in _TYPES:
        expected = "three numbers such as 1.0.0" if field == "version" else _TYPES[kind]
        return f"expected {expected}, found {_seen(given)}{_remedy(kind, given, field)}"
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind]} {next(iter(context.values())):g}, found {_seen(given)}"
    if kind == "string_unicode":
        return "holds half of a character (a lone surrogate), which is refused"
    if kind == "not_a_list":
        return f"expected a list, found {_seen(given)}{_list_remedy(given, field)}"
    if kind == "string_pattern_mismatch":
        return _bad_pattern(field, str(given))
    if field == "rules" and kind == "too_short":
        return "needs at least one rule"
    if field == "rules" and kind == "too_long":
        return (
            f"{len(given)} rules are more than one policy can hold ({MAX_RULES}): split it into two policies"
        )
    if kind in ("too_long", "string_too_long"):
        unit = "characters" if isinstance(given, str) else "items"
        return f"is too long: at most {context['max_length']} {unit}"
    return item["msg"]


def _level(path: FieldPath) -> str:
    if len(path) < 2:
        return "policy"
    if path[0] == "overrides" and len(path) > 3:
        return "move" if path[2] == "move" else "items"
    levels = {"rules": "rule", "replace": "layer rule", "overrides": "override"}
    return levels.get(str(path[0])) or (str(path[0]) if path[0] in _FIELDS else "policy")


def _unknown_key(path: FieldPath, level: str) -> str:
    key = str(path[-1])[:64]
    elsewhere = [home for other, home in _HOMES.items() if other != level and key in _FIELDS[other]]
    said = f"unknown key {key!r}"
    if elsewhere:
        return f"{said}: it belongs {' or '.join(elsewhere)}"
    if field := meant(path, level=level):
        return f"{said}: did you mean `{field}:`?"
    return f"{said}: known here are {', '.join(_FIELDS[level])}"


def _missing(path: FieldPath, data: object) -> str:
    key = str(path[-1])
    if key == "id" and len(path) == 3:
        index = int(path[1])
        if path[0] == "drop":
            return "is missing: add `id:` with the id of the rule that is dropped"
        return f"rule {index + 1} has no id: add `id: {_slug(data, path[0], index)}`"
    return f"is missing: add `{_EXAMPLES.get(key, key + ':')}`"


def _slug(data: object, section: str | int, index: int) -> str:
    try:
        title = data[section][index]["title"]  # type: ignore[index]
    except (LookupError, TypeError):
        title = ""
    words = re.findall(r"[a-z0-9]+", str(title)[:200].lower())[:4]
    return "-".join(words)[:64] or f"rule-{index + 1}"


def _remedy(kind: str, given: object, field: object) -> str:
    if kind != "string_type" or field == "version":
        return ""
    if given is None:
        return ": write one" if field in ("id", "title") else ": write one, or delete the line"
    if isinstance(given, Mapping):
        return ": put the whole text in quotes, because of the `: ` in it"
    return ": put it in quotes"


def _list_remedy(given: object, field: object) -> str:
    if given is None:
        return ": add items, or delete the line"
    if field == "rules" and isinstance(given, Mapping):
        return ": start each rule with `- id:`"
    return ": start each item with `- ` on a line of its own"


def _not_one_of(given: object, words: list[str]) -> str:
    said = f"expected {', '.join(words[:-1])} or {words[-1]}, found {_seen(given)}"
    word = nearest(given, words) if isinstance(given, str) else None
    return f"{said}: did you mean {word}?" if word else said


def _bad_pattern(field: object, given: str) -> str:
    if field == "version":
        return f"{_short(given)} is not a version: write three numbers, such as 1.0.0"
    words = "-".join(re.findall(r"[a-z0-9_]+", given[:200].lower()))[:64].strip("-_")
    example = f", such as {words}" if words else ""
    return f"{_short(given)} is not a name for programs: use a-z, 0-9, - and _{example}"


def _seen(value: object) -> str:
    """Say what was found, in YAML's words, shortened and without unprintable characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {_short(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def check_plain(data: object, file: str, root: Node | None, problems: list[Problem]) -> Policy | None:
    """A Policy from plain values that extend nothing; what is wrong is added to ``problems``."""
    policy, found = _check(data, file, root)
    problems.extend(found)
    return policy


def explain(error: ValidationError, *, file: str) -> list[Problem]:
    """Pydantic's errors about a model that was built by hand."""
    level = {"Rule": "rule", "Defaults": "defaults"}.get(error.title)
    return capped([_problem(item, None, file, None, level=level) for item in _details(error)])


def explain_at(
    error: ValidationError, prefix: FieldPath, data: object, file: str, root: Node | None
) -> list[Problem]:
    """Pydantic's errors about one part of a file, which stands at ``prefix``."""
    details = [ErrorDetails(**item | {"loc": (*prefix, *item["loc"])}) for item in _details(error)]
    return [_problem(item, data, file, root) for item in _told_once(details)]


def _check(data: object, file: str, root: Node | None) -> tuple[Policy | None, list[Problem]]:
    problems = [
        problem_at(path, f"the id '{rule_id}' is taken by rule {first + 1}: ids are unique", file, root)
        for path, rule_id, first in _repeated_ids(data)
    ]
    try:
        return Policy.model_validate(data), problems
    except ValidationError as error:
        details = [item for item in _details(error) if item["type"] != "duplicate_rule"]
    problems.extend(_problem(item, data, file, root) for item in _told_once(details))
    return None, problems


def _told_once(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """`idd: weapons` is one mistake, not an unknown key and a missing id."""
    unknown = [item["loc"] for item in details if item["type"] == "extra_forbidden"]
    misspelt = {(*path[:-1], meant(path)) for path in unknown}
    return [item for item in details if item["type"] != "missing" or item["loc"] not in misspelt]


def _repeated_ids(data: object) -> list[tuple[FieldPath, str, int]]:
    """Found on the plain values, so that they are reported beside other errors; the schema checks again."""
    rules = data.get("rules") if isinstance(data, Mapping) else None
    first: dict[str, int] = {}
    repeated: list[tuple[FieldPath, str, int]] = []
    for index, rule in enumerate(rules if isinstance(rules, (list, tuple)) else ()):
        rule_id = rule.get("id") if isinstance(rule, Mapping) else getattr(rule, "id", None)
        if isinstance(rule_id, str) and first.setdefault(rule_id, index) != index:
            repeated.append((("rules", index, "id"), rule_id[:80], first[rule_id]))
    return repeated[:MAX_PROBLEMS]


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False)[: MAX_PROBLEMS * 2]


def capped(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem("and more: mend these first", problems[0].file)]


def _problem(
    item: ErrorDetails, data: object, file: str, root: Node | None, *, level: str | None = None
) -> Problem:
    path = item["loc"]
    at_key = item["type"] == "extra_forbidden" or path[-1:] == ("[key]",)  # pydantic's mark for a dict's key
    message = describe(item, data, level=level)
    return problem_at(path[:-1] if path[-1:] == ("[key]",) else path, message, file, root, key=at_key)


def problem_at(path: FieldPath, message: str, file: str, root: Node | None, *, key: bool = False) -> Problem:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path)
    shown = "".join(steps).lstrip(".")
    shown = shown if shown.isprintable() else ascii(shown)
    if root is None:
        return Problem(message, file, field=shown or None)
    return Problem(message, file, *root.locate(path, key=key), field=shown or None)
