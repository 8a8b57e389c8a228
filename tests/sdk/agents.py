"""A chat model that follows a script, and what the tests of agents have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from integrations.http.pictures import b64, data_uri, picture

Answer = AIMessage | list[AIMessageChunk]


class Scripted(BaseChatModel):
    """Gives its ``answers`` one after the other, in pieces where one is a list, and counts its calls."""

    answers: list[Any]
    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self._asked)

    @property
    def asked(self) -> list[list[BaseMessage]]:
        return self._asked

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(**kwargs)

    def _next(self, messages: list[BaseMessage]) -> Answer:
        self._asked.append(messages)
        return self.answers[len(self._asked) - 1]

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = self._next(messages)
        if isinstance(answer, list):
            answer = AIMessage(**(answer[0] + answer[1:]).model_dump(include={"content", "tool_calls", "id"}))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: Any = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._next(messages)
        if isinstance(answer, AIMessage):
            answer = [AIMessageChunk(**answer.model_dump(exclude={"type"}))]
        for piece in answer:
            chunk = ChatGenerationChunk(message=piece.model_copy())
            if run_manager:
                run_manager.on_llm_new_token(str(chunk.text), chunk=chunk)
            yield chunk


def block(colour: tuple[int, int, int], seed: int = 0) -> dict[str, str]:
    return {"type": "image", "base64": b64(picture(colour, seed=seed)), "mime_type": "image/png"}


def human(*content: Any) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": "hi"}, *content])


def call(name: str = "draw", number: int = 1, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{number}"}])


def invoke(agent: Any, messages: list[Any], way: str, config: Any = None) -> dict[str, Any]:
    """The agent's last state, by one of its ways of running."""
    given = {"messages": messages}
    if way == "invoke":
        return agent.invoke(given, config)
    if way == "ainvoke":
        return asyncio.run(agent.ainvoke(given, config))
    if way == "stream":
        return list(agent.stream(given, config, stream_mode="values"))[-1]

    async def last() -> Any:
        return [state async for state in agent.astream(given, config, stream_mode="values")][-1]

    return asyncio.run(last())


WAYS = ("invoke", "ainvoke", "stream", "astream")
MODES = ("messages", "updates", "values")


def streamed(agent: Any, messages: list[Any], *, asynchronous: bool, seen: list[Any]) -> None:
    """Put what a reader of every stream mode sees into ``seen``."""
    given = {"messages": messages}
    if not asynchronous:
        seen.extend(agent.stream(given, stream_mode=list(MODES)))
        return

    async def read() -> None:
        async for item in agent.astream(given, stream_mode=list(MODES)):
            seen.append(item)  # noqa: PERF401 (what came before an error counts)

    asyncio.run(read())


def uri(colour: tuple[int, int, int]) -> str:
    return data_uri(picture(colour))
