"""LangChain's chat models and LiteLLM over guarded clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard.integrations.http import guarded_async_client, guarded_client
from sdk.provider import WORDS

openai = pytest.importorskip("openai")
langchain_openai = pytest.importorskip("langchain_openai")
litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.sdk


def model(provider: Upstream, guard: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        model="m",
        api_key="k",
        base_url=provider.url + "/v1",
        http_client=guarded_client(guard, family="httpx"),
        http_async_client=guarded_async_client(guard, family="httpx"),
    )


def human(text: str, *colours: tuple[int, int, int]) -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [
        {"type": "image", "base64": b64(picture(colour)), "mime_type": "image/png"} for colour in colours
    ]
    return [{"role": "user", "content": parts}]


def test_langchain_is_refused_before_the_provider_is_called(provider: Upstream) -> None:
    guard, _ = colour_guard()
    with pytest.raises(openai.PermissionDeniedError):
        model(provider, guard).invoke(human("hi", GREEN, RED))
    with pytest.raises(openai.PermissionDeniedError):
        asyncio.run(model(provider, guard).ainvoke(human("hi", RED)))
    assert 0 == provider.calls
    assert WORDS == model(provider, guard).invoke(human("hi", GREEN)).content


def test_langchain_never_sees_a_picture_that_was_generated_and_blocked(provider: Upstream) -> None:
    guard, _ = colour_guard()
    with pytest.raises(openai.PermissionDeniedError):
        model(provider, guard).invoke(human("draw red"))
    assert 1 == provider.calls


def test_langchain_streams(provider: Upstream) -> None:
    guard, _ = colour_guard()
    assert WORDS == "".join(chunk.content for chunk in model(provider, guard).stream(human("hi"))).strip()
    with pytest.raises(openai.APIError, match="PolicyGuard"):
        list(model(provider, guard).stream(human("draw red")))


def test_litellm_is_refused_before_the_provider_is_called(provider: Upstream) -> None:
    guard, _ = colour_guard()
    guarded = openai.OpenAI(
        api_key="k", base_url=provider.url + "/v1", http_client=guarded_client(guard, family="httpx")
    )

    def ask(colour: tuple[int, int, int], text: str = "hi") -> Any:
        parts = [
            {"type": "text", "text": text},
            {"type": "image_url", "image_url": {"url": data_uri(picture(colour))}},
        ]
        return litellm.completion(
            model="openai/m", messages=[{"role": "user", "content": parts}], client=guarded, num_retries=0
        )

    with pytest.raises(litellm.APIError) as caught:  # what LiteLLM makes of a 403
        ask(RED)
    assert 403 == caught.value.status_code
    assert 0 == provider.calls
    assert WORDS == ask(GREEN).choices[0].message.content
    with pytest.raises(litellm.APIError):
        ask(GREEN, "draw red")
    assert 2 == provider.calls
