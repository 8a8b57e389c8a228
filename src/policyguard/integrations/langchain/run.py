"""What a middleware remembers during one run of an agent, and how that goes into the agent's state.

The verdicts go with the state as JSON, without images, so that a run which is stopped and taken up again
elsewhere does not ask again. A new run begins with none: what failed or was blocked in the last one is asked
about again. Two things are known through all runs of a thread: what was put in the place of images and, as
long as the process lives, which images were judged and allowed.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from langchain.agents.middleware.types import AgentState, OmitFromSchema
from pydantic import TypeAdapter

from policyguard.integrations.extract import ImageSite, SiteKind
from policyguard.integrations.screen import Memo
from policyguard.strict.lru import LruDict
from policyguard.verdict import Verdict

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.integrations.screen import ScreenResult

__all__ = ["GuardState", "RunMemo", "Runs"]

_VERDICT = TypeAdapter(Verdict)
_RUNS = 1024
_KNOWN = 4096
"""Images of a thread that are known to be allowed."""
_MADE = 4096
"""Hashes of replacements that a thread remembers."""


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """The reducer of both channels: what a run adds joins what it has, and a new run begins anew."""
    result = dict(old or {})
    for name, entry in new.items():
        known = result.get(name)
        if known is not None and known.get("run") == entry.get("run"):
            verdicts = {**known.get("verdicts", {}), **entry.get("verdicts", {})}
            made = [*known.get("made", []), *entry.get("made", [])][-_MADE:]
            added = {"verdicts": verdicts, "made": made}
            entry = {**known, **entry, **{key: value for key, value in added.items() if value}}
        result[name] = entry
    return result


_Results = Annotated[dict[str, Any], OmitFromSchema(input=True, output=False), merged]
_Verdicts = Annotated[dict[str, Any], OmitFromSchema(input=True, output=True), merged]


class GuardState(AgentState[Any]):
    """``policyguard`` holds, by the middleware's name, the last results; the other is private."""

    policyguard: NotRequired[_Results]  # type: ignore[valid-type]
    policyguard_memo: NotRequired[_Verdicts]  # type: ignore[valid-type]


class Known(LruDict["Hashable", Verdict]):
    """The images of a thread that were judged and allowed, by the same guard in the same process."""


class RunMemo(Memo):
    """A Memo that can be written into a state, a few verdicts at a time.

    It also knows the files that this middleware put in the place of images: they show nothing, and are not
    judged. They are known by the hash of their bytes, so that no other picture passes for one.
    """

    def __init__(self, run: str, made: Iterable[str] = (), known: Known | None = None) -> None:
        super().__init__()
        self.run = run
        self.reported: frozenset[Hashable] = frozenset()
        """What the last report of the history was about."""
        self.answered: ScreenResult | None = None
        """What the last answer of the model was judged to be, where an image of it was blocked."""
        self._fresh: list[Hashable] = []
        self._known = Known(_KNOWN) if known is None else known
        self._made = set(made)
        self._fresh_made: list[str] = []

    def note_made(self, data: bytes) -> None:
        """Note that ``data`` was put in an image's place."""
        name = hashlib.sha256(data).hexdigest()
        with self._verdicts.lock:
            if name not in self._made:
                self._made.add(name)
                self._fresh_made.append(name)

    def take_made(self) -> list[str]:
        """The hashes that were noted since the last call."""
        with self._verdicts.lock:
            fresh, self._fresh_made = self._fresh_made, []
        return fresh

    def unmade(self, sites: list[ImageSite]) -> list[ImageSite]:
        """The sites at which something else stands than what was put there."""
        if not self._made:
            return sites
        return [
            site
            for site in sites
            if site.kind is not SiteKind.INLINE
            or site.data is None
            or hashlib.sha256(site.data).hexdigest() not in self._made
        ]

    def put(self, key: Hashable, verdict: Verdict) -> None:
        super().put(key, verdict)
        if verdict.outcome.judged and verdict.allowed:
            self._known.put(key, verdict)
        with self._verdicts.lock:
            self._fresh.append(key)

    def get(self, key: Hashable) -> Verdict | None:
        verdict = super().get(key)
        return self._known.get(key) if verdict is None else verdict

    def take(self) -> dict[str, Any]:
        """The verdicts that were put in since the last call, ready for JSON."""
        with self._verdicts.lock:
            fresh, self._fresh = self._fresh, []
            known = {_written(key): self._verdicts.get(key) for key in fresh}
        verdicts = {name: verdict for name, verdict in known.items() if verdict is not None}
        return {name: _VERDICT.dump_python(verdict, mode="json") for name, verdict in verdicts.items()}

    def load(self, guard: Guard, verdicts: Mapping[str, Any]) -> None:
        """Put in what ``take`` gave, as verdicts of ``guard``."""
        for name, fields in verdicts.items():
            super().put(_read(guard, name), _VERDICT.validate_python(fields))


class Runs:
    """The memos of one middleware, by run; those of the runs used last are kept."""

    def __init__(self, name: str, guard: Guard) -> None:
        self._name, self._guard = name, guard
        self._policies = [f"{policy.fingerprint} {policy.decision_fingerprint}" for policy in guard.policies]
        self._memos: LruDict[str, RunMemo] = LruDict(_RUNS)
        self._known: LruDict[str, Known] = LruDict(_RUNS)

    def begin(self, state: Any) -> dict[str, Any]:
        """The update of the state with which a run begins."""
        run, before = uuid.uuid4().hex, self._entry(state)
        known = self._known.pop(str(before.get("run")))  # of the last run of the thread
        self._known.put(run, Known(_KNOWN) if known is None else known)
        kept = {"run": run, "policies": self._policies, "made": list(before.get("made", []))}
        return {"policyguard": {self._name: {"run": run}}, "policyguard_memo": {self._name: kept}}

    def memo(self, state: Any) -> RunMemo:
        """The memo of the run that ``state`` belongs to; one for this call alone where it belongs to none."""
        entry = self._entry(state)
        if not entry:
            return RunMemo("")
        return self._memos.get_or_make(entry["run"], lambda: self._loaded(entry))

    def _entry(self, state: Any) -> Mapping[str, Any]:
        known = state.get("policyguard_memo") if isinstance(state, Mapping) else None
        return (known or {}).get(self._name) or {}

    def _loaded(self, entry: Mapping[str, Any]) -> RunMemo:
        known = self._known.get_or_make(entry["run"], lambda: Known(_KNOWN))
        memo = RunMemo(entry["run"], entry.get("made", ()), known)
        if entry.get("policies") == self._policies:  # a run may be taken up under other ones
            memo.load(self._guard, entry.get("verdicts", {}))
        return memo

    def end(self, state: Any) -> None:
        """Forget a run."""
        self._memos.pop(self.memo(state).run)


def _written(key: Hashable) -> str:
    assert isinstance(key, tuple)
    return f"url:{key[2]}" if len(key) == 3 else f"sha256:{key[1].hex()}"


def _read(guard: Guard, name: str) -> Hashable:
    kind, _, value = name.partition(":")
    return (guard, "url", value) if kind == "url" else (guard, bytes.fromhex(value))
