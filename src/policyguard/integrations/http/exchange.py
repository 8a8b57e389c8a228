"""One request and its response: what is judged, and what becomes of it. No input or output happens here.

Steps that need verdicts are generators: they yield image sites and are sent a ScreenResult, so that the same
code serves blocking and asynchronous clients (``drive``, ``adrive``). ``begin`` goes as far as a step can
without the model.

Covered: request and response bodies, whole or as events. Nothing goes on that holds an image which was
blocked, or which could not be read; nor does a request with one in its address or its headers. Every
failure in here blocks, too. Not covered: addresses of images in addresses, and headers of responses.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from policyguard.errors import ConfigurationError, ImageError, PolicyGuardError, UsageError
from policyguard.integrations.extract import (
    ImageSite,
    Replacement,
    SiteKind,
    made_images,
    opened_addresses,
    provider_refusals,
)
from policyguard.integrations.http.bodies import (
    Body,
    Reading,
    announced,
    is_sound,
    open_body,
    open_head,
    unreadable,
)
from policyguard.integrations.http.codings import CodingError, Decoder, decode_all
from policyguard.integrations.http.message import RequestHead, ResponseHead, Synthetic, media_type
from policyguard.integrations.http.result import Direction, HttpResult
from policyguard.integrations.http.shapes import VERDICT_HEADER, error_event, refusal
from policyguard.integrations.http.streams import Framing
from policyguard.integrations.screen import Screened, ScreenResult
from policyguard.integrations.screen.altered import altered
from policyguard.outcomes import Action, Outcome
from policyguard.strict.lru import LruDict
from policyguard.verdict import PolicyViolation

if TYPE_CHECKING:
    from policyguard.integrations.http.settings import Settings
    from policyguard.verdict import Verdict

__all__ = ["HEAVY", "Blocked", "Core", "Exchange", "Question", "Step", "adrive", "begin", "drive"]

_log = logging.getLogger("policyguard")

T = TypeVar("T")
Question: TypeAlias = tuple[Sequence[ImageSite], bool]
"""What a step asks: the verdicts on these sites; whether nothing is stopped for them."""
Step: TypeAlias = Generator[Question, ScreenResult, T]

HEAVY = 2**18  # bytes from which opening a body is no work for an event loop
_MAX_RAISED = 256


class Blocked(Exception):  # noqa: N818 (a decision, not a fault; never leaves the package)
    """This request or response goes no further. ``error`` is what the mode "raise" raises; ``retryable`` says
    that the guard could not judge it this time."""

    def __init__(self, code: str, message: str, error: PolicyGuardError, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.error, self.retryable = code, message, error, retryable

    def again(self) -> Blocked:
        """The same without tracebacks, whose frames would keep bodies alive."""
        if isinstance(self.error, PolicyViolation):
            return Blocked(self.code, self.message, PolicyViolation(self.error.verdict))
        kind = ConfigurationError if isinstance(self.error, UsageError) else ImageError
        return Blocked(self.code, self.message, kind(self.error.message, hint=self.error.hint))


class Core:
    """What the exchanges of one client share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.raised: LruDict[bytes, Blocked] = LruDict(_MAX_RAISED)

    def begin(self, head: RequestHead) -> Exchange:
        return Exchange(self, head)


class Exchange:
    """One request and its response."""

    def __init__(self, core: Core, head: RequestHead) -> None:
        self.core, self.head, self.settings = core, head, core.settings
        self.result = HttpResult(head.method, head.host, head.path, watched=core.settings.watched)
        self.media_types: dict[Direction, str] = {}
        """Of bodies that were files and became others."""
        self._key: bytes | None = None
        self._sent_file = False
        self._finished = False

    # --- request ---------------------------------------------------------------------------------------

    def request(self, data: bytes | None) -> Step[bytes | None]:
        """Judge a request with the body ``data`` (None: longer than is held).

        Returns the body to send instead, or None to send it as it is. Raises Blocked, but not where nothing
        is to be stopped.
        """
        with self._edge("request"):
            if data is None or len(data) > self.settings.max_body:
                yield from self._too_large("request")
                return None
            if "websocket" in self.head.headers.get("upgrade", "").lower():
                yield from self._refuse("request", "is a websocket, in which nothing would be judged")
            yield from self._judge("request", open_head(self.head))
            if not data:
                return None
            if self.settings.mode("response") == "raise":
                self._key = self._digest(data)
                if self.head.attempt and (before := self.core.raised.get(self._key)) is not None:
                    raise before.again()  # the SDK asks again: the server must not be asked a second time
            body = self._open(data, self.head.headers)
            if self.head.uploads_file:
                body = announced(body)
            self._sent_file = self.head.uploads_file and _holds_file(data, self.head.headers)
            return (yield from self._judge("request", body))

    def _digest(self, data: bytes) -> bytes:
        """Names a request; the boundary of a multipart body is drawn anew each time it is sent."""
        result = hashlib.sha256(f"{self.head.method} {self.head.host}{self.head.path}".encode())
        line = data[: data.find(b"\r\n")] if data.startswith(b"--") else b""
        for piece in data.split(line) if line else (data,):
            result.update(piece)
        return result.digest()

    # --- response --------------------------------------------------------------------------------------

    def framing(self, head: ResponseHead) -> Framing | None:
        """How the response's events are told apart; None if its body is one whole."""
        kind = media_type(head.headers.get("content-type"))
        if head.status >= 400:
            return None
        if kind == "text/event-stream":
            return "sse"
        if kind in (
            "application/x-ndjson",
            "application/jsonl",
            "application/x-jsonlines",
            "application/ndjson",
        ):
            return "lines"
        if kind == "application/json" and "streamGenerateContent" in self.head.path:
            return "array"
        return None

    def without_body(self, head: ResponseHead) -> bool:
        return self.head.method == "HEAD" or head.status in (204, 304) or head.status < 200

    def may_be_sound(self, head: ResponseHead, codings: Decoder) -> bool:
        """Whether the first bytes may show that the body is sound, which passes as it comes."""
        return codings.identity and media_type(head.headers.get("content-type")).startswith("audio/")

    def is_sound(self, head: ResponseHead, begun: bytes) -> bool:
        """Whether these first bytes are sound. What may be text is read whole instead."""
        may_be_text = begun.isascii() and b"\0" not in begun
        return not may_be_text and is_sound(begun, media_type(head.headers.get("content-type")))

    def switched(self) -> Step[None]:
        """The server speaks another protocol from now on."""
        with self._edge("response"):
            yield from self._refuse("response", "is a change of protocol, in which nothing would be judged")

    def response(self, head: ResponseHead, data: bytes | None) -> Step[bytes | None]:
        """Judge a whole response whose body is ``data``, Content-Encoding undone (None: too long)."""
        with self._edge("response"):
            if data is None or len(data) > self.settings.max_body:
                yield from self._too_large("response")
                return None
            links = self.settings.links == "block"
            reading = Reading(strict=head.status < 300, answer=True, links=links)
            body = open_body(data, head.headers.get("content-type", ""), reading)
            self._note_files(head, body)
            return (yield from self._judge("response", body, failed=head.status >= 400))

    def event(self, raw: bytes, body: Body) -> Step[bytes]:
        """Judge one event of a response; returns the event to pass on. Raises Blocked."""
        with self._edge("response"):
            changed = yield from self._judge("response", body)
            return raw if changed is None else changed
        return raw

    def unreadable(self, direction: Direction, problem: str) -> Step[None]:
        """Judge something that came and cannot be read. Raises Blocked."""
        with self._edge(direction):
            yield from self._refuse(direction, problem)

    def _note_files(self, head: ResponseHead, body: Body) -> None:
        """The answer to an upload names the file: what was found in the upload holds for that name."""
        if not (self.head.uploads_file and 200 <= head.status < 300):
            return
        verdict = _worst(self.result.request)
        if verdict is None and not self._sent_file:
            return
        for payload in body.payloads:
            for name in _file_names(payload):
                self.settings.ledger.remember(name, verdict)

    def _note_made(self, body: Body, result: ScreenResult) -> None:
        """Images that a model made and the guard judged may be used again by their ids."""
        if (verdict := _worst(result)) is not None:
            for payload in body.payloads:
                for name in made_images(payload):
                    self.settings.ledger.remember(name, verdict)

    # --- both ------------------------------------------------------------------------------------------

    def _open(self, data: bytes, headers: Any) -> Body:
        try:
            data = decode_all(headers.get("content-encoding"), data, limit=self.settings.max_body)
        except CodingError as error:
            return unreadable(str(error))
        return open_body(data, headers.get("content-type", ""), Reading(strict=True))

    def _judge(self, direction: Direction, body: Body, *, failed: bool = False) -> Step[bytes | None]:
        sites: Sequence[ImageSite] = body.sites
        if direction == "response":
            for payload in body.payloads:
                self.result.note_refusals(provider_refusals(payload))
        else:
            sites = [site for site in sites if site.kind is not SiteKind.LINK]
            sites += [site for payload in body.payloads for site in opened_addresses(payload)]
        if failed:
            sites = [site for site in sites if site.kind is SiteKind.INLINE or site.where == "body"]
        if not sites:
            return None
        result = yield sites, direction in self.result.watched
        if failed and len(sites) <= self.settings.max_images:
            result = _quoted(result)
        self.result.note(direction, result)
        if direction == "response":
            self._note_made(body, result)
        if result.watched and not result.blocked:
            return None
        as_it_is = failed or (direction == "request" and self.settings.when == "alongside")
        passed = () if as_it_is else [item for item in result.items if item.passed is not None]
        new = {item.site.where: item.passed for item in passed if item.passed is not None}
        if result.blocked:
            if self.settings.mode(direction) != "replace":
                raise _blocked(direction, result.blocked)
            new.update(self._replacements(direction, result.blocked))
            self.result.replaced += len(result.blocked)
        if not new:
            return None
        if "body" in new and (sites[0].media_type or "").startswith("image/"):
            self.media_types[direction] = new["body"].media_type
        try:
            if direction == "request":
                _require_unsigned(self.head)
            changed = body.rebuild(new)
        except ImageError as error:
            raise _not_passed_on(direction, error) from error
        self.result.normalised += sum(item.fetched != new[item.site.where].data for item in passed)
        return changed

    def _replacements(self, direction: Direction, blocked: Sequence[Screened]) -> dict[str, Replacement]:
        new = {}
        for item in blocked:
            data = item.fetched or item.site.data
            try:
                if data is None:
                    raise ImageError("it cannot be replaced: its bytes are not here")
                new[item.site.where] = altered(data, self.settings.replace_with)
            except ImageError:
                raise _blocked(direction, blocked) from None
        return new

    def _too_large(self, direction: Direction) -> Step[None]:
        yield from self._refuse(direction, f"is longer than {self.settings.max_body} bytes")

    def _refuse(self, direction: Direction, problem: str) -> Step[None]:
        """Block for a whole body. It cannot be passed on, whatever the policy does with UNSCANNABLE."""
        site = ImageSite("body", SiteKind.UNREADABLE, problem=f"the body {problem}")
        result = yield (site,), direction in self.result.watched
        items = tuple(
            replace(item, verdict=replace(item.verdict, action=Action.BLOCK, degraded=False))
            for item in result.items
        )
        self.result.note(direction, replace(result, items=items))
        raise _blocked(direction, items)

    @contextmanager
    def _edge(self, direction: Direction) -> Iterator[None]:
        """Everything that goes wrong inside blocks; where nothing is to be stopped, it is noted."""
        try:
            try:
                yield
            except Blocked:
                raise
            except UsageError as error:
                raise Blocked(
                    "policyguard_configuration",
                    f"PolicyGuard cannot judge images, its set-up is wrong: {_line(error)}",
                    error,
                ) from error
            except Exception as error:
                raise _unjudged(direction, f"{type(error).__name__}: {_line(error)}", error) from error
        except Blocked as blocked:
            if direction not in self.result.watched:
                raise
            if self.result.would_block is None:
                self.result.would_block, self.result.reason = direction, blocked.message
                _log.warning("watched: the %s would have been blocked (%s)", direction, blocked.code)

    # --- the end ---------------------------------------------------------------------------------------

    def stopped(self, direction: Direction, blocked: Blocked) -> None:
        """Note that ``direction`` was stopped."""
        self.result.blocked, self.result.reason = direction, blocked.message
        if direction == "response" and self._key is not None:
            self.core.raised.put(self._key, blocked.again())

    def refusal(self, blocked: Blocked) -> Synthetic:
        return refusal(
            self.head.provider, blocked.code, blocked.message, self.result, retryable=blocked.retryable
        )

    def error_event(self, blocked: Blocked, framing: Framing, *, first: bool) -> bytes:
        head = self.head
        return error_event(
            head.provider,
            framing,
            head.path,
            blocked.code,
            blocked.message,
            first=first,
            retryable=blocked.retryable,
        )

    def finish(self) -> None:
        """Tell the callbacks, once."""
        if self._finished:
            return
        self._finished = True
        if self.settings.on_flag is not None and any(
            item.verdict.action is Action.FLAG
            for item in self.result.request.items + self.result.response.items
        ):
            self.settings.on_flag(self.result)
        if self.settings.on_result is not None:
            self.settings.on_result(self.result)

    def verdict_header(self) -> tuple[str, str] | None:
        """The header that a response with images in it, or in its request, carries."""
        if self.result.images_seen or self.result.watched or self.result.provider_refused:
            return VERDICT_HEADER, self.result.header()
        return None


def _holds_file(data: bytes, headers: Mapping[str, str]) -> bool:
    """Whether a request consists of a file, or has one among its parts."""
    kind = media_type(headers.get("content-type"))
    if kind.startswith("multipart/"):
        return b"filename" in data
    return not (kind.endswith("json") or kind in ("", "application/x-www-form-urlencoded"))


def _worst(result: ScreenResult) -> Verdict | None:
    return max(
        (item.verdict for item in result.items), key=lambda verdict: verdict.action.severity, default=None
    )


def _quoted(result: ScreenResult) -> ScreenResult:
    """A provider's error may quote a part of an image: what is none as it stands may pass."""
    return replace(
        result,
        items=tuple(
            replace(item, verdict=replace(item.verdict, action=Action.ALLOW, degraded=True))
            if item.verdict.outcome is Outcome.UNSCANNABLE and item.site.where != "body"
            else item
            for item in result.items
        ),
    )


def _blocked(direction: Direction, items: Sequence[Screened]) -> Blocked:
    violating = [item for item in items if item.verdict.outcome is Outcome.VIOLATES]
    first = (violating or list(items))[0]
    what = "a document" if first.site.kind is SiteKind.DOCUMENT else "an image"
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return Blocked(
        "image_policy_violation" if violating else "policyguard_unjudged",
        f"PolicyGuard blocked {what} in the {direction}{more}: {_line(first.verdict.summary())}",
        PolicyViolation(first.verdict),
        retryable=not violating and all(item.verdict.retryable for item in items),
    )


_SIGNED = re.compile(
    r"content-md5|(?:content-|repr-)?digest|signature(?:-input)?|x-amz-(?:content-sha256|checksum-.*)|x-goog-hash"
)
_ANNOUNCED = re.compile(r"content-range|upload-(?:offset|length)|x-goog-upload-(?:command|offset)")


_UPLOAD_PART = re.compile(r"/uploads/[^/]+/parts$")


def _require_unsigned(head: RequestHead) -> None:
    """Raise ImageError if the server would take no other body than the one that is there."""
    if _UPLOAD_PART.search(head.path):
        raise ImageError("the upload's length is agreed on, and no other image can stand in it")
    for name, value in head.headers.items():
        if _SIGNED.fullmatch(name) and value != "UNSIGNED-PAYLOAD":
            raise ImageError(f"the body is signed ({name}), and no other image can stand in it")
        if _ANNOUNCED.fullmatch(name):
            raise ImageError(
                f"the length of the upload is agreed on ({name}), and no other image can stand in it"
            )


def _not_passed_on(direction: Direction, error: ImageError) -> Blocked:
    why = (
        f"PolicyGuard does not let the {direction} through: what it judged has to be written in an image's "
        f"place, and {error.message}. Use a PNG or JPEG without metadata, or pass_on='original'"
    )
    return Blocked("policyguard_unjudged", why, ImageError(why))


def _unjudged(direction: Direction, why: str, error: Exception) -> Blocked:
    message = f"PolicyGuard could not judge the {direction}, so it goes no further: {why}"
    ours = error if isinstance(error, PolicyGuardError) else ImageError(message)
    return Blocked("policyguard_unjudged", message, ours, retryable=getattr(error, "retryable", False))


def _line(value: object) -> str:
    return " ".join(str(value).split())[:500]


def _file_names(payload: Any) -> Iterator[str]:
    """What an answer to an upload calls the file: ``id``, and with Gemini ``name`` and ``uri``."""
    for file in (payload, payload.get("file")) if isinstance(payload, dict) else ():
        if isinstance(file, dict):
            yield from (file[key] for key in ("id", "name", "uri") if isinstance(file.get(key), str))


def begin(step: Step[Any], settings: Settings) -> Question | None:
    """Run a step as far as it needs neither model nor network: what it asks then, or None at its end."""
    try:
        asked = next(step)
        while True:
            try:
                known = settings.screen.known(asked[0], memo=settings.memo)
            except Exception:
                known = None  # met again, and dealt with, where the step is driven on
            if known is None:
                return asked
            asked = step.send(replace(known, watched=asked[1]))
    except StopIteration:
        return None


def drive(step: Step[T], settings: Settings, asked: Question | None = None) -> T:
    """Run a step, judging what it asks for; ``asked`` is what it asked last, if it has begun."""
    try:
        asked = asked or next(step)
        while True:
            try:
                result = settings.screen.screen(asked[0], memo=settings.memo, watched=asked[1])
            except Exception as error:
                asked = step.throw(error)
            else:
                asked = step.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def adrive(step: Step[T], settings: Settings, *, size: int, asked: Question | None = None) -> T:
    """``drive`` for event loops. What takes long for a body of ``size`` bytes is done in a thread."""

    def advance(error: Exception | None, result: ScreenResult | None) -> tuple[bool, Any]:
        try:
            if error is not None:
                return False, step.throw(error)
            return False, (asked or next(step)) if result is None else step.send(result)
        except StopIteration as done:  # cannot cross from a thread into a coroutine
            return True, done.value

    error: Exception | None = None
    result: ScreenResult | None = None
    while True:
        if size > HEAVY:
            done, value = await asyncio.to_thread(advance, error, result)
        else:
            done, value = advance(error, result)
        if done:
            return value  # type: ignore[no-any-return]
        try:
            screening = settings.screen.ascreen(value[0], memo=settings.memo, watched=value[1])
            result, error = await screening, None
        except Exception as failure:
            result, error = None, failure
