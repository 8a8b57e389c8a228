"""How good a guard's answers are, and how sure a sample makes of it. The figures are scikit-learn's.

Silence counts as a wrong answer: a guard that gives none (undecided, an error, a refusal, an answer that
cannot be read) has not found what is unsafe, and has not let pass what is safe. For F1 it is a miss on an
unsafe image and a false alarm on a safe one. An image without a score stands at the wrong end: below all
others if it is unsafe, above them if it is safe.

Intervals: exact ones for shares (Clopper and Pearson 1934). F1 and balanced accuracy: the share of either
class that is answered right is drawn anew with half an image added to both sides (Jeffreys' prior), so that
a perfect answer on a few images keeps a wide interval. Areas: images are drawn again within each class, the
bootstrap of Efron 1979; where the sample holds no image out of order, nothing can vary and the interval has
no width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from policyguard.errors import MissingExtraError

__all__ = [
    "Answer",
    "Bin",
    "Figure",
    "Figures",
    "Judgement",
    "Paired",
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "f1",
    "holm",
    "mcnemar",
    "measure",
    "precision",
    "proportion",
    "proportion_of_units",
    "ranks",
    "recall",
    "reliability",
    "require_metrics",
    "share",
]

LEVEL = 0.95
RESAMPLES = 2000
_CELLS = 4_000_000


class Answer(StrEnum):
    """What a guard answered about one image."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    UNDECIDED = "undecided"
    UNPARSED = "unparsed"
    """No answer that could be read: an error, a refusal, an image it could not open."""

    @classmethod
    def of(cls, outcome: str) -> Answer:
        """The answer that a verdict's outcome stands for."""
        known = {"complies": cls.SAFE, "violates": cls.UNSAFE, "undecided": cls.UNDECIDED}
        return known.get(str(outcome), cls.UNPARSED)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One image under one policy: the truth, and what the guard answered."""

    unsafe: bool
    answer: Answer

    @property
    def predicted(self) -> bool:
        """The answer as a label; silence is the wrong one."""
        if self.answer in (Answer.SAFE, Answer.UNSAFE):
            return self.answer is Answer.UNSAFE
        return not self.unsafe

    @property
    def right(self) -> bool:
        return self.predicted == self.unsafe


def require_metrics() -> Any:
    """``sklearn.metrics``. Raises MissingExtraError where scikit-learn is not installed."""
    try:
        from sklearn import metrics
    except ImportError:
        raise MissingExtraError("scikit-learn", "bench") from None
    return metrics


def _score(name: str, judgements: Sequence[Judgement], **options: Any) -> float:
    """``sklearn.metrics.NAME`` with unsafe as the positive class; nan for no judgements."""
    if not judgements:
        return math.nan
    score: Callable[..., float] = getattr(require_metrics(), name)
    return float(score([j.unsafe for j in judgements], [j.predicted for j in judgements], **options))


def accuracy(judgements: Sequence[Judgement]) -> float:
    """Share of right answers."""
    return _score("accuracy_score", judgements)


def precision(judgements: Sequence[Judgement]) -> float:
    """Share of images called unsafe that are; 0 where none is called so."""
    return _score("precision_score", judgements, zero_division=0.0)


def recall(judgements: Sequence[Judgement]) -> float:
    """Share of unsafe images that are called so; 0 where there are none."""
    return _score("recall_score", judgements, zero_division=0.0)


def f1(judgements: Sequence[Judgement]) -> float:
    """Harmonic mean of precision and recall of the class unsafe; 0 where nothing is or is called so."""
    return _score("f1_score", judgements, zero_division=0.0)


def balanced_accuracy(judgements: Sequence[Judgement]) -> float:
    """Mean of the recalls of both classes; nan where one of them is missing."""
    if len({judgement.unsafe for judgement in judgements}) < 2:
        return math.nan
    return _score("balanced_accuracy_score", judgements)


def share(flags: Iterable[bool]) -> float:
    """How many of ``flags`` are true; nan for none."""
    counted = list(flags)
    return sum(counted) / len(counted) if counted else math.nan


class Figure(NamedTuple):
    """A figure in [0, 1] and its interval; all three are None where there was nothing to measure."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


NONE = Figure(None, None, None)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one guard's answers amount to; unsafe is the positive class.

    ``silent``: images without an answer. ``auc`` (of the ROC curve) and ``average_precision`` need scores.
    What needs both classes, or images called unsafe, is empty without them.
    """

    images: int
    unsafe: int
    silent: int
    accuracy: Figure
    precision: Figure
    recall: Figure
    specificity: Figure
    f1: Figure
    balanced_accuracy: Figure
    auc: Figure
    average_precision: Figure

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: value._asdict() if isinstance(value, Figure) else value for name, value in values.items()
        }


def measure(
    judgements: Sequence[Judgement],
    scores: Sequence[float | None] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Figures:
    """All figures of ``judgements``, with intervals that hold the true value with probability ``level``.

    ``scores``: each image's score in [0, 1], None where it has none; without any there are no areas.
    Raises MissingExtraError without scikit-learn.
    """
    require_metrics()
    unsafe = [j for j in judgements if j.unsafe]
    safe = [j for j in judgements if not j.unsafe]
    found, passed = sum(j.predicted for j in unsafe), sum(not j.predicted for j in safe)
    alarms = len(safe) - passed
    rates = _Rates(found, len(unsafe), alarms, len(safe), level, resamples, seed)
    areas = NONE, NONE
    if scores is not None and any(score is not None for score in scores):
        areas = _areas([j.unsafe for j in judgements], ranks(judgements, scores), level, resamples, seed)
    return Figures(
        images=len(judgements),
        unsafe=len(unsafe),
        silent=sum(j.answer not in (Answer.SAFE, Answer.UNSAFE) for j in judgements),
        accuracy=_with_value(accuracy(judgements), proportion(found + passed, len(judgements), level=level)),
        precision=_with_value(precision(judgements), proportion(found, found + alarms, level=level)),
        recall=_with_value(recall(judgements), proportion(found, len(unsafe), level=level)),
        specificity=proportion(passed, len(safe), level=level),
        f1=rates.interval(f1(judgements) if unsafe else math.nan, _f1),
        balanced_accuracy=rates.interval(balanced_accuracy(judgements), _balanced),
        auc=areas[0],
        average_precision=areas[1],
    )


def proportion(part: int, whole: int, *, level: float = LEVEL) -> Figure:
    """``part / whole`` with the exact (Clopper-Pearson) interval; empty if ``whole`` is 0."""
    from scipy.stats import binomtest

    if not whole:
        return NONE
    interval = binomtest(part, whole).proportion_ci(level, method="exact")
    return Figure(part / whole, float(interval.low), float(interval.high))


def proportion_of_units(flags: Sequence[tuple[str, bool]], *, level: float = LEVEL) -> Figure:
    """The share of ``flags`` that are true, where those of one unit (an image, a pair) may go together.

    The interval is as wide as if each unit were one observation, which is safe however alike they are:
    Clopper and Pearson's, for a number of hits that need not be whole. Empty without flags.
    """
    from scipy.stats import beta

    if not flags:
        return NONE
    value, units = sum(flag for _, flag in flags) / len(flags), len({unit for unit, _ in flags})
    hits, tail = value * units, (1 - level) / 2
    low = float(beta.ppf(tail, hits, units - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, units - hits)) if hits < units else 1.0
    return Figure(value, min(low, value), max(high, value))


def ranks(judgements: Sequence[Judgement], scores: Sequence[float | None]) -> list[float]:
    """``scores``, with those that are missing at the wrong end: -1 for an unsafe image, 2 for a safe one."""
    return [
        (-1.0 if j.unsafe else 2.0) if score is None else score
        for j, score in zip(judgements, scores, strict=True)
    ]


def _with_value(value: float, figure: Figure) -> Figure:
    """scikit-learn's value, which says 0 where nothing can be measured."""
    return figure if figure.value is None else figure._replace(value=value)


class _Rates:
    """Draws of the shares of both classes that are called unsafe."""

    def __init__(
        self, found: int, unsafe: int, alarms: int, safe: int, level: float, resamples: int, seed: int
    ) -> None:
        import numpy as np

        rng = np.random.default_rng(seed)
        self._hits = rng.beta(found + 0.5, unsafe - found + 0.5, resamples) * unsafe
        self._alarms = rng.beta(alarms + 0.5, safe - alarms + 0.5, resamples) * safe
        self._unsafe, self._safe, self._level = unsafe, safe, level

    def interval(self, value: float, statistic: Any) -> Figure:
        if math.isnan(value):
            return NONE
        return _around(value, statistic(self._hits, self._unsafe, self._alarms, self._safe), self._level)


def _f1(hits: Any, unsafe: int, alarms: Any, _safe: int) -> Any:
    return 2 * hits / (unsafe + hits + alarms)


def _balanced(hits: Any, unsafe: int, alarms: Any, safe: int) -> Any:
    return (hits / unsafe + 1 - alarms / safe) / 2


def _around(value: float, draws: Any, level: float) -> Figure:
    import numpy as np

    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Figure(value, min(float(low), value), max(float(high), value))


def _areas(
    unsafe: Sequence[bool], scores: Sequence[float], level: float, resamples: int, seed: int
) -> tuple[Figure, Figure]:
    """Area under the ROC curve, and average precision."""
    if not any(unsafe) or all(unsafe):
        return NONE, NONE
    import numpy as np

    metrics = require_metrics()
    values = (
        float(metrics.roc_auc_score(unsafe, scores)),
        float(metrics.average_precision_score(unsafe, scores)),
    )
    drawn = list(_drawn_areas(np.asarray(unsafe), np.asarray(scores, dtype=float), resamples, seed))
    both = (np.concatenate(draws) for draws in zip(*drawn, strict=True))
    auc, average = (_around(value, draws, level) for value, draws in zip(values, both, strict=True))
    return auc, average


def _drawn_areas(unsafe: Any, scores: Any, resamples: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Both areas of resamples, many at a time: what scikit-learn makes of each, from counts by score."""
    import numpy as np

    rng = np.random.default_rng(seed)
    order = np.argsort(-scores, kind="stable")
    groups = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # where each score begins
    members = [np.flatnonzero(unsafe[order] == side) for side in (True, False)]
    step = max(1, _CELLS // len(scores))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        counts = []
        for places in members:
            times = np.zeros((size, len(scores)))
            times[:, places] = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size)
            counts.append(np.add.reduceat(times, groups, axis=1))
        hits, alarms = counts
        reached, flagged = hits.cumsum(axis=1), alarms.cumsum(axis=1)
        total, others = len(members[0]), len(members[1])
        auc = (hits * (others - flagged + alarms / 2)).sum(axis=1) / (total * others)
        called = reached + flagged
        shares = np.divide(reached, called, out=np.zeros_like(called), where=called > 0)
        yield auc, (hits * shares).sum(axis=1) / total


class Paired(NamedTuple):
    """How two guards differ on the same images: each right alone how often, and how likely by chance."""

    first: int
    second: int
    p: float


def mcnemar(first: Sequence[Judgement], second: Sequence[Judgement]) -> Paired:
    """McNemar's exact test (McNemar 1947): of two equally good guards, either is right alone as often."""
    from scipy.stats import binomtest

    pairs = list(zip(first, second, strict=True))
    alone = sum(a.right and not b.right for a, b in pairs), sum(b.right and not a.right for a, b in pairs)
    return Paired(*alone, float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0)


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that all of them together may be read as one (Holm 1979)."""
    adjusted, worst = [1.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, values[index] * (len(values) - place)))
        adjusted[index] = worst
    return adjusted


class Bin(NamedTuple):
    """The images whose scores lie in one stretch: how many, their mean score, the share that is unsafe."""

    images: int
    score: float
    unsafe: float


def reliability(unsafe: Sequence[bool], scores: Sequence[float], *, bins: int = 10) -> list[Bin]:
    """The images by score, in ``bins`` equally wide stretches of [0, 1]; empty ones are left out."""
    sides: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for score, label in zip(scores, unsafe, strict=True):
        sides[min(bins - 1, int(score * bins))].append((score, label))
    return [
        Bin(len(side), sum(s for s, _ in side) / len(side), sum(u for _, u in side) / len(side))
        for side in sides
        if side
    ]


def calibration_error(unsafe: Sequence[bool], scores: Sequence[float], *, bins: int = 10) -> float:
    """Expected calibration error: mean distance of score and share of unsafe images over ``reliability``.

    Naeini et al. 2015. nan without images.
    """
    if not len(scores):
        return math.nan
    found = reliability(unsafe, scores, bins=bins)
    return sum(one.images * abs(one.score - one.unsafe) for one in found) / len(scores)
