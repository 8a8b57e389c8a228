"""From opened images to decisions: what the backend is asked, in which rounds, how answers are checked.

``judge`` is a generator, so that callers with and without an event loop share it: it yields requests, takes
the answers to them, and returns one decision per image.

Covered: answers of the wrong number or type, and any exception while deciding, are ERROR for the images
concerned. A mild rule never hides a severe one: where rules compete for one category and a violation got a
milder action than some other rule has, the frame is put to the model again under the stricter rules alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from policyguard.assessment import Failure, FailureKind, Reading, Result
from policyguard.backends.base import AssessmentRequest, checked
from policyguard.deciding import Decision, combine, decide, decide_listed
from policyguard.outcomes import Action, Outcome

if TYPE_CHECKING:
    from policyguard.images import Image
    from policyguard.lists import Hit
    from policyguard.policy import ResolvedPolicy

__all__ = ["Opened", "judge"]


@dataclass(frozen=True, slots=True)
class Opened:
    """An image after decoding, or why it could not be decoded; ``seconds`` is what that took.

    ``began`` is when decoding began and ``deadline`` when its check must be done, both on
    ``time.monotonic``'s clock. ``hits``: the lists of known images that it is on. ``sha256``: of its bytes,
    also where they could not be decoded.
    """

    source: str
    image: Image | Failure
    seconds: float
    began: float = 0.0
    deadline: float | None = None
    hits: tuple[Hit, ...] = ()
    sha256: str | None = None


def judge(
    opened: Sequence[Opened],
    policies: Sequence[ResolvedPolicy],
    reading: Reading,
    *,
    timeout: float | None = None,
) -> Generator[list[AssessmentRequest], Sequence[Result], list[Decision]]:
    """One decision per image, the worst over its frames and all policies.

    Nothing is asked about an image that is past its deadline; ``timeout`` is how its reason calls that.
    """
    decisions: list[list[Decision]] = [[] for _ in opened]
    asked: list[tuple[int, AssessmentRequest]] = []
    for index, item in enumerate(opened):
        if item.hits:
            failure = item.image if isinstance(item.image, Failure) else None
            listed, all_said = decide_listed(policies, item.hits, readable=failure is None)
            decisions[index] += listed
            if all_said:
                if failure is not None:  # who accepts what the list says has still not seen the image
                    unread = [decide(policy, failure) for policy in policies]
                    decisions[index] += [one for one in unread if one.action is Action.BLOCK]
                continue
        for policy in policies:
            image = _frames_for(policy, item.image)
            if isinstance(image, Failure):
                decisions[index].append(decide(policy, image))
            else:
                asked.extend((index, request) for request in _requests(image, policy, reading, item.deadline))
    while asked := _in_time(asked, decisions, timeout):
        results = checked((yield [request for _, request in asked]), len(asked))
        further = []
        for (index, request), result in zip(asked, results, strict=True):
            decision = _decided(request.policy, result)
            stricter = _stricter(request.policy, result, decision)
            if stricter is not None:
                note = "asked again about the rules with a more severe action"
                decision = replace(decision, notes=(*decision.notes, note))
                further.append((index, replace(request, policy=stricter)))
            decisions[index].append(decision)
        asked = further
    return [combine(one) for one in decisions]


def _in_time(
    asked: list[tuple[int, AssessmentRequest]], decisions: list[list[Decision]], timeout: float | None
) -> list[tuple[int, AssessmentRequest]]:
    """What is not past its deadline of ``asked``; the others are decided."""
    now, waiting = monotonic(), []
    for index, request in asked:
        if request.deadline is None or now < request.deadline:
            waiting.append((index, request))
        else:
            within = "in time" if timeout is None else f"within {timeout:g} s"
            late = Failure(FailureKind.ERROR, f"did not finish {within}", retryable=True)
            decisions[index].append(decide(request.policy, late))
    return waiting


def _requests(
    image: Image, policy: ResolvedPolicy, reading: Reading, deadline: float | None
) -> Iterator[AssessmentRequest]:
    from policyguard.images.frames import frame_key

    for number, frame in enumerate(image.frames):
        key = frame_key(image, number)
        yield AssessmentRequest(frame, policy, reading, key, deadline, image.plain)


def _frames_for(policy: ResolvedPolicy, image: Image | Failure) -> Image | Failure:
    if isinstance(image, Failure) or not image.partial or policy.frames == "sample":
        return image
    reason = f"it has {image.frame_count} different frames, and policy '{policy.id}' wants all of them judged"
    return Failure(FailureKind.UNSCANNABLE, reason)


def _decided(policy: ResolvedPolicy, result: Result) -> Decision:
    try:
        return decide(policy, result)
    except Exception as error:
        reason = f"the backend's answer cannot be decided on: {type(error).__name__}: {error}"
        return decide(policy, Failure(FailureKind.ERROR, reason))


def _stricter(policy: ResolvedPolicy, result: Result, decision: Decision) -> ResolvedPolicy | None:
    """``policy`` without the rules that are no more severe than ``decision``, if that leaves a question.

    In a joint reading the model names one category. Next to a plain violation of a rule that only flags, the
    others get next to no probability, so what they say has to be asked for by itself.
    """
    if decision.outcome is not Outcome.VIOLATES or isinstance(result, Failure) or result.scoring != "joint":
        return None
    severity = decision.action.severity
    severe = [
        rule
        for rule in policy.rules
        if rule.status != "exempt" and (rule.action or policy.action).severity > severity
    ]
    rules = tuple(rule for rule in policy.rules if rule.status == "exempt" or rule in severe)
    return replace(policy, rules=rules) if severe and len(rules) < len(policy.rules) else None
