"""JSON that stands in a string, read so that nothing in it can hide."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["read_json"]


def read_json(text: str) -> Any:
    """The value of ``text``. Raises ValueError and RecursionError.

    An object with a key twice becomes a list of objects, one for each of the values that a reader may take.
    Numbers that are too long for Python, and not for other readers, become infinite.
    """
    return json.loads(text, object_pairs_hook=_object, parse_int=_int)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    readings: list[dict[str, Any]] = []
    for key, value in pairs:
        reading = next((reading for reading in readings if key not in reading), None)
        if reading is None:
            reading = {}
            readings.append(reading)
        reading[key] = value
    return [{**made, **reading} for reading in readings]


def _int(text: str) -> int | float:
    return int(text) if len(text) < 4000 else float("inf")
