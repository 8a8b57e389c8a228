"""One part: its images judged, and written as one file. All that an engine maps over the parts.

Covered: every row gets a verdict, also one that cannot be read, and the rest of a shard that is damaged is a
row of its own; equal bytes within a part are judged once; nothing of a part is on the disk before all of it
is. A part whose source changed, or cannot be reached now, is not judged: it is named, and done another time.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from errno import ENOSPC
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends.base import WrappingBackend
from policyguard.cache.pending import PendingFrame
from policyguard.errors import UsageError
from policyguard.guard import Guard
from policyguard.images import Snapshot
from policyguard.outcomes import Outcome
from policyguard.runs.audit.reading import NotNowError, Picture, pictures
from policyguard.runs.audit.rows import Part, Place, arrow, marked_schema, schema
from policyguard.runs.audit.sources import Spec

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.images import Image
    from policyguard.policy import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = ["Done", "Judge", "Moved", "dhash"]

_MOST_NAMED = 20

Moved = Callable[[Counter[str]], None]
"""Called with what is new in the counts of ``Done``."""


@dataclass(slots=True)
class Done:
    """What became of a part. ``failed`` says why it has no file; everything else is then empty.

    ``counts`` has ``rows``, of these the ``duplicates`` and the ``cached``, and the rows of each
    ``outcome NAME`` and ``action NAME``; ``named`` the first that could not be judged, and why.
    """

    part: int
    counts: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)
    failed: str | None = None


class _Looking(WrappingBackend):
    """Notes the difference hash of each image that is opened, by its SHA-256."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._hashes: dict[str, deque[int | None]] = {}
        self._lock = Lock()

    def recall_image(
        self, source: object, *, frames: Literal["all", "sample"], policies: Sequence[ResolvedPolicy]
    ) -> Image:
        image = super().recall_image(source, frames=frames, policies=policies)
        found = dhash(image)
        with self._lock:
            self._hashes.setdefault(image.sha256, deque()).append(found)
        return image

    def taken(self, sha256: str | None) -> int | None:
        """The hash of an image whose verdict is there; None for one that could not be opened."""
        with self._lock:
            waiting = self._hashes.get(sha256 or "")
            if waiting is None or sha256 is None:
                return None
            found = waiting.popleft()
            if not waiting:
                del self._hashes[sha256]
            return found


def dhash(image: Image) -> int | None:
    """The 64-bit difference hash of the first frame: whether each of 8 x 8 cells is darker than the next.

    Neal Krawetz, "Kind of Like That", 2013. None if its pixels cannot be read any more.
    """
    from PIL.Image import Resampling

    try:
        frame = image.frames[0]
        if isinstance(frame, PendingFrame):
            frame = frame.load()[0]
        small = frame.resize((9, 8), Resampling.BOX, reducing_gap=1.0).convert("L").tobytes()
    except Exception:  # the verdict says what is wrong with it
        return None
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (small[9 * row + column] < small[9 * row + column + 1])
    return bits


@dataclass(slots=True)
class _Open:
    """A part on its way: its rows so far, and their pictures by SHA-256."""

    part: Part
    rows: list[dict[str, Any]] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)
    done: Done = field(init=False)

    def __post_init__(self) -> None:
        self.done = Done(self.part.number)


@dataclass(slots=True)
class _Slot:
    """A row that waits for its verdict, or (without a picture) the end of its part."""

    open: _Open
    picture: Picture | None
    sha256: str | None = None
    asked: bool = False
    error: Exception | None = None


class Judge:
    """Judges parts with one guard and writes their files. Whoever made the guard closes it.

    Args:
        mark: what tells this audit from others; written into its files.
        workers: how many images are judged at once; None: what suits the backend.
        accept_changed: judge a part whose source changed since the manifest was made.
        most: at most so many rows of each part, by its number, for a sample.
    """

    def __init__(
        self,
        guard: Guard,
        place: Place,
        spec: Spec,
        *,
        mark: str = "",
        workers: int | None = None,
        accept_changed: bool = False,
        most: Mapping[int, int] | None = None,
    ) -> None:
        self._looking = _Looking(guard.backend)
        self._guard = Guard(
            guard.policies,
            backend=self._looking,
            explain=guard.explain,
            timeout=guard.timeout,
            lists=guard.lists,
        )
        self._place, self._spec, self._mark = place, spec, mark
        self._workers, self._accept_changed, self._most = workers, accept_changed, most or {}
        self._schema = schema(spec.keep)
        self._rules = {
            (policy.id, rule.id): policy.threshold if rule.threshold is None else rule.threshold
            for policy in guard.policies
            for rule in policy.rules
        }
        self._policy = ", ".join(policy.id for policy in guard.policies)
        self._fingerprint = ", ".join(policy.fingerprint for policy in guard.policies)

    def judge(self, parts: Iterable[Part], moved: Moved = lambda counts: None) -> Iterator[Done]:
        """What became of each of ``parts``, in order; ``moved`` is called with the counts of each row.

        The next part's images are read while the last of this one are judged. Raises UsageError for a set-up
        that cannot work, and OSError if a file cannot be written.
        """
        slots: deque[_Slot] = deque()
        verdicts = self._guard.check_many(self._asked(parts, slots), workers=self._workers)
        with closing(verdicts):
            for verdict in verdicts:
                yield from self._settled(slots, moved)
                self._add(slots.popleft(), verdict, moved)
            yield from self._settled(slots, moved)

    def _asked(self, parts: Iterable[Part], slots: deque[_Slot]) -> Iterator[Snapshot]:
        """The images that are judged; for every row, and the end of every part, a slot is left."""
        for part in parts:
            opened = _Open(part)
            error: Exception | None = None
            try:
                found = pictures(part, self._spec, accept_changed=self._accept_changed)
                for picture in islice(found, self._most.get(part.number)):
                    sha256 = None
                    image = picture.image
                    if image is not None and image.error is None:
                        sha256 = hashlib.sha256(image.data).hexdigest()
                    new = sha256 is None or sha256 not in opened.first
                    if sha256 is not None and new:
                        opened.first[sha256] = -1
                    ask = image is not None and new
                    slots.append(_Slot(opened, replace(picture, image=None), sha256, ask))
                    if ask and image is not None:
                        yield image
            except NotNowError as raised:
                error = raised
            slots.append(_Slot(opened, None, error=error))

    def _settled(self, slots: deque[_Slot], moved: Moved) -> Iterator[Done]:
        """Deal with all that needs no further verdict."""
        while slots and not slots[0].asked:
            slot = slots.popleft()
            if slot.picture is not None:
                self._add(slot, None, moved)
            elif slot.error is not None:
                yield Done(slot.open.part.number, failed=str(slot.error))
            else:
                self._write(slot.open)
                yield slot.open.done

    def _add(self, slot: _Slot, verdict: Verdict | None, moved: Moved) -> None:
        opened, picture = slot.open, slot.picture
        assert picture is not None
        number, counts = len(opened.rows), ["rows"]
        if verdict is None and picture.failure is None:
            assert slot.sha256 is not None
            before = opened.rows[opened.first[slot.sha256]]
            row = {**before, "duplicate_of": before["key"], "seconds": 0.0}
            counts.append("duplicates")
        else:
            if verdict is None:
                assert picture.failure is not None
                verdict = self._guard.judge_failure(picture.key, picture.failure)
            row = self._row(verdict)
            row["dhash"] = self._looking.taken(slot.sha256) if slot.asked else None
            row["sha256"] = slot.sha256
            if slot.sha256 is not None:
                opened.first[slot.sha256] = number
            if verdict.cached:
                counts.append("cached")
        row |= {"key": picture.key, "part": opened.part.number, "row": number}
        row |= {f"keep_{name}": value for name, value in zip(self._spec.keep, picture.keep, strict=False)}
        opened.rows.append(row)
        counts += (f"outcome {row['outcome']}", f"action {row['action']}")
        opened.done.counts.update(counts)
        moved(Counter(counts))
        if not Outcome(row["outcome"]).judged and len(opened.done.named) < _MOST_NAMED:
            why = (row["reason"] or row["outcome"]).removeprefix(f"{picture.key}: ")
            opened.done.named.append(f"part {opened.part.number}, row {number}: {picture.key}: {why}")

    def _row(self, verdict: Verdict) -> dict[str, Any]:
        broken, closest = [], None
        several = len(self._guard.policies) > 1
        for finding in verdict.findings:
            name = f"{finding.policy}:{finding.rule}" if several else finding.rule
            if finding.violates:
                threshold = self._rules[finding.policy, finding.rule]
                broken.append(
                    {"rule": name, "score": finding.score, "threshold": threshold, "action": finding.action}
                )
            elif closest is None:
                closest = {"rule": name, "score": finding.score}
        return {
            "policy": self._policy,
            "fingerprint": self._fingerprint,
            "outcome": str(verdict.outcome),
            "action": str(verdict.action),
            "score": verdict.score,
            "rules": broken,
            "closest": closest,
            "rationale": _storable(verdict.rationale),
            "reason": _storable(verdict.reason),
            "degraded": verdict.degraded,
            "partial": verdict.partial,
            "duplicate_of": None,
            "seconds": verdict.evidence.timings.total,
        }

    def _write(self, opened: _Open) -> None:
        """Put the part's file in its place: made whole, read again, then written whole."""
        pa = arrow()
        from pyarrow import parquet

        marked = marked_schema(self._schema, self._mark, opened.part.number)
        rows = [{**row, "key": _storable(row["key"])} for row in opened.rows]
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows, marked), buffer, compression="zstd")
        data = buffer.getvalue()
        written = parquet.ParquetFile(io.BytesIO(data)).metadata.num_rows
        if written != len(opened.rows):
            raise OSError(f"part {opened.part.number} came out with {written} of {len(opened.rows)} rows")
        try:
            self._place.write(opened.part.file, data)
        except OSError as error:
            if error.errno == ENOSPC:
                raise UsageError(
                    f"no space is left for {self._place.url}/{opened.part.file}",
                    hint="make room, and go on with `policyguard audit resume`; what is done stays",
                ) from error
            raise


def _storable(text: str | None) -> str | None:
    """``text`` in UTF-8, half surrogate pairs (from names that are none) written as escapes."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
