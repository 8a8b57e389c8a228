"""Under a symbolic reading, a layer without `weakens` never lets through what its bases block.

The reading: texts are atoms, a picture shows one atom with one score, and ``verdict.decide`` says what
happens. An active rule forbids its title, its description and its ``unsafe`` items, but for what its own
``safe`` lists; a sensitive one forbids its ``safe`` items too; what an exempt rule names is read twice, as
excused altogether (the model names the exempt rule) and as not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.deciding import decide
from policyguard.policy import Policy, ResolvedPolicy, Status
from policyguard.policy.compose import apply, flat
from policyguard.policy.loosening import loosening
from policyguard.policy.merge import Flat
from policyguard.policy.source import Source, check_layer

STACKS = 10_000
TEXTS = [f"t{i}" for i in range(6)]
RULES = ["a", "b", "c", "d"]
SCORES = (0.05, 0.2, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.9)
ACTIONS = ("allow", "flag", "block")


def forbidden(rule: Any) -> set[str]:
    texts = {rule.title, rule.description, *rule.unsafe} - {""}
    if rule.status is Status.SENSITIVE:
        return texts | set(rule.safe)
    return texts - set(rule.safe) if rule.status is Status.ACTIVE else set()


def severities(policy: ResolvedPolicy, touched: frozenset[str]) -> list[int]:
    """What happens to pictures of a text that these rules forbid, for every score and share of labels."""
    if not touched:
        return [-1] * (len(SCORES) + 3)
    seen = []
    for mass, scores in ((0.95, SCORES), (0.45, SCORES[::4])):
        for score in scores:
            of_rules = {rule.id: score if rule.id in touched else 0.0 for rule in policy.rules}
            said = Assessment(Rating.UNSAFE, score, mass, rule_scores=of_rules, scoring="per_rule")
            seen.append(decide(policy, said).action.severity)
    return seen


def observed(policy: Policy) -> list[int]:
    """The severity of what happens to every text, and to what cannot be judged; -1: no rule is about it."""
    resolved = policy.resolve()
    texts = [(rule.id, forbidden(rule)) for rule in policy.rules]
    exempt = {
        text
        for rule in policy.rules
        if rule.status is Status.EXEMPT
        for text in (rule.title, rule.description, *rule.unsafe, *rule.safe)
    }
    known: dict[frozenset[str], list[int]] = {}
    seen: list[int] = []
    for excused in (False, True):
        for text in TEXTS:
            touched = frozenset(rule_id for rule_id, names in texts if text in names)
            touched = frozenset() if excused and text in exempt else touched
            if touched not in known:
                known[touched] = severities(resolved, touched)
            seen += known[touched]
    unjudged = [decide(resolved, Failure(kind, "why")).action.severity for kind in FailureKind]
    # An animation with too many frames: unscannable, or, with `sample`, judged all the same.
    unscannable = decide(resolved, Failure(FailureKind.UNSCANNABLE, "long")).action.severity
    long = [unscannable] * len(seen) if policy.defaults.frames == "all" else seen
    return [*seen, *long, *unjudged]


# Random policies and layers, as plain values.


def maybe(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def some(rng: random.Random, most: int = 3, least: int = 0) -> list[str]:
    return rng.sample(TEXTS, rng.randint(least, most))


def rule(rng: random.Random, rule_id: str) -> dict[str, Any]:
    made: dict[str, Any] = {"id": rule_id, "title": rng.choice(TEXTS), "unsafe": some(rng, least=1)}
    if maybe(rng, 0.4):
        made["safe"] = some(rng, 2)
    if maybe(rng, 0.2):
        made["description"] = rng.choice(TEXTS)
    if maybe(rng, 0.3):
        made["status"] = rng.choice(list(Status)).value
    if maybe(rng, 0.4):
        made["threshold"] = rng.choice(THRESHOLDS)
    if maybe(rng, 0.4):
        made["action"] = rng.choice(ACTIONS)
    return made


def settings(rng: random.Random, share: float) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    if maybe(rng, share):
        defaults["threshold"] = rng.choice(THRESHOLDS)
    if maybe(rng, share):
        defaults["action"] = rng.choice(ACTIONS)
    if maybe(rng, share / 2):
        defaults["undecided_band"] = rng.choice([None, *(sorted(rng.sample(SCORES, 2)) for _ in range(3))])
    if maybe(rng, share / 2):
        defaults["min_label_mass"] = rng.choice([0.3, 0.4, 0.5, 0.9])
    if maybe(rng, share / 2):
        defaults["frames"] = rng.choice(["all", "sample"])
    outcomes = {
        name: rng.choice(ACTIONS)
        for name in ("undecided", "unscannable", "error", "refused")
        if maybe(rng, share / 2)
    }
    return {"defaults": defaults, "outcomes": outcomes}


def base(rng: random.Random) -> dict[str, Any]:
    ids = rng.sample(RULES, rng.randint(1, 3))
    rules = [rule(rng, rule_id) for rule_id in ids]
    return {"id": "base", "version": "1.0.0", "title": "B", "rules": rules} | settings(rng, 0.4)


def override(rng: random.Random, known: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if maybe(rng, 0.03):
        made["title"] = rng.choice(TEXTS)
    if maybe(rng, 0.1):
        made["description"] = rng.choice(TEXTS)
    if maybe(rng, 0.15):
        made["status"] = rng.choice(list(Status)).value
    if maybe(rng, 0.2):
        made["threshold"] = rng.choice([None, *THRESHOLDS])
    if maybe(rng, 0.2):
        made["action"] = rng.choice([None, *ACTIONS])
    for name in ("unsafe", "safe"):
        changes = {}
        if maybe(rng, 0.4 if name == "unsafe" else 0.1):
            changes["add"] = some(rng, 2, least=1)
        if maybe(rng, 0.05 if name == "unsafe" else 0.2) and getattr(known, name):
            changes["remove"] = [rng.choice(getattr(known, name))]
        if changes:
            made[name] = changes
    if maybe(rng, 0.2) and known.safe and not (made.get("safe") or {}).get("remove"):
        made["move"] = {"to_unsafe": [rng.choice(known.safe)]}
    if maybe(rng, 0.1) and known.unsafe and not (made.get("unsafe") or {}).get("remove"):
        made.setdefault("move", {})["to_safe"] = [rng.choice(known.unsafe)]
    return made


def layer(rng: random.Random, rules: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "layer", "version": "1.0.0", "title": "L"} | settings(rng, 0.1)
    known = sorted(rules)
    changed = [rule_id for rule_id in known if maybe(rng, 0.5)]
    made["overrides"] = {rule_id: override(rng, rules[rule_id]) for rule_id in changed}
    rest = [rule_id for rule_id in known if rule_id not in changed]
    if rest and maybe(rng, 0.05):
        made["drop"] = [{"id": rng.choice(rest)}]
    elif rest and maybe(rng, 0.05):
        made["replace"] = [rule(rng, rng.choice(rest))]
    made["rules"] = [rule(rng, rule_id) for rule_id in RULES if rule_id not in known and maybe(rng, 0.25)]
    return made


def made_flat(values: dict[str, Any]) -> Flat:
    source = Source("<base>", values)
    return flat(Policy.model_validate(values), source)


def on_top(values: dict[str, Any], bases: list[Flat]) -> tuple[Flat | None, Source]:
    source = Source("<layer>", values)
    checked = check_layer(source)
    assert checked is not None
    return apply(checked, bases, {}), source


def stacks(count: int) -> Iterator[tuple[random.Random, list[Flat], dict[str, Any]]]:
    for seed in range(count):
        rng = random.Random(seed)
        bases = [made_flat(base(rng)) for _ in range(1 if maybe(rng, 0.75) else 2)]
        rules = {found.id: found for one in bases for found in one.policy.rules}
        yield rng, bases, layer(rng, rules)


def softer(before: list[int], after: list[int]) -> int:
    return sum(now < was for was, now in zip(before, after, strict=True))


def test_without_weakens_no_blocked_fact_becomes_allowed() -> None:
    """10,000 random stacks of one or two bases and one to three layers."""
    loaded = refused = layers = 0
    for rng, bases, values in stacks(STACKS):
        stack, depth = bases, 0
        while True:
            result, source = on_top(values, stack)
            if result is None or source.problems:
                refused += 1
                break
            layers += 1
            assert not result.weakenings
            after = observed(result.policy)
            for one in stack:
                assert softer(observed(one.policy), after) == 0, (one.policy, values, result.policy)
            depth += 1
            if depth == 3 or maybe(rng, 0.5):
                break
            stack = [result]
            values = layer(rng, {found.id: found for found in result.policy.rules})
        loaded += depth > 0
    print(f"{STACKS} stacks: {loaded} loaded ({layers} layers), {refused} refused")
    assert loaded > STACKS / 5
    assert refused > STACKS / 5


KINDS = {
    *(f"defaults.{name}" for name in ("threshold", "action", "undecided_band", "min_label_mass", "frames")),
    *(f"outcomes.{name}" for name in ("undecided", "unscannable", "refused", "error")),
    *("title", "description", "status", "threshold", "action", "unsafe", "safe", "dropped"),
}


def test_every_kind_of_change_that_needs_a_reason_can_let_something_through() -> None:
    """So that the evaluator is known to see each kind: stacks with one such change, of which some do."""
    seen: dict[str, int] = dict.fromkeys(KINDS, 0)
    real = dict(seen)
    for _, bases, values in stacks(2_000):
        result, _ = on_top(values, bases)
        changes = [] if result is None or len(bases) > 1 else loosening(bases[0].policy, result.policy)
        if len(changes) != 1 or result is None:
            continue
        kind = changes[0].field or "dropped"
        seen[kind] += 1
        real[kind] += softer(observed(bases[0].policy), observed(result.policy)) > 0
    print(", ".join(f"{kind} {real[kind]} of {seen[kind]}" for kind in sorted(KINDS)))
    assert not [kind for kind in KINDS if not real[kind]]


def test_with_a_reason_the_same_stacks_load_and_the_reason_is_kept() -> None:
    for _, bases, values in stacks(500):
        _, refused = on_top(values, bases)
        said = [problem for problem in refused.problems if "say why with" in problem.message]
        if not said or len(said) < len(refused.problems):
            continue
        reasons = values | {"weakens": "because"}
        for section in ("rules", "replace", "drop"):
            reasons[section] = [entry | {"weakens": "because"} for entry in values.get(section, ())]
        reasons["overrides"] = {
            rule_id: changes | {"weakens": "because"} for rule_id, changes in values["overrides"].items()
        }
        result, source = on_top(reasons, bases)
        assert result is not None
        assert not source.problems
        assert len(result.weakenings) == len(said)
        assert {weakening.reason for weakening in result.weakenings} == {"because"}
