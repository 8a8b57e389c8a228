"""docs/reports.md and the program agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from policyguard.runs.project import Settings
from policyguard.runs.reports import FORMATS, parse_report
from policyguard.runs.run import ImageStatus

PAGE = (Path(__file__).parents[3] / "docs" / "reports.md").read_text(encoding="utf-8")


def table(head: str) -> list[str]:
    """The first column of the table that starts with ``head``, without its marks."""
    rows = PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]


def test_the_formats_in_the_docs_are_those_there_are() -> None:
    assert sorted(FORMATS) == sorted(table("format"))


def test_the_statuses_in_the_docs_are_those_there_are() -> None:
    assert {*ImageStatus, "unchecked"} == set(table("status of an image"))


@pytest.mark.parametrize("text", re.findall(r"--report (\S+?)[\s`]", PAGE))
def test_a_report_in_the_docs_can_be_asked_for(text: str) -> None:
    assert parse_report(text)


def test_the_line_for_the_project_file_works() -> None:
    (line,) = re.findall(r"`(reports = \[.*?\])`", PAGE)
    settings = Settings.model_validate(tomllib.loads(line))
    assert ["junit", "github"] == [parse_report(text).format for text in settings.reports]
