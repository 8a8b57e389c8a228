"""The action's shell steps run, in order, on a real repository; only other people's actions are left out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from integrations.github.runner import Runner

ROOT = Path(__file__).parents[3]
ACTION = ROOT / "integrations/github-action"
PLAIN = {"install": "false", "comment": "false"}
SARIF, ARTIFACT, CACHE = "github/codeql-action/upload-sarif", "actions/upload-artifact", "actions/cache"


class GitHub:
    """GitHub's comments on loopback, as its API serves them."""

    def __init__(self, *, refuse: int | None = None) -> None:
        self.refuse = refuse
        self.comments: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, str | None]] = []
        github = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                data = json.loads(self.rfile.read(size)) if size else None
                github.asked.append((self.command, self.path, self.headers.get("Authorization")))
                code, answer = github.answer(self.command, self.path, data)
                content = json.dumps(answer).encode()
                self.send_response(code)
                if code in (301, 302):
                    self.send_header("Location", f"{github.url}/elsewhere")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = _answer  # noqa: N815 (the names that http.server calls)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: str, data: Any) -> tuple[int, Any]:
        if self.refuse is not None and method != "GET":
            return self.refuse, {"message": "Resource not accessible by integration"}
        if method == "GET" and path.startswith("/repos/ann/art/issues/7/comments?per_page=100&page="):
            page = int(path.rpartition("=")[2])
            return 200, self.comments[(page - 1) * 100 : page * 100]
        if method == "POST" and path == "/repos/ann/art/issues/7/comments":
            self.comments.append({"id": len(self.comments) + 1, "user": {"type": "Bot"}} | data)
            return 201, self.comments[-1]
        if method == "PATCH" and path.startswith("/repos/ann/art/issues/comments/"):
            comment = self.comments[int(path.rpartition("/")[2]) - 1]
            comment |= data
            return 200, comment
        return 404, {"message": "Not Found"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def github() -> Iterator[GitHub]:
    server = GitHub()
    yield server
    server.close()


@pytest.fixture
def runner(repository: Path, tmp_path: Path, environment: dict[str, str]) -> Runner:
    return Runner(ACTION, repository, tmp_path / "temp", environment)


def steps() -> list[dict[str, Any]]:
    action = yaml.safe_load((ACTION / "action.yml").read_text())  # noqa: TID251
    found: list[dict[str, Any]] = action["runs"]["steps"]
    return found


def test_every_action_it_uses_is_pinned_to_a_commit_and_names_its_version() -> None:
    lines = [line for line in (ACTION / "action.yml").read_text().splitlines() if "uses:" in line]
    used = [line for line in lines if not line.startswith("#")]
    assert len(used) >= 5
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), line


def test_no_expression_becomes_part_of_a_command() -> None:
    scripts = [step["run"] for step in steps() if "run" in step]
    assert len(scripts) == 4
    assert not [script for script in scripts if "${{" in script]


def test_every_input_is_used_and_described() -> None:
    action = yaml.safe_load((ACTION / "action.yml").read_text())  # noqa: TID251
    text = json.dumps(action["runs"])
    for name, spec in action["inputs"].items():
        assert f"inputs.{name}" in text, name
        assert spec["description"]


def test_scripts_are_executable_and_strict() -> None:
    for script in ACTION.glob("*.sh"):
        assert script.stat().st_mode & 0o111
        assert "set -euo pipefail" in script.read_text()
        subprocess.run(["bash", "-n", script], check=True)


def test_a_blocked_image_fails_the_job_after_every_report_is_there(runner: Runner) -> None:
    assert 1 == runner.run(**PLAIN)
    assert [CACHE, CACHE, SARIF, ARTIFACT] == runner.used
    outputs = runner.outputs["check"]
    assert "1" == outputs["exit-code"]
    for name in ("sarif", "html", "markdown", "junit"):
        assert Path(outputs[name]).stat().st_size > 100
    json.loads(Path(outputs["sarif"]).read_text())
    assert re.search(r"^::error .*file=art/armoury\.png", runner.log, re.MULTILINE)
    assert "::error::images are blocked by a policy" in runner.log
    assert "armoury.png" in runner.summary
    assert (Path(runner.temp) / "policyguard-scores").is_dir()


def test_only_changed_images_are_checked_where_that_is_asked_for(runner: Runner) -> None:
    (runner.workspace / "art/armoury.png").unlink()
    shutil.copy(ROOT / "examples/images/beach.png", runner.workspace / "art")
    assert 0 == runner.run(changed_since="HEAD~1", **PLAIN)
    verdicts = (Path(runner.outputs["check"]["reports"]) / "verdicts.jsonl").read_text()
    assert "art/beach.png" in verdicts
    assert "art/picnic.png" not in verdicts


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"policy": "./gone.yaml"}, "gone.yaml"),
        ({"paths": "nothing/**/*.png"}, "nothing/**/*.png"),
        ({"explain": "yes"}, "the input explain must be true or false, not 'yes'"),
        ({"fail_on": "sometimes"}, "sometimes"),
        ({"changed_since": "--output=x"}, "--output=x"),
        ({"config": "gone.toml"}, "gone.toml"),
    ],
)
def test_a_set_up_that_cannot_work_fails_the_job_and_says_why(
    runner: Runner, inputs: dict[str, str], said: str
) -> None:
    assert 2 == runner.run(**PLAIN, **inputs)
    assert said in runner.log
    assert "did not come to an end" in runner.log


def test_a_path_that_looks_like_an_option_is_a_path(runner: Runner) -> None:
    assert 3 == runner.run(**PLAIN, paths="--report\njunit=x.xml")
    assert not list(runner.workspace.rglob("x.xml"))


def test_a_program_that_cannot_be_started_fails_the_job(runner: Runner) -> None:
    (runner.temp.parent / "bin/policyguard").write_text("#!/bin/sh\nexit 127\n")
    assert 127 == runner.run(**PLAIN)


def test_a_check_that_was_killed_fails_the_job(runner: Runner) -> None:
    (runner.temp.parent / "bin/policyguard").write_text("#!/bin/sh\nkill -9 $$\n")
    assert 137 == runner.run(**PLAIN)


@pytest.mark.parametrize("code", ["", "none", "-1", "256 or so"])
def test_no_exit_code_is_no_success(code: str) -> None:
    done = subprocess.run(
        ["bash", ACTION / "finish.sh"],
        env={"POLICYGUARD_EXIT_CODE": code, "PATH": "/usr/bin:/bin"},
        check=False,
        capture_output=True,
    )
    assert 2 == done.returncode


def test_inputs_are_arguments_and_no_commands(runner: Runner) -> None:
    hostile = "$(touch owned) `touch owned`; touch owned \"' \\"
    assert 2 == runner.run(**PLAIN, policy=hostile, model=hostile, paths=hostile, workers=hostile)
    assert not list(runner.workspace.rglob("owned"))


def test_a_line_of_output_that_looks_like_a_command_reaches_github_with_a_mark(runner: Runner) -> None:
    name = "::add-mask::art.png"
    (runner.workspace / "art" / name).write_bytes(b"no image")
    (runner.workspace / name).write_bytes(b"no image")
    (runner.workspace / "##[warning]x.png").write_bytes(b"no image")
    inputs = f"{name}\nart/{name}\n##[warning]x.png"
    assert 3 == runner.run(**PLAIN, paths=inputs)
    commands = [line for line in runner.log.splitlines() if line.lstrip().startswith("::")]
    assert commands
    assert not [line for line in commands if not re.match(r"::(error|warning|notice)[ :]", line)]
    assert not [line for line in runner.log.splitlines() if "##[" in line and not line.startswith("::")]


def comment(runner: Runner, github: GitHub, text: str = "# 1 image is blocked\n") -> str:
    """Run the step of the comment; give its log."""
    summary = runner.temp / "summary.md"
    summary.write_text(text)
    environment = runner.environment | {
        "POLICYGUARD_MARKDOWN": str(summary),
        "POLICYGUARD_MARK": "CI/art/policyguard",
        "GITHUB_API_URL": github.url,
        "GITHUB_REPOSITORY": "ann/art",
        "GITHUB_TOKEN": "secret",
    }
    done = subprocess.run(
        ["python3", "-I", ACTION / "comment.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "secret" not in done.stdout + done.stderr
    return done.stdout


def test_the_comment_is_written_once_and_then_kept_up_to_date(runner: Runner, github: GitHub) -> None:
    runner.event(pull_request={"number": 7})
    github.comments += [{"id": n, "body": "nice", "user": {"type": "User"}} for n in range(1, 131)]
    assert "commented on pull request 7" in comment(runner, github)
    assert "commented on pull request 7" in comment(runner, github, "# all is well\n")
    assert 131 == len(github.comments)
    assert github.comments[-1]["body"].endswith("# all is well\n")
    assert {"Bearer secret"} == {token for _, _, token in github.asked}


def test_a_comment_of_a_person_with_the_same_mark_is_left_alone(runner: Runner, github: GitHub) -> None:
    runner.event(pull_request={"number": 7})
    comment(runner, github)
    github.comments[0]["user"] = {"type": "User"}
    comment(runner, github, "# new\n")
    assert [False, True] == [body["body"].endswith("# new\n") for body in github.comments]


def test_a_summary_that_is_too_long_is_cut_at_a_line(runner: Runner, github: GitHub) -> None:
    runner.event(pull_request={"number": 7})
    comment(runner, github, "a line of the summary\n" * 5000)
    body = github.comments[0]["body"]
    assert len(body) < 65_536
    assert "a line of the summary\n\n(cut here" in body


@pytest.mark.parametrize("code", [401, 403, 404, 302, 500])
def test_a_fork_that_may_not_comment_is_told_so_and_the_job_goes_on(runner: Runner, code: int) -> None:
    github = GitHub(refuse=code)
    try:
        runner.event(pull_request={"number": 7})
        log = comment(runner, github)
    finally:
        github.close()
    assert "::notice::no comment on the pull request: " in log
    assert ("pull-requests: write" in log) is (code in (401, 403, 404))
    assert not [path for _, path, _ in github.asked if path == "/elsewhere"]
    assert "" == "".join(body["body"] for body in github.comments)


@pytest.mark.parametrize("event", [{}, {"pull_request": None}, {"pull_request": {"number": "7"}}])
def test_without_a_pull_request_there_is_no_comment(
    runner: Runner, github: GitHub, event: dict[str, Any]
) -> None:
    runner.event(**event)
    assert "no pull request to comment on" in comment(runner, github)
    assert not github.asked


def test_a_server_that_is_down_costs_the_comment_and_nothing_else(runner: Runner, github: GitHub) -> None:
    runner.event(pull_request={"number": 7})
    github.close()
    assert "::notice::no comment on the pull request: URLError" in comment(runner, github)


@pytest.mark.parametrize(
    ("given", "programs", "index"),
    [
        ({}, [], "https://download.pytorch.org/whl/cpu"),
        ({}, ["nvidia-smi"], "unset"),
        ({"INPUT_BASE_URL": "http://gpu:8000/v1"}, [], "unset"),
        ({"PIP_EXTRA_INDEX_URL": "https://own.example/"}, [], "https://own.example/"),
        ({"PIP_EXTRA_INDEX_URL": ""}, [], ""),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch comes without CUDA")
def test_torch_is_installed_without_cuda_where_there_is_no_gpu(
    given: dict[str, str], programs: list[str], index: str, tmp_path: Path
) -> None:
    for name in ("dirname", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    for name in ("python3", "policyguard", *programs):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} ${{PIP_EXTRA_INDEX_URL-unset}}"\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash") or "", ACTION / "install.sh"],
        env={"PATH": str(tmp_path)} | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"python3 {index}" in done.stdout.splitlines()


@pytest.mark.packaging
@pytest.mark.timeout(600)
def test_the_installation_step_installs_this_checkout_with_what_it_needs(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    programs = tmp_path / "env/bin"
    kept = {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("PIP_")}
    environment = kept | {"PATH": f"{programs}:/usr/bin:/bin", "INPUT_BASE_URL": "http://gpu:8000/v1"}
    done = subprocess.run(
        ["bash", ACTION / "install.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    assert done.stdout.startswith("policyguard ")
    code = "import httpx, tenacity"
    assert 0 == subprocess.run([programs / "python", "-c", code], check=False).returncode


def test_the_whole_action_comments_on_the_pull_request(runner: Runner, github: GitHub) -> None:
    runner.event(pull_request={"number": 7})
    runner.environment |= {"GITHUB_API_URL": github.url, "GITHUB_REPOSITORY": "ann/art"}
    assert 1 == runner.run(install="false", cache="false", html="false", sarif="false")
    assert [] == runner.used
    (written,) = github.comments
    assert "armoury.png" in written["body"]
