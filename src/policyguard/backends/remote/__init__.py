"""A guard model on a server that speaks the OpenAI-compatible chat completions API, such as vLLM.

Covered: answers are read strictly, and whatever is wrong with one of them (timeout, dropped connection, 5xx,
broken or oversized body, numbers that are no probabilities) is a ``Failure``, never a guess; bodies are
bounded and deadlines hard; redirects are not followed; no message holds the API key or image data. Not
covered: a server that lies. It sees the policy and the image, and its word decides.

A request's way through the modules, down and up again:

1. ``backend``: RemoteBackend takes requests of any thread or event loop to a loop of its own.
2. ``reader``: assesses one frame: rating, rules where they can matter, rationale if requested.
3. ``frame_encoding``: the frame as a data URI, at the size that the model looks at.
4. ``labels``: the best way to read labels that the server supports; scores from label probabilities.
5. ``chat``: the requests of the API: chat completions, token ids, list of models.
6. ``servers``: picks a server (circuit breaker, fewest calls) and repeats a call, as ``retry`` allows.
7. ``client``: one HTTP call to one ``endpoint``, bounded and as strict JSON.
8. ``errors``: whether a refusal is about the set-up (ConfigurationError) or this image (CallError).
9. ``answers``: reads the body of a 200: token probabilities or text; ``forms``: a JSON verdict.
   ``sight``: whether the frame reached the model.
10. Beside it, ``capabilities`` probes what a server can do, and ``doctor`` says what to change.
"""

from __future__ import annotations

from policyguard.backends.remote.backend import RemoteBackend
from policyguard.backends.remote.retry import Retries

__all__ = ["RemoteBackend", "Retries"]
