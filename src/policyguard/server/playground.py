"""The page (``/``) on which policy owners try an edit before it ships, and what it asks of the service.

Covered: the page is one file with one script and one style of ours and the bundled editor; a content policy
forbids it everything else, requests to other hosts and text that turns into markup included. Its calls come
through the door (``door.py``): without keys from this machine's own names and the page's own origin, with
keys from operators; and what is posted carries a header that no form can send. Files are found by look-up,
never by a path that was sent. Nothing is written without ``--write``.

Images are held in memory, the ones that were used last, and go when the service ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from policyguard.authoring import Level, Remark, compare_on, compare_policies, json_schema, lint
from policyguard.authoring.cases.keep import NewCase, find_case_file, with_case
from policyguard.authoring.diff.behaviour import BehaviourDiff
from policyguard.authoring.linter.budget import TokenCounter, default_dialect, transcript
from policyguard.backends.base import Backend
from policyguard.cache import CachedBackend, MemoryCache
from policyguard.errors import ConfigurationError, ImageError, PolicyError, UsageError
from policyguard.images import Limits, decode
from policyguard.images.sniff import IMAGE_SUFFIXES, media_type
from policyguard.images.written import small_jpeg
from policyguard.outcomes import Outcome
from policyguard.policy import Policy, ResolvedPolicy
from policyguard.policy.files import find, locate
from policyguard.policy.load import load_edited
from policyguard.policy.loosening import loosening
from policyguard.server.door import caller_of
from policyguard.server.policies import Policies, sources
from policyguard.server.requests import Refusal, Room
from policyguard.strict.documents import MAX_BYTES, parse
from policyguard.strict.files import write_atomically, write_bytes
from policyguard.strict.inside import find_root, include_parts, read_inside
from policyguard.strict.jsontext import JsonError, parse_json
from policyguard.verdict import Verdict

__all__ = ["CALLS", "Playground"]

CALLS = "/page-api"
"""Where the page's calls go; not below ``/page/``, which is open to all."""

_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/editor.js": ("editor.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_SIDE = 320
_BATCH = 16
_MOST_FILES = 500
_HELD_IMAGES = 500
_HELD_BYTES = 256 * 2**20
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif"}
_ASKS = "say why with `weakens:"


@dataclass(slots=True)
class Pictures:
    """The images of the page: dropped ones, in memory, and those of a folder. Ids are hashes, never paths."""

    folder: Path | None
    left_out: int = 0
    _dropped: OrderedDict[str, tuple[str, bytes]] = field(default_factory=OrderedDict)
    _files: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> str:
        """Hold an image; those used longest ago go, where there are too many."""
        key = hashlib.sha256(data).hexdigest()
        self._dropped[key] = (name, data)
        self._dropped.move_to_end(key)
        held = sum(len(data) for _, data in self._dropped.values())
        while len(self._dropped) > _HELD_IMAGES or (held > _HELD_BYTES and len(self._dropped) > 1):
            held -= len(self._dropped.popitem(last=False)[1][1])
        return key

    def list(self) -> list[dict[str, str]]:
        """The images of the folder, as they are now."""
        self._files = dict(self._find())
        return [{"id": key, "name": "/".join(parts)} for key, parts in self._files.items()]

    def _find(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        if self.folder is None:
            return
        files = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        self.left_out = max(0, len(files) - _MOST_FILES)
        for path in files[:_MOST_FILES]:
            parts = path.relative_to(self.folder).parts
            if path.is_file() and not any(part.startswith(".") for part in parts):
                yield f"f{hashlib.sha256('/'.join(parts).encode('utf-8', 'replace')).hexdigest()[:40]}", parts

    def find(self, key: object) -> tuple[str, bytes]:
        """The name and the bytes of an image. Raises Refusal."""
        if not isinstance(key, str):
            raise Refusal(422, "field_wrong", "an image is named by its id")
        with suppress(KeyError):  # another thread may let go of it meanwhile
            self._dropped.move_to_end(key)
            return self._dropped[key]
        if key in self._files and self.folder is not None:
            parts = self._files[key]
            try:
                return "/".join(parts), read_inside(str(self.folder.resolve()), parts, limit=_MOST_BYTES)[0]
            except OSError as error:
                raise Refusal(404, "image_gone", f"{parts[-1]}: {error.strerror}") from None
        raise Refusal(410, "image_gone", "this image is not held any more: add it again")

    def path(self, key: str) -> Path | None:
        """The file of an image of the folder."""
        parts = self._files.get(key)
        return None if parts is None or self.folder is None else self.folder.resolve().joinpath(*parts)


_MOST_BYTES = Limits().max_bytes


@dataclass(slots=True)
class Playground:
    """What the page asks. ``shadows`` gives what the shadows said, for the page to show."""

    policies: Policies
    backend: Backend
    room: Room
    images: Path | None = None
    write: bool = False
    shadows: Callable[[], list[dict[str, Any]]] = list
    _pictures: Pictures = field(init=False)
    _scores: CachedBackend = field(init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _writing: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if self.images is not None and not self.images.is_dir():
            raise ConfigurationError(
                f"--images: {self.images} is not a folder", hint="name a folder of images"
            )
        self._pictures = Pictures(self.images)
        # Of its own, so that what it asks can be counted; with the scores that the service keeps, if it does.
        known = isinstance(self.backend, CachedBackend)
        inner = self.backend.inner if isinstance(self.backend, CachedBackend) else self.backend
        cache = (
            self.backend.cache if isinstance(self.backend, CachedBackend) else MemoryCache(max_entries=20_000)
        )
        self._scores = CachedBackend(inner, cache, owns_cache=not known)

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        for path, (name, kind) in _STATIC.items():
            router.add_api_route(path, _file(name, kind), methods=["GET"])
        calls = APIRouter(prefix=CALLS, dependencies=[Depends(_from_page)])
        calls.add_api_route("/start", self._start, methods=["GET"])
        calls.add_api_route("/policies/{name:path}", self._policy, methods=["GET"])
        calls.add_api_route("/images/{key}", self._image, methods=["GET"])
        calls.add_api_route("/shadows", self._shadows, methods=["GET"])
        calls.add_api_route("/images", self._add, methods=["POST"])
        for name in ("read", "judge", "save", "keep"):
            calls.add_api_route(f"/{name}", self._asked(getattr(self, f"_{name}")), methods=["POST"])
        router.include_router(calls)
        return router

    def _asked(self, answer: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        """``answer`` to the JSON object of a request, off the event loop where it is no coroutine."""

        async def asked(request: Request) -> Response:
            async with self.room.reading(request) as body:
                try:
                    data = parse_json(body)
                except JsonError as error:
                    raise Refusal(400, "body_malformed", f"the body {error}") from None
                if not isinstance(data, dict):
                    raise Refusal(422, "field_wrong", "the body is not an object")
                _require(request, data.get("policy"))
                if asyncio.iscoroutinefunction(answer):
                    result = await answer(data)
                else:
                    result = await asyncio.to_thread(answer, data)
            return _answer(result)

        return asked

    # What there is.

    async def _start(self, request: Request) -> Response:
        snapshot, caller = self.policies.current, caller_of(request.scope)
        listed = []
        for name, source in sources(self.policies.given):
            if not caller.may_use(name):
                continue
            live = snapshot.live.get(name)
            listed.append(
                {
                    "name": name,
                    "title": live.policy.title if live else name,
                    "version": live.policy.version if live else None,
                    "error": str(snapshot.errors[name]) if name in snapshot.errors else None,
                    "file": str(source) if isinstance(source, Path) else None,
                }
            )
        images = await asyncio.to_thread(self._pictures.list)
        return _answer(
            {
                "policies": listed,
                "images": images,
                "left_out": self._pictures.left_out,
                "folder": None if self.images is None else str(self.images),
                "write": self.write,
                "model": self.backend.model.id,
                "batch": _BATCH,
                "schema": json_schema(),
            }
        )

    async def _policy(self, name: str, request: Request) -> Response:
        _require(request, name)
        text = await asyncio.to_thread(self._text, self._source(name))
        return _answer({"name": name, "text": text, "hash": _hash(text)})

    async def _shadows(self, request: Request) -> Response:
        caller = caller_of(request.scope)
        return _answer({"shadows": [each for each in self.shadows() if caller.may_use(each["policy"])]})

    def _source(self, name: object) -> str | Path:
        known: Mapping[str, str | Path] = dict(sources(self.policies.given))
        if not isinstance(name, str) or name not in known:
            raise Refusal(404, "policy_unknown", "there is no policy of this name")
        return known[name]

    @staticmethod
    def _text(source: str | Path) -> str:
        try:
            return find(locate(source)).data.decode()
        except PolicyError as error:
            raise Refusal(422, "policy_wrong", str(error)) from None
        except UnicodeDecodeError:
            raise Refusal(422, "policy_wrong", f"{source} is not UTF-8: mend it by hand") from None

    # Images.

    async def _add(self, request: Request) -> Response:
        name = request.query_params.get("name", "image")[:200]
        async with self.room.reading(request) as body:
            if not body:
                raise Refusal(422, "image_missing", "the body is the image, and there is none")
            key = self._pictures.add(name, body)
        return _answer({"id": key, "name": name})

    async def _image(self, key: str) -> Response:
        """The image as it is judged, small: never the file itself."""
        _, data = self._pictures.find(key)
        try:
            jpeg = await asyncio.to_thread(lambda: small_jpeg(decode(data, frames="sample"), _SIDE))
        except ImageError as error:
            raise Refusal(422, "image_unscannable", error.message) from None
        return Response(jpeg, media_type="image/jpeg", headers=_HEADERS)

    # A text that may become a policy.

    def _read(self, data: dict[str, Any]) -> dict[str, Any]:
        """What is wrong with a text, and what it would be and say."""
        source, text = self._source(data.get("policy")), _edited(data)
        remarks = lint(source, text=text)
        problems = [_problem(remark, source, text) for remark in remarks]
        if any(remark.level is Level.ERROR and remark.code == "invalid" for remark in remarks):
            return {"problems": problems, "policy": None}
        policy = load_edited(source, text)
        resolved = policy.resolve()
        refused = self._refused(resolved)
        if refused is not None:
            problems.insert(
                0, {"severity": "error", "message": refused, "line": 1, "column": 1, "file": None}
            )
        saved = self._saved(source)
        return {
            "problems": problems,
            "policy": None if refused is not None else _outline(resolved),
            "reads": None if refused is not None else self._reads(resolved),
            "changes": [] if saved is None else _changes(saved, policy),
            "loosened": [] if saved is None else [str(change) for change in loosening(saved, policy)],
        }

    def _refused(self, policy: ResolvedPolicy) -> str | None:
        try:
            self._scores.accept(policy)
        except UsageError as error:
            return str(error)
        return None

    @staticmethod
    def _saved(source: str | Path) -> Policy | None:
        """The policy in the file now, if there is one."""
        try:
            return load_edited(source, find(locate(source)).data.decode())
        except (PolicyError, UnicodeDecodeError):
            return None

    def _reads(self, policy: ResolvedPolicy) -> dict[str, Any]:
        """What the model is asked, word for word."""
        model = self.backend.model
        if not model.dialect or model.dialect == "fake":
            dialect = default_dialect(policy)
        else:
            from policyguard.dialects import get_dialect

            try:
                dialect = get_dialect(model.dialect)
            except UsageError:
                dialect = default_dialect(policy)
        try:
            prompts = dialect.render(policy)
        except UsageError as error:
            return {"dialect": dialect.name, "texts": [str(error)], "tokens": None}
        counter = TokenCounter()
        return {
            "dialect": f"{dialect.name} {dialect.version}",
            "texts": [transcript(prompt) for prompt in prompts],
            "tokens": sum(map(counter.count, prompts)),
        }

    # What images make of it.

    async def _judge(self, data: dict[str, Any]) -> dict[str, Any]:
        """Images under the saved policy and under the edit, from the scores that are known where they do."""
        source, text = self._source(data.get("policy")), _edited(data)
        threshold = data.get("threshold")
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if threshold is not None and not (number and 0 < threshold <= 1):
            raise Refusal(422, "field_wrong", "`threshold` is above 0 and at most 1")
        keys = data.get("images")
        if not isinstance(keys, list) or not 0 < len(keys) <= _BATCH:
            raise Refusal(422, "field_wrong", f"`images` is a list of 1 to {_BATCH} ids")
        pictures = [self._pictures.find(key) for key in keys]

        def judge() -> BehaviourDiff:
            saved = self._saved(source)
            edit = load_edited(source, text).resolve()
            if threshold is not None:
                edit = replace(edit, threshold=float(threshold))
            return compare_on(
                saved or edit,
                edit,
                [data for _, data in pictures],
                names=[name for name, _ in pictures],
                backend=self._scores,
            )

        async with self._turn, self.room.turn():
            try:
                diff = await asyncio.to_thread(judge)
            except PolicyError as error:
                raise Refusal(422, "policy_wrong", str(error)) from None
        return {
            "images": [
                {
                    "id": key,
                    "changed": image.changed,
                    "direction": image.after.action.severity - image.before.action.severity,
                    "rules": list(image.rules),
                    "before": _side(image.before),
                    "after": _side(image.after),
                }
                for key, image in zip(keys, diff.images, strict=True)
            ],
            "asked": diff.asked,
        }

    # What is written.

    def _save(self, data: dict[str, Any]) -> dict[str, Any]:
        """Put a text in the place of a policy's file. ``hash`` is of the text that it was made from."""
        name, text = data.get("policy"), _edited(data)
        file = self._writable(name)
        with self._writing:
            if _hash(self._text(file)) != data.get("hash"):
                message = "the file was changed meanwhile: copy your edit, and load the page again"
                raise Refusal(409, "file_changed", message)
            try:
                policy = load_edited(file, text)
                self._scores.accept(policy.resolve())
            except UsageError as error:
                raise Refusal(422, "policy_wrong", str(error)) from None
            saved = self._saved(file)
            loosened = [] if saved is None else [str(change) for change in loosening(saved, policy)]
            if loosened and data.get("loosens") != loosened:
                raise Refusal(
                    409, "loosens", "this loosens the policy: say that it is meant", loosened=loosened
                )
            try:
                write_atomically(file, text)
            except OSError as error:
                raise Refusal(409, "cannot_write", f"the file cannot be written: {error.strerror}") from None
            try:
                self.policies.reload(str(name))
            except UsageError as error:
                raise Refusal(422, "policy_wrong", str(error)) from None
        return {"hash": _hash(text)}

    def _keep(self, data: dict[str, Any]) -> dict[str, Any]:
        """Put an image and what the policy should say of it into the policy's file of cases."""
        file = self._writable(data.get("policy"), unless_shown=True)
        key = str(data.get("image"))
        _, image = self._pictures.find(key)
        note = data.get("note")
        try:
            outcome = Outcome(str(data.get("outcome")))
            policy = load_edited(file, self._text(file))
            findings = data.get("findings")
            known = {rule.id for rule in policy.rules}
            if findings is not None and not (isinstance(findings, list) and known.issuperset(findings)):
                raise Refusal(
                    422, "field_wrong", "`findings` are ids of rules in the saved policy: save it first"
                )
        except (ValueError, TypeError):
            raise Refusal(422, "field_wrong", "`outcome` is an outcome") from None
        except PolicyError as error:
            raise Refusal(422, "policy_wrong", str(error)) from None
        root = find_root(str(file.resolve().parent))
        cases = find_case_file(file.resolve(), root)
        stored = self._pictures.path(key)
        named = stored is not None and stored.is_relative_to(cases.parent)
        copied = (
            stored is None
            or not named
            or isinstance(include_parts(stored.relative_to(cases.parent).as_posix()), str)
        )
        if copied:
            suffix = _SUFFIXES.get(media_type(image) or "", "")
            stored = cases.parent / "cases" / f"{hashlib.sha256(image).hexdigest()[:16]}{suffix}"
        assert stored is not None
        case = NewCase(
            policy=policy.id.rpartition("/")[2],
            source=file.resolve().relative_to(cases.parent).as_posix(),
            image=stored.relative_to(cases.parent).as_posix(),
            outcome=outcome,
            findings=None if findings is None else tuple(findings),
            note=note if isinstance(note, str) and note.strip() else None,
        )
        try:
            with self._writing:
                old = cases.read_text(encoding="utf-8") if cases.is_file() else None
                text = with_case(old, case, file=cases.name)
                if self.write:
                    if copied:
                        write_bytes(stored, image)
                    write_atomically(cases, text)
        except UsageError as error:
            raise Refusal(409, "cases_wrong", str(error)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(409, "cannot_write", f"{cases.name} cannot be written: {error}") from None
        return {"file": str(cases), "entry": "\n".join(case.lines(case.policy)), "written": self.write}

    def _writable(self, name: object, *, unless_shown: bool = False) -> Path:
        source = self._source(name)
        if not isinstance(source, Path):
            raise Refusal(
                403, "packaged", "a packaged policy cannot be changed: copy it to a file, and serve that"
            )
        if not self.write and not unless_shown:
            raise Refusal(403, "read_only", "the service was started without --write")
        return source


def _file(name: str, kind: str) -> Callable[[], Any]:
    async def file() -> Response:
        data = await asyncio.to_thread((Path(__file__).parent / "page" / name).read_bytes)
        if name != "index.html":
            return Response(data, media_type=kind, headers=_HEADERS)
        nonce = secrets.token_urlsafe(16)  # with which the editor may put in its styles
        policy = _HEADERS["Content-Security-Policy"].replace("style-src", f"style-src 'nonce-{nonce}'")
        page = data.replace(b"{nonce}", nonce.encode())
        return Response(page, media_type=kind, headers=_HEADERS | {"Content-Security-Policy": policy})

    return file


def _from_page(request: Request) -> None:
    """Raise Refusal for what a form of another site could send."""
    if request.method != "GET" and request.headers.get("x-policyguard") != "page":
        raise Refusal(403, "header_missing", "send the header X-PolicyGuard: page")


def _require(request: Request, policy: object) -> None:
    """Raise Refusal for a policy that is none of the caller's."""
    if isinstance(policy, str) and not caller_of(request.scope).may_use(policy):
        raise Refusal(403, "policy_not_allowed", "this key may not use this policy")


def _answer(data: Any) -> JSONResponse:
    return JSONResponse(data, headers=_HEADERS)


def _edited(data: dict[str, Any]) -> str:
    text = data.get("text")
    if not isinstance(text, str):
        raise Refusal(422, "field_wrong", "`text` is the text of a policy")
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise Refusal(413, "policy_too_large", f"a policy has at most {MAX_BYTES:,} bytes")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(422, "field_wrong", "the text holds half a character") from None
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _problem(remark: Remark, source: str | Path, text: str) -> dict[str, Any]:
    own = str(locate(source).path)
    elsewhere = None if remark.file in (own, None) else remark.file
    field = f"{remark.field}: " if remark.field else ""
    return {
        "severity": remark.level.value,
        "message": f"{elsewhere}:{remark.line}: {remark.message}"
        if elsewhere
        else f"{field}{remark.message}",
        "line": 1 if elsewhere else remark.line or 1,
        "column": 1 if elsewhere else remark.column or 1,
        "file": elsewhere,
        "reason": _reason_place(remark, text) if _ASKS in remark.message and not elsewhere else None,
    }


def _reason_place(remark: Remark, text: str) -> dict[str, Any] | None:
    """Before which line, and how far in, ``weakens:`` belongs; ``None`` to leave it to the author."""
    steps = (remark.field or "").replace("[", ".").replace("]", "").split(".")
    try:
        root = parse(text.encode(), "").root
    except PolicyError:
        return None
    lines = text.splitlines()
    if steps[0] == "overrides" and len(steps) > 1:
        place = root.locate(("overrides", steps[1]))
        line = place.line
    elif steps[0] in ("replace", "drop", "rules") and len(steps) > 1 and steps[1].isdigit():
        place = root.locate((steps[0], int(steps[1])))
        line = place.line + 1
    else:
        place = root.locate(("version",), key=True)
        line = place.line + 1
    if "{" in lines[place.line - 1]:
        return None
    return {"line": line, "indent": place.column - 1}


def _outline(policy: ResolvedPolicy) -> dict[str, Any]:
    return {
        "id": policy.id,
        "version": policy.version,
        "title": policy.title,
        "threshold": policy.threshold,
        "rules": [
            {"id": rule.id, "title": rule.title, "threshold": rule.threshold, "status": rule.status}
            for rule in policy.rules
        ],
    }


def _changes(saved: Policy, policy: Policy) -> list[str]:
    changes = compare_policies(saved, policy).changes
    return [
        f"{change.rule}: {change.description}" if change.rule else change.description for change in changes
    ]


def _side(verdict: Verdict) -> dict[str, Any]:
    whole = verdict.to_dict()
    names = ("outcome", "action", "score", "reason", "rationale", "degraded", "partial", "cached", "findings")
    return {name: whole[name] for name in names} | {
        "unchecked": list(verdict.evidence.unchecked),
        "notes": list(verdict.evidence.notes),
    }
