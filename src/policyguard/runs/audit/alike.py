"""Which images of a great many are alike: equal hashes, and difference hashes that differ in a few bits."""

from __future__ import annotations

from itertools import combinations
from typing import Any

__all__ = ["first_bytes", "near", "same", "textured", "together"]


def textured(hashes: Any) -> Any:
    """Which difference hashes say something: flat images and plain gradients have next to no bits, or all."""
    bits = _bits(hashes)
    return (bits > 3) & (bits < 61)


def _bits(values: Any) -> Any:
    """How many bits of each are set."""
    import numpy as np

    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(values)
    table = np.array([byte.bit_count() for byte in range(256)], np.uint8)
    return table[np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)].sum(axis=1)


def same(values: Any) -> Any:
    """A number per distinct value; 0 is no value, and alike to nothing."""
    import numpy as np

    if not len(values):
        return np.zeros(0, np.int64)
    named = values.copy()
    missing = (named == 0).nonzero()[0]
    _, labels = np.unique(named, return_inverse=True)
    labels = labels.astype(np.int64)
    labels[missing] = labels.max() + 1 + np.arange(len(missing))
    return np.unique(labels, return_inverse=True)[1]


def near(hashes: Any, use: Any) -> Any:
    """Each row that is used, beside one row that stands for its group: rows whose difference hashes differ in
    at most 2 of 64 bits, and chains of them.

    Two bits touch at most two of six stretches of the hash, so the other four are equal: for each choice of
    four, rows are sorted by them, and only neighbours compared. Among many that are equal there, each is
    compared with the next 32 alone.
    """
    import numpy as np

    index = use.nonzero()[0]
    values, first, inverse = np.unique(hashes[index], return_index=True, return_inverse=True)
    groups = np.arange(len(values))
    for chosen in combinations(_STRETCHES, 4):
        masked = values & np.uint64(sum(chosen))
        order = np.argsort(masked, kind="stable")
        masked, sorted_values = masked[order], values[order]
        for step in range(1, 33):
            equal = (masked[step:] == masked[:-step]).nonzero()[0]
            if not len(equal):
                break
            close = equal[_bits(sorted_values[equal + step] ^ sorted_values[equal]) <= 2]
            one, other = order[close], order[close + step]
            new = groups[one] != groups[other]
            groups = together(groups, np.stack([one[new], other[new]]))
    _, leaders = np.unique(groups, return_index=True)
    return np.stack([index, index[first[leaders[groups[inverse]]]]])


_STRETCHES = [
    ((1 << width) - 1) << start
    for start, width in ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))
]


def together(labels: Any, pairs: Any) -> Any:
    """``labels``, numbers from 0 of which none is missing, with those joined that a pair of rows links."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs.size:
        return labels
    count = int(labels.max()) + 1
    ones = np.ones(pairs.shape[1], np.int8)
    links = coo_array((ones, (labels[pairs[0]], labels[pairs[1]])), (count, count))
    return connected_components(links, directed=False)[1][labels]


def first_bytes(hashes: Any) -> Any:
    """The first 8 bytes of hashes in hex; 0 for none."""
    import numpy as np
    from pyarrow import compute as pc

    text = pc.utf8_slice_codeunits(pc.fill_null(hashes, "0" * 64).combine_chunks(), 0, 16)
    codes = np.frombuffer("".join(text.to_pylist()).encode("ascii", "replace"), np.uint8).reshape(-1, 16)
    digits = np.where(codes >= 97, codes - 87, codes - 48).astype(np.uint64)
    return (digits << np.arange(60, -4, -4, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
