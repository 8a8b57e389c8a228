"""Clients that judge, and existing clients made to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.exchange import Core
from policyguard.integrations.http.family import Family, FamilyName, family_named, family_of, installed_family
from policyguard.integrations.http.settings import ClientOptions, Options, Settings
from policyguard.integrations.http.transports import AsyncGuardedTransport, GuardedTransport

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = ["guard_client", "guarded_async_client", "guarded_client"]

C = TypeVar("C")


def guarded_client(
    guard: Guard, *, family: FamilyName | None = None, **options: Unpack[ClientOptions]
) -> Any:
    """A ``Client`` of httpx or httpx2 whose images ``guard`` judges, both ways: hand it to any SDK on either.

    Args:
        guard: judges. It stays the caller's to close.
        family: ``"httpx"`` or ``"httpx2"``; default: what the installed SDKs are built on.
        on_block: what becomes of a blocked image, for both directions or for each (``{"request": ...,
            "response": ...}``): ``"reject"``, the default, a 403 in the provider's own error shape;
            ``"raise"``, PolicyViolation from inside the client; ``"replace"``, another image in its place;
            ``"watch"``, nothing: all is judged and reported, and passes.
        when: ``"before"`` (default): a request is judged before it goes out; ``"alongside"``: while it is on
            its way, and its answer is held until the verdict. The provider then sees images that are blocked.
        replace_with: that image: ``"placeholder"`` (default), ``"blur"`` or ``"pixelate"``.
        urls: images by URL: ``"reject"`` (default), or ``"fetch"`` them, and send what was fetched in their
            place.
        links: addresses of images in the words of an answer (Markdown, HTML): ``"pass"`` (default), or
            ``"block"``. Those in requests pass: no model fetches them.
        fetcher: fetches them; default: public https addresses only.
        files: which uploaded files were judged. Share one between clients that share files.
        max_images: images judged in one body (100); more are UNSCANNABLE.
        documents: PDF, office files and films, whose images are not taken out of them: ``"block"`` (default),
            or ``"pass"`` them unjudged.
        pass_on: what goes on of an image that may pass: ``"judged"`` (default), a plain PNG or JPEG of what
            was judged wherever viewers may show its file otherwise; or ``"original"``, the file as it is.
        max_body: bytes of a body that are held at most (64 MiB). A longer one is blocked.
        max_event: bytes of one event of a stream that are held at most (32 MiB).
        on_flag: called with the HttpResult of an exchange in which an image was flagged.
        on_result: called with the HttpResult of every exchange, when it ends.
        options: all others are settings of the client itself (``timeout``, ``proxy``, ``transport``, ...).
            Redirects are followed unless ``follow_redirects`` says otherwise, as the SDKs' own clients do.

    Raises ConfigurationError for settings that cannot work.
    """
    return _build("Client", guard, family, options)


def guarded_async_client(
    guard: Guard, *, family: FamilyName | None = None, **options: Unpack[ClientOptions]
) -> Any:
    """``guarded_client`` as an ``AsyncClient``."""
    return _build("AsyncClient", guard, family, options)


def guard_client(client: C, guard: Guard, **options: Unpack[Options]) -> C:
    """Make an existing client judge its images from now on; returns the same client.

    Its settings, proxies and mounts stay. Takes a Client or AsyncClient of httpx or httpx2, and the options
    of ``guarded_client``. Raises ConfigurationError for anything else, and for one that is guarded already.
    """
    family = family_of(client, "Client", "AsyncClient")
    wrap = AsyncGuardedTransport if isinstance(client, family.module.AsyncClient) else GuardedTransport
    core = Core(Settings(guard=guard, **options))
    try:
        own, mounts = vars(client)["_transport"], vars(client)["_mounts"]
    except KeyError as error:
        raise ConfigurationError(
            f"this version of {family.module.__name__} keeps its transports elsewhere: {error}",
            hint="give it GuardedTransport(guard, transport) as its transport instead",
        ) from error
    if isinstance(own, GuardedTransport | AsyncGuardedTransport):
        raise ConfigurationError("this client is guarded already")
    for transport in (own, *(mounted for mounted in mounts.values() if mounted is not None)):
        _require_family(family, transport)
    guarded = {
        pattern: None if mounted is None else wrap(core, mounted) for pattern, mounted in mounts.items()
    }
    vars(client).update(_transport=wrap(core, own), _mounts=guarded)
    return client


def _require_family(family: Family, transport: object) -> None:
    """Raise ConfigurationError unless ``transport`` is of the client's package."""
    ours = family.module.__name__
    theirs = family_of(transport, "BaseTransport", "AsyncBaseTransport").module.__name__
    if theirs != ours:
        raise ConfigurationError(
            f"the client is of {ours}, and its transport ({type(transport).__name__}) of {theirs}",
            hint=f"take the transport from {ours}, or the client of {theirs} "
            f"(guarded_client: family={theirs!r})",
        )


def _build(kind: str, guard: Guard, family: FamilyName | None, options: ClientOptions) -> Any:
    module = family_named(family or installed_family()).module
    own = {name: value for name, value in options.items() if name in Options.__annotations__}
    client = {name: value for name, value in options.items() if name not in own}
    return guard_client(getattr(module, kind)(**{"follow_redirects": True, **client}), guard, **own)  # type: ignore[arg-type]
