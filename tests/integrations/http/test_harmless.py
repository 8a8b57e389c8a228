"""Harmless traffic passes as it is: at most 2% of the table may be stopped, and those are listed here."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import httpx
import pytest

from integrations.http.harmless import HARMLESS, WEBM_SOUND, Harmless, upload
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard.integrations.http import HttpResult, codings, guarded_client

STOPPED = frozenset({"CSS with a drawing as a data URI"})
"""What is stopped all the same, each with its reason in docs/coverage.md."""


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def exchange(case: Harmless, client: httpx.Client, upstream: Upstream) -> httpx.Response:
    upstream.answer(encoded(case.answer), status=case.status, content_type=case.content_type)
    content, headers = encoded(case.request), {"content-type": case.sent_type}
    return client.post(upstream.url + case.path, content=content, headers=headers)


def test_the_table_is_large_enough_and_no_name_stands_twice() -> None:
    assert len(HARMLESS) >= 150
    assert len({case.name for case in HARMLESS}) == len(HARMLESS)
    assert len(STOPPED) <= len(HARMLESS) * 0.02


@pytest.mark.parametrize("options", [{}, {"urls": "fetch"}], ids=["default", "fetching"])
def test_harmless_traffic_passes_unchanged(upstream: Upstream, options: dict[str, Any]) -> None:
    guard, _ = colour_guard()
    results: list[HttpResult] = []
    stopped, changed = {}, set()
    with guarded_client(guard, family="httpx", on_result=results.append, **options) as client:
        for case in HARMLESS:
            response = exchange(case, client, upstream)
            received = (response.status_code, response.content, upstream.asked[-1].body)
            if results[-1].blocked is not None:
                stopped[case.name] = results[-1].reason
            elif received != (case.status, encoded(case.answer), encoded(case.request)):
                changed.add(case.name)
    assert stopped.keys() == STOPPED, json.dumps(stopped, indent=1)
    assert not changed
    assert len(results) == len(HARMLESS)


def test_links_are_never_fetched_and_never_put_into_words(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    prompt = "Look: ![photo](https://photos.example/a.png) <img src='https://photos.example/b.png'>"
    with guarded_client(guard, family="httpx", urls="fetch") as client:
        client.post(upstream.url + "/v1/chat/completions", json={"messages": [{"content": prompt}]})
    assert upstream.asked[0].json == {"messages": [{"content": prompt}]}


def test_an_error_with_a_whole_image_in_it_is_judged(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer({"error": {"message": "blocked", "preview": b64(picture(RED))}}, status=400)
    with guarded_client(guard, family="httpx") as client:
        response = client.post(upstream.url + "/v1/chat/completions", json={})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "image_policy_violation")
        upstream.answer({"error": {"preview": b64(picture(GREEN))}}, status=429, headers={"retry-after": "1"})
        response = client.post(upstream.url + "/v1/chat/completions", json={})
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_only_codings_that_can_be_undone_are_asked_for(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, _ = colour_guard()
    monkeypatch.setitem(sys.modules, "brotli", types.SimpleNamespace(Decompressor=object))  # before 1.2
    monkeypatch.setitem(sys.modules, "brotlicffi", None)
    codings.undone.cache_clear()
    with guarded_client(guard, family="httpx", headers={"accept-encoding": "gzip, br;q=0.5, compress"}) as c:
        c.get(upstream.url + "/x")
    codings.undone.cache_clear()
    assert upstream.asked[0].headers["accept-encoding"] == "gzip"


def test_a_film_is_no_sound_whatever_it_is_called(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    for film in (WEBM_SOUND.replace(b"A_OPUS", b"V_VP9\0"), WEBM_SOUND + b"\xae\x86\x85V_VP8"):
        case = upload("speech.webm", "audio/webm", film, "/v1/audio/transcriptions")
        with guarded_client(guard, family="httpx") as client:
            assert exchange(case, client, upstream).status_code == 403


def test_a_text_in_another_encoding_hides_no_image(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    text = f"Grüße: ![x]({data_uri(picture(RED))}) "
    for data, kind in (
        (text.encode("latin-1"), "text/plain"),
        (text.encode("utf-16"), "text/plain"),
        (text.encode("utf-16-le"), "text/plain; charset=utf-16-le"),
        (("日本" + text.replace("ü", "").replace("ß", "")).encode("shift_jis"), "text/csv"),
    ):
        with guarded_client(guard, family="httpx") as client:
            assert exchange(upload("a.txt", kind, data), client, upstream).status_code == 403
