"""``policyguard policy diff``: what a change of policy changes, in its text and on pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, PARAMETERS, ROOT, TextOrJson
from policyguard.cli.policy_show import load
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode

if TYPE_CHECKING:
    from policyguard.authoring.diff import BehaviourDiff, PolicyDiff
    from policyguard.cache import VerdictCache
    from policyguard.guard import Guard
    from policyguard.policy import Policy
    from policyguard.runs.sources import Source

__all__ = ["diff"]


class FailOnChange(StrEnum):
    """Which changes make a run fail."""

    NEVER = "never"
    WEAKER = "weaker"
    ANY = "any"


@command
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="The policy as it was: a name or a YAML file.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The policy as it is to be.")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on", metavar="PATH", help="Judge these images, or the images in these folders, under both."
        ),
    ] = None,
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="With --on: write an HTML page too.")
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails", help="Put small pictures of changed images into the page, blurred until clicked."
        ),
    ] = False,
    judged: Annotated[
        Path | None,
        typer.Option(
            "--judged",
            metavar="FILE",
            help="Keep the model's scores in this file, a verdict cache, so that no image is judged twice.",
        ),
    ] = None,
    fail_on: Annotated[
        FailOnChange,
        typer.Option(
            "--fail-on", help="What ends in exit code 1: changes that let more pass, any change, or none."
        ),
    ] = FailOnChange.NEVER,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Compare two policies: rule by rule, and with --on image by image.

    Exit code: 0 compared; 1 something changed that --fail-on names; 2 a policy or the set-up is wrong;
    3 nothing of that, but with --on and --fail-on an image could not be judged.
    """
    from policyguard.authoring.diff import compare_policies

    if on is None and (page or thumbnails or judged):
        raise UsageError("--html, --thumbnails and --judged go with --on", hint="name images with --on PATH")
    if thumbnails and page is None:
        raise UsageError("--thumbnails goes with --html", hint="name the page with --html FILE")
    policies = load(before, root=root, given=values), load(after, root=root, given=values)
    structure = compare_policies(*policies)
    behaviour: BehaviourDiff | None = None
    sources: list[Source] = []
    if on is not None:
        from policyguard.guard import Guard
        from policyguard.runs.sources import collect

        sources, skipped = collect(on)
        if note := str(skipped):
            warn(f"passed over {note}")
        with (
            _memory(judged) as cache,
            Guard(policies, model=model, base_url=base_url, dialect=dialect, cache=cache) as guard,
        ):
            behaviour = _behaviour(policies, sources, guard)
    _print(structure, behaviour, style)
    if page is not None and behaviour is not None:
        _write_page(page, behaviour, structure, sources if thumbnails else None)
    return _code(structure, behaviour, fail_on)


def _memory(file: Path | None) -> AbstractContextManager[VerdictCache | None]:
    from policyguard.cache import SqliteCache

    return nullcontext() if file is None else closing(SqliteCache(file, ttl=None))


def _behaviour(policies: tuple[Policy, Policy], sources: Sequence[Source], guard: Guard) -> BehaviourDiff:
    from policyguard.authoring.diff import compare_on
    from policyguard.cli.progress import progress_bar, waiting

    with waiting("loading the guard model", sys.stderr):
        guard.warm()
    with progress_bar(sys.stderr) as move:
        return compare_on(
            *policies,
            [source.image for source in sources],
            names=[source.name for source in sources],
            backend=guard.backend,
            progress=lambda done, total: move(done, total, "judging under both policies"),
        )


def _print(structure: PolicyDiff, behaviour: BehaviourDiff | None, style: TextOrJson) -> None:
    from policyguard.cli.policy_report import behaviour_lines, structure_lines

    if style is TextOrJson.JSON:
        whole = structure.to_dict() | {"on": None if behaviour is None else behaviour.to_dict()}
        print(json.dumps(whole, indent=2, allow_nan=False))
        return
    print("\n".join(structure_lines(structure)))
    if behaviour is not None:
        print()
        behaviour_lines(behaviour, sys.stdout)


def _write_page(
    file: Path, behaviour: BehaviourDiff, structure: PolicyDiff, sources: Sequence[Source] | None
) -> None:
    from policyguard.authoring.diff.page import diff_page

    pictures = None if sources is None else [source.image for source in sources]
    page = diff_page(behaviour, structure, pictures=None if pictures is None else pictures.__getitem__)
    file.write_text(page, encoding="utf-8", errors="backslashreplace")
    print(f"wrote {file}", file=sys.stderr)


def _code(structure: PolicyDiff, behaviour: BehaviourDiff | None, fail_on: FailOnChange) -> ExitCode:
    changed = () if behaviour is None else behaviour.changed
    if fail_on is FailOnChange.NEVER:
        return ExitCode.OK
    if fail_on is FailOnChange.ANY and (structure.changes or changed):
        return ExitCode.BLOCKED
    if structure.weaker or any(image.weaker for image in changed):
        return ExitCode.BLOCKED
    unjudged = behaviour is not None and any(not image.after.outcome.judged for image in behaviour.images)
    return ExitCode.UNJUDGED if unjudged else ExitCode.OK
