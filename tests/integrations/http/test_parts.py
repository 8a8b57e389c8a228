"""The parts on their own: codings, frames, multipart."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyguard.integrations.extract import Replacement
from policyguard.integrations.http import multipart
from policyguard.integrations.http.bodies import Reading, open_body
from policyguard.integrations.http.codings import PIECE, CodingError, decode_all, decoder
from policyguard.integrations.http.streams import Framing, OverlongError, framer

zstandard: Any = pytest.importorskip("zstandard")


def _zstd(data: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor().compress(data))


CODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": _zstd,
    "gzip, zstd": lambda data: _zstd(gzip.compress(data)),
    "identity": lambda data: data,
}


@pytest.mark.parametrize("name", CODINGS)
@given(data=st.binary(max_size=3000), size=st.integers(1, 500))
def test_a_coding_is_undone_however_its_bytes_come(name: str, data: bytes, size: int) -> None:
    packed = CODINGS[name](data)
    undo = decoder(name)
    whole = b"".join(
        piece for at in range(0, len(packed), size) for piece in undo.feed(packed[at : at + size])
    )
    undo.finish()
    assert data == whole


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_coding_gives_a_bomb_in_bounded_pieces(name: str) -> None:
    bomb = CODINGS[name](b"\0" * (100 * PIECE))
    sizes = [len(piece) for piece in decoder(name).feed(bomb)]
    assert max(sizes) <= 4 * PIECE
    with pytest.raises(CodingError, match="more than"):
        decode_all(name, bomb, limit=PIECE)


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_what_is_cut_or_goes_on_is_refused(name: str) -> None:
    packed = CODINGS[name](b"some words" * 50)
    with pytest.raises(CodingError):
        decode_all(name, packed[:-3], limit=10**6)
    with pytest.raises(CodingError):
        decode_all(name, packed + b"more", limit=10**6)


@pytest.mark.parametrize("name", ["compress", "exi", "gzip, gzip, gzip, gzip", "br;q=1"])
def test_other_codings_are_refused(name: str) -> None:
    with pytest.raises(CodingError):
        decoder(name)


TEXTS = st.text(alphabet='ab{}[]",:\\ \n\rü', max_size=60)


@pytest.mark.parametrize("framing", ["sse", "lines", "array"])
@given(text=TEXTS, size=st.integers(1, 9))
def test_all_that_goes_into_a_framer_comes_out_again(framing: Framing, text: str, size: int) -> None:
    data = text.encode()
    one, many = framer(framing, limit=10**6), framer(framing, limit=10**6)
    expected = one.feed(data)
    got = [event for at in range(0, len(data), size) for event in many.feed(data[at : at + size])]
    assert (expected, one.rest()) == (got, many.rest())
    assert data == b"".join(got) + many.rest()


@given(values=st.lists(st.dictionaries(TEXTS, TEXTS, max_size=3), max_size=5), size=st.integers(1, 50))
def test_the_elements_of_an_array_are_told_apart(values: list[Any], size: int) -> None:
    data = json.dumps(values, indent=1).encode()
    cut = framer("array", limit=10**6)
    events = [event for at in range(0, len(data), size) for event in cut.feed(data[at : at + size])]
    elements = [json.loads(event.lstrip(b"[, \n")) for event in events if event.strip() not in (b"]", b"[]")]
    assert values == elements


@pytest.mark.parametrize("framing", ["sse", "lines", "array"])
def test_an_event_that_grows_without_end_is_refused(framing: Framing) -> None:
    cut = framer(framing, limit=1000)
    cut.feed(b'[{"x": "')
    with pytest.raises(OverlongError):
        cut.feed(b"x" * 1000)


KIND = 'multipart/form-data; boundary="b-1"'
GOOD = b'--b-1\r\nContent-Disposition: form-data; name="a"\r\n\r\none\r\n--b-1\r\n\r\ntwo\r\n--b-1--\r\n'


def test_multipart_is_cut_and_joined() -> None:
    parts = multipart.split(KIND, GOOD)
    assert [("a", b"one"), ("", b"two")] == [(part.name, bytes(part.content)) for part in parts]
    assert GOOD == multipart.join(KIND, [(part.head, part.content) for part in parts])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", GOOD),
        ("multipart/form-data; boundary=other", GOOD),
        (KIND, GOOD[:-6]),
        (KIND, GOOD + b"more"),
        (KIND, b"preamble\r\n" + GOOD),
        (KIND, GOOD.replace(b"\r\n", b"\n")),
        (KIND, GOOD.replace(b"one", b"o--b-1ne")),
        (KIND, GOOD.replace(b"one", b"x\n--b-1\r\n\r\nhidden")),
        (KIND, b"--b-1--\r\n--b-1\r\n\r\nafter the end\r\n--b-1--"),
        (KIND, b"--b-1\r\nno end of headers\r\n--b-1--"),
        (KIND, GOOD.replace(b'"a"\r\n', b'"a"\nContent-Transfer-Encoding: quoted-printable\r\n')),
        (KIND, GOOD.replace(b'"a"\r\n', b'"a"\rContent-Transfer-Encoding: quoted-printable\r\n')),
        (KIND, b"--b-1\r\nContent-Transfer-Encoding: rot13\r\n\r\nx\r\n--b-1--"),
        (KIND, b"--b-1\r\nContent-Transfer-Encoding: base64\r\n\r\n$$$\r\n--b-1--"),
    ],
)
def test_multipart_that_two_readers_may_read_in_two_ways_is_unreadable(kind: str, body: bytes) -> None:
    (site,) = open_body(body, kind, Reading(strict=True)).sites
    assert "unreadable" == site.kind


def test_a_base64_part_is_read() -> None:
    body = b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--b--"
    (site,) = open_body(body, "multipart/mixed; boundary=b", Reading(strict=True)).sites
    assert b"\x89PNG\r\n\x1a\n" == site.data


@given(
    data=st.binary(max_size=400),
    kind=st.sampled_from(["", "application/json", "text/x", KIND, "image/png"]),
)
def test_no_body_breaks_the_reader(data: bytes, kind: str) -> None:
    body = open_body(data, kind, Reading(strict=True))
    for site in body.sites:
        if site.data is not None:
            assert body.rebuild({site.where: Replacement(b"GIF89a", "image/gif")})
