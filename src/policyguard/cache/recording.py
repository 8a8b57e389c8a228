"""Answers of a guard model, recorded in one run and replayed in others, so that suites run without a model.

A recording is JSON with one answer per line, sorted, so that a change is a line in a diff. It holds scores
and text, and no image. An answer is found by the pixels (SHA-256), what the model sees of the policy (its
fingerprint) and the reading, so another image, another wording or an image never asked about has none. It is
replayed under the thresholds it was recorded for, and under others if it holds enough for them.

Covered: a request without such an answer raises, whatever a policy's ``outcomes`` say, and what cannot be
read is refused as a whole; failures of the model are not recorded. Not covered: who may edit the file, which
decides what passes; leave that to review.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Reading, Result
from policyguard.backends.base import AssessmentRequest, Backend, WrappingBackend
from policyguard.cache.codec import from_fields, to_fields
from policyguard.cache.keys import asked, frame_digest, holds_enough
from policyguard.errors import ConfigurationError
from policyguard.strict.files import write_atomically
from policyguard.strict.jsontext import JsonError, parse_json

if TYPE_CHECKING:
    from policyguard.images import Image

__all__ = ["Recording", "RecordingBackend", "ReplayBackend", "read_recording", "write_recording"]

_FORMAT = 2
_MAX_BYTES = 64 * 1024 * 1024
_FIELDS = ("policy", "frame", "fingerprint", "reading", "decisions", "answer")
"""``decisions`` is the fingerprint of the thresholds that the model was asked for; empty if not known."""
_Question = tuple[str, str, str]

Entry = dict[str, Any]
"""One recorded answer, JSON-ready."""


class Recording:
    """Recorded answers of one model, by frame, policy, reading and thresholds."""

    def __init__(self, model: ModelIdentity, entries: Iterable[Entry] = ()) -> None:
        self.model = model
        self._entries: dict[_Question, dict[str, Entry]] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Keep ``entry`` in place of the one for the same thresholds, and of one whose are not known."""
        answers = self._entries.setdefault((entry["frame"], entry["fingerprint"], entry["reading"]), {})
        answers.pop("", None)
        answers[entry["decisions"]] = entry

    @property
    def entries(self) -> list[Entry]:
        """All answers, in the order of the file."""
        every = [entry for answers in self._entries.values() for entry in answers.values()]
        return sorted(every, key=lambda entry: [entry[name] for name in _FIELDS[:-1]])


class RecordingBackend(WrappingBackend):
    """Keeps what ``inner`` answers, in ``entries``. Thread-safe."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._entries: list[Entry] = []
        self._lock = Lock()

    @property
    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def recall_image(self, source: object, **options: Any) -> Image:
        """Decoded, whatever ``inner`` would do: an answer is recorded under the pixels."""
        return Backend.recall_image(self, source, **options)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        results = self.inner.assess(requests)
        self._keep(requests, results)
        return results

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        results = await self.inner.aassess(requests)
        await asyncio.to_thread(self._keep, requests, results)
        return results

    def _keep(self, requests: Sequence[AssessmentRequest], results: Sequence[Result]) -> None:
        entries = []
        for request, result in zip(requests, results, strict=False):  # the guard complains about a mismatch
            if isinstance(result, Failure) and (result.kind is not FailureKind.REFUSED or result.retryable):
                continue
            try:  # plain texts and numbers, which xdist hands on; what cannot be read back is no answer
                answer = json.loads(json.dumps(_answer(result), allow_nan=False))
                _result(answer)
            except ValueError:
                continue
            frame, fingerprint, reading = _question(self.model, request)
            decisions = request.policy.decision_fingerprint
            values = (request.policy.id, frame, fingerprint, reading, decisions, answer)
            entries.append(dict(zip(_FIELDS, values, strict=True)))
        with self._lock:
            self._entries += entries


class ReplayBackend(Backend):
    """Answers from a recording, and raises ConfigurationError where it has no answer that is enough.

    It accepts every policy: the model accepted those it was recorded with, and for others there is no answer.
    """

    def __init__(self, recording: Recording, file: Path) -> None:
        self.file = file
        self._model = recording.model
        self._answers: dict[_Question, dict[str, Result]] = {}
        for entry in recording.entries:
            question = entry["frame"], entry["fingerprint"], entry["reading"]
            self._answers.setdefault(question, {})[entry["decisions"]] = _result(entry["answer"])

    @property
    def model(self) -> ModelIdentity:
        return self._model

    @property
    def preferred_batch(self) -> int:
        return 16

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return [self._replay(request) for request in requests]

    def _replay(self, request: AssessmentRequest) -> Result:
        question, policy = _question(self.model, request), request.policy
        answers = self._answers.get(question, {})
        if (same := answers.get(policy.decision_fingerprint)) is not None:
            return same
        for answer in answers.values():
            if isinstance(answer, Failure) or holds_enough(answer, policy, request.reading):
                return answer
        frame, fingerprint, reading = question
        known = {words for pixels, words, _ in self._answers if pixels == frame}
        if answers:
            why = f"the scores that the thresholds of policy '{policy.id}' need today were not read"
        elif not known:
            why = "this image is not in it"
        elif fingerprint in known:
            why = f"this image is in it, but not in the reading '{reading}'"
        else:
            why = f"this image is in it, but not under policy '{policy.id}' as it is worded now"
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
        content = parse_json(data)
    except JsonError as error:
        raise ConfigurationError(f"{file} is not a recording: it {error}") from None
    try:
        return _recording(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigurationError(f"{file} is not a recording: {problem}") from None


def write_recording(file: Path, recording: Recording) -> None:
    """Put ``recording`` in place of ``file``. Raises ConfigurationError if that cannot be written."""
    answers = ",\n".join(json.dumps(entry, allow_nan=False) for entry in recording.entries)
    model = json.dumps(recording.model.to_dict())
    text = f'{{"policyguard_recording": {_FORMAT},\n"model": {model},\n"answers": [\n{answers}\n]}}\n'
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError as error:
        raise ConfigurationError(f"the recording {file} cannot be written: {error.strerror}") from None


def _recording(content: Any) -> Recording:
    if not isinstance(content, dict) or content.get("policyguard_recording") not in (1, _FORMAT):
        raise ValueError(f'it must be an object with "policyguard_recording": {_FORMAT}')
    model = content["model"]
    if not isinstance(model, dict) or not all(
        value is None or isinstance(value, str) for value in model.values()
    ):
        raise ValueError("'model' must hold texts")
    entries: dict[tuple[str, ...], Entry] = {}
    for number, entry in enumerate(content["answers"], 1):
        if content["policyguard_recording"] == 1 and isinstance(entry, dict) and "picture" in entry:
            entry["frame"], entry["decisions"] = entry.pop("picture"), ""  # as the first format has it
        if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
            raise ValueError(f"answer {number} must have {', '.join(_FIELDS)}")
        if not all(isinstance(entry[name], str) for name in _FIELDS[:-1]):
            raise ValueError(f"answer {number}: {', '.join(_FIELDS[:-1])} must be texts")
        question = tuple(entry[name] for name in _FIELDS[1:-1])
        if question in entries:
            raise ValueError(f"answer {number} is there twice")
        try:
            answer = _result(entry["answer"])
            if isinstance(answer, Assessment) and answer.reading is not Reading(entry["reading"]):
                raise ValueError(f"it is of the reading '{answer.reading}'")
        except (ValueError, TypeError) as error:
            raise ValueError(f"answer {number} is not an assessment: {error}") from None
        entries[question] = entry
    return Recording(ModelIdentity(**model), entries.values())


def _question(model: ModelIdentity, request: AssessmentRequest) -> _Question:
    return frame_digest(request), asked(model, request.policy), request.reading.value


def _answer(result: Result) -> dict[str, Any]:
    return {"refused": result.reason} if isinstance(result, Failure) else to_fields(result)


def _result(answer: Any) -> Result:
    if isinstance(answer, dict) and set(answer) == {"refused"}:
        return Failure(FailureKind.REFUSED, str(answer["refused"]))
    return from_fields(answer)
