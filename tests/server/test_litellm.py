"""LiteLLM's generic guardrail endpoint of the service, as LiteLLM documents it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from integrations.http.pictures import GREEN, RED, b64, data_uri, picture
from policyguard.assessment import Failure, FailureKind
from policyguard.images import decode
from policyguard.server.shapes import LITELLM
from policyguard.testing import FakeBackend
from server.support import TURNED, Service, serving, write

GREEN_URI, RED_URI = data_uri(picture(GREEN)), data_uri(picture(RED))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("policies")) as running:
        yield running


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


def post(service: Service, payload: Any) -> httpx.Response:
    return service.post(LITELLM, json=payload)


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
def test_what_complies_passes(service: Service, case: str) -> None:
    response = post(service, PASS[case])
    assert (200, "NONE") == (response.status_code, response.json()["action"])
    assert len(PASS[case]["images"] or []) == response.json()["policyguard"]["images_checked"]


@pytest.mark.parametrize("case", BLOCK)
def test_what_violates_or_cannot_be_judged_is_blocked(service: Service, case: str) -> None:
    response = post(service, BLOCK[case])
    assert (200, "BLOCKED") == (response.status_code, response.json()["action"])
    assert response.json()["blocked_reason"].startswith("PolicyGuard: ")
    assert "base64," not in response.text


@pytest.mark.parametrize("payload", [[], {}, {"input_type": "other"}, "x", 1])
def test_what_is_no_request_of_litellm_is_an_error(service: Service, payload: Any) -> None:
    assert 400 == post(service, payload).status_code


@pytest.mark.parametrize("images", [GREEN_URI, {"0": GREEN_URI}, 1, True, 0, "", {}])
def test_images_that_are_no_list_are_an_error(service: Service, images: Any) -> None:
    assert 400 == post(service, asked(images=images)).status_code


def test_a_guard_that_is_down_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, backend=FakeBackend(Failure(FailureKind.ERROR, "down"))) as service:
        assert "BLOCKED" == post(service, asked(images=[GREEN_URI])).json()["action"]
        service.backend.close()
        assert 503 == post(service, asked(images=[GREEN_URI])).status_code


def test_the_policy_is_named_where_there_are_several(tmp_path: Path) -> None:
    for name in ("colours", "others"):
        write(tmp_path, name)
    with serving(tmp_path) as service:
        assert 422 == post(service, asked()).status_code
        for wanted, status in (("others", 200), (["colours", "others"], 200), ("x", 404), (1, 422)):
            more = {"policy": wanted}
            answer = post(service, asked(images=[RED_URI], additional_provider_specific_params=more))
            assert status == answer.status_code
            assert 200 != status or "BLOCKED" == answer.json()["action"]


def test_what_was_judged_is_passed_on_in_messages(service: Service) -> None:
    part = {"type": "image_url", "image_url": {"url": TURNED}}
    answer = post(
        service, asked(images=[TURNED], structured_messages=[{"role": "user", "content": [part]}])
    ).json()
    assert "GUARDRAIL_INTERVENED" == answer["action"]
    uri = answer["structured_messages"][0]["content"][0]["image_url"]["url"]
    image = decode(base64.b64decode(uri.partition(",")[2]))
    assert ((16, 24), True) == (image.size, image.is_plain)


def test_what_was_judged_and_cannot_be_written_back_is_blocked(service: Service) -> None:
    answer = post(service, asked(images=[TURNED])).json()
    assert "BLOCKED" == answer["action"]
    assert "cannot be passed on" in answer["blocked_reason"]
    assert "NONE" == post(service, asked(input_type="response", images=[TURNED])).json()["action"]
    original = asked(images=[TURNED], additional_provider_specific_params={"pass_on": "original"})
    assert "NONE" == post(service, original).json()["action"]
