"""Where images come from, and what each mistake is told."""

from __future__ import annotations

import base64
import io
import os
import socket
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from PIL import Image as pil  # noqa: N813 (the module)

from images.support import encode, plain, psnr, reference
from policyguard.errors import ConfigurationError, ImageError
from policyguard.images import Limits, decode, describe, is_settled, snapshot

LIMIT = 20 * 1024 * 1024


def small() -> bytes:
    return encode(plain((10, 20, 30)), "PNG")


def refused(source: object, pattern: str, **options: Any) -> ImageError:
    with pytest.raises(ImageError, match=pattern) as caught:
        decode(source, **options)
    assert caught.value.hint
    assert str(caught.value).startswith(f"{describe(source)}: ")
    return caught.value


class TestPaths:
    @pytest.mark.parametrize("kind", [str, Path])
    def test_a_path_is_opened(self, kind: Any, tmp_path: Path) -> None:
        path = tmp_path / "a picture.png"
        path.write_bytes(small())
        image = decode(kind(path))
        assert (image.source, image.format, image.size) == (str(path), "PNG", (12, 10))

    def test_a_symlink_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real.png").write_bytes(small())
        (tmp_path / "link.png").symlink_to("real.png")
        assert decode(tmp_path / "link.png").format == "PNG"

    @pytest.mark.parametrize("name", ["nothing.png", "", "nul\0byte.png", "x" * 300, "dangling", "loop"])
    def test_a_path_that_leads_nowhere_is_named(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "dangling").symlink_to("gone")
        (tmp_path / "loop").symlink_to("loop")
        refused(f"{tmp_path}/{name}" if name else "", "no such file|cannot be read")

    def test_a_folder_is_called_a_folder(self, tmp_path: Path) -> None:
        refused(tmp_path, "is a folder")

    @pytest.mark.timeout(60)
    def test_a_pipe_a_socket_and_a_device_are_refused_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # the address of a socket must be short
        os.mkfifo("pipe.png")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
            for path in ("pipe.png", "socket.png", "/dev/zero", "/dev/null"):
                refused(path, "not a regular file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
    def test_a_file_that_may_not_be_read_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "secret.png"
        path.write_bytes(small())
        path.chmod(0)
        refused(path, "permission denied")

    def test_an_empty_file_is_called_empty(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.png"
        path.touch()
        refused(path, r"empty \(0 bytes\)")

    def test_a_file_of_30_mib_is_refused_without_being_read(self, tmp_path: Path) -> None:
        path = tmp_path / "large.png"
        with path.open("wb") as file:
            file.truncate(30 * 1024 * 1024)
        refused(path, r"has 30\.0 MiB; the limit is 20 MiB")

    def test_a_file_of_exactly_the_limit_is_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "padded.png"
        path.write_bytes(small().ljust(LIMIT, b"\0"))
        assert decode(path).notes == ()
        path.write_bytes(small().ljust(LIMIT + 1, b"\0"))
        refused(path, "20.0 MiB; the limit")

    def test_base64_text_in_place_of_a_path_gets_a_hint_and_a_short_message(self) -> None:
        error = refused(base64.b64encode(small() * 50).decode(), "no such file|too long|cannot be read")
        assert "base64" in str(error.hint)
        assert len(str(error)) < 600


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        ["http://127.0.0.1/a.png", "HTTPS://example.org/a.png", "s3://bucket/a.png", "ftp://h/a.gif"],
    )
    def test_remote_addresses_are_refused_and_nothing_is_fetched(self, address: str) -> None:
        assert "download" in str(refused(address, "remote address").hint)

    def test_a_file_address_is_told_to_be_a_path(self, tmp_path: Path) -> None:
        refused((tmp_path / "a.png").as_uri(), "file address")

    def test_a_path_object_is_never_an_address(self) -> None:
        refused(Path("http://example.org/a.png"), "no such file")


class TestDataUris:
    @pytest.mark.parametrize(
        "uri",
        [
            "data:image/png;base64,{}",
            "DATA:;BASE64,{}",
            "data:text/plain;charset=utf-8;base64,{}",
            "data:image/png;base64,\n \t\f\r{}\n",
            "data:; base64,{}",
        ],
    )
    def test_the_data_counts_and_the_label_does_not(self, uri: str) -> None:
        image = decode(uri.format(base64.b64encode(small()).decode()))
        assert (image.format, image.source, image.sha256) == ("PNG", "<data URI>", decode(small()).sha256)

    def test_missing_padding_is_understood(self) -> None:
        assert decode("data:;base64," + base64.b64encode(small()).decode().rstrip("=")).format == "PNG"

    def test_percent_encoding_is_refused(self) -> None:
        refused("data:image/png," + quote_from_bytes(small()), "not marked as base64")
        refused("data:;base64,%69" + base64.b64encode(small()).decode()[1:], "percent-encoded")

    @pytest.mark.parametrize(
        "head", ["data:", "data:base64", "data:;base 64", "data:;ba\u017fe64", "data:#;base64"]
    )
    def test_what_a_browser_would_not_take_for_base64_is_refused(self, head: str) -> None:
        refused(f"{head},{base64.b64encode(small()).decode()}", "not marked as base64")

    @pytest.mark.parametrize(
        "body",
        ["AA$A", "_-8=", "A", "AA=", "A===", "AAAA=", "AAAA====", "AA==AAAA", "AA\vAA", "A\xa0AA", "AAAA#x"],
    )
    def test_bad_base64_is_refused(self, body: str) -> None:
        refused(f"data:;base64,{body}", "not valid base64")

    def test_a_data_uri_without_a_comma_is_refused(self) -> None:
        refused("data:image/png;base64", "no comma")

    def test_an_empty_data_uri_is_called_empty(self) -> None:
        refused("data:;base64,", "empty")

    def test_a_large_data_uri_is_refused(self) -> None:
        limits = replace(Limits(), max_bytes=300)
        refused("data:;base64," + "A" * 404, "the limit", limits=limits)


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time, and never ends if it has none."""

    def __init__(self, data: bytes | None) -> None:
        self.rest, self.given = data, 0

    def read(self, size: int = -1) -> bytes:
        step = min(size, 1 << 20 if self.rest is None else 7)
        part = bytes(step) if self.rest is None else self.rest[:step]
        self.rest = self.rest if self.rest is None else self.rest[step:]
        self.given += len(part)
        return part


class AsyncFile:
    async def read(self, size: int = -1) -> bytes:
        return small()


class TestFiles:
    def test_a_file_object_is_read_from_where_it_stands(self) -> None:
        file = io.BytesIO(b"header" + small())
        file.seek(6)
        assert decode(file).source == "<file>"

    def test_a_stream_may_give_its_bytes_in_small_pieces(self) -> None:
        assert decode(Trickle(small())).sha256 == decode(small()).sha256

    def test_an_endless_stream_is_read_to_the_limit_and_no_further(self) -> None:
        stream = Trickle(None)
        refused(stream, "the limit is 20 MiB")
        assert stream.given == LIMIT + 1

    def test_a_file_that_was_read_before_says_to_rewind(self) -> None:
        file = io.BytesIO(small())
        file.read()
        assert "seek(0)" in str(refused(file, "empty").hint)

    def test_text_files_and_asynchronous_files_are_refused(self) -> None:
        refused(io.StringIO("text"), "does not give bytes")
        refused(AsyncFile(), "asynchronous")

    def test_a_closed_file_is_that_images_error(self) -> None:
        file = io.BytesIO(small())
        file.close()
        refused(file, r"its read\(\) raises ValueError")


class TestArrays:
    @pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3), (6, 8, 4)])
    def test_the_three_shapes_are_taken_as_they_are(self, shape: tuple[int, ...]) -> None:
        array = np.full(shape, 200, np.uint8)
        array[..., -1] = 255
        assert decode(array).size == (8, 6)

    @pytest.mark.parametrize("shape", [(6,), (6, 8, 1), (3, 6, 8), (6, 8, 5), (1, 6, 8, 3), ()])
    def test_other_shapes_are_refused_with_a_hint(self, shape: tuple[int, ...]) -> None:
        assert "channels" in str(refused(np.zeros(shape, np.uint8), "has shape").hint)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int8", "int64", "bool", "object"])
    def test_other_types_are_refused_by_name(self, dtype: str) -> None:
        refused(np.zeros((4, 4, 3), dtype), f"holds {dtype}; arrays must be uint8")

    @pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0)])
    def test_an_array_without_pixels_is_refused(self, shape: tuple[int, ...]) -> None:
        refused(np.zeros(shape, np.uint8), "no pixels")

    def test_a_huge_array_is_refused_before_it_is_copied(self) -> None:
        refused(np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), "100,000,000 pixels")

    def test_a_view_is_read_in_its_own_order(self) -> None:
        flipped = np.asarray(reference())[::-1, ::-1]
        assert psnr(reference(), decode(flipped[::-1, ::-1]).frames[0]) == float("inf")


class TestOthers:
    @pytest.mark.parametrize("source", [None, 3, 2.5, object(), ["a.png"], {"url": "a.png"}])
    def test_what_is_no_image_at_all_is_one_images_error(self, source: object) -> None:
        refused(source, "not something an image can be read from")

    @pytest.mark.parametrize("source", [b"", bytearray(), memoryview(b"")])
    def test_no_bytes_are_called_empty(self, source: object) -> None:
        refused(source, "empty")

    def test_bytes_over_the_limit_are_refused(self) -> None:
        refused(bytes(100), "the limit", limits=replace(Limits(), max_bytes=99))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/b.png", "a/b.png"),
        (PurePosixPath("a/b.png"), "a/b.png"),
        ("a\nb\x1b[31m\udcff\u202e.png", "a\\nb\\x1b[31m\\udcff\\u202e.png"),
        ("x" * 1000, "x" * 197 + "..."),
        (b"bytes", "<bytes>"),
        ("data:,x", "<data URI>"),
        (reference(), "<PIL image>"),
        (np.zeros((2, 2)), "<array>"),
        (io.BytesIO(), "<file>"),
        (None, "<NoneType>"),
    ],
)
def test_every_source_has_a_name_that_is_safe_to_print(source: object, name: str) -> None:
    assert name == describe(source)


class MuteError(Exception):
    def __str__(self) -> str:
        raise self


class Hostile:
    """Raises whatever is asked of it, except for what it is made to answer."""

    def __init__(self, error: Exception, answers: dict[str, Any]) -> None:
        self.error, self.answers = error, answers

    def __getattribute__(self, name: str) -> Any:
        answers = object.__getattribute__(self, "answers")
        if name in answers:
            return answers[name]
        raise object.__getattribute__(self, "error")


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), MuteError(), ConfigurationError("no"), RecursionError()]
)
@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"__class__": object},
        {"__class__": pil.Image},
        {"__class__": bytes},
        {"__class__": str},
        {"__class__": object, "__array_interface__": {}},
    ],
    ids=str,
)
def test_a_hostile_object_is_one_images_error(answers: dict[str, Any], error: Exception) -> None:
    source = Hostile(error, answers)
    assert not is_settled(source)
    refused(source, "<object>: |<PIL image>: |<bytes>: |<array>: ")


def test_a_file_whose_read_raises_is_one_images_error() -> None:
    class Broken:
        def read(self, _: int) -> bytes:
            raise MuteError

    refused(Broken(), "<file>: cannot be read: its read\\(\\) raises MuteError")


def test_the_name_of_a_class_is_safe_to_print() -> None:
    assert describe(type("a\nb", (), {})()) == "<a\\nb>"


class Text(str):
    __slots__ = ()


class Bytes(bytes):
    __slots__ = ()


def test_only_what_cannot_change_is_settled() -> None:
    assert all(map(is_settled, ("data:image/png;base64,AA==", b"bytes", snapshot("a.png"))))
    changing = [bytearray(), memoryview(b""), io.BytesIO(), reference(), np.zeros((2, 2)), None]
    assert not any(map(is_settled, [*changing, "a.png", Path("a.png"), Text("a.png"), Bytes(b"bytes")]))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_snapshot_of_a_file_is_judged_as_it_was_and_keeps_its_name(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(encode(pil.new("RGB", (4, 4), "red"), "PNG"))
    kept = snapshot(kind(path))
    path.write_bytes(encode(pil.new("RGB", (4, 4), "blue"), "PNG"))
    image = decode(kept)
    assert (str(path), (255, 0, 0)) == (image.source, image.frames[0].getpixel((0, 0)))
    assert snapshot(kept) is kept


def test_what_cannot_be_read_is_reported_when_it_is_decoded(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    (tmp_path / "large").write_bytes(bytes(Limits().max_bytes + 1))
    (tmp_path / "empty").touch()
    names = ["pipe", "large", "empty", "none", "", "a\0b"]
    sources: list[object] = [tmp_path, "https://host/a.png", "", *(str(tmp_path / name) for name in names)]
    for source in sources:
        with pytest.raises(ImageError) as direct:
            decode(source)
        kept = snapshot(source)
        with pytest.raises(ImageError) as later:
            decode(kept)
        assert str(direct.value) == str(later.value)


def test_a_snapshot_leaves_alone_what_is_no_path() -> None:
    for source in (b"bytes", bytearray(b"x"), "data:image/png;base64,AA==", Text("a.png"), None, object()):
        assert snapshot(source) is source
