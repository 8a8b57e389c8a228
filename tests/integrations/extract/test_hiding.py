"""Images spelled so that a quick look misses them."""

from __future__ import annotations

import json

import pytest

from policyguard.errors import ImageError
from policyguard.integrations.extract import Replacement, SiteKind, find_images, replace_images

from .shapes import B64, DATA_URI, PNG


def kinds(payload: object) -> list[SiteKind]:
    return [site.kind for site in find_images(payload)]


@pytest.mark.parametrize("first", [DATA_URI, "a cat"])
def test_json_in_a_string_with_a_key_twice_hides_neither_value(first: str) -> None:
    second = "a cat" if first == DATA_URI else DATA_URI
    text = f'{{"type": "x", "picture": "{first}", "picture": "{second}"}}'
    (site,) = find_images({"arguments": text})
    assert site.data == PNG


def test_a_number_that_python_does_not_read_hides_no_image() -> None:
    (site,) = find_images({"output": f'{{"n": {"7" * 5000}, "thing": "{B64}"}}'})
    assert site.data == PNG


@pytest.mark.parametrize("key", ["image", "images", "thing"])
@pytest.mark.parametrize("spell", ["!{}", "{0:.1}!{1}", ".{}", "\u200b{}"])
def test_base64_that_only_a_lenient_decoder_reads_is_unreadable(key: str, spell: str) -> None:
    text = spell.format(B64, B64[1:]) if "{1}" in spell else spell.format(B64)
    assert kinds({key: text}) == [SiteKind.UNREADABLE]


def test_base64_with_a_stop_after_every_letter_is_unreadable() -> None:
    assert kinds({"thing": ".".join(B64)}) == [SiteKind.UNREADABLE]


@pytest.mark.parametrize(
    "text",
    [
        '<img src="data:image/png;base64,{spaced}">',
        "<img src='data:image/png;base64,{spaced}'>",
        "<img src=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>\">",
        "![x](data:image/png;x=(1);base64,{b64})",
        "![x](data:image/png;x={long};base64,{b64})",
        "![x](data: image/png;base64,{b64})",
    ],
)
def test_a_data_uri_that_browsers_read_is_found_in_a_text(text: str) -> None:
    spaced = " ".join(B64[at : at + 20] for at in range(0, len(B64), 20))
    told = "Look: " + text.format(spaced=spaced, b64=B64, long="a" * 300) + " there."
    assert kinds({"content": told}) == [SiteKind.INLINE]


@pytest.mark.parametrize("text", ["![a [b] c](https://e.example/x)", r"![a\] b](https://e.example/x)"])
def test_brackets_in_its_name_hide_no_picture(text: str) -> None:
    assert kinds({"content": text}) == [SiteKind.LINK]


def test_a_document_is_no_excuse_for_an_image() -> None:
    block = {"type": "image", "source": {"type": "base64", "media_type": "application/pdf", "data": B64}}
    assert kinds([block]) == [SiteKind.INLINE]
    # Bytes that a lenient opener may take for a picture, with a mark of PDF in them.
    odd = "UDYgIyAlUERGLTEuNwo" + "A" * 400
    assert kinds([{"type": "image", "data": odd}]) == [SiteKind.UNREADABLE]


def test_words_and_codes_are_no_spelled_images() -> None:
    for text in (
        "I. V. Bauer, O. R. W. and others " * 9,
        "/9 of all, and j of them " * 9,
        "eyJhbGciOi.J9.x" * 9,
    ):
        assert kinds({"content": text}) == []
    assert kinds(json.loads(json.dumps({"content": "x", "id": "msg_" + "0" * 60}))) == []


def test_an_image_in_the_name_of_a_key_is_found_and_cannot_be_replaced() -> None:
    payload = {"tool": {DATA_URI: "there"}}
    (site,) = find_images(payload)
    assert site.data == PNG
    with pytest.raises(ImageError):
        replace_images(payload, {site.where: Replacement(PNG, "image/png")})


def test_json_in_many_strings_ends_in_an_unreadable_site() -> None:
    value: object = {"thing": B64}
    for depth in range(7):
        value = json.dumps([value])
        assert kinds({"x": value}) == ([SiteKind.INLINE] if depth < 4 else [SiteKind.UNREADABLE])
