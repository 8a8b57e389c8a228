"""Transparency, depth, profiles and gamma: nothing is hidden from the guard that a viewer would show."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil  # noqa: N813 (the module)

from images.support import (
    chunk,
    colours,
    encode,
    header,
    matrix_profile,
    plain,
    png,
    psnr,
    reference,
    srgb_profile,
)
from policyguard.errors import ImageError
from policyguard.images import decode

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def tuned(gamma: float, picture: Any = None) -> bytes:
    data = encode(reference() if picture is None else picture, "PNG")
    return data[:33] + chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000))) + data[33:]


class TestTransparency:
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", None])
    def test_black_shapes_on_nothing_are_seen_on_white(self, kind: str | None) -> None:
        picture = pil.new("RGBA", (20, 20), (0, 0, 0, 0))
        picture.paste((0, 0, 0, 255), (5, 5, 15, 15))
        source = encode(picture, kind, **({"lossless": True} if kind == "WEBP" else {})) if kind else picture
        on_white, on_black = decode(source).frames
        assert (on_white.getpixel((10, 10)), on_white.getpixel((0, 0))) == (BLACK, WHITE)
        assert on_black.getpixel((0, 0)) == BLACK

    def test_colours_under_full_transparency_are_judged_for_readers_that_know_none(self) -> None:
        hidden = reference().copy()
        hidden.putalpha(0)
        image = decode(encode(hidden, "PNG"))
        assert [frame.getpixel((9, 9)) for frame in image.frames[:2]] == [WHITE, BLACK]
        assert psnr(reference(), image.frames[2]) == float("inf")
        assert "transparency is left out" in image.notes[0]

    def test_a_large_transparent_image_is_judged_with_what_it_hides(self) -> None:
        hidden = reference().resize((6000, 6000))
        hidden.putalpha(0)
        on_white, on_black, third = decode(hidden).frames
        assert (on_white.size, on_black.size) == ((6000, 6000), (6000, 6000))
        assert third.size == (2000, 2000)
        assert psnr(reference().resize((2000, 2000)), third) > 40

    @pytest.mark.parametrize("ground", [WHITE, BLACK])
    def test_a_transparent_ground_of_one_colour_hides_nothing(self, ground: tuple[int, int, int]) -> None:
        logo = pil.new("RGBA", (64, 64), (*ground, 0))
        logo.paste((200, 30, 60, 255), (20, 20, 44, 44))
        assert len(decode(encode(logo, "PNG")).frames) == 2

    def test_an_opaque_alpha_channel_costs_nothing(self) -> None:
        assert len(decode(encode(reference().convert("RGBA"), "PNG")).frames) == 1

    def test_one_transparent_pixel_is_enough_for_two_pictures(self) -> None:
        picture = reference().convert("RGBA")
        picture.putpixel((0, 0), (0, 0, 0, 254))
        assert len(decode(picture).frames) == 2

    @pytest.mark.parametrize("mode", ["LA", "PA", "La"])
    def test_other_modes_with_alpha_are_seen_on_both_too(self, mode: str) -> None:
        picture = plain(90, mode="L")
        picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert("LA")
        picture.putalpha(0)
        assert colours(picture.convert(mode))[:2] == [WHITE, BLACK]

    @pytest.mark.parametrize("transparency", [0, bytes([0, 128])])
    def test_transparent_palette_colours_are_seen_on_both(self, transparency: Any) -> None:
        picture = pil.new("P", (8, 8), 0)
        picture.putpalette([200, 0, 0, 0, 200, 0])
        picture.putpixel((0, 0), 1)
        assert colours(encode(picture, "PNG", transparency=transparency)) == [WHITE, BLACK, (200, 0, 0)]

    def test_a_palette_picture_of_the_caller_stays_as_it_was(self) -> None:
        picture = pil.new("P", (8, 8), 0)
        picture.putpalette([200, 0, 0, 0, 200, 0])
        picture.info["transparency"] = 0
        decode(picture)
        del picture.info["transparency"]
        assert colours(picture) == [(200, 0, 0)]

    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_a_grey_colour_key_counts_at_every_depth(self, depth: int) -> None:
        """Pillow compares the key with rescaled samples and so misses it at depths 2 and 4."""
        top = (1 << depth) - 1
        row = {1: b"\xff", 2: b"\xff\xff", 4: b"\xff" * 4, 8: b"\xff" * 8, 16: b"\xff" * 16}[depth]
        data = png((8, 8), row * 8, chunk(b"tRNS", struct.pack(">H", top)), depth=depth, colour_type=0)
        assert colours(data) == [WHITE, BLACK]

    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    def test_a_grey_colour_key_counts_in_an_image_that_pil_opened(self, depth: int) -> None:
        """Pillow scales the samples and not the key."""
        row = {1: b"\xf0", 2: b"\xff\0", 4: b"\xff\xff\0\0", 8: b"\xff" * 4 + bytes(4)}[depth]
        key = chunk(b"tRNS", struct.pack(">H", (1 << depth) - 1))
        data = png((8, 8), row * 8, key, depth=depth, colour_type=0)
        seen = [frame.tobytes() for frame in decode(data).frames]
        opened = pil.open(io.BytesIO(data))  # noqa: TID251
        assert seen == [frame.tobytes() for frame in decode(opened).frames]
        opened.load()
        if depth in (2, 4):  # it does not say any more what the key was in
            with pytest.raises(ImageError, match="a transparent level that Pillow has not scaled"):
                decode(opened)

    def test_a_colour_key_counts(self) -> None:
        key = chunk(b"tRNS", struct.pack(">HHH", 9, 80, 70))
        data = png((8, 8), bytes([9, 80, 70]) * 64, key)
        assert colours(data) == [WHITE, BLACK, (9, 80, 70)]

    @pytest.mark.parametrize("colour_type", [0, 2])
    def test_a_colour_key_in_16_bits_is_refused_where_it_matters(self, colour_type: int) -> None:
        """Browsers compare all 16 bits; what is left of the samples here are 8."""
        samples = 3 if colour_type else 1
        key = chunk(b"tRNS", struct.pack(">H", 9 * 257) * samples)
        for level, matters in ((9 * 257, True), (9 * 256, True), (70 * 257, False)):
            data = png(
                (8, 8), struct.pack(">H", level) * samples * 64, key, depth=16, colour_type=colour_type
            )
            if matters:
                with pytest.raises(ImageError, match="16 bits per sample"):
                    decode(data)
            else:
                assert colours(data) == [(70, 70, 70)]

    def test_webp_transparency_that_the_header_denies_is_refused(self) -> None:
        picture = reference().copy()
        picture.putalpha(100)
        data = bytearray(encode(picture, "WEBP", quality=80))
        assert data[12:16] == b"VP8X"
        data[20] &= ~0x10
        with pytest.raises(ImageError, match="header denies"):
            decode(bytes(data))


class TestDepth:
    def test_dim_16_bit_grey_does_not_turn_white(self) -> None:
        """Pillow clamps: a picture with all samples over 255 becomes a blank page."""
        ramp = np.linspace(0, 65535, 80 * 56).astype(np.uint16).reshape(56, 80)
        shown = np.asarray(decode(encode(pil.fromarray(ramp), "PNG")).frames[0])
        assert np.abs(shown[..., 0].astype(int) - ramp / 257).max() <= 1

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
    def test_pil_pictures_with_wide_samples_are_scaled_and_not_clamped(self, dtype: Any) -> None:
        values = (np.arange(64).reshape(8, 8) * 1000).astype(dtype)
        shown = np.asarray(decode(pil.fromarray(values)).frames[0])[..., 0]
        assert np.abs(shown - values / 257).max() <= 1

    @pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 70000.0], [np.nan, 1.0], [0.0, np.inf]])
    def test_pil_pictures_whose_range_means_nothing_are_refused(self, values: list[float]) -> None:
        with pytest.raises(ImageError, match="no agreed range"):
            decode(pil.fromarray(np.array([values], np.float32)))

    @pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("at", [(0, 0), (299, 0), (150, 7), (0, 9), (299, 9)])
    def test_one_value_that_is_not_a_finite_number_is_enough_to_refuse(
        self, value: float, at: tuple[int, int]
    ) -> None:
        picture = pil.new("F", (300, 10), 0.5)
        picture.putpixel(at, value)
        with pytest.raises(ImageError, match=r"no agreed range|not numbers"):
            decode(picture)


class TestProfiles:
    def test_an_srgb_profile_changes_nothing(self) -> None:
        image = decode(encode(reference(), "PNG", icc_profile=srgb_profile()))
        assert (len(image.frames), image.notes) == (1, ())
        assert psnr(reference(), image.frames[0]) == float("inf")

    def test_a_mild_profile_is_applied(self) -> None:
        image = decode(encode(reference(), "PNG", icc_profile=matrix_profile(gamma=1.8)))
        assert len(image.frames) == 1
        assert np.asarray(image.frames[0]).mean() > np.asarray(reference()).mean() + 5

    def test_a_profile_that_changes_everything_is_judged_both_ways(self) -> None:
        """Some viewers apply profiles and some do not; a picture may be made to fool either."""
        image = decode(encode(reference(), "PNG", icc_profile=matrix_profile(gamma=3.5)))
        assert len(image.frames) == 2
        assert psnr(reference(), image.frames[1]) == float("inf")
        assert "disagree" in image.notes[0]

    def test_a_profile_is_not_believed_to_be_srgb_because_it_is_small_or_says_so(self) -> None:
        assert len(decode(encode(reference(), "JPEG", icc_profile=matrix_profile((2, 0, 1)))).frames) == 2

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    @pytest.mark.parametrize(
        "profile", [b"nonsense", srgb_profile()[:200], srgb_profile()[:16] + b"GRAY" + srgb_profile()[20:]]
    )
    def test_a_broken_profile_is_refused(self, kind: str, profile: bytes) -> None:
        """One browser may still find a use for it, and another drop it."""
        with pytest.raises(ImageError, match=r"colour profile.*viewers disagree on it\n.*sRGB"):
            decode(encode(reference(), kind, icc_profile=profile))

    def test_a_profile_for_another_colour_space_is_refused(self) -> None:
        with pytest.raises(ImageError, match="a colour profile for RGB on an image in CMYK"):
            decode(encode(reference().convert("CMYK"), "JPEG", icc_profile=srgb_profile()))

    def test_a_png_profile_that_cannot_be_unpacked_is_refused(self) -> None:
        data = encode(reference(), "PNG")
        with pytest.raises(ImageError, match="a damaged colour profile"):
            decode(data[:33] + chunk(b"iCCP", b"icc\0\0not zlib") + data[33:])

    def test_a_jpeg_profile_in_pieces_is_put_together_whatever_their_order(self) -> None:
        data = encode(reference(), "JPEG", icc_profile=b"", quality=95)
        profile = matrix_profile(gamma=3.5)
        pieces = [(1, profile[:150]), (2, profile[150:])]

        def with_pieces(*chosen: tuple[int, bytes]) -> bytes:
            marks = b"".join(
                b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes([n, 2]) + part
                for n, part in chosen
            )
            return data[:2] + marks + data[2:]

        assert len(decode(with_pieces(*reversed(pieces))).frames) == 2
        for wrong in ((pieces[0],), (pieces[0], *pieces)):
            with pytest.raises(ImageError, match=r"incomplete colour profile|two colour profiles"):
                decode(with_pieces(*wrong))


class TestGamma:
    def test_the_usual_gamma_changes_nothing(self) -> None:
        image = decode(tuned(1 / 2.2))
        assert len(image.frames) == 1
        assert psnr(reference(), image.frames[0]) == float("inf")

    def test_a_picture_made_for_viewers_that_honour_gamma_is_judged_both_ways(self) -> None:
        """The trick shows one picture in browsers and another in tools that ignore gamma."""
        hidden = pil.eval(reference(), lambda level: round(255 * (level / 255) ** (0.2 * 2.2)))
        meant, stored = decode(tuned(0.2, hidden)).frames
        assert psnr(reference(), meant) >= 25
        assert psnr(hidden, stored) == float("inf")

    @pytest.mark.parametrize("srgb", [b"\0", b"", b"\7", b"\0\0"])
    def test_an_srgb_chunk_beside_gamma_does_not_settle_it(self, srgb: bytes) -> None:
        """Chromium believes a sound sRGB chunk, Firefox the gamma."""
        data = tuned(0.2)
        for part in (chunk(b"sRGB", srgb), chunk(b"sRGB", srgb)[:-1] + b"?"):
            assert len(decode(data[:33] + part + data[33:]).frames) == 2

    def test_gamma_counts_for_a_png_that_pil_opened(self) -> None:
        opened = pil.open(io.BytesIO(tuned(0.2)))  # noqa: TID251
        assert len(decode(opened).frames) == 2

    @pytest.mark.parametrize("gamma", [0.0, 0.00001, 0.1, 6.0, 40000.0])
    def test_absurd_gamma_is_refused(self, gamma: float) -> None:
        with pytest.raises(ImageError, match="declares a gamma of"):
            decode(tuned(gamma))


def test_a_palette_png_without_its_palette_is_an_error() -> None:
    data = b"\x89PNG\r\n\x1a\n" + header((4, 4), 8, 3)
    with pytest.raises(ImageError):
        decode(data + png((4, 4), bytes(16), colour_type=3)[33:])
