"""``policyguard policy diff``: what a change of policy changes, in its text and on images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.options import (
    PARAMETERS,
    ROOT,
    STYLE,
    TextOrJson,
    load_policy_with,
    with_settings,
)
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line, printable

if TYPE_CHECKING:
    from policyguard.authoring.diff import BehaviourDiff, PolicyDiff
    from policyguard.cache import VerdictCache
    from policyguard.guard import Guard
    from policyguard.policy import Policy
    from policyguard.runs.settings import RunSettings
    from policyguard.runs.sources import Source
    from policyguard.verdict import Verdict

__all__ = ["JUDGED", "diff", "kept_scores"]

JUDGED = Annotated[
    Path | None,
    typer.Option(
        "--judged",
        metavar="FILE",
        help="Keep the model's scores in this file, a verdict cache, so that no image is judged twice.",
    ),
]


class FailOnChange(StrEnum):
    """Which changes make a run fail."""

    NEVER = "never"
    WEAKER = "weaker"
    ANY = "any"


@command
@with_settings("model", "base_url", "dialect", "subset", "replicas")
def diff(
    *,
    before: Annotated[str, typer.Argument(metavar="A", help="The policy as it was: a name or a YAML file.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The policy as it will be.")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on", metavar="PATH", help="Judge these images, or the images in these folders, under both."
        ),
    ] = None,
    style: STYLE = TextOrJson.TEXT,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="With --on: write an HTML page too.")
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails", help="Put thumbnails of changed images into the page, blurred until clicked."
        ),
    ] = False,
    judged: JUDGED = None,
    fail_on: Annotated[
        FailOnChange,
        typer.Option(
            "--fail-on", help="What ends in exit code 1: changes that let more pass, any change, or none."
        ),
    ] = FailOnChange.NEVER,
    settings: RunSettings,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Compare two policies: rule by rule, and with --on image by image.

    The model for --on is the one that `policyguard check` takes here: the project file's, unless one
    is named.

    Exit code: 0 compared; 1 something changed that --fail-on names; 2 a policy or the set-up is wrong;
    3 none of these, but with --on and --fail-on an image could not be judged.
    """
    from policyguard.authoring.diff import compare_policies
    from policyguard.cli.output import print_unjudged, require_page

    if on is None and (page or thumbnails or judged):
        raise UsageError("--html, --thumbnails and --judged go with --on", hint="name images with --on PATH")
    require_page(page, thumbnails=thumbnails)
    old, new = (load_policy_with(policy, root=root, parameters=values) for policy in (before, after))
    policies = old, new
    structure = compare_policies(*policies)
    behaviour: BehaviourDiff | None = None
    sources: list[Source] = []
    if on is not None:
        from policyguard.runs.job import build_guard, model_settings
        from policyguard.runs.search import collect_existing

        sources, skipped = collect_existing(on)
        if note := str(skipped):
            warn(f"skipped {note}")
        with (
            kept_scores(judged) as cache,
            build_guard(policies, cache=cache, **model_settings(settings)) as guard,
        ):
            behaviour = _behaviour(policies, sources, guard)
    _print(structure, behaviour, style)
    before_head, after_head = structure.before, structure.after
    if structure.changes and (before_head.id, before_head.version) == (after_head.id, after_head.version):
        warn(f"both are version {after_head.version}, and they differ: raise `version:` in the new one")
    if behaviour is not None and (failed := behaviour.unjudged):
        print_unjudged(failed, len(failed), sys.stderr)
    if page is not None and behaviour is not None:
        _write_page(page, behaviour, structure, sources if thumbnails else None)
    return _code(structure, behaviour, fail_on)


def kept_scores(file: Path | None) -> AbstractContextManager[VerdictCache | None]:
    """The verdict cache of ``--judged``, whose scores are kept for good."""
    from policyguard.cache import SqliteCache

    return nullcontext() if file is None else closing(SqliteCache(file, ttl=None))


def _behaviour(policies: tuple[Policy, Policy], sources: Sequence[Source], guard: Guard) -> BehaviourDiff:
    from policyguard.authoring.diff import compare_on
    from policyguard.cli.progress import load_model, progress_bar

    load_model(guard, sys.stderr)
    with progress_bar(sys.stderr) as move:
        return compare_on(
            *policies,
            [source.image for source in sources],
            names=[source.name for source in sources],
            backend=guard.backend,
            progress=lambda done, total: move(done, total, "judging under both policies"),
        )


def _print(structure: PolicyDiff, behaviour: BehaviourDiff | None, style: TextOrJson) -> None:
    if style is TextOrJson.JSON:
        whole = structure.to_dict() | {"on": None if behaviour is None else behaviour.to_dict()}
        print(json.dumps(whole, indent=2, allow_nan=False))
        return
    print("\n".join(_structure_lines(structure)))
    if behaviour is not None:
        print()
        _print_behaviour(behaviour, sys.stdout)


def _structure_lines(diff: PolicyDiff) -> Iterator[str]:
    """The differences rule by rule, then their effect as a whole."""
    yield f"{diff.before} -> {diff.after}"
    for rule, changes in groupby(diff.changes, key=lambda change: change.rule):
        yield f"  {rule or '(the policy)'}"
        for change in changes:
            yield f"    {change.kind:<13} {one_line(change.description)}"
    for reason in diff.weakenings:
        yield f"  reason given: {one_line(reason)}"
    if not diff.changes:
        yield "  no difference"
        return
    effects = [f"{effect} {number}" for effect, number in _effects(diff)]
    yield f"{len(diff.changes)} changes: {', '.join(effects)}"
    if diff.same_prompt:
        decisions = (
            "and the decisions are the same" if diff.same_decisions else "so only the decisions can change"
        )
        yield f"the model reads the same, {decisions}"


def _effects(diff: PolicyDiff) -> Iterator[tuple[str, int]]:
    from policyguard.authoring.diff import Effect

    for effect in Effect:
        if number := sum(change.effect is effect for change in diff.changes):
            yield effect.value, number


def _print_behaviour(diff: BehaviourDiff, stream: TextIO) -> None:
    """The images that change, as a table, and their number."""
    from policyguard.cli.output import print_table, verdict_words

    changed = diff.changed
    if changed:
        rows = [
            (
                image.source,
                verdict_words(image.before),
                verdict_words(image.after),
                _reason(image.after) or _reason(image.before),
            )
            for image in changed
        ]
        print_table(("image", "before", "after", "why"), rows, stream)
    moves = ", ".join(
        f"{number} {old} -> {new}" if old is not new else f"{number} {old} for another reason"
        for (old, new), number in sorted(diff.moves.items())
    )
    total = len(diff.images)
    failed = f"; {len(diff.unjudged):,} could not be judged" if diff.unjudged else ""
    summary = f"{len(changed)} of {total} image{'' if total == 1 else 's'} change" + (
        f": {moves}" if moves else ""
    )
    print(
        f"{summary}{failed}; {diff.asked} judgements by {printable(diff.model)}, {diff.known} known already",
        file=stream,
    )
    shifts = [abs(image.shift) for image in diff.images if not image.changed and image.shift is not None]
    if shifts and max(shifts) >= 0.05:
        print(f"scores of images that do not change move by up to {max(shifts):.2f}", file=stream)


def _reason(verdict: Verdict) -> str:
    broken = ", ".join(finding.rule for finding in verdict.findings if finding.violates)
    return verdict.reason or broken


def _write_page(
    file: Path, behaviour: BehaviourDiff, structure: PolicyDiff, sources: Sequence[Source] | None
) -> None:
    from policyguard.authoring.diff.page import diff_page
    from policyguard.cli.output import write_page

    image_at = None if sources is None else lambda place: sources[place].image
    write_page(file, diff_page(behaviour, structure, thumbnails=image_at))


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
