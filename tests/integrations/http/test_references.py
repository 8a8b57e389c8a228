# ruff: noqa: E501 (a table: one case per line)
"""Ids and addresses in requests: what may name an image that nobody judged blocks."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from integrations.http.calling import CHAT
from integrations.http.harmless import GEMINI, MESSAGES, RESPONSES, multipart
from integrations.http.pictures import GREEN, RED, b64, colour_guard, picture
from integrations.http.upstream import Upstream
from policyguard.integrations.http import guarded_client
from policyguard.integrations.screen import FileLedger

ADDRESS = "https://e.example/4f2a"
REFERENCES: dict[str, tuple[str, Any]] = {
    "code_interpreter": (RESPONSES, {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]}),
    "attachments": ("/v1/threads/t/messages", {"role": "user", "content": "hi", "attachments": [{"file_id": "file-1", "tools": [{"type": "code_interpreter"}]}]}),
    "container_upload": (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "file_1"}]}]}),
    "tool_resources": ("/v1/assistants", {"tool_resources": {"code_interpreter": {"file_ids": ["file-1", "file-2"]}}}),
    "input_file_id": ("/v1/batches", {"input_file_id": "file-1", "endpoint": "/v1/responses"}),
    "Gemini batch": ("/v1beta/models/m:batchGenerateContent", {"batch": {"inputConfig": {"fileName": "files/abc123"}}}),
    "tool_file": ("/v1/conversations", {"inputs": [{"content": [{"type": "tool_file", "tool": "code_interpreter", "file_id": "0b1f", "file_name": "plot"}]}]}),
    "an id under a key of its own": ("/v1/x", {"picture_asset_id": "asset_9f3e"}),
    "a training file": ("/v1/fine_tuning/jobs", {"training_file": "file-abc"}),
    "first_frame_url": ("/v1/videos", {"first_frame_url": ADDRESS}),
    "reference_url": ("/v1/videos", {"prompt": "p", "reference_url": ADDRESS}),
    "start_frame": ("/v1/videos", {"start_frame": ADDRESS}),
    "control": ("/v1/videos", {"control": ADDRESS}),
    "references in a list": ("/v1/videos", {"references": [ADDRESS]}),
    "an unknown url": ("/v1/x", {"subject_url": ADDRESS}),
    "an unknown list of urls": ("/v1/x", {"input_urls": [ADDRESS]}),
    "url_context": (GEMINI, {"contents": [{"parts": [{"text": "Describe https://e.example/cat.png?w=1"}]}], "tools": [{"url_context": {}}]}),
    "urlContext": (GEMINI, {"contents": [{"parts": [{"text": "![x](https://e.example/cat.webp)"}]}], "tools": [{"urlContext": {}}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_what_may_name_an_image_blocks(upstream: Upstream, name: str) -> None:
    guard, _ = colour_guard()
    path, payload = REFERENCES[name]
    with guarded_client(guard, family="httpx") as client:
        assert client.post(upstream.url + path, json=payload).status_code == 403
    assert upstream.calls == 0


def test_url_context_without_the_address_of_an_image_passes(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    payload = {
        "contents": [{"parts": [{"text": "Sum up https://e.example/a"}]}],
        "tools": [{"urlContext": {}}],
    }
    with guarded_client(guard, family="httpx") as client:
        assert client.post(upstream.url + GEMINI, json=payload).status_code == 200


def uploaded(client: httpx.Client, upstream: Upstream, data: bytes, name: str) -> httpx.Response:
    upstream.answer({"id": "file-5", "object": "file", "bytes": 9, "filename": name})
    body, kind = multipart((f'name="file"; filename="{name}"', "", data))
    return client.post(upstream.url + "/v1/files", content=body, headers={"content-type": kind})


@pytest.mark.parametrize(("data", "name"), [(b"a,b\n1,2\n", "a.csv"), (picture(GREEN), "a.png")])
def test_the_id_of_an_upload_that_was_judged_may_be_used(upstream: Upstream, data: bytes, name: str) -> None:
    guard, _ = colour_guard()
    with guarded_client(guard, family="httpx", files=(ledger := FileLedger())) as client:
        assert uploaded(client, upstream, data, name).status_code == 200
        for key in ("input_file_id", "training_file"):
            assert client.post(upstream.url + "/v1/x", json={key: "file-5"}).status_code == 200
    assert ledger.holds_no_image("file-5") is (name == "a.csv")


def test_only_a_file_that_was_sent_makes_an_id_known(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer({"id": "file-7", "object": "file"})
    with guarded_client(guard, family="httpx") as client:
        client.post(upstream.url + "/v1/files/file-7", json={})
        client.post(upstream.url + "/v1/files", json={"note": "x"})
        client.post(upstream.url + "/v1/files", data={"url": "somewhere"})
        assert client.post(upstream.url + "/v1/x", json={"file_id": "file-7"}).status_code == 403


@pytest.mark.parametrize("colour", [GREEN, RED])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_image_that_the_model_made_may_be_used_again_if_it_was_allowed(
    upstream: Upstream, colour: tuple[int, int, int], streamed: bool
) -> None:
    guard, _ = colour_guard(outcomes={"undecided": "block"})
    item = {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": b64(picture(colour)),
    }
    with guarded_client(guard, family="httpx", on_block={"response": "replace"}) as client:
        if streamed:
            event = httpx.Response(200, json={"type": "response.output_item.done", "item": item}).content
            upstream.answer([b"data: " + event + b"\n\n"], content_type="text/event-stream")
        else:
            upstream.answer({"output": [item]})
        client.post(upstream.url + RESPONSES, json={"input": "draw"})
        upstream.answer({"output": []})
        for again in (
            {"type": "image_generation_call", "id": "ig_1"},
            {"type": "item_reference", "id": "ig_1"},
        ):
            reply = client.post(upstream.url + RESPONSES, json={"input": [again]})
            assert reply.status_code == (200 if colour == GREEN else 403)
        unknown = {"type": "item_reference", "id": "ig_2"}
        assert client.post(upstream.url + RESPONSES, json={"input": [unknown]}).status_code == 403


def test_words_about_ids_and_addresses_pass(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    words = "Use file_id file-1 from https://e.example/4f2a as reference_url"
    call = {"name": "f", "arguments": '{"file_id": "file-1", "reference_url": "https://e.example/a"}'}
    messages = [{"role": "user", "content": words}, {"role": "assistant", "tool_calls": [{"function": call}]}]
    with guarded_client(guard, family="httpx") as client:
        assert client.post(upstream.url + CHAT, json={"messages": messages}).status_code == 200
