"""``policyguard init``: a policy on a packaged one, a project file, a first test, and a check in CI."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from policyguard._version import DISTRIBUTION
from policyguard.cli.errors import command
from policyguard.errors import ConfigurationError
from policyguard.runs.exits import ExitCode

__all__ = ["init"]

DEFAULT_BASE = "apps/marketplace"


class Ci(StrEnum):
    """Where builds run."""

    GITHUB = "github"
    GITLAB = "gitlab"
    NONE = "none"


@command
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the project's files go.")] = Path(),
    base: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="POLICY", help="The packaged policy to build on: `policyguard policy list`."
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

    In a terminal, what no option says is asked. Files that exist are never changed.
    """
    from policyguard.policy import load_policy, packaged_policies
    from policyguard.strict.explain import nearest
    from policyguard.strict.files import write_bytes

    base = base or _ask("Build on which packaged policy", DEFAULT_BASE)
    if base not in (packaged := packaged_policies()):
        close = nearest(base, packaged)
        raise ConfigurationError(
            f"{base!r} is no packaged policy",
            hint=(f"did you mean {close}? " if close else "") + "`policyguard policy list` shows them",
        )
    name = name or _ask("The new policy's id", "house-rules")
    model = _given(model or _ask("Guard model (empty: say it with each check)", ""))
    asked = base_url or (_ask("Its server's address (empty: it runs here)", "") if model else "")
    base_url = _given(asked)
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{base_url!r} is no server's address",
            hint="such as http://gpu:8000/v1; leave it out to run here",
        )
    answer = ci or _ask("A check in CI (github, gitlab or none)", Ci.NONE.value)
    if answer not in [*Ci]:
        raise ConfigurationError(f"{answer!r} is not github, gitlab or none")
    files = {folder / path: data for path, data in _files(base, name, model, base_url, Ci(answer))}
    if there := [str(path) for path in files if path.exists() or path.is_symlink()]:
        raise ConfigurationError(
            f"{', '.join(there)}: there already, and nothing was written",
            hint="name another FOLDER or another --id, or move the file away",
        )
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
        print(path)
    # The packaged model judges its own world without being named.
    _next(
        folder,
        name,
        _test(model, base_url),
        named=model is not None or load_policy(base).world == "pictosafe",
    )
    return ExitCode.OK


def _ask(question: str, default: str) -> str:
    """The answer of whoever sits at the terminal; where nobody does, ``default``."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return default
    answer: str = typer.prompt(question, default=default, err=True)
    return answer.strip()


def _given(answer: str) -> str | None:
    """What was answered, unless it says that there is nothing to say."""
    return None if answer.strip().lower() in {"", "none", "no", "-"} else answer.strip()


def _files(
    base: str, name: str, model: str | None, base_url: str | None, ci: Ci
) -> Iterator[tuple[str, bytes]]:
    """Each file's path and content. Raises PolicyError where the policy would not load."""
    from policyguard.policy import parse_policy

    policy = _POLICY.format(
        name=name, title=name.rpartition("/")[2].replace("-", " ").capitalize(), base=base
    )
    world = parse_policy(policy).world
    settings = {"policy": f"./policies/{name}.yaml", "model": model, "base_url": base_url}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items() if value]
    yield f"policies/{name}.yaml", policy.encode()
    yield "policyguard.toml", ("".join(lines) + _PROJECT).encode()
    yield "cases.yaml", _CASES.format(name=name).encode()
    yield "cases/harmless.png", _harmless(world)
    extra = "remote" if base_url else "transformers"
    if ci is not Ci.NONE:
        path = ".github/workflows/policyguard.yml" if ci is Ci.GITHUB else ".gitlab-ci.yml"
        text = _GITHUB if ci is Ci.GITHUB else _GITLAB
        package = f"{DISTRIBUTION}[{extra}]"
        text = text.replace("RELEASE", _RELEASE).replace("PACKAGE", package)
        if base_url:  # no torch is installed
            text = "".join(line for line in text.splitlines(keepends=True) if "torch" not in line)
        yield path, text.replace("TEST", _test(model, base_url)).encode()


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
        "Keep .policyguard/ (the scores that were read) out of git. "
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

# Rules of your own:
# rules:
#   - id: other-shops
#     title: Adverts for other shops
#     unsafe: [a web address or phone number laid over the picture]
#     safe: [the maker's name on a product]
#     action: flag

# Changes to rules that come from {base}; what allows more needs a reason:
# overrides:
#   ID-OF-A-RULE:
#     unsafe:
#       add: [what it forbids here too]
#     safe:
#       add: [what is fine here]
#     weakens: why that is fine here
"""

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
