"""What goes on of an image that may pass: where viewers may show its file otherwise, what was judged."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import pytest
from PIL import Image
from PIL.Image import Image as PILImage

from images.support import animation, exif, matrix_profile
from integrations.http.calling import CHAT, PLAIN, Reply, Way, chat
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Upstream
from policyguard import ConfigurationError
from policyguard.images import decode
from policyguard.integrations.http import guarded_client

ORIGINAL = {"pass_on": "original"}


def encoded(image: PILImage, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def green(mode: str = "RGB") -> PILImage:
    image = Image.new("RGB", (40, 24), GREEN)
    image.paste((10, 10, 90), (0, 0, 12, 12))
    return image.convert(mode)


def hidden() -> bytes:
    """Green for whoever honours transparency; red for whoever does not."""
    image = green("RGBA")
    image.paste((*RED, 0), (0, 0, 40, 6))
    return encoded(image, "PNG")


DOUBTFUL: dict[str, Callable[[], bytes]] = {
    "jpeg, turned": lambda: encoded(green(), "JPEG", exif=b"Exif\0\0" + exif(6)),
    "png with a profile": lambda: encoded(green(), "PNG", icc_profile=matrix_profile((1, 2, 0))),
    "webp": lambda: encoded(green(), "WEBP", lossless=True, exif=exif(6)),
    "gif with something after it": lambda: encoded(green("P"), "GIF") + b"abc",
    "png that hides a colour": hidden,
    "an animation with something after it": lambda: animation([green(), green().rotate(180)], "GIF") + b"abc",
}
PLAIN_FILES = {
    "png": picture(GREEN),
    "jpeg": picture(GREEN, "JPEG"),
    "jpeg of a camera": encoded(green(), "JPEG", exif=b"Exif\0\0" + exif(1), comment=b"at home"),
    "webp": picture(GREEN, "WEBP"),
    "gif": picture(GREEN, "GIF"),
    "an animation": animation([green(), green().rotate(180)], "PNG"),
}


def judged(data: bytes) -> PILImage:
    return decode(data).frames[0]


def same(sent: bytes, original: bytes) -> bool:
    """Whether a file shows what was judged of another one, and is plain or at least hides nothing."""
    one, other = judged(original), decode(sent).frames[0]
    if decode(sent).frame_count != decode(original).frame_count:
        return False
    if one.size != other.size or not sent.startswith((b"\x89PNG", b"\xff\xd8")):
        return False
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return max(abs(a - b) for a, b in pairs) < 40  # JPEG, at the edge of two colours


def url_of(body: Any, part: int = 1) -> tuple[str, bytes]:
    """The media type and the bytes of a data URI in a chat request."""
    uri = body["messages"][0]["content"][part]["image_url"]["url"]
    head, _, code = uri.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(code)


def matches(kind: str, data: bytes) -> bool:
    return kind == {b"\x89PNG": "image/png", b"\xff\xd8\xff\xe0": "image/jpeg"}[data[:4]]


@pytest.mark.parametrize("name", DOUBTFUL)
def test_the_provider_gets_what_was_judged(way: Way, upstream: Upstream, name: str) -> None:
    original = DOUBTFUL[name]()
    guard, backend = colour_guard()
    reply = way.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(original, "image/x")))
    assert (200, 1, 1) == (reply.status, upstream.calls, reply.result.normalised)
    kind, sent = url_of(upstream.asked[0].json)
    assert sent != original
    assert same(sent, original)
    assert matches(kind, sent)
    assert backend.requests


@pytest.mark.parametrize("name", PLAIN_FILES)
def test_a_plain_file_goes_on_to_the_byte(way: Way, upstream: Upstream, name: str) -> None:
    body = json.dumps(chat(data_uri(PLAIN_FILES[name])), indent=3).encode()
    headers = {"content-type": "application/json"}
    reply = way.send(colour_guard()[0], "POST", upstream.url + CHAT, content=body, headers=headers)
    assert (200, 0, body) == (reply.status, reply.result.normalised, upstream.asked[0].body)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_the_original_goes_on_where_that_is_wanted(upstream: Upstream, name: str) -> None:
    original = DOUBTFUL[name]()
    body = json.dumps(chat(data_uri(original)), indent=3).encode()
    headers = {"content-type": "application/json"}
    guard, _ = colour_guard()
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, content=body, headers=headers, options=ORIGINAL)
    assert (200, 0, body) == (reply.status, reply.result.normalised, upstream.asked[0].body)


def test_an_image_that_is_passed_on_is_made_once(upstream: Upstream) -> None:
    guard, backend = colour_guard()
    with guarded_client(guard, family="httpx") as client:
        asked = set()
        for _ in range(3):
            client.post(upstream.url + CHAT, json=chat(data_uri(hidden())))
            asked.add(len(backend.requests))
    assert (1, 1) == (len(asked), len({asked.body for asked in upstream.asked}))


def test_each_of_several_images_is_treated_by_itself(upstream: Upstream) -> None:
    plain, turned = picture(GREEN), DOUBTFUL["jpeg, turned"]()
    reply = PLAIN.send(
        colour_guard()[0], "POST", upstream.url + CHAT, json=chat(data_uri(plain), data_uri(turned))
    )
    assert (2, 1) == (reply.result.images_checked, reply.result.normalised)
    assert plain == url_of(upstream.asked[0].json, 1)[1]
    assert same(url_of(upstream.asked[0].json, 2)[1], turned)


def test_a_blocked_image_still_blocks_and_a_replaced_one_is_not_passed_on(upstream: Upstream) -> None:
    red = encoded(Image.new("RGB", (40, 24), RED), "JPEG", exif=b"Exif\0\0" + exif(6))
    guard, _ = colour_guard()
    assert 403 == PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(red))).status
    body = chat(data_uri(red), data_uri(hidden()))
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json=body, options={"on_block": "replace"})
    assert (1, 1, 1) == (upstream.calls, reply.result.replaced, reply.result.normalised)
    assert (128, 128, 128) == judged(url_of(upstream.asked[0].json, 1)[1]).getpixel((3, 3))


def test_a_reader_without_transparency_finds_nothing_hidden(upstream: Upstream) -> None:
    guard, _ = colour_guard()
    for options, colour in (({}, (255, 255, 255)), (ORIGINAL, RED)):
        PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(hidden())), options=options)
        with Image.open(io.BytesIO(url_of(upstream.asked[-1].json)[1])) as sent:  # noqa: TID251
            assert colour == sent.convert("RGB").getpixel((30, 3))


# --- What is declared beside an image follows it -----------------------------------------------------

WEBP = DOUBTFUL["webp"]
SHAPES: dict[str, tuple[Any, Callable[[Any], tuple[Any, ...]], tuple[Any, ...]]] = {
    "anthropic": (
        {"source": {"type": "base64", "media_type": "image/webp", "data": b64(WEBP())}, "type": "image"},
        lambda part: (part["source"]["media_type"],),
        ("image/png",),
    ),
    "gemini": (
        {"inlineData": {"mimeType": "image/webp", "data": b64(WEBP())}},
        lambda part: (part["inlineData"]["mimeType"],),
        ("image/png",),
    ),
    "bedrock": (
        {"image": {"format": "webp", "source": {"bytes": b64(WEBP())}}},
        lambda part: (part["image"]["format"],),
        ("png",),
    ),
    "litellm": (
        {"type": "image_url", "image_url": {"url": data_uri(WEBP(), "image/webp"), "format": "image/webp"}},
        lambda part: (part["image_url"]["format"], part["image_url"]["url"][:15]),
        ("image/png", "data:image/png;"),
    ),
    "a file with a name": (
        {"type": "file", "file": {"filename": "my.cat.webp", "file_data": data_uri(WEBP(), "image/webp")}},
        lambda part: (part["file"]["filename"],),
        ("my.cat.png",),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_declared_in_json_follows(upstream: Upstream, shape: str) -> None:
    part, look, expected = SHAPES[shape]
    body = {"messages": [{"role": "user", "content": [part]}], "output_format": "webp"}
    reply = PLAIN.send(colour_guard()[0], "POST", upstream.url + "/v1/x", json=body)
    assert (200, 1) == (reply.status, reply.result.normalised)
    sent = upstream.asked[0].json
    assert expected == look(sent["messages"][0]["content"][0])
    assert "webp" == sent["output_format"]  # of what is to be made, and not of this image


def test_what_is_declared_in_an_answer_follows(way: Way, upstream: Upstream) -> None:
    upstream.answer({"data": [{"b64_json": b64(WEBP())}], "output_format": "webp", "created": 1})
    reply = way.send(colour_guard()[0], "POST", upstream.url + "/v1/images/generations", json={})
    assert (200, "png", 1) == (reply.status, reply.json["output_format"], reply.result.normalised)
    assert same(base64.b64decode(reply.json["data"][0]["b64_json"]), WEBP())


def multipart(asked: Any) -> list[EmailMessage]:
    head = b"Content-Type: " + asked.headers["content-type"].encode() + b"\r\n\r\n"
    message: Any = BytesParser(policy=HTTP).parsebytes(head + asked.body)
    return list(message.iter_parts())


def test_an_uploaded_file_follows_with_its_type_and_its_name(way: Way, upstream: Upstream) -> None:
    files = {
        "image": ("ein Bild.WebP", WEBP(), "image/webp"),
        "mask": ("mask.png", picture(GREEN), "image/png"),
    }
    if way.name == "aiohttp":
        pytest.skip("its own forms are in test_aiohttp")
    reply = way.send(
        colour_guard()[0], "POST", upstream.url + "/v1/images/edits", files=files, data={"n": "1"}
    )
    assert (200, 1) == (reply.status, reply.result.normalised)
    parts = {
        part.get_param("name", header="content-disposition"): part for part in multipart(upstream.asked[0])
    }
    assert ("image/png", "ein Bild.png") == (parts["image"].get_content_type(), parts["image"].get_filename())
    assert ("image/png", "mask.png") == (parts["mask"].get_content_type(), parts["mask"].get_filename())
    assert same(parts["image"].get_payload(decode=True), WEBP())  # type: ignore[arg-type]
    assert picture(GREEN) == parts["mask"].get_payload(decode=True)
    assert "1" == parts["n"].get_content().strip()


def test_a_body_that_is_an_image_follows_with_its_type(way: Way, upstream: Upstream) -> None:
    headers = {"content-type": "image/webp"}
    upstream.answer(WEBP(), content_type="image/webp")
    reply = way.send(colour_guard()[0], "PUT", upstream.url + "/pictures/1", content=WEBP(), headers=headers)
    asked = upstream.asked[0]
    assert (200, "image/png", "image/png") == (
        reply.status,
        asked.headers["content-type"],
        reply.headers["content-type"],
    )
    assert same(asked.body, WEBP())
    assert same(reply.body, WEBP())
    assert str(len(asked.body)) == asked.headers["content-length"]


def test_a_soft_mask_stays_a_mask(upstream: Upstream) -> None:
    """Image editing reads where a mask is transparent; brushes make soft edges."""
    mask = green("RGBA")
    mask.putalpha(Image.linear_gradient("L").resize(mask.size))
    data = encoded(mask, "WEBP", lossless=True)
    files = {"mask": ("mask.webp", data, "image/webp")}
    assert 200 == PLAIN.send(colour_guard()[0], "POST", upstream.url + "/v1/images/edits", files=files).status
    (part,) = multipart(upstream.asked[0])
    with Image.open(io.BytesIO(part.get_payload(decode=True))) as sent:  # type: ignore[arg-type]  # noqa: TID251
        assert mask.getchannel("A").tobytes() == sent.getchannel("A").tobytes()


# --- What cannot be written anew is refused ----------------------------------------------------------


def refused(reply: Reply, upstream: Upstream, *words: str) -> None:
    assert (403, 0) == (reply.status, upstream.calls)
    assert "policyguard_unjudged" == reply.error["code"]
    for word in (*words, "pass_on='original'"):
        assert word in reply.error["message"]


@pytest.mark.parametrize(
    "header",
    ["Content-MD5", "Digest", "Content-Digest", "X-Amz-Content-Sha256", "x-amz-checksum-crc32", "Signature"],
)
def test_a_signed_body_is_not_changed(way: Way, upstream: Upstream, header: str) -> None:
    guard, headers = colour_guard()[0], {header: "x", "content-type": "image/webp"}
    reply = way.send(guard, "PUT", upstream.url + CHAT, content=WEBP(), headers=headers)
    refused(reply, upstream, "signed", header.lower())
    assert 200 == way.send(guard, "PUT", upstream.url + CHAT, content=picture(GREEN), headers=headers).status
    options = ORIGINAL
    reply = way.send(guard, "PUT", upstream.url + CHAT, content=WEBP(), headers=headers, options=options)
    assert (200, WEBP()) == (reply.status, upstream.asked[-1].body)


def test_an_upload_of_a_length_that_was_agreed_on_is_not_changed(upstream: Upstream) -> None:
    """Gemini's files: the first request announces the size, the second brings the bytes."""
    headers = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
    reply = PLAIN.send(colour_guard()[0], "POST", upstream.url + CHAT, content=WEBP(), headers=headers)
    refused(reply, upstream, "x-goog-upload-command")
    data = picture(GREEN)
    assert (
        200
        == PLAIN.send(colour_guard()[0], "POST", upstream.url + CHAT, content=data, headers=headers).status
    )


def test_a_part_of_an_upload_is_not_changed(upstream: Upstream) -> None:
    """OpenAI's uploads: the number of bytes is said when one begins."""
    url, guard = f"{upstream.url}/v1/uploads/upload_1/parts", colour_guard()[0]
    refused(
        PLAIN.send(guard, "POST", url, files={"data": ("a", WEBP(), "image/webp")}), upstream, "agreed on"
    )
    assert 200 == PLAIN.send(guard, "POST", url, files={"data": ("a", picture(GREEN), "image/png")}).status


def test_an_image_in_a_header_cannot_be_written_anew(upstream: Upstream) -> None:
    headers = {"x-picture": data_uri(WEBP())}
    reply = PLAIN.send(colour_guard()[0], "POST", upstream.url + CHAT, json={}, headers=headers)
    refused(reply, upstream)
    headers = {"x-picture": data_uri(picture(GREEN))}
    assert 200 == PLAIN.send(colour_guard()[0], "POST", upstream.url + CHAT, json={}, headers=headers).status


def test_text_that_is_not_utf_8_keeps_its_encoding(upstream: Upstream) -> None:
    text = f"Grüße {data_uri(WEBP())} Ende"
    headers = {"content-type": "text/plain; charset=iso-8859-1"}
    reply = PLAIN.send(
        colour_guard()[0], "POST", upstream.url + CHAT, content=text.encode("latin-1"), headers=headers
    )
    assert 200 == reply.status
    assert upstream.asked[0].body.decode("latin-1").startswith("Grüße data:image/png;base64,")


def test_what_the_policy_lets_through_unjudged_goes_on_as_it_is(upstream: Upstream) -> None:
    guard, _ = colour_guard(outcomes={"unscannable": "allow"})
    broken = picture(GREEN)[:-30]
    reply = PLAIN.send(guard, "POST", upstream.url + CHAT, json=chat(data_uri(broken)))
    assert (200, 0) == (reply.status, reply.result.normalised)
    assert broken == url_of(upstream.asked[0].json)[1]


def test_an_error_of_the_provider_stays_as_it_is(upstream: Upstream) -> None:
    body = {"error": {"message": "cannot read", "image": data_uri(WEBP())}}
    upstream.answer(body, status=400)
    reply = PLAIN.send(colour_guard()[0], "POST", upstream.url + CHAT, json=chat())
    assert (400, body) == (reply.status, reply.json)


def test_an_event_of_a_stream_is_written_anew(way: Way, upstream: Upstream) -> None:
    event = {"type": "image_generation.partial_image", "b64_json": b64(WEBP()), "output_format": "webp"}
    lines = [b'data: {"delta": "words"}\n\n', f"event: x\ndata: {json.dumps(event)}\n\n".encode()]
    upstream.answer(lines, content_type="text/event-stream")
    reply = way.send(
        colour_guard()[0], "POST", upstream.url + "/v1/images/generations", json={"stream": True}
    )
    first, second = reply.body.split(b"\n\n")[:2]
    assert (lines[0].strip(), b"event: x\n") == (first, second[:9])
    passed = json.loads(second.partition(b"data: ")[2])
    assert ("png", True) == (passed["output_format"], same(base64.b64decode(passed["b64_json"]), WEBP()))


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="pass_on is 'both'; it must be 'judged' or 'original'"):
        guarded_client(colour_guard()[0], family="httpx", pass_on="both")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"on_block": "watch"}, {"when": "alongside"}], ids=["watched", "alongside"]
)
def test_a_request_that_is_watched_or_sent_before_its_verdict_goes_out_as_it_is(
    way: Way, upstream: Upstream, options: dict[str, Any]
) -> None:
    guard, _ = colour_guard()
    headers = {"content-type": "image/webp", "digest": "x"}
    for _ in range(2):  # judged, and known
        reply = way.send(guard, "PUT", upstream.url + CHAT, content=WEBP(), headers=headers, options=options)
        assert (200, 0, WEBP()) == (reply.status, reply.result.normalised, upstream.asked[-1].body)
        assert "image/webp" == upstream.asked[-1].headers["content-type"]
