"""Requests: what is judged before anything leaves, for every kind of client."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

import pytest

from integrations.http.calling import CHAT, PLAIN, Way, chat
from integrations.http.pictures import BLUE, GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard.integrations.http import guarded_client


def test_a_blocked_image_never_reaches_the_server(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    reply = way.send(
        guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(GREEN)), data_uri(picture(RED)))
    )
    assert (403, 0) == (reply.status, upstream.calls)
    assert "image_policy_violation" == reply.error["code"]
    assert "Red" in reply.error["message"]
    verdict = json.loads(reply.headers["x-policyguard-verdict"])
    assert ("block", 2, 2) == (verdict["action"], verdict["images_seen"], verdict["images_checked"])
    assert "request" == reply.result.blocked


def test_an_image_that_complies_is_sent_unchanged(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    body = json.dumps(chat(data_uri(picture(GREEN))), indent=3).encode()
    reply = way.send(
        guard, "POST", upstream.url + CHAT, content=body, headers={"content-type": "application/json"}
    )
    assert 200 == reply.status
    assert body == upstream.asked[0].body
    assert 1 == json.loads(reply.headers["x-policyguard-verdict"])["images_checked"]


@pytest.mark.parametrize(
    "body", [b'{"a": [1,  2 ], "b":"caf\\u00e9"}', b"plain words", b"", "ü".encode(), b"[]"]
)
def test_traffic_without_images_is_unchanged_to_the_byte(way: Way, upstream: Upstream, body: bytes) -> None:
    guard, backend = colour_guard()
    upstream.answer(b'{"x" :  "y"}\n')
    reply = way.send(
        guard,
        "POST",
        upstream.url + CHAT,
        content=body,
        headers={"content-type": "application/json" if body[:1] in b"{[" else "text/plain", "x-mine": "1"},
    )
    assert (200, b'{"x" :  "y"}\n') == (reply.status, reply.body)
    assert body == upstream.asked[0].body
    assert "1" == upstream.asked[0].headers["x-mine"]
    assert str(len(body)) == upstream.asked[0].headers.get("content-length", "0")
    assert "x-policyguard-verdict" not in reply.headers
    assert 0 == backend.calls


def test_multipart_files_are_judged_and_sent_as_they_were(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    sent = {"image": ("a.png", io.BytesIO(picture(BLUE)), "image/png")}
    assert (
        200
        == way.send(guard, "POST", upstream.url + "/v1/images/edits", files=sent, data={"prompt": "x"}).status
    )
    assert picture(BLUE) in upstream.asked[0].body
    assert b'name="prompt"\r\n\r\nx\r\n' in upstream.asked[0].body
    for name, kind in (
        ("a.png", "image/png"),
        ("a.bin", "application/octet-stream"),
        ("a.txt", "text/plain"),
    ):
        bad = {"image": (name, io.BytesIO(picture(RED)), kind)}
        reply = way.send(guard, "POST", upstream.url + "/v1/images/edits", files=bad)
        assert (403, 1) == (reply.status, upstream.calls)


def test_a_body_that_is_given_bit_by_bit_is_judged_whole(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    for way in (Way("httpx-sync"), Way("httpx2-sync"), Way("requests")):
        body = json.dumps(chat(data_uri(picture(RED)))).encode()
        pieces = (body[at : at + 50] for at in range(0, len(body), 50))
        assert 403 == way.send(guard, "POST", upstream.url + CHAT, content=pieces).status
        fine = json.dumps(chat(data_uri(picture(GREEN)))).encode()
        pieces = (fine[at : at + 50] for at in range(0, len(fine), 50))
        assert 200 == way.send(guard, "POST", upstream.url + CHAT, content=pieces).status
        assert fine == upstream.asked[-1].body
    assert 3 == upstream.calls


CARRIERS: dict[str, Any] = {
    "raw": lambda data: {"content": data, "headers": {"content-type": "image/png"}},
    "raw without a type": lambda data: {"content": data},
    "raw under another type": lambda data: {"content": data, "headers": {"content-type": "text/plain"}},
    "form": lambda data: {"data": {"image": data_uri(data), "n": "1"}},
    "JSON in a form": lambda data: {"data": {"payload": json.dumps(chat(data_uri(data)))}},
    "JSON without a type": lambda data: {"content": json.dumps(chat(data_uri(data))).encode()},
    "JSON lines": lambda data: {"content": b'{"a":1}\n' + json.dumps(chat(data_uri(data))).encode() + b"\n"},
    "gzip": lambda data: {
        "content": gzip.compress(json.dumps(chat(data_uri(data))).encode()),
        "headers": {"content-type": "application/json", "content-encoding": "gzip"},
    },
    "deflate": lambda data: {
        "content": zlib.compress(json.dumps(chat(data_uri(data))).encode()),
        "headers": {"content-type": "application/json", "content-encoding": "deflate"},
    },
    "two gzip members": lambda data: {
        "content": b"".join(
            gzip.compress(half) for half in _halves(json.dumps(chat(data_uri(data))).encode())
        ),
        "headers": {"content-type": "application/json", "content-encoding": "gzip"},
    },
    "UTF-16 JSON": lambda data: {
        "content": json.dumps(chat(data_uri(data))).encode("utf-16"),
        "headers": {"content-type": "application/json"},
    },
    "data URI in text": lambda data: {"json": {"input": f"look: ![x]({data_uri(data)})"}},
    "Gemini": lambda data: {
        "json": {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": b64(data)}}]}]}
    },
    "Anthropic": lambda data: {
        "json": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [
                                {
                                    "type": "image",
                                    "source": {
                                        "type": "base64",
                                        "media_type": "image/png",
                                        "data": b64(data),
                                    },
                                }
                            ],
                        }
                    ],
                }
            ]
        }
    },
}


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_image_is_found_however_it_is_carried(upstream: Upstream, carrier: str) -> None:
    guard, _ = colour_guard()
    make = CARRIERS[carrier]
    assert 200 == PLAIN.send(guard, "POST", upstream.url + CHAT, **make(picture(GREEN))).status
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, **make(picture(RED)))
    assert (403, "image_policy_violation", 1) == (reply.status, reply.error["code"], upstream.calls)


SHAPES = [
    ("/v1/chat/completions", {}, lambda e: ("permission_error", e["error"]["type"])),
    (
        "/v1/messages",
        {"anthropic-version": "2023-06-01"},
        lambda e: (("error", "permission_error"), (e["type"], e["error"]["type"])),
    ),
    (
        "/v1beta/models/m:generateContent",
        {},
        lambda e: ((403, "PERMISSION_DENIED"), (e["error"]["code"], e["error"]["status"])),
    ),
    ("/anything", {}, lambda e: ("image_policy_violation", e["error"]["code"])),
]


@pytest.mark.parametrize(("path", "headers", "read"), SHAPES)
def test_the_refusal_has_the_provider_s_own_shape(
    upstream: Upstream, path: str, headers: dict[str, str], read: Any
) -> None:
    guard, _ = colour_guard()
    reply = PLAIN.send(guard, "POST", upstream.url + path, json=chat(data_uri(picture(RED))), headers=headers)
    expected, got = read(reply.json)
    assert expected == got
    assert "false" == reply.headers["x-should-retry"]


def test_an_image_by_url_is_rejected_by_default(way: Way, upstream: Upstream) -> None:
    guard, backend = colour_guard()
    reply = way.send(guard, "POST", upstream.url + CHAT, json=chat("https://example.com/cat.png"))
    assert (403, "policyguard_unjudged", 0, 0) == (
        reply.status,
        reply.error["code"],
        upstream.calls,
        backend.calls,
    )


def test_a_guard_that_is_down_blocks(way: Way, upstream: Upstream) -> None:
    guard, backend = colour_guard()
    backend.answer = RuntimeError("down")
    reply = way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(GREEN))))
    assert (403, "policyguard_unjudged", 0) == (reply.status, reply.error["code"], upstream.calls)


def test_a_guard_that_comes_back_judges_again(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    judge, backend.answer = backend.answer, RuntimeError("down")
    with guarded_client(guard, family="httpx") as client:
        assert 403 == client.post(upstream.url + CHAT, json=chat(data_uri(picture(GREEN)))).status_code
        backend.answer = judge
        assert 200 == client.post(upstream.url + CHAT, json=chat(data_uri(picture(GREEN)))).status_code


def test_an_image_that_was_judged_is_not_asked_about_again(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    with guarded_client(guard, family="httpx2") as client:
        for _ in range(3):
            assert 200 == client.post(upstream.url + CHAT, json=chat(data_uri(picture(GREEN)))).status_code
    assert (3, 1) == (upstream.calls, backend.calls)


def test_a_set_up_that_is_wrong_blocks_and_says_so(way: Way, upstream: Upstream) -> None:
    guard, backend = colour_guard()
    backend.close()  # FakeBackend then raises ConfigurationError
    reply = way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(GREEN))))
    assert (403, "policyguard_configuration", 0) == (reply.status, reply.error["code"], upstream.calls)
    assert "closed" in reply.error["message"]


def test_an_outcome_that_the_policy_lets_through_passes(upstream: Upstream) -> None:
    guard, _ = colour_guard(outcomes={"unscannable": "flag"})
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat("https://example.com/cat.png"))
    assert (200, 1) == (reply.status, upstream.calls)
    assert (1, 0) == (reply.result.images_seen, reply.result.images_checked)
