"""The project file: found, read strictly, merged with flags; nothing goes unchecked in silence."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from runs.support import POLICY, check, pictures
from policyguard.cli import main
from policyguard.errors import ConfigurationError, UsageError
from policyguard.runs.exits import ExitCode
from policyguard.runs.job import build_job
from policyguard.runs.project import Settings, find_project
from policyguard.runs.selection import select_images
from policyguard.runs.settings import Flags, merge_settings, settings_lines
from policyguard.testing import FakeBackend

TWO = """\
policy = "./base.yaml"
[[policies]]
paths = ["avatars/", "!avatars/drafts/"]
policy = "./avatars.yaml"
[[policies]]
paths = "*-ad.png"
policy = ["./ads.yaml"]
"""


@pytest.fixture
def several(project: Path) -> Path:
    """A project with a policy for everything, one for avatars and one for ads."""
    (project / "policyguard.toml").write_text(TWO)
    for name in ("base", "avatars", "ads"):
        (project / f"{name}.yaml").write_text(POLICY.format(id=name))
    return project


def ids(verdict: dict[str, object]) -> list[str]:
    evidence = verdict["evidence"]
    assert isinstance(evidence, dict)
    return [policy["id"] for policy in evidence["policies"]]


def test_every_entry_that_matches_applies(several: Path) -> None:
    pictures(several, "x.png", "avatars/a.png", "avatars/b-ad.png", "avatars/drafts/c.png", "d-ad.png")
    found = {verdict["source"]: ids(verdict) for verdict in check().verdicts}
    assert {
        "x.png": ["base"],
        "d-ad.png": ["base", "ads"],
        "avatars/a.png": ["base", "avatars"],
        "avatars/b-ad.png": ["base", "avatars", "ads"],
        "avatars/drafts/c.png": ["base"],
    } == found


def test_images_under_one_set_of_policies_come_together_and_in_order(several: Path) -> None:
    pictures(several, "a.png", "b-ad.png", "c.png", "d-ad.png")
    assert ["a.png", "c.png", "b-ad.png", "d-ad.png"] == check().sources
    assert check().sources == check(workers=7).sources


def test_policies_on_the_command_line_replace_the_file_s(several: Path) -> None:
    pictures(several, "avatars/a.png")
    assert [["ads"]] == [ids(verdict) for verdict in check(policy=("ads.yaml",)).verdicts]


def test_an_image_that_no_entry_is_for_fails_the_run_and_the_others_are_checked(several: Path) -> None:
    text = TWO.partition("\n")[2]
    (several / "policyguard.toml").write_text(text)
    pictures(several, "x.png", "avatars/a.png")
    found = check()
    assert (ExitCode.USAGE, ["avatars/a.png"]) == (found.code, found.sources)
    assert "x.png: no policy applies to this path" in found.err
    (several / "policyguard.toml").write_text('unmatched = "ignore"\n' + text)
    pictures(several, "a-ad.png")
    assert (ExitCode.OK, ["a-ad.png", "avatars/a.png"]) == (check().code, check().sources)
    assert "note: no policy applies to 1 image (x.png)" in check().err


def test_a_renamed_policy_fails_the_run_and_images_under_others_are_checked(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (several / "avatars.yaml").rename(several / "people.yaml")
    pictures(several, "x.png", "avatars/a.png")
    found = check()
    assert (ExitCode.USAGE, ["x.png"]) == (found.code, found.sources)
    assert "avatars/a.png: policy './avatars.yaml' cannot be used" in found.err
    assert "avatars.yaml: there is no such file" in capsys.readouterr().err


def test_a_policy_for_no_image_of_this_run_need_not_be_there(several: Path) -> None:
    (several / "avatars.yaml").unlink()
    pictures(several, "x.png")
    assert ExitCode.OK == check("x.png").code


def test_several_policies_share_one_backend(several: Path) -> None:
    pictures(several, "x.png", "avatars/a.png", score=255)
    backend = FakeBackend(0.1)
    assert ExitCode.OK == check("x.png", "avatars", backend=backend).code
    assert 3 == len(backend.requests)
    assert not backend.closed


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
        ("policies = [1]", "policies[0]: expected a table, found the number 1"),
        ('[[policies]]\npath = "x"\npolicy = "y"', "policies[0].path: unknown key 'path': did you mean `paths`?"),
        ('[[policies]]\npaths = "x"', "policies[0].policy: is missing"),
        ('fail_on = "always"', "fail_on: expected block, flag or never, found the text 'always'"),
        ('api_key = "sk-1"', "api_key: a secret must not stand in a file"),
        ('HF-Token = "hf"', "HF-Token: a secret must not stand in a file"),
        ('base_url = "https://me:pw@gpu/v1"', "base_url: the address of gpu holds a user name or a password"),
        ('model = "x', "is not TOML"),
        ('model = "x"\nmodel = "y"', "is not TOML"),
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


def test_a_pattern_that_cannot_be_read_is_named(several: Path) -> None:
    (several / "policyguard.toml").write_text('[[policies]]\npaths = ["a", "!"]\npolicy = "./base.yaml"\n')
    pictures(several, "a.png")
    with pytest.raises(UsageError, match=r"policies\[0\]\.paths:2: '!' is not a valid"):
        check()


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
    assert ["../sub/a.png"] == check().sources


def test_show_config_prints_toml_with_where_each_value_is_from(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitCode.OK == main(["check", "--show-config", "--workers", "4"])
    out = capsys.readouterr().out
    assert 'policy = ["./base.yaml"]  # policyguard.toml' in out
    assert "workers = 4  # --workers" in out
    assert 'fail_on = "block"  # default' in out
    assert {"policy", "policies", "workers", "fail_on"} <= set(tomllib.loads(out))


def test_what_show_config_prints_is_a_project_file(project: Path) -> None:
    settings = merge_settings(Flags(model="m", workers=2, timeout=5.0, reports=("github",)), find_project())
    (project / "policyguard.toml").write_text("\n".join(settings_lines(settings)))
    again = merge_settings(Flags(), find_project())
    assert ("m", 2, 5.0, ("github",)) == (again.model, again.workers, again.timeout, again.reports)


def test_plain_check_does_the_right_thing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).parents[2] / "examples" / "images"
    (project / "policyguard.toml").write_text('policy = "pictosafe/l3"\nexclude = ["other/"]\n')
    for name in ("armoury.png", "picnic.png"):
        (project / name).write_bytes((examples / name).read_bytes())
    pictures(project, "other/a.png")
    assert ExitCode.BLOCKED == main(["check", "--format", "json"])
    captured = capsys.readouterr()
    found = {verdict["source"]: verdict["action"] for verdict in json.loads(captured.out)}
    assert {"armoury.png": "block", "picnic.png": "allow"} == found
    assert "1 image (other/a.png) ignored by" in captured.err


def test_without_a_policy_anywhere_nothing_is_checked(project: Path) -> None:
    (project / "policyguard.toml").write_text("")
    pictures(project, "a.png")
    with pytest.raises(UsageError, match="no policy to check"):
        check()


def test_show_config_names_policies_that_cannot_be_used(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (several / "avatars.yaml").unlink()
    (several / "ads.yaml").write_text("nonsense")
    assert ExitCode.USAGE == main(["check", "--show-config"])
    captured = capsys.readouterr()
    assert "[[policies]]" in captured.out
    assert "'./avatars.yaml' cannot be used" in captured.err
    assert "'./ads.yaml' cannot be used" in captured.err


def test_a_password_in_the_command_reaches_no_report(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(project, "a.png")
    monkeypatch.setattr("sys.argv", ["policyguard", "check", "--base-url", "https://me:pw@gpu/v1"])
    settings = merge_settings(Flags(), find_project())
    job = build_job(settings, select_images([], settings), backend=FakeBackend())
    assert ("policyguard", "check", "--base-url", "https://***@gpu/v1") == job.info.command
