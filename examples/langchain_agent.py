"""An agent whose tool draws: `python examples/langchain_agent.py` (needs the extra `agents`).

The model is a stand-in that calls the tool once; put your own chat model in its place.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from policyguard import Guard
from policyguard.integrations.langchain import GuardMiddleware

IMAGES = Path(__file__).parent / "images"


@tool
def draw(what: str) -> list[dict[str, str]]:
    """Draw a picture."""
    data = base64.b64encode((IMAGES / f"pair-{what}.png").read_bytes()).decode()
    return [{"type": "image", "base64": data, "mime_type": "image/png"}]


class StandIn(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def run(what: str) -> str:
    call = AIMessage("", tool_calls=[{"name": "draw", "args": {"what": what}, "id": "1"}])
    model = StandIn(messages=iter([call, AIMessage("Here is your picture.")]))
    guard = GuardMiddleware(Guard(policy="pictosafe/l3"), exit_behavior="end")
    agent = create_agent(model, [draw], middleware=[guard])
    state = agent.invoke({"messages": [{"role": "user", "content": f"Draw a {what}."}]})
    return f"{what}: {state['messages'][-1].text}"


def main() -> None:
    print(run("camera"))
    print(run("dagger"))


if __name__ == "__main__":
    main()
