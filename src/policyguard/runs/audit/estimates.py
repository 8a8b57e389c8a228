"""Shares with 95% intervals, and what a sample that people labelled says about all rows.

- One share: Wilson's score interval (E. B. Wilson, JASA 22, 1927; recommended by Brown, Cai and DasGupta,
  Statistical Science 16, 2001).
- The difference of two shares: Newcombe's method 10 (R. G. Newcombe, Statistics in Medicine 17, 1998).
- A mean over prompts: the percentile bootstrap (B. Efron, Annals of Statistics 7, 1979).
- Precision, recall and prevalence from a stratified sample: the estimator that weights each stratum by its
  size (W. G. Cochran, Sampling Techniques, 1977, chapter 5), with intervals from a posterior per stratum (see
  ``corrected``), because a normal interval has no width where a stratum shows nothing unsafe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Share", "Stratum", "corrected", "difference", "mean_of", "wilson", "worst_of"]

_Z = 1.959963984540054
_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Share:
    """A figure and the ends of its 95% interval; ``part`` of ``of`` where it is a plain share."""

    value: float
    low: float
    high: float
    part: int | None = None
    of: int | None = None

    def to_dict(self) -> dict[str, float | int]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


def wilson(part: int, of: int) -> Share | None:
    """``part`` of ``of`` as a share with Wilson's interval; None of nothing."""
    if not of:
        return None
    share, scale = part / of, 1 + _Z * _Z / of
    centre = (share + _Z * _Z / (2 * of)) / scale
    half = _Z * math.sqrt(share * (1 - share) / of + _Z * _Z / (4 * of * of)) / scale
    low = 0.0 if part == 0 else max(0.0, centre - half)
    high = 1.0 if part == of else min(1.0, centre + half)
    return Share(share, low, high, part, of)


def difference(first: Share | None, second: Share | None) -> Share | None:
    """``second`` less ``first``, both Wilson's and of different rows, with Newcombe's interval."""
    if first is None or second is None:
        return None
    value = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return Share(value, value - below, value + above)


def worst_of(scores: np.ndarray[Any, Any], groups: np.ndarray[Any, Any], k: int) -> np.ndarray[Any, Any]:
    """For each group: the expected highest of ``k`` draws, with replacement, from its ``scores``.

    This is what drawing without end would give (the ideal bootstrap): of n scores x_1 <= ... <= x_n it is the
    sum of x_i ((i/n)^k - ((i-1)/n)^k). ``groups`` are numbers from 0 and sorted; each has at least one score.
    """
    import numpy as np

    order = np.lexsort((scores, groups))
    sizes = np.bincount(groups)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.arange(len(scores)) - starts[groups]
    size = sizes[groups].astype(np.float64)
    weight = ((rank + 1) / size) ** k - (rank / size) ** k
    return np.asarray(np.bincount(groups, weights=scores[order] * weight))


def mean_of(values: np.ndarray[Any, Any], *, seed: int = 0) -> Share | None:
    """The mean of ``values``, with the 95% percentile interval of 1,000 bootstrap samples (200 of more than
    10,000 values); None of none.
    """
    import numpy as np

    if not len(values):
        return None
    random = np.random.default_rng(seed)
    means = [
        float(values[random.integers(0, len(values), len(values))].mean())
        for _ in range(1000 if len(values) <= 10_000 else 200)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return Share(float(values.mean()), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Stratum:
    """Rows that were sampled alike: ``size`` of them, ``labelled`` at random, of which ``unsafe`` are.

    ``called``: whether the guard found a violation in all of them, or in none.
    """

    name: str
    called: bool
    size: int
    labelled: int
    unsafe: int


def corrected(strata: Sequence[Stratum], *, seed: int = 0) -> dict[str, Share] | None:
    """Precision, recall and prevalence of all rows, from the labels of a stratified sample.

    With N rows in a stratum, n of them labelled and x of those unsafe, the stratum holds N x / n unsafe rows.
    Precision is their sum over the strata called unsafe by those strata's size, recall the same sum by the
    sum over all strata, prevalence the sum over all strata by all rows.

    Intervals: 20,000 times, each stratum's share of unsafe rows is drawn from its posterior, which is
    Beta(x + a, n - x + a), and the unsafe ones among its rows without a label from a binomial distribution of
    that share. The ends are the quantiles 2.5% and 97.5%. A stratum that was labelled whole thus adds no
    uncertainty. ``a`` is 1/2 (Jeffreys' prior) divided by the number of strata on the same side, so that the
    prior weighs as much as one row on each side, however many strata there are.

    None if a stratum with rows has no label: nothing is known about it. Precision is left out where nothing
    is called unsafe, recall where nothing is unsafe.
    """
    import numpy as np

    held = [stratum for stratum in strata if stratum.size]
    if not held or any(not stratum.labelled for stratum in held):
        return None
    random = np.random.default_rng(seed)
    called = np.array([stratum.called for stratum in held])
    size = np.array([stratum.size for stratum in held], dtype=np.int64)
    labelled = np.array([stratum.labelled for stratum in held], dtype=np.int64)
    unsafe = np.array([stratum.unsafe for stratum in held], dtype=np.int64)
    prior = 0.5 / np.where(called, called.sum(), (~called).sum())
    share = random.beta(unsafe + prior, labelled - unsafe + prior, size=(_DRAWS, len(held)))
    drawn = unsafe + random.binomial(size - labelled, share)
    estimate = (size * unsafe / labelled)[None, :]

    def figures(found: Any) -> dict[str, Any]:
        hits, every = found[:, called].sum(axis=1), found.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "precision": hits / size[called].sum(),
                "recall": hits / every,
                "prevalence": every / size.sum(),
            }

    points, draws = figures(estimate), figures(drawn)
    result = {}
    for name, values in draws.items():
        point = float(points[name][0])
        if math.isnan(point):
            continue
        low, high = np.nanquantile(values, (0.025, 0.975))
        result[name] = Share(point, min(float(low), point), max(float(high), point))
    return result
