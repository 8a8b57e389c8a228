"""What holds locks, connections or weights says so when it is pickled, and what to do instead."""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 (what process pools do)
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests

from integrations.http.pictures import GREEN, colour_guard, picture
from policyguard import ConfigurationError, Guard
from policyguard.backends import RemoteBackend, TransformersBackend
from policyguard.dialects import get_dialect
from policyguard.integrations.http import FileLedger, GuardedAdapter, GuardedTransport
from policyguard.integrations.langchain import GuardRunnable
from policyguard.integrations.screen import Screen


def mounted(guard: Guard) -> requests.Session:
    session = requests.Session()
    session.mount("https://", GuardedAdapter(guard))
    return session


THINGS: dict[str, Callable[[Guard], Any]] = {
    "Guard": lambda guard: guard,
    "TransformersBackend": lambda _: TransformersBackend("pico"),
    "RemoteBackend": lambda _: RemoteBackend(
        "http://127.0.0.1:9", model="m", dialect=get_dialect("instruct")
    ),
    "GuardedTransport": lambda guard: GuardedTransport(guard, httpx.HTTPTransport()),
    "GuardedAdapter": GuardedAdapter,
    "GuardedAdapter of a session": mounted,
    "GuardRunnable": GuardRunnable,
    "GuardRunnable of a chain": lambda guard: GuardRunnable(guard) | GuardRunnable(guard),
    "Guard of a closure": lambda guard: [{"guard": guard}],
    "Screen": Screen,
    "FileLedger": lambda _: FileLedger(),
}


@pytest.mark.parametrize("name", THINGS)
@pytest.mark.parametrize("hand_over", [pickle.dumps, copy.deepcopy])
def test_it_is_said_what_cannot_be_handed_to_another_process(name: str, hand_over: Any) -> None:
    thing = THINGS[name](colour_guard()[0])
    with pytest.raises(
        ConfigurationError, match=f"a {name.split(maxsplit=1)[0]} cannot be pickled"
    ) as caught:
        hand_over(thing)
    assert "in each process" in str(caught.value.hint)


def test_a_shallow_copy_shares_what_the_first_one_holds() -> None:
    guard, backend = colour_guard()
    twin = copy.copy(guard)
    assert twin.check(picture(GREEN)).allowed
    assert (1, guard.policies) == (len(backend.requests), twin.policies)
