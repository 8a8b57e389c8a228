"""The heads of requests and responses, the same for every client library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Provider", "RequestHead", "ResponseHead", "Synthetic", "media_type", "parameter"]

Provider: TypeAlias = Literal["openai", "anthropic", "gemini", "generic"]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body. Header names are lower case; of several with one name, all are joined."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    query: str = ""

    @property
    def provider(self) -> Provider:
        """Whose error shapes the caller expects."""
        if "anthropic-version" in self.headers or self.path.endswith("/messages"):
            return "anthropic"
        if (
            "x-goog-api-key" in self.headers
            or "x-goog-api-client" in self.headers
            or self.host.endswith(".googleapis.com")
            or _GEMINI.search(self.path)
        ):
            return "gemini"
        return "openai" if _OPENAI.search(self.path) else "generic"

    @property
    def attempt(self) -> int:
        """How often the SDK has sent this before, as far as it says."""
        count = self.headers.get("x-stainless-retry-count", "")
        return int(count) if count.isascii() and count.isdigit() else 0

    @property
    def uploads_file(self) -> bool:
        """Whether the answer names a file that later requests may refer to."""
        return self.method in ("POST", "PUT") and _FILES.search(self.path) is not None


_GEMINI = re.compile(r":(stream)?(generate|predict|count|embed|edit|upscale)\w*$", re.IGNORECASE)
_OPENAI = re.compile(
    r"/(chat/completions|completions|responses|images/\w+|files|embeddings|moderations|audio/\w+"
    r"|uploads|batches|threads|assistants|models)(/|$)"
)
_FILES = re.compile(r"/(files|uploads)(/|$)|/upload/")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response without its body; see RequestHead."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A response that no server sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


def media_type(header: str | None) -> str:
    """The media type of a Content-Type header, in lower case, without parameters; "" if there is none."""
    return (header or "").split(";", 1)[0].strip().lower()


def parameter(header: str, name: str) -> str | None:
    """A parameter of a Content-Type or Content-Disposition header."""
    match = re.search(
        rf';\s*{re.escape(name)}\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', header, re.IGNORECASE
    )
    if match is None:
        return None
    return re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
