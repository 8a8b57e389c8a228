"""Pictures that Markdown or HTML in a text links to by http(s) address.

Covered: Markdown images, inline and by reference, and the tags and attributes that load pictures.
Every pattern runs in linear time. Not covered: style sheets, entities in addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_links"]

_URL = r"(?:https?:)?//[^\s\"'<>()\[\]\\]+"
_ALT = r"(?:\\.|[^\[\]\\]|\[[^\[\]]*\])*"
_INLINE = re.compile(rf"!\[{_ALT}\]\(\s*<?({_URL})", re.IGNORECASE | re.DOTALL)
_NESTED = re.compile(rf"\]\(\s*<?({_URL}\.(?:png|jpe?g|gif|webp|bmp|svg|avif)\b)", re.IGNORECASE)
_REFERENCE = re.compile(r"!\[([^\[\]]*)\](?:\[([^\[\]]*)\])?")
_DEFINITION = re.compile(rf"^ {{0,3}}\[([^\[\]]+)\]:[ \t]*<?({_URL})", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"<(?:img|image|source|input|video|object|embed)\b([^<>]*)", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"\b(?:src|srcset|href|poster|data|data-src)\s*=\s*\\?[\"']?\s*((?:https?:)?//[^\s\"'<>\\]+)",
    re.IGNORECASE,
)


def find_links(text: str) -> Iterator[tuple[int, int]]:
    """The parts of ``text`` that are addresses of pictures, as (start, end)."""
    spans: set[tuple[int, int]] = set()
    if "![" in text:
        spans.update(match.span(1) for match in _INLINE.finditer(text))
        if "[" in text.replace("![", ""):
            spans.update(match.span(1) for match in _NESTED.finditer(text))
        if "]:" in text:
            wanted = {(match[2] or match[1]).casefold().strip() for match in _REFERENCE.finditer(text)}
            spans.update(
                match.span(2) for match in _DEFINITION.finditer(text) if match[1].casefold().strip() in wanted
            )
    if "<" in text and "//" in text:
        for tag in _TAG.finditer(text):
            for attribute in _ATTRIBUTE.finditer(text, *tag.span(1)):
                spans.add(attribute.span(1))
    yield from _apart(sorted(spans))


def _apart(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The longest of those that begin at one place; none that lies in another."""
    last = -1
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= last:
            yield start, end
            last = end
