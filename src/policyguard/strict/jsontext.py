"""JSON from files, answers and payloads, read so that no two readers can see two things in it.

Covered: a key that stands twice in one object, NaN and infinities, text that is not UTF-8, and values nested
too deeply for Python are refused (``parse_json``), or, inside of payloads that others read too, every reading
is given (``read_json``). Settings of models are read as transformers reads them (``read_settings``).
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "ConstantError",
    "DuplicateKeyError",
    "JsonError",
    "TooDeepError",
    "parse_json",
    "parse_object",
    "read_json",
    "read_settings",
]


class JsonError(ValueError):
    """What is wrong with a JSON text, to be put after what holds it: "is not UTF-8"."""


class DuplicateKeyError(JsonError):
    """An object has ``key`` twice: two readers may see two values."""

    def __init__(self, key: str) -> None:
        super().__init__(f"holds the key {key[:60]!r} twice")
        self.key = key


class ConstantError(JsonError):
    """NaN or an infinity, which JSON does not know."""


class TooDeepError(JsonError):
    """Lists and objects, one in the other, that are too many for Python."""


def parse_json(data: str | bytes, *, constants: bool = False) -> Any:
    """The value of ``data``, bytes in UTF-8. Raises JsonError.

    ``constants``: NaN and infinities are read, as by most readers.
    """
    decoder = _WITH_CONSTANTS if constants else _STRICT
    try:
        return decoder.decode(data if isinstance(data, str) else data.decode("utf-8"))
    except JsonError:
        raise
    except UnicodeDecodeError:
        raise JsonError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise JsonError(f"is not JSON: {error.msg} at {line}character {error.colno}") from None
    except ValueError as error:  # a number with too many digits
        raise JsonError(f"is not read: {error}") from None
    except RecursionError:
        raise TooDeepError("is nested too deeply") from None


def parse_object(data: str | bytes) -> dict[str, Any]:
    """As ``parse_json``, and an object. Raises JsonError."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise JsonError("is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return made


def _refuse(constant: str) -> NoReturn:
    raise ConstantError(f"holds {constant}, which is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
_WITH_CONSTANTS = json.JSONDecoder(object_pairs_hook=_unique)


def read_json(text: str) -> Any:
    """The value of ``text``. Raises ValueError and RecursionError.

    An object with a key twice becomes a list of objects, one for each of the values that a reader may take.
    Numbers that are too long for Python, and not for other readers, become infinite.
    """
    return _READINGS.decode(text)


def _readings(pairs: list[tuple[str, Any]]) -> Any:
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


_READINGS = json.JSONDecoder(object_pairs_hook=_readings, parse_int=_int)


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
        settings = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(settings, dict):
        raise ValueError("it is not a JSON object")
    return settings


def _without_waiting(path: str, flags: int) -> int:
    # A pipe would wait for somebody to write into it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
