"""The real Google GenAI SDK over a guarded client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from integrations.http.pictures import GREEN, RED, colour_guard, picture
from integrations.http.upstream import Upstream
from policyguard import ConfigurationError
from policyguard.integrations.http import guarded_async_client, guarded_client
from sdk.provider import WORDS

genai = pytest.importorskip("google.genai")
pytestmark = pytest.mark.sdk


def client(provider: Upstream, guard: Any = None) -> Any:
    clients = {} if guard is None else {
        "httpx_client": guarded_client(guard, family="httpx2"),
        "httpx_async_client": guarded_async_client(guard, family="httpx2"),
    }  # fmt: skip
    return genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=provider.url, **clients))


def image(colour: tuple[int, int, int]) -> Any:
    return genai.types.Part.from_bytes(data=picture(colour), mime_type="image/png")


def test_a_blocked_picture_is_a_403_before_the_provider_is_called(provider: Upstream) -> None:
    guard, _ = colour_guard()
    guarded = client(provider, guard)
    with pytest.raises(genai.errors.ClientError, match="Red") as caught:
        guarded.models.generate_content(model="m", contents=["hi", image(RED)])
    assert (403, "PERMISSION_DENIED") == (caught.value.code, caught.value.status)

    async def ask() -> None:
        with pytest.raises(genai.errors.ClientError):
            await client(provider, guard).aio.models.generate_content(model="m", contents=["hi", image(RED)])

    asyncio.run(ask())
    assert 0 == provider.calls
    assert WORDS == guarded.models.generate_content(model="m", contents=["hi", image(GREEN)]).text


def test_a_generated_picture_is_blocked_after_exactly_one_call(provider: Upstream) -> None:
    guard, _ = colour_guard()
    with pytest.raises(genai.errors.ClientError):
        client(provider, guard).models.generate_content(model="m", contents="draw red")
    assert 1 == provider.calls
    reply = client(provider, guard).models.generate_content(model="m", contents="draw green")
    assert picture(GREEN) == reply.candidates[0].content.parts[0].inline_data.data


def test_traffic_of_text_is_the_same_to_the_byte(provider: Upstream) -> None:
    guard, _ = colour_guard()
    for c in (client(provider), client(provider, guard)):
        assert WORDS == c.models.generate_content(model="m", contents="hi").text
    first, second = provider.asked
    assert first.body == second.body
    same = [{k: v for k, v in one.headers.items() if k != "accept-encoding"} for one in (first, second)]
    assert same[0] == same[1]


def test_a_stream_is_read_and_stopped_at_a_picture(provider: Upstream) -> None:
    guard, _ = colour_guard()
    chunks = client(provider, guard).models.generate_content_stream(model="m", contents="hi")
    assert [WORDS, WORDS] == [chunk.text for chunk in chunks]
    seen: list[Any] = []
    with pytest.raises(genai.errors.APIError, match="PolicyGuard"):
        seen.extend(client(provider, guard).models.generate_content_stream(model="m", contents="draw red"))
    assert [WORDS] == [chunk.text for chunk in seen]

    async def ask() -> None:
        stream = await client(provider, guard).aio.models.generate_content_stream(
            model="m", contents="draw red"
        )
        async for chunk in stream:
            assert WORDS == chunk.text

    with pytest.raises(genai.errors.APIError, match="PolicyGuard"):
        asyncio.run(ask())


def test_a_guard_that_is_down_blocks(provider: Upstream) -> None:
    guard, backend = colour_guard()
    backend.answer = RuntimeError("down")
    with pytest.raises(genai.errors.ClientError, match="403"):
        client(provider, guard).models.generate_content(model="m", contents=["hi", image(GREEN)])
    assert 0 == provider.calls


def test_a_socket_of_a_guarded_client_is_refused_and_others_work(provider: Upstream) -> None:
    guard, _ = colour_guard()
    for live in (client(provider, guard).aio.live, client(provider, guard).aio.live.music):
        with pytest.raises(ConfigurationError, match="socket beside the guarded"):
            live.connect(model="m")
    assert hasattr(client(provider).aio.live.connect(model="m"), "__aenter__")


@pytest.mark.parametrize("direction", ["sync", "async"])
def test_a_client_of_which_one_half_is_guarded_does_not_use_the_other(
    provider: Upstream, direction: str
) -> None:
    guard, _ = colour_guard()
    half: dict[str, Any] = (
        {"httpx_client": guarded_client(guard, family="httpx2")}
        if direction == "sync"
        else {"httpx_async_client": guarded_async_client(guard, family="httpx2")}
    )
    mixed = genai.Client(api_key="k", http_options=genai.types.HttpOptions(base_url=provider.url, **half))
    asked = {"model": "m", "contents": ["hi", image(GREEN)]}

    def sync() -> Any:
        return mixed.models.generate_content(**asked).text

    def waiting() -> Any:
        return asyncio.run(mixed.aio.models.generate_content(**asked)).text

    works, refuses = (sync, waiting) if direction == "sync" else (waiting, sync)
    assert WORDS == works()
    with pytest.raises(ConfigurationError, match="the GenAI client has one HTTP client that is guarded"):
        refuses()
    assert 1 == provider.calls


def test_a_session_of_aiohttp_guards_the_asynchronous_half(provider: Upstream) -> None:
    pytest.importorskip("aiohttp")
    from policyguard.integrations.http import GuardedSession

    async def ask() -> None:
        guard, _ = colour_guard()
        async with GuardedSession(guard) as session:
            options = genai.types.HttpOptions(
                base_url=provider.url,
                httpx_client=guarded_client(guard, family="httpx2"),
                aiohttp_client=session,
            )
            models = genai.Client(api_key="k", http_options=options).aio.models
            assert WORDS == (await models.generate_content(model="m", contents=["hi", image(GREEN)])).text
            stream = await models.generate_content_stream(model="m", contents="hi")
            assert WORDS * 2 == "".join([chunk.text async for chunk in stream])
            with pytest.raises(genai.errors.ClientError, match="Red") as caught:
                await models.generate_content(model="m", contents=["hi", image(RED)])
            assert (403, "PERMISSION_DENIED") == (caught.value.code, caught.value.status)
            with pytest.raises(genai.errors.ClientError):
                await models.generate_content(model="m", contents="draw red")

    asyncio.run(ask())
    assert 3 == provider.calls
