"""Responses: what comes back is judged before the caller sees it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from integrations.http.calling import CHAT, PLAIN, Way
from integrations.http.pictures import BLUE, GREEN, ORANGE, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Upstream, json_answer
from policyguard.integrations.http import guarded_client

GENERATE = "/v1/images/generations"


def generated(colour: tuple[int, int, int]) -> dict[str, Any]:
    return {"created": 1, "data": [{"b64_json": b64(picture(colour))}]}


def test_a_generated_image_is_blocked_after_one_call(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(generated(RED))
    reply = way.send(guard, "POST", upstream.url + GENERATE, json={"prompt": "x"})
    assert (403, "image_policy_violation", 1) == (reply.status, reply.error["code"], upstream.calls)
    assert b64(picture(RED)).encode() not in reply.body
    assert ("response", 1) == (reply.result.blocked, reply.result.response.images_seen)


def test_a_generated_image_that_complies_comes_back_as_it_was(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    body = json.dumps(generated(BLUE), indent=2).encode()
    upstream.answer(body, headers={"x-request-id": "7"})
    reply = way.send(guard, "POST", upstream.url + GENERATE, json={"prompt": "x"})
    assert (200, body, "7") == (reply.status, reply.body, reply.headers["x-request-id"])
    assert "allow" == json.loads(reply.headers["x-policyguard-verdict"])["action"]


def test_a_flagged_image_passes_with_a_header_and_a_call(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(generated(ORANGE))
    flagged: list[Any] = []
    results: list[Any] = []
    options = {"on_flag": flagged.append, "on_result": results.append}
    reply = way.send(guard, "POST", upstream.url + GENERATE, json={"prompt": "x"}, options=options)
    assert (200, "flag") == (reply.status, json.loads(reply.headers["x-policyguard-verdict"])["action"])
    assert [reply.result] == flagged == results


BODIES: dict[str, Any] = {
    "an image file": lambda data: Answer(data, "image/png"),
    "an image file without a type": lambda data: Answer(data, ""),
    "an image file declared as text": lambda data: Answer(data, "text/plain"),
    "an image file declared as JSON": lambda data: Answer(data, "application/json"),
    "an image file declared as sound": lambda data: Answer(data, "audio/mpeg"),
    "JSON declared as sound": lambda data: Answer(json.dumps({"x": data_uri(data)}).encode(), "audio/pcm"),
    "a data URI in text": lambda data: Answer(f"see {data_uri(data)}".encode(), "text/markdown"),
    "JSON declared as HTML": lambda data: Answer(json.dumps({"x": data_uri(data)}).encode(), "text/html"),
    "gzip": lambda data: Answer(
        gzip.compress(json.dumps({"data": [{"b64_json": b64(data)}]}).encode()),
        headers={"content-encoding": "gzip"},
    ),
    "bare deflate": lambda data: Answer(
        _bare_deflate(json.dumps({"data": [{"b64_json": b64(data)}]}).encode()),
        headers={"content-encoding": "deflate"},
    ),
    "gzip twice": lambda data: Answer(
        gzip.compress(gzip.compress(json.dumps({"data": [{"b64_json": b64(data)}]}).encode())),
        headers={"content-encoding": "gzip, gzip"},
    ),
    "an error": lambda data: json_answer({"error": {"message": data_uri(data)}}, status=400),
    "chunks": lambda data: Answer(
        [json.dumps({"data": [{"b64_json": b64(data)}]}).encode()[at : at + 99] for at in range(0, 999, 99)]
    ),
    "multipart": lambda data: Answer(
        b"--x\r\nContent-Type: image/png\r\n\r\n" + data + b"\r\n--x--\r\n", "multipart/mixed; boundary=x"
    ),
}


def _bare_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(
    "way", [Way("httpx-sync"), Way("httpx2-async"), Way("requests")], ids=lambda way: way.name
)
def test_an_image_is_found_however_it_comes(upstream: Upstream, way: Way, kind: str) -> None:
    guard, _ = colour_guard()
    answer: Answer = BODIES[kind](picture(GREEN))
    upstream.respond = lambda _asked: answer
    passed = way.send(guard, "GET", upstream.url + "/x")
    assert answer.status == passed.status
    assert 1 == passed.result.images_checked
    bad: Answer = BODIES[kind](picture(RED))
    upstream.respond = lambda _asked: bad
    reply = way.send(guard, "GET", upstream.url + "/x")
    assert (403, "image_policy_violation", 2) == (reply.status, reply.error["code"], upstream.calls)


def test_a_compressed_response_comes_back_as_what_was_judged(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    body = json.dumps({"text": "w" * 1000}).encode()
    upstream.answer(gzip.compress(body), headers={"content-encoding": "gzip"})
    assert body == way.send(guard, "GET", upstream.url + "/x").body


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(b"\x00\x01\x02\x03" * 50, "application/octet-stream"), "not an image"),
        (Answer(b"%PDF-1.7 \x80\xff" * 9, "application/pdf"), "application/pdf"),
        (Answer(b"x", headers={"content-encoding": "compress"}), "compress"),
        (Answer(b"not gzip at all", headers={"content-encoding": "gzip"}), "damaged"),
        (Answer(gzip.compress(b'{"a": 1}' * 99)[:-12], headers={"content-encoding": "gzip"}), "cut short"),
        (Answer(b'{"data": [{"b64_json": "iVBORw0KGgo', "application/json"), "cut short"),
        (Answer(b"[" * 200_000, "application/json"), "deep"),
        (Answer(b'{"a": 1, "a": "' + b64(picture(GREEN)).encode() + b'"}', "application/json"), "twice"),
        (json_answer({"data": [{"b64_json": "iVBORw0KGgo!!!"}]}), ""),
        (json_answer({"data": [{"b64_json": b64(picture(GREEN)[:60])}]}), "cut short"),
        (json_answer({"data": [{"b64_json": b64(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}]}), "SVG"),
        (json_answer({"data": [{"url": "https://cdn.example.com/a.png"}]}), "URL"),
        (Answer(b"--x\r\n\r\nno end", "multipart/mixed; boundary=x"), "end"),
        (Answer(b"RIFF\x00\x00\x00\x00AVI LIST\x80\xff" * 9, "video/avi"), "video"),
        (Answer(b"<svg></svg>", "image/svg+xml"), "SVG"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_blocks(way: Way, upstream: Upstream, answer: Answer, why: str) -> None:
    guard, backend = colour_guard()
    upstream.respond = lambda _asked: answer
    reply = way.send(guard, "GET", upstream.url + GENERATE)
    assert (403, "policyguard_unjudged", 1) == (reply.status, reply.error["code"], upstream.calls)
    assert why in reply.error["message"]
    assert 0 == backend.calls


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", "application/json", status=204),
        Answer(b"", "application/json"),
        Answer(b"ID3\x04" + b"\x80\x00\xff" * 500, "audio/mpeg"),
        Answer(b"\x00\x01" * 999, "audio/pcm"),
        Answer("Grüße".encode("latin-1"), "text/plain; charset=latin-1"),
        Answer(b"<html><body>down</body></html>", "text/html", status=502),
        Answer(b"{broken", "application/json", status=500),
        json_answer({"error": {"message": "no"}}, status=429),
    ],
)
def test_what_holds_no_image_passes_unchanged(way: Way, upstream: Upstream, answer: Answer) -> None:
    guard, backend = colour_guard()
    upstream.respond = lambda _asked: answer
    reply = way.send(guard, "GET", upstream.url + "/x")
    assert (answer.status, answer.body) == (reply.status, reply.body)
    assert 0 == backend.calls


def test_a_response_of_a_gigabyte_blocks_with_little_of_it_read(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    piece = b"x" * 2**20

    def endless() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(1024):
            yield piece

    upstream.respond = lambda _asked: Answer(endless())
    reply = way.send(guard, "GET", upstream.url + "/x", options={"max_body": 4 * 2**20})
    assert (403, "policyguard_unjudged") == (reply.status, reply.error["code"])
    assert upstream.sent < 64 * 2**20


@pytest.mark.parametrize("direction", ["request", "response"])
def test_a_gzip_bomb_blocks(upstream: Upstream, direction: str) -> None:
    guard, _ = colour_guard()
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(b" " * 2**20) for _ in range(64)) + squeeze.flush()
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    upstream.answer(bomb, headers={"content-encoding": "gzip"})
    sent = {"content": bomb, "headers": headers} if direction == "request" else {}
    reply = PLAIN.send(guard, "POST", upstream.url + "/x", options={"max_body": 2**20}, **sent)
    assert (403, "policyguard_unjudged") == (reply.status, reply.error["code"])
    assert direction == reply.result.blocked


def test_more_images_than_are_judged_block(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    images = [{"b64_json": b64(picture(GREEN, seed=seed))} for seed in range(101)]
    upstream.answer({"data": images[1:]})
    assert 100 == PLAIN.send(guard, "GET", upstream.url + GENERATE).result.images_checked
    upstream.answer({"data": images})
    reply = PLAIN.send(guard, "GET", upstream.url + GENERATE)
    assert (403, "policyguard_unjudged") == (reply.status, reply.error["code"])
    assert "101 new images" in reply.error["message"]
    assert "max_images is 100" in reply.error["message"]


def test_images_that_were_judged_before_do_not_count(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    images = [{"b64_json": b64(picture(GREEN, seed=seed))} for seed in range(4)]
    with guarded_client(guard, family="httpx", max_images=2) as client:
        for known in (2, 3, 4):
            upstream.answer({"data": images[:known]})
            assert client.get(upstream.url + GENERATE).status_code == 200
        upstream.answer({"data": [{"b64_json": b64(picture(GREEN, seed=seed))} for seed in range(90, 93)]})
        calls = backend.calls
        assert client.get(upstream.url + GENERATE).status_code == 403
    assert calls == backend.calls  # nothing is judged for a block that is certain


def test_the_wrong_media_type_does_not_hide_an_image(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    part = {"inlineData": {"mimeType": "application/octet-stream", "data": b64(picture(RED, "JPEG"))}}
    upstream.answer({"candidates": [{"content": {"parts": [part]}}]})
    assert 403 == PLAIN.send(guard, "POST", upstream.url + CHAT, json={"a": 1}).status


def test_a_provider_s_own_refusal_is_reported(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer({"candidates": [{"finishReason": "IMAGE_SAFETY", "content": {"parts": []}}]})
    reply = way.send(guard, "POST", upstream.url + "/v1beta/models/m:generateContent", json={"a": 1})
    assert 200 == reply.status
    assert 1 == len(reply.result.provider_refused)
    assert 1 == json.loads(reply.headers["x-policyguard-verdict"])["provider_refused"]


def test_a_server_that_switches_protocols_is_refused(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    reply = PLAIN.send(
        guard, "GET", upstream.url + "/v1/realtime", headers={"connection": "Upgrade", "upgrade": "websocket"}
    )
    assert (403, 0) == (reply.status, upstream.calls)


def test_redirects_are_followed_and_judged(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.respond = lambda asked: (
        Answer(b"", status=307, headers={"location": "/b"})
        if asked.path == "/a"
        else json_answer(generated(RED))
    )
    with guarded_client(guard, family="httpx") as client:
        assert 403 == client.post(upstream.url + "/a", json={"x": 1}).status_code
    assert ["/a", "/b"] == [asked.path for asked in upstream.asked]
    assert {"x": 1} == upstream.asked[1].json


def test_results_hold_no_pictures(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(generated(GREEN))
    result = PLAIN.send(guard, "POST", upstream.url + GENERATE, json={}).result
    assert [None] == [item.site.data for item in result.response.items]
    assert b64(picture(GREEN)) not in json.dumps(result.to_dict())


def test_an_uploaded_file_may_be_used_by_its_id_and_no_other(upstream: Upstream) -> None:
    guard, _ = colour_guard()

    def respond(asked: Any) -> Answer:
        return json_answer({"id": "file-1", "object": "file"} if asked.path == "/v1/files" else {"ok": 1})

    upstream.respond = respond
    with guarded_client(guard, family="httpx2") as client:

        def use(name: str) -> int:
            parts = [{"type": "input_image", "file_id": name}]
            body = {"input": [{"role": "user", "content": parts}]}
            return int(client.post(upstream.url + "/v1/responses", json=body).status_code)

        assert 403 == use("file-1")
        sent = {"file": ("a.png", picture(GREEN), "image/png")}
        assert (
            200 == client.post(upstream.url + "/v1/files", files=sent, data={"purpose": "vision"}).status_code
        )
        assert (200, 403) == (use("file-1"), use("file-2"))
