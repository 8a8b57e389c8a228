"""The lines of the GitLab template run as a runner's shell runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
TEMPLATE = ROOT / "integrations/gitlab/policyguard.gitlab-ci.yml"


def job() -> dict[str, Any]:
    template = yaml.safe_load(TEMPLATE.read_text())  # noqa: TID251
    found: dict[str, Any] = template["policyguard"]
    return found


def run(repository: Path, environment: dict[str, str], shell: str = "bash", **variables: str) -> Any:
    script = "\n".join(["set -eo pipefail" if shell == "bash" else "set -e", *job()["script"]])
    return subprocess.run(
        [shell, "-c", script],
        cwd=repository,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_blocked_image_fails_the_job_and_is_in_the_reports(
    repository: Path, environment: dict[str, str], shell: str
) -> None:
    done = run(repository, environment, shell)
    assert 1 == done.returncode, done.stdout
    reports = job()["artifacts"]["reports"]
    quality = json.loads((repository / reports["codequality"]).read_text())
    assert ["art/armoury.png"] == [entry["location"]["path"] for entry in quality]
    assert (repository / reports["junit"]).stat().st_size
    assert "always" == job()["artifacts"]["when"]


def test_a_merge_request_is_about_the_images_it_changes(
    repository: Path, environment: dict[str, str]
) -> None:
    (repository / "art/armoury.png").unlink()
    shutil.copy(ROOT / "examples/images/beach.png", repository / "art")
    done = run(repository, environment, CI_MERGE_REQUEST_DIFF_BASE_SHA="HEAD~1")
    assert 0 == done.returncode, done.stdout
    assert "art/beach.png" in done.stdout
    assert "art/picnic.png" not in done.stdout


def test_a_policy_that_is_not_there_fails_the_job(repository: Path, environment: dict[str, str]) -> None:
    hostile = "./$(touch owned).yaml; touch owned"
    done = run(repository, environment, POLICYGUARD_POLICY=hostile)
    assert 2 == done.returncode
    assert not list(repository.rglob("owned"))


def test_the_page_the_template_and_init_ask_for_pipelines_of_merge_requests(tmp_path: Path) -> None:
    """Without `workflow:`, GitLab runs a job that has no rules in no pipeline of a merge request."""
    from policyguard.cli import main

    assert 0 == main(["init", str(tmp_path), "--from", "pictosafe/l3", "--id", "house", "--ci", "gitlab"])
    page = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/github-action.md").read_text(), re.MULTILINE | re.DOTALL
    )[-1]
    comment = re.sub(r"^# ?", "", TEMPLATE.read_text().split("docs/github-action.md")[0], flags=re.MULTILINE)
    wanted = ['$CI_PIPELINE_SOURCE == "merge_request_event"', "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"]
    for text in (page, comment.partition(":\n\n")[2], (tmp_path / ".gitlab-ci.yml").read_text()):
        rules = yaml.safe_load(text)["workflow"]["rules"]  # noqa: TID251
        assert wanted == [rule["if"] for rule in rules]


def test_it_installs_what_the_package_has() -> None:
    import tomllib

    template = yaml.safe_load(TEMPLATE.read_text())  # noqa: TID251
    name, _, extra = template["variables"]["POLICYGUARD_PACKAGE"].removesuffix("]").partition("[")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert name == project["name"]
    assert extra in project["optional-dependencies"]


def test_its_torch_comes_without_cuda() -> None:
    assert "https://download.pytorch.org/whl/cpu" == job()["variables"]["PIP_EXTRA_INDEX_URL"]
