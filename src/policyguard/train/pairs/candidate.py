"""A pair that passed the checks, as one JSON line; the lines are the job's journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policyguard.errors import ConfigurationError
from policyguard.train.data import Split

__all__ = ["CANDIDATES", "Candidate", "Labels", "read_candidates"]

CANDIDATES = "candidates.jsonl"
Label = Literal["safe", "unsafe"]
_Name = Annotated[str, Field(min_length=1, max_length=4096)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Labels(_Part):
    """What the guard says of the two images under one policy; ``None`` where it could not judge."""

    before: Label | None
    after: Label | None


class Candidate(_Part):
    """``before``, ``after``: paths relative to the file. ``policy``: the one the edit is made for, first in
    ``labels``. ``rules``: what the original violates under it. The measures are those of ``difference``.
    """

    id: Annotated[str, Field(pattern=r"^[\w.-]{1,120}$")]
    before: _Name
    after: _Name
    before_sha256: _Name
    after_sha256: _Name
    source: _Name
    licence: _Name
    split: Split | None = None
    policy: _Name
    rules: list[str]
    labels: dict[str, Labels]
    editor: _Name
    guard: _Name
    instruction: str
    attempts: int
    region: float
    box: float
    inside: float
    outside: float


def read_candidates(folder: Path) -> list[Candidate]:
    """All candidates in ``folder``; a last line that a kill cut short is passed over.

    Raises ConfigurationError.
    """
    path = folder / CANDIDATES
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror or error}",
            hint="`policyguard train pairs IMAGES FOLDER` writes it",
        ) from error
    found = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            if line.strip():
                found.append(Candidate.model_validate(json.loads(line)))
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            where = ".".join(map(str, item["loc"]))
            raise ConfigurationError(f"{path}:{number}: {where}: {item['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path}:{number}: {error}") from error
    return found
