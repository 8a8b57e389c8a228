"""The verdict on one image. ``policyguard.deciding`` makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from threading import Event
from typing import Any, Literal, NoReturn, TypeAlias

from policyguard.assessment import ModelIdentity, Reading, Timings
from policyguard.errors import PolicyGuardError
from policyguard.outcomes import Action, Outcome

__all__ = [
    "Evidence",
    "Finding",
    "ImageChange",
    "PolicyViolation",
    "ShadowCheck",
    "Verdict",
]


class PolicyViolation(PolicyGuardError):  # noqa: N818 (the name users catch; it is a finding, not a fault)
    """An image is blocked. ``verdict`` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that the image breaks, or (``violates=False``) the rule it comes closest to breaking.

    ``score`` is r_k in [0, 1] (see ``decide``), ``None`` where the model gives no scores.
    ``attributed`` is False when no rule is over its own threshold and this is merely the best-scoring one;
    without scores, a rule that the model names is attributed.
    """

    rule: str
    title: str
    violates: bool
    score: float | None
    action: Action
    policy: str
    attributed: bool = True

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict rests on. Holds no image: hashes, names, numbers.

    Each of ``policies`` has id, version, fingerprint and, where there are any, ``calibration`` and
    ``weakenings``.
    ``unexplained`` says what blocks the image besides its findings: why one of its frames, or one of several
    policies, could not be judged. It is empty exactly when accepting the findings would leave nothing that
    blocks; a verdict that VIOLATES can hold such reasons too.
    ``unchecked``: ids of the rules that the guard did not look at.
    ``known``: the lists of known images that it is on; see ``lists.Hit``.
    ``stages``: of several guards in a row, those that decided on a frame or on a part of a policy.
    ``cached``: all scores came from the verdict cache.
    """

    policies: tuple[Mapping[str, Any], ...] = field(hash=False)
    model: ModelIdentity
    reading: Reading
    image_sha256: str | None = None
    size: tuple[int, int] | None = None
    frames: int = 0
    label_mass: float | None = None
    scoring: str | None = None
    notes: tuple[str, ...] = ()
    timings: Timings = field(default_factory=Timings, compare=False)
    unexplained: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    known: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    cached: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "policies": [dict(policy) for policy in self.policies],
            "model": self.model.to_dict(),
            "reading": self.reading,
            "image_sha256": self.image_sha256,
            "size": None if self.size is None else list(self.size),
            "frames": self.frames,
            "label_mass": self.label_mass,
            "scoring": self.scoring,
            "notes": list(self.notes),
            "timings": self.timings.to_dict(),
            "unexplained": list(self.unexplained),
            "unchecked": list(self.unchecked),
            "stages": list(self.stages),
            "known": [dict(hit) for hit in self.known],
            "cached": self.cached,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """The result of one check.

    ``score`` is P(unsafe | image, policy) in [0, 1], or ``None`` when there is none. ``degraded`` marks an
    image that was let through or flagged though it could not be judged; ``partial`` one of which only some
    frames were looked at. ``retryable``: it could not be judged, and asking again later may help.
    ``normalised``, where it was asked for: what was judged as a PNG or JPEG file that every viewer shows
    alike (no metadata, upright, sRGB; an animation as an animated PNG), to be passed on in the image's place.
    None for an image that is blocked or was not judged. It is never part of ``to_dict``.
    ``shadows``: what the guard's shadows make of the image, known later (see ``ShadowCheck``); only of those
    whose sample it is in. They are no part of what a verdict says: equality and ``to_dict`` leave them out.
    """

    source: str
    outcome: Outcome
    action: Action
    score: float | None
    findings: tuple[Finding, ...]
    rationale: str | None
    reason: str | None
    evidence: Evidence
    degraded: bool = False
    partial: bool = False
    retryable: bool = False
    normalised: bytes | None = field(default=None, repr=False)
    shadows: tuple[ShadowCheck, ...] = field(default=(), repr=False, compare=False)

    @property
    def cached(self) -> bool:
        """Whether all scores came from the verdict cache; the decision never does."""
        return self.evidence.cached

    @property
    def allowed(self) -> bool:
        """Whether the image may pass: the action is not ``BLOCK``."""
        return self.action is not Action.BLOCK

    def __bool__(self) -> bool:
        raise TypeError("a Verdict is neither true nor false: ask for verdict.allowed")

    def raise_for_block(self) -> Verdict:
        """Raise PolicyViolation if the image is blocked, for whatever reason; else return the verdict."""
        if not self.allowed:
            raise PolicyViolation(self)
        return self

    def summary(self) -> str:
        """One line for people: source, action, outcome and why."""
        several = len(self.evidence.policies) > 1
        titles = [
            f"{finding.title}{f' in {finding.policy}' if several else ''}"
            f"{'' if finding.attributed else ' (closest)'}"
            for finding in self.findings
            if finding.violates
        ]
        why = self.reason or (f"breaks {', '.join(titles)}" if titles else "")
        why = why.removeprefix(f"{self.source}: ")
        score = "" if self.score is None else f", score {self.score:.2f}"
        return f"{self.source}: {self.action} ({self.outcome}{score})" + (f" - {why}" if why else "")

    def __repr__(self) -> str:
        return f"<Verdict {self.summary()}>"

    def to_dict(self) -> dict[str, Any]:
        """A stable, JSON-ready form; docs/verdict.md lists its fields."""
        return {
            "source": self.source,
            "outcome": self.outcome,
            "action": self.action,
            "allowed": self.allowed,
            "score": self.score,
            "findings": [finding.to_dict() for finding in self.findings],
            "rationale": self.rationale,
            "reason": self.reason,
            "degraded": self.degraded,
            "partial": self.partial,
            "cached": self.cached,
            "evidence": self.evidence.to_dict(),
        }

    def to_json(self) -> str:
        """``to_dict`` as one line of JSON, in ASCII: a model's broken characters cannot break the line."""
        return json.dumps(self.to_dict(), allow_nan=False)


@dataclass(frozen=True, slots=True)
class ImageChange:
    """One image, judged twice: under two policies, or by two models."""

    source: str
    before: Verdict
    after: Verdict

    @property
    def changed(self) -> bool:
        """Whether its outcome or its action differs."""
        return (self.before.outcome, self.before.action) != (self.after.outcome, self.after.action)

    @property
    def differs(self) -> bool:
        """Whether it changed, or breaks other rules."""
        return self.changed or set(violated(self.before)) != set(violated(self.after))

    @property
    def weaker(self) -> bool:
        """Whether the second action is milder."""
        return self.after.action.severity < self.before.action.severity

    @property
    def shift(self) -> float | None:
        """By how much the score rose, in [-1, 1]; ``None`` unless both have one."""
        if self.before.score is None or self.after.score is None:
            return None
        return self.after.score - self.before.score

    @property
    def rules(self) -> tuple[str, ...]:
        """The ids of the rules that a change is put down to, sorted; empty where nothing changed.

        They are those that only one of the two says are broken, else those that both do.
        """
        if not self.changed:
            return ()
        before, after = (set(violated(verdict)) for verdict in (self.before, self.after))
        return tuple(sorted((before ^ after) or (before | after)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "image_sha256": self.after.evidence.image_sha256,
            "changed": self.changed,
            "before": in_short(self.before),
            "after": in_short(self.after),
        }


def in_short(verdict: Verdict) -> dict[str, Any]:
    """What is compared of a verdict, JSON-ready."""
    whole = verdict.to_dict()
    names = ("outcome", "action", "score", "reason", "degraded", "partial")
    return {name: whole[name] for name in names} | {"findings": violated(verdict)}


def violated(verdict: Verdict) -> list[str]:
    """The ids of the rules that the image breaks, those with the highest scores first."""
    return [finding.rule for finding in verdict.findings if finding.violates]


ShadowState: TypeAlias = Literal["waiting", "judged", "failed", "dropped"]


class ShadowCheck:
    """What a shadow makes of an image. The answer does not wait for it, so it is known later.

    ``name`` is the shadow's. ``state``: ``waiting``; ``judged``; ``failed`` (the shadow's model or server
    did); ``dropped`` (its queue was full, or it was closed). A copy that went through pickle keeps what was
    known when it was made, and one that was waiting then is ``dropped``. Thread-safe.
    """

    __slots__ = ("_known", "_state", "_verdict", "name")

    def __init__(self, name: str, state: ShadowState = "waiting", verdict: Verdict | None = None) -> None:
        self.name = name
        self._known = Event()
        self._state: ShadowState = state
        self._verdict = verdict
        if state != "waiting":
            self._known.set()

    @property
    def state(self) -> ShadowState:
        return self._state

    @property
    def verdict(self) -> Verdict | None:
        """The shadow's verdict, if there is one by now."""
        return self._verdict

    def wait(self, timeout: float | None = None) -> Verdict | None:
        """The shadow's verdict. Waits until it is known or will not be, for at most ``timeout`` seconds.

        ``None`` where there is none. It blocks: on an event loop, ``await asyncio.to_thread(check.wait)``.
        """
        self._known.wait(timeout)
        return self._verdict

    def settle(self, state: ShadowState, verdict: Verdict | None = None) -> None:
        """For the shadow itself: it is known now."""
        self._verdict = verdict
        self._state = state
        self._known.set()

    def __repr__(self) -> str:
        return f"<ShadowCheck {self.name}: {self._state}>"

    def __copy__(self) -> ShadowCheck:
        return self

    def __deepcopy__(self, memo: object) -> ShadowCheck:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        state, verdict = self._state, self._verdict  # in this order: the verdict is set first
        return ShadowCheck, (self.name, "dropped" if state == "waiting" else state, verdict)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: object, handler: Any) -> Any:
        """For models of pydantic that hold a Verdict: as JSON, a check is what a pickled one is."""
        from pydantic_core import core_schema as schemas

        fields = handler.generate_schema(_Settled)
        made = schemas.no_info_after_validator_function(
            lambda known: cls(known.name, known.state, known.verdict), fields
        )
        shown = schemas.plain_serializer_function_ser_schema(
            lambda check: _Settled(*check.__reduce__()[1]), return_schema=fields
        )
        return schemas.union_schema([schemas.is_instance_schema(cls), made], serialization=shown)


@dataclass(frozen=True, slots=True)
class _Settled:
    """What is known of a ShadowCheck at one time."""

    name: str
    state: ShadowState
    verdict: Verdict | None


def _unchanged(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"a {type(self).__name__} cannot be changed, and '{name}' is part of it")


for _class in (Finding, Evidence, Verdict, ImageChange):
    # What a frozen dataclass with slots does by itself for a property is an error about super().
    _class.__setattr__ = _unchanged  # type: ignore[method-assign]
