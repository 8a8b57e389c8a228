"""The Markdown report: readable, small enough for a comment, and without anybody else's markup."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from policyguard.runs.reports.github import code, escaped
from policyguard.runs.run import ImageStatus
from runs.reports.support import every_kind, finding, image, many, stopped, written

READER = MarkdownIt("commonmark").enable("table")


def inline(text: str) -> list[Token]:
    return [token for block in READER.parse(text) for token in block.children or []]


def test_what_fails_comes_first_and_everything_has_its_place(tmp_path: Path) -> None:
    text = written(tmp_path, "markdown", every_kind(), **stopped())
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert [
        "## PolicyGuard: stopped (timeout)",
        "### Set-up",
        "### Not checked (1)",
        "### Failed (4)",
        "### Could not be judged (1)",
        "### Flagged (2)",
        "### Accepted by the baseline (1)",
    ] == heads
    assert "| `art/gun.png` | 0.91 | `Weapons (0.91) - A gun lies on the table.` |" in text


def test_a_run_where_all_is_well_is_short(tmp_path: Path) -> None:
    text = written(tmp_path, "markdown", [image()])
    assert text.startswith("## PolicyGuard: passed\n\n1 passed\n")
    assert "###" not in text


def test_it_fits_into_a_comment_and_counts_what_does_not(tmp_path: Path) -> None:
    text = written(tmp_path, "markdown", many(20_000))
    assert 40_000 < len(text.encode()) <= 60_000
    assert "### Failed (8,000)" in text
    assert "which do not fit here" in text


@pytest.mark.parametrize(
    "name",
    [
        "`x`",
        "``",
        "a|b",
        "\\|",
        "@everyone",
        "<img src=x>",
        "[a](http://e)",
        "a\n\n# b",
        "fixes #1",
        "*b*",
        "&lt;",
    ],
)
def test_a_name_is_code_and_nothing_else(name: str, tmp_path: Path) -> None:
    text = written(tmp_path, "markdown", [image(name, ImageStatus.FAILED, finding(), rationale=name)])
    tokens = inline(text)
    shown = " ".join(name.split()).replace("|", "\u00a6")
    assert [shown, f"Weapons (0.91) - {shown}"] == [
        token.content for token in tokens if token.type == "code_inline"
    ][:2]
    assert {"text", "code_inline"} >= {token.type for token in tokens}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(name=st.text(st.characters(codec=None), min_size=1))
def test_any_name_stays_in_its_cell(name: str) -> None:
    row = f"| a | b |\n|---|---|\n| {code(name)} | end |\n"
    cells = [token for token in READER.parse(row) if token.type == "inline"]
    assert ["a", "b", "end"] == [cells[0].content, cells[1].content, cells[3].content]
    assert ["code_inline"] == [token.type for token in cells[2].children or []]


@given(title=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_title_is_plain_text(title: str) -> None:
    tokens = inline(f"x {escaped(title)} x")
    assert {"text", "text_special"} >= {token.type for token in tokens}


@pytest.mark.parametrize("title", ["@ann", "#12", "https://evil.example", "www.evil.example", "GH-1"])
def test_a_title_calls_and_links_nobody(title: str) -> None:
    assert title not in escaped(title).replace("\\", "")
