"""Reports on a real check of a project."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from policyguard.cli import main
from policyguard.runs.exits import ExitCode
from policyguard.runs.reports import parse_report
from policyguard.runs.reports.registry import Reports
from runs.reports.support import FILES
from runs.reports.test_sarif import schemas, uri
from runs.support import check_project, pictures, write


@pytest.fixture
def images(project: Path) -> Path:
    pictures(project, "art/fine.png")
    pictures(project, "art/bad name.png", score=255)
    write(project, art__broken_dot_png="no picture")
    return project


def run(folder: Path, *kinds: str, log: StringIO | None = None, **options: object) -> ExitCode:
    specs = [parse_report(kind if kind == "github" else f"{kind}={folder / kind}") for kind in kinds]
    return check_project(reports=Reports.open(specs, log=log or StringIO()), **options).code  # type: ignore[arg-type]


def test_every_report_of_one_run_names_what_fails_and_what_could_not_be_judged(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    log = StringIO()
    assert ExitCode.BLOCKED == run(tmp_path / "out", *FILES, "github", log=log)
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} | {
        "github": log.getvalue()
    }
    assert {*FILES, "github"} == set(found)
    for kind, text in found.items():
        assert "bad name.png" in text or "bad%20name.png" in text, kind
        assert "broken.png" in text, kind
        assert "art/broken.png: art/broken.png" not in text, kind


def test_the_reason_of_a_broken_image_is_said_once(images: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", "gitlab")
    assert 1 == (tmp_path / "out" / "gitlab").read_text().count("is text")


def test_an_early_stop_is_in_every_report(images: Path, tmp_path: Path) -> None:
    assert ExitCode.BLOCKED == run(tmp_path / "out", *FILES, max_failures=1)
    for kind in FILES:
        assert "fine.png" in (tmp_path / "out" / kind).read_text(), kind


def test_a_renamed_policy_is_in_every_report_with_the_images_it_was_for(images: Path, tmp_path: Path) -> None:
    pictures(images, "ads/a.png")
    text = 'policy = "./house.yaml"\n[[policies]]\npaths = "ads/"\npolicy = "./gone.yaml"\n'
    (images / "policyguard.toml").write_text(text)
    assert ExitCode.USAGE == run(tmp_path / "out", *FILES)
    for kind in FILES:
        text = (tmp_path / "out" / kind).read_text()
        assert "ads/a.png" in text, kind
        assert "gone.yaml" in text, kind


def test_the_sarif_of_a_real_run_is_valid(images: Path, tmp_path: Path) -> None:
    import json

    run(tmp_path / "out", "sarif")
    document = json.loads((tmp_path / "out" / "sarif").read_text())
    for schema in schemas():
        schema.validate(document)
    assert ["art/bad%20name.png"] == [uri(result) for result in document["runs"][0]["results"]]


def test_the_log_is_stderr_so_that_json_on_stdout_stays_whole(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    write(project, broken_dot_png="no picture")
    command = ["check", "broken.png", "--policy", "pictosafe/l3", "--format", "json", "--report", "github"]
    assert ExitCode.UNJUDGED == main(command)
    printed = capsys.readouterr()
    assert 1 == len(json.loads(printed.out))
    assert "\n::error file=broken.png," in printed.err
