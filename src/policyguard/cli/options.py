"""Options that several commands share, and the closed sets among their values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ALLOW_EMPTY",
    "BASELINE",
    "BASE_URL",
    "CACHE",
    "CHANGED_SINCE",
    "CONFIG",
    "DIALECT",
    "EXPLAIN",
    "MODEL",
    "PARAMETERS",
    "PATHS",
    "POLICIES",
    "ROOT",
    "TIMEOUT",
    "WORKERS",
    "Format",
    "TextOrJson",
]


MODEL = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="The guard model: an alias (see `policyguard models`), a hub id or a folder. "
        "Default: POLICYGUARD_MODEL; without --base-url, pico for PictoSafe policies.",
    ),
]
BASE_URL = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="An OpenAI-compatible server that runs the model. Default: POLICYGUARD_BASE_URL; "
        "its key is read from POLICYGUARD_API_KEY.",
    ),
]
DIALECT = Annotated[
    str | None,
    typer.Option(
        "--dialect", metavar="NAME", help="How to speak to the model. Default: the model's own way."
    ),
]
PATHS = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH",
        help="Images, folders (searched for images), patterns such as 'art/**/*.png', or - for one image on "
        "stdin. Default: the folder of the project file, or of the git work tree.",
        show_default=False,
    ),
]
POLICIES = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="POLICY",
        help="A packaged policy such as pictosafe/l3, or a YAML file. Several: all must allow. "
        "Default: those of the project file.",
    ),
]
CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The project file. Default: the nearest policyguard.toml, or pyproject.toml with "
        "[tool.policyguard], up to the root of the git work tree.",
    ),
]
BASELINE = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="The accepted violations. Default: .policyguard-baseline.jsonl beside the project file.",
    ),
]
EXPLAIN = Annotated[
    bool | None,
    typer.Option("--explain", help="Ask for the category and the reasons too; slower.", show_default=False),
]
CACHE = Annotated[
    str | None,
    typer.Option(
        "--cache", metavar="PATH", help="Keep the model's scores in this file, and ask only once for each."
    ),
]
WORKERS = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-w",
        metavar="N",
        min=1,
        max=1024,
        help="How many images are judged at once. Default: what the model likes.",
    ),
]
TIMEOUT = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.001,
        help="Stop after so long; what is left counts as not judged.",
    ),
]
CHANGED_SINCE = Annotated[
    str | None,
    typer.Option(
        "--changed-since",
        metavar="REF",
        help="Only images that differ from where HEAD and this commit or branch parted, or that git does not "
        "know yet.",
    ),
]
ALLOW_EMPTY = Annotated[bool, typer.Option("--allow-empty", help="Let a run without any image succeed.")]
ROOT = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="The folder that files named by the file must lie in. Default: its nearest parent with "
        "policyguard.toml or .git, else its own folder.",
    ),
]
PARAMETERS = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A value for a parameter that the policy declares; may be repeated.",
    ),
]


class Format(StrEnum):
    """How verdicts are printed: for people, as one JSON list, or as one JSON object per line as they come."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class TextOrJson(StrEnum):
    """How everything else is printed."""

    TEXT = "text"
    JSON = "json"
