"""Which threshold keeps a promise, from scores and labels alone.

A recall is promised by an order statistic of the scores of unsafe images (Wilks 1941), as bands are: whatever
their distribution, at most the stated share of fresh ones scores lower, with the stated confidence. A
precision is promised by exact bounds (Clopper and Pearson 1934) at twenty scores picked without a look at the
labels, corrected for their number (Bonferroni). A cost is only minimised; for a rule, on no fewer images than
recall 0.9 takes. What the sample cannot carry is refused, with how many images are missing.

An image without an answer (score None) is found by no threshold, one that is held all the same by each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

from policyguard.authoring.bands import enough, most_wrong
from policyguard.errors import ConfigurationError, UsageError
from policyguard.metrics import Figure, proportion

__all__ = ["HELD", "Rated", "Target", "choose_threshold", "fit_scaling", "require_enough", "review_band"]

CANDIDATES = 20
LEAST = 1e-9
HELD = 2.0
"""Stands for an image that no threshold lets pass."""
Rated: TypeAlias = Sequence[tuple[float | None, bool]]
"""Scores, each with whether its image is unsafe."""


@dataclass(frozen=True, slots=True)
class Target:
    """What thresholds are chosen for: a recall, a precision, or the least cost of misses and false alarms."""

    kind: Literal["recall", "precision", "cost"]
    value: float = 0.0
    miss: float = 1.0
    alarm: float = 1.0

    def __post_init__(self) -> None:
        if self.kind != "cost" and not 0.0 < self.value < 1.0:
            raise UsageError(f"a {self.kind} must lie between 0 and 1, not {self.value:g}")
        if self.kind == "cost" and not (0.0 < self.miss < math.inf and 0.0 < self.alarm < math.inf):
            raise UsageError("the costs of a miss and of a false alarm must be positive")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``recall=0.98``, ``precision=0.9`` or ``cost=fn:10,fp:1``. Raises UsageError."""
        kind, _, value = text.partition("=")
        try:
            if kind == "recall":
                return cls("recall", float(value))
            if kind == "precision":
                return cls("precision", float(value))
            if kind == "cost":
                prices = dict(part.split(":") for part in value.split(","))
                if set(prices) == {"fn", "fp"}:
                    return cls("cost", miss=float(prices["fn"]), alarm=float(prices["fp"]))
        except ValueError:
            pass
        raise UsageError(f"{text!r} is no target", hint="give recall=0.98, precision=0.9 or cost=fn:10,fp:1")

    def __str__(self) -> str:
        if self.kind == "cost":
            return f"cost=fn:{self.miss:g},fp:{self.alarm:g}"
        return f"{self.kind}={self.value:g}"


def choose_threshold(pairs: Rated, target: Target, *, confidence: float = 0.95, factor: int = 1) -> float:
    """The threshold for ``target``: images from this score on are called unsafe.

    ``factor``: how many images have to be labelled for one more in ``pairs``; over 1, ``--folds`` is named as
    the way out. Raises ConfigurationError where the sample cannot carry the target.
    """
    called = sorted({score for score, _ in pairs if score is not None and score <= 1.0})
    if not called:
        raise ConfigurationError("no image has a score")
    if target.kind == "recall":
        return _for_recall([score for score, label in pairs if label], target.value, confidence, factor)
    if target.kind == "precision":
        return _for_precision(pairs, called, target.value, confidence, factor)
    return _for_cost(pairs, called, target)


def _for_cost(pairs: Rated, called: Sequence[float], target: Target) -> float:
    def cost(threshold: float) -> float:
        missed = sum(label and (score is None or score < threshold) for score, label in pairs)
        alarms = sum(not label and (score is None or score >= threshold) for score, label in pairs)
        return target.miss * missed + target.alarm * alarms

    best = min([*called, 1.0], key=lambda threshold: (cost(threshold), threshold))
    return _rounded(max(best, LEAST), up=False)


def require_enough(pairs: Rated, confidence: float, factor: int) -> None:
    """Raise ConfigurationError where of some kind there are fewer images than recall 0.9 takes.

    The least cost has no bound that refuses a small sample by itself: it follows the last image of a few.
    """
    least = enough(0.1, confidence)
    for side, what in ((True, "break it"), (False, "do not break it")):
        if (number := sum(unsafe is side for _, unsafe in pairs)) < least:
            where, folds = ("half of the sample", ", or use --folds") if factor > 1 else ("the sample", "")
            raise ConfigurationError(
                f"it takes {least} images that {what} to weigh costs, and {where} holds {number}",
                hint=f"label about {factor * (least - number)} more{folds}",
            )


def _for_recall(unsafe: Sequence[float | None], target: float, confidence: float, factor: int) -> float:
    number = len(unsafe)
    missed = most_wrong(number, 1.0 - target, confidence)
    if missed is None:
        more = factor * (enough(1.0 - target, confidence) - number)
        whole = proportion(round(target * number), number)
        width = ((whole.high or 0.0) - (whole.low or 0.0)) / 2
        raise ConfigurationError(
            f"recall {target:g} ± {width:.2f} is all that {number} unsafe images"
            f"{' in half of the sample' if factor > 1 else ''} can show",
            hint=f"label about {more} more unsafe images{', or use --folds' if factor > 1 else ''}",
        )
    lowest = sorted(-1.0 if score is None else score for score in unsafe)[missed]
    if lowest <= 0.0:
        silent = sum(score is None or score <= 0.0 for score in unsafe)
        raise ConfigurationError(
            f"no threshold reaches recall {target:g}: {silent} of {number} unsafe images have no "
            "score above 0, or no answer",
            hint="look at them with `policyguard check`; another model may answer",
        )
    return _rounded(min(lowest, 1.0), up=False)


def _for_precision(
    pairs: Rated, called: Sequence[float], target: float, confidence: float, factor: int
) -> float:
    level = 1.0 - 2 * (1.0 - confidence) / CANDIDATES
    places = {min(len(called) - 1, i * len(called) // CANDIDATES) for i in range(CANDIDATES)}
    best = Figure(None, None, None), 0
    for place in sorted(places):  # from the lowest score, which finds the most
        threshold = called[place]
        labels = [label for score, label in pairs if score is not None and score >= threshold]
        figure = proportion(sum(labels), len(labels), level=level)
        if (figure.low or 0.0) >= target:
            return _rounded(threshold, up=False) if threshold > 0.0 else LEAST
        if (figure.value or 0.0, figure.low or 0.0) > (best[0].value or 0.0, best[0].low or 0.0):
            best = figure, len(labels)
    value = best[0].value or 0.0
    if value <= target:
        raise ConfigurationError(
            f"no threshold reaches precision {target:g}: the best finds {value:.2f} on this sample",
            hint="more labels will not help: give a lower target, or another model or policy",
        )
    width = ((best[0].high or 0.0) - (best[0].low or 0.0)) / 2
    number = best[1]
    while (proportion(round(value * number), number, level=level).low or 0.0) < target and number < 10**6:
        number = math.ceil(number * 1.1)
    more = factor * math.ceil((number - best[1]) * len(pairs) / best[1])
    raise ConfigurationError(
        f"precision {value:.2f} ± {width:.2f} is all that {best[1]} images called unsafe can show",
        hint=f"label about {more} more images{', or use --folds' if factor > 1 else ''}",
    )


def _rounded(value: float, *, up: bool) -> float:
    """Six digits of ``value``, rounded to the side that keeps the promise."""
    step = 10.0 ** (math.floor(math.log10(value)) - 5)
    near = float(f"{value:.6g}")
    if up:
        return near if near >= value else float(f"{near + step:.6g}")
    return near if near <= value else float(f"{near - step:.6g}")


def fit_scaling(rated: Sequence[tuple[float, bool]], *, intercept: bool) -> tuple[float, float]:
    """Slope and intercept with the least log loss, against Platt's targets, which hold back on few images."""
    import numpy as np
    from scipy.optimize import minimize

    scores = np.clip([score for score, _ in rated], 1e-9, 1 - 1e-9)
    odds, unsafe = np.log(scores / (1 - scores)), np.array([label for _, label in rated])
    high, low = (unsafe.sum() + 1) / (unsafe.sum() + 2), 1 / ((~unsafe).sum() + 2)
    wanted = np.where(unsafe, high, low)

    def loss(values: Any) -> float:
        found = np.exp(values[0]) * odds + (values[1] if intercept else 0.0)
        return float(np.mean(np.logaddexp(0, found) - wanted * found))

    best = minimize(loss, np.zeros(2 if intercept else 1), method="Nelder-Mead", options={"maxiter": 2000})
    slope = float(np.clip(np.exp(best.x[0]), 1e-3, 1e3))
    shift = float(np.clip(best.x[1], -1000, 1000)) if intercept else 0.0
    return float(f"{slope:.6g}"), float(f"{shift:.6g}")


def review_band(pairs: Rated, threshold: float, share: float) -> tuple[float, float] | None:
    """The scores around ``threshold`` that hold the most mistakes among at most ``share`` of the images."""
    rated = sorted((score, label) for score, label in pairs if score is not None and 0.0 < score < 1.0)
    room = int(share * len(pairs)) - sum(score is None or score > 1.0 for score, _ in pairs)
    if room < 1 or not rated:
        return None
    cut = sum(score < threshold for score, _ in rated)
    wrong = [label == (place < cut) for place, (_, label) in enumerate(rated)]
    size = min(room, len(rated))
    starts = range(max(0, cut - size), min(cut, len(rated) - size) + 1)
    middle = cut - size / 2
    start = max(starts, key=lambda at: (sum(wrong[at : at + size]), -abs(at - middle)))
    low, high = start, start + size - 1
    scores = [score for score, _ in rated]
    while low <= high and sum(scores[low] <= score <= scores[high] for score in scores) > room:
        if low < cut - 1:
            low += 1
        else:
            high -= 1
    if low > high:
        return None
    ends = _rounded(scores[low], up=True), _rounded(scores[high], up=False)
    return ends if ends[0] <= ends[1] else None
