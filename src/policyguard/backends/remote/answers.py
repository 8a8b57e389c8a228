"""Reads the answers of a server strictly; pure functions.

An answer is a whole: ``read_completion`` accounts for every field in it. Some may be there, some must agree
with each other, and any other makes it no answer, unless it is empty. Fields that are harmless stand in the
tables below, by server. From a completion are read the token probabilities at its only position, or its
text (see ``forms`` for JSON verdicts).

Covered: what is not exactly as it must be is a CallError; a text, a token and its probability that contradict
each other; refusals and filters beside an answer; errors and warnings in fields that are not read. Not
covered: which request an answer belongs to, and which model gave it (see ``chat``).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyguard.assessment import FailureKind
from policyguard.backends.remote.errors import CallError, declined, filtered

__all__ = [
    "NoLogprobsError",
    "TokenProbabilities",
    "is_same_model",
    "prompt_tokens",
    "read_aliases",
    "read_completion",
    "read_continuation",
    "read_models",
    "read_partial_text",
    "read_probabilities",
    "read_text",
    "read_thought",
    "read_token_ids",
    "whole_number",
]

_TOKEN_ID = re.compile(r"token_id:(0|[1-9]\d{0,9})")
_DECLINED = "the guard model declined to answer"

_TOLERANCE = 1e-3
"""By how much rounded probabilities may differ, and exceed 1."""

_VOCABULARY, _LOST = 1_000_000, 0.02
"""More tokens than any model has, and the share of probability that rounding may lose."""

_LEAST_LOGPROB = 3.5e38
"""The least log-probability that is read, negated. For what is impossible vLLM gives -9999.0, and llama.cpp
the lowest number of 32 bits."""

_COMPLETION_FIELDS = {
    "OpenAI": "id object created model choices usage system_fingerprint service_tier",
    "vLLM": "prompt_logprobs prompt_token_ids prompt_text kv_transfer_params ec_transfer_params metrics",
    "SGLang": "metadata sglext",
    "llama.cpp": "timings __verbose completion_probabilities",
    "Azure": "prompt_filter_results",
    "OpenRouter": "provider",
    "Groq": "x_groq usage_breakdown",
    "Together": "prompt",
}
_CHOICE_FIELDS = {
    "OpenAI": "index message finish_reason logprobs",
    "vLLM": "stop_reason token_ids routed_experts",
    "SGLang": "matched_stop hidden_states",
    "Azure": "content_filter_results",
    "OpenRouter": "native_finish_reason",
    "LiteLLM": "provider_specific_fields",
    "Together": "seed",
}
_MESSAGE_FIELDS = {
    "OpenAI": "role content refusal",
    "vLLM": "reasoning",
    "SGLang": "reasoning_content",
    "OpenRouter": "reasoning_details",
    "LiteLLM": "thinking_blocks provider_specific_fields",
    "Gemini": "extra_content",
}
_LOGPROBS_FIELDS = {"OpenAI": "content"}
_TOKEN_FIELDS = {"OpenAI": "token logprob bytes top_logprobs", "llama.cpp": "id"}
_READ = {
    *("choices", "message", "logprobs", "content", "id", "object", "created", "model", "index", "role"),
    *("finish_reason", "token_ids", "routed_experts", "hidden_states", "prompt_logprobs"),
    *("prompt_token_ids", "prompt_text", "prompt"),
}
"""Fields that are read elsewhere, or long lists of numbers."""
_ALARMS = frozenset({"error", "errors", "warning", "warnings", "truncated", "refusal"})
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_LOOKED_AT = 64
"""Items of a list."""
_VERSION = re.compile(r"[-@](\d{3,8}|\d{4}-\d{2}-\d{2})$")
_DECLINING = re.compile(r"filter|safety|refus|block|prohibit|recitation|spii", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Completion:
    """The one choice of a chat completion. ``complete``: the model ended it itself; else it was cut off.

    ``thought`` is what a server with a reasoning parser gives apart from the text, ``thinks`` whether there
    is any. ``generated`` is the number of tokens, and ``token_ids`` are their ids, where they are given;
    ``stop_reason`` is vLLM's or SGLang's.
    """

    text: str
    thought: str
    thinks: bool
    complete: bool
    logprobs: Mapping[str, Any] | None
    generated: int | None
    token_ids: object
    stop_reason: object


def read_completion(data: Mapping[str, Any]) -> Completion:
    """The whole answer, every field accounted for. Raises CallError, of kind REFUSED if it was declined."""
    if (reason := _declined(data)) is not None:
        raise CallError(f"{_DECLINED}: {' '.join(reason.split())[:200]}", kind=FailureKind.REFUSED)
    _require_known(data, _COMPLETION_FIELDS, "answer")
    if data.get("object") not in (None, "chat.completion"):
        raise CallError("the answer is not a chat completion")
    if not isinstance(data.get("id"), str | None):
        raise CallError("the answer's 'id' is not a text")
    choices = _field(data, "choices", list)
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise CallError(f"the answer holds {len(choices)} choices instead of one")
    choice: dict[str, Any] = choices[0]
    message = _field(choice, "message", dict)
    finish = choice.get("finish_reason")
    _require_known(choice, _CHOICE_FIELDS, "choice")
    _require_known(message, _MESSAGE_FIELDS, "message")
    if type(choice.get("index", 0)) is not int or choice.get("index", 0) != 0:
        raise CallError("the answer's only choice is not the first one")
    if finish not in ("stop", "length"):
        raise CallError(f"the server ended the answer with {finish!r}"[:200])
    if message.get("role") not in (None, "assistant"):
        raise CallError("the answer's message is not the assistant's")
    thoughts = [message[name] for name in ("reasoning", "reasoning_content") if message.get(name)]
    if not all(isinstance(thought, str) for thought in thoughts) or len(set(thoughts)) > 1:
        raise CallError("the answer holds reasoning that is not one text")
    content = message.get("content")
    if content is None and (thoughts or finish == "length"):
        content = ""  # Gemini leaves it out where thinking took all tokens
    if not isinstance(content, str):
        raise CallError("the answer has no 'content' of type str")
    generated = _generated(data.get("usage"))
    if content and generated == 0 and prompt_tokens(data):
        raise CallError("the answer counts no token of its own")
    logprobs = choice.get("logprobs")
    if logprobs is not None:
        _require_known(logprobs, _LOGPROBS_FIELDS, "list of log-probabilities")
    for holder in (data, choice, message):
        for name, value in holder.items():
            if name not in _READ and (alarm := _alarm(value)) is not None:
                raise CallError(f"the answer's {name!r} holds {alarm!r}, so something went wrong")
    return Completion(
        content,
        next(iter(thoughts), ""),
        thinks=bool(thoughts or message.get("reasoning_details") or message.get("thinking_blocks")),
        complete=finish == "stop",
        logprobs=logprobs,
        generated=generated,
        token_ids=choice.get("token_ids"),
        stop_reason=choice.get("stop_reason") or choice.get("matched_stop"),
    )


class NoLogprobsError(Exception):
    """The answer is well-formed and holds no log-probabilities at all."""


@dataclass(frozen=True, slots=True)
class TokenProbabilities:
    """The tokens for which the server gives a probability, at one position.

    ``by_id`` is None where they are named by text. ``ceiling`` is the most that any other token can have.
    ``repeated`` are the texts that are listed more than once.
    ``only_sampled``: there is nothing but the sampled token, listed alone or as if it had been certain. Some
    servers write that without having looked; no score can be made of it.
    """

    by_text: Mapping[str, float]
    by_id: Mapping[int, float] | None
    ceiling: float
    only_sampled: bool
    repeated: frozenset[str] = frozenset()

    @property
    def leaves_out(self) -> bool:
        """Whether no vocabulary is large enough for the rest, if these are the most likely tokens."""
        return sum(self.by_text.values()) + _VOCABULARY * self.ceiling < 1.0 - _LOST

    def of_ids(self, ids: Mapping[str, int]) -> dict[str, float] | None:
        """Label -> probability of its token, for the labels listed; None where tokens have no ids."""
        if self.by_id is None:
            return None
        return {label: self.by_id[token] for label, token in ids.items() if token in self.by_id}

    def of_texts(self, labels: Sequence[str], *, safe: Collection[str] = ()) -> dict[str, float]:
        """Label -> probability of all listed tokens that only this label begins with.

        Each of them excludes the others, so they add up. Of the labels ``safe`` only one token counts, the
        longest that is listed, and no single letter: *s* may become any other word. Raises CallError where a
        token that several labels begin with has more than a trace of probability, as it could be any of
        theirs, and where a token of a label is listed twice.
        """
        probabilities: dict[str, float] = {}
        shared = 0.0
        longest = {
            label: max((token for token in self.by_text if label.startswith(token)), key=len, default="")
            for label in safe
        }
        for token, probability in self.by_text.items():
            matches = [label for label in labels if token and label.startswith(token)]
            if matches and token in self.repeated:
                raise CallError("the answer lists a label's token twice")
            only = matches[0] if len(matches) == 1 else None
            if only in longest and token not in (only, longest[only] if len(token.strip()) > 1 else only):
                continue
            if len(matches) == 1:
                probabilities[matches[0]] = probabilities.get(matches[0], 0.0) + probability
            elif matches:
                shared += probability
        if shared > _TOLERANCE:
            raise CallError(
                f"the server's tokens do not distinguish the labels, for {shared:.3f} of the probability"
            )
        return probabilities


def read_probabilities(
    data: Mapping[str, Any],
    *,
    prefill: str = "",
    labels: Sequence[str] = (),
    ids: Mapping[str, int] | None = None,
) -> TokenProbabilities:
    """The probabilities at the only generated position, of an answer to ``prefill`` with ``max_tokens: 1``.

    ``labels`` are what may follow, ``ids`` their first tokens, where known. Raises NoLogprobsError where
    there are no probabilities, and CallError where text, sampled token and probabilities do not agree.
    """
    completion = read_completion(data)
    if completion.logprobs is None:
        raise NoLogprobsError
    entries = _field(completion.logprobs, "content", list)
    if not entries:
        raise CallError("the answer holds no token to read a rating from")
    if len(entries) > 1 or (completion.generated or 0) > 1:
        raise CallError("the answer holds several tokens where one was requested")
    listed = entries[0].get("top_logprobs") if isinstance(entries[0], dict) else None
    top = [_token(entry) for entry in _list(listed, "top_logprobs")] if listed is not None else []
    sampled = _token(entries[0])
    if completion.thinks and (completion.text or not completion.thought):
        raise CallError("the answer holds reasoning beside the one token that was requested")
    if isinstance(completion.stop_reason, str):
        raise CallError("the answer was stopped by a text, and none was to stop it")
    if completion.token_ids is not None and not _is_only(completion.token_ids, sampled.name):
        raise CallError("the answer's token ids are not its token")
    # llama.cpp repeats the prefill.
    text = completion.text.removeprefix(prefill) or completion.thought
    _require_agreement(text, sampled, labels, ids or {})
    by_name = {f"token_id:{token}": label for label, token in (ids or {}).items()}
    if not all(by_name.get(token.name, token.text or "").startswith(token.text or "") for token in top):
        raise CallError("the answer gives a label's token another text")

    by_text: dict[str, float] = {}
    for token in top:
        by_text[token.name] = by_text.get(token.name, 0.0) + token.probability
    repeated = frozenset(name for name, number in Counter(token.name for token in top).items() if number > 1)
    if top and sampled.name not in by_text:
        raise CallError("the answer's token is missing from its own list")
    if top and sampled.name not in repeated and _differ(by_text[sampled.name], sampled.probability):
        raise CallError("the answer gives its token two probabilities")
    if any(token.probability > sampled.probability + _TOLERANCE for token in top):
        raise CallError("the answer's token is not the most likely one")
    by_text.setdefault(sampled.name, sampled.probability)
    id_matches = [match for match in map(_TOKEN_ID.fullmatch, by_text) if match is not None]
    if id_matches and (len(id_matches) < len(by_text) or repeated):
        raise CallError("the answer names its tokens ambiguously")
    total = sum(by_text.values())
    if total > 1.0 + _TOLERANCE:
        raise CallError(f"the answer's probabilities add up to {total:.3f}")
    by_id = {int(match[1]): by_text[match[0]] for match in id_matches} if id_matches else None
    # Servers list the most likely tokens, so no other exceeds the least likely of these.
    ceiling = min([max(0.0, 1.0 - total), *(token.probability for token in top)])
    only_sampled = not top or (len(by_text) == 1 and sampled.probability == 1.0)
    return TokenProbabilities(by_text, by_id, ceiling, only_sampled, repeated)


def read_text(data: Mapping[str, Any]) -> str:
    """The text of an answer that the model ended itself."""
    text, whole = read_partial_text(data)
    if not whole:
        raise CallError("the model's explanation was cut off")
    return text


def read_continuation(data: Mapping[str, Any], head: str) -> str:
    """The text behind ``head``, with which the answer began; llama.cpp, told by its timings, repeats it."""
    text = read_text(data)
    return text.removeprefix(head) if "timings" in data else text


def read_partial_text(data: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of an answer, and whether the model ended it itself."""
    completion = read_completion(data)
    return completion.text, completion.complete


def read_thought(data: Mapping[str, Any], end: str) -> str | None:
    """What was decoded before the stop text ``end``; ``None`` if the limit on tokens came first.

    Raises CallError where the model ended its turn itself, or the server does not say what stopped it.
    """
    completion = read_completion(data)
    if not completion.complete:
        return None
    if completion.stop_reason != end:
        raise CallError(f"the model ended its answer without {end!r}")
    return completion.text.removesuffix(end)


def read_token_ids(data: Mapping[str, Any]) -> tuple[list[int], int | None]:
    """Token ids, and the model's context length where it is given, from an answer of ``/tokenize``."""
    tokens = _field(data, "tokens", list)
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise CallError("the server's token ids are not numbers")
    return tokens, whole_number(data.get("max_model_len"))


def read_models(data: Mapping[str, Any]) -> dict[str, int | None]:
    """The models of a server's list, by name, with the context length where it is given."""
    return {model["id"]: whole_number(model.get("max_model_len")) for model in _models(data)}


def read_aliases(data: Mapping[str, Any], model: str) -> frozenset[str]:
    """The names under which vLLM's list of models serves the same weights as ``model``."""
    roots = {entry["id"]: entry.get("root") for entry in _models(data)}
    root = roots.get(model)
    return frozenset(name for name in roots if isinstance(root, str) and roots[name] == root)


def _models(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = data.get("data")
    models = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [model for model in models if isinstance(model.get("id"), str)]


def is_same_model(requested: str, answered: str) -> bool:
    """Whether a server that was asked for one name answers with the other for the same model.

    Known: the name with or without its provider (``openai/x``), a dated version of it (``x-2024-08-06``), and
    the tag ``:latest``.
    """
    requested, answered = requested.removesuffix(":latest"), answered.removesuffix(":latest")
    version = _VERSION.search(answered)
    names = {answered, answered if version is None else answered[: version.start()]}
    return any(
        requested == name or requested.endswith(f"/{name}") or name.endswith(f"/{requested}")
        for name in names
    )


def prompt_tokens(data: Mapping[str, Any]) -> int | None:
    """The length of the prompt that an answer belongs to; None if the server does not say."""
    usage = data.get("usage")
    return whole_number(usage.get("prompt_tokens")) if isinstance(usage, dict) else None


def tokens_paid(data: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of an answer's prompt and of the answer, thinking included; 0 where the server does not say."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    prompt, generated, total = (whole_number(usage.get(name)) or 0 for name in _COUNTS)
    return prompt, max(generated, total - prompt if prompt else 0)  # Gemini thinks in the total alone


def whole_number(value: object) -> int | None:
    """``value`` where it is a count, else None."""
    return value if type(value) is int and value >= 0 else None


@dataclass(frozen=True, slots=True)
class _Token:
    """An entry of a list of log-probabilities. ``text`` is None where only the id is known."""

    name: str
    text: str | None
    probability: float


def _token(entry: object) -> _Token:
    name, logprob = _field(entry, "token", str), _field(entry, "logprob", int, float)
    assert isinstance(entry, dict)
    _require_known(entry, _TOKEN_FIELDS, "list of log-probabilities")
    if not -_LEAST_LOGPROB <= logprob <= _TOLERANCE:  # not NaN either
        raise CallError("the answer holds a number that is no log-probability")
    is_id = _TOKEN_ID.fullmatch(name) is not None
    text = _decoded(entry.get("bytes"))
    if not is_id and text is not None and text != name.replace("\u2581", " "):
        raise CallError("the answer holds a token whose bytes are another text")
    return _Token(name, name if not is_id else None if text == name else text, math.exp(min(0.0, logprob)))


def _decoded(octets: object) -> str | None:
    """The text of a token's ``bytes``; None where there are none, or only a part of a character."""
    if octets is None:
        return None
    if not isinstance(octets, list) or not all(type(octet) is int and 0 <= octet < 256 for octet in octets):
        raise CallError("the answer holds a token whose bytes are no bytes")
    try:
        return bytes(octets).decode()
    except UnicodeDecodeError:
        return None


def _require_agreement(text: str, sampled: _Token, labels: Sequence[str], ids: Mapping[str, int]) -> None:
    """Raises CallError unless ``text`` is that of the sampled token. Control tokens have none."""
    label = next((label for label, token in ids.items() if sampled.name == f"token_id:{token}"), None)
    if label is not None:
        agrees = text != "" and label.startswith(text) and sampled.text in (None, text)
    elif sampled.text is None:
        agrees = text not in labels
    elif not text:
        agrees = not any(label.startswith(sampled.text) for label in labels)
    else:
        agrees = text.strip() == sampled.text.replace("\u2581", " ").strip()
    if not agrees:
        raise CallError("the answer's text is not the token whose probability it gives")


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > _TOLERANCE


def _declined(data: Mapping[str, Any]) -> str | None:
    """Why it was declined, if a refusal or a filter stands anywhere in the answer."""
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    logprobs = choice.get("logprobs")
    feedback = data.get("prompt_feedback", data.get("promptFeedback"))
    reasons = [choice.get("finish_reason"), choice.get("native_finish_reason")]
    if isinstance(feedback, dict):
        reasons.append(feedback.get("block_reason", feedback.get("blockReason")))
    results = [
        holder.get(name)
        for holder in (data, choice, message)
        for name in ("prompt_filter_results", "content_filter_results", "provider_specific_fields")
    ]
    if message.get("refusal"):
        return str(message["refusal"])
    if isinstance(logprobs, dict) and logprobs.get("refusal"):
        return "a refusal"
    if names := filtered(results):
        return ", ".join(names)
    if any(map(_holds_refusal, results)):
        return "a filter or a refusal beside the answer"
    for error in (data.get("error"), choice.get("error"), message.get("error")):
        if (reason := declined(error)) is not None:
            return reason
    return next((str(reason) for reason in reasons if _DECLINING.search(str(reason))), None)


def _holds_refusal(value: object) -> bool:
    """Whether some field in it, however deep, holds a refusal or a filter's error."""
    if isinstance(value, dict):
        return any(
            (key in ("refusal", "error") and bool(item)) or _holds_refusal(item)
            for key, item in value.items()
        )
    return isinstance(value, list) and any(map(_holds_refusal, value))


def _alarm(value: object) -> str | None:
    """The key that says that something went wrong, however deep in ``value``, if any does."""
    if isinstance(value, dict):
        for key, item in value.items():
            if (key in _ALARMS and bool(item)) or (key := _alarm(item)) is not None:
                return str(key)
    elif isinstance(value, list):
        return next((key for item in value[:_LOOKED_AT] if (key := _alarm(item)) is not None), None)
    return None


def _is_only(ids: object, name: str) -> bool:
    """Whether ``ids`` are those of one token, and of that one where its ``name`` is an id."""
    known = _TOKEN_ID.fullmatch(name)
    return isinstance(ids, list) and len(ids) == 1 and (known is None or ids[0] == int(known[1]))


def _generated(usage: object) -> int | None:
    """How many tokens the model generated; None where that is not given."""
    if usage is None:
        return None
    if not isinstance(usage, dict):
        raise CallError("the answer's 'usage' is not an object")
    for name in _COUNTS:
        if usage.get(name) is not None and whole_number(usage[name]) is None:
            raise CallError(f"the answer's {name!r} is no number of tokens")
    prompt, generated, total = (whole_number(usage.get(name)) or 0 for name in _COUNTS)
    if 0 < total < prompt + generated:
        raise CallError("the answer counts fewer tokens in all than in its parts")
    return whole_number(usage.get("completion_tokens"))


def _require_known(holder: object, fields: Mapping[str, str], what: str) -> None:
    """Raises CallError for a field that nothing is known about, unless it is empty."""
    if not isinstance(holder, dict):
        raise CallError(f"the {what} is not an object")
    known = " ".join(fields.values()).split()
    for name, value in holder.items():
        if name not in known and value not in (None, "", [], {}):
            raise CallError(f"the {what} holds {name[:40]!r}, which no answer should hold beside a rating")


def _list(value: object, name: str) -> list[Any]:
    return _field({name: value}, name, list)  # type: ignore[no-any-return]


def _field(holder: object, name: str, *types: type) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if type(value) not in types:
        names = " or ".join(kind.__name__ for kind in types)
        raise CallError(f"the answer has no '{name}' of type {names}")
    return value
