"""The shadows of a service: another policy or model beside a served one, on a share of the traffic.

They act on nothing, delay nothing and fail nothing (see ``checking.shadow``). A policy's file is looked at as
those of served policies are; where a shadow's policy or the served one changes, counts begin anew, so that no
figure mixes two wordings. Of each image its hash, outcomes, actions and scores are kept for the page, of the
last ones only, and no picture.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from policyguard.errors import ConfigurationError, UsageError
from policyguard.guard import Guard, Shadow, shadow_run
from policyguard.server.policies import Policies, Snapshot, sources
from policyguard.strict.explain import nearest

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.checking.rounds import Opened
    from policyguard.checking.shadow import ShadowRun, Sink
    from policyguard.policy import ResolvedPolicy
    from policyguard.verdict import ImageChange, ShadowCheck, Verdict

__all__ = ["ServiceShadow", "Shadows"]

_log = logging.getLogger("policyguard.server")
_RECENT = 200
_RESULTS = ("compared", "dropped", "failed")
_DIRECTIONS = ("weaker", "stronger", "other")


_Marks = tuple[str, str]


def _marks(policy: ResolvedPolicy) -> _Marks:
    return policy.fingerprint, policy.decision_fingerprint


class _AtWork:
    """A shadow under one state of its policy and of the served one, and what it said so far."""

    def __init__(
        self,
        policy: ResolvedPolicy,
        beside: _Marks | None,
        backend: Backend,
        *,
        share: float,
        timeout: float,
    ) -> None:
        self.policy, self.beside = policy, beside
        self.marks = _marks(policy)
        guard = Guard(policy, backend=backend, timeout=timeout)
        self.run = shadow_run(Shadow(guard, share=share, on_compared=self._note), guard)
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._rules: Counter[tuple[str, str]] = Counter()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)

    def _note(self, change: ImageChange) -> None:
        step = change.after.action.severity - change.before.action.severity
        direction = "weaker" if step < 0 else "stronger" if step > 0 else "other"
        entry = {
            "image_sha256": change.after.evidence.image_sha256,
            "changed": change.changed,
            "rules": list(change.rules),
            "fingerprint": change.after.evidence.policies[0]["fingerprint"],
        }
        for name, verdict in (("before", change.before), ("after", change.after)):
            entry[name] = {"outcome": verdict.outcome, "action": verdict.action, "score": verdict.score}
        with self._lock:
            self._recent.appendleft(entry)
            if change.changed:
                self._rules.update((rule, direction) for rule in change.rules or ("",))
                self._counts.update(["changed", direction])

    def totals(self) -> tuple[Counter[str], Counter[tuple[str, str]]]:
        """Counts, and changes by rule and direction."""
        stats = self.run.stats
        with self._lock:
            counts, rules = Counter(self._counts), Counter(self._rules)
        counts.update({name: getattr(stats, name) for name in ("sampled", *_RESULTS)})
        return counts, rules

    def recent(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._recent)


class ServiceShadow:
    """One shadow of one served policy. ``source``: its policy; ``None``: the served one, by another model."""

    def __init__(
        self, policy: str, source: str | None, backend: Backend, *, share: float, timeout: float
    ) -> None:
        self.policy, self.source = policy, source
        self.name = source or policy
        self._backend, self._share, self._timeout = backend, share, timeout
        self._own = None if source is None else Policies([source], backend)
        self._now: _AtWork | None = None
        self._former: list[ShadowRun] = []
        self._unfit: UsageError | None = None

    @property
    def called(self) -> str:
        """What the log calls its policy."""
        return self.policy if self._own is None else next(iter(self._own.current.live))

    @property
    def error(self) -> UsageError | None:
        """Why its present policy is not the one that judges."""
        errors = {} if self._own is None else self._own.current.errors
        return next(iter(errors.values()), self._unfit)

    @property
    def now(self) -> _AtWork:
        """What judges at present."""
        assert self._now is not None  # since ``Shadows`` has refreshed it
        return self._now

    def refresh(self, served: ResolvedPolicy | None) -> None:
        """Take up a changed policy, its own or the served one, and count anew.

        One that cannot be used leaves the old one in its place. Raises UsageError where there is no old one.
        """
        policy = served
        if self._own is not None:
            self._own.poll()
            policy = next(live.policy for live in self._own.current.live.values())
        if policy is None:
            return
        old = self._now
        former = None if old is None else old.beside
        beside = former if served is None else _marks(served)
        if old is not None and _marks(policy) == old.marks:
            if self._unfit is not None:
                _log.info("the shadow of %s can be used again", self.policy)
            self._unfit = None
            if beside != former:
                self._begin(policy, beside)
            return
        try:
            self._begin(policy, beside)
        except UsageError as error:
            if old is None:
                raise
            if str(error) != str(self._unfit):
                _log.error("the shadow of %s stays as it was: %s", self.policy, error)
            self._unfit = error
            if beside != former:
                self._begin(old.policy, beside)
        else:
            self._unfit = None

    def _begin(self, policy: ResolvedPolicy, beside: _Marks | None) -> None:
        fresh = _AtWork(policy, beside, self._backend, share=self._share, timeout=self._timeout)
        if self._now is not None:
            self._former.append(self._now.run)
        self._now = fresh

    def close(self) -> None:
        for run in (*self._former, self.now.run):
            run.close()

    def to_dict(self) -> dict[str, Any]:
        """For the page: counts under the present policy, and the last images by hash."""
        now, error = self.now, self.error
        counts, rules = now.totals()
        names = ("sampled", *_RESULTS, "changed", "weaker", "stronger")
        by_rule: Counter[str] = Counter()
        for (rule, _), number in rules.items():
            by_rule[rule or "(no rule)"] += number
        stats: dict[str, Any] = {"name": self.name, "share": self._share, "rules": dict(by_rule)}
        return {
            "policy": self.policy,
            "fingerprint": now.marks[0][:12],
            "error": error and str(error),
            "stats": stats | {n: counts[n] for n in names},
            "recent": now.recent(),
        }


@dataclass(slots=True)
class _Beside:
    """A shadow of one state of the served policy: what a former or a later one says is not compared."""

    name: str
    shadow: ServiceShadow
    served: _Marks

    def offer(self, item: Opened, verdict: Verdict) -> ShadowCheck | None:
        """Take in what the guard has judged, if it is in the sample. Waits for nothing."""
        now = self.shadow.now
        return now.run.offer(item, verdict) if now.beside == self.served else None


class Shadows:
    """All shadows of a service, and their lines of ``/metrics``.

    ``given``: ``NAME=POLICY``, a served policy and the file or packaged name of what judges beside it; or
    ``NAME`` alone, the same policy by ``model``. Raises ConfigurationError and PolicyError.
    """

    def __init__(
        self,
        given: Sequence[str],
        policies: Policies,
        backend: Backend,
        *,
        share: float = 0.1,
        model: str | None = None,
        base_url: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._policies = policies
        self._closing: Backend | None = None
        self.all: tuple[ServiceShadow, ...] = ()
        if not given:
            if model is not None:
                raise ConfigurationError(
                    "--shadow-model is of no use alone", hint="name a policy: --shadow NAME"
                )
            return
        pairs = [_pair(item, policies) for item in given]
        if model is None and (bare := next((name for name, source in pairs if source is None), None)):
            raise ConfigurationError(
                f"--shadow {bare}: the same policy by the same model",
                hint=f"name another policy ({bare}=FILE), or another model (--shadow-model)",
            )
        if model is not None:
            beside = [
                policies.current.live[name].policy for name, _ in pairs if name in policies.current.live
            ]
            backend = self._closing = Guard(beside, model=model, base_url=base_url, timeout=timeout).backend
        elif (aside := backend.aside()) is not backend:
            backend = self._closing = aside
        self.all = tuple(
            ServiceShadow(name, source, backend, share=share, timeout=timeout) for name, source in pairs
        )
        self.refresh()

    def of(self, names: Sequence[str], snapshot: Snapshot) -> tuple[Sink, ...]:
        """The shadows of a request under ``names``: only where it is judged under one policy."""
        return tuple(
            _Beside(each.name, each, _marks(snapshot.live[each.policy].policy))
            for each in self.all
            if [each.policy] == list(names)
        )

    def refresh(self) -> None:
        """Take up policies whose files have changed."""
        for each in self.all:
            live = self._policies.current.live.get(each.policy)
            each.refresh(None if live is None else live.policy)

    def close(self) -> None:
        for each in self.all:
            each.close()
        if self._closing is not None:
            self._closing.close()

    def to_dicts(self) -> list[dict[str, Any]]:
        return [each.to_dict() for each in self.all]

    def states(self) -> dict[str, tuple[str, UsageError | None]]:
        """By the name that its policy has in the log, what each shadow stands beside, and its ``error``."""
        called = Counter(each.called for each in self.all)
        served = self._policies.current
        taken = {*served.live, *served.errors, *(name for name, times in called.items() if times > 1)}
        return {
            f"{each.name} beside {each.policy}" if each.called in taken else each.called: (
                each.policy,
                each.error,
            )
            for each in self.all
        }

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """For Prometheus, read when somebody looks. Series of former states of a policy are gone."""
        about = ["policy", "shadow", "fingerprint", "decision_fingerprint"]
        images = CounterMetricFamily(
            "policyguard_shadow_images",
            "Images in the sample of a shadow: compared, dropped (no room) or failed.",
            labels=[*about, "result"],
        )
        changed = CounterMetricFamily(
            "policyguard_shadow_changed_images",
            "Compared images that a shadow would treat otherwise.",
            labels=[*about, "direction"],
        )
        changes = CounterMetricFamily(
            "policyguard_shadow_changes",
            'Changed images by the rules that it is put down to: one may count under several; rule "": none.',
            labels=[*about, "rule", "direction"],
        )
        broken = GaugeMetricFamily(
            "policyguard_shadow_broken",
            "1: the present policy of the shadow cannot be used, and the former one judges.",
            labels=["policy", "shadow"],
        )
        for each in self.all:
            now = each.now
            counts, rules = now.totals()
            known = [each.policy, each.name, *(mark[:12] for mark in now.marks)]
            for result in _RESULTS:
                images.add_metric([*known, result], counts[result])
            for direction in _DIRECTIONS:
                changed.add_metric([*known, direction], counts[direction])
            for (rule, direction), number in sorted(rules.items()):
                changes.add_metric([*known, rule, direction], number)
            broken.add_metric([each.policy, each.name], float(each.error is not None))
        yield images
        yield changed
        yield changes
        yield broken


def _pair(item: str, policies: Policies) -> tuple[str, str | None]:
    name, separator, source = item.partition("=")
    known = [name for name, _ in sources(policies.given)]
    if name not in known:
        close = nearest(name, known)
        hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known[:12])}"
        raise ConfigurationError(f"--shadow {item}: no policy called {name!r} is served", hint=hint)
    if separator and not source:
        raise ConfigurationError(f"--shadow {item}: which policy?", hint=f"write {name}=FILE")
    return name, source or None
