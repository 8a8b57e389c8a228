"""``policyguard audit``: judge a data set of any size, part by part, and compare two audits of it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyguard.cli import audit_report
from policyguard.cli.errors import command, print_error, warn
from policyguard.cli.options import BASE_URL, REPLICAS, STYLE, Group, Replicas, TextOrJson, with_settings
from policyguard.cli.progress import log_lines, progress_bar, waiting
from policyguard.errors import PolicyGuardError, UsageError
from policyguard.runs.exits import ExitCode, FailOn
from policyguard.strict.text import one_line, printable

if TYPE_CHECKING:
    from policyguard.runs.audit.rows import Audit
    from policyguard.runs.audit.run import Engine, Estimate, Set, Work
    from policyguard.runs.settings import RunSettings

__all__ = ["app"]

_MOST_NAMED, _EXAMPLES = 20, 3
UNJUDGED = 'outcome not in ("complies", "violates")'
"""The images that could not be judged, for ``--where``."""


class Commands(Group):
    """``policyguard audit SOURCE`` is ``policyguard audit run SOURCE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.list_commands(ctx), "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Judge a data set of any size: `audit SOURCE` is short for `audit run SOURCE`.",
)


class EngineName(StrEnum):
    """Where an audit runs: in this process, or on Ray."""

    LOCAL = "local"
    RAY = "ray"


FOLDER = Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of an audit, or its URL.")]
ENGINE = Annotated[
    EngineName,
    typer.Option(help="This process, or Ray: RAY_ADDRESS, else a cluster on this machine."),
]
WORKERS = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="With --engine ray: how many processes hold a guard each."),
]
GPUS = Annotated[
    float,
    typer.Option(min=0, metavar="N", help="With --engine ray: GPUs for each worker; 0.5 puts two on one."),
]
REQUESTS = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        metavar="N",
        help="How many images are judged at once, in each worker. Default: what suits the model.",
    ),
]
ACCEPT = Annotated[
    bool,
    typer.Option("--accept-changed", help="Go on although the source changed: judge what it holds now."),
]
FAIL_ON = Annotated[
    FailOn, typer.Option(help="What ends in a non-zero exit code: blocked images, flagged ones too, or none.")
]


@app.command("run")
@command
@with_settings("policy", "model", "base_url", "dialect", "subset", "replicas", "explain", "fail_on", "cache")
def run(
    *,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, patterns, tar shards ('shards/{000..999}.tar'), Parquet files, CSV or JSONL "
            "lists, or data sets saved by `datasets`; on this machine, or s3://, gs://, hf://.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Where the audit is kept: a new folder, or a URL. Not with --dry-run."
        ),
    ] = None,
    settings: RunSettings,
    keep: Annotated[
        str, typer.Option(metavar="NAMES", help="Columns to carry along, such as prompt,label,source.")
    ] = "",
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column with the images. Default: by its name.")
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch images that a list gives by their https address.")
    ] = False,
    per_part: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="N",
            help="Files in one part. Default: 50 at first, more as there are more, at most 1,000.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Count, judge up to 64 images, and say what the audit would take."),
    ] = False,
    engine: ENGINE = EngineName.LOCAL,
    workers: WORKERS = None,
    gpus_per_worker: GPUS = 0.0,
    requests: REQUESTS = None,
    accept_changed: ACCEPT = False,
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """Judge every image of a data set, part by part.

    A part is a tar shard, a Parquet row group or 50 to 1,000 files; a part that is done has one Parquet file
    of rows in FOLDER/verdicts, and is never judged again. The same command, or `audit resume FOLDER`, goes on
    where a run was stopped, however it was stopped; a part that was not done begins again.

    Exit code: 0 nothing is blocked; 1 a violation is blocked; 3 something could not be judged, or a part was
    left (--dry-run: nothing could be judged); 2 the command or the set-up is wrong, or nothing can be
    written.
    """
    from policyguard.runs.audit.run import Set, Work, estimate, start
    from policyguard.runs.audit.sources import Spec
    from policyguard.runs.policies import load_policies, refusal

    if not settings.policy:
        raise UsageError("no policy to judge images under", hint="give --policy")
    loaded, broken = load_policies(settings.policy, settings.project, from_file=settings.policies_from_file)
    if broken:
        raise refusal(broken, settings)
    made_of = Set(
        tuple(info.policy for info in loaded.values()),
        tuple(str(info.name) for info in loaded.values()),
        {
            "model": settings.model,
            "base_url": list(settings.base_url),
            "dialect": settings.dialect,
            "subset": settings.subset,
            "local": {} if settings.staged else settings.project.settings.local,
            "replicas": settings.replicas or 1,
            "stages": settings.project.stages() if settings.staged else None,
            "lists": settings.project.lists(),
            "explain": settings.explain,
            "cache": settings.cache or os.environ.get("POLICYGUARD_CACHE") or "memory",
        },
        str(settings.project.file) if settings.staged or settings.project.settings.lists else None,
    )
    names = tuple(dict.fromkeys(name.strip() for name in keep.split(",") if name.strip()))
    spec = Spec(tuple(source), str(Path.cwd()), column, names, fetch, per_part)
    requests = requests or settings.workers
    chosen = _engine(engine, workers, gpus_per_worker, settings.replicas)
    if dry_run:
        with waiting("judging a sample", sys.stderr):
            found = estimate(spec, made_of, workers=requests)
        _print_estimate(found, workers or 1, gpus_per_worker, style)
        return ExitCode.OK if found.judged else ExitCode.UNJUDGED
    if out is None:
        raise UsageError("where is the audit to be kept?", hint="give --out FOLDER, or --dry-run")
    with waiting("listing the source", sys.stderr):
        audit = start(out, spec, made_of, accept_changed=accept_changed)
    work = Work(out, made_of, requests, accept_changed)
    return _go_on(audit, work, chosen, settings.fail_on, style)


@app.command("resume")
@command
def resume(
    folder: FOLDER,
    base_url: BASE_URL = None,
    replicas: REPLICAS = None,
    cache: Annotated[
        str | None, typer.Option(metavar="PATH", help="The file of scores. Default: as at the start.")
    ] = None,
    engine: ENGINE = EngineName.LOCAL,
    workers: WORKERS = None,
    gpus_per_worker: GPUS = 0.0,
    requests: REQUESTS = None,
    accept_changed: ACCEPT = False,
    retry_errors: Annotated[
        bool,
        typer.Option("--retry-errors", help="Judge parts again in which a row ended in an error."),
    ] = False,
    fail_on: FAIL_ON = FailOn.BLOCK,
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """Go on with an audit that was stopped, on any engine. Exit code: as `audit run`."""
    from policyguard.runs.audit.rows import Audit
    from policyguard.runs.audit.run import Work, drop_errors
    from policyguard.runs.audit.run import resume as resumed
    from policyguard.runs.project import find_project

    audit = Audit.open(folder)
    # A matter of this machine, so kept nowhere.
    processes = replicas or find_project().settings.replicas
    made_of = _set_of(audit, base_url, cache, processes)
    chosen = _engine(engine, workers, gpus_per_worker, processes)
    with waiting("comparing the source with the manifest", sys.stderr):
        resumed(audit, made_of, accept_changed=accept_changed)
    if retry_errors and (dropped := drop_errors(audit)):
        warn(f"{_count(dropped, 'part')} with errors will be judged again")
    return _go_on(audit, Work(folder, made_of, requests, accept_changed), chosen, fail_on, style)


@app.command("diff")
@command
def diff(
    before: Annotated[str, typer.Argument(metavar="FOLDER", help="An audit.")],
    after: Annotated[str, typer.Argument(metavar="OTHER", help="Another one of the same images.")],
    most: Annotated[
        int, typer.Option("--list", min=0, metavar="N", help="How many changed images are listed.")
    ] = 20,
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """Compare two audits image by image, such as one under an old policy and one under the new.

    Exit code: 0 compared; 2 an audit cannot be read.
    """
    from policyguard.runs.audit.diff import compare
    from policyguard.runs.audit.rows import Audit

    audits = Audit.open(before), Audit.open(after)
    found = compare(*audits, most=most)
    for folder, audit in zip((before, after), audits, strict=True):
        audit_report.warn_of_rest(audit, folder)
    if style is TextOrJson.JSON:
        print(json.dumps(found.to_dict()))
    else:
        print("\n".join(map(printable, found.lines())))
    return ExitCode.OK


app.command("report")(audit_report.report)
app.command("select")(audit_report.select)
app.command("copy")(audit_report.copy)


def _set_of(audit: Audit, base_url: str | None, cache: str | None, replicas: Replicas | None) -> Set:
    """What ``audit`` was begun with. Raises UsageError if a policy cannot be loaded any more."""
    from policyguard.policy import load_policy
    from policyguard.policy.files import is_path
    from policyguard.runs.audit.run import Set, spec_of
    from policyguard.runs.project import find_project

    names = tuple(policy["name"] for policy in audit.about["policies"])
    root = spec_of(audit).root
    policies = tuple(
        load_policy(os.path.join(root, name) if is_path(name) else name).resolve()  # noqa: PTH118
        for name in names
    )
    settings, project = dict(audit.about["settings"]), audit.about["project"]
    if project:
        found = find_project(Path(project))
        settings["lists"] = found.lists()
        if not settings.get("model"):
            settings["stages"] = found.stages()
    if base_url:
        settings["base_url"] = [base_url]
    elif any("://***@" in url for url in settings["base_url"]):
        raise UsageError("the audit holds no password of its server", hint="give the server with --base-url")
    if cache:
        settings["cache"] = cache
    if replicas:
        settings["replicas"] = replicas
    return Set(policies, names, settings, project)


def _engine(name: EngineName, workers: int | None, gpus: float, replicas: Replicas | None) -> Engine:
    from policyguard.runs.audit.run import local

    if name is EngineName.RAY:
        if replicas not in (None, 1):
            raise UsageError(
                "replicas are processes of this machine, and Ray's workers are processes already",
                hint="give --replicas 1, and say with --workers how many there are",
            )
        from policyguard.runs.audit.ray import RayEngine

        return RayEngine(workers=workers, gpus_per_worker=gpus)
    if workers is not None or gpus:
        raise UsageError(
            "--workers and --gpus-per-worker are for --engine ray",
            hint="--requests says how many images this process judges at once",
        )
    return local


def _go_on(audit: Audit, work: Work, engine: Engine, fail_on: FailOn, style: TextOrJson) -> ExitCode:
    """Judge what is left of ``audit``, and say what all of it holds."""
    from policyguard.runs.audit.run import left, totals

    for note in audit.about["notes"]:
        warn(note)
    numbers = left(audit)
    before, new, named, failed = totals(audit), Counter[str](), list[str](), dict[int, str]()
    kept, unjudged = before["rows"], 0
    if numbers:
        try:
            for done in _shown(audit, before, new, work, numbers, engine):
                kept += done.counts["rows"]
                unjudged += _unjudged(done.counts)
                named += done.named[: _MOST_NAMED - len(named)]
                if done.failed is not None:
                    failed[done.part] = done.failed
        except (PolicyGuardError, KeyboardInterrupt):
            lost = before["rows"] + new["rows"] - kept
            again = f", {lost:,} of parts under way will be judged again" if lost else ""
            stays = f"{_count(kept, 'judged image')} {'stays' if kept == 1 else 'stay'}{again}"
            warn(f"{stays}; go on with: policyguard audit resume {printable(work.folder)}")
            raise
    for line in named:
        warn(line)
    if unjudged > len(named):
        asked = f"policyguard audit select {shlex.quote(printable(work.folder))} --where '{UNJUDGED}'"
        warn(f"and {unjudged - len(named):,} more could not be judged; this lists them: {asked}")
    for number, reason in list(failed.items())[:_MOST_NAMED]:
        print_error(f"part {number} is left: {reason}")
    if len(failed) > _MOST_NAMED:
        print_error(f"and {len(failed) - _MOST_NAMED:,} more parts are left")
    counts = totals(audit)
    missing = len(left(audit))
    if style is TextOrJson.JSON:
        print(json.dumps({"folder": work.folder, "parts left": missing, **dict(sorted(counts.items()))}))
    else:
        print("\n".join(_summary(audit, counts, new, missing)))
        if not numbers:
            print("  nothing was left to judge")
        if not missing:
            print(f"for a report: policyguard audit report {printable(work.folder)}")
    return _code(counts, missing, fail_on)


def _shown(
    audit: Audit, before: Counter[str], new: Counter[str], work: Work, numbers: list[int], engine: Engine
) -> Iterator[Any]:
    """What ``engine`` gives, with a bar: rate, time left, violations so far, what could not be judged."""
    total = audit.about["counts"]["rows"]
    began = None  # when the first image was judged: before, the model was loaded
    with progress_bar(sys.stderr) as move:
        log = log_lines(sys.stderr, total or sys.maxsize)

        def moved(counts: Counter[str]) -> None:
            nonlocal began
            new.update(counts)
            began = began or monotonic()
            seconds = monotonic() - began
            words = _so_far(before + new, (new["rows"] - 1) / seconds if seconds > 0 else None)
            move(before["rows"] + new["rows"], total, words)
            log(before["rows"] + new["rows"], words)

        with closing(engine(work, numbers, moved)) as found:  # type: ignore[type-var]
            yield from found


def _so_far(counts: Counter[str], rate: float | None) -> str:
    """``rate`` in images per second, ``None`` while it cannot be told; slow models take seconds for one."""
    shown = "" if not rate else f"{rate:,.0f}/s, " if rate >= 10 else f"{rate:.2g}/s, "
    return f"{shown}{counts['outcome violates']:,} violate, {_unjudged(counts):,} could not be judged"


def _unjudged(counts: Counter[str]) -> int:
    return counts["rows"] - counts["outcome complies"] - counts["outcome violates"]


def _summary(audit: Audit, counts: Counter[str], new: Counter[str], missing: int) -> Iterator[str]:
    parts = audit.about["counts"]["parts"]
    yield f"{_count(counts['rows'], 'image')} in {parts - missing:,} of {_count(parts, 'part')}"
    for kind in ("action", "outcome"):
        names = sorted(name for name in counts if name.startswith(f"{kind} "))
        yield f"  {kind}s: " + ", ".join(
            f"{name.removeprefix(f'{kind} ')} {counts[name]:,}" for name in names
        )
    if counts["duplicates"]:
        yield f"  {_count(counts['duplicates'], 'image')} with the bytes of another of its part: judged once"
    if new["cached"]:
        yield f"  {_count(new['cached'], 'verdict')} of this run from the cache, without asking the model"


def _code(counts: Counter[str], missing: int, fail_on: FailOn) -> ExitCode:
    """As in ``check``; a part that is left counts as images that could not be judged."""
    unjudged = sum(counts[f"block {name}"] for name in ("undecided", "refused", "unscannable", "error"))
    if fail_on is not FailOn.NEVER:
        if counts["block violates"] or counts["block complies"]:
            return ExitCode.BLOCKED
        if fail_on is FailOn.FLAG and counts["action flag"]:
            return ExitCode.BLOCKED
        if unjudged:
            return ExitCode.UNJUDGED
    return ExitCode.UNJUDGED if missing else ExitCode.OK


def _print_estimate(found: Estimate, workers: int, gpus: float, style: TextOrJson) -> None:
    rate = None if found.rate is None else found.rate * workers
    hours = None if found.rows is None or rate is None else found.rows / rate / 3600
    taken = gpus or found.gpus or None
    values = {
        "parts": found.parts,
        "images": found.rows,
        "sample": found.sample,
        "could not be judged in the sample": len(found.unjudged),
        "blocked in the sample": found.blocked,
        "flagged in the sample": found.flagged,
        "images per second": None if rate is None else round(rate, 2),
        "hours": None if hours is None else round(hours, 3),
        "GPU-hours": None if hours is None or taken is None else round(hours * taken * workers, 3),
        "prompt tokens per image, without the image's own": found.prompt_tokens,
        "MB on the disk": None if found.rows is None else round(found.rows * found.bytes_per_row / 1e6, 1),
    }
    if style is TextOrJson.JSON:
        print(json.dumps(values))
    else:
        unknown = "not known" if rate is None else "not known before it has run"
        for name, value in values.items():
            text = unknown if value is None else f"{value:,}"
            if name == "GPU-hours" and taken is None and hours is not None:
                text = "not known: the hours, times the GPUs that the model takes"
                if found.gpus == 0:
                    text = "not known: no GPU judged the sample, so plan where there is one"
            print(f"{name}: {text}")
    for key, reason in found.unjudged[:_EXAMPLES]:
        warn(one_line(f"{key}: {reason}"))
    if found.unjudged:
        warn(
            f"{len(found.unjudged):,} of the {_count(found.sample, 'image')} could not be judged"
            + (
                f": the speed is that of the other {found.judged:,}"
                if found.judged
                else ", so no speed is known"
            )
        )
    if workers > 1 and rate is not None:
        warn(f"measured with one worker, and multiplied by {workers}")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
