"""Where a cheap guard may decide by itself: the band of scores that has to go to a stronger one, measured.

The ends are order statistics of labelled scores. Which one is taken depends on how many images there are and
on the rate that is allowed, never on the scores, so the bound on the rate is exact for any distribution:
with k of n unsafe images below the low end, it is the one of Clopper and Pearson for k misses.

Covered: a sample that cannot carry the promise is refused, with how many images are missing. Not covered:
images of another kind than those measured, and labels that are wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.backends.cascade import CASCADE, MeasuredBand, model_digest, policy_digest
from policyguard.errors import ConfigurationError
from policyguard.guard import Guard, Progress
from policyguard.policy.resolved import require_rule

if TYPE_CHECKING:
    from policyguard.assessment import ModelIdentity
    from policyguard.policy import ResolvedPolicy

__all__ = ["band_of", "measure_band"]


def measure_band(
    guard: Guard,
    images: Iterable[object],
    labels: Sequence[bool],
    *,
    rules: Sequence[str] | None = None,
    misses: float | None = 0.005,
    false_alarms: float | None = 0.01,
    confidence: float = 0.95,
    progress: Progress | None = None,
) -> MeasuredBand:
    """The band of ``guard``, asked about ``images``, of which ``labels`` say what is unsafe. See ``band_of``.

    ``rules``: those of the stage, where it looks at some rules only; the labels are about these.
    Raises ConfigurationError, also for a guard of several policies or stages.
    """
    if len(guard.policies) != 1 or guard.backend.model.backend == CASCADE:
        raise ConfigurationError(
            "a band is measured on one model under one policy", hint="Guard(POLICY, model=THE_CHEAP_ONE)"
        )
    policy = guard.policies[0]
    if rules is not None:
        for rule in rules:
            require_rule([policy], rule, "rules")
        kept = tuple(one for one in policy.rules if one.status == "exempt" or one.id in rules)
        policy = replace(policy, rules=kept)
    # Without lists: it is the model that is measured.
    asked = Guard(policy, backend=guard.backend, timeout=guard.timeout)
    scores = [verdict.score for verdict in asked.check_many(images, progress=progress)]
    return band_of(
        scores,
        labels,
        model=guard.backend.model,
        policy=policy,
        misses=misses,
        false_alarms=false_alarms,
        confidence=confidence,
    )


def band_of(
    scores: Sequence[float | None],
    labels: Sequence[bool],
    *,
    model: ModelIdentity,
    policy: ResolvedPolicy,
    misses: float | None = 0.005,
    false_alarms: float | None = 0.01,
    confidence: float = 0.95,
) -> MeasuredBand:
    """The widest ends that the sample carries.

    Args:
        scores: P(unsafe) of each image (``Verdict.score``); ``None`` where there was none.
        labels: whether each image is unsafe.
        model, policy: what gave the scores; the band counts for nothing else.
        misses: of unsafe images, the share that may score below ``low``; ``None``: nothing is called safe.
        false_alarms: of safe images, the share that may score ``high`` or more; ``None``: nothing is called
            violating.
        confidence: how sure both bounds are, each by itself.

    Raises ConfigurationError where scores and labels do not match, where there are too few of a kind, and for
    a policy with a calibration: guards in a row compare the models' own scores.
    """
    if policy.calibration is not None:
        raise ConfigurationError(
            f"policy '{policy.id}' holds a calibration, and a band is one of the model's own scores",
            hint="measure it under the policy without `calibration:`, which is the one that stages take",
        )
    if len(scores) != len(labels):
        raise ConfigurationError(f"there are {len(scores)} scores and {len(labels)} labels")
    pairs = list(zip(scores, labels, strict=True))
    for number, (score, label) in enumerate(pairs, 1):
        if score is not None and not 0.0 <= score <= 1.0:
            raise ConfigurationError(f"score {number} is {score!r}, not a number in [0, 1]")
        if not isinstance(label, bool):
            raise ConfigurationError(f"label {number} is {label!r}", hint="True for unsafe, False for safe")
    # What has no score goes to the next stage: it is neither missed nor a false alarm.
    unsafe = sorted(2.0 if score is None else score for score, label in pairs if label)
    safe = sorted((-1.0 if score is None else score for score, label in pairs if not label), reverse=True)
    low, high, miss = 0.0, None, 0.0
    if misses is not None:
        missed = _allowed(len(unsafe), misses, confidence, "unsafe")
        low, miss = min(unsafe[missed], 1.0), _bound(missed, len(unsafe), confidence)
    if false_alarms is not None:
        alarms = _allowed(len(safe), false_alarms, confidence, "safe")
        above = math.nextafter(max(safe[alarms], 0.0), 2.0)
        high = above if above <= 1.0 else None
    if high is not None and low > high:  # the kinds lie apart: any end between them keeps both promises
        low = high = (low + high) / 2
    data = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    return MeasuredBand(
        low=low,
        high=high,
        miss=miss,
        confidence=confidence,
        unsafe=len(unsafe),
        safe=len(safe),
        model=model_digest(model),
        policy=policy_digest(policy),
        data=data,
    )


def _allowed(number: int, rate: float, confidence: float, kind: str) -> int:
    """How many of ``number`` images may be wrong while the bound stays within ``rate``."""
    if not 0.0 < rate < 1.0 or not 0.0 < confidence < 1.0:
        raise ConfigurationError("rates and confidence must be shares between 0 and 1")
    if (wrong := most_wrong(number, rate, confidence)) is None:
        raise ConfigurationError(
            f"{number} {kind} images cannot show that at most {rate:g} of them go wrong "
            f"({confidence:.0%} confidence)",
            hint=f"label about {enough(rate, confidence) - number} more, or allow a higher rate",
        )
    return wrong


def enough(rate: float, confidence: float) -> int:
    """How many images show, if none of them goes wrong, that at most ``rate`` do."""
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-rate))


def most_wrong(number: int, rate: float, confidence: float) -> int | None:
    """How many of ``number`` images may go wrong and still show that at most ``rate`` do; None: not one."""
    if _at_most(0, number, rate) > 1.0 - confidence:
        return None
    wrong = 0
    while wrong + 1 < number and _at_most(wrong + 1, number, rate) <= 1.0 - confidence:
        wrong += 1
    return wrong


def _bound(wrong: int, number: int, confidence: float) -> float:
    """The upper end of Clopper and Pearson's one-sided interval for ``wrong`` of ``number``."""
    low, high = wrong / number, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_most(wrong, number, middle) <= 1.0 - confidence else (middle, high)
    return high


def _at_most(wrong: int, number: int, rate: float) -> float:
    """P(X <= wrong) for X ~ Binomial(number, rate)."""
    if rate >= 1.0:
        return 1.0 if wrong >= number else 0.0
    odds, ways = math.log(rate) - math.log1p(-rate), number * math.log1p(-rate)
    total = 0.0
    for count in range(wrong + 1):
        total += math.exp(ways + count * odds)
        ways += math.log((number - count) / (count + 1)) if count < number else 0.0
    return min(1.0, total)
