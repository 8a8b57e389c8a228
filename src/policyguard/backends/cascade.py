"""Guards in a row: a cheap stage decides what is clear to it, the next stage what is not.

A stage with a band calls an image violating from the band's high end on and, below its low end, safe; what
lies between goes to the next stage. A stage without a band decides all that reaches it. Stages may look at
some rules only: then a policy is judged in parts, each by the stages of its rules, and the worst part counts.

Covered: a stage calls an image safe only below a low end that was measured on this very model and policy to
miss no more than the owner allows; whatever it fails on, cannot decide or did not look at goes on to the next
stage; a violation stands only where no rule has a more severe action: a mild rule hides no severe one.
Not covered: images that are unlike those that the band was measured on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Result
from policyguard.backends.base import AssessmentRequest, Backend, checked, failures
from policyguard.backends.stats import GuardStats
from policyguard.deciding import decide
from policyguard.errors import ConfigurationError
from policyguard.outcomes import Outcome
from policyguard.strict.files import write_text
from policyguard.strict.jsontext import JsonError, parse_json

if TYPE_CHECKING:
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = ["CASCADE", "CascadeBackend", "MeasuredBand", "Stage", "model_digest", "policy_digest"]

CASCADE = "cascade"
"""``ModelIdentity.backend`` of guards in a row: thresholds say who answers, so cache keys hold them too."""
_FORMAT = 1
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredBand:
    """Below which score a stage may call an image safe, and from which one violating, as measured.

    Attributes:
        low: below it a score is *safe*. 0 where the sample carries no such promise.
        high: from it on a score *violates*; ``None``: never.
        miss: of all unsafe images, the share that scores below ``low`` is at most this, with ``confidence``.
        unsafe, safe: how many labelled images of each it was measured on.
        model: ``model_digest`` of the model that gave the scores.
        policy: ``policy_digest`` of the policy that they were given under.
        data: SHA-256 of the scores and labels.
    """

    low: float
    high: float | None
    miss: float
    confidence: float
    unsafe: int
    safe: int
    model: str
    policy: str
    data: str = ""

    def __post_init__(self) -> None:
        _ends(self.low, self.high)
        if not 0.0 <= self.miss <= 1.0 or not 0.0 < self.confidence < 1.0:
            raise ConfigurationError("the band's miss rate and confidence must be shares between 0 and 1")

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all. Raises OSError."""
        write_text(Path(path), json.dumps({"policyguard_band": _FORMAT} | asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> MeasuredBand:
        """What ``save`` wrote. Raises ConfigurationError, in one line, for anything else."""
        try:
            with Path(path).open("rb") as file:
                content = parse_json(file.read(_MAX_BYTES))
            if not isinstance(content, dict) or content.pop("policyguard_band", None) != _FORMAT:
                raise ValueError(f'it has no "policyguard_band": {_FORMAT}')
            kinds = {"low": float, "miss": float, "confidence": float, "unsafe": int, "safe": int}
            for name in cls.__slots__:
                kind = kinds.get(name, str)
                value = content[name]
                if name == "high" and value is None:
                    continue
                kind = float if name == "high" else kind
                if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
                    raise ValueError(f"'{name}' is {value!r}")
            return cls(**content)
        except FileNotFoundError:
            raise ConfigurationError(
                f"there is no band file {path}", hint="measure one: policyguard.authoring.measure_band"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
        except KeyError as error:
            raise ConfigurationError(f"{path} is not a measured band: {error} is missing") from None
        except (JsonError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{path} is not a measured band: {error}") from None

    def fits(self, model: ModelIdentity, policy: ResolvedPolicy) -> bool:
        """Whether it was measured on this model under this policy."""
        own = policy.calibration is None  # the scores are the model's own, as those that were measured
        return own and self.model == model_digest(model) and self.policy == policy_digest(policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One guard in a row of several.

    Args:
        model, base_url, api_key, dialect, subset: as for ``Guard``. The environment's model and servers are
            not used; its POLICYGUARD_API_KEY is where one stage alone has a ``base_url``.
        key_variable: the environment variable that holds the key for ``base_url``.
        backend: a built backend in their place, which is not closed with the guard.
        rules: ids of the rules that it looks at; default: all.
        band: (low, high), or a ``MeasuredBand``, or the path of its file. Outside of it the stage decides,
            inside the next one does. Without a band the stage decides everything.
        misses: the share of unsafe images that the stage may call safe, such as 0.005. It needs a measured
            band whose bound is no higher. Without it the stage calls nothing safe.
        name: how the evidence calls it; default: the model's name.

    Raises ConfigurationError.
    """

    model: str | None = None
    base_url: str | Sequence[str] | None = None
    api_key: str | None = field(default=None, repr=False)
    key_variable: str | None = None
    dialect: str | Dialect | None = None
    subset: bool = False
    backend: Backend | None = None
    rules: tuple[str, ...] | None = None
    band: MeasuredBand | tuple[float, float | None] | str | Path | None = None
    misses: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.backend is None and self.model is None) or (
            self.backend is not None and (self.model or self.base_url or self.api_key or self.dialect)
        ):
            raise ConfigurationError("a stage has either a model or a built backend")
        if self.rules is not None:
            if isinstance(self.rules, str) or not self.rules:
                raise ConfigurationError("the rules of a stage are a list of ids", hint="rules=('nudity',)")
            object.__setattr__(self, "rules", tuple(self.rules))
        self._read_band()

    def _read_band(self) -> None:
        band, misses = self.band, self.misses
        if isinstance(band, str | Path):
            band = MeasuredBand.load(band)
        elif isinstance(band, list | tuple):
            if len(band) != 2:
                raise ConfigurationError(f"a band has a low and a high end, not {band!r}")
            band = (band[0], band[1])
            _ends(*band)
        elif band is not None and not isinstance(band, MeasuredBand):
            raise ConfigurationError(f"band is of type {type(band).__name__}", hint="give (low, high)")
        object.__setattr__(self, "band", band)
        number = isinstance(misses, int | float) and not isinstance(misses, bool)
        if misses is not None and not (number and 0.0 < misses < 1.0):
            raise ConfigurationError(f"misses must be a share between 0 and 1, such as 0.005, not {misses!r}")
        measure = "measure it with policyguard.authoring.measure_band, which gives a band to put here"
        if isinstance(band, tuple) and band[0] > 0.0:
            raise ConfigurationError(
                f"a stage would call everything below {band[0]:g} safe, and nothing says how much it misses",
                hint=f"{measure}; or a band from 0 to {band[1]:g} lets it decide violations alone",
            )
        if misses is not None and not isinstance(band, MeasuredBand):
            raise ConfigurationError(f"misses={misses:g} needs a measured band", hint=measure)
        if misses is not None and isinstance(band, MeasuredBand) and band.low > 0.0 and band.miss > misses:
            raise ConfigurationError(
                f"the band was measured to miss up to {band.miss:.4f} of what is unsafe, and misses="
                f"{misses:g} is allowed",
                hint="measure it with a lower miss rate, or on more unsafe images",
            )

    @property
    def title(self) -> str:
        """How the evidence calls it."""
        if self.name:
            return self.name
        if self.model is not None:
            return str(self.model)
        return self.built.model.id

    @property
    def ends(self) -> tuple[float, float | None]:
        """The low and the high end of the band; without one, there is nothing outside of it."""
        if isinstance(self.band, MeasuredBand):
            return self.band.low, self.band.high
        return self.band if isinstance(self.band, tuple) else (0.0, None)

    @property
    def built(self) -> Backend:
        """Its backend. Raises ConfigurationError where there is none yet."""
        if self.backend is None:
            raise ConfigurationError(
                f"stage '{self.title}' has no backend yet", hint="Guard(stages=...) builds it"
            )
        return self.backend

    def decides(self, request: AssessmentRequest, result: Result, model: ModelIdentity) -> bool:
        """Whether what this stage answers stands, and no other is asked."""
        band = self.band
        if band is None:
            return True
        if isinstance(result, Failure):
            return False
        try:
            decision = decide(request.policy, result)
        except Exception:  # an answer that cannot be decided on
            return False
        low, high = self.ends
        score = decision.score
        if score is None:
            return False
        if decision.outcome is Outcome.VIOLATES:
            severest = decision.action.severity >= _severest(request.policy)
            return high is not None and score >= high and severest
        return (
            decision.outcome is Outcome.COMPLIES
            and self.misses is not None
            and isinstance(band, MeasuredBand)
            and max(score, result.blind_below) < low
            and band.fits(model, request.policy)
        )

    def identity(self) -> dict[str, Any]:
        """All that its answers depend on, and which of them stand."""
        band = asdict(self.band) if isinstance(self.band, MeasuredBand) else self.band
        return {
            "model": self.built.model.to_dict(),
            "rules": self.rules,
            "band": band,
            "misses": self.misses,
        }

    def __str__(self) -> str:
        words = [self.title]
        if self.rules is not None:
            words.append(f"for {','.join(self.rules)}")
        if self.band is not None:
            low, high = self.ends
            safe = f"safe below {low:g} (misses {self.misses:g})" if self.misses and low else "never safe"
            words.append(f"{safe}, {'never violates' if high is None else f'violates from {high:g}'}")
        return " ".join(words)


_Chain: TypeAlias = tuple[int, ...]
"""Numbers of the stages that are asked about a part of a policy, in order; the last one has no band."""


@dataclass(slots=True)
class _Open:
    """A request on its way; ``at`` is its place in ``chain``, ``cached`` whether no model was asked yet."""

    request: AssessmentRequest
    chain: _Chain
    at: int = 0
    cached: bool = True


class CascadeBackend(Backend):
    """Asks ``stages``, whose backends are built, one after the other. ``Guard(stages=...)`` makes it.

    ``owned``: the backends to close with it. ``asked`` counts the requests that each stage got. Thread-safe.
    Raises ConfigurationError for stages that nobody would ask, or that leave a rule undecided.
    """

    def __init__(self, stages: Sequence[Stage], *, owned: Sequence[Backend] = ()) -> None:
        if not stages:
            raise ConfigurationError("there is no stage", hint="stages=[Stage(model=..., band=...), 'MODEL']")
        if any(isinstance(stage.built, CascadeBackend) for stage in stages):
            raise ConfigurationError("a stage has stages itself", hint="write them into one list")
        if (last := stages[-1]).band is not None:
            raise ConfigurationError(
                f"the last stage, '{last.title}', has a band, and nobody is left to decide inside it",
                hint="leave its band out, or add a stage after it",
            )
        names = [stage.title for stage in stages]
        self.stages = tuple(
            replace(stage, name=name if names.count(name) == 1 else f"{name} #{number}")
            for number, (stage, name) in enumerate(zip(stages, names, strict=True), 1)
        )
        for number, stage in enumerate(self.stages):
            before = (other for other in self.stages[:number] if other.band is None)
            if any(other.rules is None or set(other.rules) >= set(stage.rules or "*") for other in before):
                raise ConfigurationError(
                    f"stage '{stage.title}' would never be asked: a stage before it decides everything",
                    hint="give the stage before it a band, or rules of its own",
                )
        self.asked = [0] * len(self.stages)
        self._owned = tuple(owned)

    def __repr__(self) -> str:
        return f"CascadeBackend({'; '.join(map(str, self.stages))})"

    @property
    def model(self) -> ModelIdentity:
        """The stages together: ``settings`` names them, and a digest of all that their answers rest on."""
        whole = [stage.identity() for stage in self.stages]
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        return ModelIdentity(
            id=" > ".join(stage.title for stage in self.stages),
            backend=CASCADE,
            world=self._backends[-1].model.world,
            settings=f"{'; '.join(map(str, self.stages))}; sha256:{digest}",
        )

    def each(self, wrap: Callable[[Backend], Backend]) -> CascadeBackend:
        """The same stages, the backend of each behind what ``wrap`` puts in front of it."""
        stages = [replace(stage, backend=wrap(stage.built)) for stage in self.stages]
        return CascadeBackend(stages, owned=self._owned)

    @property
    def _backends(self) -> list[Backend]:
        return [stage.built for stage in self.stages]

    @property
    def preferred_batch(self) -> int:
        return max(backend.preferred_batch for backend in self._backends)

    @property
    def preferred_workers(self) -> int:
        return max(backend.preferred_workers for backend in self._backends)

    def make_room(self, workers: int) -> None:
        for backend in self._backends:
            backend.make_room(workers)

    @property
    def cache_scope(self) -> str:
        scopes = [backend.cache_scope for backend in self._backends]
        return hashlib.sha256(json.dumps(scopes).encode()).hexdigest() if any(scopes) else ""

    def aside(self) -> CascadeBackend:
        """The same stages, each with what keeps its calls apart from those of this one."""
        twins = [backend.aside() for backend in self._backends]
        own = [twin for twin, backend in zip(twins, self._backends, strict=True) if twin is not backend]
        stages = [replace(stage, backend=twin) for stage, twin in zip(self.stages, twins, strict=True)]
        return CascadeBackend(stages, owned=own) if own else self

    def parts(self, policy: ResolvedPolicy) -> tuple[ResolvedPolicy, ...]:
        """``policy``, cut by which stages look at its rules; exempt rules stay in every part."""
        chains = self._chains(policy)
        distinct = tuple(dict.fromkeys(chains.values()))
        if len(distinct) < 2:
            return (policy,)
        return tuple(
            replace(policy, rules=tuple(r for r in policy.rules if chains.get(r.id, chain) == chain))
            for chain in distinct
        )

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises what a stage raises that cannot be asked about its part of ``policy``."""
        for part in self.parts(policy):
            for number in self._chain(part):
                self._backends[number].accept(part)

    def stats(self) -> GuardStats:
        parts = {stage.title: one.stats() for stage, one in zip(self.stages, self._backends, strict=True)}
        return replace(GuardStats.together(list(parts.values())), stages=parts)

    def warm(self) -> None:
        for backend in self._backends:
            backend.warm()

    def close(self) -> None:
        for backend in self._owned:
            backend.close()

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request, in order. Raises UsageError if the set-up of a stage is wrong."""
        steps = self._steps(requests)
        try:
            number, asked = next(steps)
            while True:
                try:
                    results: Sequence[Result] = self._backends[number].assess(asked)
                except Exception as error:
                    results = failures(error, len(asked))
                number, asked = steps.send(results)
        except StopIteration as done:
            answers: list[Result] = done.value
            return answers

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        steps = self._steps(requests)
        try:
            number, asked = next(steps)
            while True:
                try:
                    results: Sequence[Result] = await self._backends[number].aassess(asked)
                except Exception as error:
                    results = failures(error, len(asked))
                number, asked = steps.send(results)
        except StopIteration as done:
            answers: list[Result] = done.value
            return answers

    def _steps(
        self, requests: Sequence[AssessmentRequest]
    ) -> Generator[tuple[int, list[AssessmentRequest]], Sequence[Result], list[Result]]:
        """Yields which stage is asked what, and returns one result per request."""
        results: dict[int, Result] = {}
        waiting: dict[int, _Open] = {}
        for index, request in enumerate(requests):
            try:
                waiting[index] = _Open(request, self._chain(request.policy))
            except ConfigurationError as error:
                results[index] = Failure(FailureKind.ERROR, str(error))
        for number, stage in enumerate(self.stages):
            turn = {index: one for index, one in waiting.items() if one.chain[one.at] == number}
            for index, one in list(turn.items()):
                if one.at and one.request.deadline is not None and monotonic() >= one.request.deadline:
                    results[index] = Failure(FailureKind.ERROR, "did not finish in time", retryable=True)
                    del turn[index], waiting[index]
            if not turn:
                continue
            self.asked[number] += len(turn)
            answers = checked((yield number, [one.request for one in turn.values()]), len(turn))
            model = self._backends[number].model
            for (index, one), answer in zip(turn.items(), answers, strict=True):
                one.cached &= isinstance(answer, Assessment) and answer.cached
                if not stage.decides(one.request, answer, model):
                    one.at += 1
                    continue
                if isinstance(answer, Assessment):
                    results[index] = replace(answer, stage=stage.title, cached=one.cached)
                else:
                    results[index] = replace(answer, stage=stage.title)
                del waiting[index]
        return [results[index] for index in range(len(requests))]

    def _chains(self, policy: ResolvedPolicy) -> dict[str, _Chain]:
        """The stages that each rule which forbids something is put to. Raises ConfigurationError."""
        chains = {}
        for rule in policy.rules:
            if rule.status != "exempt":
                chains[rule.id] = self._chain_of(rule.id, policy)
        return chains

    def _chain_of(self, rule: str | None, policy: ResolvedPolicy) -> _Chain:
        chain: list[int] = []
        for number, stage in enumerate(self.stages):
            if stage.rules is None or rule in stage.rules:
                chain.append(number)
                if stage.band is None:
                    return tuple(chain)
        raise ConfigurationError(
            f"no stage decides on rule '{rule}' of policy '{policy.id}'",
            hint="add a last stage without rules, which takes all others",
        )

    def _chain(self, part: ResolvedPolicy) -> _Chain:
        """The stages of all rules of ``part``. Raises ConfigurationError where its rules have several."""
        chains = set(self._chains(part).values()) or {self._chain_of(None, part)}
        if len(chains) > 1:
            raise ConfigurationError(
                f"the rules of policy '{part.id}' are looked at by several stages",
                hint="ask about its `parts` one by one, as Guard does",
            )
        return chains.pop()


def model_digest(model: ModelIdentity) -> str:
    """SHA-256, in hex, of what makes a model give the scores it gives, but for versions of libraries.

    Where the hash of the weights is known, the name under which they lie does not count.
    """
    values = model.to_dict()
    del values["backend_version"]
    if (model.revision or "").startswith("sha256:"):
        del values["id"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def policy_digest(policy: ResolvedPolicy) -> str:
    """Names what a model or sensor is asked: the policy's fingerprint, with the signals of its rules."""
    signals = {rule.id: list(rule.signals) for rule in policy.rules if rule.signals}
    if not signals:
        return policy.fingerprint
    return hashlib.sha256(json.dumps([policy.fingerprint, signals], sort_keys=True).encode()).hexdigest()


def _severest(policy: ResolvedPolicy) -> int:
    actions = [rule.action or policy.action for rule in policy.rules if rule.status != "exempt"]
    return max(action.severity for action in (policy.action, *actions))


def _ends(low: object, high: object) -> None:
    ends: Mapping[str, object] = {"low": low} if high is None else {"low": low, "high": high}
    for name, end in ends.items():
        if isinstance(end, bool) or not isinstance(end, int | float) or not 0.0 <= end <= 1.0:
            raise ConfigurationError(f"the {name} end of a band must be in [0, 1], not {end!r}")
    if high is not None and low > high:  # type: ignore[operator]
        raise ConfigurationError(f"the band's low end {low} lies above its high end {high}")
