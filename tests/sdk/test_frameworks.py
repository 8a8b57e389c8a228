"""LangChain's chat models and LiteLLM over guarded clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard import ConfigurationError
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


@pytest.mark.parametrize("half", ["http_client", "http_async_client"])
def test_the_half_of_a_chat_model_that_is_not_guarded_does_not_send(provider: Upstream, half: str) -> None:
    make = guarded_client if half == "http_client" else guarded_async_client
    mixed = langchain_openai.ChatOpenAI(
        model="m",
        api_key="k",
        base_url=provider.url + "/v1",
        **{half: make(colour_guard()[0], family="httpx")},
    )

    def waiting() -> Any:
        return asyncio.run(mixed.ainvoke(human("hi", GREEN)))

    def blocking() -> Any:
        return mixed.invoke(human("hi", GREEN))

    works, refuses = (blocking, waiting) if half == "http_client" else (waiting, blocking)
    assert WORDS == works().content
    with pytest.raises(ConfigurationError, match="the chat model has one HTTP client that is guarded"):
        refuses()
    assert 1 == provider.calls
    assert mixed.bind(stop=["."]).invoke(human("hi")) if half == "http_client" else True


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
