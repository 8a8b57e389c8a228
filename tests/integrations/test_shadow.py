"""A guard's shadows work wherever the guard does, and act on nothing there either."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.http.calling import CHAT, Way, chat
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard import Guard, PolicyViolation, Shadow
from policyguard.integrations.gate import gate
from policyguard.verdict import ImageChange

MILD: dict[str, Any] = {"defaults": {"action": "flag"}, "id": "tests/mild"}


def shadowed() -> tuple[Guard, list[ImageChange]]:
    """A guard that blocks red, and a shadow that flags it."""
    compared: list[ImageChange] = []
    guard, backend = colour_guard()
    shadow = Shadow(colour_guard(**MILD)[0].policies[0], on_compared=compared.append)
    return Guard(guard.policies[0], backend=backend, shadow=shadow), compared


def differing(guard: Guard, compared: list[ImageChange]) -> list[str]:
    """What the shadow would have done, once it is done."""
    guard.close()
    return [str(change.after.action) for change in compared]


@pytest.fixture
def upstream() -> Any:
    with Upstream() as running:
        yield running


@pytest.mark.parametrize("name", ["httpx-sync", "httpx-async", "requests-sync"])
def test_in_http_clients(name: str, upstream: Upstream) -> None:
    guard, compared = shadowed()
    reply = Way(name).send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(RED))))
    assert (reply.status, upstream.calls) == (403, 0), "the shadow lets nothing pass"
    assert [check.wait() is not None for check in reply.result.request.items[0].verdict.shadows] == [True]
    assert differing(guard, compared) == ["flag"]


def test_in_chains() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    from policyguard.integrations.langchain import GuardRunnable

    guard, compared = shadowed()
    block = {"type": "image", "base64": b64(picture(RED)), "mime_type": "image/png"}
    with pytest.raises(PolicyViolation) as blocked:
        GuardRunnable(guard).invoke([messages.HumanMessage([block])])
    assert [check.wait() is not None for check in blocked.value.verdict.shadows] == [True]
    assert differing(guard, compared) == ["flag"]


def test_behind_a_generator() -> None:
    guard, compared = shadowed()
    made = iter([picture(RED), picture(GREEN)])
    result = gate(lambda hint, attempt: next(made), guard)
    for attempt in result.attempts:
        attempt.verdict.shadows[0].wait()
    assert len(result.attempts) == 2
    assert differing(guard, compared) == ["flag", "allow"]
