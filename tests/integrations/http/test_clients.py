"""Clients: existing ones keep their settings, many threads share one, nothing slips past a mount."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import pytest
import requests

from integrations.http.calling import CHAT, chat
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Asked, Upstream, json_answer
from policyguard import ConfigurationError, Guard
from policyguard.integrations.gate import gate
from policyguard.integrations.http import (
    AsyncGuardedTransport,
    GuardedAdapter,
    GuardedTransport,
    guard_client,
    guarded_async_client,
    guarded_client,
)
from policyguard.integrations.langchain import GuardRunnable
from policyguard.integrations.screen import Screen
from policyguard.policy import load_policy
from support.waiting import until

FAMILIES: list[Any] = [httpx, httpx2]


@pytest.mark.parametrize("module", FAMILIES, ids=lambda module: module.__name__)
def test_an_existing_client_keeps_its_settings(module: Any, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    client = module.Client(base_url=upstream.url, headers={"x-mine": "1"}, timeout=7, params={"q": "2"})
    with guard_client(client, guard) as guarded:
        assert client is guarded
        assert 7 == guarded.timeout.read
        assert 403 == guarded.post(CHAT, json=chat(data_uri(picture(RED)))).status_code
        assert 200 == guarded.post(CHAT, json=chat(data_uri(picture(GREEN)))).status_code
    assert ("1", f"{CHAT}?q=2") == (upstream.asked[0].headers["x-mine"], upstream.asked[0].path)


@pytest.mark.parametrize("module", FAMILIES, ids=lambda module: module.__name__)
def test_mounts_and_proxies_are_guarded_too(module: Any, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    with guard_client(
        module.Client(mounts={"http://": module.HTTPTransport(), "https://direct.example": None}), guard
    ) as client:
        assert 403 == client.post(upstream.url + CHAT, json=chat(data_uri(picture(RED)))).status_code
    with guarded_client(guard, family=module.__name__, proxy=upstream.url) as client:
        assert 403 == client.post("http://api.example/v1/x", json=chat(data_uri(picture(RED)))).status_code
        assert 0 == upstream.calls
        assert 200 == client.post("http://api.example/v1/x", json=chat(data_uri(picture(GREEN)))).status_code
    assert "http://api.example/v1/x" == upstream.asked[0].path


@pytest.mark.parametrize("module", FAMILIES, ids=lambda module: module.__name__)
def test_a_transport_can_be_wrapped_alone(module: Any) -> None:
    guard, _ = colour_guard()
    inner = module.MockTransport(
        lambda request: module.Response(200, json={"data": [{"b64_json": b64(picture(RED))}]})
    )
    with module.Client(transport=GuardedTransport(guard, inner)) as client:
        response = client.get("http://api.example/v1/images/generations")
    assert 403 == response.status_code
    assert isinstance(response, module.Response)

    async def ask() -> Any:
        async with module.AsyncClient(transport=AsyncGuardedTransport(guard, inner)) as client:
            return await client.get("http://api.example/v1/images/generations")

    assert 403 == asyncio.run(ask()).status_code


def test_guarding_twice_or_something_else_is_refused() -> None:
    guard, _ = colour_guard()
    with guarded_client(guard, family="httpx") as client, pytest.raises(ConfigurationError, match="already"):
        guard_client(client, guard)
    with requests.Session() as session, pytest.raises(ConfigurationError, match="Session"):
        guard_client(session, guard)
    with pytest.raises(ConfigurationError, match="BaseTransport"):
        GuardedTransport(guard, object())
    with httpx.HTTPTransport() as plain, pytest.raises(ConfigurationError, match="AsyncBaseTransport"):
        AsyncGuardedTransport(guard, plain)


def _mixed(asked: Asked) -> Answer:
    """Answers with the picture that the request names."""
    kind = asked.headers.get("x-answer", "text")
    if kind == "text":
        return json_answer({"choices": [{"message": {"content": "words"}}]})
    colour = RED if kind == "red" else GREEN
    return json_answer({"data": [{"b64_json": b64(picture(colour, seed=int(asked.headers["x-seed"])))}]})


def _request(number: int) -> tuple[dict[str, Any], dict[str, str], int]:
    """Body, headers and the status that must come back."""
    seed = number % 97
    ask, answer = (("text", "red", "green")[number % 3], ("text", "green", "red")[number // 3 % 3])
    body = chat() if ask == "text" else chat(data_uri(picture(RED if ask == "red" else GREEN, seed=seed)))
    blocked = ask == "red" or answer == "red"
    return body, {"x-answer": answer, "x-seed": str(seed)}, 403 if blocked else 200


@pytest.mark.parametrize(
    "build",
    [
        lambda wrong: guarded_client(wrong, family="httpx"),
        lambda wrong: guarded_async_client(wrong, family="httpx2"),
        lambda wrong: guard_client(httpx.Client(), wrong),
        lambda wrong: GuardedTransport(wrong, httpx.HTTPTransport()),
        lambda wrong: AsyncGuardedTransport(wrong, httpx.AsyncHTTPTransport()),
        GuardedAdapter,
        GuardRunnable,
        lambda wrong: gate(lambda hint, number: None, wrong),
        Screen,
    ],
)
@pytest.mark.parametrize(
    "wrong", ["policies/support.yaml", None, load_policy("pictosafe/l3"), Guard, object()]
)
def test_what_is_no_guard_is_refused_where_it_is_given(build: Any, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="a Guard is expected") as caught:
        build(wrong)
    assert str(wrong if isinstance(wrong, str) else "pictosafe/l3") in str(caught.value.hint)


@pytest.mark.parametrize(("client", "transport"), [(httpx, httpx2), (httpx2, httpx)])
def test_a_transport_of_the_other_package_is_refused(client: Any, transport: Any) -> None:
    guard, _ = colour_guard()
    mock = transport.MockTransport(lambda request: transport.Response(200))
    for options in ({"transport": mock}, {"mounts": {"all://x.example": mock}}):
        with pytest.raises(ConfigurationError, match="MockTransport") as caught:
            guarded_client(guard, family=client.__name__, **options)
        assert transport.__name__ in str(caught.value.hint)


@pytest.mark.parametrize("module", FAMILIES, ids=lambda module: module.__name__)
def test_a_thousand_mixed_requests_at_32_at_once_miss_none(module: Any, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.respond = _mixed
    limits = module.Limits(max_connections=32)
    with guarded_client(guard, family=module.__name__, limits=limits, timeout=200) as client:

        def ask(number: int) -> bool:
            body, headers, expected = _request(number)
            return bool(expected == client.post(upstream.url + CHAT, json=body, headers=headers).status_code)

        with ThreadPoolExecutor(32) as pool:
            assert all(pool.map(ask, range(500)))

    async def ask_all() -> list[bool]:
        at_once = asyncio.Semaphore(32)
        async with guarded_async_client(guard, family=module.__name__, limits=limits, timeout=200) as client:

            async def one(number: int) -> bool:
                body, headers, expected = _request(number)
                async with at_once:
                    reply = await client.post(upstream.url + CHAT, json=body, headers=headers)
                return bool(expected == reply.status_code)

            return await asyncio.gather(*(one(number) for number in range(500, 1000)))

    assert all(asyncio.run(ask_all()))
    red = sum(number % 3 == 1 for number in range(1000))
    assert 1000 - red == upstream.calls


def test_a_request_that_is_cancelled_lets_nothing_pass(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    judge, asked, go = backend.answer, threading.Event(), threading.Event()

    def slow(request: Any) -> Any:
        asked.set()
        go.wait()
        return judge(request)  # type: ignore[operator]

    backend.answer = slow

    async def ask() -> None:
        async with guarded_async_client(guard, family="httpx2") as client:
            task = asyncio.create_task(client.post(upstream.url + CHAT, json=chat(data_uri(picture(GREEN)))))
            await until(asked.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()

    asyncio.run(ask())
    assert 0 == upstream.calls


def test_sessions_keep_cookies_and_follow_redirects(upstream: Upstream) -> None:
    guard, _ = colour_guard()

    def respond(asked: Asked) -> Answer:
        if asked.path == "/a":
            return Answer(b"", status=302, headers={"location": "/b", "set-cookie": "k=v; Path=/"})
        return json_answer({"cookie": asked.headers.get("cookie")})

    upstream.respond = respond
    with requests.Session() as session:
        session.mount("http://", GuardedAdapter(guard))
        assert {"cookie": "k=v"} == session.get(upstream.url + "/a").json()


def test_a_stream_of_requests_is_read_as_it_comes(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    go = threading.Event()

    def body() -> Any:
        yield b'data: {"n": 1}\n\n'
        go.wait()
        yield b'data: {"n": 2}\n\n'

    upstream.respond = lambda _asked: Answer(body(), "text/event-stream")
    with requests.Session() as session:
        session.mount("http://", GuardedAdapter(guard))
        with session.get(upstream.url + "/x", stream=True) as response:
            lines = response.iter_lines(chunk_size=1)
            assert b'data: {"n": 1}' == next(lines)
            go.set()
            assert b'data: {"n": 2}' in list(lines)


def test_importing_it_imports_neither_package() -> None:
    code = (
        "import sys, policyguard.integrations.http\n"
        "print([name for name in ('httpx', 'httpx2', 'requests', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()
