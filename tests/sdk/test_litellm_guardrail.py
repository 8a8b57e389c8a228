"""LiteLLM's generic guardrail endpoint over a loopback server, as documented and as LiteLLM asks it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from images.support import exif
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from policyguard import Guard
from policyguard.assessment import Failure, FailureKind
from policyguard.images import decode
from policyguard.testing import FakeBackend
from support.examples import ROOT, example
from support.waiting import wait_until

pytestmark = pytest.mark.sdk
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

PATH = "/beta/litellm_basic_guardrail_api"
GREEN_URI, RED_URI = data_uri(picture(GREEN)), data_uri(picture(RED))


@contextmanager
def serving(guard: Guard, api_key: str | None = None, **options: Any) -> Iterator[str]:
    """The server's address."""
    app = example("server", "integrations/litellm").build_app(guard, api_key=api_key, **options)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(colour_guard()[0]) as address:
        yield address


def asked(**fields: Any) -> dict[str, Any]:
    """A request as LiteLLM documents it."""
    return {
        "input_type": "request",
        "litellm_call_id": "call",
        "litellm_trace_id": "trace",
        "texts": ["hi"],
        "images": None,
        "tools": None,
        "tool_calls": None,
        "structured_messages": [{"role": "user", "content": "hi"}],
        "request_data": {"user_api_key_user_id": "u"},
        "request_headers": {"accept": "*/*"},
        "litellm_version": "1.0.0",
        "additional_provider_specific_params": {},
        "model": "gpt",
    } | fields


def post(server: str, payload: Any, **headers: str) -> httpx.Response:
    return httpx.post(server + PATH, json=payload, headers=headers, timeout=None)


PASS = {
    "no images": asked(),
    "a picture that complies": asked(images=[GREEN_URI]),
    "bare base64": asked(images=[b64(picture(GREEN))]),
    "a response": asked(input_type="response", images=[GREEN_URI, GREEN_URI]),
}
BLOCK = {
    "a picture that violates": asked(images=[GREEN_URI, RED_URI]),
    "a response": asked(input_type="response", images=[RED_URI]),
    "an address": asked(images=["https://pictures.example/cat.png"]),
    "a word": asked(images=["cat.png"]),
    "an empty string": asked(images=[""]),
    "broken base64": asked(images=["data:image/png;base64,!!!!"]),
    "a text": asked(texts=[f"see {RED_URI}"]),
    "a message": asked(
        structured_messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": RED_URI}}]}
        ]
    ),
    "the arguments of a tool call": asked(
        tool_calls=[{"function": {"name": "f", "arguments": json.dumps({"image": RED_URI})}}]
    ),
}


@pytest.mark.parametrize("case", PASS)
def test_what_complies_passes(server: str, case: str) -> None:
    response = post(server, PASS[case])
    assert (200, "NONE") == (response.status_code, response.json()["action"])
    assert len(PASS[case]["images"] or []) == response.json()["policyguard"]["images_checked"]


@pytest.mark.parametrize("case", BLOCK)
def test_what_violates_or_cannot_be_judged_is_blocked(server: str, case: str) -> None:
    response = post(server, BLOCK[case])
    assert (200, "BLOCKED") == (response.status_code, response.json()["action"])
    assert response.json()["blocked_reason"].startswith("PolicyGuard: ")
    assert "base64," not in response.text


@pytest.mark.parametrize("payload", [[], {}, {"input_type": "other"}, "x", None])
def test_what_is_no_request_of_litellm_is_an_error(server: str, payload: Any) -> None:
    assert 400 == post(server, payload).status_code
    assert 400 == httpx.post(server + PATH, content=b"{", timeout=None).status_code


@pytest.mark.parametrize("images", [GREEN_URI, {"0": GREEN_URI}, 1, True, 0, "", {}])
def test_images_that_are_no_list_are_an_error(server: str, images: Any) -> None:
    assert 400 == post(server, asked(images=images)).status_code


def test_a_guard_that_is_down_blocks() -> None:
    guard = Guard(policy="safeedit/l3", backend=FakeBackend(Failure(FailureKind.ERROR, "down")))
    with serving(guard) as address:
        assert "BLOCKED" == post(address, asked(images=[GREEN_URI])).json()["action"]
        guard.backend.close()
        assert 500 == post(address, asked(images=[GREEN_URI])).status_code


def test_the_key_is_asked_for() -> None:
    with serving(colour_guard()[0], "secret") as address:
        assert 401 == post(address, asked()).status_code
        assert 401 == post(address, asked(), **{"x-api-key": "wrong"}).status_code
        assert 200 == post(address, asked(), **{"x-api-key": "secret"}).status_code


def litellm_s_guardrail(address: str, **options: Any) -> Any:
    module = pytest.importorskip(
        "litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api.generic_guardrail_api"
    )
    return module.GenericGuardrailAPI(api_base=address, guardrail_name="policyguard", **options)


def message(*images: str, text: str | None = "hi") -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    if text is not None:
        parts.insert(0, {"type": "text", "text": text})
    return {"model": "gpt", "messages": [{"role": "user", "content": parts}]}


def check(guardrail: Any, request: dict[str, Any]) -> Any:
    from litellm.llms.openai.chat.guardrail_translation.handler import OpenAIChatCompletionsHandler

    return asyncio.run(OpenAIChatCompletionsHandler().process_input_messages(request, guardrail))


def test_litellm_blocks_a_request(server: str) -> None:
    exceptions = pytest.importorskip("litellm.exceptions")
    passed = check(litellm_s_guardrail(server), message(GREEN_URI))
    assert message(GREEN_URI)["messages"] == passed["messages"]
    with pytest.raises(exceptions.GuardrailRaisedException, match=r"PolicyGuard: .*Red"):
        check(litellm_s_guardrail(server), message(GREEN_URI, RED_URI))


@pytest.mark.parametrize("as_sent", [True, False])
def test_litellm_sends_what_was_judged(server: str, as_sent: bool) -> None:
    """A JPEG that viewers may turn, and beside it a PNG that stays to the byte."""
    turned = data_uri(in_jpeg(exif=b"Exif\0\0" + exif(6)), "image/jpeg")
    guardrail = litellm_s_guardrail(server, forward_messages_as_sent=as_sent)
    passed = check(guardrail, message(turned, GREEN_URI))
    text, first, second = passed["messages"][0]["content"]
    assert ("hi", GREEN_URI) == (text["text"], second["image_url"]["url"])
    head, _, code = first["image_url"]["url"].partition(",")
    image = decode(base64.b64decode(code))
    assert ("data:image/jpeg;base64", (16, 24), True) == (head, image.size, image.is_plain)
    assert message(GREEN_URI)["messages"] == check(guardrail, message(GREEN_URI))["messages"]


def in_jpeg(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), GREEN).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_what_was_judged_and_cannot_be_written_back_is_blocked() -> None:
    turned = data_uri(in_jpeg(exif=b"Exif\0\0" + exif(6)))
    with serving(colour_guard()[0]) as address:
        answer = post(address, asked(images=[turned])).json()
        assert "BLOCKED" == answer["action"]
        assert "cannot be passed on" in answer["blocked_reason"]
        assert "NONE" == post(address, asked(input_type="response", images=[turned])).json()["action"]
    with serving(colour_guard()[0], pass_on="original") as address:
        assert "NONE" == post(address, asked(images=[turned])).json()["action"]


def test_litellm_blocks_while_the_server_is_away() -> None:
    with pytest.raises(Exception, match=r".+"):
        check(litellm_s_guardrail("http://127.0.0.1:9"), message(GREEN_URI))


def test_litellm_does_not_ask_about_a_message_of_images_alone(server: str) -> None:
    """As the README warns. Where this fails, LiteLLM asks now: take the warning out."""
    passed = check(litellm_s_guardrail(server), message(RED_URI, text=None))
    assert message(RED_URI, text=None)["messages"] == passed["messages"]


def test_the_configuration_is_what_litellm_reads() -> None:
    import yaml

    types = pytest.importorskip("litellm.types.guardrails")
    config = yaml.load((ROOT / "integrations" / "litellm" / "config.yaml").read_text(), yaml.SafeLoader)  # noqa: TID251
    (guardrail,) = config["guardrails"]
    params = types.LitellmParams(**guardrail["litellm_params"])
    assert "generic_guardrail_api" == params.guardrail
    assert ["pre_call", "post_call"] == params.mode
    assert (True, "fail_closed") == (params.default_on, params.unreachable_fallback)
