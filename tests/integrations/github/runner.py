"""Runs the shell steps of a composite action as GitHub's runner does, in order, with the files it provides.

Steps that use other actions are left out, and named in ``used``. Knows of the expression language what
action.yml needs: inputs, outputs of steps, a few contexts, ``==``, ``!=``, ``&&`` and ``always()``.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml


class Runner:
    """One job with one action in it."""

    def __init__(self, action: Path, workspace: Path, temp: Path, environment: dict[str, str]) -> None:
        self.folder = action
        self.action: dict[str, Any] = yaml.safe_load((action / "action.yml").read_text())  # noqa: TID251
        self.workspace = workspace
        self.temp = temp
        self.temp.mkdir(exist_ok=True)
        self.environment = environment | {"RUNNER_TEMP": str(temp), "GITHUB_ACTIONS": "true"}
        self.outputs: dict[str, dict[str, str]] = {}
        self.used: list[str] = []
        self.log = ""
        self.summary = ""
        self.code = 0

    def event(self, **event: Any) -> None:
        file = self.temp / "event.json"
        file.write_text(json.dumps(event))
        self.environment["GITHUB_EVENT_PATH"] = str(file)

    def run(self, **inputs: str) -> int:
        """Run all steps with ``inputs`` (``_`` for ``-``); give the job's exit code."""
        known = self.action["inputs"]
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert set(given) <= set(known)
        values = {name: given.get(name, str(spec.get("default", ""))) for name, spec in known.items()}
        for number, step in enumerate(self.action["runs"]["steps"]):
            condition = str(step.get("if", "success()"))
            if (self.code and "always()" not in condition) or not self._holds(condition, values):
                continue
            if "uses" in step:
                self.used.append(step["uses"].partition("@")[0])
                continue
            code = self._step(step, number, values)
            self.code = self.code or code
        return self.code

    def _step(self, step: dict[str, Any], number: int, values: dict[str, str]) -> int:
        assert "bash" == step["shell"]
        files = {name: self.temp / f"{name}-{number}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.touch()
        script = self.temp / f"step-{number}.sh"
        script.write_text(step["run"])
        environment = {name: self._filled(str(text), values) for name, text in step.get("env", {}).items()}
        folder = self._filled(step.get("working-directory", "."), values)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.workspace / folder,
            env=self.environment | {name: str(file) for name, file in files.items()} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.log += done.stdout
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        lines = files["GITHUB_OUTPUT"].read_text().splitlines()
        self.outputs[step.get("id", str(number))] = dict(line.split("=", 1) for line in lines)
        return done.returncode

    def _filled(self, text: str, values: dict[str, str]) -> str:
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: self._value(found[1], values), text)

    def _value(self, name: str, values: dict[str, str]) -> str:
        kind, _, rest = name.partition(".")
        if kind == "inputs":
            return self._filled(values[rest], values)
        if kind == "steps":
            step, _, output = rest.partition(".outputs.")
            return self.outputs.get(step, {}).get(output, "")
        contexts = {"action_path": str(self.folder), "token": "secret", "workflow": "CI", "job": "art"}
        assert kind == "github"
        return contexts[rest]

    def _holds(self, condition: str, values: dict[str, str]) -> bool:
        for part in condition.split(" && "):
            if part in ("always()", "success()"):
                continue
            found = re.fullmatch(r"(\S+) (==|!=) '(.*)'", part)
            assert found, part
            if (self._value(found[1], values) == found[3]) is not (found[2] == "=="):
                return False
        return True
