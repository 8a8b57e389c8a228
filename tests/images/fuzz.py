#!/usr/bin/env python
"""Fuzzing of ``decode`` and of the four container walkers, guided by coverage (Linux, `pip install atheris`).

    make fuzz                                  # twenty minutes, from the corpus and what earlier runs found
    PYTHONPATH=src:tests python tests/images/fuzz.py runs/fuzz tests/images/corpus -max_total_time=60

All further arguments are libFuzzer's. An input that breaks a promise of ``holds`` is written to a file
``crash-*``; put it into ``corpus``, which ``test_hostile.py`` goes through at every run of the tests.
"""

from __future__ import annotations

import random
import struct
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
#: Pixels: to write larger images takes seconds, and the fuzzer would try nothing else meanwhile.
MOST_WRITTEN = 1_000_000


def holds(data: bytes) -> None:
    """What is true of every file, whatever its bytes: an image as promised, or a refusal that reads well."""
    from policyguard.errors import ImageError
    from policyguard.images import MAX_FRAMES, decode
    from policyguard.images.decode import _PARSERS
    from policyguard.images.refusal import Refusal
    from policyguard.images.written import plain_file

    for parse in _PARSERS.values():
        with suppress(Refusal, IndexError, ValueError, struct.error):
            parse(data)
    try:
        image = decode(data)
    except ImageError as error:
        if not error.message.startswith("<bytes>: ") or "\n" in error.message:
            raise AssertionError(error.message) from error
        return
    assert image.frame_count in range(1, MAX_FRAMES + 1)
    assert {"RGB"} == {frame.mode for frame in image.frames}
    assert image.frames[0].size == image.size
    if image.plain is not None:
        again = decode(image.plain)
        assert (image.plain, 1) == (again.plain, len(again.frames))
        assert image.frames[0].tobytes() == again.frames[0].tobytes()
    if image.size[0] * image.size[1] * image.frame_count > MOST_WRITTEN:
        return
    written = plain_file(image)
    again = decode(written)
    assert image.size == again.size
    assert image.frame_count >= again.frame_count
    assert again.is_plain or plain_file(again) == written


def mended(data: bytes, rng: random.Random) -> bytes:
    """``data`` with right checksums and lengths, most of the time: a mutation is to get beyond them."""
    if rng.random() < 0.2:
        return data
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        parts, at = [data[:8]], 8
        while at + 12 <= len(data):
            (length,) = struct.unpack_from(">I", data, at)
            body = data[at + 4 : at + 8 + min(length, len(data) - at - 12)]
            parts += [struct.pack(">I", len(body) - 4), body, zlib.crc32(body).to_bytes(4)]
            at += 8 + len(body)
        return b"".join(parts)
    if data.startswith(b"RIFF") and len(data) > 12:
        return b"RIFF" + struct.pack("<I", (len(data) - 8) & ~1) + data[8:]
    return data


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["policyguard.images"]):
        import policyguard.images.decode  # noqa: F401 (instrumented while it is loaded)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        return mended(atheris.Mutate(data, max_size), random.Random(seed))[:max_size]

    def one(data: bytes) -> None:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            holds(data)
        assert not heard, [str(warning.message) for warning in heard]

    atheris.Setup(sys.argv, one, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
