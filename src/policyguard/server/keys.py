"""Who may use a service: a file of hashed keys, each with its policies and its rate.

A key is 32 random bytes, so one round of SHA-256 keeps it: there is nothing to guess. The file is read again
when it changes; one that is wrong is not taken up, which ``Keys.problem`` and the log say.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from policyguard.errors import ConfigurationError, PolicyError, UsageError
from policyguard.policy.fields import Line, Lines, listed
from policyguard.policy.load import read_document
from policyguard.strict.documents import Document, parse, plain
from policyguard.strict.explain import Hints, capped, explain, nearest
from policyguard.strict.files import write_atomically

__all__ = ["LOCAL", "PREFIX", "Caller", "Keys", "new_key"]

_log = logging.getLogger("policyguard.server")

PREFIX = "pgk_"
"""What every key begins with, so that scanners for leaked secrets and our own checks know one."""

_EXAMPLES = {
    "keys": "`policyguard serve key new` adds an entry",
    "policies": "such as `policies: [house-rules]`, or `['*']` for all",
}


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    sha256: Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]
    policies: Annotated[Lines, Field(min_length=1)]
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    operator: Annotated[bool, Field(strict=True)] = False


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Annotated[tuple[_Entry, ...], BeforeValidator(listed), Field(min_length=1, max_length=10_000)]


@dataclass(slots=True)
class Caller:
    """Who asks. ``policies``: the names it may use; ``None``: all. ``rate``: requests per second.

    An ``operator`` may also load policies again, and see the page, the metrics and what is wrong.
    """

    name: str
    policies: frozenset[str] | None = None
    rate: float | None = None
    operator: bool = False
    _tokens: float = field(default=0.0, init=False)
    _at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._tokens, self._at = self._burst, monotonic()

    @property
    def _burst(self) -> float:
        return max(1.0, self.rate or 0.0)

    def may_use(self, policy: str) -> bool:
        return self.policies is None or policy in self.policies

    def wait(self) -> float:
        """Count one request: 0, or the seconds until one is allowed. A second's worth may come at once."""
        if self.rate is None:
            return 0.0
        now = monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self.rate
        self._tokens -= 1.0
        return 0.0


LOCAL = Caller("local", operator=True)
"""Whoever asks where nobody is asked for a key: this machine."""


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Keys:
    """The keys in a file. Raises UsageError for a file that is wrong.

    ``served`` gives the names of the policies that there are: the log tells of a key for another.
    ``problem``: why the present file does not load; former keys are in force then, deleted ones among them.
    """

    def __init__(self, file: Path, served: Callable[[], Collection[str]] | None = None) -> None:
        self.file = file
        self._served = served
        self._lock = threading.Lock()
        self.problem: str | None = None
        self._stamp = self._seen = self._state()
        self._callers = self._read()
        self._warn(self._callers)

    def find(self, key: str) -> Caller | None:
        """Whose key this is. Looking up a hash tells nobody how much of a guess was right."""
        return self._callers.get(_digest(key))

    def poll(self) -> None:
        """Read the file again if it has changed and rests."""
        with self._lock:
            now = self._state()
            due, self._seen = now != self._stamp and now == self._seen, now
            if not due:
                return
            self._stamp = now
            try:
                fresh = self._read()
            except UsageError as error:
                _log.error("the keys are kept as they were: %s", error)
                self.problem = str(error)
                return
            self.problem = None
            for digest, caller in fresh.items():
                old = self._callers.get(digest)
                if old is not None and old.rate == caller.rate:  # a reload is no new allowance
                    caller._tokens, caller._at = old._tokens, old._at  # noqa: SLF001
            self._warn(fresh)
            self._callers = fresh
            _log.info("%d keys are in force", len(fresh))

    def _warn(self, callers: Mapping[str, Caller]) -> None:
        if self._served is None:
            return
        served = sorted(self._served())
        for caller in callers.values():
            for name in sorted((caller.policies or frozenset()).difference(served)):
                close = nearest(name, served)
                asked = f": did you mean {close!r}?" if close else ""
                _log.warning("the key %s is for %r, which is not served%s", caller.name, name, asked)

    def _state(self) -> tuple[int, ...] | None:
        try:
            status = self.file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino  # ctime: who may read it

    def _read(self) -> dict[str, Caller]:
        return _callers(read_document(self.file))


def _callers(document: Document) -> dict[str, Caller]:
    """The callers that a file of keys lists, by the hash of their key. Raises UsageError."""
    try:
        entries = _File.model_validate(plain(document.root)).keys
    except ValidationError as error:
        hints = Hints(examples=_EXAMPLES)
        problems = explain(error, _File, document.file, hints=hints, locate=document.root.locate)
        raise PolicyError(capped([*document.problems, *problems])) from None
    if document.problems:
        raise PolicyError(document.problems)
    for place, entry in enumerate(entries):
        if any(entry.name == other.name or entry.sha256 == other.sha256 for other in entries[:place]):
            raise ConfigurationError(
                f"{document.file}: two keys are called {entry.name!r}, or are equal",
                hint="give one another name; to replace a key, add the new one under a name of its own, and "
                "delete the old entry once no app uses it",
            )
    return {
        entry.sha256: Caller(
            entry.name,
            None if "*" in entry.policies else frozenset(entry.policies),
            entry.rate,
            entry.operator,
        )
        for entry in entries
    }


def new_key(
    file: Path, name: str, *, policies: Sequence[str], rate: float | None = None, operator: bool = False
) -> str:
    """A fresh key, whose hash is added to ``file``; a file that is new can be read by its owner alone.

    Raises UsageError if the name is taken, or the file is wrong.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    try:
        entry = _Entry(name=name, sha256=_digest(key), policies=tuple(policies), rate=rate, operator=operator)
    except ValidationError as error:
        raise ConfigurationError(
            f"this is no key: {error.errors()[0]['msg']}", hint="give --name and --policy"
        ) from None
    is_new = not file.exists()
    lines = [
        *(["keys:"] if is_new else [file.read_text(encoding="utf-8").rstrip("\n")]),
        f"  - name: {_quoted(entry.name)}",
        f"    sha256: {entry.sha256}",
        f"    policies: [{', '.join(map(_quoted, entry.policies))}]",
        *([f"    rate: {rate:g}"] if rate is not None else []),
        *(["    operator: true"] if operator else []),
    ]
    text = "\n".join(lines) + "\n"
    _callers(parse(text.encode(), str(file)))  # what would not load is not written
    if is_new:
        file.touch(mode=0o600)
    write_atomically(file, text)
    return key


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
