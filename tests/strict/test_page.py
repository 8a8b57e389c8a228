"""Pages: whatever is put in is escaped, and nothing but the page's own code runs."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

import policyguard
from policyguard.strict import page

TEMPLATES = sorted(Path(policyguard.__file__).parent.rglob("*.html"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Renders a template of the test's own, from its body."""
    from jinja2 import ChoiceLoader, DictLoader

    environment = page._environment()
    source = "{% extends 'strict/page.html' %}{% block title %}{{ x }}{% endblock %}{% block body %}"
    loader = DictLoader({"own.html": source + '<p title="{{ x }}">{{ x }}</p>{% endblock %}'})
    monkeypatch.setattr(environment, "loader", ChoiceLoader([loader, environment.loader]))
    return lambda **values: page.render("own.html", **values)


@pytest.mark.parametrize(
    "words", ["<script>alert(1)</script>", "\"' onload=x", "&lt;", "a\u202eb", "\ud800", "\0"]
)
def test_words_are_words_in_a_title_in_an_attribute_and_in_text(words: str, own: Any) -> None:
    text = own(x=words)
    assert text.count("<script") == 0
    assert not {"\u202e", "\ud800", "\0"} & set(text)
    seen = words if words.isprintable() else words.encode("unicode_escape").decode()
    assert html.unescape(text).count(seen) == 3
    text.encode()


def test_a_script_and_a_style_are_allowed_by_their_hashes_alone(own: Any) -> None:
    policy = html.unescape(own(x="", script="let a = 1 < 2"))
    assert "script-src 'sha256-" in policy
    assert "style-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert "<script>let a = 1 < 2</script>" in policy
    assert "script-src" not in own(x="")


def test_a_value_that_is_missing_is_an_error_and_not_an_empty_place(own: Any) -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        own()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_runs_code_of_its_own_or_puts_in_words_unescaped(path: Path) -> None:
    text = path.read_text()
    forbidden = ("onclick", "onload", "javascript:", "http://", "https://", "style=", "autoescape")
    assert not [word for word in forbidden if word in text]
    ours = {"page.html in strict": 2, "report.html in reports": 1}  # styles and scripts, and JSON
    assert text.count("| safe") == ours.get(f"{path.name} in {path.parent.name}", 0)
