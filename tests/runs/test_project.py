"""The project file: where it is found, and how strictly it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard.errors import ConfigurationError
from policyguard.runs.job import build_guard
from policyguard.runs.project import Settings, find_project


def test_the_nearest_file_up_to_the_work_tree_s_root_counts(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = several / "sub" / "deep"
    deep.mkdir(parents=True)
    assert find_project(folder=deep).file is None, "outside of a work tree, no parent folder counts"
    (several / ".git").mkdir()
    assert several / "policyguard.toml" == find_project(folder=deep).file
    (several / "sub" / ".git").write_text("gitdir: elsewhere")
    assert find_project(folder=deep).file is None
    (several / "sub" / "pyproject.toml").write_text('[tool.policyguard]\nmodel = "x"\n')
    assert "x" == find_project(folder=deep).settings.model


def test_a_pyproject_without_our_table_does_not_count(several: Path) -> None:
    (several / "pyproject.toml").write_text("[tool.ruff]\n")
    assert several / "policyguard.toml" == find_project(folder=several).file


def test_an_empty_policyguard_toml_only_marks_the_root(several: Path) -> None:
    (several / "policyguard.toml").write_text("# marks the policy root\n")
    found = find_project(folder=several)
    assert (several, Settings()) == (found.root, found.settings)
    (several / "pyproject.toml").write_text('[tool.policyguard]\nmodel = "x"\n')
    assert "x" == find_project(folder=several).settings.model


def test_settings_in_both_files_are_refused(several: Path) -> None:
    (several / "pyproject.toml").write_text('[tool.policyguard]\nmodel = "x"\n')
    with pytest.raises(ConfigurationError, match=r"in policyguard\.toml and in pyproject\.toml"):
        find_project(folder=several)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modle = "x"', "modle: unknown key 'modle': did you mean `model`?"),
        ('base-url = "x"', "base-url: unknown key 'base-url': did you mean `base_url`?"),
        ("zzz = 1", "zzz: unknown key 'zzz': known here are policy, policies"),
        ("workers = 0", "workers: must be at least 1, found the number 0"),
        ("workers = true", "workers: expected a whole number, found true"),
        ('workers = "4"', "workers: expected a whole number, found the text '4'"),
        ("timeout = inf", "timeout: expected a finite number, found the number inf"),
        ('timeout = "5m"', "timeout: expected a number, found the text '5m'"),
        ("model = 1", "model: expected text, found the number 1"),
        ("policy = []", "policy: is empty"),
        ("[policies]\npolicy = 'x'", "policies: expected a list, found a table: write [[policies]]"),
        ("policies = [1]", "policies[0]: expected a table, found the number 1"),
        (
            '[[policies]]\npath = "x"\npolicy = "y"',
            "policies[0].path: unknown key 'path': did you mean `paths`?",
        ),
        ('[[policies]]\npaths = "x"', "policies[0].policy: is missing"),
        ('fail_on = "always"', "fail_on: expected block, flag or never, found the text 'always'"),
        ('api_key = "sk-1"', "api_key: a secret must not stand in a file"),
        ('HF-Token = "hf"', "HF-Token: a secret must not stand in a file"),
        ('base_url = "https://me:pw@gpu/v1"', "base_url: the address of gpu holds a user name or a password"),
        ('model = "x', "is not TOML: line 1: a quote is not closed"),
        ('model = "x\n', "is not TOML: line 1: a quote is not closed"),
        (
            'model = "x"\nmodel = "y"',
            "is not TOML: line 2: `model` stands there twice: delete one of the two",
        ),
        ("[policies]\n" * 2, "line 2: write [[policies]] in two pairs of brackets, each time"),
        ("[[policies]]\npaths = 'x'\n[policies]\n", "line 3: write [[policies]] in two pairs of brackets"),
        ("[policies]\npaths = 'x'\n[[policies]]\n", "line 3: write [[policies]] in two pairs of brackets"),
        ("[local]\n" * 2, "line 2: [local] stands there twice: put both together"),
        ("policy = ./house.yaml", 'line 1: text stands in quotes: write policy = "..."'),
        ("policy = [\n  house.yaml,\n]", 'line 2: text stands in quotes: write "..."'),
        ("model = 4B", 'line 1: text stands in quotes: write model = "..."'),
        ("api_key = sk-1", 'line 1: text stands in quotes: write api_key = "..."'),
        ("explain = True", "line 1: write true in small letters"),
        ("model =  # none", "line 1: nothing stands behind `model =`: write a value, or delete the line"),
        ('policy = "a", "b"', 'line 1: several values stand in brackets: write policy = ["...", "..."]'),
        ('exclude = ["a" "b"]', "line 1: a comma, or the `]` of a list, is missing"),
        ('exclude = [\n"a",', "line 2: a value, or the `]` of a list, is missing here, at the end"),
        ('model: "x"', "line 1: write = in place of the colon"),
        ('cache = "C:\\x"', "line 1: write each \\ twice, or the text in single quotes"),
        ("workers = 4 8", "is not TOML: "),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(project: Path, text: str, said: str) -> None:
    (project / "policyguard.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        find_project()
    assert said in str(caught.value)
    assert "policyguard.toml" in caught.value.message
    assert not any(secret in str(caught.value) for secret in ("sk-1", "me:pw", '"hf"'))


def test_everything_wrong_is_said_at_once(project: Path) -> None:
    (project / "policyguard.toml").write_text('modle = "x"\nworkers = 0\ncache = 1\napi_key = "k"\n')
    with pytest.raises(ConfigurationError) as caught:
        find_project()
    assert 4 == len(caught.value.message.splitlines())
    assert "POLICYGUARD_API_KEY" in (caught.value.hint or "")


def test_how_a_model_runs_here_is_said_in_the_file(several: Path) -> None:
    (several / "policyguard.toml").write_text('local = {attention = "eager", dtype = "float32"}\n')
    settings = find_project(folder=several).settings
    guard = build_guard(["pictosafe/l3"], local=settings.local)
    assert guard.backend.model.settings == "attention=eager"
    (several / "policyguard.toml").write_text('replicas = "auto"\nworkers = 2\n')
    assert find_project(folder=several).settings.replicas == "auto"
    (several / "policyguard.toml").write_text("replicas = 0\n")
    with pytest.raises(ConfigurationError, match="replicas"):
        find_project(folder=several)
    (several / "policyguard.toml").write_text('local = "int8"\n')
    with pytest.raises(ConfigurationError, match="local"):
        find_project(folder=several)
