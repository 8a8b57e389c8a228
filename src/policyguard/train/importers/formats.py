"""The formats that can be imported: what a row of each data set means.

Column names, label strings and category names are those of the published data sets. Policies are ours: the
words of a row's own policy are not kept, only what they declare. A row that cannot be read is a ``Problem``
with its place, and reading goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from policyguard.policy import ResolvedPolicy
from policyguard.strict.explain import not_one_of
from policyguard.strict.tables import BadRowError, Record, first_of, label_of, text_of
from policyguard.train.data import Label
from policyguard.train.importers.images import ImageStore
from policyguard.train.importers.llavaguard import LlavaGuard
from policyguard.train.importers.record import Draft, rule_named

__all__ = ["FORMATS", "Format", "Reader"]

SAFE_UNSAFE: dict[str, Label] = {"safe": "safe", "unsafe": "unsafe"}
_UNSAFEBENCH_NAMES = {"adult": "sexual", "self harm": "self-harm", "illegal": "illegal-activity"}
_EDITED = "_edited"
_FLAGS = {"true": True, "false": False, "yes": True, "no": False}
Policies = Callable[[str], ResolvedPolicy]
Reader = Callable[[Record], Draft]


@dataclass(frozen=True, slots=True)
class Format:
    """``source``, ``licence``: what the rows say by default. ``policy``: the default."""

    source: str | None
    licence: str | None
    policy: str | None
    reader: Callable[[str, Policies, ImageStore], Reader]


def _llavaguard(policy: str, policies: Policies, store: ImageStore) -> Reader:
    return LlavaGuard(policy, policies(policy), store).read


def _unsafebench(policy: str, policies: Policies, store: ImageStore) -> Reader:
    resolved = policies(policy)

    def read(record: Record) -> Draft:
        _, image = first_of(record, "image", "image_path", "file_name")
        category = text_of(record, "category")
        if category is not None:
            name = _UNSAFEBENCH_NAMES.get(category.lower(), category)
            category = rule_named(resolved, name, field="category")
        label = label_of("safety_label", record.fields.get("safety_label"), SAFE_UNSAFE)
        part = text_of(record, "source")
        source = None if part is None else f"UnsafeBench ({part[:100]})"
        return Draft(image, policy, resolved, label, category=category, source=source)

    return read


def _safeedit(policy: str, policies: Policies, store: ImageStore) -> Reader:
    def read(record: Record) -> Draft:
        _, image = first_of(record, "image", "image_path", "file_name")
        name = policy
        if not name:
            level = (text_of(record, "policy_level", "policy_name") or "").removeprefix("Policy ")
            if level.upper() not in ("L1", "L2", "L3", "L4", "L5"):
                raise BadRowError("policy_level", not_one_of(level or None, ["L1", "L2", "L3", "L4", "L5"]))
            name = f"safeedit/{level.lower()}"
        resolved = policies(name)
        label = label_of("safety_label", record.fields.get("safety_label"), SAFE_UNSAFE)
        category = text_of(record, "category")
        if category is not None:
            category = rule_named(resolved, category, field="category")
        path = text_of(record, "image_path", "file_name") or (
            str(image.get("path") or "") if isinstance(image, dict) else ""
        )
        stem = Path(path).stem.removesuffix(_EDITED)
        pair = text_of(record, "pair_id") or (f"safeedit/{stem}" if stem else None)
        return Draft(image, name, resolved, label, category=category, pair_id=pair)

    return read


def _folder(policy: str, policies: Policies, store: ImageStore) -> Reader:
    resolved = policies(policy)

    def read(record: Record) -> Draft:
        _, image = first_of(record, "path", "image", "file_name")
        label = label_of("label", record.fields.get("label"), SAFE_UNSAFE)
        category = text_of(record, "category")
        if category is not None:
            category = rule_named(resolved, category, field="category")
        names = text_of(record, "violations")
        violations = None if names is None else _rules_of(names, resolved)
        complete = text_of(record, "complete")
        return Draft(
            image,
            policy,
            resolved,
            label,
            category=category,
            violations=violations,
            complete=None if complete is None else _flag("complete", complete),
            rationale=text_of(record, "rationale"),
        )

    return read


def _rules_of(names: str, policy: ResolvedPolicy) -> tuple[str, ...]:
    parts = filter(None, (name.strip() for name in names.split(";")))
    return tuple(dict.fromkeys(rule_named(policy, name, field="violations") for name in parts))


def _flag(field: str, text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise BadRowError(field, not_one_of(text, [*_FLAGS]))
    return _FLAGS[text.lower()]


FORMATS: dict[str, Format] = {
    "llavaguard": Format(
        "LlavaGuard (AIML-TUDA/LlavaGuard)",
        "see the card of AIML-TUDA/LlavaGuard; images have terms of their own",
        "llavaguard/default",
        _llavaguard,
    ),
    "unsafebench": Format(
        "UnsafeBench (yiting/UnsafeBench)",
        "see the card of yiting/UnsafeBench; images have terms of their own",
        "unsafebench/default",
        _unsafebench,
    ),
    "safeedit": Format(
        "SafeEditBench (tyodd/SafeEditBench)",
        "see the card of tyodd/SafeEditBench; images have terms of their own",
        "",
        _safeedit,
    ),
    "folder": Format(None, None, None, _folder),
}
