"""pico in this process and pico behind vLLM: the same scores and outcomes, within the rounding of bfloat16.

Both compute in bfloat16, whose numbers have 8 significant bits: two orders of adding up the same products
give logits that differ by a few steps of 1/16. Measured over these 1000 checks: 99 in 100 pairs of log-odds
of unsafe differ by less than 0.2, the worst by 0.63.
"""

from __future__ import annotations

import math

import pytest

from backends.remote.vllm_server.running import RealServer
from backends.remote.vllm_server.support import ask, level, pico, scenes
from policyguard.assessment import Assessment
from policyguard.backends.transformers import TransformersBackend
from policyguard.deciding import decide

USUAL, WORST = 0.3, 1.0
"""Differences of log-odds that 99 in 100, and all, stay under."""
NEAR = 0.05


def log_odds(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))


@pytest.mark.timeout(1200)
def test_two_hundred_scenes_under_five_policies_get_the_same_answers_both_ways(
    pico_server: RealServer,
) -> None:
    asked = [ask(frame, level(number)) for frame in scenes(200) for number in range(1, 6)]
    with TransformersBackend("pico", dtype="bfloat16") as local:
        here = [
            result for start in range(0, len(asked), 4) for result in local.assess(asked[start : start + 4])
        ]
    with pico(pico_server, timeout=300.0) as remote:
        there = remote.assess(asked)

    differences, turned = [], []
    for request, one, other in zip(asked, here, there, strict=True):
        assert isinstance(one, Assessment), one
        assert isinstance(other, Assessment), other
        assert one.p_unsafe is not None
        assert other.p_unsafe is not None
        differences.append(abs(log_odds(one.p_unsafe) - log_odds(other.p_unsafe)))
        assert one.p_undecided == pytest.approx(other.p_undecided, abs=0.1)
        if decide(request.policy, one).outcome is not decide(request.policy, other).outcome:
            turned.append((one, other, request.policy.threshold))
    differences.sort()
    assert differences[len(differences) * 99 // 100] <= USUAL
    assert differences[-1] <= WORST
    for one, other, threshold in turned:
        undecided = abs(one.p_undecided - 0.5) <= NEAR
        near = min(abs((side.p_unsafe or 0.0) - threshold) for side in (one, other)) <= NEAR
        assert undecided or near, (one, other)
