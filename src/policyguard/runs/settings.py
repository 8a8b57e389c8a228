"""What is in effect: the command line, then the project file, then the environment, then defaults."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from policyguard.backends import runs_here
from policyguard.runs.baseline import BASELINE_FILE
from policyguard.runs.exits import FailOn
from policyguard.runs.project import Project

__all__ = ["Flags", "RunSettings", "merge_settings", "settings_lines"]

_OPTIONS = {"reports": "report"}
"""Options of the command line that are not called as their settings."""
_READ_BY_GUARD = ("model", "base_url", "cache")
"""Settings that the guard reads from the environment itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options of the command line; None (or an empty tuple) where one is not used."""

    policy: tuple[str, ...] = ()
    model: str | None = None
    base_url: str | None = None
    dialect: str | None = None
    subset: bool | None = None
    replicas: int | Literal["auto"] | None = None
    explain: bool | None = None
    cache: str | None = None
    workers: int | None = None
    timeout: float | None = None
    max_failures: int | None = None
    fail_on: FailOn | None = None
    reports: tuple[str, ...] = ()
    baseline: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings of a run, merged, and where each is from. Paths from the project file are resolved."""

    project: Project
    policy: tuple[str, ...]
    model: str | None
    base_url: tuple[str, ...]
    dialect: str | None
    subset: bool
    replicas: int | Literal["auto"] | None
    explain: bool
    cache: str | None
    workers: int | None
    timeout: float | None
    max_failures: int | None
    fail_on: FailOn
    reports: tuple[str, ...]
    baseline: str
    origins: dict[str, str]
    staged: bool = False
    """Whether the stages of the project file judge: a model of the command line takes their place."""

    @property
    def policies_from_file(self) -> bool:
        """Whether the policies are those of the project file, and not of the command line."""
        return not self.origins["policy"].startswith("--")

    @property
    def baseline_path(self) -> Path:
        return Path(self.baseline)


def merge_settings(flags: Flags, project: Project) -> RunSettings:
    """Raises ConfigurationError for an unknown model."""
    file = project.settings
    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    defaults: dict[str, Any] = {
        "subset": False,
        "explain": False,
        "fail_on": FailOn.BLOCK,
        "baseline": os.path.relpath(project.root / BASELINE_FILE),
    }
    for name in (field.name for field in fields(Flags)):
        flag = getattr(flags, name)
        setting = _from_file(name, getattr(file, name), project)
        if name == "reports" and flag:
            values[name] = (*(report for report in setting or () if report not in flag), *flag)
            origins[name] = f"--report and {project.file_name}" if setting else "--report"
        elif flag is not None and flag != ():
            values[name], origins[name] = flag, f"--{_OPTIONS.get(name, name).replace('_', '-')}"
        elif name in file.model_fields_set and setting is not None:
            values[name], origins[name] = setting, project.file.name if project.file else ""
        else:
            variable = f"POLICYGUARD_{name.upper()}"
            from_environment = name in _READ_BY_GUARD and os.environ.get(variable)
            values[name], origins[name] = defaults.get(name), variable if from_environment else "default"
    if not flags.base_url and runs_here(flags.model):
        values["base_url"], origins["base_url"] = None, "default"
    staged = bool(file.stages) and not (flags.model or flags.base_url)
    if staged:
        origins |= dict.fromkeys(("model", "base_url"), "default")
    values |= {name: _tuple(values[name]) for name in ("base_url", "policy", "reports")}
    return RunSettings(project=project, origins=origins, staged=staged, **values)


def settings_lines(settings: RunSettings) -> list[str]:
    """One line per setting, as TOML, with its origin as a comment."""
    project = settings.project
    lines = [f"# project file: {project.file or 'none'}", f"# paths start at: {project.root}"]
    for name in (field.name for field in fields(Flags)):
        value, origin = getattr(settings, name), settings.origins[name]
        if origin.startswith("POLICYGUARD_"):
            lines.append(f"# {name} is read from {origin}")
        elif value is None or value == ():
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{name} = {json.dumps(value)}  # {origin}")
    file = project.settings
    lines.append(f"unmatched = {json.dumps(file.unmatched)}")
    lines.append(f"exclude = {json.dumps(file.exclude)}")
    note = "" if settings.policies_from_file else "  # replaced by --policy"
    replaced = "" if settings.staged else "  # replaced by the command line"
    for stage in file.stages:
        lines += ["", f"[[stages]]{replaced}"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in stage if value not in (None, False)]
    for known in file.lists:
        lines += ["", "[[lists]]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in known if value not in (None, False)]
    for entry in file.policies:
        lines += ["", f"[[policies]]{note}", f"paths = {json.dumps(entry.paths)}"]
        lines.append(f"policy = {json.dumps(entry.policy)}")
    return lines


def _from_file(name: str, value: Any, project: Project) -> Any:
    """A value of the project file, with its paths as seen from the current folder."""
    if value is None:
        return None
    if name == "baseline" or (name == "cache" and value != "memory"):
        return os.path.relpath(project.resolve(value))
    if name == "reports":
        return tuple(_report(text, project) for text in value)
    return FailOn(value) if name == "fail_on" else value


def _report(text: str, project: Project) -> str:
    kind, equals, path = text.partition("=")
    return f"{kind}={os.path.relpath(project.resolve(path))}" if equals and path else text


def _tuple(value: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
