"""How services and servers answer today, by their own documentation.

Each takes a request's body and gives status and answer. Shapes are recorded from the API references of
OpenAI, Azure, Gemini, Claude, OpenRouter, LiteLLM, Ollama, SGLang and TGI, and the sources of llama.cpp.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable
from typing import Any

from backends.remote.other_servers import EXTENSIONS, verdict
from backends.remote.server import shows_image

Reply = tuple[int, Any]


def install(
    server: Any,
    service: Callable[..., Reply],
    rating: str = "unsafe",
    category: str = "A",
    name: str | None = None,
) -> None:
    """Let ``server``, which has no /tokenize then, answer as ``service`` does."""
    server.features -= {"tokenize"}
    server.model = MODELS[name or service.__name__]
    server.fault = lambda handler, honest: handler.send_json(*service(handler.body, rating, category))
    server.fault_at = lambda path, body: "completions" in path


def said(body: dict[str, Any], text: str, *, model: str | None = None, **more: Any) -> dict[str, Any]:
    """A whole answer. ``more``: ``finish``, and fields of ``message``, ``choice``, ``answer``, ``usage``."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **more.get("message", {})},
        "finish_reason": more.get("finish", "stop"),
        **more.get("choice", {}),
    }
    prompt = 900 if shows_image("completions", body) else 640
    usage = {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": prompt + 20}
    return {
        "id": more.get("id", "chatcmpl-") + secrets.token_hex(8),
        "object": "chat.completion",
        "created": 1754006400,
        "model": model or body["model"],
        "choices": [choice],
        "usage": usage | more.get("usage", {}),
        **more.get("answer", {}),
    }


def plain(rating: str, category: str) -> str:
    """The form that the prompt itself asks for."""
    return json.dumps({"rating": rating, "category": category, "rationale": "A dagger lies on the table."})


def likeliest(weights: dict[str, float], **more: Any) -> dict[str, Any]:
    """The log-probabilities of one token. ``more`` is added to each entry."""
    entries = [
        {
            "token": token,
            "logprob": math.log(p) if p else -3.4028234663852886e38,
            "bytes": list(token.encode()),
        }
        | more
        for token, p in weights.items()
    ]
    return {"content": [entries[0] | {"top_logprobs": entries}]}


def unknown_field(body: dict[str, Any]) -> str | None:
    return next((name for name in EXTENSIONS if name in body), None)


def refused(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Reply:
    return status, {
        "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    }


def openai(body: dict[str, Any], rating: str, category: str) -> Reply:
    """gpt-4o: as it was documented before models that think."""
    if (name := unknown_field(body)) is not None:
        return refused(f"Unrecognized request argument supplied: {name}")
    details = {
        "completion_tokens_details": {"reasoning_tokens": 0},
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    return 200, said(
        body,
        verdict(body, rating, category),
        model="gpt-4o-2024-08-06",
        message={"refusal": None, "annotations": []},
        choice={"logprobs": None},
        usage=details,
        answer={"service_tier": "default", "system_fingerprint": "fp_44709d6fcb"},
    )


def azure(body: dict[str, Any], rating: str, category: str) -> Reply:
    """A deployment of gpt-4o: its own name is the deployment's, and filters comment on each answer."""
    if (name := unknown_field(body)) is not None:
        return refused(f"Unrecognized request argument supplied: {name}")
    fine = {
        name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")
    }
    return 200, said(
        body,
        verdict(body, rating, category),
        model="gpt-4o-2024-11-20",
        message={"refusal": None, "annotations": []},
        choice={"logprobs": None, "content_filter_results": fine},
        answer={
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": fine}],
            "system_fingerprint": "fp_b705f0c291",
        },
    )


def gemini(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Errors are lists of one."""
    if (name := unknown_field(body)) is not None:
        message = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
        return 400, [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]
    return 200, said(body, verdict(body, rating, category), id="")


def claude(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Ignores ``response_format`` and what it does not know, and refuses an answer that was begun."""
    if body["messages"][-1]["role"] == "assistant":
        return refused(
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    return 200, said(body, plain(rating, category), id="msg_")


def claude_in_a_block(body: dict[str, Any], rating: str, category: str) -> Reply:
    """An older one, which continues an answer, gives no log-probabilities and likes blocks of code."""
    block = f"```json\n{plain(rating, category)}\n```"
    ends = body["messages"][-1]["role"] == "assistant"
    return 200, said(body, rating if ends else block, model="claude-sonnet-4-5-20250929")


def litellm(body: dict[str, Any], rating: str, category: str) -> Reply:
    """The proxy, with ``drop_params``: what the provider does not know is left out on the way."""
    text = verdict(body, rating, category) if "response_format" in body else "{"
    fields: dict[str, Any] = {"provider_specific_fields": {"refusal": None}}
    message = {"tool_calls": None, "function_call": None, **fields}
    return 200, said(
        body, text, model="gpt-4o-2024-08-06", message=message, choice={"provider_specific_fields": {}}
    )


def openrouter(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Gives log-probabilities, and begins a new answer after the one that was begun."""
    logprobs = likeliest({"{": 0.9, "```": 0.05, "The": 0.03, "I": 0.01, "{\n": 0.01})
    more: dict[str, Any] = {
        "model": "openai/gpt-4o-2024-11-20",
        "message": {"refusal": None, "reasoning": None},
        "answer": {"provider": "OpenAI", "system_fingerprint": "fp_ee1d74bde0"},
        "id": "gen-1754006400-",
    }
    if "response_format" in body:
        choice = {"native_finish_reason": "stop", "logprobs": None}
        return 200, said(body, verdict(body, rating, category), choice=choice, **more)
    choice = {"native_finish_reason": "max_tokens", "logprobs": logprobs}
    return 200, said(body, "{", finish="length", choice=choice, usage={"completion_tokens": 1}, **more)


def ollama(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Ignores what it does not know; older ones give no log-probabilities."""
    text = verdict(body, rating, category) if "response_format" in body else "The"
    return 200, said(body, text, id="chatcmpl-", answer={"system_fingerprint": "fp_ollama"})


def tgi(body: dict[str, Any], rating: str, category: str) -> Reply:
    if body.get("top_logprobs", 0) > 5:
        message = "Input validation error: `top_logprobs` must be >= 0 and <= 5. Given: 20"
        return 422, {"error": message, "error_type": "validation"}
    text = verdict(body, rating, category) if "response_format" in body else "This"
    return 200, said(
        body, text, id="", answer={"system_fingerprint": "3.3.4-sha-7187ffc"}, choice={"logprobs": None}
    )


def _scores(rating: str) -> dict[str, float]:
    other = "unsafe" if rating == "safe" else "safe"
    return {rating: 0.9, other: 0.095, " safe": 0.0, "un": 0.0, "S": 0.0, "the": 0.0}


def sglang(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Continues an answer, and gives the likeliest tokens by their texts."""
    more: dict[str, Any] = {"message": {"reasoning_content": None, "tool_calls": None}}
    metadata = {
        "answer": {"metadata": {"weight_version": "default"}},
        "id": "",
    }
    weights = _scores(rating)
    if body["messages"][-1]["content"].endswith('"category": "'):
        weights = {category: 0.9, "C": 0.05, "x": 0.03, "y": 0.01, "z": 0.01}
    choice = {"matched_stop": None, "logprobs": likeliest({token: p or 1e-9 for token, p in weights.items()})}
    (text,) = [next(iter(weights))]
    return 200, said(
        body, text, finish="length", choice=choice, usage={"completion_tokens": 1}, **more, **metadata
    )


def llama_cpp(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Repeats what was begun; tokens have ids beside their texts, and what is impossible has the lowest
    log-probability there is. As llama-server of llama-cpp-python 0.3.36 answers."""
    weights = _scores(rating)
    head = body["messages"][-1]["content"]
    if body["max_tokens"] > 1:
        rest = json.dumps({"category": category, "rationale": "A dagger lies on the table."})
        rest = rest[1:] if '"category"' not in head else rest[rest.index(', "rationale"') + 2 :]
        return 200, said(body, f'{head}", {rest}', answer={"timings": {"prompt_n": 900}})
    if head.endswith('"category": "'):
        weights = {category: 0.9, "C": 0.095, "x": 0.0, "y": 0.0, "z": 0.0}
    timings = {"prompt_n": 900, "prompt_ms": 80.1, "predicted_n": 1, "predicted_ms": 0.01, "cache_n": 0}
    answer = {"timings": timings, "system_fingerprint": "b6240-54a241f5"}
    choice = {"logprobs": likeliest(weights, id=17)}
    usage = {"completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
    text = head + next(iter(weights))
    return 200, said(body, text, finish="length", choice=choice, usage=usage, answer=answer)


def gpt_5(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Refuses one field after the other, and thinks with the tokens that its answer is given."""
    if (name := unknown_field(body)) is not None:
        return refused(f"Unrecognized request argument supplied: {name}")
    if "max_tokens" in body:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. "
        return refused(
            f"{message}Use 'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter"
        )
    if "temperature" in body:
        message = "Unsupported value: 'temperature' does not support 0 with this model. "
        message += "Only the default (1) value is supported."
        return refused(message, "temperature", "unsupported_value")
    more: dict[str, Any] = {
        "model": "gpt-5-mini-2025-08-07",
        "message": {"refusal": None, "annotations": []},
        "usage": {"completion_tokens_details": {"reasoning_tokens": 1024}},
    }
    if body["max_completion_tokens"] < 1200:
        return 200, said(body, "", finish="length", **more)
    return 200, said(body, verdict(body, rating, category), answer={"service_tier": "default"}, **more)


def gemini_thinking(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Leaves ``content`` out where thinking took all tokens."""
    status, answer = gemini(body, rating, category)
    if status == 200 and body["max_tokens"] < 1200:
        answer["choices"][0]["finish_reason"] = "length"
        del answer["choices"][0]["message"]["content"]
    return status, answer


def ollama_thinking(body: dict[str, Any], rating: str, category: str) -> Reply:
    """Thinks in a field of its own, and has an empty ``content`` until it is done."""
    status, answer = ollama(body, rating, category)
    answer["choices"][0]["message"]["reasoning"] = "Let me look at the picture."
    if body["max_tokens"] < 1200:
        answer["choices"][0]["message"]["content"] = ""
        answer["choices"][0]["finish_reason"] = "length"
    return status, answer


WITHOUT_SCORES = {
    function.__name__: function
    for function in (
        openai,
        gpt_5,
        azure,
        gemini,
        gemini_thinking,
        claude,
        claude_in_a_block,
        litellm,
        openrouter,
        ollama,
        ollama_thinking,
        tgi,
    )
}
WITH_SCORES = {"sglang": sglang, "llama_cpp": llama_cpp}
MODELS = {
    "openai": "gpt-4o",
    "gpt_5": "gpt-5-mini",
    "azure": "my-deployment",
    "gemini": "gemini-2.5-flash",
    "gemini_thinking": "gemini-3-pro",
    "claude": "claude-opus-4-6",
    "claude_in_a_block": "claude-sonnet-4-5",
    "litellm": "gpt-4o",
    "openrouter": "openai/gpt-4o",
    "ollama": "llava",
    "ollama_thinking": "qwen3-vl",
    "tgi": "tgi",
    "sglang": "Qwen/Qwen3-VL-8B-Instruct",
    "llama_cpp": "qwen2.5-vl",
}
"""The name under which each service would be asked for its model."""
