"""Images in all shapes and encodings: none passes unseen, and none that complies is stopped."""

from __future__ import annotations

import gzip
import json

import pytest

from integrations.http.inline import INLINE, Inline
from integrations.http.pictures import GREEN, RED, colour_guard, picture
from integrations.http.upstream import Answer, Upstream
from policyguard.integrations.http import HttpResult, guarded_client

JSON = [case for case in INLINE if type(case) is Inline]


def test_the_table_is_large_enough_and_no_name_stands_twice() -> None:
    assert len(INLINE) >= 129
    assert len({case.name for case in INLINE}) == len(INLINE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_no_image_goes_out_unseen(upstream: Upstream, kind: str) -> None:
    guard, _ = colour_guard()
    results: list[HttpResult] = []
    unseen, stopped = [], []
    with guarded_client(guard, family="httpx", on_result=results.append) as client:
        for case in INLINE:
            for colour in (RED, GREEN):
                body, content_type = case.body(picture(colour, kind))
                headers = {"content-type": content_type}
                before = upstream.calls
                client.post(upstream.url + case.path, content=body, headers=headers)
                sent = upstream.calls > before
                if colour is RED and (sent or results[-1].request.items[0].verdict.outcome != "violates"):
                    unseen.append(case.name)
                elif colour is GREEN and not (sent and upstream.asked[-1].body == body):
                    stopped.append((case.name, results[-1].reason))
    assert ([], []) == (unseen, stopped)


def test_no_image_comes_in_unseen(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    results: list[HttpResult] = []
    unseen, stopped = [], []
    with guarded_client(guard, family="httpx", on_result=results.append) as client:
        for case in INLINE:
            for colour in (RED, GREEN):
                body, content_type = case.body(picture(colour))
                for headers in ({}, {"content-encoding": "gzip"}):
                    sent = gzip.compress(body) if headers else body
                    upstream.answer(sent, content_type=content_type, headers=headers)
                    reply = client.post(upstream.url + case.path, json={})
                    if colour is RED and (body in reply.content or results[-1].blocked != "response"):
                        unseen.append(case.name)
                    elif colour is GREEN and reply.content != body:
                        stopped.append((case.name, results[-1].reason))
    assert ([], []) == (unseen, stopped)


FRAMINGS = {
    "events": ("text/event-stream", b"data: %s\n\ndata: [DONE]\n\n"),
    "lines": ("application/x-ndjson", b"%s\n{}\n"),
    "array": ("application/json", b"[%s,\n{}]"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_no_image_comes_unseen_in_a_stream(upstream: Upstream, framing: str) -> None:
    guard, _ = colour_guard()
    results: list[HttpResult] = []
    unseen, stopped = [], []
    with guarded_client(guard, family="httpx", on_result=results.append) as client:
        for case in JSON:
            for colour in (RED, GREEN):
                text = case.body(picture(colour))[0]
                kind, frame = FRAMINGS[framing]
                body = frame % text
                pieces = [body[at : at + 50] for at in range(0, len(body), 50)]
                upstream.respond = lambda _, pieces=pieces, kind=kind: Answer(pieces, kind)  # type: ignore[misc]
                path = "/v1beta/models/m:streamGenerateContent" if framing == "array" else case.path
                reply = client.post(upstream.url + path, json={})
                if colour is RED and (text in reply.content or results[-1].blocked != "response"):
                    unseen.append(case.name)
                elif colour is GREEN and reply.content != body:
                    stopped.append((case.name, results[-1].reason))
    assert ([], []) == (unseen, stopped)
    assert json.dumps(results[-1].to_dict())
