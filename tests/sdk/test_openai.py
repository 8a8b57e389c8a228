"""The real OpenAI SDK, major 2 or 3, over a guarded client."""

from __future__ import annotations

import asyncio
import io
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard import ConfigurationError, Guard, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.integrations.http import guarded_async_client, guarded_client
from sdk.provider import WORDS

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.sdk

MAJOR = int(openai.__version__.split(".")[0])
FAMILY: Any = "httpx2" if MAJOR >= 3 else "httpx"
EXAMPLES = Path(__file__).parents[2] / "examples" / "images"


def client(provider: Upstream, guard: Any, **options: Any) -> Any:
    http = guarded_client(guard, family=FAMILY, **options)
    return openai.OpenAI(api_key="k", base_url=provider.url + "/v1", http_client=http)


def async_client(provider: Upstream, guard: Any, **options: Any) -> Any:
    http = guarded_async_client(guard, family=FAMILY, **options)
    return openai.AsyncOpenAI(api_key="k", base_url=provider.url + "/v1", http_client=http)


def messages(text: str, *pictures: bytes) -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": data_uri(data)}} for data in pictures]
    return [{"role": "user", "content": parts}]


def test_the_family_is_the_installed_sdk_s() -> None:
    guard, _ = colour_guard()
    if MAJOR >= 3:
        assert guarded_client(guard).__class__.__module__.startswith("httpx2")
    else:  # beside the Anthropic SDK, which is on httpx2
        with pytest.raises(ConfigurationError, match="family="):
            guarded_client(guard)


def test_a_blocked_picture_is_a_permission_error_before_the_provider_is_called(provider: Upstream) -> None:
    guard, _ = colour_guard()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client(provider, guard).chat.completions.create(model="m", messages=messages("hi", picture(RED)))
    assert ("image_policy_violation", 0) == (caught.value.code, provider.calls)
    assert "Red" in caught.value.message
    assert "block" in caught.value.response.headers["x-policyguard-verdict"]

    async def ask() -> None:
        with pytest.raises(openai.PermissionDeniedError):
            await async_client(provider, guard).chat.completions.create(
                model="m", messages=messages("hi", picture(RED))
            )

    asyncio.run(ask())
    assert 0 == provider.calls


CALLS: dict[str, Any] = {
    "images.generate": lambda c, how: c.images.generate(model="m", prompt=how),
    "images.edit": lambda c, how: c.images.edit(
        model="m", prompt=how, image=("a.png", io.BytesIO(picture(GREEN)), "image/png")
    ),
    "responses": lambda c, how: c.responses.create(model="m", input=how),
    "chat": lambda c, how: c.chat.completions.create(model="m", messages=messages(how)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_generated_picture_is_blocked_after_exactly_one_call(provider: Upstream, name: str) -> None:
    guard, _ = colour_guard()
    with pytest.raises(openai.PermissionDeniedError) as caught:
        CALLS[name](client(provider, guard), "draw red")
    assert ("image_policy_violation", 1) == (caught.value.code, provider.calls)

    async def ask() -> None:
        with pytest.raises(openai.PermissionDeniedError):
            await CALLS[name](async_client(provider, guard), "draw red")

    asyncio.run(ask())
    assert 2 == provider.calls
    CALLS[name](client(provider, guard), "draw green")
    assert 3 == provider.calls


def test_traffic_of_text_is_the_same_to_the_byte(provider: Upstream) -> None:
    guard, backend = colour_guard()
    plain = openai.OpenAI(api_key="k", base_url=provider.url + "/v1")
    replies = [
        c.chat.completions.with_raw_response.create(model="m", messages=messages("hi")).http_response.content
        for c in (plain, client(provider, guard))
    ]
    assert replies[0] == replies[1]
    first, second = provider.asked
    assert first.body == second.body
    assert first.headers == second.headers
    assert 0 == backend.calls


def test_a_stream_of_text_comes_whole(provider: Upstream) -> None:
    guard, _ = colour_guard()
    stream = client(provider, guard).chat.completions.create(model="m", messages=messages("hi"), stream=True)
    assert WORDS == "".join(chunk.choices[0].delta.content for chunk in stream).strip()

    async def ask() -> str:
        stream = await async_client(provider, guard).chat.completions.create(
            model="m", messages=messages("hi"), stream=True
        )
        return "".join([chunk.choices[0].delta.content async for chunk in stream]).strip()

    assert WORDS == asyncio.run(ask())


STREAMS: dict[str, Any] = {
    "chat": lambda c, how: c.chat.completions.create(model="m", messages=messages(how), stream=True),
    "responses": lambda c, how: c.responses.create(model="m", input=how, stream=True),
    "images": lambda c, how: c.images.generate(model="m", prompt=how, stream=True, partial_images=1),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_picture_in_a_stream_is_held_and_blocked(provider: Upstream, name: str) -> None:
    guard, _ = colour_guard()
    seen: list[str] = []
    with pytest.raises(openai.APIError, match="PolicyGuard blocked"):
        seen.extend(event.to_json() for event in STREAMS[name](client(provider, guard), "draw red"))
    assert seen
    assert b64(picture(RED)) not in "".join(seen)
    assert 1 == provider.calls
    events = [event.to_json() for event in STREAMS[name](client(provider, guard), "draw green")]
    assert b64(picture(GREEN)) in "".join(events)


def test_pictures_in_tool_outputs_are_found(provider: Upstream) -> None:
    guard, _ = colour_guard()

    def ask(data: bytes) -> Any:
        output = [{"type": "input_image", "image_url": data_uri(data), "detail": "auto"}]
        return client(provider, guard).responses.create(
            model="m", input=[{"type": "function_call_output", "call_id": "c", "output": output}]
        )

    assert WORDS == ask(picture(GREEN)).output_text
    with pytest.raises(openai.PermissionDeniedError):
        ask(picture(RED))
    assert 1 == provider.calls


def test_uploads_are_judged_and_their_ids_known(provider: Upstream) -> None:
    guard, _ = colour_guard()
    guarded = client(provider, guard)

    def use(name: str) -> Any:
        part = {"type": "input_image", "file_id": name, "detail": "auto"}
        return guarded.responses.create(model="m", input=[{"role": "user", "content": [part]}])

    with pytest.raises(openai.PermissionDeniedError):
        guarded.files.create(file=("a.png", picture(RED)), purpose="vision")
    with pytest.raises(openai.PermissionDeniedError):
        use("file-abc123")
    assert 0 == provider.calls
    file = guarded.files.create(file=("a.png", picture(GREEN)), purpose="vision")
    assert WORDS == use(file.id).output_text


def test_raise_reaches_the_caller_and_calls_the_provider_once(provider: Upstream) -> None:
    guard, _ = colour_guard()
    expected = PolicyViolation if MAJOR >= 3 else openai.APIConnectionError
    with pytest.raises(expected) as caught:
        client(provider, guard, on_block="raise").images.generate(model="m", prompt="draw red")
    assert 1 == provider.calls
    assert isinstance(caught.value if MAJOR >= 3 else caught.value.__cause__, PolicyViolation)


def test_replace_sends_another_picture(provider: Upstream) -> None:
    guard, _ = colour_guard()
    guarded = client(provider, guard, on_block="replace")
    guarded.chat.completions.create(model="m", messages=messages("hi", picture(RED)))
    assert b64(picture(RED)).encode() not in provider.asked[0].body
    made = guarded.images.generate(model="m", prompt="draw red").data[0].b64_json
    assert made not in (None, b64(picture(RED)))


def test_a_guard_that_is_down_blocks(provider: Upstream) -> None:
    guard, backend = colour_guard()
    backend.answer = RuntimeError("down")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client(provider, guard).chat.completions.create(model="m", messages=messages("hi", picture(GREEN)))
    assert ("policyguard_unjudged", 0) == (caught.value.code, provider.calls)
    with pytest.raises(openai.PermissionDeniedError):
        client(provider, guard).images.generate(model="m", prompt="draw green")
    assert 1 == provider.calls


def test_a_thousand_mixed_requests_at_32_at_once_miss_none(provider: Upstream) -> None:
    guard, _ = colour_guard()

    async def ask_all() -> list[bool]:
        at_once = asyncio.Semaphore(32)
        guarded = async_client(provider, guard, timeout=100)

        async def one(number: int) -> bool:
            sent = ((), (picture(RED, seed=number % 97),), (picture(GREEN, seed=number % 97),))[number % 3]
            how = ("hi", "draw red", "draw green")[number // 3 % 3]
            async with at_once:
                try:
                    await guarded.chat.completions.create(model="m", messages=messages(how, *sent))
                except openai.PermissionDeniedError:
                    return number % 3 == 1 or how == "draw red"
            return number % 3 != 1 and how != "draw red"

        return await asyncio.gather(*(one(number) for number in range(1000)))

    assert all(asyncio.run(ask_all()))
    assert 1000 - 333 == provider.calls


@pytest.mark.skipif(MAJOR < 3, reason="one environment with the model is enough")
def test_pico_judges(provider: Upstream) -> None:
    pytest.importorskip("torch")
    with Guard(policy="pictosafe/l3") as guard:
        verdicts = {path: guard.check(path).allowed for path in sorted(EXAMPLES.glob("*.png"))}
        assert {True, False} == set(verdicts.values())
        for path, allowed in verdicts.items():
            before = provider.calls
            try:
                client(provider, guard).chat.completions.create(
                    model="m", messages=messages("hi", path.read_bytes())
                )
            except openai.PermissionDeniedError:
                assert not allowed
                assert before == provider.calls
            else:
                assert allowed


def test_a_passing_outage_of_the_guard_is_tried_again_by_the_sdk(provider: Upstream) -> None:
    guard, backend = colour_guard()
    backend.enqueue(Failure(FailureKind.ERROR, "the server is down", retryable=True))
    client(provider, guard).chat.completions.create(model="m", messages=messages("hi", picture(GREEN)))
    assert (2, 1) == (backend.calls, provider.calls)


SOCKETS = ("responses", "realtime", "realtime.translations", "live", "live.sideband", "live.forks")


@pytest.mark.parametrize("place", [*SOCKETS, "beta.realtime", "beta.responses"])
def test_a_socket_of_a_guarded_client_is_refused_and_others_work(provider: Upstream, place: str) -> None:
    guard, _ = colour_guard()
    plain = openai.OpenAI(api_key="k", base_url=provider.url + "/v1")
    arguments = (
        {"session_id": "s"} if place.startswith("live.") else {"model": "m"} if "real" in place else {}
    )
    for made in (client(provider, guard), client(provider, guard).with_options(timeout=9), plain):
        try:
            resource = operator.attrgetter(place)(made)
        except AttributeError:
            pytest.skip(f"this version has no {place}")
        if made is plain:
            assert hasattr(resource.connect(**arguments), "__enter__")
            continue
        with pytest.raises(ConfigurationError, match="socket beside the guarded"):
            resource.connect(**arguments)
    assert 0 == provider.calls


def test_an_sdk_that_is_imported_after_the_guarded_client_opens_no_socket_either() -> None:
    code = """if True:
        from integrations.http.pictures import colour_guard
        from policyguard import ConfigurationError
        from policyguard.integrations.http import guarded_async_client
        client = guarded_async_client(colour_guard()[0], family=FAMILY)
        import openai
        try:
            openai.AsyncOpenAI(api_key="k", http_client=client).realtime.connect(model="m")
        except ConfigurationError:
            print("refused")
        """
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code.replace("FAMILY", repr(FAMILY))],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "refused" == done.stdout.strip()
