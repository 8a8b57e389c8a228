"""For your own test suite: a backend that gives the answers you choose, through the real Guard.

from PIL import Image
from policyguard import Guard, Outcome
from policyguard.errors import UnavailableError
from policyguard.testing import FakeBackend

backend = FakeBackend(0.02).enqueue(0.97, UnavailableError("the server is down"), RuntimeError("a bug"))
guard = Guard(policy="safeedit/l3", backend=backend)
verdicts = [guard.check(Image.new("RGB", (8, 8))) for _ in range(4)]
outcomes = [verdict.outcome for verdict in verdicts]
assert outcomes == [Outcome.VIOLATES, Outcome.ERROR, Outcome.ERROR, Outcome.COMPLIES]
assert [verdict.retryable for verdict in verdicts] == [False, True, False, False]
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from policyguard.assessment import Assessment, Failure, ModelIdentity, Rating
from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.errors import ConfigurationError
from policyguard.strict.explain import nearest

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["FakeBackend"]

Answer: TypeAlias = float | Assessment | Failure | Exception
"""A score P(unsafe), a whole assessment, a failure, or an exception to raise."""


_KEPT_BYTES: Final = 64 * 2**20


class FakeBackend(Backend):
    """A Backend without a model.

    Args:
        answer: the answer to every request, or a function from request to answer.
        rules: P(rule | unsafe) for scores given as numbers; default: all on the first not exempt. Asked once
            more under other rules alone, as a guard does where one only flags, it answers 0. Each must be a
            rule (exempt or not) of a policy that some guard of this backend has, or that it is asked about,
            else ``assess`` raises ConfigurationError: make all guards that share a backend before they ask.
        delay: seconds to sleep per call of ``assess``.
        preferred_batch, preferred_workers: see ``Backend``.

    An exception fails the whole batch it is met in, as a real backend's would; a ``Failure`` one request. For
    an outage that passes give ``UnavailableError``: its verdicts are ``retryable``, those of others are not.
    ``enqueue`` puts answers before it, used up one per request. ``requests`` holds the last
    requests with their frames: at most 1,000, and at most 64 MiB of pixels (the last one always).
    """

    preferred_batch: int = 4
    preferred_workers: int = 1

    def __init__(
        self,
        answer: Answer | Callable[[AssessmentRequest], Answer] = 0.0,
        *,
        rules: dict[str, float] | None = None,
        delay: float = 0.0,
        preferred_batch: int = 4,
        preferred_workers: int = 1,
    ) -> None:
        if not (callable(answer) or isinstance(answer, float | int | Assessment | Failure | Exception)):
            raise ConfigurationError(
                f"FakeBackend answers with a score, an assessment, a failure or an exception, not {answer!r}",
                hint="to name a rule: FakeBackend(0.97, rules={'weapons': 1.0})",
            )
        if rules is not None and not (isinstance(rules, dict) and rules):
            raise ConfigurationError(
                f"FakeBackend(rules=...) takes a share for each of some rules, not {rules!r}",
                hint="such as rules={'weapons': 1.0}; without it, the first rule gets all",
            )
        self.answer = answer
        self.rules = rules
        self.delay = delay
        self.preferred_batch = preferred_batch
        self.preferred_workers = preferred_workers
        self.requests: deque[AssessmentRequest] = deque(maxlen=1000)
        self.calls = 0
        self.closed = False
        self._known: dict[str, str] = {}  # rule -> the first policy that has it
        self._queue: deque[Answer] = deque()
        self._lock = threading.Lock()

    def enqueue(self, *answers: Answer) -> Self:
        """Answer the next requests with ``answers``, in order."""
        self._queue.extend(answers)
        return self

    @property
    def model(self) -> ModelIdentity:
        return ModelIdentity("fake", revision="0", dialect="fake", dialect_version="0", backend="fake")

    def accept(self, policy: ResolvedPolicy) -> None:
        with self._lock:
            for rule in policy.rules:
                self._known.setdefault(rule.id, policy.id)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        if self.closed:
            raise ConfigurationError("this backend is closed")
        for request in requests:
            self.accept(request.policy)
        self._require_rules()
        if self.delay:
            time.sleep(self.delay)
        with self._lock:
            self.calls += 1
            self.requests.extend(requests)
            self._forget()
            answers = [self._next(request) for request in requests]
        return [self._result(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def close(self) -> None:
        self.closed = True

    def _forget(self) -> None:
        """Let the oldest requests go whose pixels no longer fit; callers may have emptied ``requests``."""
        room, fits = _KEPT_BYTES, 0
        for request in reversed(self.requests):
            room -= 3 * request.frame.width * request.frame.height + len(request.encoded or b"")
            if room < 0 and fits:
                break
            fits += 1
        while len(self.requests) > fits:
            self.requests.popleft()

    def _require_rules(self) -> None:
        """A name that no policy has is mistyped: it would let every image pass."""
        with self._lock:
            known = self._known.copy()
        for name in self.rules or ():
            if name not in known:
                policies = " and ".join(f"'{policy}'" for policy in dict.fromkeys(known.values()))
                meant = nearest(name, known)
                raise ConfigurationError(
                    f"FakeBackend(rules=...): there is no rule '{name}' in {policies}",
                    hint=f"did you mean '{meant}'?" if meant else f"there are {', '.join(known)}",
                )

    def _next(self, request: AssessmentRequest) -> Answer:
        if self._queue:
            return self._queue.popleft()
        return self.answer(request) if callable(self.answer) else self.answer

    def _result(self, request: AssessmentRequest, answer: Answer) -> Assessment | Failure:
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Assessment | Failure):
            return answer
        first = next((rule.id for rule in request.policy.rules if rule.status != "exempt"), None)
        shares = {first: 1.0} if self.rules is None else self.rules
        if self.rules is not None and self.rules.keys().isdisjoint(rule.id for rule in request.policy.rules):
            answer = 0.0
        return Assessment(
            rating=Rating.UNSAFE if answer >= 0.5 else Rating.SAFE,
            p_unsafe=answer,
            label_mass=1.0,
            rule_scores={rule.id: shares.get(rule.id, 0.0) for rule in request.policy.rules},
            reading=request.reading,
            rationale="scripted" if request.reading == "explain" else None,
        )
