"""Messages after their images were judged, one by one: what is wrong with one does not change the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.integrations.screen import Screened, ScreenResult

from .settle import settle, violation

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from policyguard.integrations.http.altered import ReplaceWith

__all__ = ["settled_messages"]


def settled_messages(
    messages: list[BaseMessage], result: ScreenResult, replace_with: ReplaceWith | None
) -> list[BaseMessage]:
    """The messages as they may pass; those that nothing is changed in are the same objects.

    ``result`` is that of the whole list. Raises PolicyViolation where a blocked image is not replaced.
    """
    if result.blocked and replace_with is None:
        raise violation(result)
    parts: dict[int, list[Screened]] = {}
    for item in result.items:
        number, slash, rest = item.site.where[1:].partition("/")
        where = f"/{rest}" if slash else ""
        parts.setdefault(int(number), []).append(replace(item, site=replace(item.site, where=where)))
    return [
        settle(message, ScreenResult(tuple(parts[number])), replace_with) if number in parts else message
        for number, message in enumerate(messages)
    ]
