"""What is particular to aiohttp; all else of its session is held by the tests of every client."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from integrations.http.calling import CHAT, chat
from integrations.http.pictures import GREEN, RED, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Upstream
from policyguard import ConfigurationError
from policyguard.integrations.http import guard_client

aiohttp = pytest.importorskip("aiohttp")
from policyguard.integrations.http import GuardedSession  # noqa: E402

EVENTS = [b'data: {"choices": [{"delta": {"content": "%d"}}]}\n\n' % number for number in range(3)]


def run(work: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    async def with_session() -> Any:
        async with GuardedSession(colour_guard()[0], **options) as session:
            return await work(session)

    return asyncio.run(with_session())


def test_every_kind_of_body_is_judged_and_arrives_as_it_was(upstream: Upstream) -> None:
    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    def form(data: bytes) -> Any:
        made = aiohttp.FormData({"purpose": "vision"})
        made.add_field("file", io.BytesIO(data), filename="a.png", content_type="image/png")
        return made

    async def work(session: Any) -> None:
        for colour, status in ((GREEN, 200), (RED, 403)):
            data = picture(colour)
            body = json.dumps(chat(data_uri(data))).encode()
            for kwargs in (
                {"json": chat(data_uri(data))},
                {"data": body},
                {"data": io.BytesIO(data)},
                {"data": pieces(body)},
                {"data": form(data)},
                {"data": {"image": data_uri(data)}},
                {"data": body, "compress": "gzip"},
                {"data": gzip.compress(body), "headers": {"Content-Encoding": "gzip"}},
                {"json": chat(data_uri(data)), "middlewares": ()},
            ):
                before = upstream.calls
                async with session.post(upstream.url + CHAT, **kwargs) as reply:
                    assert (status, int(status == 200)) == (reply.status, upstream.calls - before)
                if status == 200:
                    sent = upstream.asked[-1]
                    got = gzip.decompress(sent.body) if "content-encoding" in sent.headers else sent.body
                    assert got
                    if kwargs.get("data") == body:
                        assert got == body
                    if "json" in kwargs:
                        assert json.loads(got) == kwargs["json"]

    run(work)


def test_a_stream_may_be_read_in_each_of_its_ways(upstream: Upstream) -> None:
    async def lines(content: Any) -> list[bytes]:
        return [line async for line in content]

    async def chunked(content: Any) -> list[bytes]:
        return [piece async for piece in content.iter_chunked(5)]

    async def chunks(content: Any) -> list[bytes]:
        return [piece async for piece, _ in content.iter_chunks()]

    async def anything(content: Any) -> list[bytes]:
        return [piece async for piece in content.iter_any()]

    async def exactly(content: Any) -> list[bytes]:
        return [await content.readexactly(9), await content.read()]

    async def work(session: Any) -> None:
        for read in (lines, chunked, chunks, anything, exactly):
            async with session.post(upstream.url + CHAT, json={}) as reply:
                assert b"".join(EVENTS) == b"".join(await read(reply.content))
        async with session.post(upstream.url + CHAT, json={}) as reply:
            assert await reply.content.readline()  # and leaves
        assert reply.closed

    upstream.respond = lambda _: Answer(list(EVENTS), "text/event-stream")
    results: list[Any] = []
    run(work, on_result=results.append)
    assert 6 == len(results)


def test_a_refusal_is_an_answer_like_any_other(upstream: Upstream) -> None:
    async def work(session: Any) -> None:
        reply = await session.post(upstream.url + CHAT, json=chat(data_uri(picture(RED))))
        assert (403, "Forbidden", "application/json") == (reply.status, reply.reason, reply.content_type)
        assert "image_policy_violation" == (await reply.json())["error"]["code"]
        assert "request" == reply.policyguard.blocked
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            reply.raise_for_status()
        assert 403 == caught.value.status
        reply.release()
        with pytest.raises(aiohttp.ClientResponseError):
            await session.post(upstream.url + CHAT, json=chat(data_uri(picture(RED))), raise_for_status=True)

    run(work)
    assert 0 == upstream.calls


def test_connections_are_used_again(upstream: Upstream) -> None:
    async def work(session: Any) -> None:
        for _ in range(3):
            async with session.post(upstream.url + CHAT, json={}) as reply:
                await reply.read()
        assert 1 == sum(map(len, session.connector._conns.values()))

    run(work)


def test_sockets_and_plain_sessions_are_refused(upstream: Upstream) -> None:
    async def work(session: Any) -> None:
        with pytest.raises(ConfigurationError, match="websocket"):
            await session.ws_connect(upstream.url)
        with pytest.raises(ConfigurationError) as caught:
            guard_client(session, colour_guard()[0])
        hint = str(caught.value.hint)
        assert "GuardedSession" in hint
        assert "gRPC cannot be guarded: use the REST transport" in hint

    run(work)
    assert 0 == upstream.calls


def test_the_settings_of_the_session_stay_its_own(upstream: Upstream) -> None:
    async def work(session: Any) -> None:
        await session.get("/x")
        assert "b" == upstream.asked[0].headers["a"]

    run(work, headers={"a": "b"}, base_url=upstream.url)
    with pytest.raises(ConfigurationError):
        run(work, on_block="no")
