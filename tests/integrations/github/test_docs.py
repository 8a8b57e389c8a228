"""docs/github-action.md and the action agree, and what it shows is YAML that works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "github-action.md"
ACTION: dict[str, Any] = yaml.safe_load(  # noqa: TID251
    (ROOT / "integrations/github-action/action.yml").read_text()
)


def test_the_table_of_inputs_is_that_of_the_action() -> None:
    (table,) = re.findall(r"<!-- inputs -->\n(.*?)<!-- /inputs -->", PAGE.read_text(), re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    expected = []
    for name, spec in ACTION["inputs"].items():
        default = f"`{spec['default']}`" if spec.get("default") else ""
        default = "the job's" if name == "token" else default
        expected.append([f"`{name}`", default, spec["description"].strip()])
    assert expected == rows


def test_the_workflow_gives_inputs_that_exist_and_pins_what_it_uses() -> None:
    first, second = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    workflow = yaml.safe_load(first)  # noqa: TID251
    steps = workflow["jobs"]["images"]["steps"]
    assert set(steps[1]["with"]) <= set(ACTION["inputs"])
    assert re.search(r"actions/checkout@[0-9a-f]{40}$", steps[0]["uses"])
    assert {"contents": "read", "pull-requests": "write", "security-events": "write"} == workflow[
        "permissions"
    ]
    template = yaml.safe_load(  # noqa: TID251
        (ROOT / "integrations/gitlab/policyguard.gitlab-ci.yml").read_text()
    )
    named = set(yaml.safe_load(second)["variables"])  # noqa: TID251
    assert {"POLICYGUARD_PACKAGE"} == named & set(template["variables"])
