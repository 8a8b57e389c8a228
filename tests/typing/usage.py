"""Typed usage, checked by mypy --strict; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from policyguard import Action, Finding, Guard, Outcome, PolicyViolation, Verdict
from policyguard.policy import load_policy
from policyguard.testing import FakeBackend


def blocking(path: Path) -> Verdict:
    with Guard(policy=["pictosafe/l3", load_policy("house.yaml")], model="pico") as guard:
        verdict: Verdict = guard.check(path, explain=True)
        outcome: Outcome = verdict.outcome
        action: Action = verdict.action
        findings: tuple[Finding, ...] = verdict.findings
        print(outcome, action, findings, verdict.score, verdict.evidence.model.id)
        try:
            return verdict.raise_for_block()
        except PolicyViolation as violation:
            return violation.verdict


def many(paths: list[Path]) -> Iterator[Verdict]:
    guard = Guard(policy="safeedit/l3", backend=FakeBackend(0.97).enqueue(0.1))
    yield from guard.check_many(paths, progress=print)


async def asynchronous(paths: list[Path]) -> AsyncIterator[Verdict]:
    guard = Guard(policy="safeedit/l3", base_url="http://localhost:8000/v1", model="guard").with_policy(
        "safeedit/l4"
    )
    print((await guard.acheck(paths[0])).allowed)
    async for verdict in guard.acheck_many(paths):
        yield verdict
