"""Options that several commands share, and the closed sets among their values."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["BASE_URL", "DIALECT", "MODEL", "PARAMETERS", "ROOT", "FailOn", "Format", "TextOrJson"]

MODEL = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="The guard model: an alias (see `policyguard models`), a hub id or a folder. "
        "Default: POLICYGUARD_MODEL; pico for PictoSafe policies.",
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


class FailOn(StrEnum):
    """The mildest action that makes a run fail."""

    BLOCK = "block"
    FLAG = "flag"
    NEVER = "never"
