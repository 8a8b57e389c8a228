"""``policyguard init`` starts a project that works as it is, and changes nothing that is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from backends.remote.server import ToyServer
from cli.support import Captured
from policyguard._version import DISTRIBUTION
from policyguard.cli import main
from policyguard.policy import load_policy, packaged_policies
from policyguard.runs.exits import ExitCode
from policyguard.strict import documents


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_a_new_project_lints_clean_passes_its_test_and_judges_an_image(
    project: Path, capsys: Captured
) -> None:
    pytest.importorskip("torch")
    assert main(["init", "--from", "pictosafe/l3", "--model", "pico", "--id", "shop"]) == ExitCode.OK
    assert sorted(files(project)) == [
        "cases.yaml",
        "cases/harmless.png",
        "policies/shop.yaml",
        "policyguard.toml",
    ]
    assert main(["policy", "lint", "policies/shop.yaml", "--fail-on", "warning"]) == ExitCode.OK
    assert main(["policy", "test", "cases.yaml"]) == ExitCode.OK
    capsys.readouterr()
    images = Path(__file__).parents[2] / "examples" / "images"
    for name, code in (("picnic", ExitCode.OK), ("armoury", ExitCode.BLOCKED)):
        (project / "image.png").write_bytes((images / f"{name}.png").read_bytes())
        assert main(["check"]) == code
    assert "harmless.png" not in capsys.readouterr().out


def test_what_the_policy_shows_in_comments_loads_once_it_is_used(project: Path) -> None:
    assert main(["init", "--from", "apps/marketplace"]) == ExitCode.OK
    path = project / "policies" / "house-rules.yaml"
    text = re.sub(r"^# (?=rules:|overrides:|  )", "", path.read_text(), flags=re.MULTILINE)
    path.write_text(text.replace("ID-OF-A-RULE", "weapons"))
    policy = load_policy(path)
    assert "other-shops" in [rule.id for rule in policy.rules]
    assert "why that is fine here" in [weakening.reason for weakening in policy.weakenings]


@pytest.mark.parametrize("level", range(1, 6))
def test_what_a_policy_of_the_toy_world_shows_in_comments_is_read_by_pico(
    level: int, project: Path, capsys: Captured
) -> None:
    assert main(["init", "--from", f"pictosafe/l{level}"]) == ExitCode.OK
    path = project / "policies" / "house-rules.yaml"
    rules, text = load_policy(path).rules, path.read_text()
    assert "pico reads at most 8 rules" in text
    blocks = text.split("\n\n") if len(rules) < 8 else [b for b in text.split("\n\n") if "# rules:" not in b]
    used = re.sub(r"^# (?=rules:|overrides:|  )", "", "\n\n".join(blocks), flags=re.MULTILINE)
    path.write_text(used.replace("ID-OF-A-RULE", rules[0].id))
    assert "\noverrides:" in path.read_text()
    assert main(["policy", "lint", str(path)]) == ExitCode.OK
    assert not re.search(r"\[(unreadable|unknown-word|too-many)", capsys.readouterr().out)


@pytest.mark.parametrize("base", sorted(packaged_policies()))
def test_every_packaged_policy_can_be_built_on(base: str, project: Path) -> None:
    assert main(["init", "--from", base]) == ExitCode.OK
    assert main(["policy", "lint", "policies/house-rules.yaml"]) == ExitCode.OK


@pytest.mark.parametrize(
    ("ci", "path", "model", "extra"),
    [
        ("github", ".github/workflows/policyguard.yml", [], "transformers"),
        (
            "github",
            ".github/workflows/policyguard.yml",
            ["--model", "guard", "--base-url", "http://gpu:8000/v1"],
            "remote",
        ),
        ("gitlab", ".gitlab-ci.yml", [], "transformers"),
        ("gitlab", ".gitlab-ci.yml", ["--model", "guard", "--base-url", "http://gpu:8000/v1"], "remote"),
    ],
)
def test_the_file_for_ci_installs_what_it_needs_and_runs_test_and_check(
    ci: str, path: str, model: list[str], extra: str, project: Path
) -> None:
    assert main(["init", "--ci", ci, *model]) == ExitCode.OK
    text = (project / path).read_text()
    assert f"'{DISTRIBUTION}[{extra}]'" in text
    without_cuda = "PIP_EXTRA_INDEX_URL: https://download.pytorch.org/whl/cpu"
    assert (without_cuda in text, "torch" in text) == (
        (True,) * 2 if extra == "transformers" else (False,) * 2
    )
    assert re.findall(r"policyguard (policy test|check)\b", text) == ["policy test", "check"]
    assert f"policyguard policy test cases.yaml{''.join(f' {word}' for word in model)}\n" in text
    assert documents.parse((project / path).read_bytes(), path).problems == ()


@pytest.mark.parametrize(("base", "needed"), [("pictosafe/l3", False), ("apps/family", True)])
def test_what_comes_next_asks_for_a_model_only_where_one_is_needed(
    base: str, needed: bool, project: Path, capsys: Captured
) -> None:
    assert main(["init", "--from", base]) == ExitCode.OK
    assert ("--model MODEL" in capsys.readouterr().err) is needed


@pytest.mark.parametrize("ci", ["github", "gitlab", "none"])
@pytest.mark.parametrize("base", ["pictosafe/l3", "safeedit/l3", "apps/marketplace"])
def test_every_line_that_is_printed_as_next_runs_in_a_shell(
    base: str, ci: str, project: Path, capsys: Captured
) -> None:
    """In a folder whose name a shell would split, with the packaged model or one on a server."""
    if base.startswith("pictosafe"):
        pytest.importorskip("torch")
    with ToyServer() as server:
        server.context = 1 << 16
        model = [] if base.startswith("pictosafe") else ["--model", "toy-guard", "--base-url", server.url]
        assert main(["init", "my shop", "--from", base, "--ci", ci, *model]) == ExitCode.OK
        printed = capsys.readouterr().err.partition("Next:\n")[2]
        lines = [line for line in printed.splitlines() if line.startswith("  ")]
        assert len(lines) == 3
        (project / "my shop" / "image.png").write_bytes(files(project)["my shop/cases/harmless.png"])
        program = f'policyguard() {{ "{sys.executable}" -m policyguard "$@"; }}\n'
        done = subprocess.run(
            ["bash", "-ec", program + "\n".join(lines)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("nothing", ["none", "None", "-", " "])
def test_whoever_says_none_gets_none(nothing: str, project: Path) -> None:
    assert main(["init", "--model", "guard", "--base-url", nothing]) == ExitCode.OK
    assert "base_url" not in (project / "policyguard.toml").read_text()
    assert load_policy("./policies/house-rules.yaml").title == "House rules"


def test_what_is_there_is_named_and_nothing_is_written(project: Path, capsys: Captured) -> None:
    (project / "cases.yaml").write_text("mine")
    (project / "policyguard.toml").symlink_to("nowhere")
    assert main(["init"]) == ExitCode.USAGE
    assert "policyguard.toml, cases.yaml: there already, and nothing was written" in capsys.readouterr().err
    assert files(project) == {"cases.yaml": b"mine"}


@pytest.mark.parametrize(
    ("ci", "path"), [("github", ".github/workflows/policyguard.yml"), ("gitlab", ".gitlab-ci.yml")]
)
def test_a_project_that_is_there_gets_the_check_in_ci_alone(
    ci: str, path: str, project: Path, capsys: Captured
) -> None:
    assert (
        main(["init", "--id", "shop", "--model", "guard", "--base-url", "http://gpu:8000/v1"]) == ExitCode.OK
    )
    before = files(project)
    assert main(["init", ".", "--ci", ci]) == ExitCode.OK
    assert files(project) == before | {path: (project / path).read_bytes()}
    text = (project / path).read_text()
    assert "policy test cases.yaml --model guard --base-url http://gpu:8000/v1\n" in text
    assert "[remote]" in text
    capsys.readouterr()
    after = files(project)
    assert main(["init", ".", "--ci", ci]) == ExitCode.USAGE
    assert f"{path}: there already, and nothing was written" in capsys.readouterr().err
    assert files(project) == after


def test_a_check_in_ci_runs_no_test_that_the_project_does_not_have(project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.policyguard]\npolicy = "apps/family"\n')
    assert main(["init", "--ci", "github"]) == ExitCode.OK
    text = (project / ".github/workflows/policyguard.yml").read_text()
    assert "policy test" not in text
    assert "policyguard check" in text
    assert sorted(files(project)) == [".github/workflows/policyguard.yml", "pyproject.toml"]


def test_what_is_missing_is_written_and_what_is_there_is_left(project: Path, capsys: Captured) -> None:
    assert main(["init", "--id", "shop"]) == ExitCode.OK
    (project / "cases.yaml").unlink()
    (project / "policyguard.toml").write_text('policy = "./policies/shop.yaml"\n')
    before = files(project)
    assert main(["init", "--id", "shop", "--ci", "github"]) == ExitCode.OK
    after = files(project)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"cases.yaml", ".github/workflows/policyguard.yml"}
    printed = capsys.readouterr().err
    assert "policyguard.toml: there already, left as it is" in printed
    assert "does not name the policy" not in printed


def test_a_policy_of_ones_own_gets_a_project_around_it(project: Path) -> None:
    assert main(["init", "elsewhere", "--id", "shop", "--from", "pictosafe/l3"]) == ExitCode.OK
    (project / "policies").mkdir()
    own = (project / "elsewhere" / "policies" / "shop.yaml").read_bytes()
    (project / "policies" / "shop.yaml").write_bytes(own)
    assert main(["init", "--id", "shop"]) == ExitCode.OK
    assert (project / "policies" / "shop.yaml").read_bytes() == own
    apple = (project / "elsewhere" / "cases" / "harmless.png").read_bytes()
    assert (project / "cases" / "harmless.png").read_bytes() == apple, "an image of the policy's world"


def test_a_further_policy_is_written_with_the_lines_that_use_it(project: Path, capsys: Captured) -> None:
    assert main(["init", "--id", "shop"]) == ExitCode.OK
    before = files(project)
    assert main(["init", "--id", "forum", "--from", "apps/family"]) == ExitCode.OK
    after = files(project)
    assert set(after) - set(before) == {"policies/forum.yaml"}
    assert {name: after[name] for name in before} == before
    printed = capsys.readouterr().err
    assert 'add `policy = "./policies/forum.yaml"`' in printed
    assert "add `forum: policies/forum.yaml` under `policies:`" in printed


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ('policy = "apps/family"\n', [], "`--ci github` or `--ci gitlab` adds a check in CI"),
        ("fail_on = 'flag'\n", ["--ci", "github"], "names no policy"),
        ("polcy = 'x'\n", ["--ci", "github"], "polcy"),
        ('policy = "apps/family"\n', ["--ci", "github", "--model", "other"], "leave --model"),
    ],
)
def test_a_project_that_would_work_by_half_is_refused_and_left(
    settings: str, options: list[str], words: str, project: Path, capsys: Captured
) -> None:
    (project / "policyguard.toml").write_text(settings)
    assert main(["init", *options]) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert files(project) == {"policyguard.toml": settings.encode()}


def test_a_job_that_is_there_is_no_dead_end(project: Path, capsys: Captured) -> None:
    (project / ".gitlab-ci.yml").write_text("mine: {}")
    assert main(["init", "--ci", "gitlab"]) == ExitCode.USAGE
    assert "writes a job to copy from" in capsys.readouterr().err
    assert files(project) == {".gitlab-ci.yml": b"mine: {}"}
    assert main(["init"]) == ExitCode.OK


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "apps/marketplaces"], "did you mean apps/marketplace?"),
        (["--from", "./own.yaml"], "no packaged policy"),
        (["--id", "../outside"], "not a name for programs"),
        (["--id", "House Rules"], "such as house-rules"),
        (["--ci", "jenkins"], "github"),
        (["--model", "guard", "--base-url", "gpu:8000"], "no server's address"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    options: list[str], words: str, project: Path, capsys: Captured
) -> None:
    assert main(["init", "here", *options]) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert not (project / "here").exists()


def test_the_program_alone_shows_five_commands_and_is_no_success(capsys: Captured) -> None:
    assert main([]) == ExitCode.USAGE
    alone = re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE)
    assert alone == ["quickstart", "init", "check", "policy", "doctor"]
    assert main(["-h"]) == ExitCode.OK
    whole = capsys.readouterr().out
    assert "\nCommands:\n" not in whole, "a command stands in no section"
    assert set(alone) < set(re.findall(r"^  ([a-z]+)  ", whole, re.MULTILINE))
