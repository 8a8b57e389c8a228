"""Images are found wherever they are put, and no payload makes the walk crash, hang or pass."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from policyguard.integrations.extract import Replacement, SiteKind, find_images, replace_images
from policyguard.integrations.extract.magic import decode_base64, sniff, sniff_base64
from support.work import calls

from .shapes import B64, DATA_URI, GIF, JPEG, PNG, SVG, WEBP, picture

IMAGES = [PNG, JPEG, GIF, WEBP, SVG, picture("BMP"), picture("TIFF"), picture("ICO")]
HEADS = [
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(40),
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
    b"\0\0\0\x1cftypmp42\0\0\0\0mp42avifmiaf" + bytes(40),
    b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    b'<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="x"/>' + b" " * 20,
    b"MM\0*\0\0\0\x08" + bytes(40),
]


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


ENCODINGS: dict[str, Callable[[bytes], Any]] = {
    "base64": text_of,
    "URL-safe base64": lambda data: base64.urlsafe_b64encode(data).decode(),
    "unpadded base64": lambda data: text_of(data).rstrip("="),
    "wrapped base64": lambda data: base64.encodebytes(data).decode(),
    "indented base64": lambda data: "\n  " + base64.encodebytes(data).decode().replace("\n", "\r\n  "),
    "bytes": lambda data: data,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "base64 in bytes": base64.b64encode,
    "list of numbers": list,
    "data URI": lambda data: f"data:image/png;base64,{text_of(data)}",
    "data URI with more": lambda data: f"data:image/png;name=a.png;base64,{text_of(data)}",
    "data URI in capitals": lambda data: f"DATA:IMAGE/PNG;BASE64,{text_of(data)}",
    "data URI with a space": lambda data: f" data:image/png; base64,{text_of(data)}",
    "data URI, percent-encoded base64": lambda data: f"data:image/png;base64,{quote(text_of(data), safe='')}",
    "data URI, percent-encoded bytes": lambda data: f"data:image/png,{quote(data, safe='')}",
    "data URI in Markdown": lambda data: f"look: ![it](data:image/png;base64,{text_of(data)}) there",
    "data URI in HTML": lambda data: f'<b>x</b><img src="data:image/png;base64,{text_of(data)}" alt="y">',
    "data URI in odd words": lambda data: f"İ ẞ ÇOK dAtA:image/png;base64,{text_of(data)} İ",
    "JSON": lambda data: json.dumps({"r": [1, {"image": text_of(data)}]}),
    "JSON, twice": lambda data: json.dumps([json.dumps({"image": f"data:image/png;base64,{text_of(data)}"})]),
    "JSON, escaped": lambda data: f'["\\u0064ata:image/png;base64,{text_of(data)}"]',
}  # fmt: skip


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=list(ENCODINGS))
@pytest.mark.parametrize("data", IMAGES, ids=sniff)
def test_an_image_in_any_encoding_is_found_by_its_bytes(encode: Callable[[bytes], Any], data: bytes) -> None:
    (site,) = find_images({"some": [{"thing": encode(data)}]})
    assert (site.kind, site.data) == (SiteKind.INLINE, data)


@pytest.mark.parametrize("data", HEADS, ids=sniff)
def test_formats_that_are_not_opened_are_found_too(data: bytes) -> None:
    (site,) = find_images({"thing": text_of(data)})
    assert site.data == data


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
keys = st.text(max_size=12) | st.sampled_from(["content", "type", "data", "image", "url", "text", "output"])
payloads = st.recursive(
    st.lists(leaves, max_size=3) | st.dictionaries(keys, leaves, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


def plant(payload: Any, secret: Any, draw: random.Random) -> Any:
    """``payload`` with ``secret`` in a place of it."""
    here: Any = payload
    while True:
        inner = [
            child
            for child in (here.values() if isinstance(here, dict) else here)
            if isinstance(child, dict | list)
        ]
        if not inner or draw.random() < 0.3:
            break
        here = draw.choice(inner)
    if isinstance(here, dict):
        here[draw.choice([*here, "new"])] = secret
    else:
        here.insert(draw.randrange(len(here) + 1), secret)
    return payload


@settings(max_examples=300, deadline=None)
@given(
    payloads, st.sampled_from(sorted(ENCODINGS)), st.sampled_from(IMAGES), st.randoms(use_true_random=False)
)
def test_an_image_planted_anywhere_in_any_json_is_found(
    payload: Any, encoding: str, data: bytes, draw: random.Random
) -> None:
    planted = plant(payload, ENCODINGS[encoding](data), draw)
    sites = find_images(planted)
    (where,) = {site.where for site in sites if site.data == data}
    if encoding != "base64 in bytes":
        replaced = replace_images(planted, {where: Replacement(JPEG, "image/jpeg")})
        assert JPEG in [site.data for site in find_images(replaced)]


@settings(max_examples=300, deadline=None)
@given(payloads)
def test_json_without_images_has_no_inline_image(payload: Any) -> None:
    assert not [site for site in find_images(payload) if site.kind is SiteKind.INLINE]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary())
def test_texts_and_bytes_never_raise(value: str | bytes) -> None:
    for payload in (value, {"image_url": value}, [{"type": "image", "data": value}], {"b64_json": value}):
        for site in find_images(payload):
            assert site.kind in SiteKind


@given(st.binary(min_size=1, max_size=200))
def test_base64_is_decoded_however_it_is_written(data: bytes) -> None:
    for written in (text_of(data), text_of(data).rstrip("="), base64.encodebytes(data).decode()):
        assert decode_base64(written) == data
    assert decode_base64(text_of(data) + "!") is None


def nested(depth: int, kind: type[list[Any] | dict[str, Any]], core: Any) -> Any:
    value = core
    for _ in range(depth):
        value = [value] if kind is list else {"content": value}
    return value


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("depth", [300, 10_000, 100_000])
def test_a_payload_nested_too_deep_is_one_unreadable_site(kind: Any, depth: int) -> None:
    (site,) = find_images(nested(depth, kind, DATA_URI))
    assert site.kind is SiteKind.UNREADABLE


def test_json_in_a_string_nested_too_deep_is_one_unreadable_site() -> None:
    (site,) = find_images({"output": "[" * 50_000 + "]" * 50_000})
    assert site.kind is SiteKind.UNREADABLE


def test_a_payload_that_holds_itself_is_an_unreadable_site() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert [site.kind for site in find_images(ring)] == [SiteKind.UNREADABLE]


def test_a_payload_that_grows_with_every_look_ends_in_an_unreadable_site(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("policyguard.integrations.extract.walk.MAX_NODES", 20_000)
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    assert [site.kind for site in find_images(value)] == [SiteKind.UNREADABLE]


def test_an_object_that_fails_when_looked_at_is_an_unreadable_site() -> None:
    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no")

    assert [site.kind for site in find_images([Hostile(a=1)])] == [SiteKind.UNREADABLE]


def test_models_and_dataclasses_are_read_and_replaced() -> None:
    class Part(BaseModel):
        inline_data: dict[str, Any]

    @dataclasses.dataclass(frozen=True)
    class Message:
        content: list[Part]

    message = Message([Part(inline_data={"mime_type": "image/png", "data": PNG})])
    (site,) = find_images(message)
    assert (site.where, site.data) == ("/content/0/inline_data/data", PNG)
    replaced = replace_images(message, {site.where: Replacement(JPEG, "image/jpeg")})
    assert isinstance(replaced, Message)
    assert replaced.content[0].inline_data == {"mime_type": "image/jpeg", "data": JPEG}
    assert message.content[0].inline_data["data"] == PNG


def test_langchain_messages_are_read_with_their_artifacts() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    tool = messages.ToolMessage(
        content=[{"type": "image", "base64": B64, "mime_type": "image/png"}],
        artifact={"png": JPEG},
        tool_call_id="c",
    )
    said = messages.AIMessage(content="", additional_kwargs={"images": [{"image_url": {"url": DATA_URI}}]})
    assert sorted(site.where for site in find_images([tool, said])) == [
        "/0/artifact/png",
        "/0/content/0/base64",
        "/1/additional_kwargs/images/0/image_url/url",
    ]


@pytest.mark.parametrize(
    "text",
    ["data:" * 50_000, "![" * 100_000, "](//" * 60_000, "<img " * 60_000, "<img src=" * 40_000,
     "[" + "\n[" * 90_000, "![a][" * 60_000, "data:image/png;base64," * 20_000,
     "data:image/png;base64," + "A" * 40 + "\n " * 90_000,
     "\n" * 200_000 + "[", "{" * 200_000, '{"a":' * 50_000, "http://" * 50_000, " " * 300_000,
     "<!--" * 70_000, "PCEtLS" * 50_000, "<?xml?>" * 40_000],
)  # fmt: skip
def test_no_text_makes_the_search_more_than_linear_work(text: str) -> None:
    """A regular expression that goes back and forth would need minutes: the suite's time-out ends it."""
    for key in ("content", "b64_json"):
        assert calls(lambda key=key: find_images({key: text})) < 1_000 + 2 * len(text)


def test_base64_is_recognised_by_its_beginning_and_not_decoded_for_that() -> None:
    assert sniff_base64(B64[:40]) == "image/png"
    assert sniff_base64(text_of(b"plain words, plain words, plain words")) is None
