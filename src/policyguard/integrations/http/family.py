"""httpx and httpx2: two packages of one shape. Neither is imported before it is needed."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from importlib import import_module, metadata
from typing import Any, Literal, TypeAlias

from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.integrations.http.flow import Stream, complete

__all__ = ["Family", "FamilyName", "family_named", "family_of", "installed_family"]

FamilyName: TypeAlias = Literal["httpx", "httpx2"]
FAMILIES: tuple[FamilyName, ...] = ("httpx", "httpx2")

#: SDKs that take a client, and whose requirements say of which family.
_SDKS = ("openai", "anthropic", "google-genai", "mistralai", "groq")


class Family:
    """What the transports need of one of the two packages."""

    def __init__(self, module: Any) -> None:
        self.module = module

        class Sync(module.SyncByteStream):  # type: ignore[misc]
            def __init__(self, stream: Stream) -> None:
                self._stream = stream

            def __iter__(self) -> Iterator[bytes]:
                while (piece := complete(self._stream.read())) is not None:
                    yield piece

            def close(self) -> None:
                complete(self._stream.close())

        class Async(module.AsyncByteStream):  # type: ignore[misc]
            def __init__(self, stream: Stream) -> None:
                self._stream = stream

            async def __aiter__(self) -> AsyncIterator[bytes]:
                while (piece := await self._stream.read()) is not None:
                    yield piece

            async def aclose(self) -> None:
                await self._stream.close()

        self.sync_stream, self.async_stream = Sync, Async


@cache
def family_named(name: str) -> Family:
    """Raises ConfigurationError for another name, and where the package is missing."""
    if name not in FAMILIES:
        raise ConfigurationError(f"family is {name!r}; it must be 'httpx' or 'httpx2'")
    try:
        return Family(import_module(name))
    except ImportError:
        if name == "httpx":
            raise MissingExtraError(name, "http") from None
        raise ConfigurationError(
            f"{name} is not installed",
            hint=f"SDKs that are built on it bring it along; or: pip install {name}",
        ) from None


def family_of(value: object, *kinds: str) -> Family:
    """The family that ``value`` comes from: an instance of one of its classes ``kinds``."""
    for name in FAMILIES:
        module = sys.modules.get(name)  # who holds an instance has imported the package
        if module is not None and isinstance(value, tuple(getattr(module, kind) for kind in kinds)):
            return family_named(name)
    raise ConfigurationError(
        f"a {' or '.join(kinds)} of httpx or httpx2 is expected, not a {type(value).__name__}",
        hint="an SDK takes a guarded client, OpenAI(http_client=guarded_client(guard)); requests takes a "
        "GuardedAdapter, LiteLLM guard_litellm, boto3 guard_botocore, aiohttp a "
        "GuardedSession; gRPC cannot be guarded: use the REST transport (Vertex AI: transport='rest'), or "
        "judge with guard.check before the call",
    )


def installed_family() -> FamilyName:
    """The family that the installed SDKs are built on; without one, the package that is installed.

    Raises ConfigurationError where the SDKs differ, and MissingExtraError where there is neither package.
    """
    families = {sdk: family for sdk in _SDKS if (family := _required(sdk)) is not None}
    if len(set(families.values())) > 1:
        sdks = ", ".join(f"{sdk} on {family}" for sdk, family in families.items())
        raise ConfigurationError(
            f"the installed SDKs differ in their HTTP package ({sdks})",
            hint="say which one the client is for: family='httpx' or family='httpx2'",
        )
    if families:
        return next(iter(families.values()))
    for name in FAMILIES:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        return name
    raise MissingExtraError("httpx", "http")


def _required(sdk: str) -> FamilyName | None:
    """The family that an SDK cannot do without; None if it is not installed."""
    try:
        requirements = metadata.requires(sdk) or []
    except metadata.PackageNotFoundError:
        return None
    needed = {
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requirements if "extra" not in line
    }
    return next((name for name in reversed(FAMILIES) if name in needed), None)
