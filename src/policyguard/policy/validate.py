"""Checks plain values against the schema, and finds everything that is wrong in one go, with its place."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policyguard.errors import Problem
from policyguard.policy.document import Document, Node
from policyguard.policy.encoding import MAX_PROBLEMS
from policyguard.policy.messages import Path, describe, meant
from policyguard.policy.schema import Policy

__all__ = ["capped", "check_plain", "explain", "explain_at", "problem_at", "validate_document"]


def validate_document(document: Document) -> Policy:
    """A Policy from a file that was read; faults of its YAML and of its contents are reported together."""
    from policyguard.policy.stack import from_document

    return from_document(document)


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
    error: ValidationError, prefix: Path, data: object, file: str, root: Node | None
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


def _repeated_ids(data: object) -> list[tuple[Path, str, int]]:
    """Found on the plain values, so that they are reported beside other errors; the schema checks again."""
    rules = data.get("rules") if isinstance(data, Mapping) else None
    first: dict[str, int] = {}
    repeated: list[tuple[Path, str, int]] = []
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


def problem_at(path: Path, message: str, file: str, root: Node | None, *, key: bool = False) -> Problem:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path)
    shown = "".join(steps).lstrip(".")
    shown = shown if shown.isprintable() else ascii(shown)
    if root is None:
        return Problem(message, file, field=shown or None)
    return Problem(message, file, *root.locate(path, key=key), field=shown or None)
