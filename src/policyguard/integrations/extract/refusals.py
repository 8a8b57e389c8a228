"""What a provider refused by itself, in its response: reported beside the verdicts, never as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from policyguard.integrations.extract.site import Path, ProviderRefusal, pointer
from policyguard.integrations.extract.walk import MAX_DEPTH, MAX_NODES, fields_of

__all__ = ["provider_refusals"]

_OPENAI_CODES = frozenset(
    ("moderation_blocked", "content_policy_violation", "content_filter", "responsibleaipolicyviolation")
)
_GEMINI_FINISH = frozenset(
    (
        "SAFETY",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_OTHER",
        "PROHIBITED_CONTENT",
        "BLOCKLIST",
        "SPII",
        "RECITATION",
        "NO_IMAGE",
    )
)


def provider_refusals(payload: object) -> list[ProviderRefusal]:
    """What the provider itself refused, in a parsed response. Raises nothing."""
    refusals: list[ProviderRefusal] = []
    stack: list[tuple[Any, Path, int]] = [(payload, None, 0)]
    nodes = 0
    while stack and nodes < MAX_NODES:
        value, path, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            continue
        if isinstance(value, list | tuple):
            stack.extend(
                (child, (path, index), depth + 1) for index, child in reversed(list(enumerate(value)))
            )
            continue
        fields = value if isinstance(value, Mapping) else _fields(value)
        if not fields:
            continue
        for key, (provider, read) in _SIGNS.items():
            if (value := fields.get(key)) and (reason := read(value, fields)):
                source = "gemini" if reason in _GEMINI_FINISH else provider
                refusals.append(ProviderRefusal(pointer((path, key)), source, reason[:300]))
        stack.extend((child, (path, str(key)), depth + 1) for key, child in reversed(list(fields.items())))
    return refusals


def _fields(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, str | int | float | None):
        return None
    try:
        return fields_of(value)
    except Exception:
        return None


Reader = Callable[[Any, Mapping[Any, Any]], str]


def _moderation_details(value: Any, _: Mapping[Any, Any]) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    categories = value.get("categories")
    if isinstance(categories, Mapping):
        categories = [name for name, hit in categories.items() if hit]
    source = (
        ", ".join(map(str, categories)) if isinstance(categories, list | tuple) else str(categories or "")
    )
    return f"moderation at stage {value.get('moderation_stage', 'unknown')}" + (
        f": {source}" if source else ""
    )


def _code(value: Any, _: Mapping[Any, Any]) -> str:
    return value if isinstance(value, str) and value.lower() in _OPENAI_CODES else ""


def _finish(value: Any, _: Mapping[Any, Any]) -> str:
    return value if value in ("content_filter", "refusal") else ""


def _stop(value: Any, fields: Mapping[Any, Any]) -> str:
    if value != "refusal":
        return ""
    details = fields.get("stop_details")
    details = details if isinstance(details, Mapping) else _fields(details) or {}
    reasons = [str(details[key]) for key in ("category", "explanation") if details.get(key)]
    return ": ".join(["refusal", *reasons])


def _gemini_finish(value: Any, _: Mapping[Any, Any]) -> str:
    name = str(getattr(value, "value", value))
    return name if name in _GEMINI_FINISH or name == "CONTENT_FILTERED" else ""


def _text(value: Any, _: Mapping[Any, Any]) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return str(getattr(value, "value", value))


def _refusal_text(value: Any, _: Mapping[Any, Any]) -> str:
    return value if isinstance(value, str) else ""


def _incomplete(value: Any, _: Mapping[Any, Any]) -> str:
    fields = value if isinstance(value, Mapping) else _fields(value) or {}
    return "content_filter" if fields.get("reason") == "content_filter" else ""


_SIGNS: Mapping[str, tuple[str, Reader]] = {
    "moderation_details": ("openai", _moderation_details),
    "code": ("openai", _code),
    "finish_reason": (
        "openai",
        lambda value, fields: _finish(value, fields) or _gemini_finish(value, fields),
    ),
    "incomplete_details": ("openai", _incomplete),
    "refusal": ("openai", _refusal_text),
    "stop_reason": ("anthropic", _stop),
    "finishReason": ("gemini", _gemini_finish),
    "blockReason": ("gemini", _text),
    "block_reason": ("gemini", _text),
    "raiFilteredReason": ("gemini", _text),
    "rai_filtered_reason": ("gemini", _text),
    "raiMediaFilteredReasons": ("gemini", _text),
}
