"""Finds every image in a payload, known shape or not.

Covered: the shapes of the OpenAI, Anthropic, Gemini, Vertex, Bedrock, Mistral, Ollama, LiteLLM, OpenRouter,
MCP and LangChain APIs, and any other JSON whose keys, types or contents say that an image stands there.
Not covered: documents, sounds and films (docs/coverage.md has the table).
"""

from __future__ import annotations

from .site import ImageSite
from .walk import walk

__all__ = ["find_images"]


def find_images(payload: object) -> list[ImageSite]:
    """Every image that stands in ``payload``, in the order in which it stands there. Raises nothing.

    ``payload`` is any JSON-like value: dicts, lists, strings, bytes; also dataclasses, pydantic models,
    LangChain messages, PIL images. What claims to be an image and cannot be read is a site, too.
    """
    return [found.site() for found in walk(payload)]
