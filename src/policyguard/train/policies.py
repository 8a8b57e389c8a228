"""The policies that label rows name: files, packaged policies, and lines of ``policies.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError, PolicyError, PolicyGuardError
from policyguard.outcomes import Action
from policyguard.policy import Policy, ResolvedPolicy, load_policy, parse_policy
from policyguard.policy.files import is_path
from policyguard.policy.schema import Defaults
from policyguard.strict.files import write_lines
from policyguard.strict.jsontext import parse_json

__all__ = ["INLINE", "PolicyShelf", "document_of", "problem_of", "write_policies"]

INLINE = "policies.jsonl"
"""Beside the rows: one policy to a line, as ``{"id": ..., "policy": {...}}``; rows name it ``#id``."""


def write_policies(folder: Path, policies: Mapping[str, Policy] | Iterable[tuple[str, Policy]]) -> int:
    """Write ``folder/policies.jsonl`` in one step; rows in ``folder`` name these policies ``#id``."""
    items = policies.items() if isinstance(policies, Mapping) else policies
    return write_lines(
        folder / INLINE,
        (
            json.dumps({"id": name, "policy": policy.model_dump(mode="json", exclude_defaults=True)})
            for name, policy in items
        ),
    )


class PolicyShelf:
    """Resolves what rows in ``folder`` call their policies; each policy is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, ResolvedPolicy | PolicyGuardError] = {}
        self._inline: dict[str, Any] | None = None

    def get(self, name: str) -> ResolvedPolicy:
        """The policy called ``name``. Raises PolicyError or ConfigurationError, the same each time."""
        if name not in self._found:
            try:
                self._found[name] = self._read(name).resolve()
            except PolicyGuardError as error:
                self._found[name] = error
        policy = self._found[name]
        if isinstance(policy, PolicyGuardError):
            raise policy
        return policy

    def _read(self, name: str) -> Policy:
        if name.startswith("#"):
            lines = self._lines()
            if name[1:] not in lines:
                raise ConfigurationError(f"{self._folder / INLINE} has no policy {name[1:]!r}")
            return parse_policy(lines[name[1:]])
        return load_policy(self._folder / name if is_path(name) else name)

    def _lines(self) -> dict[str, Any]:
        if self._inline is None:
            path = self._folder / INLINE
            self._inline = {}
            try:
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    if not line.strip():
                        continue
                    entry = parse_json(line)
                    if not isinstance(entry, dict) or set(entry) != {"id", "policy"}:
                        raise ConfigurationError(f"{path}:{number}: expected an object with id and policy")
                    if not isinstance(entry["id"], str):
                        raise ConfigurationError(f"{path}:{number}: id: expected a text")
                    if entry["id"] in self._inline:
                        raise ConfigurationError(f"{path}:{number}: the id {entry['id']!r} appears twice")
                    self._inline[entry["id"]] = entry["policy"]
            except OSError as error:
                raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
            except ValueError as error:
                raise ConfigurationError(f"{path} is not JSON lines: a line {error}") from error
        return self._inline


def document_of(policy: ResolvedPolicy) -> Policy:
    """``policy`` as a document to write; read again, it shows a model the same and decides the same."""
    outcomes = {outcome: action for outcome, action in policy.outcomes.items() if not outcome.judged}
    return Policy(
        id=policy.id,
        version=policy.version,
        title=policy.title,
        description=policy.description,
        world=policy.world,
        rules=policy.rules,
        defaults=Defaults(
            threshold=policy.threshold,
            action=policy.action,
            undecided_band=policy.undecided_band,
            min_label_mass=policy.min_label_mass,
            frames=policy.frames,
            without_scores=policy.without_scores,
            calibration=policy.calibration,
        ),
        outcomes={outcome: action for outcome, action in outcomes.items() if action is not Action.BLOCK},
    )


def problem_of(error: PolicyGuardError) -> str:
    """One line for what is wrong with a policy."""
    if isinstance(error, PolicyError) and error.problems:
        return str(error.problems[0])
    return error.message
