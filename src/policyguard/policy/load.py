"""Loads policies from YAML: one file, or one that builds on others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policyguard.policy.document import Document, parse
from policyguard.policy.files import Named, find
from policyguard.policy.files import locate as _locate
from policyguard.policy.parameters import Value
from policyguard.policy.schema import Policy
from policyguard.policy.stack import extended, from_values, load

__all__ = ["extend_policy", "load_policy", "locate", "parse_policy", "read_document"]


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
    return load(_locate(source, root=root), parameters=parameters)


def parse_policy(
    data: Mapping[str, Any],
    *,
    root: str | Path | None = None,
    parameters: Mapping[str, Value] | None = None,
) -> Policy:
    """A policy from plain values, shaped as in the file.

    What they extend is packaged or installed, or lies under ``root``. Raises PolicyError, which holds every
    problem found.
    """
    return from_values(data, root=None if root is None else str(root), parameters=parameters)


def extend_policy(
    base: Policy, layer: Mapping[str, Any], *, parameters: Mapping[str, Value] | None = None
) -> Policy:
    """``base`` with one layer on top: plain values, shaped as a file that extends it, without ``extends``.

    Raises PolicyError, also for a change that can loosen ``base`` and gives no reason.
    """
    return extended(base, layer, parameters=parameters)


def locate(source: str | Path) -> Path:
    """The file that ``source`` names; see ``load_policy``. A path need not exist."""
    return _locate(source).path


def read_document(path: Path) -> Document:
    """The YAML tree of one file, with positions. Raises PolicyError."""
    found = find(Named(path))
    return parse(found.data, found.display)
