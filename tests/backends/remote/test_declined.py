"""A provider that declines an image: REFUSED with its reason, asked once, and the batch goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.remote.other_servers import whole
from backends.remote.server import ToyServer
from backends.remote.support import backend, picture, policy
from policyguard import Guard, Outcome
from policyguard.backends.remote.errors import declined
from policyguard.errors import ConfigurationError

AZURE = {
    "message": "The response was filtered due to the prompt triggering the content management policy.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {
            "hate": {"filtered": False, "severity": "safe"},
            "violence": {"filtered": True, "severity": "high"},
        },
    },
}
OPENAI = {
    "message": "Your request was rejected as a result of our safety system.",
    "type": "invalid_request_error",
    "param": None,
    "code": "content_policy_violation",
}
FLAGGED = OPENAI | {
    "message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
    "code": "invalid_prompt",
}
OPENROUTER = {
    "code": 403,
    "message": "The model requires moderation, and your input was flagged",
    "metadata": {"reasons": ["sexual/minors"], "flagged_input": "...", "provider_name": "OpenAI"},
}
GEMINI = {
    "code": 400,
    "message": "The prompt was blocked for safety reasons: PROHIBITED_CONTENT",
    "status": "X",
}
ANTHROPIC = {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}
LITELLM = {
    "message": "litellm.ContentPolicyViolationError: AzureException - filtered",
    "type": None,
    "code": "400",
}

ERRORS: dict[str, tuple[int, Any, str]] = {
    "Azure": (400, {"error": AZURE}, "violence, high"),
    "OpenAI": (400, {"error": OPENAI}, "safety system"),
    "OpenAI, a flagged prompt": (400, {"error": FLAGGED}, "usage policy"),
    "OpenRouter": (403, {"error": OPENROUTER}, "sexual/minors"),
    "Gemini": (400, [{"error": GEMINI}], "PROHIBITED_CONTENT"),
    "Claude": (400, {"type": "error", "error": ANTHROPIC}, "content filtering policy"),
    "LiteLLM": (400, {"error": LITELLM}, "ContentPolicyViolation"),
    "a 500 around it": (500, {"error": OPENAI}, "safety system"),
    "a 503 around it": (503, {"error": OPENAI}, "safety system"),
    "a text": (400, {"error": "content_policy_violation: the image was flagged"}, "flagged"),
}


def _finished(reason: Any, **message: Any) -> dict[str, Any]:
    return whole("", reason, **message)


ANSWERS: dict[str, tuple[int, Any, str]] = {
    "finish content_filter": (200, _finished("content_filter"), "content_filter"),
    "Gemini's SAFETY": (200, _finished("SAFETY"), "SAFETY"),
    "Gemini's PROHIBITED_CONTENT": (200, _finished("content_filter: PROHIBITED_CONTENT"), "PROHIBITED"),
    "Gemini's RECITATION": (200, _finished("RECITATION"), "RECITATION"),
    "Gemini's IMAGE_SAFETY": (200, _finished("IMAGE_SAFETY", content=None), "IMAGE_SAFETY"),
    "Gemini's block reason": (200, {"promptFeedback": {"blockReason": "BLOCKLIST"}}, "BLOCKLIST"),
    "Claude's refusal": (200, _finished("refusal", content=None), "refusal"),
    "OpenAI's refusal": (200, _finished("stop", content=None, refusal="I can't look at this."), "I can't"),
    "Azure's filtered prompt": (
        200,
        whole("safe") | {"prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
        "hate",
    ),
    "OpenRouter, 200 around it": (200, {"error": OPENROUTER}, "sexual/minors"),
}
DECLINED = ERRORS | ANSWERS


@pytest.mark.parametrize("name", DECLINED)
@pytest.mark.parametrize("rated", [False, True], ids=["scores", "ratings"])
def test_what_a_provider_declines_is_refused_with_its_reason_and_not_asked_again(
    server: ToyServer, name: str, rated: bool
) -> None:
    status, body, reason = DECLINED[name]
    server.features -= {"logprobs"} if rated else set()
    server.fault = lambda handler, answer: handler.send_json(status, body)
    with backend(server) as backend_:
        guard = Guard(policy(), backend=backend_)
        verdicts = [guard.check(picture(7)), asyncio.run(guard.acheck(picture(7)))]
    for verdict in verdicts:
        assert (verdict.outcome, verdict.allowed) == (Outcome.REFUSED, False), verdict
        assert reason in (verdict.reason or "")
    assert len(server.bodies()) == 2, "each asked once"


@pytest.mark.parametrize("name", ERRORS)
def test_the_rest_of_a_batch_goes_on(server: ToyServer, name: str) -> None:
    status, body, _ = ERRORS[name]
    left = [1]

    def once(handler: Any, answer: Any) -> None:
        handler.send_json(*((status, body) if left and left.pop() else (200, answer)))

    server.fault = once
    with backend(server, concurrency=1) as backend_:
        guard = Guard(policy(), backend=backend_)
        found = [verdict.outcome for verdict in guard.check_many([picture(n) for n in range(3)], workers=1)]
    assert found == [Outcome.REFUSED, Outcome.COMPLIES, Outcome.COMPLIES]


@pytest.mark.parametrize(
    "error",
    [
        "Incorrect API key provided",
        {"message": "Your resource has been temporarily blocked because we detected behavior that may violate"
         " our content policy.", "code": "Forbidden"},
        {"message": "'logprobs' is not supported with this model", "code": "unsupported_parameter"},
        {"message": "This image cannot be decoded", "code": 400},
        {"message": "maximum context length is 4096", "code": 400},
        {"message": "the safety_identifier is unknown", "code": "unknown_parameter"},
        {"message": "The model `safety-1` does not exist", "code": "model_not_found"},
        {},
        None,
    ],
)  # fmt: skip
def test_an_error_of_another_kind_is_not_declined(error: object) -> None:
    assert declined(error) is None


def test_a_refused_key_stays_a_wrong_setup_whatever_it_says(server: ToyServer) -> None:
    server.fault = lambda handler, answer: handler.send_json(401, {"error": OPENAI})
    with backend(server) as backend_, pytest.raises(ConfigurationError, match="API key"):
        Guard(policy(), backend=backend_).check(picture())
