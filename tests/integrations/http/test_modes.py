"""What becomes of a blocked image, and what callers are told."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from integrations.http.calling import CHAT, PLAIN, Way, chat
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard import ConfigurationError, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.integrations.http import guarded_client
from policyguard.integrations.screen.altered import altered

GENERATE = "/v1/images/generations"


def test_raise_gives_the_violation_itself(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    options = {"on_block": "raise"}
    with pytest.raises(PolicyViolation) as caught:
        way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(RED))), options=options)
    assert (0, "red") == (upstream.calls, caught.value.verdict.findings[0].rule)
    upstream.answer({"data": [{"b64_json": b64(picture(RED))}]})
    with pytest.raises(PolicyViolation):
        way.send(guard, "POST", upstream.url + GENERATE, json={}, options=options)
    assert 1 == upstream.calls


def test_raise_gives_the_error_of_a_wrong_set_up_itself(way: Way, upstream: Upstream) -> None:
    guard, backend = colour_guard()
    backend.close()
    with pytest.raises(ConfigurationError, match="closed"):
        way.send(
            guard,
            "POST",
            upstream.url + CHAT,
            json=chat(data_uri(picture(RED))),
            options={"on_block": "raise"},
        )


def test_a_retry_of_what_was_raised_does_not_ask_the_server_again(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer({"data": [{"b64_json": b64(picture(RED))}]})
    with guarded_client(guard, family="httpx", on_block="raise") as client:
        for attempt in range(3):
            files = {"image": ("a.png", picture(GREEN), "image/png")}  # with another boundary each time
            with pytest.raises(PolicyViolation):
                client.post(
                    upstream.url + GENERATE, files=files, headers={"x-stainless-retry-count": str(attempt)}
                )
        assert 1 == upstream.calls
        with pytest.raises(PolicyViolation):  # the same again, and no retry: asked anew
            client.post(upstream.url + GENERATE, files={"image": ("a.png", picture(GREEN), "image/png")})
    assert 2 == upstream.calls


def test_each_direction_has_its_own_setting(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    upstream.answer({"data": [{"b64_json": b64(picture(RED))}]})
    options: dict[str, Any] = {"on_block": {"request": "raise", "response": "replace"}}
    assert 200 == PLAIN.send(guard, "POST", upstream.url + GENERATE, json={}, options=options).status
    with pytest.raises(PolicyViolation):
        PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(RED))), options=options)


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))  # noqa: TID251 (looks at what came out)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_replaced_image_keeps_its_size_and_format(way: Way, upstream: Upstream, kind: str) -> None:
    guard, _ = colour_guard()
    media_type = f"image/{kind.lower()}"
    bad, fine = picture(RED, kind, (40, 30)), picture(GREEN)
    sent = chat(data_uri(bad, media_type), data_uri(fine))
    reply = way.send(guard, "POST", upstream.url + CHAT, json=sent, options={"on_block": "replace"})
    assert (200, 1) == (reply.status, reply.result.replaced)
    _, first, second = upstream.asked[0].json["messages"][0]["content"]
    assert data_uri(fine) == second["image_url"]["url"]
    prefix, code = first["image_url"]["url"].split(",", 1)
    assert f"data:{media_type};base64" == prefix
    new = _opened(base64.b64decode(code))
    assert (kind, (40, 30)) == (new.format, new.size)
    assert len(upstream.asked[0].body) == int(upstream.asked[0].headers["content-length"])
    red, green, blue = new.convert("RGB").getpixel((20, 15))  # type: ignore[misc]
    assert max(red, green, blue) - min(red, green, blue) < 8


def test_replacing_works_in_multipart_bodies_and_raw_files(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    options = {"on_block": "replace"}
    files = {"image": ("a.png", picture(RED), "image/png")}
    PLAIN.send(guard, "POST", upstream.url + "/x", files=files, data={"prompt": "p"}, options=options)
    assert picture(RED) not in upstream.asked[0].body
    assert b'name="prompt"\r\n\r\np\r\n' in upstream.asked[0].body
    assert b"\x89PNG" in upstream.asked[0].body
    PLAIN.send(guard, "POST", upstream.url + "/x", content=picture(RED), options=options)
    assert (24, 16) == _opened(upstream.asked[1].body).size


def test_what_cannot_be_replaced_is_rejected(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    for url in ("https://example.com/a.png", data_uri(b"\x89PNG\r\n\x1a\nbroken")):
        reply = PLAIN.send(
            guard, "POST", upstream.url + CHAT, json=chat(url), options={"on_block": "replace"}
        )
        assert (403, 0) == (reply.status, upstream.calls)


@pytest.mark.parametrize("how", ["blur", "pixelate"])
def test_what_is_left_of_a_picture_is_at_most_eight_colours_wide(how: Any) -> None:
    fine = Image.effect_noise((256, 128), 120).convert("RGB")
    buffer = io.BytesIO()
    fine.save(buffer, "PNG")
    new = _opened(altered(buffer.getvalue(), how).data).convert("RGB")
    assert (256, 128) == new.size
    few = new.resize((8, 4), Image.Resampling.BOX)
    back = few.resize((256, 128), Image.Resampling.BICUBIC if how == "blur" else Image.Resampling.NEAREST)
    gaps = [abs(a - b) for a, b in zip(new.tobytes(), back.tobytes(), strict=True)]
    assert sum(gaps) / len(gaps) < 3  # 8 by 4 colours tell all there is


def test_every_exchange_has_one_result(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    results: list[Any] = []
    options = {"on_result": results.append}
    way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(GREEN))), options=options)
    way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(RED))), options=options)
    way.send(guard, "POST", upstream.url + CHAT, json={}, options=options)
    assert [None, "request", None] == [result.blocked for result in results]
    assert [1, 1, 0] == [result.images_seen for result in results]
    assert "/messages/0/content/1/image_url/url" == results[1].to_dict()["request"]["items"][0]["where"]
    assert all(json.dumps(result.to_dict()) for result in results)
    assert all(len(result.header()) < 1000 and result.header().isascii() for result in results)


class _Shelf:
    """A fetcher of the caller's own."""

    def __init__(self, data: bytes) -> None:
        self.data, self.calls = data, 0

    def fetch(self, url: str) -> Any:
        from policyguard.images.fetch import Fetched

        self.calls += 1
        return Fetched(self.data, "image/png", url)

    async def afetch(self, url: str) -> Any:
        return self.fetch(url)


def test_what_is_fetched_is_judged_and_sent_in_place_of_the_url(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    shelf = _Shelf(picture(GREEN))
    sent = chat("https://example.com/cat.png")
    options: dict[str, Any] = {"urls": "fetch", "fetcher": shelf}
    assert 200 == way.send(guard, "POST", upstream.url + CHAT, json=sent, options=options).status
    assert data_uri(picture(GREEN)) == upstream.asked[0].json["messages"][0]["content"][1]["image_url"]["url"]
    shelf.data = picture(RED)
    reply = way.send(guard, "POST", upstream.url + CHAT, json=sent, options=options)
    assert (403, 1) == (reply.status, upstream.calls)


@pytest.mark.parametrize(
    "options",
    [
        {"on_block": "ignore"},
        {"on_block": {"both": "reject"}},
        {"on_block": {"request": "no"}},
        {"replace_with": "black"},
        {"urls": "maybe"},
        {"max_body": 0},
        {"family": "httpx3"},
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    guard, _ = colour_guard()
    with pytest.raises(ConfigurationError):
        guarded_client(guard, **{"family": "httpx", **options})


def test_a_callback_may_not_be_lost(upstream: Upstream) -> None:
    guard, _ = colour_guard()

    def broken(_result: Any) -> None:
        raise httpx.ReadError("mine")

    with guarded_client(guard, family="httpx", on_result=broken) as client, pytest.raises(httpx.ReadError):
        client.get(upstream.url + "/x")


@pytest.mark.parametrize("direction", ["request", "response"])
def test_a_body_too_large_is_noted_as_blocked_whatever_the_outcomes_say(
    way: Way, upstream: Upstream, direction: str
) -> None:
    guard, _ = colour_guard(outcomes={"unscannable": "allow"})
    large = json.dumps({"text": "x" * 4096}).encode()
    upstream.answer(large)
    content = large if direction == "request" else b"{}"
    reply = way.send(guard, "POST", upstream.url + "/x", content=content, options={"max_body": 2048})
    result = reply.result
    (item,) = getattr(result, direction).items
    assert (403, direction, "block") == (reply.status, result.blocked, result.action)
    assert ("block", False) == (item.verdict.action, item.verdict.degraded)
    assert (direction == "response") == bool(upstream.calls)
    assert "2048 bytes" in str(result.reason)


@pytest.mark.parametrize(
    ("path", "kind"),
    [(CHAT, "server_error"), ("/v1/messages", "overloaded_error"), ("/m:generateContent", 503)],
)
def test_a_passing_outage_of_the_guard_may_be_tried_again(
    way: Way, upstream: Upstream, path: str, kind: object
) -> None:
    guard, backend = colour_guard()
    backend.enqueue(Failure(FailureKind.ERROR, "the server is down", retryable=True))
    reply = way.send(guard, "POST", upstream.url + path, json=chat(data_uri(picture(GREEN))))
    assert (503, "1", "true") == (
        reply.status,
        reply.headers["retry-after"],
        reply.headers["x-should-retry"],
    )
    assert kind in reply.error.values()
    assert (0, "request") == (upstream.calls, reply.result.blocked)
    assert 200 == way.send(guard, "POST", upstream.url + path, json=chat(data_uri(picture(GREEN)))).status


def test_a_failure_that_stays_is_no_reason_to_try_again(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    backend.enqueue(Failure(FailureKind.ERROR, "the model answers nonsense"))
    assert 403 == PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(picture(GREEN)))).status
