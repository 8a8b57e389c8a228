"""The real Anthropic SDK over a guarded client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from integrations.http.pictures import GREEN, RED, b64, colour_guard, picture
from integrations.http.upstream import Upstream
from policyguard.integrations.http import guarded_async_client, guarded_client
from sdk.provider import WORDS

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.sdk


def client(provider: Upstream, guard: Any, **options: Any) -> Any:
    http = guarded_client(guard, family="httpx2", **options)
    return anthropic.Anthropic(api_key="k", base_url=provider.url, http_client=http)


def image(colour: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": b64(picture(colour))},
    }


def asked(*content: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": list(content)}]}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_a_blocked_picture_is_a_permission_error_before_the_provider_is_called(provider: Upstream) -> None:
    guard, _ = colour_guard()
    nested = {"type": "tool_result", "tool_use_id": "t", "content": [image(RED)]}
    for content in (image(RED), nested):
        with pytest.raises(anthropic.PermissionDeniedError, match="Red") as caught:
            client(provider, guard).messages.create(**asked(content))
        assert "permission_error" == caught.value.body["error"]["type"]

    async def ask() -> None:
        http = guarded_async_client(guard, family="httpx2")
        guarded = anthropic.AsyncAnthropic(api_key="k", base_url=provider.url, http_client=http)
        with pytest.raises(anthropic.PermissionDeniedError):
            await guarded.messages.create(**asked(image(RED)))

    asyncio.run(ask())
    assert 0 == provider.calls


def test_a_picture_that_complies_passes(provider: Upstream) -> None:
    guard, _ = colour_guard()
    reply = client(provider, guard).messages.create(**asked(image(GREEN)))
    assert (WORDS, 1) == (reply.content[0].text, provider.calls)


def test_a_picture_in_the_answer_is_blocked_after_exactly_one_call(provider: Upstream) -> None:
    guard, _ = colour_guard()
    with pytest.raises(anthropic.PermissionDeniedError):
        client(provider, guard).messages.create(**asked(words("draw red")))
    assert 1 == provider.calls


def test_traffic_of_text_is_the_same_to_the_byte(provider: Upstream) -> None:
    guard, _ = colour_guard()
    plain = anthropic.Anthropic(api_key="k", base_url=provider.url)
    replies = [
        c.messages.with_raw_response.create(**asked(words("hi"))).http_response.content
        for c in (plain, client(provider, guard))
    ]
    assert replies[0] == replies[1]
    first, second = provider.asked
    assert (first.body, first.headers) == (second.body, second.headers)


def test_a_stream_of_text_comes_whole_and_one_with_a_picture_is_stopped(provider: Upstream) -> None:
    guard, _ = colour_guard()
    with client(provider, guard).messages.stream(**asked(words("hi"))) as stream:
        assert WORDS == "".join(stream.text_stream)
    said: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError, match="piece by piece"),
        client(provider, guard).messages.stream(**asked(words("draw red"))) as stream,
    ):
        said.extend(stream.text_stream)
    assert "".join(said).startswith(WORDS)
    assert b64(picture(RED))[:40] not in "".join(said)


def test_a_guard_that_is_down_blocks(provider: Upstream) -> None:
    guard, backend = colour_guard()
    backend.answer = RuntimeError("down")
    with pytest.raises(anthropic.PermissionDeniedError, match="policyguard_unjudged"):
        client(provider, guard).messages.create(**asked(image(GREEN)))
    assert 0 == provider.calls
