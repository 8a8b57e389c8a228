"""A backend that asks another one about every picture only once.

What is kept is an Assessment: scores, and no picture and no decision. So policies that read the same to the
model, and differ in thresholds or actions, are decided afresh from the same scores. Failures are not kept.

With ``file``, assessments are kept from run to run, as JSON lines. A line is used only for the same pixels,
the same policy text, the same reading and the same model, by the hash of its weights or its commit; a model
on a server is known by its name alone, so delete the file when the server gets another one under that name.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from policyguard.assessment import Assessment, AssessmentRequest, Failure, ModelIdentity, Rating, Reading
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.policy.resolved import ResolvedPolicy

__all__ = ["RememberingBackend"]


class RememberingBackend:
    """Wraps ``backend``; closes it only if asked to (``close``). ``asked`` and ``known`` count requests.

    Raises ConfigurationError for a ``file`` that holds something else than assessments.
    """

    def __init__(self, backend: Backend, *, file: Path | None = None) -> None:
        self.backend = backend
        self.asked = 0
        self.known = 0
        self._file = file
        self._lock = threading.Lock()
        self._kept: dict[str, Assessment] = {}
        self._model: str | None = None
        if file is not None and file.exists():
            self._kept = _read(file)

    @property
    def preferred_batch(self) -> int:
        return self.backend.preferred_batch

    @property
    def preferred_workers(self) -> int:
        return self.backend.preferred_workers

    @property
    def model(self) -> ModelIdentity:
        return self.backend.model

    def accept(self, policy: ResolvedPolicy) -> None:
        self.backend.accept(policy)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        keys = [self._key(request) for request in requests]
        new = self._new(keys)
        return self._results(
            keys, new, self.backend.assess([requests[index] for index in new]) if new else []
        )

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        keys = await asyncio.to_thread(lambda: [self._key(request) for request in requests])
        new = self._new(keys)
        found = await self.backend.aassess([requests[index] for index in new]) if new else []
        return self._results(keys, new, found)

    def warm(self) -> None:
        self.backend.warm()

    def close(self) -> None:
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _key(self, request: AssessmentRequest) -> str:
        if self._model is None:
            self._model = json.dumps(self.model.to_dict(), sort_keys=True)
        frame = request.frame
        pixels = hashlib.sha256(f"{frame.mode} {frame.size}\n".encode() + frame.tobytes()).hexdigest()
        parts = (pixels, request.policy.fingerprint, request.reading.value, self._model)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _new(self, keys: Sequence[str]) -> list[int]:
        """The places of the requests to ask: those not kept, and of equal ones the first."""
        with self._lock:
            first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in self._kept}
        return sorted(first.values())

    def _results(
        self, keys: Sequence[str], new: Sequence[int], found: Sequence[Assessment | Failure]
    ) -> list[Assessment | Failure]:
        fresh = {keys[index]: result for index, result in zip(new, found, strict=True)}
        with self._lock:
            self.asked += len(new)
            self.known += len(keys) - len(new)
            learnt = {key: result for key, result in fresh.items() if isinstance(result, Assessment)}
            self._kept.update(learnt)
            if self._file is not None and learnt:
                _append(self._file, learnt)
            return [fresh[key] if key in fresh else self._kept[key] for key in keys]


def _append(file: Path, learnt: Mapping[str, Assessment]) -> None:
    lines = [json.dumps({"key": key} | kept.to_dict(), allow_nan=False) for key, kept in learnt.items()]
    with file.open("a", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))


def _read(file: Path) -> dict[str, Assessment]:
    kept = {}
    whole, end, cut = file.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    for number, line in enumerate(whole.splitlines() if end else [cut] if cut else [], 1):
        try:
            fields: dict[str, Any] = json.loads(line)
            key = fields.pop("key")
            fields |= {"rating": Rating(fields["rating"]), "reading": Reading(fields["reading"])}
            kept[str(key)] = Assessment(**fields | {"notes": tuple(fields["notes"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigurationError(
                f"line {number} of {file} is no assessment", hint="delete the file, or name another one"
            ) from None
    if cut and end:  # a run was stopped while it wrote; all that stands before is ours
        file.write_text(whole + end, encoding="utf-8")
    return kept
