"""Answers of a guard model, recorded in one run and replayed in others, so that suites run without a model.

A recording is JSON with one answer per line, sorted, so that a change is a line in a diff. It holds scores
and text, and no picture. An answer is found by the pixels (SHA-256), what the model sees of the policy (its
fingerprint) and the reading, so another picture, another wording or a picture never asked about has none.

Covered: a request without a recorded answer raises, whatever a policy's ``outcomes`` say, and what cannot be
read is refused as a whole; failures of the model are not recorded. Not covered: who may edit the file, which
decides what passes; leave that to review.

A backend that asks another one about every picture only once.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import ConfigurationError
from policyguard.strict.files import write_atomically

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "Recording",
    "RecordingBackend",
    "RememberingBackend",
    "ReplayBackend",
    "read_recording",
    "write_recording",
]


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


_FORMAT = 1
_MAX_BYTES = 64 * 1024 * 1024
_KEYS = ("policy", "picture", "fingerprint", "reading", "answer")
_Key = tuple[str, str, str]

Entry = dict[str, Any]
"""One recorded answer, JSON-ready."""


class Recording:
    """Recorded answers of one model, by picture, policy and reading."""

    def __init__(self, model: ModelIdentity, entries: Iterable[Entry] = ()) -> None:
        self.model = model
        self.entries: dict[_Key, Entry] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        self.entries[entry["picture"], entry["fingerprint"], entry["reading"]] = entry

    def sorted(self) -> list[Entry]:
        return sorted(self.entries.values(), key=lambda entry: [entry[name] for name in _KEYS[:4]])


class RecordingBackend:
    """Wraps a backend, and keeps what it answers in ``recording``. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    @property
    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

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
        results = self.backend.assess(requests)
        self._keep(requests, results)
        return results

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        results = await self.backend.aassess(requests)
        await asyncio.to_thread(self._keep, requests, results)
        return results

    def warm(self) -> None:
        self.backend.warm()

    def close(self) -> None:
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _keep(self, requests: Sequence[AssessmentRequest], results: Sequence[Assessment | Failure]) -> None:
        new = []
        for request, result in zip(requests, results, strict=False):  # the guard complains about a mismatch
            if isinstance(result, Failure) and (result.kind is not FailureKind.REFUSED or result.retryable):
                continue
            picture, fingerprint, reading = _key(request)
            try:  # plain texts and numbers, which xdist hands on; what is no number is no answer either
                answer = json.loads(json.dumps(_answer(result), allow_nan=False))
            except ValueError:
                continue
            parts = (request.policy.id, picture, fingerprint, reading, answer)
            new.append(dict(zip(_KEYS, parts, strict=True)))
        with self._lock:
            self._entries += new


class ReplayBackend:
    """Answers from a recording, and raises ConfigurationError where there is no answer in it."""

    preferred_batch = 16
    preferred_workers = 1

    def __init__(self, recording: Recording, file: Path) -> None:
        self.file = file
        self._model = recording.model
        self._answers = {key: _result(entry["answer"]) for key, entry in recording.entries.items()}

    @property
    def model(self) -> ModelIdentity:
        return self._model

    def accept(self, policy: ResolvedPolicy) -> None:
        """The model accepted every policy that it was recorded with; of others there is no answer."""

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        return [self._find(request) for request in requests]

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        return await asyncio.to_thread(self.assess, requests)

    def warm(self) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _find(self, request: AssessmentRequest) -> Assessment | Failure:
        key = _key(request)
        found = self._answers.get(key)
        if found is not None:
            return found
        picture, fingerprint, reading = key
        known = {policy for other, policy, _ in self._answers if other == picture}
        if not known:
            why = "this picture is not in it"
        elif fingerprint in known:
            why = f"this picture is in it, and not in the reading '{reading}'"
        else:
            why = f"this picture is in it, and not under policy '{request.policy.id}' as it is worded now"
        raise ConfigurationError(
            f"{self.file} holds no recorded answer: {why}",
            hint=f"run the suite with the model once more: pytest --policyguard-record {self.file}",
        )


def read_recording(file: Path) -> Recording:
    """The recording in ``file``. Raises ConfigurationError, in one line, for anything else."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no recording {file}", hint=f"make it with: pytest --policyguard-record {file}"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigurationError(f"{file} is larger than 64 MiB")
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not a recording: it is not JSON ({error})") from None
    try:
        return _recording(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigurationError(f"{file} is not a recording: {said}") from None


def write_recording(file: Path, recording: Recording) -> None:
    """Put ``recording`` in place of ``file``. Raises ConfigurationError if that cannot be written."""
    answers = ",\n".join(json.dumps(entry, allow_nan=False) for entry in recording.sorted())
    model = json.dumps(recording.model.to_dict())
    text = f'{{"policyguard_recording": {_FORMAT},\n"model": {model},\n"answers": [\n{answers}\n]}}\n'
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError as error:
        raise ConfigurationError(f"the recording {file} cannot be written: {error.strerror}") from None


def _recording(content: Any) -> Recording:
    if not isinstance(content, dict) or content.get("policyguard_recording") != _FORMAT:
        raise ValueError(f'it must be an object with "policyguard_recording": {_FORMAT}')
    model = content["model"]
    if not isinstance(model, dict) or not all(
        value is None or isinstance(value, str) for value in model.values()
    ):
        raise ValueError("'model' must hold texts")
    recording = Recording(ModelIdentity(**model))
    for number, entry in enumerate(content["answers"], 1):
        if not isinstance(entry, dict) or set(entry) != set(_KEYS):
            raise ValueError(f"answer {number} must have {', '.join(_KEYS)}")
        if not all(isinstance(entry[name], str) for name in _KEYS[:4]):
            raise ValueError(f"answer {number}: {', '.join(_KEYS[:4])} must be texts")
        if (entry["picture"], entry["fingerprint"], entry["reading"]) in recording.entries:
            raise ValueError(f"answer {number} is there twice")
        try:
            answer = _result(entry["answer"])
            if isinstance(answer, Assessment) and answer.reading is not Reading(entry["reading"]):
                raise ValueError(f"it is of the reading '{answer.reading}'")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"answer {number} is no assessment: {error}") from None
        recording.add(entry)
    return recording


def _key(request: AssessmentRequest) -> _Key:
    frame = request.frame
    pixels = hashlib.sha256(f"{frame.mode} {frame.size}\n".encode() + frame.tobytes()).hexdigest()
    return pixels, request.policy.fingerprint, request.reading.value


def _answer(result: Assessment | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"refused": result.reason}
    answer = result.to_dict()
    del answer["cached"]
    return answer


_FIELDS = {field.name for field in fields(Assessment)} - {"cached"}


def _result(answer: Mapping[str, Any]) -> Assessment | Failure:
    if set(answer) == {"refused"}:
        return Failure(FailureKind.REFUSED, str(answer["refused"]))
    if unknown := set(answer) - _FIELDS:
        raise ValueError(f"{min(unknown)!r} is not known")
    numbers = [answer.get(name) for name in ("p_unsafe", "label_mass", "p_undecided", "category_mass")]
    numbers.append(answer.get("blind_below", 0.0))
    shares = answer.get("rule_scores")
    numbers += [] if shares is None else list(shares.values())
    if None in numbers[4:] or not all(
        n is None or (isinstance(n, int | float) and not isinstance(n, bool)) for n in numbers
    ):
        raise ValueError("its scores must be numbers")
    texts = [answer.get("category"), answer.get("rationale"), *answer.get("notes", ())]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError("its category, rationale and notes must be texts")
    if answer.get("scoring", "joint") not in ("joint", "per_rule"):
        raise ValueError("its scoring must be joint or per_rule")
    given = dict(answer) | {
        "rating": Rating(answer["rating"]),
        "reading": Reading(answer["reading"]),
        "notes": tuple(answer.get("notes", ())),
    }
    return Assessment(**given)


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not a value of JSON")
