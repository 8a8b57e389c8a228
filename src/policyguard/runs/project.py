"""The project file: ``policyguard.toml``, or ``[tool.policyguard]`` in pyproject.toml.

Read strictly: an unknown key, a value of the wrong type or a secret is refused, and all problems are reported
at once. Covered: the file is looked for from the current folder up to the root of the git work tree,
and in the current folder alone outside of one, so that nobody else's file in a parent folder counts.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from policyguard.errors import ConfigurationError, Problem
from policyguard.strict.explain import Hints, explain, explain_toml

if TYPE_CHECKING:
    from policyguard.backends import Stage
    from policyguard.lists import HashList

__all__ = ["PolicyEntry", "Project", "Settings", "find_project"]

_FILES = ("policyguard.toml", "pyproject.toml")
_MAX_BYTES = 1024 * 1024
_SECRETS = re.compile(r"(api_?)?key|.*token|.*secret|.*password|authorization|credentials?", re.IGNORECASE)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list), Field(min_length=1)]
"""A list of texts; a lone text is a list of one."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PolicyEntry(_Table):
    """Policies for the images whose paths match ``paths`` (as in .gitignore, from the file's folder)."""

    paths: Texts
    policy: Texts


class StageEntry(_Table):
    """One of several guards in a row; see ``backends.Stage``."""

    model: Annotated[str, Field(min_length=1)]
    base_url: Texts | None = None
    key_variable: str | None = None
    dialect: str | None = None
    subset: bool = False
    rules: Texts | None = None
    band: str | list[float] | None = None
    misses: float | None = None
    name: str | None = None


class ListEntry(_Table):
    """A list of known images; see ``lists.HashList``."""

    file: Annotated[str, Field(min_length=1)]
    deny: str | None = None
    allow: bool = False
    kind: Literal["sha256", "pdq"] | None = None
    distance: int = 31
    name: str | None = None


class Settings(_Table):
    """What the project file may hold; docs/ci.md says what each is for."""

    policy: Texts | None = None
    policies: list[PolicyEntry] = []
    unmatched: Literal["error", "ignore"] = "error"
    model: str | None = None
    base_url: Texts | None = None
    dialect: str | None = None
    subset: bool = False
    local: dict[str, str | bool | int] = {}
    replicas: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    stages: list[StageEntry] = []
    lists: list[ListEntry] = []
    explain: bool = False
    cache: str | None = None
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_failures: Annotated[int, Field(ge=1)] | None = None
    fail_on: Literal["block", "flag", "never"] | None = None
    reports: list[str] = []
    baseline: str | None = None
    exclude: list[str] = []


@dataclass(frozen=True, slots=True)
class Project:
    """Settings, the file they are from (None: there is none), and the folder that paths in them start at."""

    settings: Settings
    root: Path
    file: Path | None = None

    def resolve(self, path: str) -> Path:
        """A path in the project file, from the file's folder."""
        return self.root / os.path.expanduser(path)  # noqa: PTH111 (raises for an unknown user)

    @property
    def file_name(self) -> str:
        """The name of the project file, for messages; where there is none, of the one to write."""
        return self.file.name if self.file else _FILES[0]

    def stages(self) -> list[Stage] | None:
        """The guards in a row that the file names, or None. Raises ConfigurationError."""
        if not self.settings.stages:
            return None
        from policyguard.backends import Stage

        stages = []
        for number, entry in enumerate(self.settings.stages, 1):
            values = entry.model_dump()
            if isinstance(entry.band, str):
                values["band"] = self.resolve(entry.band)
            try:
                stages.append(Stage(**values))
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"{self.file_name}, stage {number}: {error.message}", hint=error.hint
                ) from None
        return stages

    def lists(self) -> list[HashList]:
        """The lists of known images, read. Raises ConfigurationError with file and line."""
        if not self.settings.lists:
            return []
        from policyguard.lists import HashList

        return [
            HashList.load(self.resolve(entry.file), **entry.model_dump(exclude={"file"}))
            for entry in self.settings.lists
        ]

    def relative(self, path: Path | str) -> str:
        """``path`` from the project's root with forward slashes; whole, if it lies outside. Opens nothing."""
        whole = os.path.abspath(path)  # noqa: PTH100 (links stay)
        top = os.path.join(self.root, "")  # noqa: PTH118 (with a slash at its end)
        return whole.removeprefix(top).replace(os.sep, "/")


def find_project(file: Path | None = None, *, folder: Path | None = None) -> Project:
    """The project file: ``file``, else the nearest one, else none and the default settings.

    Raises ConfigurationError with all problems of the file, a line each.
    """
    here = Path(os.path.abspath(folder or "."))  # noqa: PTH100 (a linked folder keeps its name)
    if file is not None:
        path = Path(os.path.abspath(file))  # noqa: PTH100
        table = _table(path)
        if table is None:
            raise ConfigurationError(f"{file} holds no [tool.policyguard]")
        return Project(_settings(table, str(file)), path.parent, path)
    chain = list(_upward(here))
    for parent in chain:
        files = [(path, table) for name in _FILES if (table := _table(path := parent / name)) is not None]
        filled = [(path, table) for path, table in files if table]
        if len(filled) > 1:
            raise ConfigurationError(
                f"{parent} holds settings in policyguard.toml and in pyproject.toml",
                hint="keep them in one of the two",
            )
        if files:
            path, table = (filled or files)[0]
            return Project(_settings(table, os.path.relpath(path, here)), parent, path)
    return Project(Settings(), chain[-1])


def _upward(folder: Path) -> Iterator[Path]:
    """``folder`` and its parents up to the root of the git work tree; ``folder`` alone outside of one."""
    chain = [folder, *folder.parents]
    tops = [index for index, parent in enumerate(chain) if os.path.lexists(parent / ".git")]
    yield from chain[: tops[0] + 1] if tops else chain[:1]


def _table(path: Path) -> dict[str, Any] | None:
    """The settings in one file; None if it is not there, or a pyproject.toml without any."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigurationError(f"{path} is larger than 1 MiB")
        text = data.decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {explain_toml(error, text, Settings)}") from None
    except RecursionError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    if path.name != "pyproject.toml":
        return content
    tool = content.get("tool", {})
    table = tool.get("policyguard") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigurationError(f"{path}: [tool.policyguard] must be a table")
    return table


def _settings(table: Mapping[str, Any], file: str) -> Settings:
    problems = [Problem(message, file, field=key) for key, message in _secrets(table)]
    known = {problem.field for problem in problems}
    try:
        settings = Settings.model_validate(dict(table))
    except ValidationError as error:
        unfit = explain(error, Settings, file, hints=Hints(syntax="toml"))
        problems += [problem for problem in unfit if problem.field not in known]
    else:
        one = [
            key
            for key in ("model", "base_url", "dialect", "subset", "local", "replicas")
            if getattr(settings, key)
        ]
        if settings.stages and one:
            message = "each of the stages names its own: drop it, or drop the stages"
            problems += [Problem(message, file, field=key) for key in one]
    if problems:
        secret = "keys belong in the environment: POLICYGUARD_API_KEY" if known else None
        raise ConfigurationError("\n".join(map(str, problems)), hint=secret)
    return settings


def _secrets(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in table:
        if _SECRETS.fullmatch(key.replace("-", "_")):
            yield key, "a secret must not stand in a file that is checked in"
    urls = table.get("base_url", [])
    for url in [urls] if isinstance(urls, str) else urls:
        if isinstance(url, str) and "@" in url.partition("://")[2].partition("/")[0]:
            yield "base_url", f"the address of {_host(url)} holds a user name or a password"
    stages = table.get("stages")
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        for key, message in _secrets(stage) if isinstance(stage, dict) else ():
            yield f"stages[{number}].{key}", message


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the server"
    except ValueError:
        return "the server"
