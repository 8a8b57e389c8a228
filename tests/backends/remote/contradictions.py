"""Answers that say *safe* in one place and something else in another: the truth table of a whole answer.

Each entry changes an honest answer of ToyServer, which says *safe* everywhere. ``BY_ID`` are answers whose
tokens are named by id, ``BY_TEXT`` those whose tokens are named by text, ``TEXTS`` those of which the text is
read. None of them may comply. ``HARMLESS`` are fields that servers document, and change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

Change = Callable[[dict[str, Any]], Any]

TOKEN = ("choices", 0, "logprobs", "content", 0)
MESSAGE = ("choices", 0, "message")
TOP = (*TOKEN, "top_logprobs")
CALL = {"id": "1", "type": "function", "function": {"name": "flag_image", "arguments": '{"unsafe": true}'}}
FILTER = {"violence": {"filtered": True, "severity": "high"}}


def put(*path: Any) -> Change:
    """Put the last of ``path`` where the others lead."""
    *steps, last, value = path

    def change(answer: dict[str, Any]) -> Any:
        place: Any = answer
        for step in steps:
            place = place[step]
        place[last] = value
        return answer

    return change


def each(*changes: Change) -> Change:
    def change(answer: dict[str, Any]) -> Any:
        for one in changes:
            answer = one(answer)
        return answer

    return change


def more(*path: Any) -> Change:
    """Append the last of ``path`` to the list where the others lead."""
    *steps, value = path

    def change(answer: dict[str, Any]) -> Any:
        place: Any = answer
        for step in steps:
            place = place[step]
        place.append(value(place) if callable(value) else value)
        return answer

    return change


def raw(*replacements: tuple[str, str]) -> Change:
    """The answer's JSON with pieces of it replaced, for what no Python object can hold."""

    def change(answer: dict[str, Any]) -> bytes:
        text = json.dumps(answer)
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        return text.encode()

    return change


def _other_choice(index: int) -> Change:
    return lambda answer: more("choices", deepcopy(answer["choices"][0]) | {"index": index})(answer)


def _only(*names: str) -> Change:
    """A list of log-probabilities with nothing but these tokens."""

    def change(answer: dict[str, Any]) -> Any:
        token = answer["choices"][0]["logprobs"]["content"][0]
        token["top_logprobs"] = [one for one in token["top_logprobs"] if one["token"] in names]
        return answer

    return change


def _without_first(answer: dict[str, Any]) -> Any:
    del answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]
    return answer


ENVELOPE: dict[str, Change] = {
    "an error beside the choice": put("error", {"message": "the model crashed", "code": 500}),
    "an error text beside the choice": put("error", "overloaded"),
    "an error code 0 beside the choice": put("error", 0),
    "an error in the choice": put("choices", 0, "error", {"code": 502, "message": "provider failed"}),
    "an error in the message": put(*MESSAGE, "error", "failed"),
    "a detail beside the choice": put("detail", "Not authenticated"),
    "a status beside the choice": put("status", 500),
    "a code beside the choice": put("code", 500),
    "a message beside the choice": put("message", "internal error"),
    "a warning beside the choice": put("warning", "images were dropped"),
    "a verdict beside the choice": put("verdict", "unsafe"),
    "the object of an error": put("object", "error"),
    "the object of a stream": put("object", "chat.completion.chunk"),
    "the object of another API": put("object", "text_completion"),
    "an object of no type": put("object", 5),
    "an id of no type": put("id", 7),
    "another model": put("model", "other-guard"),
    "a longer model": put("model", "toy-guard-tuned"),
    "a shorter model": put("model", "toy"),
    "another version": put("model", "toy-guard-2"),
    "a model of no type": put("model", ["toy-guard"]),
    "a model of no name": put("model", ""),
    "usage of no type": put("usage", "5 tokens"),
    "negative usage": put("usage", {"completion_tokens": -1}),
    "usage in parts": put("usage", {"completion_tokens": 0.5}),
    "fewer tokens in all": put("usage", {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 9}),
    "no token of its own": put("usage", {"prompt_tokens": 500, "completion_tokens": 0}),
    "an error in the usage": put("usage", {"error": "not counted"}),
    "an error in the metadata": put("metadata", {"error": {"code": 500}}),
    "a warning in the metadata": put("metadata", {"warnings": ["the image was dropped"]}),
    "a prompt cut short": put("__verbose", {"truncated": True, "tokens_cached": 10}),
    "an error in the timings": put("timings", {"deep": [{"errors": ["x"]}]}),
    "an error of Groq's": put("x_groq", {"id": "1", "error": "x"}),
    "an error in the hidden extras": put("sglext", [{"a": [{"error": True}]}]),
    "a block reason beside the choice": put("promptFeedback", {"blockReason": "SAFETY"}),
    "a filtered prompt": put(
        "prompt_filter_results", [{"prompt_index": 0, "content_filter_results": FILTER}]
    ),
    "two choices": _other_choice(1),
    "two choices of one index": _other_choice(0),
    "no choice": put("choices", []),
    "choices by name": lambda answer: put("choices", {"0": answer["choices"][0]})(answer),
    "a choice that is a list": lambda answer: put("choices", [[answer["choices"][0]]])(answer),
    "choice index 7": put("choices", 0, "index", 7),
    "choice index -1": put("choices", 0, "index", -1),
    "choice index false": put("choices", 0, "index", False),
    "choice index 0.0": put("choices", 0, "index", 0.0),
    "choice index text": put("choices", 0, "index", "0"),
    "choice index null": put("choices", 0, "index", None),
    "a delta beside the message": put("choices", 0, "delta", {"content": "unsafe"}),
    "a text beside the message": put("choices", 0, "text", "unsafe"),
    "another verdict in the choice": put("choices", 0, "verdict", "unsafe"),
    "a filtered choice": put("choices", 0, "content_filter_results", FILTER),
    "a filter that failed": put("choices", 0, "content_filter_results", {"error": {"code": "timeout"}}),
    "a native reason that declines": put("choices", 0, "native_finish_reason", "SAFETY"),
    "a refusal of the provider": put("choices", 0, "provider_specific_fields", {"refusal": "no"}),
    "finish content_filter": put("choices", 0, "finish_reason", "content_filter"),
    "finish tool_calls": put("choices", 0, "finish_reason", "tool_calls"),
    "finish error": put("choices", 0, "finish_reason", "error"),
    "finish null": put("choices", 0, "finish_reason", None),
    "finish as a list": put("choices", 0, "finish_reason", ["stop"]),
    "no message": put("choices", 0, "message", None),
    "a message that is a list": lambda answer: put(
        "choices", 0, "message", [answer["choices"][0]["message"]]
    )(answer),
    "a refusal beside the content": put(*MESSAGE, "refusal", "I cannot look at this."),
    "a refusal that is an object": put(*MESSAGE, "refusal", {"reason": "policy"}),
    "a refusal beside the log-probabilities": lambda answer: put(
        "choices", 0, "logprobs", (answer["choices"][0]["logprobs"] or {}) | {"refusal": [{"token": "I"}]}
    )(answer),
    "tool calls beside the content": put(*MESSAGE, "tool_calls", [CALL]),
    "a function call beside the content": put(*MESSAGE, "function_call", CALL["function"]),
    "audio beside the content": put(*MESSAGE, "audio", {"id": "1", "transcript": "unsafe"}),
    "annotations beside the content": put(*MESSAGE, "annotations", [{"type": "url_citation"}]),
    "images beside the content": put(*MESSAGE, "images", [{"type": "image_url"}]),
    "the turn of the user": put(*MESSAGE, "role", "user"),
    "the turn of a tool": put(*MESSAGE, "role", "tool"),
    "a role of no type": put(*MESSAGE, "role", 1),
    "content as a list": put(*MESSAGE, "content", [{"type": "text", "text": "safe"}]),
    "content as an object": put(*MESSAGE, "content", {"text": "safe"}),
    "content null": put(*MESSAGE, "content", None),
    "reasoning of no type": put(*MESSAGE, "reasoning", {"text": "unsafe"}),
    "two kinds of reasoning": each(
        put(*MESSAGE, "reasoning", "It is safe."), put(*MESSAGE, "reasoning_content", "It is unsafe.")
    ),
    "a parsed verdict": put(*MESSAGE, "parsed", {"rating": "unsafe"}),
    "choices twice": raw(('"choices": [', '"choices": [], "choices": [')),
    "the finish reason twice": raw(
        ('"finish_reason":', '"finish_reason": "content_filter", "finish_reason":')
    ),
    "the message twice": raw(('"message":', '"message": {"content": "unsafe"}, "message":')),
    "the content twice": raw(('"content":', '"content": "unsafe", "content":')),
    "the model twice": raw(('"model":', '"model": "other", "model":')),
    "an error twice": raw(('"choices":', '"error": {"code": 1}, "error": null, "choices":')),
    "the choices escaped and twice": raw(('"choices":', '"\\u0063hoices": [], "choices":')),
    "a byte order mark": lambda answer: b"\xef\xbb\xbf" + json.dumps(answer).encode(),
    "another object behind it": lambda answer: json.dumps(answer).encode() + b'{"error": {}}',
    "a list around it": lambda answer: [answer],
    "an answer in an answer": lambda answer: {"data": answer},
    "the events of a stream": lambda answer: (
        b"data: " + json.dumps(answer).encode() + b"\n\ndata: [DONE]\n\n"
    ),
}
"""Of any answer."""

TOKENS: dict[str, Change] = {
    "the content says unsafe": put(*MESSAGE, "content", "unsafe"),
    "the content is prose": put(*MESSAGE, "content", "This image is fine"),
    "the content goes on": put(*MESSAGE, "content", 'safe", "category": "none"}'),
    "the content takes it back": put(*MESSAGE, "content", "safe? No: unsafe"),
    "the content is in capitals": put(*MESSAGE, "content", "SAFE"),
    "the content is empty": put(*MESSAGE, "content", ""),
    "the content is blank": put(*MESSAGE, "content", " "),
    "thinking blocks beside the token": put(*MESSAGE, "thinking_blocks", [{"thinking": "Unsafe."}]),
    "reasoning details beside the token": put(*MESSAGE, "reasoning_details", [{"text": "It is unsafe."}]),
    "stopped by a text": put("choices", 0, "stop_reason", "unsafe"),
    "stopped by a text of SGLang's": put("choices", 0, "matched_stop", "unsafe"),
    "no token ids": put("choices", 0, "token_ids", []),
    "two token ids": put("choices", 0, "token_ids", [0, 1]),
    "token ids that are text": put("choices", 0, "token_ids", "safe"),
    "reasoning beside the token": put(*MESSAGE, "reasoning", "The image shows a weapon: unsafe."),
    "many tokens by count": put("usage", {"completion_tokens": 12}),
    "many tokens in the list": lambda answer: more(
        "choices", 0, "logprobs", "content", deepcopy(answer["choices"][0]["logprobs"]["content"][0])
    )(answer),
    "a number as text": put(*TOKEN, "logprob", "-0.02"),
    "a number that is true": put(*TOKEN, "logprob", False),
    "a number of 400 digits": put(*TOKEN, "logprob", -(10**400)),
    "the token less likely than listed": put(*TOKEN, "logprob", -0.5),
    "the token more likely than listed": put(*TOKEN, "logprob", 0.0),
    "the token missing from its list": _without_first,
    "a token more likely than the token": each(
        put(*TOKEN, "logprob", -2.0), put(*TOP, 0, "logprob", -2.0), put(*TOP, 1, "logprob", -0.15)
    ),
    "the token twice in its list": more(*TOP, lambda listed: deepcopy(listed[0])),
    "the label unsafe twice": more(*TOP, lambda listed: deepcopy(listed[1])),
    "the label unsafe again, likelier": more(*TOP, lambda listed: listed[1] | {"logprob": -0.05}),
    "more probability than there is": put(*TOP, 1, "logprob", -0.02),
    "bytes of another token": put(*TOKEN, "bytes", list(b"unsafe")),
    "bytes of another token in the list": put(*TOP, 0, "bytes", list(b"unsafe")),
    "bytes that are text": put(*TOKEN, "bytes", "safe"),
    "bytes that are no bytes": put(*TOKEN, "bytes", [115, 97, 1000]),
    "a verdict beside the token": put(*TOKEN, "verdict", "unsafe"),
    "a field beside the log-probabilities": put("choices", 0, "logprobs", "masked", True),
    "log-probabilities as a list": lambda answer: put(
        "choices", 0, "logprobs", answer["choices"][0]["logprobs"]["content"]
    )(answer),
}
"""Of one token with its probabilities, where the second in the list is the label unsafe or a filler."""

BY_ID = ENVELOPE | TOKENS | {
    "another token id": put("choices", 0, "token_ids", [1]),
    "an id with a zero before it": raw(('"token_id:0"', '"token_id:00"'), ('"token_id:0"', '"token_id:00"')),
    "a sampled id that is no label": put(*TOKEN, "token", "token_id:77"),
    "the ids of the labels exchanged": raw(
        ('"token_id:0"', '"token_id:X"'), ('"token_id:0"', '"token_id:1"'), ('"token_id:1"', '"token_id:0"'),
        ('"token_id:X"', '"token_id:1"'),
    ),
}  # fmt: skip
BY_TEXT = (
    ENVELOPE
    | TOKENS
    | {
        "only the label safe listed": _only("safe"),
        "half of the probability left out": each(
            put(*TOKEN, "logprob", -0.69),
            put(*TOP, 0, "logprob", -0.69),
            *(put(*TOP, place, "logprob", -25.0) for place in range(1, 20)),
        ),
        "only the label safe and a filler listed": _only("safe", "filler0"),
        "the bytes of a part of a character": put(*TOKEN, "bytes", [115, 97, 102, 102]),
    }
)
TEXTS = ENVELOPE | {
    "cut off": put("choices", 0, "finish_reason", "length"),
    "prose": put(*MESSAGE, "content", "It is safe."),
    "nothing": put(*MESSAGE, "content", ""),
    "only reasoning": each(put(*MESSAGE, "content", None), put(*MESSAGE, "reasoning", "It is safe.")),
}

HARMLESS: dict[str, Change] = {
    "nothing changed": lambda answer: answer,
    "vLLM": each(
        *(put(name, None) for name in ("prompt_token_ids", "prompt_text", "kv_transfer_params", "metrics")),
        put("choices", 0, "routed_experts", None),
        put("choices", 0, "stop_reason", 151645),
    ),
    "SGLang": each(put("metadata", {"weight_version": "default"}), put("choices", 0, "matched_stop", 151645)),
    "llama.cpp": each(put("timings", {"prompt_n": 900}), put("system_fingerprint", "b6000-abc")),
    "Ollama": each(put("id", "chatcmpl-7"), put("system_fingerprint", "fp_ollama")),
    "TGI": each(put("id", ""), put("system_fingerprint", "3.3.4-native"), put(*MESSAGE, "tool_calls", None)),
    "OpenAI": each(
        put("model", "toy-guard-2026-08-06"),
        put("service_tier", "default"),
        put(*MESSAGE, "annotations", []),
        put("choices", 0, "logprobs", "refusal", None),
    ),
    "Azure": each(
        put(
            "prompt_filter_results",
            [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
        ),
        put("choices", 0, "content_filter_results", {"hate": {"filtered": False, "severity": "safe"}}),
    ),
    "Gemini": each(put("model", "models/toy-guard"), put("usage", {"total_tokens": 99_999})),
    "Claude": each(
        put("system_fingerprint", ""), put("service_tier", ""), put("model", "toy-guard-20260101")
    ),
    "LiteLLM": each(
        put("model", "openai/toy-guard"),
        put(*MESSAGE, "provider_specific_fields", {"refusal": None}),
        put(*MESSAGE, "function_call", None),
        put("choices", 0, "provider_specific_fields", {}),
    ),
    "OpenRouter": each(
        put("provider", "Together"),
        put("choices", 0, "native_finish_reason", "stop"),
        put(*MESSAGE, "reasoning", None),
        put("usage", {"completion_tokens": 1, "cost": 0.1, "is_byok": False}),
    ),
    "Ollama's tag": put("model", "toy-guard:latest"),
}
