"""The JSON Schema that editors use: current, valid, and at one with the loader about what it can see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policy.compose_cases import BASE, CASES, HEAD
from policyguard.authoring import json_schema
from policyguard.policy import load_policy, packaged_policies
from policyguard.policy.files import packaged_path
from policyguard.strict.documents import parse, plain

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]
RULE = "rules: [{id: w, title: W, unsafe: [x]}]\n"


def faults(text: str) -> list[Any]:
    values = plain(parse(text.encode(), "x.yaml").root)
    return list(jsonschema.Draft7Validator(json_schema()).iter_errors(values))


def test_the_packaged_copy_is_current() -> None:
    packaged = ROOT / "src" / "policyguard" / "authoring" / "policy.schema.json"
    assert json.loads(packaged.read_text(encoding="utf-8")) == json_schema()
    jsonschema.Draft7Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", packaged_policies())
def test_every_packaged_policy_is_valid(name: str) -> None:
    assert not faults(packaged_path(name).read_text(encoding="utf-8"))
    assert load_policy(name, parameters=None)


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        HEAD,
        HEAD + "title: T\ndrop: [{id: a, weakens: so}]\nweakens: so\n",
        HEAD.replace("base.yaml", "[base.yaml, safeedit/l3]") + RULE,
        HEAD + "replace: [{id: w, title: W, unsafe: [x], weakens: so}]\n"
        "parameters: {a: null, b: 1, c: x, d: true}\n",
        HEAD + "overrides: {w: {threshold: null, action: flag, unsafe: {add: [x]}, "
        "move: {to_safe: [y]}, weakens: z}}\n",
        "id: a\nversion: 1.0.0\ntitle: T\n" + RULE,
    ],
)
def test_what_the_loader_takes_is_valid(text: str) -> None:
    assert not faults(text)


# What one file alone shows to be wrong; the rest (unknown ids, reasons, bases) is the loader's.
SEEN = [
    "an empty list",
    "a number",
    "a mapping",
    "a misspelt key",
    "no id",
    "no version",
    "overrides without a base",
    "a reason without a base",
    "a reason beside a rule without a base",
    "an empty reason",
    "a reason that is true",
    "override for overrides",
    "a new rule without an id",
    "rules as a mapping",
    "a threshold of 1.5",
    "overrides as a list",
    "an override that is a word",
    "an override's threshold of 1.5",
    "an override's unknown status",
    "an override's id",
    "a misspelt field",
    "a list for changes",
    "a misspelt change",
    "a misspelt move",
    "a text for a list",
    "a title of nothing",
    "a dropped rule",
    "a replaced rule",
    "a drop by name alone",
    "a drop without an id",
    "a drop with too much",
    "a parameter's name",
    "a list as a value",
    "a value with markers",
    "a value of two lines",
    "parameters as a list",
]


@pytest.mark.parametrize("name", SEEN)
def test_what_one_file_shows_to_be_wrong_is_underlined(name: str) -> None:
    assert faults(CASES[name][0].replace("¶", ""))


@pytest.mark.parametrize(
    "text",
    [
        "id: a\nversion: 1.0.0\n" + RULE,
        "id: a\nversion: 1.0.0\ntitle: T\n",
        "id: a\nversion: 1.0.0\ntitle: T\nrules: []\n",
        "id: a\nversion: '1'\ntitle: T\n" + RULE,
        "id: A\nversion: 1.0.0\ntitle: T\n" + RULE,
        "id: a\nversion: 1.0.0\ntitle: T\noutcomes: {violates: allow}\n" + RULE,
        "id: a\nversion: 1.0.0\ntitle: T\ndefaults: {treshold: 0.1}\n" + RULE,
    ],
)
def test_a_policy_by_itself_is_held_to_its_own_rules(text: str) -> None:
    assert faults(text)
