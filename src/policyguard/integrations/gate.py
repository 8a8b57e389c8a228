"""A gate behind an image generator: generate, check, try again with a hint, give up.

Covered: only images that the guard allows are handed out. What is discarded is described and not kept. An
image that could not be judged is discarded too, and gives no hint, for nothing is known of it; where the
guard model fails twice in a row, no more images are made for it. Not covered: what ``generate`` keeps itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from policyguard.errors import BackendError, ConfigurationError, ImageError
from policyguard.integrations.extract.shapes import data_uri
from policyguard.integrations.screen.engine import require_guard
from policyguard.outcomes import Outcome
from policyguard.verdict import Finding, PolicyViolation, Verdict

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.integrations.extract import Replacement
    from policyguard.integrations.screen.altered import PassOn, PlainFiles

__all__ = ["Attempt", "GateResult", "Hint", "agate", "gate", "rules_hint"]

Hint = Callable[[Sequence["Attempt"]], str | None]
"""Makes the hint for the next attempt of all attempts so far."""

_OUTAGE = 2


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of ``generate``: the hint it got, the verdicts on its images, and what became of them.

    ``discarded`` has one line for every image that was thrown away, or one that says that none came.
    """

    number: int
    hint: str | None
    verdicts: tuple[Verdict, ...]
    discarded: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """The worst of the verdicts; None if there was no image."""
        return max(self.verdicts, key=_severity, default=None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The rules that blocked images break, each once."""
        blocked = (verdict for verdict in self.verdicts if not verdict.allowed)
        finding = (finding for verdict in blocked for finding in verdict.findings if finding.violates)
        return tuple({(finding.policy, finding.rule): finding for finding in finding}.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "hint": self.hint,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "discarded": list(self.discarded),
        }


@dataclass(frozen=True, slots=True)
class GateResult:
    """How it went. ``images`` were allowed, and are empty unless ``accepted``.

    ``stopped`` says why there were fewer attempts than asked for.
    """

    images: tuple[object, ...]
    attempts: tuple[Attempt, ...]
    accepted: bool
    stopped: str | None = None

    @property
    def image(self) -> Any:
        """The image that was allowed, the first of several; None if there is none."""
        return self.images[0] if self.images else None

    @property
    def verdict(self) -> Verdict | None:
        """The worst verdict of the last attempt; None if that made no image."""
        return self.attempts[-1].verdict

    @property
    def degraded(self) -> bool:
        """Whether the policy let an image through that could not be judged."""
        return self.accepted and any(verdict.degraded for verdict in self.attempts[-1].verdicts)

    def __bool__(self) -> bool:
        raise TypeError("a GateResult is neither true nor false: ask for result.accepted")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, without image bytes."""
        return {
            "accepted": self.accepted,
            "images": len(self.images),
            "degraded": self.degraded,
            "stopped": self.stopped,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }


def gate(
    generate: Callable[[str | None, int], object],
    guard: Guard,
    *,
    attempts: int = 3,
    hint: Hint | Literal["rules"] | None = "rules",
    keep: Literal["all", "allowed"] = "all",
    explain: bool | None = None,
    raise_: bool = False,
    pass_on: PassOn = "judged",
) -> GateResult:
    """Call ``generate(hint, number)`` until the guard allows what it makes, ``attempts`` times at most.

    Args:
        generate: gives an image, or a list or tuple of images, in any form that ``guard.check`` takes.
            Of an open file, a BytesIO of what was judged is handed out. ``number`` counts from 1; ``hint``
            is None until an image has been found to violate.
        hint: ``"rules"`` says in plain words what earlier images broke; or a function of the attempts so
            far; or None for no hint.
        keep: of several images of one call, ``"all"`` must be allowed, or else all are discarded;
            ``"allowed"`` hands out those that are, and tries again if none is.
        explain: as in ``guard.check``.
        raise_: raise PolicyViolation, or BackendError where nothing was judged, instead of giving up quietly.
        pass_on: ``"judged"`` hands out a plain PNG or JPEG of what was judged in the place of bytes, open
            files and data URIs that viewers may show otherwise; ``"original"`` hands out what ``generate``
            made. Paths and pixels stay what they are.

    What ``generate`` raises is raised on. Raises UsageError as the guard does.
    """
    state = _State(guard, attempts, hint, keep, pass_on)
    while state.goes_on:
        output = generate(state.hint, state.number)
        if inspect.isawaitable(output):
            getattr(output, "close", lambda: None)()
            raise ConfigurationError("generate is asynchronous", hint="use `await agate(...)`")
        images = _images(output)
        state.judged(images, list(guard.check_many(images, explain=explain)))
    return state.result(raise_)


async def agate(
    generate: Callable[[str | None, int], Awaitable[object] | object],
    guard: Guard,
    *,
    attempts: int = 3,
    hint: Hint | Literal["rules"] | None = "rules",
    keep: Literal["all", "allowed"] = "all",
    explain: bool | None = None,
    raise_: bool = False,
    pass_on: PassOn = "judged",
) -> GateResult:
    """``gate`` without blocking the event loop; a ``generate`` that is not asynchronous runs in a thread."""
    state = _State(guard, attempts, hint, keep, pass_on)
    while state.goes_on:
        output = await _called(generate, state.hint, state.number)
        images = _images(output)
        state.judged(images, [verdict async for verdict in guard.acheck_many(images, explain=explain)])
    return await asyncio.to_thread(state.result, raise_)


def rules_hint(attempts: Sequence[Attempt], guard: Guard) -> str | None:
    """What the images so far broke, in the policy's own words: titles and descriptions of rules."""
    broken = {(finding.policy, finding.rule): None for attempt in attempts for finding in attempt.findings}
    lines = []
    for policy in guard.policies:
        for rule in policy.rules:
            if (policy.id, rule.id) in broken:
                about = f": {rule.description.strip()}" if rule.description else ""
                lines.append(f"{rule.title}{about}".rstrip("."))
    if not lines:
        return None
    rules = ". ".join(dict.fromkeys(lines))
    return f"The last image broke these rules, and the next must keep to them. {rules}."


class _State:
    """What the synchronous and the asynchronous gate share: everything but the waiting."""

    def __init__(
        self,
        guard: Guard,
        attempts: int,
        hint: Hint | Literal["rules"] | None,
        keep: Literal["all", "allowed"],
        pass_on: PassOn,
    ) -> None:
        require_guard(guard)
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise ConfigurationError(f"attempts must be a whole number from 1, not {attempts!r}")
        if hint not in ("rules", None) and not callable(hint):
            raise ConfigurationError(f'hint must be "rules", a function or None, not {hint!r}')
        if keep not in ("all", "allowed"):
            raise ConfigurationError(f'keep must be "all" or "allowed", not {keep!r}')
        from policyguard.integrations.screen.altered import plain_files  # loads PIL

        self.files = plain_files(pass_on, sample=any(policy.frames == "sample" for policy in guard.policies))
        self.guard = guard
        self.limit = attempts
        self.builder = hint
        self.keep = keep
        self.hint: str | None = None
        self.attempts: list[Attempt] = []
        self.images: tuple[object, ...] = ()
        self.stopped: str | None = None

    @property
    def number(self) -> int:
        return len(self.attempts) + 1

    @property
    def goes_on(self) -> bool:
        return not self.images and self.stopped is None and self.number <= self.limit

    def judged(self, images: Sequence[object], verdicts: Sequence[Verdict]) -> None:
        """Take note of one attempt."""
        if len(verdicts) != len(images):  # nothing unscanned passes
            raise BackendError(f"there are {len(verdicts)} verdicts for {len(images)} images")
        kept = [verdict.allowed for verdict in verdicts]
        if self.keep == "all" and not all(kept):
            kept = [False] * len(kept)
        self.images = tuple(image for image, keeps in zip(images, kept, strict=True) if keeps)
        discarded = tuple(
            f"image {place} of {len(images)}: {_why(verdict)}"
            for place, (verdict, keeps) in enumerate(zip(verdicts, kept, strict=True), 1)
            if not keeps
        )
        if not images:
            discarded = ("no image was generated",)
        self.attempts.append(Attempt(self.number, self.hint, tuple(verdicts), discarded))
        if self.images:
            return
        last = self.attempts[-_OUTAGE:]
        if len(last) == _OUTAGE and all(_outage(attempt) for attempt in last):
            self.stopped = f"the guard model failed {_OUTAGE} times in a row"
        elif self.attempts[-1].findings and self.goes_on:
            self.hint = self._next_hint()

    def result(self, raise_: bool) -> GateResult:
        images = tuple(self._handed_out(image) for image in self.images)
        result = GateResult(images, tuple(self.attempts), bool(self.images), self.stopped)
        if raise_ and not result.accepted:
            if result.verdict is None:
                raise BackendError(f"no image was generated in {len(self.attempts)} attempts")
            raise PolicyViolation(result.verdict)
        return result

    def _handed_out(self, image: object) -> object:
        new = None if self.files is None else self._plain(image, self.files)
        if isinstance(image, io.BytesIO):
            image.seek(0)
            return image if new is None else io.BytesIO(new.data)
        if new is None:
            return image
        return data_uri(new) if isinstance(image, str) else new.data

    def _plain(self, image: object, files: PlainFiles) -> Replacement | None:
        """What to hand out for encoded bytes that are not plain."""
        from policyguard.images import Limits, is_settled
        from policyguard.images.refusal import boundary
        from policyguard.images.sources import load

        try:
            with boundary("the image"):
                if isinstance(image, io.BytesIO):
                    image = image.getvalue()
                encoded = isinstance(image, bytes | bytearray | memoryview) or is_settled(image)
                data = load(image, Limits()) if encoded else None
                if not isinstance(data, bytes):
                    return None
                return files.of(hashlib.sha256(data).digest(), data)
        except ImageError:
            if any(verdict.degraded for verdict in self.attempts[-1].verdicts):  # let through unjudged
                return None
            raise

    def _next_hint(self) -> str | None:
        if self.builder == "rules":
            return rules_hint(self.attempts, self.guard)
        if self.builder is None:
            return None
        hint = self.builder(tuple(self.attempts))
        if hint is not None and not isinstance(hint, str):
            raise ConfigurationError(f"hint must give a text or None, not a {type(hint).__name__}")
        return hint


async def _called(
    generate: Callable[[str | None, int], Awaitable[object] | object], hint: str | None, number: int
) -> object:
    if inspect.iscoroutinefunction(generate):
        return await generate(hint, number)
    output = await asyncio.to_thread(generate, hint, number)
    return await output if inspect.isawaitable(output) else output


def _images(output: object) -> list[object]:
    """The images of one call. A lone one is a list of one; None is an empty one."""
    if output is None:
        return []
    return [_held(image) for image in output] if isinstance(output, list | tuple) else [_held(output)]


def _held(image: object) -> object:
    """An open file is read here, once: what is judged is all that its reader gets, from the beginning."""
    read = getattr(image, "read", None)
    if not callable(read) or hasattr(image, "__array_interface__"):
        return image
    from policyguard.images import Limits

    data, limit = bytearray(), Limits().max_bytes
    while len(data) <= limit:
        part = read(limit + 1 - len(data))
        if not isinstance(part, bytes | bytearray | memoryview):
            getattr(part, "close", lambda: None)()
            return image  # the guard says what is wrong with it
        if not part:
            break
        data += part
    return io.BytesIO(data)


def _severity(verdict: Verdict) -> tuple[int, int, float]:
    return verdict.action.severity, list(Outcome).index(verdict.outcome), verdict.score or 0.0


def _outage(attempt: Attempt) -> bool:
    return any(verdict.outcome is Outcome.ERROR for verdict in attempt.verdicts)


def _why(verdict: Verdict) -> str:
    if verdict.allowed:
        return "allowed, and discarded with the others"
    if not verdict.outcome.judged:
        return f"could not be judged ({verdict.outcome}): {verdict.reason or 'no reason is known'}"
    return verdict.summary().removeprefix(f"{verdict.source}: ")
