"""A middleware of LangChain's agents that judges every image in the loop.

Covered: the whole history at every turn (messages of people, models and tools, whatever their shape), the
system message, what other middleware puts into a request, the model's answer before anything else sees it,
and what tools return, artifacts and state updates included. Streams of the agent hear of an image only once
it is judged. Not covered: a tool's result in the events of the tool itself (``astream_events``), what a tool
sends through a stream writer, and an app's own callback handlers and tracers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langchain.agents.middleware.types import (
    AgentMiddleware,
    ModelRequest,
    ModelResponse,
    TracePolicy,
    hook_config,
    omit_payload,
)
from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage
from langgraph.types import Command

from policyguard.errors import ConfigurationError
from policyguard.integrations.langchain.events import HeldEvents
from policyguard.integrations.langchain.run import GuardState, Runs
from policyguard.integrations.langchain.settle import (
    blocked_note,
    check_replace_with,
    parted,
    settle,
    settled_messages,
    violation,
)
from policyguard.integrations.langchain.sites import sites_of
from policyguard.integrations.screen import Screen, ScreenResult
from policyguard.integrations.screen.engine import require_guard
from policyguard.strict.arguments import InOneProcess
from policyguard.verdict import PolicyViolation

if TYPE_CHECKING:
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetcher
    from policyguard.integrations.extract import ImageSite
    from policyguard.integrations.langchain.run import RunMemo
    from policyguard.integrations.screen import FileLedger, Screened
    from policyguard.integrations.screen.altered import PassOn, ReplaceWith

__all__ = ["GuardMiddleware"]

Stage: TypeAlias = Literal["input", "output", "tool_result"]
OnResult: TypeAlias = Callable[[Stage, ScreenResult], object]
Message: TypeAlias = str | Callable[[ScreenResult], str | None]
Update: TypeAlias = "dict[str, Any] | None"

_MARK = "policyguard"


class GuardMiddleware(InOneProcess, AgentMiddleware[Any, Any, Any]):
    """``create_agent(model, tools, middleware=[GuardMiddleware(guard)])``. Put it last: closest to the model.

    Args:
        guard: judges. Its policies' ``outcomes`` say what becomes of images that cannot be judged.
        apply_to_input, apply_to_output, apply_to_tool_results: which images are judged: those in messages of
            people and systems, of models, of tools.
        exit_behavior: ``"error"`` raises PolicyViolation; ``"end"`` ends the run with an AIMessage that says
            what was blocked; ``"replace"`` puts another image in the image's place and goes on (a message
            whose shape has no place for one loses its content); ``"watch"``: all is judged and reported, and
            passes.
        replace_with: ``"placeholder"``, ``"blur"`` or ``"pixelate"``.
        violation_message: the text of that AIMessage, or a function that makes it of the ScreenResult;
            default (and where the function gives None): how many images were blocked, and why. For ``"end"``
            only.
        urls: ``"reject"`` (an image by URL is UNSCANNABLE) or ``"fetch"``: the bytes that were judged go on.
        links, fetcher, files, max_images, documents, pass_on: see ``Screen``. What other middleware and the
            history of a thread hold is changed, too, where an image is passed on anew.
        on_result: called with a stage (``input``, ``output``, ``tool_result``) and its ScreenResult, images
            or not, also when it is then blocked. The result holds the images: keep ``to_dict()`` of it.
        name: unique in an agent; default: ``GuardMiddleware`` with the ids of the guard's policies.

    An image is judged once in a run of the agent, an outage met once: the verdicts go with the agent's state.
    An image that was allowed is known in the later runs of its thread, while the process lives.
    The state's ``policyguard`` holds, by name, the last result of ``input`` and ``output``; a message that
    says what was blocked carries the result in ``response_metadata["policyguard"]``.
    Raises ConfigurationError for settings that cannot work.
    """

    state_schema = GuardState
    trace_policy = TracePolicy(process_inputs=omit_payload, process_outputs=omit_payload)

    def __init__(
        self,
        guard: Guard,
        *,
        apply_to_input: bool = True,
        apply_to_output: bool = True,
        apply_to_tool_results: bool = True,
        exit_behavior: Literal["error", "end", "replace", "watch"] = "error",
        replace_with: ReplaceWith = "placeholder",
        violation_message: Message | None = None,
        urls: Literal["reject", "fetch"] = "reject",
        links: Literal["pass", "block"] = "pass",
        fetcher: Fetcher | None = None,
        files: FileLedger | None = None,
        max_images: int = 100,
        documents: Literal["block", "pass"] = "block",
        pass_on: PassOn = "judged",
        on_result: OnResult | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        require_guard(guard)
        if exit_behavior not in ("error", "end", "replace", "watch"):
            raise ConfigurationError(
                f"exit_behavior is {exit_behavior!r}; it must be error, end, replace or watch"
            )
        if not (apply_to_input or apply_to_output or apply_to_tool_results):
            raise ConfigurationError("the middleware is told to judge nothing")
        if violation_message is not None and exit_behavior != "end":
            raise ConfigurationError(
                f"a violation_message is given, and exit_behavior={exit_behavior!r} shows none",
                hint="add exit_behavior='end'",
            )
        check_replace_with(replace_with)
        self._name = name or f"GuardMiddleware[{','.join(policy.id for policy in guard.policies)}]"
        self._screen = Screen(
            guard,
            urls=urls,
            links=links,
            fetcher=fetcher,
            files=files,
            max_images=max_images,
            documents=documents,
            watch=exit_behavior == "watch",
            pass_on=pass_on,
        )
        self._input, self._output, self._tools = apply_to_input, apply_to_output, apply_to_tool_results
        self._exit = exit_behavior
        self._links = links == "block"
        self._replace_with = replace_with if exit_behavior == "replace" else None
        self._message = violation_message
        self._on_result = on_result
        self._runs = Runs(self._name, guard)

    @property
    def name(self) -> str:
        return self._name

    # The beginning and the end of a run.

    def before_agent(self, state: Any, runtime: Any) -> Update:
        return self._runs.begin(state)

    async def abefore_agent(self, state: Any, runtime: Any) -> Update:
        return self._runs.begin(state)

    def after_agent(self, state: Any, runtime: Any) -> Update:
        self._runs.end(state)
        return None

    async def aafter_agent(self, state: Any, runtime: Any) -> Update:
        self._runs.end(state)
        return None

    # The history, before it goes to the model.

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> Update:
        if (ended := self._ended_by_tool(state["messages"])) is not None:
            return ended
        memo = self._runs.memo(state)
        return self._history(state, memo, self._judge(self._sites(state["messages"]), memo))

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> Update:
        if (ended := self._ended_by_tool(state["messages"])) is not None:
            return ended
        memo = self._runs.memo(state)
        sites = await asyncio.to_thread(self._sites, state["messages"])
        result = await self._ajudge(sites, memo)
        return await asyncio.to_thread(self._history, state, memo, result)

    # The request as it goes out, and the answer before it goes anywhere.

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        memo = self._runs.memo(request.state)
        messages = _all_of(request)
        result = self._judge(self._sites(messages), memo)
        if isinstance(judged := self._request(request, memo, messages, result), ModelResponse):
            return judged
        if not self._output:
            return _response(handler(judged))
        held = HeldEvents(links=self._links)
        with held.listening():
            answer = _response(handler(judged))
        sites = _sites_in(answer)
        response = self._answer(answer, memo, self._judge(sites, memo), held)
        if response is answer:
            held.release(sites)
        return response

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        memo = self._runs.memo(request.state)
        messages = _all_of(request)
        sites = await asyncio.to_thread(self._sites, messages)
        result = await self._ajudge(sites, memo)
        judged = await asyncio.to_thread(self._request, request, memo, messages, result)
        if isinstance(judged, ModelResponse):
            return judged
        if not self._output:
            return _response(await handler(judged))
        held = HeldEvents(links=self._links)
        with held.listening():
            answer = _response(await handler(judged))
        sites = await asyncio.to_thread(_sites_in, answer)
        result = await self._ajudge(sites, memo)
        response = await asyncio.to_thread(self._answer, answer, memo, result, held)
        if response is answer:
            await held.arelease(sites)
        return response

    # What the other middleware made of the answer.

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: Any, runtime: Any) -> Update:
        memo, last = self._runs.memo(state), _last(state["messages"])
        return self._last_word(memo, last, self._judge(self._sites(last), memo))

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: Any, runtime: Any) -> Update:
        memo, last = self._runs.memo(state), _last(state["messages"])
        sites = await asyncio.to_thread(self._sites, last)
        result = await self._ajudge(sites, memo)
        return await asyncio.to_thread(self._last_word, memo, last, result)

    # What tools return.

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        answer = handler(request)
        if not self._tools:
            return answer
        memo = self._runs.memo(request.state)
        return self._tool(request, answer, memo, self._judge(_sites_of_tool(answer), memo))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        answer = await handler(request)
        if not self._tools:
            return answer
        memo = self._runs.memo(request.state)
        sites = await asyncio.to_thread(_sites_of_tool, answer)
        result = await self._ajudge(sites, memo)
        return await asyncio.to_thread(self._tool, request, answer, memo, result)

    # What becomes of each.

    def _judge(self, sites: list[ImageSite], memo: RunMemo) -> ScreenResult:
        return self._screen.screen(memo.unmade(sites), memo=memo)

    async def _ajudge(self, sites: list[ImageSite], memo: RunMemo) -> ScreenResult:
        return await self._screen.ascreen(await asyncio.to_thread(memo.unmade, sites), memo=memo)

    def _sites(self, messages: list[BaseMessage]) -> list[Any]:
        return sites_of([message if self._watched(message) else None for message in messages])

    def _watched(self, message: BaseMessage) -> bool:
        if isinstance(message, AIMessage):
            return self._output
        return self._tools if isinstance(message, ToolMessage) else self._input

    def _history(self, state: Any, memo: RunMemo, result: ScreenResult) -> dict[str, Any]:
        self._report("input", result)
        memo.reported = frozenset(_what(item) for item in result.items)
        if result.blocked and self._exit == "end":
            update = self._noted(memo, "input", result)
            return {**update, "jump_to": "end", "messages": [self._notice(result)]}
        changed = settled_messages(state["messages"], result, self._replace_with, memo.note_made)
        update = self._noted(memo, "input", result)
        pairs = zip(state["messages"], changed, strict=True)
        if messages := [new for old, new in pairs if new is not old]:
            update["messages"] = messages
        return update

    def _request(
        self, request: ModelRequest[Any], memo: RunMemo, messages: list[BaseMessage], result: ScreenResult
    ) -> ModelRequest[Any] | ModelResponse[Any]:
        if added := tuple(item for item in result.items if _what(item) not in memo.reported):
            self._report("input", replace(result, items=added))
        if result.blocked and self._exit == "end":
            return ModelResponse(result=[self._notice(result)])
        changed = settled_messages(messages, result, self._replace_with, memo.note_made)
        if all(new is old for old, new in zip(messages, changed, strict=True)):
            return request
        if request.system_message is None:
            return request.override(messages=changed)
        return request.override(system_message=changed[0], messages=changed[1:])

    def _answer(
        self, response: ModelResponse[Any], memo: RunMemo, result: ScreenResult, held: HeldEvents
    ) -> ModelResponse[Any]:
        self._report("output", result)
        memo.answered = result if result.blocked else None
        if result.blocked and self._exit == "end":
            return ModelResponse(result=[self._notice(result)])
        changed: list[BaseMessage] = settled_messages(
            response.result, result, self._replace_with, memo.note_made
        )
        pairs = list(zip(response.result, changed, strict=True))
        if all(new is old for old, new in pairs):
            return response
        if held:  # a new id: the one that streams know belongs to what was dropped
            changed = [new if new is old else new.model_copy(update={"id": None}) for old, new in pairs]
        structured = None if sites_of([response.structured_response]) else response.structured_response
        return ModelResponse(result=changed, structured_response=structured)

    def _last_word(self, memo: RunMemo, last: list[BaseMessage], result: ScreenResult) -> dict[str, Any]:
        # What stands in the place of a blocked image holds none: the state tells of the answer itself.
        noted, memo.answered = (result if result.blocked else memo.answered or result), None
        if any(self._marked(message) for message in last):
            return {**self._noted(memo, "output", noted), "jump_to": "end"}
        if result.blocked and self._exit == "end":
            gone = [RemoveMessage(id=message.id) for message in last[1:] if message.id is not None]
            notice = self._notice(result).model_copy(update={"id": last[0].id})
            return {**self._noted(memo, "output", noted), "jump_to": "end", "messages": [notice, *gone]}
        changed = settled_messages(last, result, self._replace_with, memo.note_made)
        update = self._noted(memo, "output", noted)
        if messages := [new for old, new in zip(last, changed, strict=True) if new is not old]:
            update["messages"] = messages
        return update

    def _tool(self, request: ToolCallRequest, answer: Any, memo: RunMemo, result: ScreenResult) -> Any:
        self._report("tool_result", result)
        if not result.items or result.watched:
            return answer
        if result.blocked and self._exit == "end":
            return self._tool_notice(request, result)
        if isinstance(answer, list) and result.blocked:
            return self._tool_notice(request, result)
        try:
            return self._settled(answer, memo, result)
        except PolicyViolation:
            if self._exit == "error":
                raise
            return self._tool_notice(request, result)

    def _settled(self, answer: Any, memo: RunMemo, result: ScreenResult) -> Any:
        if isinstance(answer, list):
            parts = parted(result)
            return [
                self._settled(item, memo, parts[at]) if at in parts else item
                for at, item in enumerate(answer)
            ]
        if isinstance(answer, Command):
            return replace(answer, update=settle(answer.update, result, self._replace_with, memo.note_made))
        return settle(answer, result, self._replace_with, memo.note_made)

    def _ended_by_tool(self, messages: list[BaseMessage]) -> Update:
        for message in reversed(messages):
            if not isinstance(message, ToolMessage):
                return None
            if self._marked(message):
                mark = dict(message.response_metadata[_MARK])
                note = mark.pop("message", None) or str(message.content)
                notice = AIMessage(note, response_metadata={_MARK: {**mark, "name": f"{self._name}, tool"}})
                return {"jump_to": "end", "messages": [notice]}
        return None

    def _marked(self, message: BaseMessage) -> bool:
        """Whether this middleware put the message there to end the run. Its own messages hold no image."""
        mark = message.response_metadata.get(_MARK)
        ours = self._exit == "end" and isinstance(mark, Mapping) and mark.get("name") == self._name
        return ours and not sites_of([message])

    def _notice(self, result: ScreenResult) -> AIMessage:
        return AIMessage(self._said(result), response_metadata=self._mark(result))

    def _said(self, result: ScreenResult) -> str:
        said = self._message(result) if callable(self._message) else self._message
        return str(said) if said else blocked_note(result)

    def _tool_notice(self, request: ToolCallRequest, result: ScreenResult) -> ToolMessage:
        if self._exit == "error":
            raise violation(result)
        mark = self._mark(result)
        if self._exit == "end":  # said where the run ends, which is not here
            mark[_MARK]["message"] = self._said(result)
        return ToolMessage(
            blocked_note(result),
            tool_call_id=request.tool_call["id"],
            name=request.tool_call["name"],
            status="error",
            response_metadata=mark,
        )

    def _mark(self, result: ScreenResult) -> dict[str, Any]:
        return {_MARK: {"name": self._name, "result": _plain(result)}}

    def _noted(self, memo: RunMemo, stage: Stage, result: ScreenResult) -> dict[str, Any]:
        if not memo.run:
            return {}
        taken = {"run": memo.run, "verdicts": memo.take(), "made": memo.take_made()}
        return {
            "policyguard": {self._name: {"run": memo.run, stage: _plain(result)}},
            "policyguard_memo": {self._name: taken},
        }

    def _report(self, stage: Stage, result: ScreenResult) -> None:
        if self._on_result is not None:
            self._on_result(stage, result)


def _what(item: Screened) -> Hashable:
    """Names an image, wherever it stands."""
    site = item.site
    return site.kind, hash(site.data), site.url, site.file_id, site.problem


def _plain(result: ScreenResult) -> Any:
    """The result in values that every checkpointer writes: no enums, no tuples."""
    return json.loads(json.dumps(result.to_dict()))


def _all_of(request: ModelRequest[Any]) -> list[BaseMessage]:
    """Every message that goes to the model."""
    system = request.system_message
    return list(request.messages) if system is None else [system, *request.messages]


def _response(answer: Any) -> ModelResponse[Any]:
    return ModelResponse(result=[answer]) if isinstance(answer, AIMessage) else answer


def _sites_in(response: ModelResponse[Any]) -> list[Any]:
    return sites_of(list(response.result))


def _last(messages: list[BaseMessage]) -> list[BaseMessage]:
    """The model's answer: one message, or more where other middleware makes it so."""
    start = end = max(
        (place for place, message in enumerate(messages, 1) if isinstance(message, AIMessage)), default=0
    )
    while start and isinstance(messages[start - 1], AIMessage):
        start -= 1
    return messages[start:end]


def _sites_of_tool(answer: Any) -> list[Any]:
    if isinstance(answer, list):
        return [
            replace(site, where=f"/{at}{site.where}")
            for at, item in enumerate(answer)
            for site in _sites_of_tool(item)
        ]
    return sites_of(answer.update if isinstance(answer, Command) else answer)
