"""Clients that judge, and existing clients made to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.exchange import Core
from policyguard.integrations.http.family import FamilyName, family_named, family_of, installed_family
from policyguard.integrations.http.settings import settings
from policyguard.integrations.http.transports import AsyncGuardedTransport, GuardedTransport

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetcher
    from policyguard.integrations.http.settings import Callback, OnBlockSetting, Options
    from policyguard.integrations.screen import FileLedger
    from policyguard.integrations.screen.altered import ReplaceWith

__all__ = ["guard_client", "guarded_async_client", "guarded_client"]

C = TypeVar("C")


def guarded_client(
    guard: Guard,
    *,
    family: FamilyName | None = None,
    on_block: OnBlockSetting = "reject",
    replace_with: ReplaceWith = "placeholder",
    urls: Literal["reject", "fetch"] = "reject",
    fetcher: Fetcher | None = None,
    files: FileLedger | None = None,
    max_images: int = 100,
    documents: Literal["block", "pass"] = "block",
    max_body: int = 64 * 2**20,
    max_event: int = 32 * 2**20,
    on_flag: Callback | None = None,
    on_result: Callback | None = None,
    **client: Any,
) -> Any:
    """A ``Client`` of httpx or httpx2 whose images ``guard`` judges, both ways: hand it to any SDK on either.

    Args:
        guard: judges. It stays the caller's to close.
        family: ``"httpx"`` or ``"httpx2"``; default: what the installed SDKs are built on.
        on_block: what becomes of a blocked image, for both directions or for each (``{"request": ...,
            "response": ...}``): ``"reject"``, a 403 in the provider's own error shape; ``"raise"``,
            PolicyViolation from inside the client; ``"replace"``, another picture in its place.
        replace_with: that picture: ``"placeholder"``, ``"blur"`` or ``"pixelate"``.
        urls: images by URL: ``"reject"``, or ``"fetch"`` them, and send what was fetched in their place.
        fetcher: fetches them; default: public https addresses only.
        files: which uploaded files were judged. Share one between clients that share files.
        max_images: images judged in one body; more are UNSCANNABLE.
        documents: PDF, office files and films, whose images are not taken out of them: ``"block"``, or
            ``"pass"`` them unjudged.
        max_body: bytes of a body that are held at most. A longer one is blocked.
        max_event: bytes of one event of a stream that are held at most.
        on_flag: called with the HttpResult of an exchange in which an image was flagged.
        on_result: called with the HttpResult of every exchange, when it ends.
        client: settings of the client itself (``timeout``, ``proxy``, ``transport``, ...). Redirects are
            followed unless ``follow_redirects`` says otherwise, as the SDKs' own clients do.

    Raises ConfigurationError for settings that cannot work.
    """
    return _made("Client", guard, family, client, **_options(locals()))


def guarded_async_client(
    guard: Guard,
    *,
    family: FamilyName | None = None,
    on_block: OnBlockSetting = "reject",
    replace_with: ReplaceWith = "placeholder",
    urls: Literal["reject", "fetch"] = "reject",
    fetcher: Fetcher | None = None,
    files: FileLedger | None = None,
    max_images: int = 100,
    documents: Literal["block", "pass"] = "block",
    max_body: int = 64 * 2**20,
    max_event: int = 32 * 2**20,
    on_flag: Callback | None = None,
    on_result: Callback | None = None,
    **client: Any,
) -> Any:
    """``guarded_client`` as an ``AsyncClient``."""
    return _made("AsyncClient", guard, family, client, **_options(locals()))


def guard_client(client: C, guard: Guard, **options: Unpack[Options]) -> C:
    """Make a client that exists judge its images from now on; returns the same client.

    Its settings, proxies and mounts stay. Takes a Client or AsyncClient of httpx or httpx2, and the settings
    of ``guarded_client``. Raises ConfigurationError for anything else, and for one that is guarded already.
    """
    family = family_of(client, "Client", "AsyncClient")
    wrap = AsyncGuardedTransport if isinstance(client, family.module.AsyncClient) else GuardedTransport
    core = Core(settings(guard, **options))
    try:
        own, mounts = vars(client)["_transport"], vars(client)["_mounts"]
    except KeyError as error:
        raise ConfigurationError(
            f"this version of {family.module.__name__} keeps its transports elsewhere: {error}",
            hint="give it GuardedTransport(guard, transport) as its transport instead",
        ) from error
    if isinstance(own, GuardedTransport | AsyncGuardedTransport):
        raise ConfigurationError("this client is guarded already")
    guarded = {
        pattern: None if mounted is None else wrap(core, mounted) for pattern, mounted in mounts.items()
    }
    vars(client).update(_transport=wrap(core, own), _mounts=guarded)
    return client


def _made(kind: str, guard: Guard, family: FamilyName | None, client: dict[str, Any], **options: Any) -> Any:
    module = family_named(family or installed_family()).module
    return guard_client(getattr(module, kind)(**{"follow_redirects": True, **client}), guard, **options)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ("guard", "family", "client")}
