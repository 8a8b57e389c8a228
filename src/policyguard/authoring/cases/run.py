"""Judges the images of policy tests, and compares what is found with what is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from policyguard.authoring.cases.load import PathRefused
from policyguard.authoring.cases.result import CaseReport, CaseResult, Status
from policyguard.authoring.diff.behaviour import called
from policyguard.cache.backend import remembering
from policyguard.errors import PolicyError, Problem
from policyguard.guard import Guard
from policyguard.outcomes import Outcome
from policyguard.verdict import Verdict

if TYPE_CHECKING:
    from policyguard.authoring.cases.load import Cases, Expectation, PairCase
    from policyguard.backends.base import Backend

__all__ = ["run_cases"]

Progress = Callable[[int, int | None], None]
_Verdicts = dict[tuple[str, str], Verdict]

_NEAR = 1e-9
"""Room for rounding where a score lies on the edge of what is allowed."""


def run_cases(cases: Cases, *, backend: Backend, progress: Progress | None = None) -> CaseReport:
    """Run every case. Each image is judged once per policy, and once for policies that read the same.

    Raises UsageError when the set-up is wrong: a model that cannot be asked about one of the policies, an
    image that has gone since the cases were loaded.
    """
    cached = remembering(backend)
    asked_before = cached.asked
    started = perf_counter()
    verdicts = _judge(cases, cached, progress)
    return CaseReport(
        file=str(cases.file),
        model=cached.model.id,
        policies={name: f"{policy.id} {policy.version}" for name, policy in cases.policies.items()},
        results=(*_images(cases, verdicts), *_pairs(cases, verdicts)),
        asked=cached.asked - asked_before,
        seconds=perf_counter() - started,
    )


def _judge(cases: Cases, backend: Backend, progress: Progress | None) -> _Verdicts:
    from policyguard.images import Limits

    images: dict[str, dict[str, None]] = {name: {} for name in cases.policies}
    for case in cases.content.images:
        for policy in case.expect:
            images[policy][case.image] = None
    for pair in cases.content.pairs:
        for policy in pair.policies or tuple(cases.policies):
            images[policy] |= {pair.unsafe: None, pair.safe: None}
    guards = {name: Guard(policy, backend=backend) for name, policy in cases.policies.items()}
    total, done, limit = sum(map(len, images.values())), 0, Limits().max_bytes
    verdicts: _Verdicts = {}
    for name, guard in guards.items():
        sources = (_read(cases, image, limit) for image in images[name])
        for image, verdict in zip(images[name], guard.check_many(sources), strict=True):
            verdicts[name, image] = called(verdict, image)
            done += 1
            if progress is not None:
                progress(done, total)
    return verdicts


def _read(cases: Cases, image: str, limit: int) -> bytes:
    try:
        return cases.folder.read(image, limit)
    except PathRefused as refused:  # it was there when the cases were loaded
        raise PolicyError([Problem(f"{image}: {refused}", str(cases.file))]) from None


def _images(cases: Cases, verdicts: _Verdicts) -> Iterator[CaseResult]:
    for index, case in enumerate(cases.content.images):
        for policy, expected in case.expect.items():
            verdict = verdicts[policy, case.image]
            failures = tuple(_differences(expected, verdict, cases.content.tolerance))
            broken = verdict.outcome is Outcome.ERROR and expected.outcome is not Outcome.ERROR
            yield CaseResult(
                name=case.image,
                policy=policy,
                status=_status(failures, expected.xfail, broken=broken),
                failures=failures,
                verdicts=(verdict,),
                xfail=expected.xfail,
                note=case.note,
                line=cases.line("images", index, "expect", policy),
            )


def _pairs(cases: Cases, verdicts: _Verdicts) -> Iterator[CaseResult]:
    for index, pair in enumerate(cases.content.pairs):
        for policy in pair.policies or tuple(cases.policies):
            unsafe, safe = verdicts[policy, pair.unsafe], verdicts[policy, pair.safe]
            failures = tuple(_pair_differences(pair, unsafe, safe))
            yield CaseResult(
                name=f"{pair.unsafe} / {pair.safe}",
                policy=policy,
                status=_status(failures, pair.xfail, broken=Outcome.ERROR in (unsafe.outcome, safe.outcome)),
                failures=failures,
                verdicts=(unsafe, safe),
                xfail=pair.xfail,
                note=pair.note,
                line=cases.line("pairs", index),
            )


def _status(failures: tuple[str, ...], xfail: str | None, *, broken: bool) -> Status:
    # A model that fails is no known weakness of a policy, so xfail does not cover it.
    if broken:
        return Status.ERROR
    if xfail is not None:
        return Status.XFAILED if failures else Status.XPASSED
    return Status.FAILED if failures else Status.PASSED


def _differences(expected: Expectation, verdict: Verdict, tolerance: float) -> Iterator[str]:
    broken = _broken(verdict)
    # The rules say where to look; where they were expected too, their own line does.
    named = [f"findings {_named(broken)}"] if broken and expected.findings is None else []
    if expected.outcome is not None and expected.outcome is not verdict.outcome:
        why = "; ".join(([verdict.reason] if verdict.reason else []) + named)
        yield f"expected outcome {expected.outcome}, found {verdict.outcome}" + (f" ({why})" if why else "")
    if expected.action is not None and expected.action is not verdict.action:
        why = "".join(f" ({one})" for one in named)
        yield f"expected action {expected.action}, found {verdict.action}{why}"
    if expected.findings is not None and set(expected.findings) != broken:
        yield f"expected findings {_named(set(expected.findings))}, found {_named(broken)}"
    if expected.score is not None:
        room = tolerance if expected.tolerance is None else expected.tolerance
        if verdict.score is None or abs(verdict.score - expected.score) > room + _NEAR:
            yield f"expected score {expected.score:g} ± {room:g}, found {_score(verdict)}"
    if expected.between is not None:
        low, high = expected.between
        if verdict.score is None or not low - _NEAR <= verdict.score <= high + _NEAR:
            yield f"expected a score from {low:g} to {high:g}, found {_score(verdict)}"


def _pair_differences(pair: PairCase, unsafe: Verdict, safe: Verdict) -> Iterator[str]:
    for name, verdict, outcome in (
        ("unsafe", unsafe, Outcome.VIOLATES),
        ("safe", safe, Outcome.COMPLIES),
    ):
        if verdict.outcome is not outcome:
            why = verdict.reason or f"findings {_named(_broken(verdict))}"
            yield f"expected the {name} image to have outcome {outcome}, found {verdict.outcome} ({why})"
    if pair.rule is not None and pair.rule not in _broken(unsafe):
        yield f"expected the unsafe image to break {pair.rule}, found {_named(_broken(unsafe))}"
    if pair.margin:
        gap = None if unsafe.score is None or safe.score is None else unsafe.score - safe.score
        if gap is None or gap < pair.margin - _NEAR:
            difference = "no scores" if gap is None else f"{gap:.3f}"
            yield f"expected scores at least {pair.margin:g} apart, found {difference}"


def _broken(verdict: Verdict) -> set[str]:
    return {finding.rule for finding in verdict.findings if finding.violates}


def _named(rules: set[str]) -> str:
    return ", ".join(sorted(rules)) or "none"


def _score(verdict: Verdict) -> str:
    return "none" if verdict.score is None else f"{verdict.score:.3f}"
