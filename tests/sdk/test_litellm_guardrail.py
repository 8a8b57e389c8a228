"""The LiteLLM proxy's own client of its generic guardrail, against the service."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from integrations.http.pictures import GREEN, RED, data_uri, picture
from policyguard.images import decode
from policyguard.server.keys import new_key
from server.support import TURNED, Service, serving
from support.examples import ROOT

pytestmark = pytest.mark.sdk

GREEN_URI, RED_URI = data_uri(picture(GREEN)), data_uri(picture(RED))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("policies")) as running:
        yield running


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


def test_litellm_blocks_a_request(service: Service) -> None:
    exceptions = pytest.importorskip("litellm.exceptions")
    passed = check(litellm_s_guardrail(service.url), message(GREEN_URI))
    assert message(GREEN_URI)["messages"] == passed["messages"]
    with pytest.raises(exceptions.GuardrailRaisedException, match=r"PolicyGuard: .*Red"):
        check(litellm_s_guardrail(service.url), message(GREEN_URI, RED_URI))


@pytest.mark.parametrize("as_sent", [True, False])
def test_litellm_sends_what_was_judged(service: Service, as_sent: bool) -> None:
    """A JPEG that viewers may turn, and beside it a PNG that stays to the byte."""
    guardrail = litellm_s_guardrail(service.url, forward_messages_as_sent=as_sent)
    passed = check(guardrail, message(TURNED, GREEN_URI))
    text, first, second = passed["messages"][0]["content"]
    assert ("hi", GREEN_URI) == (text["text"], second["image_url"]["url"])
    head, _, code = first["image_url"]["url"].partition(",")
    image = decode(base64.b64decode(code))
    assert ("data:image/jpeg;base64", (16, 24), True) == (head, image.size, image.is_plain)
    assert message(GREEN_URI)["messages"] == check(guardrail, message(GREEN_URI))["messages"]


def test_litellm_blocks_while_the_server_is_away() -> None:
    with pytest.raises(Exception, match=r".+"):
        check(litellm_s_guardrail("http://127.0.0.1:9"), message(GREEN_URI))


def test_litellm_does_not_ask_about_a_message_of_images_alone(service: Service) -> None:
    """As the README warns. Where this fails, LiteLLM asks now: take the warning out."""
    passed = check(litellm_s_guardrail(service.url), message(RED_URI, text=None))
    assert message(RED_URI, text=None)["messages"] == passed["messages"]


def test_litellm_sends_its_key_and_the_policy(tmp_path: Path) -> None:
    exceptions = pytest.importorskip("litellm.exceptions")
    key = new_key(tmp_path / "keys.yaml", "litellm", policies=["colours"])
    more = {"policy": "colours"}
    with serving(tmp_path / "policies", keys=tmp_path / "keys.yaml") as guarded:
        guardrail = litellm_s_guardrail(guarded.url, api_key=key, additional_provider_specific_params=more)
        check(guardrail, message(GREEN_URI))
        with pytest.raises(exceptions.GuardrailRaisedException, match=r"PolicyGuard: .*Red"):
            check(guardrail, message(RED_URI))
        more["policy"] = "others"
        with pytest.raises(Exception, match=r".+"):
            check(guardrail, message(GREEN_URI))
        with pytest.raises(Exception, match=r".+"):
            check(litellm_s_guardrail(guarded.url, api_key="wrong"), message(GREEN_URI))


def test_the_configuration_is_what_litellm_reads() -> None:
    import yaml

    types = pytest.importorskip("litellm.types.guardrails")
    config = yaml.load((ROOT / "integrations" / "litellm" / "config.yaml").read_text(), yaml.SafeLoader)  # noqa: TID251
    (guardrail,) = config["guardrails"]
    params = types.LitellmParams(**guardrail["litellm_params"])
    assert "generic_guardrail_api" == params.guardrail
    assert ["pre_call", "post_call"] == params.mode
    assert (True, "fail_closed") == (params.default_on, params.unreachable_fallback)
