"""Several guards on the same images under one policy: where they differ, what they cost, how good they are.

Each guard judges through the machinery of ``policy diff``. Figures need labels. A rule's figures hold every
image against that rule alone: its score is read by deciding once more, with a threshold that any score
reaches, which asks a model only where the scores of its rules were not read before.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from policyguard.authoring.diff.behaviour import Judged, judge, unjudged
from policyguard.authoring.diff.structure import Head
from policyguard.backends.base import WrappingBackend
from policyguard.backends.cascade import CascadeBackend
from policyguard.cache.backend import remembering
from policyguard.errors import ConfigurationError
from policyguard.guard import Guard
from policyguard.metrics import (
    Answer,
    Figures,
    Judgement,
    Paired,
    calibration_error,
    holm,
    mcnemar,
    measure,
)
from policyguard.outcomes import Outcome
from policyguard.verdict import ImageChange, in_short

if TYPE_CHECKING:
    from policyguard.assessment import ModelIdentity
    from policyguard.authoring.labels import Label, Labels
    from policyguard.backends.base import Backend
    from policyguard.backends.stats import GuardStats
    from policyguard.policy.policy import Policy
    from policyguard.policy.resolved import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = ["Comparison", "GuardResult", "Pair", "answer_of", "compare_guards", "rule_scores"]

Progress = Callable[[int, int | None], None]
LEAST = 1e-9
NOTHING = "(no rule)"


@dataclass(frozen=True, slots=True)
class GuardResult:
    """One guard on all images, in order.

    ``asked``: how many requests its model answered; ``seconds``: the median over the images for which it
    was asked, None if it was asked for none; ``cost``: of all of them. ``scores``: each image's score under
    each rule; empty where they were not read. ``figures`` is None without labels, and ``rules`` holds those
    rules that some label names.
    ``stages``: of several guards in a row, how many requests each was asked.
    ``sent``: what went to servers for it, which may take several calls for one request; None without any.
    ``confusion``: (what the label says, what the guard found) -> images.
    """

    name: str
    model: ModelIdentity
    verdicts: tuple[Verdict, ...]
    asked: int
    seconds: float | None
    cost: float | None = None
    scores: tuple[Mapping[str, float], ...] = ()
    figures: Figures | None = None
    rules: Mapping[str, Figures] | None = None
    calibration_error: float | None = None
    confusion: Mapping[tuple[str, str], int] | None = None
    stages: Mapping[str, int] | None = None
    sent: GuardStats | None = None

    def to_dict(self) -> dict[str, Any]:
        total, sent = max(1, len(self.verdicts)), self.sent
        counts = ("requests", "tokens_in", "tokens_out")
        return {
            "name": self.name,
            "model": self.model.to_dict(),
            "outcomes": dict(Counter(str(verdict.outcome) for verdict in self.verdicts)),
            "asked": self.asked,
            "asked_per_image": self.asked / total,
            "asked_by_stage": None if self.stages is None else dict(self.stages),
            "sent": None if sent is None else {name: getattr(sent, name) for name in counts},
            "seconds_per_image": self.seconds,
            "cost_per_image": None if self.cost is None else self.cost / total,
            "figures": None if self.figures is None else self.figures.to_dict(),
            "rules": {rule: figures.to_dict() for rule, figures in (self.rules or {}).items()},
            "calibration_error": self.calibration_error,
            "confusion": [
                {"label": label, "found": found, "images": count}
                for (label, found), count in (self.confusion or {}).items()
            ],
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """Two guards: the images on which they differ; with labels also McNemar's test.

    ``let_pass``: how many images comply for the first that violate for the second, and the other way round.
    ``p`` is adjusted for the number of pairs (Holm).
    """

    first: str
    second: str
    agreement: float
    differing: tuple[ImageChange, ...]
    let_pass: tuple[int, int] = (0, 0)
    paired: Paired | None = None
    p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        outcome = sum(image.changed for image in self.differing)
        test = None if self.paired is None else self.paired._asdict() | {"p_adjusted": self.p}
        return {
            "first": self.first,
            "second": self.second,
            "agreement": self.agreement,
            "differ_in_outcome": outcome,
            "differ_in_rules_only": len(self.differing) - outcome,
            "let_pass": list(self.let_pass),
            "mcnemar": test,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All guards on all images. ``labels`` has one entry for each image, or none at all without labels."""

    policy: Head
    images: tuple[str, ...]
    labels: tuple[Label | None, ...]
    guards: tuple[GuardResult, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    @property
    def ranking(self) -> tuple[GuardResult, ...]:
        """The guards, best balanced accuracy first; as given where that cannot be measured."""

        def value(guard: GuardResult) -> float:
            found = None if guard.figures is None else guard.figures.balanced_accuracy.value
            return -1.0 if found is None else found

        return tuple(sorted(self.guards, key=value, reverse=True))

    @property
    def disagreements(self) -> tuple[int, ...]:
        """The places of images on which some guards differ, unsafe ones that some guard lets pass first."""
        seen = zip(*(guard.verdicts for guard in self.guards), strict=True)
        first = [any(ImageChange("", one, v).differs for v in rest) for one, *rest in seen]
        places = [place for place, differs in enumerate(first) if differs]

        def weight(place: int) -> tuple[bool, int]:
            label = self.labels[place] if self.labels else None
            missed = any(guard.verdicts[place].outcome is Outcome.COMPLIES for guard in self.guards)
            return not (label is not None and label.unsafe and missed), place

        return tuple(sorted(places, key=weight))

    @property
    def unjudged(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image that a guard could not judge; of which guard, where they differ."""
        return unjudged(
            (name, [(guard.name, guard.verdicts[place]) for guard in self.guards])
            for place, name in enumerate(self.images)
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.to_dict(),
            "images": len(self.images),
            "labelled": sum(label is not None for label in self.labels),
            "ranking": [guard.name for guard in self.ranking],
            "guards": [guard.to_dict() for guard in self.guards],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "notes": list(self.notes),
            "disagreements": [
                {
                    "source": self.images[place],
                    "label": _word(self.labels[place]) if self.labels else None,
                    "guards": {guard.name: in_short(guard.verdicts[place]) for guard in self.guards},
                }
                for place in self.disagreements
            ],
        }


def compare_guards(
    policy: Policy | ResolvedPolicy,
    images: Sequence[object],
    backends: Iterable[tuple[str, Backend]],
    *,
    names: Sequence[str] | None = None,
    labels: Labels | None = None,
    prices: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Judge ``images`` under ``policy`` with each of ``backends``, which are drawn one at a time, by name.

    So an iterator that opens a backend when it is drawn and closes it at the next holds one model in memory.
    ``names`` are what images are called in the result. ``prices``: what one request to a guard's model costs,
    in any currency; of guards in a row, by the names of the stages. ``progress`` is called with the images
    done and how many there are, guard by guard.

    Raises UsageError when the set-up is wrong, PolicyError for labels that do not fit the images, and
    MissingExtraError without scikit-learn where there are labels.
    """
    found = tuple(labels.of(images)) if labels is not None else ()
    named = any(label is not None and label.unsafe and label.rules for label in found)
    results: list[GuardResult] = []
    head = resolved = None
    for name, backend in backends:
        guard = Guard(policy, backend=remembering(backend))
        resolved = guard.policies[0]
        head = Head.of(resolved)
        before, sent_before = stages_asked(backend) or {}, guard.stats()
        judged = judge(guard, images, names=names, progress=progress)
        sent = guard.stats().since(sent_before)
        stages = {name: count - before[name] for name, count in (stages_asked(backend) or {}).items()}
        if labels is not None and not results:
            labels.require_one_label_each(
                [(label, it) for label, it in zip(found, judged.verdicts, strict=True) if label]
            )
        # In a row, other thresholds would put images to other stages: there a rule has no scores of its own.
        scored = named and not stages and any(verdict.score is not None for verdict in judged.verdicts)
        scores = rule_scores(guard, images, judged.verdicts) if scored else ()
        result = _result(name, guard.backend.model, judged, prices or {}, scores, stages)
        result = replace(result, sent=sent if sent.requests else None)
        results.append(_measured(result, resolved, found, ruled=named) if labels is not None else result)
    if head is None or resolved is None:
        raise ConfigurationError("there is no guard to compare")
    shown = tuple(verdict.source for verdict in results[0].verdicts)
    notes = () if labels is None else tuple(_notes(labels, found, resolved))
    return Comparison(head, shown, found, tuple(results), _pairs(results, found), notes)


def stages_asked(backend: Backend) -> Mapping[str, int] | None:
    """Stage -> how many requests it was asked so far; None for a backend without stages."""
    while isinstance(backend, WrappingBackend):
        backend = backend.inner
    if not isinstance(backend, CascadeBackend):
        return None
    return {stage.title: asked for stage, asked in zip(backend.stages, backend.asked, strict=True)}


def rule_scores(
    guard: Guard, images: Sequence[object], verdicts: Sequence[Verdict]
) -> tuple[Mapping[str, float], ...]:
    """Each image's score under each rule that some score was read for; see the module's description."""
    policy = guard.policies[0]
    rules = tuple(rule.model_copy(update={"threshold": LEAST, "action": None}) for rule in policy.rules)
    opened = guard.with_policy(replace(policy, rules=rules, undecided_band=None))
    again = judge(opened, images).verdicts
    return tuple(
        {f.rule: f.score for v in (first, second) for f in v.findings if f.score is not None}
        for first, second in zip(verdicts, again, strict=True)
    )


def answer_of(verdict: Verdict, rule: str | None = None) -> Answer:
    """What the guard answers about the image, or about one rule of it."""
    answer = Answer.of(verdict.outcome)
    if rule is None or answer not in (Answer.SAFE, Answer.UNSAFE):
        return answer
    return Answer.UNSAFE if rule in _attributed(verdict) else Answer.SAFE


def _attributed(verdict: Verdict) -> list[str]:
    return [finding.rule for finding in verdict.findings if finding.violates and finding.attributed]


def _result(
    name: str,
    model: ModelIdentity,
    judged: Judged,
    prices: Mapping[str, float],
    scores: tuple[Mapping[str, float], ...],
    stages: Mapping[str, int],
) -> GuardResult:
    spent = [v.evidence.timings.model for v in judged.verdicts if not v.cached and v.evidence.frames]
    seconds = statistics.median(spent) if spent else None
    asked = stages or {name: judged.asked}
    spent_on = [prices[one] * count for one, count in asked.items() if one in prices]
    cost = sum(spent_on) if len(spent_on) == len(asked) else None
    total = sum(asked.values())
    return GuardResult(name, model, judged.verdicts, total, seconds, cost, scores, stages=stages or None)


def _measured(
    result: GuardResult, policy: ResolvedPolicy, labels: Sequence[Label | None], *, ruled: bool
) -> GuardResult:
    """``result`` with its figures."""
    known = [(place, label) for place, label in enumerate(labels) if label is not None]
    verdicts = [result.verdicts[place] for place, _ in known]
    judgements = [Judgement(lb.unsafe, answer_of(v)) for (_, lb), v in zip(known, verdicts, strict=True)]
    scores = [verdict.score for verdict in verdicts]
    rated = [(lb.unsafe, s) for (_, lb), s in zip(known, scores, strict=True) if s is not None]
    rules: dict[str, Figures] = {}
    confusion: Counter[tuple[str, str]] = Counter()
    sure = [(place, label) for place, label in known if label.rules is not None]
    for rule in policy.rules if ruled else ():
        if any(rule.id in (label.rules or ()) for _, label in sure):
            rules[rule.id] = measure(
                [
                    Judgement(rule.id in (label.rules or ()), answer_of(result.verdicts[place], rule.id))
                    for place, label in sure
                ],
                None
                if not result.scores
                else [
                    None if result.verdicts[place].score is None else result.scores[place].get(rule.id, 0.0)
                    for place, _ in sure
                ],
            )
    for place, label in sure:
        for said in label.rules or ("complies",):
            confusion[said, _found(result.verdicts[place])] += 1
    return replace(
        result,
        figures=measure(judgements, scores),
        rules=rules,
        calibration_error=calibration_error(*zip(*rated, strict=True)) if rated else None,
        confusion=confusion,
    )


def _found(verdict: Verdict) -> str:
    """The rule that the guard finds broken first, or what it says instead."""
    if verdict.outcome is not Outcome.VIOLATES:
        return str(verdict.outcome)
    return next(iter(_attributed(verdict)), NOTHING)


def _pairs(results: Sequence[GuardResult], labels: Sequence[Label | None]) -> tuple[Pair, ...]:
    pairs = []
    for one, other in combinations(results, 2):
        both = list(zip(one.verdicts, other.verdicts, strict=True))
        images = [ImageChange(a.source, a, b) for a, b in both]
        paired = None
        if any(label is not None for label in labels):
            known = [(lb.unsafe, pair) for lb, pair in zip(labels, both, strict=True) if lb is not None]
            sides = [[Judgement(unsafe, answer_of(pair[n])) for unsafe, pair in known] for n in (0, 1)]
            paired = mcnemar(*sides)
        same = sum(not image.changed for image in images) / max(1, len(images))
        differing = tuple(image for image in images if image.differs)
        outcomes = [(image.before.outcome, image.after.outcome) for image in differing]
        passed = Outcome.COMPLIES, Outcome.VIOLATES
        let_pass = outcomes.count(passed), outcomes.count(passed[::-1])
        pairs.append(Pair(one.name, other.name, same, differing, let_pass, paired))
    adjusted = iter(holm([pair.paired.p for pair in pairs if pair.paired is not None]))
    return tuple(pair if pair.paired is None else replace(pair, p=next(adjusted)) for pair in pairs)


def _notes(labels: Labels, found: Sequence[Label | None], policy: ResolvedPolicy) -> Iterable[str]:
    if silent := sum(label is None for label in found):
        yield f"{silent} of {len(found)} images have no label: they are judged, and left out of the figures"
    sides = {label.unsafe for label in found if label is not None}
    for side, word in ((True, "unsafe"), (False, "safe")):
        if side not in sides:
            yield f"{labels.file} has no {word} image: figures that need one are missing"
    named = {rule for label in found if label is not None for rule in label.rules or ()}
    if absent := [r.id for r in policy.rules if r.status != "exempt" and r.id not in named] if named else []:
        yield f"{labels.file} has no image for {', '.join(absent)}: these rules are not measured"
    vague = sum(label is not None and label.rules is None for label in found)
    if vague and named:
        yield f"{vague} unsafe images are labelled without a rule: the figures of rules leave them out"


def _word(label: Label | None) -> str | None:
    if label is None:
        return None
    return ", ".join(label.rules or ()) or ("unsafe" if label.unsafe else "safe")
