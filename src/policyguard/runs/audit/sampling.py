"""A stratified random sample of an audit's rows, drawn in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from policyguard.runs.audit.estimates import Stratum

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Drawn", "Sampler", "lots"]

_ENDS = {"complies": (0.02, 0.1, 0.3), "violates": (0.7, 0.95)}
"""Where strata end, by score."""
_LEAST = 8
"""Rows of a stratum that are drawn whatever its size."""


@dataclass(frozen=True, slots=True, order=True)
class Drawn:
    """A row of a sample; those with the lowest ``lot`` of each stratum are in it."""

    lot: int
    part: int
    row: int
    key: str = field(compare=False)
    sha256: str | None = field(compare=False)


class Sampler:
    """Draws lots for rows as they come, and keeps the ``most`` lowest of each stratum, so that samples of up
    to that size can be drawn at the end. The same ``seed`` and the same rows give the same sample.
    """

    def __init__(self, most: int, seed: int) -> None:
        self._most, self._seed = most, seed
        self._sizes: Counter[str] = Counter()
        self._hopes: Counter[str] = Counter()
        self._drawn: dict[str, list[Drawn]] = {}

    def add(self, table: pa.Table, score: Any, judged: Any, violates: Any) -> None:
        """Draw the lots of all rows, and keep the lowest of each stratum."""
        import numpy as np

        if not self._most:
            return
        part, row = table["part"].to_numpy(), table["row"].to_numpy()
        numbers = lots(part, row, self._seed)
        for name, of in _strata(score, judged, violates):
            number = int(of.sum())
            if not number:
                continue
            self._sizes[name] += number
            self._hopes[name] += int((np.nan_to_num(score[of], nan=0.5) * 1000).astype(np.int64).sum())
            drawn = self._drawn.setdefault(name, [])
            index = of.nonzero()[0]
            if len(drawn) == self._most:
                index = index[numbers[index] < drawn[-1].lot]
            index = index[np.argsort(numbers[index])[: self._most]]
            taken = table.select(["part", "row", "key", "sha256"]).take(index).to_pylist()
            drawn += [Drawn(int(lot), **values) for lot, values in zip(numbers[index], taken, strict=True)]
            drawn.sort()
            del drawn[self._most :]

    def draw(self, size: int, *, uniform: bool = False) -> dict[str, list[Drawn]]:
        """A random sample of ``size`` rows, by stratum: half of it from what violates, half from all else.

        ``uniform``: every row is as likely as any other, whatever its stratum.

        Within each half, a stratum gets at least 8 rows (or all that it has), and of the others a share that
        grows with its size and with the spread that its scores let expect (Neyman's allocation). Where
        there are fewer rows, all are drawn.
        """
        if uniform:
            lowest = sorted((row, name) for name, rows in self._drawn.items() for row in rows)[:size]
            return {name: [row for row, of in lowest if of == name] for name in self._drawn}
        sides = [
            [name for name in self._sizes if name.startswith("violates") is side] for side in (True, False)
        ]
        held = [sum(self._sizes[name] for name in side) for side in sides]
        first = min(held[0], max(size // 2, size - held[1]))
        chosen = {}
        for side, number in zip(sides, (first, size - first), strict=True):
            for name, part in self._shared_out(side, number).items():
                chosen[name] = self._drawn[name][:part]
        return chosen

    def _shared_out(self, names: Sequence[str], number: int) -> dict[str, int]:
        least = min(_LEAST, number // max(len(names), 1))
        given = {name: min(self._sizes[name], least) for name in names}
        weights = {
            name: self._sizes[name] * _spread(self._hopes[name] / 1000 / self._sizes[name]) for name in names
        }
        while (left := number - sum(given.values())) > 0:
            free = [name for name in names if given[name] < self._sizes[name]]
            if not free:
                break
            total = sum(weights[name] for name in free)
            before = sum(given.values())
            for name in free:
                given[name] = min(self._sizes[name], given[name] + int(left * weights[name] / total))
            if sum(given.values()) == before:
                given[max(free, key=lambda name: weights[name])] += 1
        return given

    def strata(self, labelled: Mapping[str, Sequence[bool]]) -> list[Stratum]:
        """All strata, with the labels (True: unsafe) of their sampled rows."""
        return [
            Stratum(name, name.startswith("violates"), size, len(found := labelled.get(name, ())), sum(found))
            for name, size in sorted(self._sizes.items())
        ]


def _spread(hope: float) -> float:
    """The standard deviation of labels of which the share ``hope`` is unsafe."""
    kept = min(max(hope, 0.01), 0.99)
    return float((kept * (1 - kept)) ** 0.5)


def _strata(score: Any, judged: Any, violates: Any) -> Iterator[tuple[str, Any]]:
    """The strata and which rows are in them. A row's stratum follows from its outcome and score alone."""
    import numpy as np

    for word, of in (("complies", judged & ~violates), ("violates", violates)):
        ends = _ENDS[word]
        band = np.searchsorted(ends, score, side="right")
        band[np.isnan(score)] = -1
        yield f"{word}, no score", of & (band == -1)
        edges = ("0", *(f"{end:g}" for end in ends), "1")
        for place in range(len(ends) + 1):
            yield f"{word}, {edges[place]} to {edges[place + 1]}", of & (band == place)
    yield "not judged", ~judged


def lots(part: Any, row: Any, seed: int) -> Any:
    """A number per row that is as good as random (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        state = part.astype(np.uint64) << np.uint64(32) | row.astype(np.uint64)
        state = _mixed(state + _mixed(np.full(1, seed, np.uint64)))
        return _mixed(state)


def _mixed(state: Any) -> Any:
    import numpy as np

    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
