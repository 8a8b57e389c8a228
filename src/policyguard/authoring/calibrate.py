"""Where to put thresholds: chosen on one half of labelled images, and reported on the other.

``policyguard.authoring.thresholds`` chooses them, and says what a promise rests on.
Scores become shares of unsafe images by Platt or temperature scaling, fitted on the same half. Every figure
on the other half is that of real verdicts under the policy that is written, decided from known scores.

Covered: copies of one picture are on one side. Not covered: images unlike those that were labelled, near
duplicates, labels that are wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policyguard.authoring.compare import answer_of, rule_scores
from policyguard.authoring.diff.behaviour import judge, unjudged
from policyguard.authoring.thresholds import (
    HELD,
    Rated,
    Target,
    choose_threshold,
    fit_scaling,
    require_enough,
    review_band,
)
from policyguard.backends.cascade import CASCADE, model_digest
from policyguard.cache.backend import remembering
from policyguard.errors import ConfigurationError, PolicyError, UsageError
from policyguard.guard import Guard
from policyguard.metrics import (
    Answer,
    Figure,
    Figures,
    Judgement,
    calibration_error,
    measure,
    proportion,
)
from policyguard.outcomes import Action, Outcome
from policyguard.policy.loosening import loosening
from policyguard.policy.merge import rebuilt
from policyguard.policy.schema import Calibration

if TYPE_CHECKING:
    from policyguard.authoring.labels import Label, Labels
    from policyguard.backends.base import Backend
    from policyguard.policy.policy import Policy
    from policyguard.policy.resolved import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = ["CalibrationReport", "calibrate_guard", "write_overlay"]

Progress = Callable[[int, int | None], None]
Scaling = Literal["platt", "temperature", "none"]
FEWEST = 10
"""Images of either kind, in the half that is fitted, below which scores are not scaled."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One labelled image. ``score`` and ``rules`` are the guard's, None where it gave none.

    ``held``: it gave no answer, and the policy does not let the image pass.
    """

    label: Label
    key: str
    score: float | None
    rules: Mapping[str, float] | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What was chosen, and how good it is on images that had no part in choosing it.

    ``policy`` is the policy with the thresholds chosen, ``base`` the one it was made of. ``fitted`` and
    ``reported`` count images; with ``folds`` all images are in both, each reported under thresholds that
    were chosen without it. ``before`` and ``after`` are the figures of both policies on what is reported,
    ``caught`` is the share of unsafe images that violate or are held as undecided, ``reviewed`` the share of
    all images that is undecided. ``errors``: expected calibration error before and after. ``rules``: the
    figures of each rule whose threshold was chosen. ``unmeasured``: why that of others was not.
    """

    target: Target
    base: ResolvedPolicy
    policy: ResolvedPolicy
    model: str
    data: str
    fitted: int
    reported: int
    folds: int | None
    confidence: float
    before: Figures
    after: Figures
    caught: Figure
    reviewed: Figure
    cost: tuple[float, float] | None
    errors: tuple[float, float]
    rules: Mapping[str, Figures]
    unmeasured: tuple[str, ...] = ()
    unjudged: tuple[tuple[str, str], ...] = ()
    """Name and reason of each image that could not be judged."""

    @property
    def promised(self) -> Figure:
        """The figure that the target is about, on images that had no part in choosing thresholds."""
        return self.after.precision if self.target.kind == "precision" else self.caught

    @property
    def kept(self) -> bool:
        """Whether the figure's interval reaches the target; a cost has none."""
        return self.target.kind == "cost" or (self.promised.high or 0.0) >= self.target.value

    def to_dict(self) -> dict[str, Any]:
        policy = self.policy
        return {
            "target": str(self.target),
            "model": self.model,
            "policy": policy.id,
            "data": self.data,
            "fitted": self.fitted,
            "reported": self.reported,
            "folds": self.folds,
            "confidence": self.confidence,
            "threshold": policy.threshold,
            "rule_thresholds": {
                rule.id: rule.threshold for rule in policy.rules if rule.threshold is not None
            },
            "undecided_band": policy.undecided_band,
            "calibration": None if policy.calibration is None else policy.calibration.model_dump(),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "caught": self.caught._asdict(),
            "reviewed": self.reviewed._asdict(),
            "cost": None if self.cost is None else {"before": self.cost[0], "after": self.cost[1]},
            "calibration_error": {"before": self.errors[0], "after": self.errors[1]},
            "rules": {rule: figures.to_dict() for rule, figures in self.rules.items()},
            "unmeasured": list(self.unmeasured),
            "unjudged": len(self.unjudged),
            "kept": self.kept,
        }


def calibrate_guard(
    policy: Policy | ResolvedPolicy,
    labels: Labels,
    target: Target,
    *,
    backend: Backend,
    scaling: Scaling = "platt",
    review: float | None = None,
    folds: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> CalibrationReport:
    """Choose thresholds for ``target`` on half of the labelled images, and measure them on the other half.

    Args:
        labels: the images, with what they are.
        backend: the guard that is measured: one model, no cascade.
        scaling: how scores become shares of unsafe images.
        review: the share of images that may be undecided, for people to look at; None: no band is set.
        folds: measure by cross-validation instead: thresholds come from all images.
        confidence: of the promise, in (0.5, 1).
        seed: which image is on which side.

    Raises ConfigurationError where the guard gives no scores, a class has no image, or the sample cannot
    carry the target, with how many to label; PolicyError for two labels of one picture.
    """
    if not 0.5 < confidence < 1.0:
        raise UsageError(f"a confidence must lie between 0.5 and 1, not {confidence:g}")
    if review is not None and not 0.0 < review < 1.0:
        raise UsageError(f"the share to review must lie between 0 and 1, not {review:g}")
    if folds is not None and folds < 2:
        raise UsageError(f"there are at least two folds, not {folds}")
    cached = remembering(backend)
    base = _resolved(policy)
    if cached.model.backend == CASCADE:
        raise ConfigurationError("thresholds are measured on one model", hint="give the stage to calibrate")
    if review is not None and base.outcomes[Outcome.UNDECIDED] is Action.ALLOW:
        raise ConfigurationError(
            f"policy '{base.id}' lets undecided images pass, so that nobody would review them",
            hint="set `undecided: flag` or `block` under `outcomes:`",
        )
    run = _Run(_rescaled(base, None), cached, labels, target, scaling, review, confidence)
    cases = run.read(progress)
    data = _hash(cases)
    _require_both(cases, labels)
    if folds is None:
        fit, held = _halves(cases, seed)
        chosen = run.choose(fit, data, doubled=True)
        measured = [(chosen, held)]
    else:
        parts = _parts(cases, folds, seed)
        chosen = run.choose(cases, data)
        measured = []
        for number, held in enumerate(parts):
            rest = [case for other, part in enumerate(parts) if other != number for case in part]
            measured.append((run.choose(rest, data), held))
        fit = cases
    return run.report(base, chosen, fit, measured, data, folds)


def _resolved(policy: Policy | ResolvedPolicy) -> ResolvedPolicy:
    from policyguard.policy.policy import Policy

    return policy.resolve() if isinstance(policy, Policy) else policy


def _rescaled(policy: ResolvedPolicy, calibration: Calibration | None) -> ResolvedPolicy:
    """``policy`` with another calibration, and its marks where they were on the model's own scores."""

    def moved(mark: float) -> float:
        raw = policy.raw(mark)
        return raw if calibration is None else calibration.apply(raw)

    rules = tuple(
        rule if rule.threshold is None else _with_threshold(rule, moved(rule.threshold))
        for rule in policy.rules
    )
    band = policy.undecided_band
    return replace(
        policy,
        calibration=calibration,
        rules=rules,
        threshold=moved(policy.threshold),
        undecided_band=None if band is None else (moved(band[0]), moved(band[1])),
    )


def _hash(cases: Sequence[_Case]) -> str:
    rows = sorted([case.key, case.label.unsafe, list(case.label.rules or ())] for case in cases)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _require_both(cases: Sequence[_Case], labels: Labels) -> None:
    for side, word in ((True, "unsafe"), (False, "safe")):
        if all(case.label.unsafe is not side for case in cases):
            raise ConfigurationError(f"{labels.file} has no {word} image", hint="label images of both kinds")


def _parts(cases: Sequence[_Case], count: int, seed: int) -> list[list[_Case]]:
    """``count`` parts with about as many images of each kind and rule; equal pictures are in one."""
    groups: dict[str, list[_Case]] = {}
    for case in cases:
        groups.setdefault(case.key, []).append(case)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    parts: list[list[_Case]] = [[] for _ in range(count)]
    turns: dict[object, int] = {}
    for key in order:
        label = groups[key][0].label
        kind = label.unsafe, (label.rules or ("",))[0] if label.unsafe else ""
        turn = turns.setdefault(kind, sum(turns.values()))
        parts[turn % count] += groups[key]
        turns[kind] += 1
    return parts


def _halves(cases: Sequence[_Case], seed: int) -> tuple[list[_Case], list[_Case]]:
    fit, held = _parts(cases, 2, seed)
    return fit, held


@dataclass(slots=True)
class _Run:
    """``base`` without a calibration, and how to choose thresholds for it."""

    base: ResolvedPolicy
    backend: Backend
    labels: Labels
    target: Target
    scaling: Scaling
    review: float | None
    confidence: float
    unjudged: tuple[tuple[str, str], ...] = ()

    def read(self, progress: Progress | None) -> list[_Case]:
        """All labelled images with the model's own scores; the model is asked here and nowhere else."""
        images = [label.image for label in self.labels.all]
        guard = Guard(self.base, backend=self.backend)
        verdicts = judge(guard, images, progress=progress).verdicts
        if all(verdict.score is None for verdict in verdicts):
            why = next((verdict.reason for verdict in verdicts if verdict.reason), "it answers with ratings")
            raise ConfigurationError(
                f"{guard.backend.model.id} gives no scores, so that no threshold can be chosen: {why}",
                hint="`policyguard compare` measures its ratings",
            )
        self.unjudged = unjudged((verdict.source, [("", verdict)]) for verdict in verdicts)
        self.labels.require_one_label_each(list(zip(self.labels.all, verdicts, strict=True)))
        return self._cases(guard, self.labels.all, verdicts, ruled=False)

    def _cases(
        self, guard: Guard, labels: Sequence[Label], verdicts: Sequence[Verdict], *, ruled: bool
    ) -> list[_Case]:
        rules = (
            rule_scores(guard, [label.image for label in labels], verdicts) if ruled else [None] * len(labels)
        )
        return [
            _Case(
                label,
                verdict.evidence.image_sha256 or str(label.image),
                verdict.score if answer_of(verdict) in (Answer.SAFE, Answer.UNSAFE) else None,
                scores,
                is_held(verdict),
            )
            for label, verdict, scores in zip(labels, verdicts, rules, strict=True)
        ]

    # Choosing.

    def choose(self, cases: Sequence[_Case], data: str, *, doubled: bool = False) -> _Chosen:
        """Thresholds for ``cases``. ``doubled``: they are half of the sample; more means twice as many."""
        calibration = self._scaled(cases, data)
        policy = replace(_rescaled(self.base, calibration), undecided_band=None)
        scaled = self.under(policy, [case.label for case in cases])
        pairs = [(self._score(case, case.score), case.label.unsafe) for case in scaled]
        threshold = self._threshold(pairs, 2 if doubled else 1)
        policy = replace(policy, threshold=threshold)
        notes, rules, own = [], [], []
        for rule in policy.rules:
            found = (
                None
                if rule.status == "exempt"
                else self._of_rule(rule.id, scaled, factor=2 if doubled else 1)
            )
            if isinstance(found, str):
                notes.append(f"{rule.id}: {found}")
            elif found is not None:
                if self.target.kind != "recall":  # a rule's own threshold must not call more images unsafe
                    found = max(found, threshold)
                rule = _with_threshold(rule, found)
                own.append(rule.id)
            rules.append(rule)
        policy = replace(policy, rules=tuple(rules))
        if self.review is not None:
            policy = replace(policy, undecided_band=review_band(pairs, threshold, self.review))
        return _Chosen(policy, tuple(notes), tuple(own))

    def under(self, policy: ResolvedPolicy, labels: Sequence[Label]) -> list[_Case]:
        """The same images with their scores under another policy of the same text: no model is asked."""
        guard = Guard(policy, backend=self.backend)
        verdicts = judge(guard, [label.image for label in labels]).verdicts
        return self._cases(guard, labels, verdicts, ruled=any(label.rules for label in labels))

    def _scaled(self, cases: Sequence[_Case], data: str) -> Calibration | None:
        rated = [(case.score, case.label.unsafe) for case in cases if case.score is not None]
        sides = sum(unsafe for _, unsafe in rated), sum(not unsafe for _, unsafe in rated)
        if self.scaling == "none" or min(sides) < FEWEST:
            return None
        slope, intercept = fit_scaling(rated, intercept=self.scaling == "platt")
        model = self.backend.model
        return Calibration(
            model=model_digest(model),
            policy=self.base.fingerprint,
            slope=slope,
            intercept=intercept,
            name=model.id,
            data=data,
            images=len(rated),
        )

    def _of_rule(self, rule: str, cases: Sequence[_Case], *, factor: int) -> float | str | None:
        sure = [case for case in cases if case.label.rules is not None]
        pairs = []
        for case in sure:
            score = None if case.score is None or case.rules is None else case.rules.get(rule, 0.0)
            pairs.append((self._score(case, score), rule in (case.label.rules or ())))
        if not any(unsafe for _, unsafe in pairs):
            return "no image is labelled with it" if any(case.label.rules for case in sure) else None
        try:
            if self.target.kind == "cost":
                require_enough(pairs, self.confidence, factor)
            return self._threshold(pairs, factor)
        except ConfigurationError as error:
            return error.message + (f"; {error.hint}" if error.hint else "")

    def _score(self, case: _Case, score: float | None) -> float | None:
        """``score``, but for a recall an image that is held without one is as good as found."""
        return HELD if score is None and case.held and self.target.kind == "recall" else score

    def _threshold(self, pairs: Rated, factor: int) -> float:
        return choose_threshold(pairs, self.target, confidence=self.confidence, factor=factor)

    # Measuring.

    def report(
        self,
        base: ResolvedPolicy,
        chosen: _Chosen,
        fit: Sequence[_Case],
        measured: Sequence[tuple[_Chosen, Sequence[_Case]]],
        data: str,
        folds: int | None,
    ) -> CalibrationReport:
        held = [case for _, cases in measured for case in cases]
        images = [case.label.image for case in held]
        before = judge(Guard(self.base, backend=self.backend), images).verdicts
        after: list[Verdict] = []
        for one, cases in measured:
            guard = Guard(one.policy, backend=self.backend)
            after += judge(guard, [case.label.image for case in cases]).verdicts
        unsafe = [case.label.unsafe for case in held]
        caught = [
            answer_of(verdict) is Answer.UNSAFE or is_held(verdict)
            for verdict, label in zip(after, unsafe, strict=True)
            if label
        ]
        undecided = sum(answer_of(verdict) is Answer.UNDECIDED for verdict in after)
        return CalibrationReport(
            target=self.target,
            base=base,
            policy=chosen.policy,
            model=self.backend.model.id,
            data=data,
            fitted=len(fit),
            reported=len(held),
            folds=folds,
            confidence=self.confidence,
            before=_figures(unsafe, before),
            after=_figures(unsafe, after),
            caught=proportion(sum(caught), len(caught)),
            reviewed=proportion(undecided, len(after)),
            cost=(self._cost(unsafe, before), self._cost(unsafe, after))
            if self.target.kind == "cost"
            else None,
            errors=(_error(unsafe, before), _error(unsafe, after)),
            rules=dict(self._rules(chosen.rules, held, after)),
            unmeasured=chosen.notes,
            unjudged=self.unjudged,
        )

    def _cost(self, unsafe: Sequence[bool], verdicts: Sequence[Verdict]) -> float:
        """Per image; silence counts as a mistake."""
        answers = [
            Judgement(label, answer_of(verdict)) for label, verdict in zip(unsafe, verdicts, strict=True)
        ]
        prices = [
            self.target.miss if answer.unsafe else self.target.alarm for answer in answers if not answer.right
        ]
        return sum(prices) / max(1, len(answers))

    @staticmethod
    def _rules(
        rules: Sequence[str], held: Sequence[_Case], verdicts: Sequence[Verdict]
    ) -> Iterator[tuple[str, Figures]]:
        sure = [(c, v) for c, v in zip(held, verdicts, strict=True) if c.label.rules is not None]
        for rule in rules:
            judged = [Judgement(rule in (case.label.rules or ()), answer_of(v, rule)) for case, v in sure]
            if any(one.unsafe for one in judged):
                yield rule, measure(judged)


def is_held(verdict: Verdict) -> bool:
    """Whether the guard says neither safe nor unsafe, and the policy does not let that pass.

    An error is none of it: the next answer may be another.
    """
    silent = answer_of(verdict) not in (Answer.SAFE, Answer.UNSAFE) and verdict.outcome is not Outcome.ERROR
    return silent and verdict.action is not Action.ALLOW


@dataclass(frozen=True, slots=True)
class _Chosen:
    policy: ResolvedPolicy
    notes: tuple[str, ...]
    rules: tuple[str, ...]


def _figures(unsafe: Sequence[bool], verdicts: Sequence[Verdict]) -> Figures:
    judgements = [
        Judgement(label, answer_of(verdict)) for label, verdict in zip(unsafe, verdicts, strict=True)
    ]
    return measure(judgements, [verdict.score for verdict in verdicts])


def _error(unsafe: Sequence[bool], verdicts: Sequence[Verdict]) -> float:
    rated = [(u, v.score) for u, v in zip(unsafe, verdicts, strict=True) if v.score is not None]
    return calibration_error([u for u, _ in rated], [s for _, s in rated])


def _with_threshold(rule: Any, threshold: float) -> Any:
    return rule.model_copy(update={"threshold": threshold})


def write_overlay(
    report: CalibrationReport,
    path: str | Path,
    *,
    base: Policy,
    extends: str,
    parameters: Mapping[str, str] | None = None,
    root: str | Path | None = None,
) -> None:
    """Write ``report.policy`` to ``path`` as a policy on ``base``, which it calls ``extends``.

    Where it loosens ``base``, the reason says what was measured on which data. The file is read again before
    it takes the place of another, and must decide as ``report.policy`` does. ``parameters`` are those that
    ``base`` was loaded with. Raises PolicyError where ``base`` cannot be reached from there, and OSError.
    """
    from policyguard.policy import load_policy
    from policyguard.strict.files import write_text

    path = Path(path)
    trial = path.with_name(f".{path.stem}.trial.yaml")
    text = _overlay(report, base, extends, parameters or {})
    try:
        trial.write_text(text, encoding="utf-8")
        written = load_policy(trial, root=root).resolve()
    except PolicyError as error:
        problems = [
            replace(one, file=str(path) if one.file == str(trial) else one.file) for one in error.problems
        ]
        raise PolicyError(problems, hint=error.hint) from None
    finally:
        trial.unlink(missing_ok=True)
    wanted = report.policy
    if (written.fingerprint, written.decision_fingerprint) != (
        wanted.fingerprint,
        wanted.decision_fingerprint,
    ):
        raise ConfigurationError(
            f"a policy on {extends} does not decide as the one that was measured",
            hint="measure the policy that it extends, with the same parameters",
        )
    write_text(path, text)


def _overlay(report: CalibrationReport, base: Policy, extends: str, parameters: Mapping[str, str]) -> str:
    policy, was = report.policy, base.defaults
    changes: dict[str, Any] = {"threshold": policy.threshold}
    if policy.undecided_band != was.undecided_band:
        changes["undecided_band"] = policy.undecided_band and list(policy.undecided_band)
    if policy.calibration != was.calibration:
        changes["calibration"] = policy.calibration and policy.calibration.model_dump()
    after = rebuilt(base, defaults=was.model_copy(update=changes), rules=policy.rules)
    loosened = {change.rule for change in loosening(base, after)}

    def reason(figures: str) -> str:
        """Why something is weaker. ``figures``: of that thing itself, be it a rule or the policy."""
        made = f"calibrated for {report.model} and {report.target} on {report.reported} labelled images"
        return f"{made}: {figures}; data sha256:{report.data}"

    kind = report.target.kind
    whole = (
        f"precision {report.promised}"
        if kind == "precision"
        else f"caught or held {report.promised} of unsafe images"
    )
    *parents, name = base.id.split("/")
    head: dict[str, Any] = {
        "id": "/".join([*parents, f"{name[:53]}-calibrated"]),
        "version": "1.0.0",
        "extends": extends,
    }
    if parameters:
        head["parameters"] = dict(parameters)
    overrides = {
        rule.id: {"threshold": rule.threshold}
        | ({"weakens": reason(_alone(report, rule.id))} if rule.id in loosened else {})
        for rule, old in zip(policy.rules, base.rules, strict=True)
        if rule.threshold != old.threshold
    }
    sections = head | {"defaults": changes} | ({"overrides": overrides} if overrides else {})
    if None in loosened:
        sections["weakens"] = reason(whole)
    return f"# Written by `policyguard calibrate`: thresholds, measured.\n{_yaml(sections)}"


def _alone(report: CalibrationReport, rule: str) -> str:
    if (found := report.rules.get(rule)) is None:
        return "this rule by itself was not measured"
    images = f"{found.unsafe} image{'' if found.unsafe == 1 else 's'}"
    return f"recall {found.recall}, precision {found.precision} of this rule alone, broken by {images}"


def _yaml(values: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key}:\n{_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)
