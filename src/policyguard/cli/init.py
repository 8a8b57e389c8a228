"""``policyguard init``: a policy on a packaged one, a project file, a first test, and a check in CI."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard._version import DISTRIBUTION
from policyguard.cli.errors import command
from policyguard.errors import ConfigurationError
from policyguard.runs.exits import ExitCode

if TYPE_CHECKING:
    from policyguard.runs.project import Project

__all__ = ["init"]

DEFAULT_BASE = "apps/marketplace"


class Ci(StrEnum):
    """Where builds run."""

    GITHUB = "github"
    GITLAB = "gitlab"
    NONE = "none"


_PROJECT_FILE = "policyguard.toml"
_CI_FILES = {Ci.GITHUB: ".github/workflows/policyguard.yml", Ci.GITLAB: ".gitlab-ci.yml"}


@command
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the project's files go.")] = Path(),
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="POLICY",
            help="The packaged policy to build on: `policyguard policy list`. "
            f"Default: {DEFAULT_BASE}, for photographs.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The new policy's id, and its file's name.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="The guard model, for the project file."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="The server that runs it, for the project file."),
    ] = None,
    ci: Annotated[Ci | None, typer.Option("--ci", help="Write the file of a check in CI too.")] = None,
) -> ExitCode:
    """Start a project: a policy on a packaged one, a project file, a first test, a check in CI.

    In a terminal, what no option says is asked. Files that exist are never changed. In a project that is
    there already, --ci alone adds the check in CI, --id a policy, and what is missing is written.
    """
    from policyguard.policy import load_policy

    known = _project(folder)
    if known is not None and base is None and name is None:
        _add_check(folder, known, model, base_url, ci)
        return ExitCode.OK
    ready = name is not None and (folder / _policy(name)).is_file()
    base = _packaged(
        base or (DEFAULT_BASE if ready else _ask("Build on which packaged policy", DEFAULT_BASE))
    )
    name = name or _ask("The new policy's id", "house-rules")
    if known is None:
        model = _given(model or _ask("Guard model (empty: say it with each check)", ""))
        asked = base_url or (_ask("Its server's address (empty: it runs here)", "") if model else "")
        base_url = _given(asked)
    else:
        model, base_url = _model_of(known, model, base_url)
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{base_url!r} is no server's address",
            hint="such as http://gpu:8000/v1; leave it out to run here",
        )
    if ci is None:
        ci = _ask_ci() if known is None else Ci.NONE
    own = folder / _policy(name)
    world = load_policy(own if own.is_file() else base).world
    file = _PROJECT_FILE if known is None else known.file_name  # which may be pyproject.toml
    tested = known is None or not known.settings.stages
    files = [*_files(base, name, file, model, base_url, world), *_check(ci, model, base_url, tested=tested)]
    there = _write(folder, files, started=known is not None or own.is_file())
    if known is not None:
        _name_policy(known, name, cases="cases.yaml" in there)
    # The packaged model judges its own world without being named.
    _next(folder, name, _test(model, base_url), named=model is not None or world == "pictosafe")
    return ExitCode.OK


def _add_check(
    folder: Path, project: Project, model: str | None, base_url: str | None, ci: Ci | None
) -> None:
    """Write the check in CI of a project that is there, alone. Raises ConfigurationError."""
    if ci in (None, Ci.NONE):
        raise ConfigurationError(
            f"{folder / project.file_name}: there already, and nothing was written",
            hint="`--ci github` or `--ci gitlab` adds a check in CI, `--id ID` a policy",
        )
    if not (project.settings.policy or project.settings.policies):
        raise ConfigurationError(
            f"{folder / project.file_name} names no policy, so that a check in CI would fail",
            hint='add `policy = "./policies/ID.yaml"` to it; `policyguard init --id ID` writes one',
        )
    model, base_url = _model_of(project, model, base_url)
    tested = (folder / "cases.yaml").is_file() and not project.settings.stages
    _write(folder, list(_check(Ci(ci), model, base_url, tested=tested)), started=True)


def _packaged(base: str) -> str:
    """``base``. Raises ConfigurationError if there is no such packaged policy."""
    from policyguard.policy import packaged_policies
    from policyguard.strict.explain import nearest

    if base not in (packaged := packaged_policies()):
        close = nearest(base, packaged)
        raise ConfigurationError(
            f"{base!r} is no packaged policy",
            hint=(f"did you mean {close}? " if close else "") + "`policyguard policy list` shows them",
        )
    return base


def _project(folder: Path) -> Project | None:
    """The project whose file stands in ``folder``. Raises ConfigurationError if it cannot be read."""
    from policyguard.runs.project import find_project

    if not any((folder / name).is_file() for name in (_PROJECT_FILE, "pyproject.toml")):
        return None  # a file further up, which may be broken, is another project's
    project = find_project(folder=folder)
    return project if project.file is not None and project.file.parent.samefile(folder) else None


def _model_of(project: Project, model: str | None, base_url: str | None) -> tuple[str | None, str | None]:
    """The model and server of a project that is there. Raises ConfigurationError for others."""
    settings = project.settings
    servers = settings.base_url or []
    other = (model and model != settings.model) or (base_url and base_url not in servers)
    if other:
        raise ConfigurationError(
            f"{project.file_name} names another model or server, and is not changed",
            hint="change it there, and leave --model and --base-url out",
        )
    return settings.model, base_url or next(iter(servers), None)


def _write(folder: Path, files: Sequence[tuple[str, bytes]], *, started: bool) -> list[str]:
    """Write those of ``files`` that are not there yet, and return the others.

    Raises ConfigurationError, and writes none, where all are there or some are and nothing was ``started``.
    """
    from policyguard.strict.files import write_bytes

    there = [path for path, _ in files if (folder / path).exists() or (folder / path).is_symlink()]
    odd = [path for path in there if not (folder / path).is_file()]
    if odd or (there and not (started and len(there) < len(files))):
        hint = "name another FOLDER, or move the file away"
        if any(path in _CI_FILES.values() for path in there) and not odd:
            hint += "; `policyguard init ANOTHER-FOLDER --ci ...` writes a job to copy from"
        listed = ", ".join(str(folder / path) for path in there)
        raise ConfigurationError(f"{listed}: there already, and nothing was written", hint=hint)
    for path, data in files:
        if path not in there:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / path, data)
            print(folder / path)
    for path in there:
        print(f"{folder / path}: there already, left as it is", file=sys.stderr)
    return there


def _name_policy(project: Project, name: str, *, cases: bool) -> None:
    """Say which lines make a project that was there use a policy."""
    settings = project.settings
    named = [*(settings.policy or []), *(one for entry in settings.policies for one in entry.policy)]
    if not any(project.resolve(one) == project.resolve(_policy(name)) for one in named):
        print(
            f'{project.file_name} does not name the policy: add `policy = "./{_policy(name)}"`, or a '
            "[[policies]] entry for the images that it is for",
            file=sys.stderr,
        )
        if cases:
            print(
                f"cases.yaml does not test it: add `{name}: {_policy(name)}` under `policies:`",
                file=sys.stderr,
            )


def _ask(question: str, default: str) -> str:
    """The answer of whoever sits at the terminal; where nobody does, ``default``."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return default
    answer: str = typer.prompt(question, default=default, err=True)
    return answer.strip()


def _ask_ci() -> Ci:
    answer = _ask("A check in CI (github, gitlab or none)", Ci.NONE.value)
    if answer not in [*Ci]:
        raise ConfigurationError(f"{answer!r} is not github, gitlab or none")
    return Ci(answer)


def _given(answer: str) -> str | None:
    """What was answered, unless it says that there is nothing to say."""
    return None if answer.strip().lower() in {"", "none", "no", "-"} else answer.strip()


def _policy(name: str) -> str:
    return f"policies/{name}.yaml"


def _files(
    base: str, name: str, project_file: str, model: str | None, base_url: str | None, world: str | None
) -> Iterator[tuple[str, bytes]]:
    """Each file's path and content. Raises PolicyError where the policy would not load."""
    from policyguard.policy import parse_policy

    title = name.rpartition("/")[2].replace("-", " ").capitalize()
    examples = _PICTOGRAMS if world == "pictosafe" else _PHOTOGRAPHS
    limit = examples["limit"].format(base=base)
    policy = _POLICY.format(name=name, title=title, base=base, **(examples | {"limit": limit}))
    parse_policy(policy)
    settings = {"policy": f"./{_policy(name)}", "model": model, "base_url": base_url}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items() if value]
    yield _policy(name), policy.encode()
    yield project_file, ("".join(lines) + _PROJECT).encode()
    yield "cases.yaml", _CASES.format(name=name).encode()
    yield "cases/harmless.png", _harmless(world)


def _check(ci: Ci, model: str | None, base_url: str | None, *, tested: bool) -> Iterator[tuple[str, bytes]]:
    """The file of a check in CI, if one is wanted. ``tested``: it runs ``cases.yaml`` first."""
    if ci is Ci.NONE:
        return
    text = _GITHUB if ci is Ci.GITHUB else _GITLAB
    package = f"{DISTRIBUTION}[{'remote' if base_url else 'transformers'}]"
    text = text.replace("RELEASE", _RELEASE).replace("PACKAGE", package)
    lines = text.splitlines(keepends=True)
    if base_url:  # no torch is installed
        lines = [line for line in lines if "torch" not in line]
    if not tested:
        lines = [line for line in lines if not line.endswith(" TEST\n")]
    yield _CI_FILES[ci], "".join(lines).replace("TEST", _test(model, base_url)).encode()


def _harmless(world: str | None) -> bytes:
    """A white image; in the toy world an apple, because there a white image is no scene."""
    from PIL import Image

    image = Image.new("RGB", (64, 64), (255, 255, 255))
    if world == "pictosafe":
        from policyguard.pictosafe import Placement, Renderer, Scene

        scene = Scene((Placement("apple", 32, 32, 32, 0, None, 1),), 20, shift=0, gain=1.0)
        image = Renderer("fluent").draw(scene)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _test(model: str | None, base_url: str | None) -> str:
    """The command that runs the first test; unlike ``check``, it reads no project file."""
    options = [("--model", model), ("--base-url", base_url)]
    given = "".join(f" {option} {shlex.quote(value)}" for option, value in options if value)
    return f"policyguard policy test cases.yaml{given}"


def _next(folder: Path, name: str, test: str, *, named: bool) -> None:
    here = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    needs = "" if named else " --model MODEL"
    print(
        f"\nNext:\n"
        f"  {here}policyguard policy lint policies/{name}.yaml    # after each edit\n"
        f"  {test}{needs}\n"
        f"  policyguard check{needs}    # every image in the folder, once there are some\n"
        "Keep .policyguard/ (the scores that were read) and the files of --report out of git. "
        "`policyguard quickstart` says which models run here.",
        file=sys.stderr,
    )


_POLICY = """\
# What must not be shown here. `policyguard policy render FILE` prints what the model reads, and
# `policyguard policy show FILE` where each rule comes from.
id: {name}
version: 1.0.0
title: '{title}'
owner: the team that answers for it
licence: not for others
extends: {base}

# Rules of your own{limit}:
# rules:
#   - id: {id}
#     title: {rule}
#     unsafe: [{unsafe}]
#     safe: [{safe}]
#     action: flag

# Changes to rules that come from {base}; what allows more needs a reason:
# overrides:
#   ID-OF-A-RULE:
#     unsafe:
#       add: [{more}]
#     safe:
#       add: [{fine}]
#     weakens: why that is fine here
"""

_PHOTOGRAPHS = {
    "limit": "",
    "id": "other-shops",
    "rule": "Adverts for other shops",
    "unsafe": "a web address or phone number laid over the picture",
    "safe": "the maker's name on a product",
    "more": "what it forbids here too",
    "fine": "what is fine here",
}
_PICTOGRAMS = {  # pico reads the names of pictograms only
    "limit": " (pico reads at most 8 rules and 22 items, those of {base} included)",
    "id": "vehicles",
    "rule": "Vehicles",
    "unsafe": "vehicles",
    "safe": "an ambulance",
    "more": "a magnet",
    "fine": "a framed magnet",
}

_PROJECT = """\
cache = ".policyguard/scores.sqlite"   # of models that give scores
exclude = ["cases/"]                   # images with known answers: `policyguard policy test cases.yaml`
"""

_CASES = """\
# Images with known answers: `policyguard policy test cases.yaml`. Add one for each mistake that you come
# across, from both sides: what must be blocked, and what looks like it and must pass.
policies:
  {name}: policies/{name}.yaml

images:
  - image: cases/harmless.png
    note: nothing in it to object to
    expect:
      {name}: complies
"""

_GITHUB = """\
name: images
on:
  pull_request:
  push:
    branches: [main]
permissions:
  contents: read
jobs:
  images:
    runs-on: ubuntu-latest
    env:
      POLICYGUARD_API_KEY: ${{ secrets.POLICYGUARD_API_KEY }}   # where a server runs the model
      BASE: ${{ github.event.pull_request.base.sha }}           # empty on main: all images
      # torch without CUDA saves gigabytes; leave this torch index out where the runner has a GPU.
      PIP_EXTRA_INDEX_URL: https://download.pytorch.org/whl/cpu
    steps:
      - uses: actions/checkout@df4cb1c069e1874edd31b4311f1884172cec0e10  # v6.0.3
        with:
          fetch-depth: 0
      # RELEASE
      - run: pipx install 'PACKAGE'
      - run: TEST
      - run: policyguard check --allow-empty ${BASE:+--changed-since "$BASE"}
"""

_RELEASE = (
    "Until PyPI has a release: 'PACKAGE @ git+https://HOST/OWNER/policyguard@COMMIT', the copy you use."
)

_GITLAB = """\
workflow:  # without it, GitLab makes no pipelines of merge requests
  rules:
    - if: $CI_PIPELINE_SOURCE == "merge_request_event"
    - if: $CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH

images:
  image: python:3.12
  variables:
    GIT_DEPTH: "0"  # the branch point of a merge request must be there
    BASE: $CI_MERGE_REQUEST_DIFF_BASE_SHA
    # torch without CUDA saves gigabytes; leave this torch index out where the runner has a GPU.
    PIP_EXTRA_INDEX_URL: https://download.pytorch.org/whl/cpu
  script:
    # RELEASE
    - pip install --quiet 'PACKAGE'
    - TEST
    - policyguard check --allow-empty ${BASE:+--changed-since "$BASE"}
"""
