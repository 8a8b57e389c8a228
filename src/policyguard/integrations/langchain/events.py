"""Holds back what a model call tells the readers of an agent's stream until its answer is judged.

Covered: ``stream_mode="messages"``, ``astream_events`` and ``stream_events``: text passes at once; from the
first piece of an image on all is held, then released or dropped; dropped too are calls whose images are not
in the answer. Not covered: an app's own callback handlers and tracers, which hear what the model says when it
says it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from policyguard.integrations.langchain.hold import Hold

if TYPE_CHECKING:
    from policyguard.integrations.extract import ImageSite

__all__ = ["HeldEvents"]


class HeldEvents:
    """The events of one model call that are held: call ``release`` or ``arelease``, or drop this."""

    def __init__(self, *, links: bool) -> None:
        self._links = links
        self._calls: list[tuple[_Gate, Callable[[], Any]]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Models that are called in this context, and tell it to streams, are listened to."""
        config = var_child_runnable_config.get()
        changed = None if config is None else self._changed(config)
        if changed is None:
            yield
            return
        token = var_child_runnable_config.set(changed)
        try:
            yield
        finally:
            var_child_runnable_config.reset(token)

    def release(self, judged: Collection[ImageSite]) -> None:
        """Tell what was held of runs that ended with no other images than those ``judged``."""
        for call in self._ready(judged):
            call()

    async def arelease(self, judged: Collection[ImageSite]) -> None:
        """``release`` for event loops."""
        for call in self._ready(judged):
            if inspect.isawaitable(done := call()):
                await done

    def _ready(self, judged: Collection[ImageSite]) -> list[Callable[[], Any]]:
        """A model may be called more than once for one answer: what is not in the answer is not told."""
        known = {_identity(site) for site in judged}
        return [
            call
            for gate, call in self._calls
            if gate.end is not None and all(_identity(site) in known for site in gate.images(gate.end))
        ]

    def _changed(self, config: RunnableConfig) -> RunnableConfig | None:
        manager: Any = config.get("callbacks")
        handlers = manager if isinstance(manager, list) else getattr(manager, "handlers", [])
        streaming = [one for one in handlers if isinstance(one, _StreamingCallbackHandler)]
        streams: dict[int, Any] = {id(one): self._listener(one) for one in streaming}
        if not streams:
            return None
        changed = config.copy()
        if isinstance(manager, list):
            replaced: list[Any] = [streams.get(id(one), one) for one in manager]
            changed["callbacks"] = replaced
            return changed
        changed["callbacks"] = manager = manager.copy()
        manager.handlers = [streams.get(id(one), one) for one in manager.handlers]
        manager.inheritable_handlers = [streams.get(id(one), one) for one in manager.inheritable_handlers]
        return changed

    def _listener(self, handler: Any) -> Any:
        """A handler of the same class, with the same data, that holds back some of its events."""
        listener = copy.copy(handler)
        gates: dict[Any, _Gate] = {}
        for event, holds in _EVENTS.items():
            if (handle := getattr(handler, event, None)) is not None:
                setattr(listener, event, self._gated(handle, holds, gates))
        return listener

    def _gated(
        self, handle: Callable[..., Any], holds: Callable[..., bool], gates: dict[Any, _Gate]
    ) -> Callable[..., Any]:
        def pass_on(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Callable[[], Any]]:
            gate = gates.setdefault(kwargs.get("run_id"), _Gate(links=self._links))

            def call() -> Any:
                return handle(*args, **kwargs)

            gate.waiting.append(call)
            if holds(gate, args, kwargs):
                self._calls.append((gate, call))
                return []
            ready, gate.waiting = gate.waiting, []
            for earlier in ready[:-1]:
                self._calls.remove((gate, earlier))
            return ready

        if inspect.iscoroutinefunction(handle):

            async def ahandle_event(*args: Any, **kwargs: Any) -> None:
                for call in pass_on(args, kwargs):
                    await call()

            return ahandle_event

        def handle_event(*args: Any, **kwargs: Any) -> None:
            for call in pass_on(args, kwargs):
                call()

        return handle_event


class _Gate(Hold):
    """One run of a model, as one handler hears it."""

    def __init__(self, *, links: bool) -> None:
        super().__init__(links=links)
        self.waiting: list[Callable[[], Any]] = []
        self.end: Any = None


def _token(gate: _Gate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    chunk = kwargs.get("chunk")
    gate.feed(args[0] if chunk is None else getattr(chunk, "message", chunk))
    return bool(gate.held)


def _event(gate: _Gate, args: tuple[Any, ...], _: Mapping[str, Any]) -> bool:
    event = args[0]
    block = event.get("content") or event.get("delta") or {}
    if block.get("type") == "block-delta":
        block = block.get("fields", {})
    gate.feed(event, block=not block.get("type", "text").startswith(_TEXT_EVENTS))
    return bool(gate.held)


def _end(gate: _Gate, args: tuple[Any, ...], _: Mapping[str, Any]) -> bool:
    gate.end = getattr(args[0], "generations", args[0])
    return bool(gate.held) or bool(gate.images(gate.end))


def _identity(site: ImageSite) -> tuple[Any, ...]:
    return site.kind, site.data, site.url, site.file_id, site.problem


_TEXT_EVENTS = ("text", "reasoning", "tool_call", "tool-call", "invalid_tool_call", "server_tool_call")
_EVENTS: Mapping[str, Callable[..., bool]] = {
    "on_llm_new_token": _token,
    "on_stream_event": _event,
    "on_llm_end": _end,
}
