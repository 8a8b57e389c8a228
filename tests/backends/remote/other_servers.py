"""How servers other than vLLM answer the same API; each is installed as a ToyServer's ``fault``.

Written from what is known of these servers; none of them has been run here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Answers = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]

EXTENSIONS = (
    "add_generation_prompt",
    "continue_final_message",
    "logprob_token_ids",
    "return_tokens_as_token_ids",
    "structured_outputs",
    "cache_salt",
    "chat_template_kwargs",
)


def install(server: Any, answers: Answers) -> None:
    """Let ``server`` answer chat completions as ``answers`` does. It has no /tokenize then."""

    def send(handler: Any, honest: Any) -> None:
        handler.send_json(*answers(handler.body))

    server.features -= {"tokenize"}
    server.fault = send


def verdict(body: dict[str, Any], rating: str = "unsafe", category: str = "A") -> str:
    """What a model says that is held to ``response_format``."""
    form = body["response_format"]["json_schema"]["schema"]["properties"]["verdict"]["anyOf"][-1]
    said = {"rating": rating, "category": category, "rationale": "A dagger lies on the table."}
    return json.dumps({"verdict": {name: said[name] for name in form["properties"]}})


def whole(text: str, finish: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "toy-guard",
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
        "usage": {"completion_tokens": 20},
    }


def openai(body: dict[str, Any], **said: str) -> tuple[int, dict[str, Any]]:
    """Refuses what it does not know, and today's models the field max_tokens too."""

    def refuse(message: str, parameter: str | None = None) -> tuple[int, dict[str, Any]]:
        kind = "invalid_request_error"
        return 400, {"error": {"message": message, "type": kind, "param": parameter, "code": None}}

    if unknown := [name for name in EXTENSIONS if name in body]:
        return refuse(f"Unrecognized request argument supplied: {', '.join(unknown)}")
    if "max_tokens" in body:
        words = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        return refuse(f"Unsupported parameter: {words}", "max_tokens")
    if "temperature" in body:
        words = "'temperature' does not support 0 with this model. Only the default (1) value is supported."
        return refuse(f"Unsupported value: {words}", "temperature")
    if "response_format" not in body:
        return 200, whole("Let me see.")
    assert body["response_format"]["json_schema"]["strict"] is True
    return 200, whole(verdict(body, **said), refusal=None, annotations=[])


def ollama(body: dict[str, Any], **said: str) -> tuple[int, dict[str, Any]]:
    """Ignores what it does not know; its answers have no field for log-probabilities."""
    answer = whole(verdict(body, **said) if "response_format" in body else "The picture")
    del answer["choices"][0]["logprobs"]
    return 200, answer | {"system_fingerprint": "fp_ollama"}


def tgi(body: dict[str, Any], **said: str) -> tuple[int, dict[str, Any]]:
    """Limits the likeliest tokens to five, and this one gives none for pictures."""
    if body.get("top_logprobs", 0) > 5:
        return 422, {
            "error": "Input validation error: `top_logprobs` must be <= 5",
            "error_type": "validation",
        }
    answer = whole(verdict(body, **said) if "response_format" in body else "This")
    return 200, answer | {"system_fingerprint": "3.3.4-native"}


def sglang(body: dict[str, Any], **said: str) -> tuple[int, dict[str, Any]]:
    """Started without log-probabilities for pictures; adds fields of its own."""
    answer = whole(verdict(body, **said) if "response_format" in body else "safe")
    answer["choices"][0]["matched_stop"] = 151645
    answer["metadata"] = {"weight_version": "default"}
    return 200, answer


def llama_cpp(body: dict[str, Any], **said: str) -> tuple[int, dict[str, Any]]:
    """An older one: log-probabilities come under another name."""
    answer = whole(verdict(body, **said) if "response_format" in body else "unsafe")
    del answer["choices"][0]["logprobs"]
    answer["completion_probabilities"] = [{"content": "safe", "probs": [{"tok_str": "safe", "prob": 0.9}]}]
    return 200, answer | {"timings": {"prompt_n": 900}}


SERVERS: dict[str, Callable[..., tuple[int, dict[str, Any]]]] = {
    "OpenAI": openai,
    "Ollama": ollama,
    "TGI": tgi,
    "SGLang": sglang,
    "llama.cpp": llama_cpp,
}
