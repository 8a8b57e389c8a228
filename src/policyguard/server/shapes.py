"""What requests and answers look like, in our shape, OpenAI's and LiteLLM's, and the page that shows it.

**OpenAI's moderations.** ``model`` names the policy. The categories of a result are the policy's rules.
OpenAI's own, which its SDKs expect to be there, are null: nobody looked. ``flagged`` is true unless every
image is allowed without a reservation, and always where the input holds text, which no guard model for images
has read: it is *not checked*, and never fine.

**LiteLLM's generic guardrail.** Covered: every image in what LiteLLM sends, in whichever field it stands
(``images``, texts, messages, tool calls). An entry of ``images`` that is neither a data URI nor base64 is
UNSCANNABLE, an address too: LiteLLM would send the address on, and the provider could fetch another image
from it than this one. In a request, an image whose file viewers may show otherwise than it was judged is
replaced by a plain PNG or JPEG of what was judged, in the ``structured_messages`` that LiteLLM writes back.
Not covered: what LiteLLM does not send (integrations/litellm/README.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, cast
from uuid import uuid4

from pydantic import BaseModel, Field

from policyguard.errors import ImageError
from policyguard.integrations.extract import replace_images
from policyguard.integrations.screen import ScreenResult
from policyguard.integrations.screen.altered import PassOn
from policyguard.outcomes import Action
from policyguard.policy import ResolvedPolicy
from policyguard.server.requests import Refusal
from policyguard.verdict import Verdict

__all__ = [
    "CATEGORIES",
    "CHECK",
    "GUARDRAIL",
    "LITELLM",
    "MODERATIONS",
    "NOT_CHECKED",
    "PROBLEMS",
    "UNJUDGED",
    "ErrorBody",
    "GuardrailBody",
    "HealthBody",
    "Item",
    "ModerationBody",
    "PoliciesBody",
    "PolicyBody",
    "ReadyBody",
    "VerdictBody",
    "litellm_answer",
    "litellm_payload",
    "litellm_settings",
    "moderated",
    "moderation",
    "moderations",
    "page",
]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: None = None
    code: str


class ErrorBody(BaseModel):
    """An answer without a verdict. ``allowed`` is always false."""

    allowed: bool = False
    error: ErrorDetail


class VerdictBody(BaseModel):
    """``Verdict.to_dict()``; docs/verdict.md lists the fields."""

    source: str
    outcome: str
    action: str
    allowed: bool
    score: float | None
    findings: list[dict[str, Any]]
    rationale: str | None
    reason: str | None
    degraded: bool
    partial: bool
    cached: bool
    evidence: dict[str, Any]


class PolicyBody(BaseModel):
    """A policy in force. ``error``: why its present file does not load; the one in force is kept."""

    name: str
    id: str | None = None
    version: str | None = None
    title: str | None = None
    fingerprint: str | None = None
    decision_fingerprint: str | None = None
    error: str | None = None


class PoliciesBody(BaseModel):
    policies: list[PolicyBody]


class HealthBody(BaseModel):
    status: str


class ReadyBody(BaseModel):
    """``problem``: why no image can be judged now. ``policies``: what is wrong, by policy. ``keys``, for
    operators: why the present file of keys does not load."""

    ready: bool
    problem: str | None = None
    policies: dict[str, str] = Field(default_factory=dict)
    keys: str | None = None


_NAMES = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
CHECK: dict[str, Any] = {
    "parameters": [
        {
            "name": "policy",
            "in": "query",
            "description": "A policy; several must all allow. Needed where the service has more than one.",
            "schema": {"type": "array", "items": {"type": "string"}},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "policy": {"type": "array", "items": {"type": "string"}},
                        "explain": {"type": "string", "enum": ["true", "false"]},
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {"type": "string", "description": "a data URI, or base64"},
                        "policy": _NAMES,
                        "explain": {"type": "boolean"},
                    },
                }
            },
        },
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody}
    for status in (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 431, 500, 503)
}


class ResultBody(BaseModel):
    """One result: its categories are the rules of the policy; null is what nobody looked at."""

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float | None]
    category_applied_input_types: dict[str, list[str]]
    policyguard: dict[str, Any]


class ModerationBody(BaseModel):
    id: str
    model: str
    results: list[ResultBody]


class GuardrailBody(BaseModel):
    """What LiteLLM reads, and under ``policyguard`` what was found."""

    action: Literal["NONE", "GUARDRAIL_INTERVENED", "BLOCKED"]
    blocked_reason: str | None = None
    structured_messages: Any = None
    policyguard: dict[str, Any]


_STYLE = "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{overflow:auto}"


def page(schema: dict[str, Any]) -> str:
    """The endpoints of ``schema``, for people."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>PolicyGuard: API</title>",
        f"<style>{_STYLE}</style><h1>PolicyGuard {escape(schema['info']['version'])}</h1>",
        "<p>The same for programs: <a href=/openapi.json>/openapi.json</a></p>",
    ]
    for path, methods in schema["paths"].items():
        for method, said in methods.items():
            about = escape(said.get("description", ""))
            asked = {name: said[name] for name in ("parameters", "requestBody") if name in said}
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{about}</p>")
            for title, value in (("Request", asked), ("Answers", said["responses"])):
                shown = escape(json.dumps(value, indent=2))
                parts.append(f"<details><summary>{title}</summary><pre>{shown}</pre></details>")
    models = escape(json.dumps(schema.get("components", {}), indent=2))
    parts.append(f"<h2>Models</h2><details><summary>All</summary><pre>{models}</pre></details></html>")
    return "".join(parts)


CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)
"""OpenAI's categories."""
NOT_CHECKED, UNJUDGED = "text-not-checked", "unjudged"
"""Categories of ours: the input holds text; an image could not be judged."""
_MAX_INPUTS = 32

_TEXT = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"type": "string", "const": "text"}, "text": {"type": "string"}},
}
_IMAGE = {
    "type": "object",
    "required": ["type", "image_url"],
    "properties": {
        "type": {"type": "string", "const": "image_url"},
        "image_url": {
            "type": "object",
            "required": ["url"],
            "properties": {"url": {"type": "string", "description": "a data URI; addresses are not fetched"}},
        },
    },
}
MODERATIONS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "properties": {
                        "model": {"type": ["string", "null"], "description": "the policy"},
                        "input": {
                            "anyOf": [
                                {"type": "string"},
                                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                                {"type": "array", "items": {"anyOf": [_TEXT, _IMAGE]}, "minItems": 1},
                            ]
                        },
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class Item:
    """One part of an input: a text, which is not kept, or the ``url`` of an image."""

    kind: Literal["text", "image"]
    url: str = ""


def moderated(data: object) -> tuple[str | None, list[list[Item]]]:
    """The policy that a request names, and the parts of each result. Raises Refusal.

    As OpenAI does it: a list of texts has a result for each, a list of parts has one for all together.
    """
    if not isinstance(data, dict) or "input" not in data:
        raise Refusal(422, "input_missing", "expected an object with `model` and `input`")
    model, given = data.get("model"), data["input"]
    if not isinstance(model, str | None):
        raise Refusal(422, "field_wrong", "`model` is the name of a policy")
    if isinstance(given, str):
        return model, [[Item("text")]]
    if not isinstance(given, list) or not given:
        raise Refusal(422, "input_missing", "`input` is a text, or a list that is not empty")
    if len(given) > _MAX_INPUTS:
        raise Refusal(422, "too_many_inputs", f"at most {_MAX_INPUTS} inputs in one request")
    if all(isinstance(part, str) for part in given):
        return model, [[Item("text")] for _ in given]
    return model, [[_input(part) for part in given]]


def _input(part: object) -> Item:
    match part:
        case {"type": "text", "text": str()}:
            return Item("text")
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return Item("image", url)
    raise Refusal(422, "input_wrong", "an input is a text, or has the type `text` or `image_url`")


def moderation(texts: int, verdicts: Sequence[Verdict], policies: Sequence[ResolvedPolicy]) -> dict[str, Any]:
    """One entry of ``results``, for ``texts`` texts and the images that ``verdicts`` are about."""
    judged = bool(verdicts) and all(verdict.outcome.judged for verdict in verdicts)
    unchecked = {rule for verdict in verdicts for rule in verdict.evidence.unchecked}
    categories: dict[str, bool | None] = dict.fromkeys(CATEGORIES)
    scores: dict[str, float | None] = dict.fromkeys(CATEGORIES)
    applied: dict[str, list[str]] = {name: [] for name in CATEGORIES}
    for rule in (rule for policy in policies for rule in policy.rules):
        looked_at = judged and rule.status != "exempt" and rule.id not in unchecked
        categories[rule.id] = False if looked_at else None
        scores[rule.id] = None
        applied[rule.id] = ["image"] if looked_at else []
    for finding in (finding for verdict in verdicts for finding in verdict.findings):
        if finding.violates:
            categories[finding.rule], applied[finding.rule] = True, ["image"]
        if finding.score is not None:
            scores[finding.rule] = max(finding.score, scores.get(finding.rule) or 0.0)
    if verdicts and not judged:
        categories[UNJUDGED], scores[UNJUDGED], applied[UNJUDGED] = True, None, ["image"]
    if texts:
        categories[NOT_CHECKED], scores[NOT_CHECKED], applied[NOT_CHECKED] = True, None, ["text"]
    allowed = not texts and all(verdict.allowed for verdict in verdicts)
    return {
        "flagged": bool(texts) or any(verdict.action is not Action.ALLOW for verdict in verdicts),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": applied,
        "policyguard": {
            "allowed": allowed,
            "texts_not_checked": texts,
            "verdicts": [verdict.to_dict() for verdict in verdicts],
        },
    }


def moderations(policy: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"modr-{uuid4().hex}", "model": policy, "results": list(results)}


LITELLM = "/beta/litellm_basic_guardrail_api"
_MESSAGES = "/structured_messages/"

GUARDRAIL: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input_type"],
                    "properties": {
                        "input_type": {"type": "string", "enum": ["request", "response"]},
                        "images": {"anyOf": [{"type": "null"}, {"type": "array", "items": {}}]},
                        "additional_provider_specific_params": {
                            "type": ["object", "null"],
                            "properties": {
                                "policy": _NAMES,
                                "pass_on": {"type": "string", "enum": ["judged", "original"]},
                            },
                        },
                    },
                }
            }
        },
    }
}


def litellm_payload(data: object) -> dict[str, Any]:
    """The request, with its ``images`` in a form that says they are images. Raises Refusal."""
    if not isinstance(data, dict) or data.get("input_type") not in ("request", "response"):
        raise Refusal(400, "not_litellm", "this is no request of LiteLLM's generic guardrail")
    images = data.get("images")
    if not isinstance(images, list | None):
        raise Refusal(400, "not_litellm", "`images` is no list")
    blocks = [{"type": "image_url", "image_url": {"url": image}} for image in images or []]
    return {**data, "images": blocks, "request_headers": None}


def litellm_settings(data: dict[str, Any]) -> tuple[list[str], PassOn]:
    """The policies, and ``pass_on``, of ``additional_provider_specific_params``. Raises Refusal."""
    given = data.get("additional_provider_specific_params")
    more = {} if given is None else given
    if not isinstance(more, dict) or more.get("pass_on", "judged") not in ("judged", "original"):
        raise Refusal(422, "field_wrong", "`pass_on` is judged or original")
    policy = more.get("policy", [])
    names = [policy] if isinstance(policy, str) else policy
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refusal(422, "field_wrong", "`policy` is a name, or a list of names")
    return names, more.get("pass_on", "judged")


def litellm_answer(result: ScreenResult, payload: dict[str, Any]) -> dict[str, Any]:
    """What LiteLLM understands, and beside it what was found."""
    counts = {"images_seen": result.images_seen, "images_checked": result.images_checked}
    if not result.allowed:
        verdicts = [item.verdict.to_dict() for item in result.blocked]
        why = "; ".join(item.verdict.summary() for item in result.blocked[:3])
        return _blocked(why, {**counts, "verdicts": verdicts})
    passes = {"action": "NONE", "policyguard": {**counts, "action": result.action}}
    new = {item.site.where: item.passed for item in result.items if item.passed is not None}
    if not new or payload["input_type"] == "response":  # LiteLLM takes no other images for an answer
        return passes
    messages = {item.site.data for item in result.items if item.site.where.startswith(_MESSAGES)}
    if any(item.passed is not None and item.site.data not in messages for item in result.items):
        return _blocked("what was judged cannot be passed on: LiteLLM takes it for messages alone", counts)
    try:
        changed = cast("dict[str, Any]", replace_images(payload, new))
    except ImageError as error:
        return _blocked(f"what was judged cannot be passed on: {error.message}", counts)
    return {**passes, "action": "GUARDRAIL_INTERVENED", "structured_messages": changed["structured_messages"]}


def _blocked(why: str, details: dict[str, Any]) -> dict[str, Any]:
    return {"action": "BLOCKED", "blocked_reason": f"PolicyGuard: {why}", "policyguard": details}
