"""Every known shape gives the sites it should, and what is no image gives none."""

from __future__ import annotations

import copy

import pytest

from policyguard.errors import ImageError
from policyguard.integrations.extract import Replacement, SiteKind, find_images, replace_images

from .shapes import DATA_URI, JPEG, LANGCHAIN, PNG, SHAPES, Shape

IDS = [f"{shape.provider}-{shape.name}" for shape in SHAPES]


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_a_shape_gives_its_sites(shape: Shape) -> None:
    sites = find_images(shape.payload)
    assert [(site.where, site.kind) for site in sites] == list(shape.sites)
    for site in sites:
        if site.kind in (SiteKind.UNREADABLE, SiteKind.DOCUMENT):
            assert site.problem
        elif site.kind is SiteKind.FILE:
            assert site.file_id
        elif site.kind in (SiteKind.URL, SiteKind.LINK):
            assert str(site.url).startswith("https://")
        elif shape not in LANGCHAIN:
            assert site.data == shape.data


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_replaced_images_are_found_in_place_of_the_old_ones(shape: Shape) -> None:
    before = copy.deepcopy(shape.payload) if shape not in LANGCHAIN else None
    wanted = [
        site.where
        for site in find_images(shape.payload)
        if site.kind in (SiteKind.INLINE, SiteKind.URL) and shape.name not in NO_INLINE_FORM
    ]
    replaced = replace_images(shape.payload, {where: Replacement(JPEG, "image/jpeg") for where in wanted})
    found = [site for site in find_images(replaced) if site.data == JPEG]
    assert len(found) == len(wanted)
    assert before is None or before == shape.payload
    left = [site for site in find_images(replaced) if site.kind in (SiteKind.INLINE, SiteKind.URL)]
    assert len(left) == len(found) or shape.name in NO_INLINE_FORM


NO_INLINE_FORM = ("images response, svg as text", "an artifact with an image")


def test_an_anthropic_source_by_url_becomes_a_base64_source() -> None:
    block = {"type": "image", "source": {"type": "url", "url": "https://e.example/x"}}
    new = replace_images([block], {"/0/source/url": Replacement(PNG, "image/png")})
    assert new[0]["source"].keys() == {"type", "media_type", "data"}  # type: ignore[index]
    assert new[0]["source"]["type"] == "base64"  # type: ignore[index]


@pytest.mark.parametrize(
    ("part", "where", "key"),
    [
        ({"fileData": {"mimeType": "image/png", "fileUri": "gs://b/x"}}, "/0/fileData/fileUri", "inlineData"),
        (
            {"file_data": {"mime_type": "image/png", "file_uri": "gs://b/x"}},
            "/0/file_data/file_uri",
            "inline_data",
        ),
    ],
)
def test_gemini_file_data_becomes_inline_data(part: object, where: str, key: str) -> None:
    (new,) = replace_images([part], {where: Replacement(JPEG, "image/jpeg")})  # type: ignore[misc]
    assert list(new) == [key]
    assert find_images(new)[0].media_type is None
    assert "image/jpeg" in new[key].values()


def test_declared_media_types_follow_the_replacement() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": DATA_URI.partition(",")[2]}
    new = replace_images(source, {"/data": Replacement(JPEG, "image/jpeg")})
    assert new["media_type"] == "image/jpeg"  # type: ignore[index]


def test_input_image_by_file_id_becomes_a_data_uri() -> None:
    block = {"type": "input_image", "file_id": "file-1"}
    assert find_images(replace_images(block, {"/file_id": Replacement(PNG, "image/png")}))[0].data == PNG


def test_the_text_around_a_replaced_data_uri_stays() -> None:
    new = replace_images(f"a {DATA_URI} b {DATA_URI} c", {"#1": Replacement(JPEG, "image/jpeg")})
    assert isinstance(new, str)
    assert new.startswith(f"a {DATA_URI} b data:image/jpeg;base64,")
    assert new.endswith(" c")


def test_what_lies_beside_a_replaced_image_is_shared_and_not_copied() -> None:
    payload = {"big": ["x"], "image_url": DATA_URI}
    new = replace_images(payload, {"/image_url": Replacement(JPEG, "image/jpeg")})
    assert new["big"] is payload["big"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({}, "/nothing"),
        ({"images": [{"file_id": "f"}]}, "/images/0/file_id"),
        ([{"type": "image"}], "/0"),
    ],
)
def test_a_place_that_cannot_hold_an_image_is_an_error(payload: object, where: str) -> None:
    with pytest.raises(ImageError):
        replace_images(payload, {where: Replacement(PNG, "image/png")})
