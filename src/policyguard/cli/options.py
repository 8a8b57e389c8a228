"""Options that several commands share, and the closed sets among their values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode, FailOn

if TYPE_CHECKING:
    from policyguard.policy import Policy

__all__ = [
    "ALLOW_EMPTY",
    "BASE_URL",
    "CHANGED_SINCE",
    "DIALECT",
    "MODEL",
    "PARAMETERS",
    "PATHS",
    "POLICY",
    "REPLICAS",
    "ROOT",
    "STYLE",
    "SUBSET",
    "Format",
    "Group",
    "Replicas",
    "TextOrJson",
    "group",
    "load_policy_with",
    "parse_parameters",
    "with_settings",
]


class Group(TyperGroup):
    """Commands listed with their whole first sentence, wrapped and never cut."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Commands under a heading, in this order; those that none names come last."""

    def format_commands(self, ctx: Any, formatter: Any, only: Sequence[str] | None = None) -> None:
        left = [name for name in self.list_commands(ctx) if only is None or name in only]
        for title, names in (*self.sections.items(), ("Commands", left.copy())):
            commands = ((name, self.get_command(ctx, name)) for name in names if name in left)
            rows = [
                (name, item.get_short_help_str(limit=1000)) for name, item in commands if item is not None
            ]
            left = [name for name in left if name not in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def group(help: str) -> typer.Typer:  # noqa: A002 (typer's word)
    """Commands under one name."""
    return typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None, help=help)


class Format(StrEnum):
    """How verdicts are printed: for people, as one JSON list, or as one JSON object per line as they come."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class TextOrJson(StrEnum):
    """How everything else is printed."""

    TEXT = "text"
    JSON = "json"


STYLE = Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")]
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
        "--dialect", metavar="NAME", help="The prompt format of the model. Default: the model's own."
    ),
]
SUBSET = Annotated[
    bool | None,
    typer.Option(
        "--subset",
        help="With a guard that reads no policy: judge by the rules that it can look at.",
        show_default=False,
    ),
]


if TYPE_CHECKING:
    Replicas: TypeAlias = int | Literal["auto"]
else:
    Replicas = str  # typer takes no union; the parser gives what type checkers are told


def _replicas(text: str) -> Replicas:
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise typer.BadParameter("give a whole number of at least 1, or auto")
    return int(text)


REPLICAS = Annotated[
    Replicas | None,
    typer.Option(
        "--replicas",
        metavar="N",
        parser=_replicas,
        help="How many processes run the model here and share the images; auto: one for each GPU. "
        "Default: 1.",
        show_default=False,
    ),
]


def _packaged(incomplete: str) -> list[str]:
    """For the shell's completion, which goes on with files where there is none."""
    from policyguard.policy import packaged_policies

    return [name for name in packaged_policies() if name.startswith(incomplete)]


POLICY = Annotated[
    str,
    typer.Argument(
        metavar="POLICY",
        help="A packaged policy such as pictosafe/l3, or a YAML file.",
        autocompletion=_packaged,
    ),
]
ROOT = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="The folder that files named in the file must lie in. Default: its nearest parent with "
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
PATHS = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH",
        help="Images, folders (searched for images), patterns such as 'art/**/*.png', or - for one image on "
        "stdin. Default: the folder of the project file, or of the git work tree.",
        show_default=False,
    ),
]
CHANGED_SINCE = Annotated[
    str | None,
    typer.Option(
        "--changed-since",
        metavar="REF",
        help="Only images that differ from the merge base of HEAD and this commit or branch, or that git "
        "does not track yet.",
    ),
]
ALLOW_EMPTY = Annotated[
    bool,
    typer.Option(
        "--allow-empty",
        help="Let a run without any image succeed. It excuses no [[policies]] entry that matches no image.",
    ),
]
_SETTINGS: dict[str, Any] = {
    "policy": Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            help="A packaged policy such as pictosafe/l3, or a YAML file. Several: all must allow. "
            "Default: those of the project file.",
            autocompletion=_packaged,
        ),
    ],
    "model": MODEL,
    "base_url": BASE_URL,
    "dialect": DIALECT,
    "subset": SUBSET,
    "replicas": REPLICAS,
    "explain": Annotated[
        bool | None,
        typer.Option(
            "--explain", help="Ask for the category and the reasons too; slower.", show_default=False
        ),
    ],
    "reports": Annotated[
        list[str] | None,
        typer.Option(
            "--report",
            "-r",
            metavar="FORMAT=FILE",
            help="Write a report, besides those of the project file: junit, sarif, gitlab, html, markdown or "
            "json to a file, github to the log; html:thumbnails=FILE has small, blurred images. Repeatable.",
        ),
    ],
    "fail_on": Annotated[
        FailOn | None,
        typer.Option(
            "--fail-on",
            help="What ends in a non-zero exit code: blocked images (default), flagged ones too, or none.",
            show_default=False,
        ),
    ],
    "workers": Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-w",
            metavar="N",
            min=1,
            max=1024,
            help="How many images are judged at once. Default: what suits the model.",
        ),
    ],
    "max_failures": Annotated[
        int | None,
        typer.Option("--max-failures", metavar="N", min=1, help="Stop after this many images that fail."),
    ],
    "timeout": Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            help="Stop after this long; the remaining images count as not judged.",
        ),
    ],
    "cache": Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="PATH",
            help="Keep the model's scores in this file, and ask for each only once.",
        ),
    ],
    "baseline": Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="The accepted violations. Default: .policyguard-baseline.jsonl beside the project file.",
        ),
    ],
    "config": Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The project file. Default: the nearest policyguard.toml, or pyproject.toml with "
            "[tool.policyguard], up to the root of the git work tree.",
        ),
    ],
}
"""The settings of a run that are options too, and --config."""


def with_settings(*names: str) -> Callable[[Callable[..., ExitCode]], Callable[..., ExitCode]]:
    """Give a command the options ``names`` and --config, in place of its parameter ``settings``.

    It is called with the ``RunSettings`` that they and the project file make up. Its parameters are keyword
    only.
    """

    def decorate(body: Callable[..., ExitCode]) -> Callable[..., ExitCode]:
        @functools.wraps(body)
        def run(*, config: Path | None, **values: Any) -> ExitCode:
            from policyguard.runs.project import find_project
            from policyguard.runs.settings import Flags, merge_settings

            options = {name: value for name in names if (value := values.pop(name)) is not None}
            lists = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
            return body(settings=merge_settings(Flags(**options | lists), find_project(config)), **values)

        body.__annotations__.pop("settings")  # a type that is loaded late
        signature = inspect.signature(body, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "settings":
                parameters.append(parameter)
                continue
            parameters += [
                inspect.Parameter(name, parameter.kind, default=None, annotation=_SETTINGS[name])
                for name in (*names, "config")
            ]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def parse_parameters(texts: Iterable[str] | None) -> dict[str, str]:
    """``["min_age=18"]`` as a mapping. Raises UsageError for anything else and for doubled names."""
    values: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE, not '{text}'", hint="such as --set min_age=18")
        if name in values:
            raise UsageError(f"--set gives '{name}' twice")
        values[name] = value
    return values


def load_policy_with(source: str, *, root: str | None, parameters: Iterable[str] | None) -> Policy:
    """The composed policy, with the options ``ROOT`` and ``PARAMETERS``. Raises PolicyError."""
    from policyguard.policy import load_policy

    return load_policy(source, root=root, parameters=parse_parameters(parameters))
