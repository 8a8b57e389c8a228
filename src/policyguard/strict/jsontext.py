"""JSON that stands in a string, read so that nothing in it can hide.

Read a small JSON file that somebody else wrote: a model's settings.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = [
    "read_json",
    "read_settings",
]


def read_settings(path: Path, *, limit: int) -> dict[str, Any]:
    """The JSON object in ``path``, a regular file of at most ``limit`` bytes.

    Raises OSError or ValueError.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit >> 20} MiB")
    try:
        found = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _without_waiting(path: str, flags: int) -> int:
    # A pipe would wait for somebody to write into it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
