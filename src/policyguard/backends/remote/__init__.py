"""A guard model on a server that speaks the OpenAI-compatible chat completions API, such as vLLM.

Covered: answers are read strictly, and whatever is wrong with one of them (timeout, dropped connection,
5xx, broken or oversized body, numbers that are no probabilities) is a ``Failure``, never a guess; bodies
are bounded and deadlines hard; redirects are not followed; the API key appears in no message, and no
picture either. Not covered: a server that lies. It sees the policy and the picture, and its word decides.
"""

from __future__ import annotations

from policyguard.backends.remote.backend import RemoteBackend
from policyguard.backends.remote.retry import Retries

__all__ = ["RemoteBackend", "Retries"]
