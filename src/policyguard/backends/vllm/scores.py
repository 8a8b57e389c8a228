"""From label probabilities to an assessment's scores; pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from policyguard.assessment import Assessment, Rating

if TYPE_CHECKING:
    from policyguard.dialects import Prompt
    from policyguard.policy import ResolvedPolicy

__all__ = ["LabelScores", "rate", "with_rules", "without_rules"]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Label -> probability over the whole vocabulary, for the labels that the server listed.

    ``ceiling`` is the most that a label which is not listed can have; 0 when all were asked for.
    """

    probabilities: Mapping[str, float]
    ceiling: float = 0.0


def rate(prompt: Prompt, policy: ResolvedPolicy, scores: LabelScores) -> Assessment:
    """The assessment that the rating position gives; rules are not read yet.

    UNDECIDED without a score when neither safe nor unsafe has any probability, and when unsafe is not
    listed and could still have enough for a violation.
    """
    share = dict.fromkeys(Rating, 0.0)
    for label, rating in prompt.ratings.items():
        share[rating] += scores.probabilities.get(label, 0.0)
    total = sum(share.values())
    mass, undecided = min(1.0, total), share[Rating.UNDECIDED] / total if total > 0.0 else 0.0
    judged = share[Rating.SAFE] + share[Rating.UNSAFE]
    if judged <= 0.0:
        said = "answers that it cannot decide" if total > 0.0 else "gives its labels no probability"
        return Assessment(Rating.UNDECIDED, None, mass, undecided, notes=(f"the model {said}",))
    notes: tuple[str, ...] = ()
    most = 0.0
    if scores.ceiling > 0.0 and prompt.label(Rating.UNSAFE) not in scores.probabilities:
        most = scores.ceiling / (judged + scores.ceiling)
        if most >= policy.decisive_score:
            note = f"the server lists too few tokens to exclude a score of {most:.2f}"
            return Assessment(Rating.UNDECIDED, None, mass, undecided, notes=(note,))
        notes = (f"the server does not list the label unsafe: it counts as 0 and is at most {most:.3f}",)
    return Assessment(
        # On a tie the graver rating stands.
        max((Rating.UNSAFE, Rating.UNDECIDED, Rating.SAFE), key=lambda rating: share[rating]),
        share[Rating.UNSAFE] / judged,
        mass,
        undecided,
        notes=notes,
        blind_below=most,
    )


def without_rules(found: Assessment, policy: ResolvedPolicy, why: str) -> Assessment:
    """For when rules were not asked for, because they cannot change the decision.

    Rules with thresholds of their own need scores to decide; a joint one is at most p_unsafe, so that zeros
    decide as the real ones would.
    """
    if found.p_unsafe is None or all(rule.threshold is None for rule in policy.rules):
        return found
    zeros = dict.fromkeys((rule.id for rule in policy.rules), 0.0)
    return replace(found, rule_scores=zeros, notes=(*found.notes, f"rule scores were not read: {why}"))


def with_rules(found: Assessment, prompt: Prompt, policy: ResolvedPolicy, scores: LabelScores) -> Assessment:
    """Adds P(rule | unsafe), normalised over the policy's rules, and the category of an unsafe picture.

    Rule scores stay None, which decides as an ERROR where rules have thresholds of their own, when no rule
    has any probability, and when an unlisted one could reach its threshold. Otherwise every rule has
    a score.
    """
    by_rule: dict[str, float] = {}
    for label, probability in scores.probabilities.items():
        rule = prompt.categories[label]
        by_rule[rule] = by_rule.get(rule, 0.0) + probability
    total, p_unsafe = sum(by_rule.values()), found.p_unsafe
    found = replace(found, category_mass=min(1.0, total))
    if total <= 0.0 or p_unsafe is None:
        return replace(found, notes=(*found.notes, "the model names no rule of the policy"))
    if found.rating is Rating.UNSAFE:
        found = replace(found, category=max(by_rule, key=lambda rule: by_rule[rule]))
    most = scores.ceiling / (total + scores.ceiling)
    unlisted = [rule for rule in policy.rules if rule.id not in by_rule and rule.status != "exempt"]
    if any(rule.threshold is not None and p_unsafe * most >= rule.threshold for rule in unlisted):
        return replace(found, notes=(*found.notes, "the server lists too few tokens to read all rules"))
    # Shares err on the side of the violation: listed active rules get the most that they can have, exempt
    # ones, which lower the score, the least, and the unlisted ones what is left.
    exempt = {rule.id for rule in policy.rules if rule.status == "exempt"}
    whole = total + len(unlisted) * scores.ceiling
    shares = {rule: p / (whole if rule in exempt else total) for rule, p in by_rule.items()}
    left = max(0.0, 1.0 - sum(shares.values()))
    others = {rule.id: min(most, left / len(unlisted)) for rule in unlisted}
    blind = max(found.blind_below, p_unsafe * most if unlisted else 0.0)
    return replace(found, rule_scores=dict.fromkeys(exempt, 0.0) | others | shares, blind_below=blind)
