"""GitLab's code quality report: the fields it needs, and fingerprints that tell findings apart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jsonschema import validate

from policyguard.runs.run import CheckedImage, ImageStatus
from runs.reports.support import every_kind, finding, image, stopped, written

SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "additionalProperties": False,
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "minLength": 1},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "minLength": 1},
                    "lines": {"properties": {"begin": {"const": 1}}, "required": ["begin"]},
                },
            },
        },
    },
}


def items(folder: Path, images: Iterable[CheckedImage], **ending: Any) -> list[dict[str, Any]]:
    found = json.loads(written(folder, "gitlab", images, **ending))
    validate(found, SCHEMA)
    return found


def test_findings_unjudged_and_unchecked_images_are_in_it_and_accepted_ones_are_not(tmp_path: Path) -> None:
    found = [
        (item["location"]["path"], item["check_name"], item["severity"])
        for item in items(tmp_path, every_kind(), **stopped())
    ]
    assert [
        ("art/gun.png", "house/arms", "critical"),
        ("art/two.png", "house/arms", "critical"),
        ("art/two.png", "house/drugs", "minor"),
        ("art/pills.png", "house/drugs", "minor"),
        ("art/broken.png", "unjudged", "major"),
        ("art/let-through.png", "unjudged", "minor"),
        ("art/nameless.png", "house/*", "critical"),
        ("ads/smoke.png", "team/ads/smoke", "critical"),
        ("ads/smoke.png", "house/arms", "critical"),
        ("art/late.png", "not-checked", "major"),
        (".", "set-up", "major"),
    ] == found


def test_a_run_without_findings_is_an_empty_list(tmp_path: Path) -> None:
    assert [] == items(tmp_path, [image()])


def test_each_finding_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    copies = [image(f"{name}.png", ImageStatus.FAILED, finding(), content="same") for name in "ab"]
    found = [item["fingerprint"] for item in items(tmp_path, [*copies, *every_kind()], **stopped())]
    assert len(found) == len(set(found))


def test_fingerprints_are_the_same_in_every_run_and_change_with_the_image(tmp_path: Path) -> None:
    def marks(content: str, score: float) -> list[str]:
        failed = image("a.png", ImageStatus.FAILED, finding(score=score), content=content)
        return [item["fingerprint"] for item in items(tmp_path, [failed])]

    assert marks("x", 0.9) == marks("x", 0.6)
    assert marks("x", 0.9) != marks("y", 0.9)
