"""The JSON report: the documented form, and all there is to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runs.reports.support import every_kind, image, stopped, written

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "report.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("ending", [{}, stopped()], ids=["whole", "stopped"])
def test_it_has_the_documented_form(tmp_path: Path, ending: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for images in ([], every_kind()):
        document = json.loads(written(tmp_path, "json", images, **ending))
        Draft202012Validator(SCHEMA).validate(document)


def test_the_schema_names_every_field_that_is_written(tmp_path: Path) -> None:
    document = json.loads(written(tmp_path, "json", every_kind(), **stopped()))
    known = SCHEMA["properties"]
    assert set(document) == set(known)
    for name in ("run", "summary"):
        assert set(document[name]) == set(known[name]["properties"])
    assert set(document["images"][0]) == set(known["images"]["items"]["properties"])


def test_every_verdict_is_there_in_order(tmp_path: Path) -> None:
    images = every_kind()
    document = json.loads(written(tmp_path, "json", images))
    assert [item.path for item in images] == [item["path"] for item in document["images"]]
    verdicts = [json.loads(item.verdict.to_json()) for item in images]
    assert verdicts == [item["verdict"] for item in document["images"]]


def test_a_name_that_is_no_text_is_written_as_its_escape(tmp_path: Path) -> None:
    text = written(tmp_path, "json", [image("x\udcff.png")])
    (item,) = json.loads(text)["images"]
    assert "x\\udcff.png" == item["path"]


def test_an_image_is_a_line(tmp_path: Path) -> None:
    lines = written(tmp_path, "json", every_kind()).splitlines()
    assert len(every_kind()) == sum(line.startswith('{"path"') for line in lines)
