"""What is in effect: the command line, then the project file, then the environment, then defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from policyguard.backends import runs_here
from policyguard.runs.baseline import BASELINE_FILE
from policyguard.runs.project import Project
from policyguard.runs.exits import FailOn

__all__ = ["Effective", "Flags", "effective", "shown_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """Options as they were given; None (or an empty tuple) where they were not."""

    policy: tuple[str, ...] = ()
    model: str | None = None
    base_url: str | None = None
    dialect: str | None = None
    explain: bool | None = None
    cache: str | None = None
    workers: int | None = None
    timeout: float | None = None
    max_failures: int | None = None
    fail_on: FailOn | None = None
    reports: tuple[str, ...] = ()
    baseline: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The settings of a run, merged, and where each is from. Paths from the project file are resolved."""

    project: Project
    policy: tuple[str, ...]
    model: str | None
    base_url: tuple[str, ...]
    dialect: str | None
    explain: bool
    cache: str | None
    workers: int | None
    timeout: float | None
    max_failures: int | None
    fail_on: FailOn
    reports: tuple[str, ...]
    baseline: str
    origins: dict[str, str]

    @property
    def baseline_path(self) -> Path:
        return Path(self.baseline)


def effective(flags: Flags, project: Project) -> Effective:
    """Merge. Raises ConfigurationError for a model that nobody knows."""
    file = project.settings
    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    defaults: dict[str, Any] = {
        "explain": False,
        "fail_on": FailOn.BLOCK,
        "baseline": os.path.relpath(project.root / BASELINE_FILE),
    }
    for name in (field.name for field in fields(Flags)):
        given = getattr(flags, name)
        written = _resolved(name, getattr(file, name), project)
        if given is not None and given != ():
            values[name], origins[name] = given, f"--{_OPTIONS.get(name, name).replace('_', '-')}"
        elif name in file.model_fields_set and written is not None:
            values[name], origins[name] = written, project.file.name if project.file else ""
        else:
            values[name], origins[name] = defaults.get(name), "default"
            variable = f"POLICYGUARD_{name.upper()}"
            if name in ("model", "base_url", "cache") and os.environ.get(variable):
                origins[name] = variable  # the guard reads it, by rules of its own
    if not flags.base_url and runs_here(flags.model):
        values["base_url"], origins["base_url"] = None, "default"
    values["base_url"] = _tuple(values["base_url"])
    values["policy"], values["reports"] = _tuple(values["policy"]), _tuple(values["reports"])
    return Effective(project=project, origins=origins, **values)


_OPTIONS = {"reports": "report"}


def _resolved(name: str, value: Any, project: Project) -> Any:
    """A value of the project file, with its paths as seen from the current folder."""
    if value is None:
        return None
    if name == "baseline" or (name == "cache" and value != "memory"):
        return os.path.relpath(project.resolve(value))
    if name == "reports":
        return tuple(_report(text, project) for text in value)
    if name == "fail_on":
        return FailOn(value)
    return value


def _report(text: str, project: Project) -> str:
    kind, equals, path = text.partition("=")
    return f"{kind}={os.path.relpath(project.resolve(path))}" if equals and path else text


def _tuple(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def shown_settings(settings: Effective) -> list[str]:
    """One line per setting, as TOML, with where it is from behind it."""
    project = settings.project
    lines = [f"# project file: {project.file or 'none'}", f"# paths start at: {project.root}"]
    for name in (field.name for field in fields(Flags)):
        value, origin = getattr(settings, name), settings.origins[name]
        if origin.startswith("POLICYGUARD_"):
            lines.append(f"# {name} is read from {origin}")
        elif value is None or value == ():
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{name} = {_toml(value)}  # {origin}")
    written = project.settings
    lines.append(f"unmatched = {_toml(written.unmatched)}")
    lines.append(f"exclude = {_toml(written.exclude)}")
    note = "  # replaced by --policy" if settings.origins["policy"].startswith("--") else ""
    for entry in written.policies:
        lines += [
            "",
            f"[[policies]]{note}",
            f"paths = {_toml(entry.paths)}",
            f"policy = {_toml(entry.policy)}",
        ]
    return lines


def _toml(value: Any) -> str:
    import json

    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value)
