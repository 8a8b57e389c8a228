"""Known images: lists of hashes, looked up before a model is asked.

A list denies (an image on it breaks a rule that its owner names) or allows. Files hold a hash a line or CSV:
SHA-256 of a file's bytes, or PDQ, a perceptual hash of 256 bits that stays near when an image is saved anew.

Covered: every frame and look of an image that would be judged, upright, turned and mirrored; bytes of files
that cannot be decoded. A line that is no hash is refused with its number. Not covered: crops, borders and
collages, which PDQ does not survive; frames that a sample leaves out; whoever may edit a list decides what
passes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from policyguard.assessment import Failure
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.strict.text import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from policyguard.images import Image

__all__ = ["DISTANCE", "QUALITY", "HashList", "Hit"]

Kind = Literal["sha256", "pdq"]

DISTANCE = 31
"""Bits of 256 in which two PDQ hashes of one image may differ; what the makers of PDQ start with."""
QUALITY = 50
"""A PDQ hash of a lower quality says too little to compare by: its image is flat or blurred."""
_MOST_DISTANCE = 47
_SIDE = 512
"""Larger frames are scaled down before they are hashed: it moves some ten bits and saves most of the time."""
_TURNED_SIDE = 384
_FEW = 50
"""Hashes of a file from which on it shows which kind they are."""
_MANY = 1 << 18
"""Candidates from which on comparing with all hashes is cheaper."""

_HASH = re.compile(r"[0-9a-fA-F]{64}")
_KINDS: dict[str, Kind] = {
    "pdq": "pdq",
    "hash_pdq": "pdq",
    "pdq_hash": "pdq",
    "pdqhash": "pdq",
    "sha256": "sha256",
    "sha_256": "sha256",
    "hash_sha256": "sha256",
    "sha256_hash": "sha256",
}
"""What columns, and cells of a column of types, are called; ThreatExchange's names too."""
_HASHES = ("hash", "indicator", "raw_indicator", "value", "signal")
_TYPES = ("type", "hash_type", "indicator_type", "signal_type", "algorithm")
_QUALITIES = ("quality", "pdq_quality", "hash_quality")


@dataclass(frozen=True, slots=True)
class Hit:
    """An image on a list. ``rule``: what it breaks, ``None`` on a list that allows.

    ``distance``: the bits in which its PDQ hash and the nearest one of the list differ; 0 for SHA-256.
    """

    list: str
    rule: str | None
    kind: Kind
    distance: int = 0

    @property
    def exact(self) -> bool:
        """Whether these are the very bytes that were listed."""
        return self.kind == "sha256"

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        near = "" if self.exact else f" at distance {self.distance}"
        return f"on list '{self.list}' by {self.kind}{near}"


class HashList:
    """Hashes of known images, and what an image among them means.

    Args:
        hashes: 64 hex digits each; or, by kind, 32 bytes each.
        kind: what they are: ``"sha256"`` or ``"pdq"``.
        deny: id of the rule that an image on it breaks, whatever a model says.
        allow: an image whose very bytes are on it complies and no model is asked; one that is merely like a
            listed one is marked in the evidence and judged as ever. Give either ``deny`` or ``allow``.
        distance: bits in which two PDQ hashes of one image may differ, 0 to 47.
        name: how the evidence calls it.
        skipped: what of its file is not looked up, such as PDQ hashes of a quality below 50, and how many.

    Raises ConfigurationError; MissingExtraError without the extra ``lists``. 100 bytes of memory a hash.
    """

    def __init__(
        self,
        hashes: Iterable[str] | Mapping[Kind, bytes],
        *,
        kind: Kind | None = None,
        deny: str | None = None,
        allow: bool = False,
        distance: int = DISTANCE,
        name: str = "list",
        skipped: Sequence[str] = (),
    ) -> None:
        if (deny is None) is (allow is False):
            raise ConfigurationError(
                f"list '{name}' must either deny or allow", hint="deny='RULE', or allow=True"
            )
        if isinstance(distance, bool) or not isinstance(distance, int) or not 0 <= distance <= _MOST_DISTANCE:
            raise ConfigurationError(
                f"list '{name}': distance is {distance!r}; it must be a whole number from 0 to "
                f"{_MOST_DISTANCE}",
                hint=f"{DISTANCE} is what the makers of PDQ start with; other images are about 128 apart",
            )
        packed = hashes if isinstance(hashes, Mapping) else _packed(hashes, kind, name)
        if not any(packed.values()):
            why = f": {'; '.join(skipped)}" if skipped else ""
            raise ConfigurationError(f"list '{name}' holds no hash to look up{why}")
        self.name, self.deny, self.distance = name, deny, distance
        self.skipped = tuple(skipped)
        exact, near = packed.get("sha256"), packed.get("pdq")
        meaning = [name, deny, distance, *(hashlib.sha256(part or b"").hexdigest() for part in (exact, near))]
        self.digest = hashlib.sha256(json.dumps(meaning).encode()).hexdigest()
        if near:
            _pdqhash()
        self._exact = _Exact(exact) if exact else None
        self._near = _Near(near, distance) if near else None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        kind: Kind | None = None,
        deny: str | None = None,
        allow: bool = False,
        distance: int = DISTANCE,
        name: str | None = None,
    ) -> HashList:
        """The list in a file: a hash a line (what follows it is passed over), or CSV with a header.

        ``kind`` says what the hashes are where the file does not. ``name`` defaults to the file's. Raises
        ConfigurationError with file and line.
        """
        packed, skipped = _read(Path(path), kind)
        return cls(
            packed,
            deny=deny,
            allow=allow,
            distance=distance,
            name=name or Path(path).name,
            skipped=[f"{count:,} {what}" for what, count in skipped.items()],
        )

    def __len__(self) -> int:
        return sum(len(index) for index in (self._exact, self._near) if index is not None)

    def __repr__(self) -> str:
        what = f"deny={self.deny!r}" if self.deny is not None else "allow=True"
        return f"<HashList {self.name!r} {what}, {len(self):,} hashes>"

    @property
    def perceptual(self) -> bool:
        """Whether it holds PDQ hashes, which need an image's pixels."""
        return self._near is not None

    def find(self, sha256: str | None, hashes: NDArray[np.uint8] | None) -> Hit | None:
        """The nearest entry for an image: hex SHA-256 of its bytes, and PDQ hashes, of shape (n, 32)."""
        if self._exact is not None and sha256 is not None and bytes.fromhex(sha256) in self._exact:
            return Hit(self.name, self.deny, "sha256")
        if self._near is not None and hashes is not None and len(hashes):
            distance = self._near.nearest(hashes)
            if distance is not None:
                return Hit(self.name, self.deny, "pdq", distance)
        return None


def look_up(lists: Sequence[HashList], image: Image | Failure, data: bytes | None = None) -> tuple[Hit, ...]:
    """What is known of ``image``. ``data``: its bytes, where it could not be decoded."""
    if isinstance(image, Failure):
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        found = (one.find(sha256, None) for one in lists if one.deny is not None)
    else:
        near = pdq_hashes(image.frames) if any(one.perceptual for one in lists) else None
        found = (one.find(image.sha256, near) for one in lists)
    return tuple(hit for hit in found if hit is not None)


def pdq_hashes(frames: Sequence[Any]) -> NDArray[np.uint8]:
    """The PDQ hashes of all frames, upright, turned and mirrored, of shape (n, 32), in big-endian bits.

    Those of a quality below 50 are left out.
    """
    numpy, compute = _numpy(), _pdqhash().compute
    from PIL.Image import Image as PILImage
    from PIL.Image import Resampling, Transpose

    vectors = []
    for frame in frames:
        pixels = frame if isinstance(frame, PILImage) else frame.load()[0]  # a cache put decoding off
        large = small = pixels.convert("RGB")
        if max(large.size) > _TURNED_SIDE:
            small = large.resize((_TURNED_SIDE, _TURNED_SIDE), Resampling.BOX)
        if (factor := min(large.size) // _SIDE) > 1:
            large = large.reduce(factor)
        if max(large.size) > 2 * _SIDE:  # long and narrow
            large = large.resize((min(large.width, _SIDE), min(large.height, _SIDE)), Resampling.BOX)
        for look in (large, small, *(small.transpose(way) for way in Transpose)):
            vector, quality = compute(numpy.ascontiguousarray(numpy.asarray(look)))
            if quality >= QUALITY:
                vectors.append(vector)
    bits = numpy.array(vectors, dtype=numpy.uint8).reshape(-1, 256)
    packed: NDArray[np.uint8] = numpy.packbits(bits, axis=1)
    return packed


class _Exact:
    """SHA-256 hashes, sorted by their first eight bytes."""

    def __init__(self, hashes: bytes) -> None:
        numpy = _numpy()
        rows = numpy.unique(numpy.frombuffer(hashes, dtype=">u8").reshape(-1, 4), axis=0)
        self._rows, self._first = rows, numpy.ascontiguousarray(rows[:, 0])

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, sha256: bytes) -> bool:
        numpy = _numpy()
        row = numpy.frombuffer(sha256, dtype=">u8")
        start = int(numpy.searchsorted(self._first, row[0], "left"))
        end = int(numpy.searchsorted(self._first, row[0], "right"))
        return bool((self._rows[start:end] == row).all(axis=1).any())


class _Near:
    """PDQ hashes, found by pieces of 16 bits.

    Two hashes that differ in at most ``distance`` bits differ in at most ``distance // 16`` bits of one of
    their 16 pieces. So all hashes are looked at that share a piece with the one in question, but for so few
    bits: a few thousand of a million. Where pieces are shared by very many, all hashes are compared.
    """

    def __init__(self, hashes: bytes, distance: int) -> None:
        numpy = _numpy()
        self._distance = distance
        self._rows = numpy.unique(numpy.frombuffer(hashes, dtype=numpy.uint64).reshape(-1, 4), axis=0)
        pieces = self._rows.view(numpy.uint16)
        count = len(self._rows)
        self._order = numpy.empty((16, count), dtype=numpy.uint32)
        self._starts = numpy.empty((16, 65_537), dtype=numpy.int64)
        for piece in range(16):
            column = pieces[:, piece]
            self._order[piece] = numpy.argsort(column, kind="stable")
            sizes = numpy.bincount(column, minlength=65_536)
            self._starts[piece] = numpy.concatenate(([0], numpy.cumsum(sizes))) + piece * count
        wrong = range(distance // 16 + 1)
        masks = [sum(1 << bit for bit in bits) for few in wrong for bits in combinations(range(16), few)]
        self._masks = numpy.array(masks, dtype=numpy.uint16)
        self._pieces = numpy.arange(16)[:, None]

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, hashes: NDArray[np.uint8]) -> int | None:
        """The least distance to any hash of the list, or ``None`` if all lie further away than allowed."""
        numpy = _numpy()
        distances = [self._nearest(row) for row in numpy.ascontiguousarray(hashes).view(numpy.uint64)]
        best = min(distances, default=256)
        return best if best <= self._distance else None

    def _nearest(self, row: NDArray[np.uint64]) -> int:
        numpy = _numpy()
        buckets = row.view(numpy.uint16)[:, None] ^ self._masks
        starts = self._starts[self._pieces, buckets].ravel()
        sizes = self._starts[self._pieces, buckets.astype(numpy.int64) + 1].ravel() - starts
        total = int(sizes.sum())
        if total == 0:
            return 256
        if total > min(_MANY, 4 * len(self)):
            pieces = (self._rows[start : start + _MANY] for start in range(0, len(self), _MANY))
            return min(_distance(piece, row) for piece in pieces)
        places = numpy.arange(total) + numpy.repeat(starts - numpy.cumsum(sizes) + sizes, sizes)
        return _distance(self._rows[self._order.ravel()[places]], row)


def _distance(rows: NDArray[np.uint64], row: NDArray[np.uint64]) -> int:
    """The least number of bits in which ``row`` differs from one of ``rows``."""
    numpy = _numpy()
    differing = rows ^ row
    if hasattr(numpy, "bitwise_count"):
        counts = numpy.bitwise_count(differing)
    else:  # numpy 1
        table = numpy.array([number.bit_count() for number in range(256)], dtype=numpy.uint8)
        counts = table[differing.view(numpy.uint8)]
    return int(counts.sum(axis=1, dtype=numpy.int64).min())


def _packed(hashes: Iterable[str], kind: Kind | None, name: str) -> dict[Kind, bytes]:
    if kind is None or kind not in ("sha256", "pdq"):
        raise ConfigurationError(f"kind is {kind!r}; it must be 'sha256' or 'pdq'")
    packed = bytearray()
    for number, text in enumerate(hashes, 1):
        if not isinstance(text, str) or not _HASH.fullmatch(text):
            raise ConfigurationError(f"hash {number} of list '{name}' is not 64 hex digits")
        packed += bytes.fromhex(text)
    return {kind: bytes(packed)}


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError:
        raise MissingExtraError("numpy", "lists") from None
    return np


def _pdqhash() -> Any:
    try:
        import pdqhash
    except ImportError:
        raise MissingExtraError("pdqhash", "lists") from None
    return pdqhash


def _read(path: Path, kind: Kind | None) -> tuple[dict[Kind, bytes], Counter[str]]:
    """The hashes of a file by kind, and how many of it are passed over, by reason."""
    found: dict[Kind, bytearray] = {"sha256": bytearray(), "pdq": bytearray()}
    skipped: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, hash_kind, text, quality in _entries(file, path, kind):
                if hash_kind is None:
                    skipped[f"of kind {quality}"] += 1
                elif not _HASH.fullmatch(text):
                    raise _wrong(path, number, f"{quoted(text)} is not a hash of 64 hex digits")
                elif hash_kind == "pdq" and quality and _quality(path, number, quality) < QUALITY:
                    skipped[f"of a quality below {QUALITY}"] += 1
                else:
                    found[hash_kind] += bytes.fromhex(text)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no list {path}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not a list of hashes: it is not text in UTF-8") from None
    except csv.Error as error:
        raise ConfigurationError(f"{path} is not CSV: {error}") from None
    for name, packed in found.items():
        _require_likely(path, name, packed)
    return {name: bytes(packed) for name, packed in found.items()}, skipped


def _require_likely(path: Path, kind: Kind, packed: bytearray) -> None:
    """Raises ConfigurationError for a list of the other kind, which would match nothing, and say nothing.

    Half the bits of a PDQ hash are set, to within a few; of a SHA-256 hash that is so for four in ten.
    """
    if len(packed) < _FEW * 32:
        return
    numpy = _numpy()
    bits = numpy.unpackbits(numpy.frombuffer(packed, dtype=numpy.uint8).reshape(-1, 32)[:10_000], axis=1)
    even = float((abs(bits.sum(axis=1, dtype=numpy.int64) - 128) <= 4).mean())
    other, wrong = ("sha256", even < 0.7) if kind == "pdq" else ("pdq", even > 0.9)
    if wrong:
        raise ConfigurationError(
            f"{path}: these are no {kind} hashes by the look of them", hint=f"say kind = '{other}'"
        )


_Entry = tuple[int, Kind | None, str, str]
"""Line, kind (``None``: another than ours, which the last field names), hash, quality."""


def _entries(file: Iterable[str], path: Path, kind: Kind | None) -> Iterator[_Entry]:
    lines = ((number, line.strip()) for number, line in enumerate(file, 1))
    lines = ((number, line) for number, line in lines if line and not line.startswith("#"))
    first = next(lines, None)
    if first is None:
        return
    number, line = first
    header = _cells(line)
    if not any(_HASH.fullmatch(cell) for cell in header) and not _HASH.match(line.lstrip("\\")):
        yield from _table(lines, path, kind, number, header)
        return
    if kind is None:
        raise _wrong(
            path,
            number,
            "the file does not say what its hashes are",
            hint="say kind = 'sha256' or 'pdq', or write one of these words above them",
        )
    yield _plain(number, line, kind)
    for number, line in lines:
        yield _plain(number, line, kind)


def _plain(number: int, line: str, kind: Kind) -> _Entry:
    """A hash, with what tools write behind it: quality and name (pdq-photo-hasher), or a name (sha256sum)."""
    if _HASH.fullmatch(line):
        return number, kind, line, ""
    cells = _cells(line)
    if len(cells) > 1:
        quality = cells[1] if kind == "pdq" and re.fullmatch(r"\d+(\.\d+)?", cells[1]) else ""
        return number, kind, cells[0], quality
    return number, kind, line.lstrip("\\").split(maxsplit=1)[0], ""


def _table(
    lines: Iterable[tuple[int, str]], path: Path, kind: Kind | None, number: int, header: list[str]
) -> Iterator[_Entry]:
    names = [re.sub(r"^t[di]_", "", re.sub(r"\W+", "_", cell.strip().lower())) for cell in header]
    by_kind = {_KINDS[name]: column for column, name in enumerate(names) if name in _KINDS}
    plain = next((names.index(name) for name in _HASHES if name in names), None)
    types = next((names.index(name) for name in _TYPES if name in names), None)
    qualities = next((names.index(name) for name in _QUALITIES if name in names), None)
    if kind is not None and by_kind and kind not in by_kind:
        raise _wrong(path, number, f"the column holds {next(iter(by_kind))} hashes, and kind is '{kind}'")
    if not by_kind and plain is None:
        raise _wrong(
            path,
            number,
            "neither a hash of 64 hex digits nor a header with a column of hashes",
            hint=f"call the column 'sha256' or 'pdq', or 'hash' with kind; it has {quoted(', '.join(names))}",
        )
    if not by_kind and types is None and kind is None:
        raise _wrong(
            path,
            number,
            "the file does not say what its hashes are",
            hint="say kind = 'sha256' or 'pdq', or call the column so",
        )
    for number, line in lines:
        cells = _cells(line)
        if len(cells) != len(names):
            raise _wrong(path, number, f"{len(cells)} cells under a header of {len(names)}")
        quality = "" if qualities is None else cells[qualities]
        if by_kind:
            texts = [(one, cells[column]) for one, column in by_kind.items() if kind in (None, one)]
            if not any(text for _, text in texts):
                raise _wrong(path, number, "there is no hash")
            yield from ((number, one, text, quality) for one, text in texts if text)
            continue
        assert plain is not None
        named = kind if types is None else _KINDS.get(cells[types].lower())
        if named is None or (kind is not None and named != kind):
            assert types is not None
            yield number, None, "", quoted(cells[types])
        else:
            yield number, named, cells[plain], quality


def _cells(line: str) -> list[str]:
    tab = "\t" in line and "," not in line
    return [cell.strip() for cell in next(csv.reader([line], delimiter="\t" if tab else ","))]


def _quality(path: Path, number: int, text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        quality = -1.0
    if not 0.0 <= quality <= 100.0:
        raise _wrong(path, number, f"the quality {quoted(text)} is no number from 0 to 100")
    return quality


def _wrong(path: Path, number: int, what: str, *, hint: str | None = None) -> ConfigurationError:
    return ConfigurationError(f"{path}:{number}: {what}", hint=hint)
