"""Clients of botocore over a loopback server: what is blocked goes no further, all else goes on as it is."""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from typing import Any

import pytest
from PIL import Image

from images.support import exif
from integrations.http.pictures import GREEN, ORANGE, RED, b64, colour_guard, picture
from integrations.http.upstream import Answer, Asked, Upstream, json_answer
from policyguard import ConfigurationError, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.images import decode
from policyguard.integrations.http import guard_botocore, guard_client

botocore_session = pytest.importorskip("botocore.session")
from botocore.exceptions import ClientError  # noqa: E402
from botocore.stub import Stubber  # noqa: E402


def plain(upstream: Upstream, service: str = "bedrock-runtime") -> Any:
    return botocore_session.get_session().create_client(
        service,
        region_name="eu-central-1",
        endpoint_url=upstream.url,
        aws_access_key_id="a",
        aws_secret_access_key="s",
    )


def guarded(upstream: Upstream, service: str = "bedrock-runtime", **options: Any) -> Any:
    return guard_botocore(plain(upstream, service), colour_guard()[0], **options)


def message(*colours: tuple[int, int, int], text: str = "hi") -> list[Any]:
    images = [{"image": {"format": "png", "source": {"bytes": picture(colour)}}} for colour in colours]
    return [{"role": "user", "content": [{"text": text}, *images]}]


def answer(*content: Any) -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": list(content)}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
        "metrics": {"latencyMs": 1},
    }


def shown(colour: tuple[int, int, int]) -> dict[str, Any]:
    return {"image": {"format": "png", "source": {"bytes": b64(picture(colour))}}}


def frame(kind: str, value: Any) -> bytes:
    """One message of an event stream, as the specification of AWS has it."""
    headers = b""
    for name, text in (
        (":event-type", kind),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(text)) + text.encode()
    payload = json.dumps(value).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    whole = prelude + headers + payload
    return whole + struct.pack(">I", binascii.crc32(whole))


def streamed(*frames: bytes) -> Answer:
    return Answer(list(frames), "application/vnd.amazon.eventstream")


def delta(text: str) -> bytes:
    return frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})


def chunk(value: Any) -> bytes:
    return frame("chunk", {"bytes": b64(json.dumps(value).encode())})


def refused(call: Any, code: str = "image_policy_violation", status: int = 403) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    assert (code, status) == (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"])
    return caught.value


def test_a_request_with_a_blocked_image_is_not_sent(upstream: Upstream) -> None:
    upstream.answer(answer({"text": "words"}))
    client = guarded(upstream)
    error = refused(lambda: client.converse(modelId="m", messages=message(GREEN, RED)))
    assert "Red" in str(error)
    body = json.dumps({"messages": [{"content": [{"image": b64(picture(RED))}]}]})
    refused(lambda: client.invoke_model(modelId="m", body=body))
    refused(lambda: client.invoke_model(modelId="m", body=io.BytesIO(body.encode())))
    s3 = {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/a.png"}}}}
    refused(
        lambda: client.converse(modelId="m", messages=[{"role": "user", "content": [s3]}]),
        "policyguard_unjudged",
    )
    assert 0 == upstream.calls
    got = client.converse(modelId="m", messages=message(GREEN))
    assert "words" == got["output"]["message"]["content"][0]["text"]
    assert json.loads(got["ResponseMetadata"]["HTTPHeaders"]["x-policyguard-verdict"])["images_checked"] == 1


@pytest.mark.parametrize("colour", [GREEN, RED])
def test_an_answer_with_an_image_is_judged(upstream: Upstream, colour: Any) -> None:
    upstream.answer(answer({"text": "look"}, shown(colour)))
    client = guarded(upstream)
    if colour is RED:
        refused(lambda: client.converse(modelId="m", messages=message()))
    else:
        content = client.converse(modelId="m", messages=message())["output"]["message"]["content"]
        assert picture(GREEN) == content[1]["image"]["source"]["bytes"]
    upstream.answer({"images": [b64(picture(colour))]})
    if colour is RED:
        refused(lambda: client.invoke_model(modelId="m", body="{}"))
    else:
        body = client.invoke_model(modelId="m", body="{}")["body"]
        assert {"images": [b64(picture(GREEN))]} == json.loads(body.read())
    assert 2 == upstream.calls


def test_an_event_stream_is_judged_event_by_event(upstream: Upstream) -> None:
    client = guarded(upstream)
    upstream.respond = lambda _: streamed(delta("words "), delta("and more"), chunk({}))
    events = client.converse_stream(modelId="m", messages=message(GREEN))["stream"]
    assert ["words ", "and more"] == [
        event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event
    ]
    upstream.respond = lambda _: streamed(chunk({"image": b64(picture(GREEN))}), chunk({"text": "end"}))
    events = client.invoke_model_with_response_stream(modelId="m", body="{}")["body"]
    assert [b64(picture(GREEN)), None] == [json.loads(e["chunk"]["bytes"]).get("image") for e in events]
    code = b64(picture(RED))
    for frames in (
        (chunk({"a": "b"}), chunk({"image": code}), chunk({"text": "never"})),
        tuple(chunk({"text": piece}) for piece in ("data:image/png;", "base64,", code[:40], code[40:])),
    ):
        seen: list[Any] = []
        upstream.respond = lambda _, frames=frames: streamed(*frames)  # type: ignore[misc]
        stream = client.invoke_model_with_response_stream(modelId="m", body="{}")["body"]
        with pytest.raises(ClientError, match="PolicyGuard"):
            seen.extend(stream)
        assert code not in json.dumps(seen, default=str)
        assert len(seen) < len(frames)


def test_blocked_images_are_replaced_or_raised(upstream: Upstream) -> None:
    upstream.answer(answer(shown(RED)))
    client = guarded(upstream, on_block="replace")
    got = client.converse(modelId="m", messages=message(RED))
    assert picture(RED) not in (
        got["output"]["message"]["content"][0]["image"]["source"]["bytes"],
        upstream.asked[0].json["messages"][0]["content"][1]["image"]["source"]["bytes"],
    )
    assert b64(picture(RED)) not in upstream.asked[0].body.decode()
    raising = guarded(upstream, on_block="raise")
    with pytest.raises(PolicyViolation):
        raising.converse(modelId="m", messages=message(RED))
    with pytest.raises(PolicyViolation):
        raising.converse(modelId="m", messages=message())
    assert 2 == upstream.calls


def test_results_are_told_and_errors_of_the_provider_stay(upstream: Upstream) -> None:
    results: list[Any] = []
    client = guarded(upstream, on_result=results.append)
    upstream.answer({"message": "too large: data:image/png;base64,iVBOR..."}, status=400)
    with pytest.raises(ClientError, match="too large"):
        client.converse(modelId="m", messages=message(ORANGE))
    upstream.respond = lambda _: streamed(delta("words"))
    list(client.converse_stream(modelId="m", messages=message(GREEN))["stream"])
    assert [("flag", None), ("allow", None)] == [(result.action, result.blocked) for result in results]


def test_an_outage_of_the_guard_is_a_503(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    backend.enqueue(Failure(FailureKind.ERROR, "the server is down", retryable=True))
    client = guard_botocore(plain(upstream), guard)
    refused(lambda: client.converse(modelId="m", messages=message(GREEN)), "policyguard_unjudged", 503)
    assert 0 == upstream.calls


def test_what_holds_no_image_goes_through_to_the_byte(upstream: Upstream) -> None:
    def respond(asked: Asked) -> Answer:
        return json_answer(answer({"text": json.dumps(asked.json)[:20]}))

    upstream.respond = respond
    text = "![photo](https://photos.example/a.png) <img src='b.png'> data: base64, " + "x" * 5000
    for client in (plain(upstream), guarded(upstream)):
        client.converse(modelId="m", messages=message(text=text))
        client.invoke_model(modelId="m", body=json.dumps({"prompt": text}))
    bodies = [asked.body for asked in upstream.asked]
    assert bodies[:2] == bodies[2:]


def test_other_services_are_judged_too(upstream: Upstream) -> None:
    upstream.respond = lambda _: Answer(picture(RED), "image/png")
    client = guarded(upstream, "s3")
    refused(lambda: client.get_object(Bucket="b", Key="k"))
    refused(lambda: client.put_object(Bucket="b", Key="k", Body=picture(RED)))
    assert 1 == upstream.calls
    upstream.respond = lambda _: Answer(picture(GREEN), "image/png")
    assert picture(GREEN) == client.get_object(Bucket="b", Key="k")["Body"].read()


def test_only_clients_of_botocore_are_taken_and_only_once(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    client = guarded(upstream)
    with pytest.raises(ConfigurationError, match="already"):
        guard_botocore(client, guard)
    with pytest.raises(ConfigurationError, match="a client of boto3 or botocore is expected"):
        guard_botocore(object(), guard)
    with pytest.raises(ConfigurationError) as caught:
        guard_client(client, guard)
    assert "guard_botocore" in str(caught.value.hint)


def test_judged_alongside_and_watched(upstream: Upstream) -> None:
    upstream.answer(answer({"text": "words"}))
    client = guarded(upstream, when="alongside")
    refused(lambda: client.converse(modelId="m", messages=message(RED)))
    assert 1 == upstream.calls
    refused(lambda: client.converse(modelId="m", messages=message(RED)))
    assert 1 == upstream.calls
    results: list[Any] = []
    watched = guarded(upstream, on_block="watch", max_body=2000, on_result=results.append)
    watched.converse(modelId="m", messages=message(RED))
    upstream.answer(answer(shown(RED)))
    content = watched.converse(modelId="m", messages=message(text="x" * 4000))["output"]["message"]["content"]
    assert picture(RED) == content[0]["image"]["source"]["bytes"]
    assert ["request", "request"] == [result.would_block for result in results]
    assert [1, 2] == [result.images_seen for result in results]


def test_what_another_handler_answers_is_judged_too(upstream: Upstream) -> None:
    client = guarded(upstream)
    with Stubber(client) as stubber:
        stubber.add_response("converse", answer({"text": "words"}))
        stubber.add_client_error("converse", "ThrottlingException", http_status_code=429)
        image = {"image": {"format": "png", "source": {"bytes": picture(RED)}}}
        stubber.add_response("converse", answer(image))
        assert client.converse(modelId="m", messages=message())["output"]
        with pytest.raises(ClientError, match="Throttling"):
            client.converse(modelId="m", messages=message())
        refused(lambda: client.converse(modelId="m", messages=message()))
    assert 0 == upstream.calls


def test_what_was_judged_is_sent_and_its_format_named(upstream: Upstream) -> None:
    buffer = io.BytesIO()
    made = Image.new("RGB", (40, 24), GREEN)
    made.save(buffer, "WEBP", lossless=True, exif=exif(6))  # some viewers turn it, some do not
    image = {"format": "webp", "source": {"bytes": buffer.getvalue()}}
    guarded(upstream).converse(modelId="m", messages=[{"role": "user", "content": [{"image": image}]}])
    sent = upstream.asked[0].json["messages"][0]["content"][0]["image"]
    judged = decode(base64.b64decode(sent["source"]["bytes"]))
    assert ("png", "PNG", True) == (sent["format"], judged.format, judged.is_plain)
