"""Folders as an audit leaves them, with made-up verdicts: row by row, or a great many at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from policyguard.runs.audit.reading import pictures
from policyguard.runs.audit.rows import FORMAT, Audit, Part, Place, marked_schema, schema, write_parts
from policyguard.runs.audit.sources import Spec, plan

RULES = {"arms": 0.5, "drugs": 0.7, "nudity": 0.4, "gore": 0.5}
"""Ids and thresholds of the made-up policy."""
POLICY = {
    "id": "house",
    "version": "1.0.0",
    "fingerprint": "f" * 64,
    "title": "House rules",
    "threshold": 0.5,
    "rules": [
        {"id": rule, "title": rule.title(), "status": "active", "threshold": RULES[rule]} for rule in RULES
    ],
}


_MARK = "made up"


def row(key: str, score: float | None = 0.1, *, rule: str = "arms", **changes: Any) -> dict[str, Any]:
    """A row that violates ``rule`` from its threshold on, and complies with it as the closest below."""
    over = score is not None and score >= RULES.get(rule.rpartition(":")[2], 0.5)
    found = {"rule": rule, "score": score}
    return {
        "key": key,
        "policy": "house",
        "fingerprint": "f" * 64,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "outcome": "violates" if over else "complies",
        "action": "block" if over else "allow",
        "score": score,
        "rules": [{**found, "threshold": RULES.get(rule, 0.5), "action": "block"}] if over else [],
        "closest": None if over or score is None else found,
        "degraded": False,
        "partial": False,
        "seconds": 0.01,
        **changes,
    }


def unjudged(key: str, outcome: str = "unscannable", reason: str = "truncated file", **changes: Any) -> Any:
    """A row of an image that could not be judged."""
    return row(key, None, **{"outcome": outcome, "action": "block", "reason": reason, **changes})


def write_rows(
    folder: Path,
    *parts: Sequence[dict[str, Any]],
    keep: Sequence[str] = (),
    missing: int = 0,
    about: dict[str, Any] | None = None,
) -> Path:
    """An audit whose parts hold these rows, and ``missing`` more parts that are not done."""
    for number, rows in enumerate(parts):
        placed = [{**values, "part": number, "row": index} for index, values in enumerate(rows)]
        _write_part(folder, number, pa.Table.from_pylist(placed, schema(keep)))
    _write_about(folder, [len(rows) for rows in parts] + [10] * missing, keep, about)
    return folder


def write_many(folder: Path, count: int, *, per_part: int = 10_000, seed: int = 0) -> Path:
    """An audit of ``count`` rows, with ``keep_prompt`` (ten images each) and ``keep_source``."""
    sizes = [min(per_part, count - first) for first in range(0, count, per_part)]
    for number, size in enumerate(sizes):
        _write_part(
            folder, number, _many(number, number * per_part, size, np.random.default_rng((seed, number)))
        )
    _write_about(folder, sizes, ("prompt", "source"), None)
    return folder


def _write_part(folder: Path, number: int, table: pa.Table) -> None:
    file = folder / f"verdicts/part-{number:08}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    marked = table.cast(marked_schema(table.schema, _MARK, number))
    parquet.write_table(marked, file, compression="zstd")


def _write_about(
    folder: Path, sizes: Sequence[int], keep: Sequence[str], about: dict[str, Any] | None
) -> None:
    first = np.concatenate(([0], np.cumsum(sizes)[:-1])).tolist() if sizes else []
    parts = (
        Part(number, "files", str(folder / "source"), first=start, rows=size, fingerprint="0" * 64)
        for number, (start, size) in enumerate(zip(first, sizes, strict=True))
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_parts(Place(folder), parts)
    own = {"source": {"sources": ["source"], "root": str(folder)}, "options": {"keep": list(keep)}}
    own["counts"] = {"parts": len(sizes), "rows": sum(sizes)}
    (folder / "audit.json").write_text(json.dumps(_about(own | (about or {}))))


def _about(own: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "mark": _MARK,
        "policies": [POLICY],
        "model": {"id": "tiny/guard", "revision": "1", "dialect": "instruct"},
        "settings": {},
        **own,
    }


def _many(part: int, first: int, count: int, random: np.random.Generator) -> pa.Table:
    names = np.array(list(RULES))
    index = np.arange(first, first + count)
    score = random.beta(0.12, 3.0, count)
    score = np.where(random.random(count) < 0.02, random.beta(6.0, 1.5, count), score)
    rule = random.integers(0, len(names), count)
    threshold = np.array(list(RULES.values()))[rule]
    judged = random.random(count) >= 0.005
    over = (score >= threshold) & judged
    closest = ~over & judged
    reasons = np.array([None, "the file is cut off", "JPEG: no image in it"], dtype=object)
    found = {"rule": pa.array(names[rule[over]]), "score": pa.array(score[over])}
    broken = pa.StructArray.from_arrays(
        [*found.values(), pa.array(threshold[over]), pa.array(["block"] * int(over.sum()), pa.string())],
        fields=list(schema().field("rules").type.value_type),
    )
    near = pa.StructArray.from_arrays(
        [pa.array(names[rule]), pa.array(score)],
        fields=list(schema().field("closest").type),
        mask=pa.array(~closest),
    )
    columns = {
        "key": pa.array([f"class{number % 1000:03}/{number:09}.jpg" for number in index.tolist()]),
        "part": pa.array(np.full(count, part, np.int32)),
        "row": pa.array(np.arange(count, dtype=np.int32)),
        "policy": pa.array(["house"] * count),
        "fingerprint": pa.array(["f" * 64] * count).dictionary_encode(),
        "sha256": pa.array([random.bytes(32).hex() for _ in range(count)]),
        "outcome": pa.array(np.where(over, "violates", np.where(judged, "complies", "unscannable"))),
        "action": pa.array(np.where(over | ~judged, "block", "allow")),
        "score": pa.array(score, mask=~judged),
        "rules": pa.ListArray.from_arrays(
            pa.array(np.concatenate(([0], np.cumsum(over))), pa.int32()), broken
        ),
        "closest": near,
        "rationale": pa.nulls(count, pa.string()),
        "reason": pa.array(reasons[np.where(judged, 0, random.integers(1, 3, count))], pa.string()),
        "degraded": pa.array(np.zeros(count, bool)),
        "partial": pa.array(np.zeros(count, bool)),
        "duplicate_of": pa.nulls(count, pa.string()),
        "dhash": pa.array(random.integers(0, 2**64, count, dtype=np.uint64, endpoint=False), mask=~judged),
        "seconds": pa.array(random.random(count, dtype=np.float32)),
        "keep_prompt": pa.array([f"a painting of thing number {number // 10}" for number in index.tolist()]),
        "keep_source": pa.array(np.array(["web", "stock", "made"])[random.integers(0, 3, count)]),
    }
    return pa.Table.from_pydict(columns).cast(schema(("prompt", "source")))


def audit_of(
    folder: Path,
    spec: Spec,
    judged: Callable[[str], dict[str, Any]] = row,
    *,
    name: str = "audit",
    about: dict[str, Any] | None = None,
) -> Audit:
    """An audit of a real source, with the verdicts that ``judged`` gives for its keys."""
    parts = list(plan(spec, []))
    place = Place(folder / name)
    write_parts(place, iter(parts))
    for part in parts:
        rows = [
            {
                "sha256": None if picture.image is None else hashlib.sha256(picture.image.data).hexdigest(),
                **{f"keep_{column}": value for column, value in zip(spec.keep, picture.keep, strict=False)},
                **{key: value for key, value in judged(picture.key).items() if key != "sha256"},
                "part": part.number,
                "row": number,
            }
            for number, picture in enumerate(pictures(part, spec))
        ]
        _write_part(folder / name, part.number, pa.Table.from_pylist(rows, schema(spec.keep)))
    options = spec.to_dict()
    source = {each: options.pop(each) for each in ("sources", "root")}
    own = {"source": source, "options": options, "counts": {"parts": len(parts), "rows": None}}
    (folder / name / "audit.json").write_text(json.dumps(_about(own | (about or {}))))
    return Audit.open(folder / name)
