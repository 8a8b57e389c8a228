"""The JSON Schema of policy files, for editors: they complete keys and underline what cannot be.

It says what can be said of one file by itself; ``policyguard policy lint`` says the rest. The packaged copy
is ``policy.schema.json``, beside this module; a test holds it to what ``json_schema`` gives.
"""

from __future__ import annotations

from typing import Any

from policyguard.outcomes import Action, Outcome
from policyguard.policy.fields import SEMVER, SLUG
from policyguard.policy.parameters import MAX_VALUE, NAME
from policyguard.policy.schema import MAX_RULES, Status

__all__ = ["json_schema"]

_ID = f"^{SLUG}(/{SLUG}){{0,3}}$"
_RULE_ID = f"^{SLUG}$"
_LOOSENS = "why this may loosen or reword what the base forbids"


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 7, which editors know) of policy files, with and without ``extends``."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "PolicyGuard policy",
        "description": "What images must not show, in plain language.",
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "version"],
        "properties": _top(),
        "if": {"required": ["extends"]},
        "else": {
            "required": ["title", "rules"],
            "properties": {
                **dict.fromkeys(("replace", "overrides", "drop", "weakens"), False),
                "rules": {"minItems": 1, "items": {"properties": {"weakens": False}}},
            },
        },
        "definitions": _definitions(),
    }


def _top() -> dict[str, Any]:
    name = {"type": "string", "minLength": 1}
    return {
        "id": _text("A name for programs, such as acme/shop.", pattern=_ID),
        "version": _text("Three numbers; raise it with every change.", pattern=SEMVER, maxLength=64),
        "title": _ref("title", "A name for people. The model reads it."),
        "description": _ref(
            "text", "What the policy is about. The model reads it, after what the bases say about themselves."
        ),
        "world": _nullable(
            _text("The only kind of image the policy is about; without it, every kind.", pattern=_RULE_ID)
        ),
        "extends": {
            "description": "What this builds on: packaged names, or files relative to this one, in order.",
            "oneOf": [
                name,
                {"type": "array", "items": name, "minItems": 1, "maxItems": 32, "uniqueItems": True},
            ],
        },
        "parameters": {
            "description": "Values for {{ name }} in texts; null: whoever uses the policy gives one.",
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {
                f"^{NAME}$": {
                    "type": ["string", "number", "boolean", "null"],
                    "minLength": 1,
                    "maxLength": MAX_VALUE,
                    "not": {"type": "string", "pattern": r"\{\{|\}\}|[\t\r\n]"},
                }
            },
        },
        "rules": {
            "description": "The rules; with `extends`, new ones only.",
            "type": "array",
            "maxItems": MAX_RULES,
            "items": {"$ref": "#/definitions/rule"},
        },
        "replace": {
            "description": "New bodies for rules that are inherited.",
            "type": "array",
            "items": {"allOf": [{"$ref": "#/definitions/rule"}, {"required": ["weakens"]}]},
        },
        "overrides": {
            "description": "Changes to single fields of inherited rules, by rule id.",
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {_RULE_ID: {"$ref": "#/definitions/override"}},
        },
        "drop": {
            "description": "Inherited rules that are left out.",
            "type": "array",
            "items": _object(
                {"id": _ref("rule_id", "The rule."), "weakens": _ref("line", f"Say {_LOOSENS}.")},
                required=("id", "weakens"),
            ),
        },
        "defaults": _ref("defaults", "What holds where a rule says nothing else."),
        "outcomes": {
            "description": "What to do with images that cannot be judged. Left out: block.",
            "type": "object",
            "additionalProperties": False,
            "properties": {o.value: {"$ref": "#/definitions/action"} for o in Outcome if not o.judged},
        },
        "weakens": _ref("line", f"Say {_LOOSENS}: for softer defaults, outcomes, parameters."),
        "owner": _nullable(_ref("line", "Who answers for the policy.")),
        "licence": _nullable(_ref("line", "On what terms it may be used, such as Apache-2.0.")),
        "sources": _ref("lines", "Where its facts come from."),
    }


def _calibration() -> dict[str, Any]:
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    values: dict[str, Any] = {
        "model": digest,
        "policy": digest,
        "slope": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        "intercept": {"type": "number", "minimum": -1000, "maximum": 1000},
        "name": {"$ref": "#/definitions/line"},
        "data": digest,
        "images": {"type": "integer", "minimum": 1},
    }
    required = tuple(name for name in values if name != "intercept")
    written = "What is done to a model's scores: `policyguard calibrate` writes it."
    return _object(values, required=required) | {"description": written}


def _definitions() -> dict[str, Any]:
    action = _ref("action", "What a violation does.")
    threshold = _ref("threshold", "It violates from this score.")
    words = {
        "title": _ref("title", "A name for people."),
        "description": _ref("text", "What the rule is about, in a sentence or two."),
        "status": {
            "description": "active: it holds; exempt: it forbids nothing; sensitive: no exception counts.",
            "enum": [status.value for status in Status],
        },
        "threshold": _nullable(threshold),
        "action": _nullable(action),
        "weakens": _nullable(_ref("line", f"Say {_LOOSENS}.")),
    }
    rule = {
        "id": _ref("rule_id", "A name for programs."),
        **words,
        "unsafe": _ref("lines", "What must not be shown, one kind of thing to an item."),
        "safe": _ref("lines", "What may be shown all the same: exceptions to this rule."),
        "signals": _ref("signals", "Where a guard that reads no policy looks, such as open-nsfw/nsfw."),
    }
    override = {
        **words,
        "unsafe": _ref("items", "Items that join or leave what must not be shown."),
        "safe": _ref("items", "Items that join or leave the exceptions."),
        "signals": _object({name: {"$ref": "#/definitions/signals"} for name in ("add", "remove")}),
        "move": _object({name: {"$ref": "#/definitions/lines"} for name in ("to_safe", "to_unsafe")}),
    }
    band = {"type": "array", "items": {"$ref": "#/definitions/share"}, "minItems": 2, "maxItems": 2}
    defaults = {
        "threshold": threshold,
        "action": action,
        "undecided_band": _nullable(band | {"description": "[low, high]: scores in it are undecided."}),
        "min_label_mass": _ref("share", "Below this share of probability, the answer is undecided."),
        "frames": {"description": "Which frames of an animation are judged.", "enum": ["all", "sample"]},
        "without_scores": {
            "description": "Where scores below 0.5 decide and a server gives ratings alone: refuse it, or "
            "let ratings stand in.",
            "enum": ["refuse", "ratings"],
        },
        "calibration": _nullable(_calibration()),
    }
    return {
        "rule_id": {"type": "string", "pattern": _RULE_ID},
        "title": {"type": "string", "minLength": 1, "maxLength": 200},
        "line": {"type": "string", "minLength": 1, "maxLength": 1000},
        "text": {"type": "string", "maxLength": 8000},
        "lines": {"type": "array", "items": {"$ref": "#/definitions/line"}, "maxItems": 200},
        "signals": {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{SLUG}/.", "maxLength": 1000},
            "maxItems": 200,
        },
        "threshold": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "action": {"enum": [action.value for action in Action]},
        "items": _object({name: {"$ref": "#/definitions/lines"} for name in ("add", "remove")}),
        "rule": _object(rule, required=("id", "title")),
        "override": _object(override),
        "defaults": _object(defaults),
    }


def _text(description: str, **bounds: Any) -> dict[str, Any]:
    return {"description": description, "type": "string", **bounds}


def _ref(name: str, description: str) -> dict[str, Any]:
    return {"description": description, "$ref": f"#/definitions/{name}"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: dict[str, Any], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | {"required": list(required)} if required else schema
