"""End to end: Guard(policy, base_url=..., model=...) on a server that answers over HTTP."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from backends.remote.server import ToyServer
from backends.remote.support import picture, policy
from policyguard import Action, ConfigurationError, Guard, Outcome


def test_one_picture_under_one_policy(server: ToyServer) -> None:
    server.show(picture(1), unsafe=0.97, rules={"A": 0.9, "B": 0.1})
    with Guard(policy(), base_url=server.url, model="toy-guard") as guard:
        bad, good = guard.check(picture(1)), guard.check(picture(2))
    assert (bad.outcome, bad.action, bad.allowed) == (Outcome.VIOLATES, Action.BLOCK, False)
    assert bad.score == pytest.approx(0.97)
    assert [finding.rule for finding in bad.findings] == ["arms"]
    assert (good.outcome, good.allowed) == (Outcome.COMPLIES, True)
    assert good.evidence.model.backend == "openai-compatible"
    assert json.loads(bad.to_json())["evidence"]["model"]["id"].startswith("toy-guard@127.0.0.1:")


def test_what_a_provider_counts_is_told(server: ToyServer) -> None:
    """Every question, and those of a shadow that asks the same server."""
    with Guard(policy(), base_url=server.url, model="toy-guard", shadow=policy(version="2.0.0")) as guard:
        assert guard.check(picture(0)).shadows[0].wait() is not None  # and what the server can do is known
        before, bodies = guard.stats(), len(server.bodies())
        checks = [guard.check(picture(shade)) for shade in range(1, 4)]
        assert all(check.shadows[0].wait() is not None for check in checks)
        stats = guard.stats()
    assert stats.since(before).requests == len(server.bodies()) - bodies == 6
    assert stats.to_dict()["requests"] == stats.requests


def test_settings_come_from_the_environment(server: ToyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.api_key = "sk-from-outside"
    monkeypatch.setenv("POLICYGUARD_BASE_URL", server.url)
    monkeypatch.setenv("POLICYGUARD_MODEL", "toy-guard")
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-from-outside")
    with Guard(policy()) as guard:
        verdict = guard.check(picture())
    assert verdict.allowed
    assert "sk-from-outside" not in verdict.to_json()


def test_image_files_are_judged_by_their_pixels(server: ToyServer) -> None:
    server.show(picture(7), unsafe=0.9)
    buffer = io.BytesIO()
    picture(7).save(buffer, "WEBP", lossless=True)
    with Guard(policy(), base_url=server.url, model="toy-guard") as guard:
        assert not guard.check(buffer.getvalue()).allowed


def test_many_pictures_keep_their_order(server: ToyServer) -> None:
    for shade in range(0, 16, 3):
        server.show(picture(shade), unsafe=0.95)
    server.delay = lambda scene: 0.01 * (1 - scene.unsafe)
    expected = [shade % 3 != 0 for shade in range(16)]

    async def collect(guard: Guard) -> list[bool]:
        return [verdict.allowed async for verdict in guard.acheck_many(picture(shade) for shade in range(16))]

    with Guard(policy(), base_url=server.url, model="toy-guard") as guard:
        assert [
            verdict.allowed for verdict in guard.check_many(picture(shade) for shade in range(16))
        ] == expected
        assert asyncio.run(collect(guard)) == expected


def test_policies_change_and_the_connection_stays(server: ToyServer) -> None:
    server.show(picture(), unsafe=0.6)
    with Guard(policy(), base_url=server.url, model="toy-guard") as guard:
        assert not guard.check(picture()).allowed
        lenient = guard.with_policy(policy(defaults={"threshold": 0.7}))
        assert lenient.backend is guard.backend
        assert lenient.check(picture()).allowed


def test_the_strictest_of_several_policies_decides(server: ToyServer) -> None:
    server.show(picture(), unsafe=0.6)
    strict = policy(id="strict")
    lenient = policy(id="lenient", defaults={"threshold": 0.7})
    with Guard([lenient, strict], base_url=server.url, model="toy-guard") as guard:
        verdict = guard.check(picture())
    assert not verdict.allowed
    assert {finding.policy for finding in verdict.findings if finding.violates} == {"strict"}


def test_explaining_gives_a_rationale(server: ToyServer) -> None:
    server.show(picture(), unsafe=0.9)
    with Guard(policy(), base_url=server.url, model="toy-guard", explain=True) as guard:
        verdict = guard.check(picture())
    assert verdict.rationale == "There is a dagger on the table."
    assert verdict.evidence.reading == "explain"


def test_a_policy_that_lets_errors_through_marks_them_and_never_covers_the_set_up(server: ToyServer) -> None:
    open_door = policy(outcomes={"error": "allow"})
    server.fault = lambda handler, answer: handler.send_json(503, {})
    with Guard(open_door, base_url=server.url, model="toy-guard") as guard:
        verdict = guard.check(picture())
        assert (verdict.outcome, verdict.allowed, verdict.degraded) == (Outcome.ERROR, True, True)
        server.fault = lambda handler, answer: handler.send_json(401, {})
        with pytest.raises(ConfigurationError):
            guard.check(picture())


def test_a_server_without_a_model_name_is_a_configuration_error(server: ToyServer) -> None:
    with pytest.raises(ConfigurationError, match="model"):
        Guard(policy(), base_url=server.url)
