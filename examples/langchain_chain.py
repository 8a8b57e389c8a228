"""A chain with a guard on both sides: `python examples/langchain_chain.py`.

The model is a stand-in that answers with a picture; put your own chat model in its place.
"""

from __future__ import annotations

import base64
from pathlib import Path

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda

from policyguard import Guard, PolicyViolation
from policyguard.integrations.langchain import GuardRunnable

IMAGES = Path(__file__).parent / "images"


def picture(name: str) -> dict[str, str]:
    data = base64.b64encode((IMAGES / name).read_bytes()).decode()
    return {"type": "image", "base64": data, "mime_type": "image/png"}


def ask(chain: Runnable, name: str) -> str:
    try:
        answer = chain.invoke([HumanMessage([{"type": "text", "text": "What is this?"}, picture(name)])])
    except PolicyViolation as blocked:
        return f"{name}: {blocked.verdict.summary()}"
    return f"{name}: {answer.text}"


def main() -> None:
    guard = Guard(policy="pictosafe/l3")
    model = RunnableLambda(lambda messages: AIMessage("I see a picture.", name="stand-in"))
    painter = RunnableLambda(lambda messages: AIMessage([picture("pair-dagger.png")]))
    print(ask(GuardRunnable(guard) | model, "pair-camera.png"))
    print(ask(GuardRunnable(guard) | model, "pair-dagger.png"))
    print("painted,", ask(painter | GuardRunnable(guard), "pair-camera.png"))


if __name__ == "__main__":
    main()
