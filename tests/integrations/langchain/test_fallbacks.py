"""A chain with a guard in it may not have a fallback that gets what was blocked."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnableWithFallbacks

from integrations.http.pictures import RED, b64, colour_guard, picture
from policyguard import ConfigurationError, PolicyViolation
from policyguard.integrations.langchain import GuardRunnable

MESSAGE = [HumanMessage([{"type": "image", "base64": b64(picture(RED)), "mime_type": "image/png"}])]


def model() -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: AIMessage("words"))


def passing() -> Runnable[Any, Any]:
    return RunnableLambda(lambda value: value)


def failing() -> Runnable[Any, Any]:
    def fail(_: Any) -> Any:
        raise ConnectionError("down")

    return RunnableLambda(fail)


G = GuardRunnable(colour_guard()[0])


@pytest.mark.parametrize(
    ("chain", "fallbacks"),
    [
        (G | model(), [model()]),
        (model() | G, [model()]),
        (ChatPromptTemplate.from_messages([]) | G | model(), [model()]),
        (G | model(), [G | model(), model()]),
        (G | model() | G, [G | model()]),
        (G | model(), [model() | G]),
        ((G | model()).bind(stop="."), [model()]),
        (RunnableParallel(a=G | model()), [RunnableParallel(a=model())]),
        ((G | model()).with_retry(), [model()]),
        (G, [model()]),
    ],
)
def test_a_fallback_without_the_guard_is_refused(chain: Any, fallbacks: list[Any]) -> None:
    with pytest.raises(ConfigurationError, match="has a fallback without one"):
        chain.with_fallbacks(fallbacks)
    with pytest.raises(ConfigurationError, match="has a fallback without one"):
        RunnableWithFallbacks(runnable=chain, fallbacks=fallbacks)


@pytest.mark.parametrize(
    "chain",
    [
        G | failing().with_fallbacks([model()]),
        (G | failing()).with_fallbacks([G | model()]),
        (passing() | G | failing()).with_fallbacks([passing() | G | model()]),
        (G | failing()).with_fallbacks([model()], exceptions_to_handle=(ConnectionError,)),
        (G | failing()).bind(stop=".").with_fallbacks([G | model()]),
    ],
)
def test_a_fallback_that_the_guard_stands_before_works(chain: Any) -> None:
    assert "words" == chain.invoke([]).text
    with pytest.raises(PolicyViolation):
        chain.invoke(MESSAGE)


def test_a_fallback_may_be_the_answer_to_a_block_if_it_is_named_so() -> None:
    chain = (G | model()).with_fallbacks([model()], exceptions_to_handle=(PolicyViolation,))
    assert "words" == chain.invoke(MESSAGE).text


def test_fallbacks_without_any_guard_stay_as_they_are() -> None:
    assert "words" == failing().with_fallbacks([model()]).invoke(MESSAGE).text


def test_a_chain_that_leads_back_to_itself_is_looked_through_once() -> None:
    steps: dict[str, Any] = {"a": model()}
    around = RunnableParallel(steps)
    around.steps__["b"] = around  # type: ignore[assignment]
    assert isinstance(around.with_fallbacks([model()]), RunnableWithFallbacks)
    around.steps__["c"] = G
    with pytest.raises(ConfigurationError):
        around.with_fallbacks([model()])
