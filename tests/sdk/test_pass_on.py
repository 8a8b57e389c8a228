"""What reaches a provider through the real SDKs: images counted, decoded, compared with what was judged."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import pytest
from PIL import Image as pil  # noqa: N813 (the module)

from images.support import exif
from integrations.http.pictures import GREEN, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Asked, Upstream
from policyguard.images import decode
from policyguard.integrations.extract import find_images
from policyguard.integrations.http import guarded_client

pytestmark = pytest.mark.sdk


def turned(kind: str = "JPEG") -> bytes:
    """A phone's picture, stored lying on its side."""
    buffer = io.BytesIO()
    image = pil.new("RGB", (40, 24), GREEN)
    image.paste((10, 10, 90), (0, 0, 12, 12))
    image.save(buffer, kind, exif=(b"Exif\0\0" if kind == "JPEG" else b"") + exif(6), quality=90)
    return buffer.getvalue()


def hiding() -> bytes:
    """A PNG with a red corner for readers that know no transparency, as of a brush, with a soft edge."""
    image = pil.new("RGBA", (40, 24), (*GREEN, 255))
    image.paste((200, 0, 0, 0), (0, 0, 16, 16))
    image.paste((*GREEN, 90), (16, 0, 17, 16))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


FILES = [turned(), turned("WEBP"), hiding(), picture(GREEN), picture(GREEN, "JPEG")]
TYPES = ["image/jpeg", "image/webp", "image/png", "image/png", "image/jpeg"]
URIS = [data_uri(data, kind) for data, kind in zip(FILES, TYPES, strict=True)]


def arrived(asked: Asked) -> Iterator[tuple[str, bytes]]:
    """The declared type and the bytes of each image of a request."""
    kind = asked.headers["content-type"]
    if kind.startswith("multipart/"):
        whole: Any = BytesParser(policy=HTTP).parsebytes(
            f"Content-Type: {kind}\r\n\r\n".encode() + asked.body
        )
        for part in whole.iter_parts():
            if part.get_filename():
                yield part.get_content_type(), part.get_payload(decode=True)
        return
    types = re.findall(rb"image/(?:jpeg|png|webp|gif)", asked.body)
    for kind, site in zip(types, find_images(asked.json), strict=True):
        assert site.data is not None
        yield kind.decode(), site.data


def holds(asked: Asked) -> None:
    """All five came: three as plain files of what was judged, two to the byte; and they say what they are."""
    found = list(arrived(asked))
    assert 5 == len(found)
    for (kind, data), original in zip(found, FILES, strict=True):
        judged, came = decode(original), decode(data)
        assert came.is_plain
        assert (data == original) is judged.is_plain
        assert kind == f"image/{(came.format or '').lower()}"
        assert judged.size == came.size
        pairs = zip(judged.frames[0].tobytes(), came.frames[0].tobytes(), strict=True)
        assert 40 > max(abs(one - other) for one, other in pairs)


def openai_client(provider: Upstream, **options: Any) -> Any:
    openai = pytest.importorskip("openai")
    family: Any = "httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx"
    http = guarded_client(colour_guard()[0], family=family, **options)
    return openai.OpenAI(api_key="k", base_url=provider.url + "/v1", http_client=http)


def test_openai_chat(provider: Upstream) -> None:
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in URIS]
    openai_client(provider).chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    (asked,) = provider.asked
    holds(asked)


def test_openai_responses(provider: Upstream) -> None:
    parts = [{"type": "input_image", "image_url": uri} for uri in URIS]
    openai_client(provider).responses.create(model="m", input=[{"role": "user", "content": parts}])
    (asked,) = provider.asked
    holds(asked)


def test_openai_image_edits(provider: Upstream) -> None:
    files = [
        ("a." + kind.removeprefix("image/"), data, kind) for data, kind in zip(FILES, TYPES, strict=True)
    ]
    openai_client(provider).images.edit(model="gpt-image-2", prompt="draw green", image=files)
    (asked,) = provider.asked
    holds(asked)
    assert b'filename="a.png"' in asked.body
    assert b"a.webp" not in asked.body


def test_openai_originals(provider: Upstream) -> None:
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in URIS]
    client = openai_client(provider, pass_on="original")
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    assert FILES == [data for _, data in arrived(provider.asked[0])]


def test_anthropic(provider: Upstream) -> None:
    anthropic = pytest.importorskip("anthropic")
    http = guarded_client(colour_guard()[0], family="httpx2")
    parts = [
        {"type": "image", "source": {"type": "base64", "media_type": kind, "data": b64(data)}}
        for data, kind in zip(FILES, TYPES, strict=True)
    ]
    anthropic.Anthropic(api_key="k", base_url=provider.url, http_client=http).messages.create(
        model="m", max_tokens=9, messages=[{"role": "user", "content": parts}]
    )
    (asked,) = provider.asked
    holds(asked)


def test_gemini(provider: Upstream) -> None:
    genai = pytest.importorskip("google.genai")
    http = guarded_client(colour_guard()[0], family="httpx2")
    options = genai.types.HttpOptions(base_url=provider.url, httpx_client=http)
    parts = [
        genai.types.Part.from_bytes(data=data, mime_type=kind)
        for data, kind in zip(FILES, TYPES, strict=True)
    ]
    genai.Client(api_key="k", http_options=options).models.generate_content(model="m", contents=parts)
    (asked,) = provider.asked
    holds(asked)


def agent_parts() -> list[dict[str, Any]]:
    return [
        {"type": "image", "base64": b64(data), "mime_type": kind}
        for data, kind in zip(FILES, TYPES, strict=True)
    ]


def test_an_agent_of_langchain(provider: Upstream) -> None:
    """The model's own client is not guarded: the middleware changes the messages, in the state as well."""
    agents = pytest.importorskip("langchain.agents")
    chat = pytest.importorskip("langchain_openai")
    from policyguard.integrations.langchain import GuardMiddleware

    model = chat.ChatOpenAI(model="m", api_key="k", base_url=provider.url + "/v1")
    results: list[Any] = []
    guard = GuardMiddleware(colour_guard()[0], on_result=lambda *result: results.append(result))
    agent = agents.create_agent(model, middleware=[guard])
    state = agent.invoke({"messages": [{"role": "user", "content": agent_parts()}]})
    (asked,) = provider.asked
    holds(asked)
    kept = state["messages"][0].content
    assert [True] * 5 == [decode(base64.b64decode(part["base64"])).is_plain for part in kept]
    agent.invoke({"messages": [*state["messages"], {"role": "user", "content": "again"}]})
    assert list(arrived(asked)) == list(arrived(provider.asked[1]))  # and plain files stay as they are


def test_a_chain_of_langchain(provider: Upstream) -> None:
    chat = pytest.importorskip("langchain_openai")
    messages = pytest.importorskip("langchain_core.messages")
    from policyguard.integrations.langchain import GuardRunnable

    model = chat.ChatOpenAI(model="m", api_key="k", base_url=provider.url + "/v1")
    (GuardRunnable(colour_guard()[0]) | model).invoke([messages.HumanMessage(agent_parts())])
    (asked,) = provider.asked
    holds(asked)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_tools_return_reaches_the_model_as_it_was_judged(asynchronous: bool) -> None:
    """A picture in a tool's message, and one in an update of the state."""
    agents = pytest.importorskip("langchain.agents")
    tools = pytest.importorskip("langchain_core.tools")
    types = pytest.importorskip("langgraph.types")
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    from policyguard.integrations.langchain import GuardMiddleware
    from sdk.agents import Scripted, call, invoke

    part = {"type": "image", "base64": b64(turned("WEBP")), "mime_type": "image/webp"}

    @tools.tool
    def draw(tool_call_id: str = "call-1") -> Any:
        """Draw."""
        return ToolMessage([part], tool_call_id=tool_call_id)

    @tools.tool
    def fetch(tool_call_id: str = "call-2") -> Any:
        """Fetch."""
        told = [ToolMessage("here", tool_call_id=tool_call_id), HumanMessage([part])]
        return types.Command(update={"messages": told})

    model = Scripted(answers=[call("draw", 1), call("fetch", 2), AIMessage("done")])
    agent = agents.create_agent(model, [draw, fetch], middleware=[GuardMiddleware(colour_guard()[0])])
    state = invoke(agent, [HumanMessage("hi")], "ainvoke" if asynchronous else "invoke")
    for messages in (model.asked[-1], state["messages"]):
        parts = [one for message in messages for one in message.content if isinstance(one, dict)]
        assert ["image/jpeg"] * 2 == [one["mime_type"] for one in parts]
        assert all(decode(base64.b64decode(one["base64"])).is_plain for one in parts)
