"""HTTP clients whose images are judged, both ways: see ``guarded_client``.

    from openai import OpenAI
    from policyguard import Guard
    from policyguard.integrations.http import guarded_client

    client = OpenAI(http_client=guarded_client(Guard(policy="pictosafe/l3")))

For httpx and httpx2, blocking and asynchronous, and for requests (``GuardedAdapter``). None of the three is
imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.integrations.http.clients import guard_client, guarded_async_client, guarded_client
from policyguard.integrations.http.litellm import guard_litellm
from policyguard.integrations.http.result import HttpResult
from policyguard.integrations.http.transports import AsyncGuardedTransport, GuardedTransport
from policyguard.integrations.screen import FileLedger
from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.integrations.http.adapter import GuardedAdapter

__all__ = [
    "AsyncGuardedTransport",
    "FileLedger",
    "GuardedAdapter",
    "GuardedTransport",
    "HttpResult",
    "guard_client",
    "guard_litellm",
    "guarded_async_client",
    "guarded_client",
]

__getattr__ = lazily(__name__, {"GuardedAdapter": ".adapter"})  # requests is imported for it alone
