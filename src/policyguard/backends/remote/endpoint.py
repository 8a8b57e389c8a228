"""A server's address and API key, and what of its messages may be repeated.

Covered: no API key and no image data in a message, however the server repeats them; addresses that hold
a password are refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from policyguard.errors import ConfigurationError
from policyguard.strict.arguments import text
from policyguard.strict.text import shortened

__all__ = ["Endpoint"]

_OUTSIDE_API = ("/api/show", "/detokenize", "/props", "/tokenize", "/version")

_SHORT_KEY = 12
"""Characters below which a key is a stand-in such as "token", and part of ordinary words in a message."""
_MAX_QUOTE = 300
"""Characters of a server's message that ours repeats."""

_MAX_MESSAGE = 4000
"""Characters of a server's message, without image data, that are looked at, so that none costs time."""

_VERSION = re.compile(r"api-version=[\w.-]{1,40}")
_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,[\w+/=-]*|[A-Za-z0-9+/]{200,}={0,2}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked base URL and API key.

    ``base`` is the URL without a trailing slash, ``root`` the same without a last ``/v1``, where servers
    keep what is not part of the OpenAI API. ``host`` is the host with its port, where one is given.
    ``private``: it is on this machine or in a private network. ``query`` is Azure's ``?api-version=...``, or
    empty.
    """

    base: str
    root: str
    host: str
    loopback: bool
    private: bool = False
    query: str = ""
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, base_url: str, api_key: str | None = None) -> Endpoint:
        """Raises ConfigurationError unless this is a plain http or https URL, and the key fits a header."""
        hint = "base_url (--base-url) looks like http://gpu:8000/v1"
        text("base_url", base_url)
        try:
            parts = urlsplit(base_url)
            host, port = parts.hostname, parts.port
            if host is not None and ":" not in host:
                host.encode("idna")  # as looking up its address will
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\x7f]", base_url):
            # The URL is not quoted: what cannot be parsed may hold a password anywhere.
            raise ConfigurationError("base_url is not an http or https URL", hint=hint)
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError(
                "base_url holds a user name or password, which would end up in logs",
                hint="put the key into POLICYGUARD_API_KEY (api_key= in Python)",
            )
        if parts.fragment or (parts.query and not _VERSION.fullmatch(parts.query)):
            raise ConfigurationError(
                "base_url has a query other than ?api-version=..., or a fragment", hint=hint
            )
        if api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", text("the API key", api_key)):
            raise ConfigurationError(
                "the API key is empty or holds characters that no HTTP header may hold",
                hint="POLICYGUARD_API_KEY (api_key= in Python) is the key alone, with no blank or line end",
            )
        netloc = f"[{host}]" if ":" in host else host
        netloc = netloc if port is None else f"{netloc}:{port}"
        base = f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}".removesuffix("/chat/completions")
        query = f"?{parts.query}" if parts.query else ""
        root, loopback = base.removesuffix("/v1"), _is_loopback(host)
        return cls(base, root, netloc, loopback, loopback or _is_private(host), query, api_key)

    def url(self, path: str) -> str:
        """Where ``path`` is: at ``base``, or at ``root`` what servers have beside the OpenAI API."""
        return f"{self.root if path in _OUTSIDE_API else self.base}{path}{self.query}"

    @property
    def azure(self) -> bool:
        """Whether this is Azure OpenAI, where a deployment's name stands for the model's."""
        return bool(self.query) or self.host.endswith(".azure.com")

    def authorization(self) -> dict[str, str]:
        """The header with the API key. Azure takes its keys apart from the tokens of Entra ID."""
        if self.api_key is None:
            return {}
        if self.azure and not self.api_key.startswith("eyJ"):
            return {"api-key": self.api_key}
        return {"Authorization": f"Bearer {self.api_key}"}

    def cut(self, message: str) -> str:
        """The beginning of a server's message, without image data and the API key: all that is looked at."""
        if self.api_key is not None:
            key = re.escape(self.api_key)
            if len(self.api_key) < _SHORT_KEY:
                key = rf"(?<!\w){key}(?!\w)"
            message = re.sub(key, "***", message)
        return _DATA_URI.sub("<data>", message[: 8 * _MAX_MESSAGE])[:_MAX_MESSAGE]

    def quote(self, message: object) -> str:
        """A server's message as it may stand in ours: one short line, without image data and the API key."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self.cut(str(message))).split())
        return shortened(line, _MAX_QUOTE)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_private(host: str) -> bool:
    """By its address, or by a name that no public server has."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan"))
