"""The algebra of policies: what a file does to the policies it extends. docs/policies.md has the table.

Pure: from checked layers and flat bases to a flat policy, without a look at any file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from policyguard.policy.layer import Override
from policyguard.policy.loosening import Change, loosening
from policyguard.policy.merge import Flat, Merged, merge, rebuilt
from policyguard.policy.policy import Policy
from policyguard.policy.schema import Defaults, Origin, Rule, Weakening
from policyguard.policy.source import Layer, Source
from policyguard.strict.explain import FieldPath, nearest
from policyguard.strict.text import quoted, visible

__all__ = ["apply", "flat"]

_SHOWN = 8  # items of a list in a message
_LISTS = ("unsafe", "safe", "signals")
_ASK = 'this can loosen or reword what the base forbids: say why with `weakens: "<reason>"`'


def flat(policy: Policy, source: Source) -> Flat:
    """A policy that extends nothing, with where its parts stand."""
    origins: dict[str, Origin] = {}
    for name in ("id", "version", "title", "description", "world", "owner", "licence", "sources"):
        if name in policy.model_fields_set:
            origins[name] = _origin(source, (name,))
    origins |= _settings(source)
    for index, rule in enumerate(policy.rules):
        origins |= _rule_origins(source, ("rules", index), rule)
    return Flat(policy, (policy.description,) if policy.description else (), origins)


def apply(layer: Layer, bases: Sequence[Flat], changed: Mapping[str, str]) -> Flat | None:
    """``layer`` on top of ``bases``, at least one.

    ``changed``: parameters of the bases that the layer sets anew, with what changes. What is wrong goes to
    ``layer.source.problems``; ``None`` if there is no policy then.
    """
    return _Application(layer, merge(bases)).run(bases, changed)


class _Application:
    def __init__(self, layer: Layer, merged: Merged) -> None:
        self.layer, self.source, self.head = layer, layer.source, layer.head
        self.merged = merged
        self.rules = {rule.id: rule for rule in merged.policy.rules}
        self.known = frozenset(self.rules)
        self.origins = merged.origins
        self.weakenings = list(merged.weakenings)

    def run(self, bases: Sequence[Flat], changed: Mapping[str, str]) -> Flat | None:
        before = self.merged.policy
        self._check_ids()
        self._check_bases(bases)
        for path, override in (
            (path, o) for path, _, o in self.layer.overrides if str(path[1]) in self.rules
        ):
            self._override(path, override)
        for path, entry in self.layer.replace:
            if entry.id in self.rules:
                self._put(path, entry.rule())
        for path, entry in self.layer.rules:
            if entry.id not in self.rules:
                self._put(path, entry.rule())
        dropped = {entry.id for _, entry in self.layer.drop}
        self.rules = {rule_id: rule for rule_id, rule in self.rules.items() if rule_id not in dropped}
        pieces = tuple(dict.fromkeys((*self.merged.pieces, self.head.description)))
        pieces = tuple(piece for piece in pieces if piece)
        after = rebuilt(before, **self._head_values(pieces), rules=tuple(self.rules.values()))
        for gone in [p for p in self.origins if p.startswith("rules.") and p.split(".")[1] not in self.rules]:
            del self.origins[gone]
        self._settle(loosening(before, after), changed)
        policy = self._valid(after)
        return None if policy is None else Flat(policy, pieces, self.origins, tuple(self.weakenings))

    # Which rules are meant.

    def _check_ids(self) -> None:
        taken: dict[str, FieldPath] = {}
        for path, rule_id in self._named():
            place: FieldPath = path if path[0] == "overrides" else (*path, "id")
            if rule_id in taken:
                message = (
                    f"the rule '{rule_id}' is changed under `{taken[rule_id][0]}:` already: do one of the two"
                )
                self.source.report(place, message)
            elif rule_id not in self.rules:
                self.source.report(place, _unknown(rule_id, self.rules), key=path[0] == "overrides")
            taken.setdefault(rule_id, path)
        for path, entry in self.layer.rules:
            if entry.id in self.rules:
                message = (
                    f"the id '{entry.id}' is taken by a rule of {_file(self.origins[f'rules.{entry.id}'])}: "
                    "change it under `overrides:`, or give it a new body under `replace:`"
                )
                self.source.report((*path, "id"), message)

    def _named(self) -> Iterable[tuple[FieldPath, str]]:
        yield from ((path, rule_id) for path, rule_id, _ in self.layer.overrides)
        yield from ((path, entry.id) for path, entry in self.layer.replace)
        yield from ((path, entry.id) for path, entry in self.layer.drop)

    def _check_bases(self, bases: Sequence[Flat]) -> None:
        settled = {entry.id for _, entry in self.layer.replace} | {entry.id for _, entry in self.layer.drop}
        for rule_id, (one, other) in self.merged.conflicts.items():
            if rule_id not in settled:
                message = (
                    f"'{one}' and '{other}' define the rule '{rule_id}' differently, and neither is stricter"
                )
                self.source.report(("extends",), f"{message}: settle it here, under `replace:` or `drop:`")
        worlds = [f"{world}" if world else "every kind of image" for world in self.merged.worlds]
        if len(worlds) > 1:
            message = (
                f"the bases are about different worlds, {' and '.join(worlds)}: their rules cannot be mixed"
            )
            self.source.report(("extends",), message)
        elif "world" in self.head.model_fields_set and self.head.world != self.merged.worlds[0]:
            self.source.report(
                ("world",), f"cannot be changed: what is extended is about {worlds[0]}; delete the line"
            )
        for base in bases if len(bases) > 1 else ():
            for change in loosening(base.policy, self.merged.policy):
                if change.rule not in self.merged.conflicts:
                    message = f"beside the other bases, '{base.policy.id}' is loosened: {change}"
                    self._reason(self.head.weakens, ("extends",), "extends", message)

    # What changes.

    def _override(self, path: FieldPath, override: Override) -> None:
        rule = self.rules[str(path[1])]
        values: dict[str, Any] = {name: getattr(rule, name) for name in Rule.model_fields}
        changed_fields = override.model_fields_set
        origins = {
            name: [self.origins.get(_item(rule.id, name, i)) for i in range(len(values[name]))]
            for name in _LISTS
        }
        for name in ("title", "description", "status", "threshold", "action"):
            if name in changed_fields:
                values[name] = getattr(override, name)
                self.origins[f"rules.{rule.id}.{name}"] = _origin(self.source, (*path, name))
        lists = {name: dict(zip(values[name], origins[name], strict=True)) for name in _LISTS}
        for name in _LISTS:
            changes = getattr(override, name)
            for index, text in enumerate(changes.remove):
                self._take(lists[name], text, (*path, name, "remove", index), rule.id, name)
        for target, name, texts in (
            ("to_safe", "unsafe", override.move.to_safe),
            ("to_unsafe", "safe", override.move.to_unsafe),
        ):
            for index, text in enumerate(texts):
                place: FieldPath = (*path, "move", target, index)
                if self._take(lists[name], text, place, rule.id, name):
                    lists[target[3:]].setdefault(text, _origin(self.source, place))
        for name in _LISTS:
            changes = getattr(override, name)
            for index, text in enumerate(changes.add):
                lists[name].setdefault(text, _origin(self.source, (*path, name, "add", index)))
        for name in _LISTS:
            values[name] = tuple(lists[name])
            for index in range(len(origins[name])):
                self.origins.pop(_item(rule.id, name, index), None)
            for index, origin in enumerate(lists[name].values()):
                if origin is not None:
                    self.origins[_item(rule.id, name, index)] = origin
        try:
            self.rules[rule.id] = Rule.model_validate(values)
        except ValidationError as error:
            self.source.explain(error, Rule, path)

    def _take(self, items: dict[str, Any], text: str, path: FieldPath, rule_id: str, name: str) -> bool:
        if items.pop(text, self) is not self:
            return True
        close = difflib.get_close_matches(text, list(items), n=1, cutoff=0.5)
        shown = ", ".join(quoted(item, 40) for item in list(items)[:_SHOWN])
        more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
        hint = f"did you mean {close[0]!r}?" if close else f"it lists {shown or 'nothing'}{more}"
        self.source.report(path, f"'{rule_id}' does not list this under `{name}:`: {hint}")
        return False

    def _put(self, path: FieldPath, rule: Rule) -> None:
        prefix = f"rules.{rule.id}"
        for known in [p for p in self.origins if p == prefix or p.startswith(prefix + ".")]:
            del self.origins[known]
        self.rules[rule.id] = rule
        self.origins |= _rule_origins(self.source, path, rule)

    def _head_values(self, pieces: tuple[str, ...]) -> dict[str, Any]:
        head, base = self.head, self.merged.policy
        changes = {name: getattr(head.defaults, name) for name in head.defaults.model_fields_set}
        for name in ("id", "version", "title", "description", "owner", "licence", "sources"):
            if name in head.model_fields_set:
                self.origins[name] = _origin(self.source, (name,))
        self.origins |= _settings(self.source)
        if head.owner is None:
            self.origins.pop("owner", None)
        values = {name: getattr(base.defaults, name) for name in Defaults.model_fields}
        return {
            "id": head.id,
            "version": head.version,
            "title": head.title or base.title,
            "description": "\n\n".join(pieces),
            "defaults": Defaults(**values | changes),
            "outcomes": base.outcomes | head.outcomes,
            "owner": head.owner,
            "licence": head.licence or base.licence,
            "sources": tuple(dict.fromkeys((*base.sources, *head.sources))),
        }

    # Why it may.

    def _settle(self, changes: list[Change], changed: Mapping[str, str]) -> None:
        """Find a reason for each change, or report it."""
        for name, description in changed.items():
            self._reason(self.head.weakens, ("parameters", name), f"parameters.{name}", description)
        of_rule: dict[str, list[Change]] = {}
        for change in changes:
            if change.rule is None:
                section, _, name = change.field.partition(".")
                self._reason(self.head.weakens, (section, name), change.place, change.description)
            else:
                of_rule.setdefault(change.rule, []).append(change)
        for path, rule_id, override in self.layer.overrides:
            for change in of_rule.pop(rule_id, ()):
                changed_fields = [
                    name for name in (change.field, "move") if name in override.model_fields_set
                ]
                place = (*path, changed_fields[0]) if changed_fields else path
                self._reason(override.weakens, place, change.place, change.description)
        for path, entry in self.layer.replace:
            if entry.id in self.rules:
                details = "; ".join(f"{c.field}: {c.description}" for c in of_rule.pop(entry.id, ()))
                description = f"replaced ({details})" if details else "replaced"
                self._reason(entry.weakens, path, f"rules.{entry.id}", description)
        for path, dropped in self.layer.drop:
            of_rule.pop(
                dropped.id, None
            )  # one that is exempt loosens nothing, but silence is no way to drop it
            if dropped.id in self.known:
                self._reason(dropped.weakens, path, f"rules.{dropped.id}", "dropped")
        for path, entry in self.layer.rules:
            for change in of_rule.pop(entry.id, ()):
                self._reason(entry.weakens, path, change.place, change.description)

    def _reason(self, reason: str | None, path: FieldPath, place: str, description: str) -> None:
        if reason is None:
            if path[0] in ("overrides", "replace", "drop", "rules"):
                where = "beside it"
                description = (
                    f"the rule '{place.split('.')[1]}' is {description}"
                    if place.count(".") == 1
                    else description
                )
            else:
                where = "at the top level"
            self.source.report(path, f"{description}: {_ASK} {where}")
        else:
            file, line = self.source.file, self.source.line(path)
            self.weakenings.append(Weakening(self.head.id, f"{place}: {description}", reason, file, line))

    def _valid(self, policy: Policy) -> Policy | None:
        values = {name: getattr(policy, name) for name in Policy.model_fields}
        try:
            return Policy.model_validate(values)
        except ValidationError as error:
            self.source.explain(error, Policy, ())
            return None


def _settings(source: Source) -> dict[str, Origin]:
    origins = {}
    for section in ("defaults", "outcomes"):
        values = source.data.get(section)
        for name in values if isinstance(values, Mapping) else ():
            origins[f"{section}.{name}"] = _origin(source, (section, str(name)))
    return origins


def _rule_origins(source: Source, path: FieldPath, rule: Rule) -> dict[str, Origin]:
    origins = {f"rules.{rule.id}": _origin(source, path)}
    for name in rule.model_fields_set - {"id", *_LISTS}:
        origins[f"rules.{rule.id}.{name}"] = _origin(source, (*path, name))
    for name in _LISTS:
        for index in range(len(getattr(rule, name))):
            origins[_item(rule.id, name, index)] = _origin(source, (*path, name, index))
    return origins


def _item(rule_id: str, name: str, index: int) -> str:
    return f"rules.{rule_id}.{name}[{index}]"


def _origin(source: Source, path: FieldPath) -> Origin:
    return Origin(source.file, source.line(path))


def _file(origin: Origin) -> str:
    return str(origin)


def _unknown(rule_id: str, known: Iterable[str]) -> str:
    ids = list(known)
    close = nearest(rule_id, ids)
    hint = f"did you mean '{close}'?" if close else f"it has {', '.join(ids)}"
    return f"what is extended has no rule '{visible(rule_id[:80])}': {hint}"
