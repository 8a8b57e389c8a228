"""A server that dies in the middle of a batch: nothing is lost, nothing passes, and it goes on afterwards."""

from __future__ import annotations

import time

import pytest

from backends.remote.vllm_server.running import RealServer
from backends.remote.vllm_server.support import pico, scenes
from policyguard import Guard
from policyguard.backends.remote import RemoteBackend
from policyguard.outcomes import Outcome


def test_a_server_killed_in_mid_batch_loses_no_picture_and_lets_none_through(pico_server: RealServer) -> None:
    frames = scenes(300, seed=12)
    with pico(pico_server, timeout=60.0, deadline=90.0) as backend:
        guard = Guard("pictosafe/l3", backend=backend)
        truth = [guard.check(frame).outcome for frame in frames[:5]]
        verdicts = []
        for verdict in guard.check_many(frames):
            verdicts.append(verdict)
            if len(verdicts) == 20:
                pico_server.kill()
        judged = [verdict.outcome is not Outcome.ERROR for verdict in verdicts]
        assert len(verdicts) == len(frames)
        assert [verdict.outcome for verdict in verdicts[:5]] == truth
        assert any(judged)
        assert not all(judged)
        assert not any(verdict.allowed for verdict in verdicts if verdict.outcome is Outcome.ERROR)

        pico_server.start()
        assert _well_again(backend, guard, frames[0])
        again = list(guard.check_many(frames[:20]))
    assert all(verdict.outcome is not Outcome.ERROR for verdict in again)
    for verdict, earlier in zip(again, verdicts, strict=False):
        if earlier.outcome is not Outcome.ERROR:
            assert verdict.score == pytest.approx(earlier.score, abs=0.15)


def _well_again(backend: RemoteBackend, guard: Guard, frame: object) -> bool:
    """Whether checks work again: a circuit breaker may keep away for a while."""
    for _ in range(60):
        if guard.check(frame).outcome is not Outcome.ERROR:
            return True
        time.sleep(1.0)
    return False
