"""Which side an image is on: the same for every row of it, for both twins of an edit pair, and on every
machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from policyguard.train.data import CaptionRow, LabelRow, Row, Split

__all__ = ["assign_splits", "images_on_two_sides"]


def assign_splits(rows: Sequence[Row], *, shares: Mapping[Split, float], seed: int = 0) -> list[Row]:
    """Copies of ``rows`` with ``split`` set, drawn by image hash; ``shares`` add up to 1.

    Images that edit pairs tie together share a side. Rows that have a split already keep it, and take all
    that they are tied to with them; so a data set that grows does not move what was decided.
    """
    if abs(sum(shares.values()) - 1.0) > 1e-6 or min(shares.values()) < 0:
        raise ValueError(f"shares must add up to 1: {dict(shares)}")
    roots = _ties(rows)
    decided: dict[str, Split] = {}
    for row in rows:
        if row.split is not None:
            decided.setdefault(roots[row.sha256], row.split)
    return [
        row.model_copy(
            update={"split": decided.get(roots[row.sha256]) or _draw(roots[row.sha256], shares, seed)}
        )
        for row in rows
    ]


def images_on_two_sides(rows: Sequence[CaptionRow | LabelRow]) -> dict[str, tuple[str, ...]]:
    """Hash of an image -> its splits, for images that are in more than one, directly or by a pair."""
    roots = _ties(rows)
    sides: dict[str, set[str]] = {}
    for row in rows:
        if row.split is not None:
            sides.setdefault(roots[row.sha256], set()).add(row.split)
    return {root: tuple(sorted(found)) for root, found in sorted(sides.items()) if len(found) > 1}


def _ties(rows: Sequence[CaptionRow | LabelRow]) -> dict[str, str]:
    """Hash of an image -> the smallest hash among all images that edit pairs tie it to."""
    parent: dict[str, str] = {row.sha256: row.sha256 for row in rows}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for row in rows:
        pair = getattr(row, "pair_id", None)
        if pair is not None:
            ends = sorted((root(first.setdefault(pair, row.sha256)), root(row.sha256)))
            parent[ends[1]] = ends[0]
    return {name: root(name) for name in parent}


def _draw(name: str, shares: Mapping[Split, float], seed: int) -> Split:
    digest = hashlib.sha256(f"split/{seed}/{name}".encode()).digest()
    place, total = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, share in shares.items():
        total += share
        if place < total:
            return split
    return max(shares, key=lambda split: shares[split])
