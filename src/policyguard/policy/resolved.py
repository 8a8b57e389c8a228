"""The flat, immutable policy that guards work with: its fingerprints, and its text as dialects show it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from policyguard.errors import ConfigurationError, PolicyError, Problem
from policyguard.outcomes import Action, Outcome
from policyguard.policy.schema import Calibration, Rule, Status, Weakening
from policyguard.strict.explain import nearest
from policyguard.strict.text import collapsed as one_line

__all__ = [
    "KEYS",
    "TEXT_VERSION",
    "ResolvedPolicy",
    "render",
    "require_rule",
]


KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

EVEN = 0.5
"""A rating of safe without scores says that p_unsafe is below this, and no more."""

TEXT_VERSION = "1"
"""Raise it with every change to what ``render`` writes: it is part of each policy's fingerprint."""
_SCOPE = 'What a rule lists under "May show" is excused from that rule only, and only what it describes.'


def render(policy: ResolvedPolicy) -> str:
    """Title, description and rules, keyed A to Z in order. Every text is put on one line of its own.

    One line each, so that a text cannot pass for a rule or a heading.
    """
    head = [f"Policy: {policy.title}"]
    if policy.description:
        head.append(one_line(policy.description))
    if any(rule.safe and rule.status is Status.ACTIVE for rule in policy.rules):
        head.append(_SCOPE)
    rules = ("\n".join(_rule(key, rule)) for key, rule in zip(KEYS, policy.rules, strict=False))
    return "\n\n".join(["\n".join(head), *rules])


def _rule(key: str, rule: Rule) -> Iterable[str]:
    yield f"{key}. {rule.title}" + (f" — {one_line(rule.description)}" if rule.description else "")
    if rule.status is Status.EXEMPT:
        yield "Declared non-violating: this rule forbids nothing."
        yield from _items("May show:", (*rule.unsafe, *rule.safe))
    elif rule.status is Status.SENSITIVE:
        yield "Declared sensitive: anything that touches this rule violates it, with no exception."
        yield from _items("Must not show:", rule.unsafe)
        yield from _items("Must not show either, although it is often allowed:", rule.safe)
    else:
        yield from _items("Must not show:", rule.unsafe)
        yield from _items("May show:", rule.safe)


def _items(heading: str, items: Iterable[str]) -> Iterable[str]:
    lines = [f"- {item}" for item in items]
    return [heading, *lines] if lines else []


_SEEN = ("id", "title", "description", "unsafe", "safe", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPolicy:
    """A policy ready for use; ``Policy.resolve`` makes it.

    It can be compared, hashed, copied and sent to another process.

    Attributes:
        threshold: P(unsafe) in (0, 1] from which an image violates, calibrated where there is a calibration.
        action: what a violating rule without an action of its own does.
        outcomes: the action for every outcome but ``VIOLATES``, whose action the rules give.
        weakenings: changes that can loosen or reword what a base forbids, with the reason for each.
        parameters: the values filled into the texts, and so part of ``fingerprint``.
        text: the policy in plain language, rules keyed A, B, ... in order.
        keys: key letter -> rule id. Every rule has one, exempt rules too: status does not move letters.
        fingerprint: SHA-256, in hex, of what the model sees and of nothing else: world, title, description,
            and the rules in order, each with id, title, description, unsafe, safe and status.
        decision_fingerprint: SHA-256, in hex, of what turns scores into actions: thresholds, actions,
            outcomes, undecided band, label floor, frames and, where there are any, signals, a calibration,
            and that ratings may stand in for scores.
    """

    id: str
    version: str
    title: str
    description: str
    world: str | None
    rules: tuple[Rule, ...]
    threshold: float
    action: Action
    undecided_band: tuple[float, float] | None
    min_label_mass: float
    frames: Literal["all", "sample"]
    outcomes: Mapping[Outcome, Action]
    without_scores: Literal["refuse", "ratings"] = "refuse"
    calibration: Calibration | None = None
    weakenings: tuple[Weakening, ...] = field(default=(), compare=False, repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    text: str = field(init=False, repr=False)
    keys: Mapping[str, str] = field(init=False, repr=False)
    fingerprint: str = field(init=False)
    decision_fingerprint: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._require_sound()
        rules = [rule.id for rule in self.rules]
        derived: dict[str, object] = {
            "outcomes": MappingProxyType(dict(self.outcomes)),
            "parameters": MappingProxyType(dict(self.parameters)),
            "keys": MappingProxyType(dict(zip(KEYS, rules, strict=False))),
            "text": render(self),
            "fingerprint": _digest("policy", self._seen()),
            "decision_fingerprint": _digest("decision", self._decided()),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _require_sound(self) -> None:
        """``dataclasses.replace`` must not bend what the schema has checked. Raises PolicyError."""
        decided = {outcome for outcome in Outcome if outcome is not Outcome.VIOLATES}
        sound = {
            "threshold": isinstance(self.threshold, (int, float)) and 0.0 < self.threshold <= 1.0,
            "min_label_mass": 0.0 <= self.min_label_mass <= 1.0,
            "action": isinstance(self.action, Action),
            "rules": bool(self.rules),
            "outcomes": set(self.outcomes) == decided
            and all(isinstance(action, Action) for action in self.outcomes.values()),
        }
        if wrong := [name for name, holds in sound.items() if not holds]:
            raise PolicyError([Problem("not a value that a policy may have", self.id, field=wrong[0])])

    def __hash__(self) -> int:
        return hash((self.id, self.version, self.fingerprint, self.decision_fingerprint))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _rebuild, (values | {"outcomes": dict(self.outcomes), "parameters": dict(self.parameters)},)

    def calibrated(self, score: float) -> float:
        """What a model's own score counts as."""
        return score if self.calibration is None else self.calibration.apply(score)

    def raw(self, score: float) -> float:
        """The model's own score that counts as ``score``: the same, where the policy holds no calibration."""
        if self.calibration is None:
            return score
        return self.calibration.undo(score) * (1.0 - 1e-12)  # rounding must not put it above

    @property
    def decisive_score(self) -> float:
        """The lowest p_unsafe of a model that can make a difference: below it nothing is reached."""
        marks = [self.threshold, *(rule.threshold for rule in self.rules if rule.threshold is not None)]
        return self.raw(min(marks if self.undecided_band is None else [*marks, self.undecided_band[0]]))

    @property
    def needs_scores(self) -> bool:
        """Whether a mere rating cannot decide: scores below 0.5 make a difference, and none may stand in."""
        return self.decisive_score < EVEN and self.without_scores == "refuse"

    @property
    def strict_rules(self) -> tuple[str, ...]:
        """Ids of the rules with a threshold of their own below 0.5, which *safe* does not rule out."""
        return tuple(
            rule.id
            for rule in self.rules
            if rule.status != "exempt" and rule.threshold is not None and self.raw(rule.threshold) < EVEN
        )

    def rule(self, rule_id: str) -> Rule:
        """The rule of this id. Raises PolicyError, with the nearest id, if there is none."""
        for rule in self.rules:
            if rule.id == rule_id:
                return rule
        meant = nearest(rule_id, [rule.id for rule in self.rules])
        known = f"did you mean {meant!r}?" if meant else f"it has {', '.join(rule.id for rule in self.rules)}"
        raise PolicyError([Problem(f"there is no rule {rule_id!r}: {known}", self.id)])

    def with_rule_status(self, rule_id: str, status: Status) -> ResolvedPolicy:
        """A copy in which one rule has another status. Raises PolicyError for an unknown rule."""
        changed = self.rule(rule_id)
        values = {name: getattr(changed, name) for name in Rule.model_fields}
        rule = Rule(**values | {"status": status})
        return replace(self, rules=tuple(rule if old is changed else old for old in self.rules))

    def _seen(self) -> object:
        rules = [{name: getattr(rule, name) for name in _SEEN} for rule in self.rules]
        return {"world": self.world, "title": self.title, "description": self.description, "rules": rules}

    def _decided(self) -> object:
        # Left out where it is "refuse", which is how policies of before it existed are decided.
        allowed: dict[str, object] = (
            {} if self.without_scores == "refuse" else {"without_scores": self.without_scores}
        )
        if self.calibration is not None:
            seen = ("model", "policy", "slope", "intercept")
            allowed["calibration"] = {name: getattr(self.calibration, name) for name in seen}
        signals = {rule.id: rule.signals for rule in self.rules if rule.signals}
        return (allowed | {"signals": signals} if signals else allowed) | {
            "threshold": self.threshold,
            "action": self.action,
            "rules": [[rule.id, rule.threshold, rule.action] for rule in self.rules],
            "outcomes": {outcome.value: action for outcome, action in self.outcomes.items()},
            "undecided_band": self.undecided_band,
            "min_label_mass": self.min_label_mass,
            "frames": self.frames,
        }


def require_rule(policies: Sequence[ResolvedPolicy], rule_id: str, owner: str) -> None:
    """Raises ConfigurationError unless one of ``policies`` has the rule, and it forbids something there."""
    known = {rule.id: rule for policy in policies for rule in policy.rules}
    forbidding = [r.id for policy in policies for r in policy.rules if r.status is not Status.EXEMPT]
    if rule_id in forbidding:
        return
    names = " and ".join(f"'{policy.id}'" for policy in policies)
    if rule_id in known:
        raise ConfigurationError(f"{owner}: rule '{rule_id}' of {names} is exempt, so nothing violates it")
    meant = nearest(rule_id, forbidding)
    raise ConfigurationError(
        f"{owner}: there is no rule '{rule_id}' in {names}",
        hint=f"did you mean '{meant}'?" if meant else f"it has {', '.join(forbidding)}",
    )


def _rebuild(values: dict[str, Any]) -> ResolvedPolicy:
    return ResolvedPolicy(**values)


def _digest(domain: str, value: object) -> str:
    """SHA-256 of canonical JSON, tagged with what it is about, so that no two kinds of value collide."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    tag = f"policyguard/{domain}/text-{TEXT_VERSION}\n" if domain == "policy" else f"policyguard/{domain}/1\n"
    return hashlib.sha256(tag.encode() + canonical.encode()).hexdigest()
