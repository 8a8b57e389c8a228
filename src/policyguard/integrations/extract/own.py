"""What is particular to one provider: images that a model made, by their ids, and pages that a tool opens.

Covered: generated images of OpenAI's Responses API; image addresses in requests with Gemini's tool
``url_context``, which opens what stands in the prompt. Not covered: addresses there that do not say that they
are images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policyguard.integrations.extract.keys import plain
from policyguard.integrations.extract.site import ImageSite, Path, SiteKind, Step, pointer

__all__ = ["made_images", "opened_addresses"]

_ADDRESS = re.compile(r"https?://[^\s\"'<>()\[\]\\]+?\.(?:png|jpe?g|webp|bmp)(?![A-Za-z0-9])", re.IGNORECASE)
_DEEPEST = 64


def made_images(payload: object) -> Iterator[str]:
    """The ids of the images that a model made, in an answer that holds them."""
    for _, value in _values(payload):
        if isinstance(value, Mapping) and plain(value.get("type")) == "imagegenerationcall":
            name = value.get("id")
            if isinstance(name, str) and value.get("result"):
                yield name


def opened_addresses(payload: object) -> list[ImageSite]:
    """The addresses of images in a request whose tools open the addresses of the prompt."""
    tools = payload.get("tools") if isinstance(payload, Mapping) else None
    if not isinstance(tools, list) or not any(
        isinstance(tool, Mapping) and any(plain(key) == "urlcontext" for key in tool) for tool in tools
    ):
        return []
    problem = "is the address of an image that the tool url_context would open, unjudged"
    return [
        ImageSite(f"{pointer(path)}#{number}", SiteKind.UNREADABLE, problem=problem)
        for path, value in _values(payload)
        if isinstance(value, str)
        for number, _ in enumerate(_ADDRESS.finditer(value))
    ]


def _values(payload: Any) -> Iterator[tuple[Path, Any]]:
    stack: list[tuple[Path, Any, int]] = [(None, payload, 0)]
    while stack:
        path, value, depth = stack.pop()
        yield path, value
        if depth >= _DEEPEST:
            continue
        children: list[tuple[Step, Any]] = []
        if isinstance(value, Mapping):
            children = [(str(key), child) for key, child in value.items()]
        elif isinstance(value, list):
            children = list(enumerate(value))
        stack.extend(((path, step), child, depth + 1) for step, child in reversed(children))
