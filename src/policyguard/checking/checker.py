"""One check, from the source to the verdict, blocking or on an event loop.

Covered: whatever a backend raises or hands back becomes the outcome of the images it was asked about, but
for usage errors, which raise. An image that is past its deadline before a backend is asked is an ERROR.
Not covered: a backend in this process cannot be interrupted; an answer that comes late is still an answer.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from policyguard.assessment import Failure, FailureKind, Reading, Result, Timings
from policyguard.backends.base import AssessmentRequest, failures
from policyguard.checking.rounds import Opened, judge
from policyguard.deciding import Decision
from policyguard.errors import ImageError, UsageError
from policyguard.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.backends.stats import Counters
    from policyguard.checking.shadow import Sink
    from policyguard.images import Image
    from policyguard.lists import HashList, Hit
    from policyguard.policy import ResolvedPolicy

__all__ = ["Checker", "Normalise"]

Results = Sequence[Result]
Normalise: TypeAlias = bool | Literal["unless plain"]


@dataclass(frozen=True, slots=True)
class Checker:
    """Policies, backend and deadline of one guard. ``timeout`` is seconds per image, or ``None``.

    With ``normalise``, verdicts on images that may pass hold a plain file of what was judged; with
    ``"unless plain"``, only where the image's own file is not plain. Where none can be made, the image counts
    as one that cannot be judged. ``shadows`` get what was judged, ``counters`` what it took.
    """

    policies: tuple[ResolvedPolicy, ...]
    backend: Backend
    timeout: float | None = None
    normalise: Normalise = False
    shadows: tuple[Sink, ...] = ()
    lists: tuple[HashList, ...] = ()
    counters: Counters | None = None

    def open(self, source: object) -> Opened:
        """Decode an image; what is wrong with it is in the result. Raises UsageError only."""
        from policyguard.images import decode, describe

        began = monotonic()
        sample = any(policy.frames == "sample" for policy in self.policies)
        plan: Literal["all", "sample"] = "sample" if sample else "all"
        image: Image | Failure
        sha256: str | None
        try:
            decoded = (
                decode(source, frames=plan)  # the pixels are wanted, whether or not the scores are known
                if self.normalise
                else self.backend.recall_image(source, frames=plan, policies=self.policies)
            )
            image, sha256 = decoded, decoded.sha256
        except ImageError as error:
            image = Failure(FailureKind.UNSCANNABLE, str(error).replace("\n  hint: ", "; "))
            sha256 = error.sha256
        hits: tuple[Hit, ...] = ()
        if self.lists:
            image, hits = self._looked_up(source, image)
        seconds = monotonic() - began
        if self.counters is not None:
            self.counters.spent("decode", seconds)
        return Opened(describe(source), image, seconds, began, hits=hits, sha256=sha256)

    def _looked_up(self, source: object, image: Image | Failure) -> tuple[Image | Failure, tuple[Hit, ...]]:
        """The lists that the image is on. One that cannot be looked up is a Failure: it may be on any."""
        from policyguard.images import Limits
        from policyguard.images.sources import load
        from policyguard.lists import look_up

        data = None
        if isinstance(image, Failure):
            with suppress(Exception):  # it was read before, and the failure says what is wrong
                loaded = load(source, Limits())
                data = loaded if isinstance(loaded, bytes) else None
        try:
            return image, look_up(self.lists, image, data)
        except UsageError:
            raise
        except Exception as error:
            reason = f"cannot be looked up on the lists of known images: {type(error).__name__}: {error}"
            return Failure(FailureKind.ERROR, reason), ()

    def judge(self, opened: Sequence[Opened], reading: Reading) -> list[Verdict]:
        """One verdict per image, in order; the backend gets all of them in one call."""
        from policyguard.checking import telemetry

        with telemetry.observed(opened, self.policies) as report:
            rounds = self._rounds(opened, reading)
            try:
                requests = next(rounds)
                while True:
                    try:
                        with self._asking():
                            results: Results = self.backend.assess(requests)
                    except Exception as error:
                        results = failures(error, len(requests))
                    requests = rounds.send(results)
            except StopIteration as done:
                report.extend(self._finished(opened, done.value))
        self._counted(report)
        return report

    async def ajudge(self, opened: Sequence[Opened], reading: Reading) -> list[Verdict]:
        """``judge`` without blocking the event loop."""
        import asyncio

        from policyguard.checking import telemetry

        with telemetry.observed(opened, self.policies) as report:
            rounds = self._rounds(opened, reading)
            try:
                requests = next(rounds)
                while True:
                    try:
                        with self._asking():
                            results: Results = await self.backend.aassess(requests)
                    except asyncio.CancelledError:
                        task = asyncio.current_task()
                        if task is None or task.cancelling():
                            raise
                        # Nobody cancelled this check: the backend lost its own work.
                        results = failures(RuntimeError("the backend's call was cancelled"), len(requests))
                    except Exception as error:
                        results = failures(error, len(requests))
                    requests = rounds.send(results)
            except StopIteration as done:
                verdicts: list[Verdict] = done.value
                if self.normalise:
                    report.extend(await asyncio.to_thread(self._finished, opened, verdicts))
                else:
                    report.extend(self._finished(opened, verdicts))
        self._counted(report)
        return report

    def _asking(self) -> AbstractContextManager[None]:
        return nullcontext() if self.counters is None else self.counters.timed("judge")

    def _counted(self, verdicts: Sequence[Verdict]) -> None:
        if self.counters is not None:
            self.counters.add(images=len(verdicts), cached=sum(verdict.cached for verdict in verdicts))

    def _finished(self, opened: Sequence[Opened], verdicts: list[Verdict]) -> list[Verdict]:
        verdicts = self._normalised(opened, verdicts)
        if not self.shadows:
            return verdicts
        from policyguard.checking.shadow import cast_shadows

        return cast_shadows(self.shadows, opened, verdicts)

    def _normalised(self, opened: Sequence[Opened], verdicts: list[Verdict]) -> list[Verdict]:
        """``verdicts``, those on images that may pass with a file to pass on if that is wanted."""
        if not self.normalise:
            return verdicts
        from policyguard.images.written import plain_file

        result = []
        for item, verdict in zip(opened, verdicts, strict=True):
            image = item.image
            if (
                verdict.allowed
                and not isinstance(image, Failure)
                and not (image.is_plain and self.normalise == "unless plain")
            ):
                try:
                    verdict = replace(verdict, normalised=plain_file(image))
                except ImageError as error:
                    reason = str(error).replace("\n  hint: ", "; ")
                    failure = Failure(FailureKind.UNSCANNABLE, reason)
                    failed = replace(item, image=failure, deadline=None, hits=())
                    (verdict,) = replace(self, normalise=False, shadows=(), counters=None).judge(
                        [failed], Reading.FAST
                    )
            result.append(verdict)
        return result

    def _rounds(
        self, opened: Sequence[Opened], reading: Reading
    ) -> Generator[list[AssessmentRequest], Results, list[Verdict]]:
        """``rounds.judge`` with deadlines, and verdicts for its decisions."""
        started = monotonic()
        if self.timeout is not None:
            # What an image waits for its turn among many does not count, what decoding it took does.
            opened = [replace(item, deadline=started + self.timeout - item.seconds) for item in opened]
        parts = [part for policy in self.policies for part in self.backend.parts(policy)]
        decisions = yield from judge(opened, parts, reading, timeout=self.timeout)
        frames = sum(len(item.image.frames) for item in opened if not isinstance(item.image, Failure))
        share = (monotonic() - started) / max(1, frames)
        return [
            self._verdict(item, decision, reading, share)
            for item, decision in zip(opened, decisions, strict=True)
        ]

    def _verdict(self, item: Opened, decision: Decision, reading: Reading, share: float) -> Verdict:
        image = None if isinstance(item.image, Failure) else item.image
        frames = len(image.frames) if image else 0
        model_seconds = share * frames
        evidence = Evidence(
            policies=tuple(_policy_evidence(policy) for policy in self.policies),
            model=self.backend.model,
            reading=reading,
            image_sha256=item.sha256,
            size=image.size if image else None,
            frames=frames,
            label_mass=decision.label_mass,
            scoring=decision.scoring,
            notes=(*(image.notes if image else ()), *decision.notes),
            timings=Timings(item.seconds, model_seconds, item.seconds + model_seconds),
            cached=decision.cached,
            unexplained=decision.unexplained,
            unchecked=decision.unchecked,
            stages=decision.stages,
            known=tuple(hit.to_dict() for hit in item.hits),
        )
        return Verdict(
            source=item.source,
            outcome=decision.outcome,
            action=decision.action,
            score=decision.score,
            findings=decision.findings,
            rationale=decision.rationale,
            reason=decision.reason,
            evidence=evidence,
            degraded=decision.degraded,
            retryable=decision.retryable,
            partial=image.partial if image else False,
        )


def _policy_evidence(policy: ResolvedPolicy) -> dict[str, Any]:
    """A policy in the evidence: which one, and the reasons for what it weakens."""
    evidence: dict[str, Any] = {
        "id": policy.id,
        "version": policy.version,
        "fingerprint": policy.fingerprint,
    }
    if policy.calibration is not None:
        evidence["calibration"] = policy.calibration.model_dump()
    if policy.weakenings:
        evidence["weakenings"] = [weakening.to_dict() for weakening in policy.weakenings]
    return evidence
