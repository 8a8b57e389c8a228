"""What became of a call: a Reply, a CallError, and what a server's refusal means.

A refusal is either about the set-up, which concerns every image and raises ConfigurationError, or about this
one image, which becomes a ``Failure``: REFUSED where a filter or the safety system of its provider declines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Failure, FailureKind
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.remote.endpoint import Endpoint

__all__ = [
    "SCORING",
    "CallError",
    "Reply",
    "declined",
    "filtered",
    "is_too_long",
    "refusal",
    "takes_no_images",
]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer of ``endpoint``: the object of a 200 in ``data``, of a refusal the ``message``.

    ``has_answered``: whether the server has answered other requests with this API key.
    """

    status: int
    data: dict[str, Any]
    endpoint: Endpoint
    message: str = ""
    parameter: str = ""
    has_answered: bool = False


class CallError(Exception):
    """One call gave no usable answer: the ``Failure`` of one image. Never leaves the package.

    Args:
        reason: in one sentence.
        retryable: whether the caller may try again later.
        kind: of the ``Failure``.
        retry_now: whether to repeat the call at once, or after ``retry_after`` seconds.
        server_failed: whether the server seems broken, and not just busy, or unable to take an image.
        timed_out: whether there was no answer in the time that the call had.
        retry_after: seconds that the server asks to be left alone.
    """

    def __init__(
        self,
        reason: str,
        *,
        retryable: bool = False,
        kind: FailureKind = FailureKind.ERROR,
        retry_now: bool = False,
        server_failed: bool = False,
        timed_out: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.failure = Failure(kind, reason, retryable)
        self.retry_now = retry_now
        self.server_failed = server_failed
        self.timed_out = timed_out
        self.retry_after = retry_after

    def with_note(self, note: str) -> CallError:
        """This error, with ``note`` in brackets at the end of its reason."""
        if note:
            self.failure = replace(self.failure, reason=f"{self.failure.reason} ({note})")
            self.args = (self.failure.reason,)
        return self


_DECLINING_CODES = re.compile(
    r"content_?(filter|policy|moderation)|policy_?violation|moderation_?blocked|responsibleai|guardrail"
    r"|(image_)?(safety|prohibited_content)|blocklist|recitation|spii|refusal",
    re.IGNORECASE,
)
_DECLINING_WORDS = re.compile(
    r"content management policy|content filtering policy|content_?policy_?violation|by our safety system"
    r"|result of our safety system|flagged as potentially violating|requires moderation.{0,80}flagged"
    r"|(prompt|request|input|image|response|output|content).{0,30}\b(was|is|were|been|got) "
    r"(blocked|flagged|filtered|rejected)\b.{0,60}(safety|moderat|prohibited|harmful|content|usage polic)",
    re.IGNORECASE | re.DOTALL,
)


def declined(error: object) -> str | None:
    """Why a provider declines to answer about what it was sent; None for an error of any other kind.

    ``error`` is the object of an error, in the shapes of OpenAI, Azure, OpenRouter, Gemini, Anthropic and
    LiteLLM, or its text. A whole account that a provider has blocked is not declined in this sense.
    """
    if not isinstance(error, dict):
        return str(error) if isinstance(error, str) and _DECLINING_WORDS.search(error[:4000]) else None
    inner, metadata = (error.get(name) for name in ("innererror", "metadata"))
    inner, metadata = (part if isinstance(part, dict) else {} for part in (inner, metadata))
    message = str(error.get("message") or "")[:4000]
    codes = [error.get("code"), error.get("type"), error.get("reason"), inner.get("code")]
    if not (
        any(isinstance(code, str) and _DECLINING_CODES.search(code) for code in codes)
        or metadata.get("flagged_input") is not None
        or _DECLINING_WORDS.search(message)
    ):
        return None
    reasons = metadata.get("reasons")
    filters = [*filtered(inner), *map(str, reasons if isinstance(reasons, list) else [])]
    return ": ".join(part for part in (message, ", ".join(filters)) if part) or "content policy"


def filtered(value: object, name: str = "") -> list[str]:
    """The names of the filters, however deep in ``value``, that say they took effect."""
    if isinstance(value, list):
        return [found for item in value for found in filtered(item, name)]
    if not isinstance(value, dict):
        return []
    severity = value.get("severity")
    here = [f"{name}, {severity}" if isinstance(severity, str) else name] if value.get("filtered") else []
    return here + [found for key, item in value.items() for found in filtered(item, str(key))]


# Servers say in prose what is wrong. A refusal that matches no pattern concerns this image only.
_TOO_LONG = re.compile(
    r"context.{0,3}(length|window|size)|maximum model length|max_model_len|(prompt|input) is too long",
    re.IGNORECASE,
)
_NO_IMAGES = re.compile(
    r"at most 0 image|not a multimodal|does not support (image|multimodal|vision)"
    r"|image input is not supported",
    re.IGNORECASE,
)
_IMAGE = re.compile(
    r"image.{0,60}(identify|load|decod|open|corrupt|truncated|invalid|pixel|too (large|small|big)|size)"
    r"|(identify|load|decod|open|process).{0,30}image|aspect ratio",
    re.IGNORECASE | re.DOTALL,
)
_KEY = re.compile(r"\bapi.?key|access.?token|authenticat|unauthori[sz]ed", re.IGNORECASE)
_MODEL = re.compile(
    r"(invalid|unknown|no such|unsupported) model|\bmodel\b.{0,100}"
    r"(not found|not exist|not available|unavailable|not (being )?served|deprecated|decommissioned|retired)",
    re.IGNORECASE | re.DOTALL,
)
SCORING = re.compile(
    r"logprob|continue_final_message|add_generation_prompt|\bprefill|must end with a user|last role",
    re.IGNORECASE,
)
"""Of refusals to give log-probabilities, or to continue an answer: OpenAI's, Claude's, Mistral's."""
_PARAMETER = re.compile(
    r"unrecogni[sz]ed|unsupported|not supported|unexpected|unknown (name|field|parameter|argument)"
    r"|extra.?(forbidden|inputs)|chat.?template|max_tokens",
    re.IGNORECASE,
)
_REQUIRED = {402: "payment", 407: "a password for the proxy", 511: "a login to the network"}


def is_too_long(reply: Reply) -> bool:
    """Whether prompt and image do not fit into the model's context."""
    return reply.status in (400, 422) and _TOO_LONG.search(reply.message) is not None


def takes_no_images(reply: Reply) -> bool:
    """Whether the server says that its model takes none: llama.cpp does so with HTTP 500."""
    return reply.status in (400, 422, 500) and _NO_IMAGES.search(reply.message) is not None


def refusal(reply: Reply, model: str) -> Exception:
    """What to raise for a reply that is not 200: ConfigurationError for the set-up, else CallError."""
    endpoint = reply.endpoint
    status, host, quote = reply.status, endpoint.host, endpoint.quote(reply.message)
    detail = f": {quote}" if quote else ""
    names_key = _KEY.search(reply.message) is not None
    if status == 403 and not names_key and reply.message:
        if SCORING.search(reply.message):
            return _unsupported(reply, model)
        if reply.has_answered:
            return CallError(f"{host} refuses the request (HTTP 403){detail}")
        return ConfigurationError(
            f"{host} refuses access (HTTP 403){detail}",
            hint="check what the API key may use; docs/remote.md has an example for each service",
        )
    if status in (401, 403) or (status in (400, 422) and names_key):
        # The message is left out: some servers repeat the key that they refuse.
        if endpoint.api_key:
            what = "the API key"
            hint = "check that POLICYGUARD_API_KEY (api_key= in Python) is a valid key of this server"
        else:
            what = "requests without an API key"
            hint = "set POLICYGUARD_API_KEY (api_key= in Python); OPENAI_API_KEY and the like are not read"
        return ConfigurationError(f"{host} refuses {what} (HTTP {status})", hint=hint)
    if 300 <= status < 400:
        return ConfigurationError(
            f"{host} redirects (HTTP {status}), and redirects are not followed",
            hint="set base_url (--base-url) to the address that it redirects to",
        )
    if status in _REQUIRED:
        return ConfigurationError(
            f"{host}, or a proxy before it, requires {_REQUIRED[status]} (HTTP {status})"
        )
    if (
        status == 410
        or (status == 404 and "model" in reply.message.lower())
        or (status in (400, 422) and _MODEL.search(reply.message))
    ):
        return ConfigurationError(
            f"{host} does not serve the model '{model}'{detail}",
            hint="model must be the name under which the server runs it (vLLM: --served-model-name)",
        )
    if status in (404, 405):
        return ConfigurationError(
            f"{host} has no chat completions API at {endpoint.base} (HTTP {status}){detail}",
            hint="base_url (--base-url) usually ends in /v1, as in http://gpu:8000/v1",
        )
    if status == 413:
        return CallError(f"this image is too large for {host}{detail}", kind=FailureKind.UNSCANNABLE)
    if takes_no_images(reply):
        return ConfigurationError(
            f"the model '{model}' on {host} takes no images{detail}",
            hint="serve a vision-language model (llama.cpp: with its --mmproj file)",
        )
    if status not in (400, 422):
        return CallError(f"{host} refuses the request (HTTP {status}){detail}")
    if _IMAGE.search(reply.message):
        return CallError(f"{host} cannot read this image{detail}", kind=FailureKind.UNSCANNABLE)
    complaint = f"{reply.parameter} {reply.message}"
    if _PARAMETER.search(complaint) or SCORING.search(complaint):
        return _unsupported(reply, model)
    return CallError(f"{host} refuses the request (HTTP {status}){detail}")


def _unsupported(reply: Reply, model: str) -> ConfigurationError:
    quote = reply.endpoint.quote(reply.message)
    return ConfigurationError(
        f"{reply.endpoint.host} does not support what is needed to read '{model}'"
        + (f": {quote}" if quote else ""),
        hint="docs/remote.md lists what a server must support; vLLM does",
    )
