"""Streams: text passes as it comes, images are held until they are judged."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from integrations.http.calling import CHAT, PLAIN, Way
from integrations.http.pictures import BLUE, GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Upstream
from policyguard import PolicyViolation
from policyguard.integrations.http import guarded_async_client, guarded_client

GEMINI = "/v1beta/models/m:streamGenerateContent"


def delta(text: str) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}


def partial(colour: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "type": "image_generation.partial_image",
        "b64_json": b64(picture(colour)),
        "partial_image_index": 0,
    }


def sse(*events: Any, end: str = "\n") -> bytes:
    lines = (f"event: x{end}data: {json.dumps(event)}{end}{end}" for event in events)
    return "".join(lines).encode() + f"data: [DONE]{end}{end}".encode()


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


STREAM = "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stream_of_text_is_unchanged_to_the_byte(way: Way, upstream: Upstream, size: int, end: str) -> None:
    guard, backend = colour_guard()
    body = f": a comment{end}{end}".encode() + sse(delta("Grüße"), delta("data: x"), end=end) + b"data: {cut"
    upstream.answer(pieces(body, size), content_type=STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={"stream": True})
    assert (200, body, 0) == (reply.status, reply.body, backend.calls)


@pytest.mark.parametrize("size", [50, 10**6])
def test_images_in_a_stream_pass_when_they_comply(way: Way, upstream: Upstream, size: int) -> None:
    guard, _ = colour_guard()
    body = sse(delta("a"), partial(GREEN), partial(BLUE), delta("b"))
    upstream.answer(pieces(body, size), content_type=STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={"stream": True})
    assert (200, body) == (reply.status, reply.body)
    assert (2, 2) == (reply.result.images_seen, reply.result.images_checked)


@pytest.mark.parametrize("size", [50, 10**6])
def test_a_blocked_image_ends_the_stream_with_an_error(way: Way, upstream: Upstream, size: int) -> None:
    guard, _ = colour_guard()
    body = sse(delta("a"), partial(GREEN), partial(RED), delta("secret"))
    upstream.answer(pieces(body, size), content_type=STREAM)
    results: list[Any] = []
    reply = way.send(guard, "POST", upstream.url + CHAT, json={}, options={"on_result": results.append})
    assert reply.body.startswith(sse(delta("a"), partial(GREEN)).removesuffix(b"data: [DONE]\n\n"))
    assert b64(picture(RED)).encode() not in reply.body
    assert b"secret" not in reply.body
    last = json.loads(reply.body.strip().rsplit(b"data: ", 1)[1])
    assert "image_policy_violation" == last["error"]["code"]
    assert ["response"] == [result.blocked for result in results]


def test_text_passes_while_the_image_behind_it_is_judged(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    go, judge = threading.Event(), backend.answer

    def slow(request: Any) -> Any:
        go.wait()
        return judge(request)  # type: ignore[operator]

    backend.answer = slow
    upstream.answer(
        [sse(delta("first")).removesuffix(b"data: [DONE]\n\n"), sse(partial(GREEN))], content_type=STREAM
    )
    with (
        guarded_client(guard, family="httpx2") as client,
        client.stream("POST", upstream.url + CHAT, json={}) as response,
    ):
        chunks = response.iter_bytes()
        assert b"first" in next(chunks)
        go.set()
        assert b"b64_json" in b"".join(chunks)


def test_a_stream_that_breaks_off_in_an_image_never_shows_it(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    whole = sse(delta("a")).removesuffix(b"data: [DONE]\n\n")
    cut = f"data: {json.dumps(partial(GREEN))}".encode()[:120]
    upstream.answer([whole, cut], content_type=STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={})
    assert reply.body.startswith(whole)
    assert b"policyguard_unjudged" in reply.body
    assert b"iVBOR" not in reply.body


def test_a_data_uri_written_piece_by_piece_is_stopped(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    text = f"Look: ![x]({data_uri(picture(RED))}) done"
    events = [delta(text[at : at + 5]) for at in range(0, len(text), 5)]
    upstream.answer(sse(*events), content_type=STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={})
    assert b"policyguard_unjudged" in reply.body
    assert b"done" not in reply.body
    shown = "".join(
        json.loads(line[6:])["choices"][0]["delta"]["content"]
        for line in reply.body.decode().splitlines()
        if line.startswith("data: {") and '"delta"' in line
    )
    assert len(shown) < 80


@pytest.mark.parametrize(
    "text", ["![chart](https://example.com/a.png)", '<img alt="x" src="https://example.com/a">']
)
def test_an_image_by_url_written_piece_by_piece_is_stopped(upstream: Upstream, text: str) -> None:
    guard, _ = colour_guard()
    upstream.answer(sse(*(delta(text[at : at + 3]) for at in range(0, len(text), 3))), content_type=STREAM)
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json={}, options={"links": "block"})
    assert b"policyguard_unjudged" in reply.body
    assert b"[DONE]" not in reply.body
    upstream.answer(delta(text))
    assert 403 == PLAIN.send(guard, "POST", upstream.url + CHAT, json={}, options={"links": "block"}).status


@pytest.mark.parametrize("text", ['<img src="/logo.png">', "<img src={user.photo} />", "![chart](chart.png)"])
def test_links_to_nowhere_pass_where_links_block(upstream: Upstream, text: str) -> None:
    guard, _ = colour_guard()
    upstream.answer(sse(*(delta(text[at : at + 3]) for at in range(0, len(text), 3))), content_type=STREAM)
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json={}, options={"links": "block"})
    assert b"[DONE]" in reply.body
    upstream.answer(delta(text))
    assert 200 == PLAIN.send(guard, "POST", upstream.url + CHAT, json={}, options={"links": "block"}).status


def test_two_values_in_one_event_are_both_judged(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    event = f"data: {json.dumps(delta('a'))}\ndata: {json.dumps(partial(RED))}\n\n".encode()
    upstream.answer(event, content_type=STREAM)
    assert b64(picture(RED)).encode() not in PLAIN.send(guard, "POST", upstream.url + CHAT, json={}).body


def test_a_value_over_several_data_lines_is_one(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    text = json.dumps(partial(RED), indent=1)
    event = "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
    upstream.answer(event.encode(), content_type=STREAM)
    assert b"image_policy_violation" in PLAIN.send(guard, "POST", upstream.url + CHAT, json={}).body
    assert 1 == backend.calls


@pytest.mark.parametrize(
    "beside",
    [": {uri}\n\n", "id: {uri}\n\n", "event: {uri}\ndata: {{}}\n\n", "data: {uri}\n\n", "whatever {uri}\n\n"],
)
def test_an_image_beside_the_data_is_found(upstream: Upstream, beside: str) -> None:
    guard, _ = colour_guard()
    upstream.answer(beside.format(uri=data_uri(picture(RED))).encode(), content_type=STREAM)
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json={})
    assert b64(picture(RED)).encode()[:80] not in reply.body
    assert b"image_policy_violation" in reply.body


def test_an_event_without_end_blocks_in_bounded_memory(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()

    def endless() -> Iterator[bytes]:
        yield b"data: "
        for _ in range(1024):
            yield b"x" * 2**20

    upstream.respond = lambda _asked: Answer(endless(), STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={}, options={"max_event": 2**21})
    assert b"policyguard_unjudged" in reply.body
    assert upstream.sent < 64 * 2**20


def test_a_compressed_stream_is_read(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    fine = sse(delta("a"), partial(GREEN))
    headers = {"content-encoding": "gzip"}
    upstream.answer(pieces(gzip.compress(fine), 40), content_type=STREAM, headers=headers)
    assert fine == way.send(guard, "POST", upstream.url + CHAT, json={}).body
    upstream.answer(gzip.compress(sse(delta("a"), partial(RED))), content_type=STREAM, headers=headers)
    assert b"image_policy_violation" in way.send(guard, "POST", upstream.url + CHAT, json={}).body


@pytest.mark.parametrize("size", [30, 10**6])
def test_json_lines_are_judged_line_by_line(way: Way, upstream: Upstream, size: int) -> None:
    guard, _ = colour_guard()
    lines = [
        json.dumps(event).encode() + b"\n" for event in (delta("a"), partial(GREEN), partial(RED), delta("b"))
    ]
    upstream.answer(pieces(b"".join(lines), size), content_type="application/x-ndjson")
    reply = way.send(guard, "POST", upstream.url + "/stream", json={})
    assert reply.body.startswith(lines[0] + lines[1])
    assert "image_policy_violation" == json.loads(reply.body.splitlines()[2])["error"]["code"]


@pytest.mark.parametrize("size", [1, 30, 10**6])
def test_a_gemini_array_is_judged_element_by_element(upstream: Upstream, size: int) -> None:
    guard, _ = colour_guard()
    text = {"candidates": [{"content": {"parts": [{"text": 'tricky "]}, \\ text'}]}}]}

    def image(colour: tuple[int, int, int]) -> dict[str, Any]:
        part = {"inlineData": {"mimeType": "image/png", "data": b64(picture(colour))}}
        return {"candidates": [{"content": {"parts": [part]}}]}

    fine = json.dumps([text, image(GREEN), text], indent=1).encode()
    upstream.answer(pieces(fine, size))
    reply = PLAIN.send(guard, "POST", upstream.url + GEMINI, json={})
    assert (fine, 1) == (reply.body, reply.result.images_checked)
    upstream.answer(pieces(json.dumps([text, image(RED), text]).encode(), size))
    first, error = json.loads(PLAIN.send(guard, "POST", upstream.url + GEMINI, json={}).body)
    assert text == first
    assert "PERMISSION_DENIED" == error["error"]["status"]


def test_an_image_in_a_stream_can_be_replaced(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(sse(delta("a"), partial(RED), delta("b")), content_type=STREAM)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={}, options={"on_block": "replace"})
    events = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    assert (delta("a"), delta("b")) == (events[0], events[2])
    assert events[1]["b64_json"] not in ("", b64(picture(RED)))
    assert 1 == reply.result.replaced


def test_raising_in_a_stream_reaches_the_reader(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer(sse(delta("a"), partial(RED)), content_type=STREAM)
    with pytest.raises(PolicyViolation):
        way.send(guard, "POST", upstream.url + CHAT, json={}, options={"on_block": "raise"})
    assert 1 == upstream.calls


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_large_event_is_opened_beside_the_event_loop(family: Any, upstream: Upstream) -> None:
    """Nothing that reads what is in an event runs on the loop's thread, but for small ones."""
    readers = {"bodies.py", "watch.py", "walk.py", "strings.py", "magic.py", "jsontext.py"}
    on_the_loop: set[str] = set()

    def called(frame: Any, what: str, _argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        name = f"{path.name} {frame.f_code.co_name}"
        reads = path.name in readers or name == "plan.py read"
        if what == "call" and reads and "policyguard" in path.parts:
            on_the_loop.add(name)

    async def read(event: bytes) -> int:
        upstream.respond = lambda _: Answer(pieces(event, 2**16), STREAM)
        on_the_loop.clear()
        guard, _ = colour_guard()
        async with (
            guarded_async_client(guard, family=family) as client,
            client.stream("POST", upstream.url + CHAT, json={}) as response,
        ):
            sys.setprofile(called)
            try:
                return sum([len(piece) async for piece in response.aiter_bytes()])
            finally:
                sys.setprofile(None)

    for size, beside in (((24, 16), False), ((800, 800), True)):
        buffer = io.BytesIO()
        Image.new("RGB", size, GREEN).save(buffer, "PNG", compress_level=0)
        event = b"data: " + json.dumps({"b64_json": b64(buffer.getvalue())}).encode() + b"\n\n"
        assert len(event) == asyncio.run(read(event))
        assert beside == (not on_the_loop), on_the_loop
