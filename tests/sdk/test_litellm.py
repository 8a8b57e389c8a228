"""LiteLLM, guarded by one call: no image reaches a provider unjudged, whichever it is."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import pytest

from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Upstream
from policyguard import ConfigurationError

litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.sdk

PROVIDERS = {
    "anthropic": "anthropic/claude-sonnet-4-5",
    "mistral": "mistral/pixtral-large-latest",
    "openrouter": "openrouter/openai/gpt-4o",
    "groq": "groq/meta-llama/llama-4-scout-17b-16e-instruct",
    "xai": "xai/grok-2-vision",
    "hosted_vllm": "hosted_vllm/m",
    "ollama": "ollama_chat/llava",
    "cohere": "cohere_chat/v2/command-a-vision-07-2025",
    "bedrock": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
    "together": "together_ai/m",
    "azure_ai": "azure_ai/m",
    "openai": "openai/gpt-4o",
    "gemini": "gemini/gemini-2.5-flash",
}


@pytest.fixture(autouse=True)
def _guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from policyguard.integrations.http import guard_litellm

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    guard, _ = colour_guard()
    undo = guard_litellm(guard)
    with pytest.raises(ConfigurationError, match="already"):
        guard_litellm(guard)
    yield
    undo()


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with Upstream(lambda _: Answer(b'{"error": {"message": "reached"}}', status=400)) as running:
        yield running


async def complete(call: dict[str, Any]) -> Any:
    answer = await litellm.acompletion(**call)
    return [piece async for piece in answer] if call.get("stream") else answer


def ask(
    provider: Upstream, model: str, colour: tuple[int, int, int], *, asynchronous: bool, **more: Any
) -> str:
    content = [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": data_uri(picture(colour))}},
    ]
    call = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "api_base": provider.url,
        "api_key": "k",
        "num_retries": 0,
        "max_retries": 0,
        **more,
    }
    try:
        answer = asyncio.run(complete(call)) if asynchronous else litellm.completion(**call)
        if call.get("stream"):
            list(answer)
    except Exception as error:
        return str(error)
    return str(answer)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PROVIDERS)
def test_no_image_reaches_a_provider_unjudged(
    provider: Upstream, name: str, stream: bool, asynchronous: bool
) -> None:
    assert "PolicyGuard blocked" in ask(
        provider, PROVIDERS[name], RED, asynchronous=asynchronous, stream=stream
    )
    assert provider.calls == 0
    ask(provider, PROVIDERS[name], GREEN, asynchronous=asynchronous, stream=stream)
    assert provider.calls >= 1
    assert b64(picture(GREEN))[:40] in provider.asked[0].body.decode()


def test_the_other_calls_to_openai_are_guarded(provider: Upstream) -> None:
    rest: dict[str, Any] = {"api_base": provider.url, "api_key": "k", "num_retries": 0, "max_retries": 0}
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": data_uri(picture(RED))}]}]
    calls = [
        lambda: litellm.responses(model="openai/gpt-4o", input=image, **rest),
        lambda: litellm.image_edit(
            model="openai/gpt-image-1", prompt="p", image=io.BytesIO(picture(RED)), **rest
        ),
        lambda: litellm.create_file(
            file=("a.png", picture(RED), "image/png"),
            purpose="user_data",
            custom_llm_provider="openai",
            **rest,
        ),
    ]
    for call in calls:
        with pytest.raises(Exception, match="PolicyGuard blocked"):
            call()
    assert provider.calls == 0
