"""Settings: flags before the project file before the environment, with the origin of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard.errors import ConfigurationError
from policyguard.runs.job import build_job
from policyguard.runs.project import find_project
from policyguard.runs.selection import select_images
from policyguard.runs.settings import Flags, merge_settings, settings_lines
from runs.support import check_project, pictures


def test_flags_go_before_the_file_and_the_file_before_the_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYGUARD_MODEL", "from-environment")
    (project / "policyguard.toml").write_text('model = "from-file"\nworkers = 3\n')
    settings = merge_settings(Flags(workers=9), find_project())
    assert ("from-file", 9) == (settings.model, settings.workers)
    assert "from-flag" == merge_settings(Flags(model="from-flag"), find_project()).model
    (project / "policyguard.toml").write_text("")
    empty = merge_settings(Flags(), find_project())
    assert (None, "POLICYGUARD_MODEL") == (empty.model, empty.origins["model"])


def test_a_packaged_model_that_is_named_outright_sends_no_picture_to_the_file_s_server(project: Path) -> None:
    (project / "policyguard.toml").write_text('base_url = "https://gpu/v1"\n')
    assert ("https://gpu/v1",) == merge_settings(Flags(), find_project()).base_url
    assert () == merge_settings(Flags(model="pico"), find_project()).base_url


def test_paths_in_the_file_start_at_its_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".git").mkdir()
    (project / "policyguard.toml").write_text(
        'policy = "./house.yaml"\ncache = "c.sqlite"\nbaseline = "b.jsonl"\nreports = ["junit=out/j.xml"]\n'
    )
    pictures(project, "sub/a.png")
    monkeypatch.chdir(project / "sub")
    settings = merge_settings(Flags(), find_project())
    assert ("../c.sqlite", "../b.jsonl") == (settings.cache, settings.baseline)
    assert ("junit=../out/j.xml",) == settings.reports
    (project / "b.jsonl").write_text("")
    assert ["../sub/a.png"] == check_project().sources


def test_what_show_config_prints_is_a_project_file(project: Path) -> None:
    settings = merge_settings(Flags(model="m", workers=2, timeout=5.0, reports=("github",)), find_project())
    (project / "policyguard.toml").write_text("\n".join(settings_lines(settings)))
    again = merge_settings(Flags(), find_project())
    assert ("m", 2, 5.0, ("github",)) == (again.model, again.workers, again.timeout, again.reports)


def test_reports_of_the_command_line_join_those_of_the_project_file(project: Path) -> None:
    (project / "policyguard.toml").write_text('reports = ["junit=j.xml", "github"]\n')
    settings = merge_settings(Flags(reports=("json=a.json", "github")), find_project())
    assert ("junit=j.xml", "json=a.json", "github") == settings.reports
    assert "--report and policyguard.toml" == settings.origins["reports"]
    assert ("junit=j.xml", "github") == merge_settings(Flags(), find_project()).reports


STAGES = """policy = "pictosafe/l3"
[[stages]]
model = "pico"
name = "quick"
band = [0, 0.9]
rules = "weapons"
[[stages]]
model = "pico"
"""


def test_stages_of_the_file_judge_unless_a_model_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYGUARD_MODEL", "from-environment")
    (project / "policyguard.toml").write_text(STAGES)
    settings = merge_settings(Flags(), find_project())
    assert settings.staged
    stages = settings.project.stages()
    assert stages is not None
    assert [(stage.title, stage.band, stage.rules) for stage in stages] == [
        ("quick", (0, 0.9), ("weapons",)),
        ("pico", None, None),
    ]
    (project / "policyguard.toml").write_text("\n".join(settings_lines(settings)))
    again = find_project()
    assert again.settings.stages == settings.project.settings.stages
    named = merge_settings(Flags(model="pico"), again)
    assert not named.staged
    assert any("[[stages]]  # replaced" in line for line in settings_lines(named))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('model = "pico"\n[[stages]]\nmodel = "pico"\n', "policyguard.toml: model: each of the stages"),
        ('[[stages]]\nmodel = "pico"\napi_key = "sk-1"\n', r"stages\[0\].api_key: a secret"),
        ('[[stages]]\nmodel = "pico"\nbase_url = "http://a:b@host/v1"\n', r"host holds a user name"),
        ('[[stages]]\nmodel = "pico"\nbond = [0, 1]\n', "did you mean `band`"),
        ('[[stages]]\nmodel = "pico"\nband = [0.5]\n', "stage 1: a band has a low and a high end"),
        (
            '[[stages]]\nmodel = "pico"\nband = [0.5, 0.9]\n',
            "stage 1: a stage would call everything below 0.5",
        ),
        ('[[stages]]\nmodel = "pico"\nband = "b.json"\n', "stage 1: there is no band file"),
    ],
)
def test_what_is_wrong_with_stages_is_said_with_the_file_and_their_number(
    text: str, complaint: str, project: Path
) -> None:
    (project / "policyguard.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        find_project().stages()


def test_check_asks_the_stages_of_the_project_file(project: Path) -> None:
    (project / "policyguard.toml").write_text(STAGES.replace('rules = "weapons"\n', ""))
    pictures(project, "a.png")
    settings = merge_settings(Flags(), find_project())
    job = build_job(settings, select_images([], settings))
    assert job.guard.backend.model.id == "quick > pico"
