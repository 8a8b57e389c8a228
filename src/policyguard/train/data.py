"""The rows that training reads: one JSON object per line, with where each image comes from.

``CaptionRow``: an image and a caption of it (stage SFT). ``LabelRow``: an image, a policy and the label
that the image has under that policy (stages assess and GRPO). All values are texts, numbers or lists of
texts, so that ``datasets.load_dataset("json", data_files=...)`` reads the files too; fields that are
``None`` are left out.

``read_rows`` is strict and goes on: a bad row is named (``file:line: field: why``) and skipped, not repaired.
Image paths are relative to the folder of the file that names them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from policyguard.errors import ConfigurationError, Problem
from policyguard.strict.explain import Hints, explain
from policyguard.strict.files import write_lines
from policyguard.strict.tables import MAX_LINE, read_object

__all__ = [
    "CaptionRow",
    "Label",
    "LabelRow",
    "ReadRows",
    "Row",
    "Split",
    "append_rows",
    "passes_judgement",
    "read_rows",
    "write_rows",
]

Split = Literal["train", "validation", "test"]
Label = Literal["safe", "unsafe"]

_Line = Annotated[str, Field(min_length=1, max_length=4096)]
_Prose = Annotated[str, Field(min_length=1, max_length=32_768)]
_SHA256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

_VERDICT_FIELDS = ("label", "rating", "verdict", "category", "policy", "score", "safe", "unsafe", "rationale")
_VERDICTS = (  # a caption may speak of "a safe" or of "unsafe ladders"; it may not pass judgement
    r'(?:^|[{.!?\n]\s*)"?\b(?:rating|verdict|label|category)"?\s*[:=]',
    r"^\W*(?:un)?safe\b\W*$",
    r"^\W*(?:un)?safe\s*[.:,;\n]",
    r"[.!?\n]\s*(?:un)?safe\W*$",
    r"\b(?:is|are|as|be|considered|rated|deemed)\s+(?:not\s+)?(?:un)?safe\b",
    r"\b(?:violat\w+|compl(?:y|ies|iant)|breach\w*)\b.{0,60}\b(?:policy|policies|guidelines?|rules?)\b",
    r"</?answer>",
    r"\b(?:harmful|inappropriate|objectionable|nsfw|not safe for work|unsuitable|problematic)\b",
)
_PASSES_JUDGEMENT = re.compile("|".join(_VERDICTS), re.IGNORECASE)
_ASKS_JUDGEMENT = re.compile(
    r"\b(?:polic(?:y|ies)|(?:un)?safe|violat\w+|guidelines?|rating|verdict)\b", re.IGNORECASE
)


def passes_judgement(caption: str) -> str | None:
    """The words in which ``caption`` passes judgement, or ``None``."""
    match = _PASSES_JUDGEMENT.search(caption)
    return match.group() if match else None


class _Row(BaseModel):
    """What all rows share.

    ``image``: path of the file, relative to the folder of the rows. ``sha256``: of the file's bytes.
    ``source``: where it comes from, such as a data set's name or an address. ``licence``: what it may be used
    for. ``split``: ``None`` until somebody has decided; see ``rows.assign_splits``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image: _Line
    sha256: _SHA256
    source: _Line
    licence: _Line
    split: Split | None = None

    def to_json(self) -> str:
        """One line of JSON, without the fields that are ``None``."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), ensure_ascii=False)


class CaptionRow(_Row):
    """An image, the request to describe it, and the caption to learn.

    It holds no verdict, neither in a field nor in its words: stage SFT must not see any.

    ``base_caption``: the base model's, where ``caption`` is an edit of it. ``status``: how
    ``caption`` came to be; ``kept`` is the base caption after edits that failed. ``kept_share``: the share of
    the base caption's words that the edit kept, in [0, 1]. ``captioner``, ``editor``: models; ``mode``: which
    prompt the editor had.
    """

    prompt: _Prose
    caption: _Prose
    base_caption: _Prose | None = None
    status: Literal["plain", "edited", "kept"] = "plain"
    kept_share: Annotated[float, Field(ge=0, le=1)] | None = None
    captioner: _Line | None = None
    editor: _Line | None = None
    mode: _Line | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_no_verdict_field(cls, data: Any) -> Any:
        fields = [name for name in _VERDICT_FIELDS if isinstance(data, dict) and name in data]
        if fields:
            raise ValueError(f"a caption row holds no verdict, and this one has {', '.join(fields)}")
        return data

    @model_validator(mode="after")
    def _passes_no_judgement(self) -> Self:
        if words := passes_judgement(self.caption):
            raise ValueError(f"the caption passes judgement: {words[:80]!r}")
        if match := _ASKS_JUDGEMENT.search(self.prompt):
            raise ValueError(f"the prompt asks for judgement: {match.group()[:80]!r}")
        return self


class LabelRow(_Row):
    """An image under one policy.

    ``policy``: a path relative to the rows' folder (it ends in .yaml), the name of a packaged policy, or
    ``#id`` for the line with that id in ``policies.jsonl`` beside the rows (see ``policies.PolicyShelf``).
    ``category``: the rule id that describes the image best, safe images included. ``violations``: every rule
    that is known to be violated; ``None`` where only ``category`` is. ``complete``: whether no other rule is
    violated; by default that holds where ``violations`` is given. Only such rows become safe when their rules
    are taken away.
    ``rationale_rating``: that of the writer of ``rationale``, where a model wrote it; a rationale is used
    only if it agrees with ``label``. ``pair_id``: shared by the two images of an edit pair.
    ``severity``: the source's own finer label.
    """

    policy: _Line
    label: Label
    category: _Line | None = None
    violations: tuple[_Line, ...] | None = None
    complete: bool | None = None
    rationale: _Prose | None = None
    rationale_rating: Label | None = None
    pair_id: _Line | None = None
    severity: _Line | None = None

    @model_validator(mode="before")
    @classmethod
    def _list_of_violations(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("violations"), list):
            return data | {"violations": tuple(data["violations"])}  # strict mode takes no list for a tuple
        return data

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.violations is not None and bool(self.violations) != (self.label == "unsafe"):
            raise ValueError(f"the label is {self.label}, and violations holds {len(self.violations)} rules")
        if self.label == "unsafe" and self.violations and self.category not in (None, *self.violations):
            raise ValueError(f"the category '{self.category}' is not among the violations")
        if self.complete and self.violated is None:
            raise ValueError("complete is true, and the row names no rule that is violated")
        return self

    @property
    def violated(self) -> tuple[str, ...] | None:
        """The rules known to be violated; for an unsafe row that names none, ``None``."""
        if self.violations is not None:
            return self.violations
        if self.label == "safe":
            return ()
        return None if self.category is None else (self.category,)

    @property
    def knows_all(self) -> bool:
        """Whether ``violated`` are all the rules that this image violates."""
        if self.label == "safe":
            return True
        return self.violations is not None if self.complete is None else self.complete


Row = TypeVar("Row", CaptionRow, LabelRow)


@dataclass(frozen=True, slots=True)
class ReadRows(Generic[Row]):
    """The good rows of a file, in order, and what is wrong with the others. ``folder``: of the images."""

    path: Path
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def bad(self) -> int:
        """How many lines hold a bad row."""
        return len({problem.line for problem in self.problems})


def read_rows(path: Path, kind: type[Row]) -> ReadRows[Row]:
    """Read all rows of ``path``.

    Bad ones are in ``problems``. Raises ConfigurationError if it cannot be read.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        for number, line in _lines(path):
            try:
                rows.append(kind.model_validate(read_object(line)))
            except ValidationError as error:
                unfit = explain(error, kind, str(path), hints=_HINTS)
                problems += [replace(problem, line=number) for problem in unfit]
            except ValueError as error:
                problems.append(Problem(str(error), str(path), number))
    except OSError as error:
        raise ConfigurationError(
            f"the rows in {path} cannot be read: {error.strerror or error}",
            hint="give the path of a .jsonl file; docs/training.md says what a row holds",
        ) from error
    return ReadRows(path, tuple(rows), tuple(problems))


def write_rows(path: Path, rows: Iterable[CaptionRow | LabelRow]) -> int:
    """Write ``rows`` in one step and give their number."""
    return write_lines(path, (row.to_json() for row in rows))


def append_rows(path: Path, rows: Sequence[CaptionRow | LabelRow]) -> None:
    """Add rows at the end of a file, and have them on the disk on return.

    For jobs that go on where they were stopped. A line that a kill cut short is ended first, so it spoils
    itself only: ``read_rows`` names it as bad.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write("".join(row.to_json() + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            while len(line) > MAX_LINE and not line.endswith(b"\n") and (more := file.readline(MAX_LINE)):
                line = line[:1] + b"\xff" * MAX_LINE + more[-1:]  # of a line that is too long, keep no more
            if line.strip():
                yield number, line


def _message(item: ErrorDetails) -> str | None:
    if item["type"] == "string_pattern_mismatch" and item["loc"] == ("sha256",):
        return "expected the file's SHA-256, 64 hex digits in lower case"
    return None


_HINTS = Hints(syntax="json", message=_message)
