"""HTTP clients whose images are judged, both ways: see ``guarded_client``.

    from openai import OpenAI
    from policyguard import Guard
    from policyguard.integrations.http import guarded_client

    client = OpenAI(http_client=guarded_client(Guard(policy="pictosafe/l3")))

For httpx and httpx2, blocking and asynchronous, for requests (``GuardedAdapter``), aiohttp
(``GuardedSession``), boto3 and LiteLLM. None of them is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.integrations.http.botocore import guard_botocore
from policyguard.integrations.http.clients import guard_client, guarded_async_client, guarded_client
from policyguard.integrations.http.litellm import guard_litellm
from policyguard.integrations.http.result import HttpResult
from policyguard.integrations.http.transports import AsyncGuardedTransport, GuardedTransport
from policyguard.integrations.screen import FileLedger
from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.integrations.http.adapter import GuardedAdapter
    from policyguard.integrations.http.aiohttp import GuardedSession

__all__ = [
    "AsyncGuardedTransport",
    "FileLedger",
    "GuardedAdapter",
    "GuardedSession",
    "GuardedTransport",
    "HttpResult",
    "guard_botocore",
    "guard_client",
    "guard_litellm",
    "guarded_async_client",
    "guarded_client",
]

__getattr__ = lazily(__name__, {"GuardedAdapter": ".adapter", "GuardedSession": ".aiohttp"})
