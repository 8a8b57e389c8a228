"""SensorBackend: a guard made of a sensor, and of what a policy's owner says that its signals mean.

Covered: a policy that the sensor cannot look at as a whole is refused, unless its owner wants the part that
it can; rules that were not looked at are ``unchecked``, which never complies; a signal that is no number in
[0, 1] is an error. Not covered: whether a signal means what the owner takes it to mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Rating, Reading, Result
from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.backends.sensors.base import Sensed, Sensor
from policyguard.backends.stats import GuardStats
from policyguard.errors import ConfigurationError
from policyguard.policy import Status
from policyguard.strict.explain import nearest

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import ResolvedPolicy

__all__ = ["SensorBackend"]


class SensorBackend(Backend):
    """Judges by the signals of ``sensor``: a rule's score is the highest of the signals that it maps to.

    Args:
        sensor: what looks at the images; see ``get_sensor``.
        signals: rule id -> names of signals, in place of what the policy says of those rules.
        subset: accept a policy that the sensor can look at in part only. Rules without a signal are then
            ``unchecked``, and exceptions (``safe`` items, exempt rules) excuse nothing.

    Raises ConfigurationError for a signal that the sensor does not have.
    """

    def __init__(
        self, sensor: Sensor, *, signals: Mapping[str, Sequence[str]] | None = None, subset: bool = False
    ) -> None:
        self.sensor = sensor
        self.subset = subset
        self._signals = {rule: tuple(names) for rule, names in (signals or {}).items()}
        self._require_known(name for names in self._signals.values() for name in names)

    def __repr__(self) -> str:
        return f"SensorBackend({self.sensor.name!r})"

    @property
    def model(self) -> ModelIdentity:
        """The sensor's, with the signals that were given here among its ``settings``."""
        model = self.sensor.model
        if not self._signals:
            return model
        mapped = "; ".join(f"{rule}={','.join(names)}" for rule, names in sorted(self._signals.items()))
        return replace(model, settings=f"{model.settings} signals: {mapped}".lstrip())

    @property
    def preferred_batch(self) -> int:
        return self.sensor.preferred_batch

    @property
    def preferred_workers(self) -> int:
        return self.sensor.preferred_workers

    @property
    def cache_scope(self) -> str:
        return self.sensor.cache_scope

    def mapped(self, policy: ResolvedPolicy) -> dict[str, tuple[str, ...]]:
        """The signals of each rule of ``policy`` that forbids something; none for those not looked at."""
        return {
            rule.id: self._signals.get(rule.id)
            or tuple(
                name.partition("/")[2] for name in rule.signals if name.partition("/")[0] == self.sensor.name
            )
            for rule in policy.rules
            if rule.status is not Status.EXEMPT
        }

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises ConfigurationError for a policy that the sensor cannot look at; see ``subset``."""
        name, mapped = self.sensor.name, self.mapped(policy)
        if policy.world is not None:
            raise ConfigurationError(
                f"policy '{policy.id}' is about 'world: {policy.world}': '{name}' looks at photographs"
            )
        self._require_known(signal for names in mapped.values() for signal in names)
        unmapped = [rule for rule, names in mapped.items() if not names]
        if len(unmapped) == len(mapped):
            raise ConfigurationError(
                f"'{name}' reads no policy, and no rule of '{policy.id}' says which signal to look at",
                hint=f"write `signals: [{name}/{next(iter(self.sensor.signals))}]` into the rules that its "
                f"signals cover; it has {_listed(self.sensor.signals)}",
            )
        problems = [f"it has no signal for {_listed(unmapped)}"] if unmapped else []
        if excused := unread_exceptions(policy, mapped):
            problems.append(f"it cannot read the exceptions of {_listed(excused)}")
        if problems and not self.subset:
            raise ConfigurationError(
                f"'{name}' cannot look at all of policy '{policy.id}': {'; '.join(problems)}",
                hint="subset=True (--subset) judges by the part that it can: rules without a signal are then "
                "unchecked, which leaves an image undecided, and exceptions excuse nothing",
            )

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        frames = _distinct(requests)
        return self._answers(requests, frames, self.sensor.sense(frames, deadline=_deadline(requests)))

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        frames = _distinct(requests)
        sensed = await self.sensor.asense(frames, deadline=_deadline(requests))
        return self._answers(requests, frames, sensed)

    def stats(self) -> GuardStats:
        return self.sensor.stats()

    def warm(self) -> None:
        self.sensor.warm()

    def close(self) -> None:
        self.sensor.close()

    def _require_known(self, names: Iterable[str]) -> None:
        for name in dict.fromkeys(names):
            if name not in (known := self.sensor.signals):
                close = nearest(name, known)
                raise ConfigurationError(
                    f"'{self.sensor.name}' has no signal '{name}' for images",
                    hint=f"did you mean '{close}'?" if close else f"it has {_listed(known)}",
                )

    def _highest(self, names: Sequence[str], sensed: Mapping[str, float]) -> tuple[float, str]:
        """The score of a rule, and which of its signals it is from; shares of one probability add up."""
        present = [name for name in dict.fromkeys(names) if name in sensed]
        shares = [name for name in present if self.sensor.signals[name].kind == "share"]
        scores = [(sensed[name], name) for name in present if name not in shares]
        if shares:
            scores.append((min(1.0, sum(sensed[name] for name in shares)), " + ".join(shares)))
        return max(scores, default=(0.0, ""))

    def _answers(
        self, requests: Sequence[AssessmentRequest], frames: Sequence[PILImage], sensed: Sequence[Sensed]
    ) -> list[Result]:
        of_frame = {id(frame): signals for frame, signals in zip(frames, sensed, strict=True)}
        return [self._answer(request, of_frame[id(request.frame)]) for request in requests]

    def _answer(self, request: AssessmentRequest, sensed: Sensed) -> Result:
        if isinstance(sensed, Failure):
            return sensed
        # `not 0 <= x`, so that a NaN, which is no maximum of anything, does not slip through.
        if wrong := [name for name, score in sensed.items() if not 0.0 <= score <= 1.0]:
            reason = f"'{self.sensor.name}' gave {sensed[wrong[0]]!r}, outside of [0, 1], for '{wrong[0]}'"
            return Failure(FailureKind.ERROR, reason)
        policy, mapped = request.policy, self.mapped(request.policy)
        highest = {rule: self._highest(names, sensed) for rule, names in mapped.items()}
        scores = {rule.id: highest.get(rule.id, (0.0, ""))[0] for rule in policy.rules}
        p_unsafe = max(scores.values())
        notes = [f"{rule}: {name} {score:.3f}" for rule, (score, name) in highest.items() if name]
        if excused := unread_exceptions(policy, mapped):
            notes.append(f"the exceptions of {_listed(excused)} were not read")
        worst = max(scores, key=lambda rule: scores[rule])
        explains = request.reading is Reading.EXPLAIN
        return Assessment(
            rating=Rating.UNSAFE if p_unsafe >= 0.5 else Rating.SAFE,
            p_unsafe=p_unsafe,
            rule_scores=scores,
            scoring="per_rule",
            reading=request.reading,
            category=worst if explains and p_unsafe >= 0.5 else None,
            rationale=f"{self.sensor.name} saw {'; '.join(notes) or 'nothing that it was asked for'}"
            if explains
            else None,
            notes=tuple(notes),
            unchecked=tuple(
                rule for rule, names in mapped.items() if not names or not set(names) <= sensed.keys()
            ),
        )


def unread_exceptions(policy: ResolvedPolicy, mapped: Mapping[str, Sequence[str]]) -> list[str]:
    """The rules whose exceptions a sensor that looks at ``mapped`` passes over."""
    return [
        rule.id
        for rule in policy.rules
        if rule.status is Status.EXEMPT or (rule.status is Status.ACTIVE and rule.safe and mapped[rule.id])
    ]


def _distinct(requests: Sequence[AssessmentRequest]) -> list[PILImage]:
    """Each frame once, however many policies ask about it."""
    return list({id(request.frame): request.frame for request in requests}.values())


def _deadline(requests: Sequence[AssessmentRequest]) -> float | None:
    return min((request.deadline for request in requests if request.deadline is not None), default=None)


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
