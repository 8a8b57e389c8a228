"""``policyguard baseline``: accept violations by image, see what is accepted, and drop what is idle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, print_error, warn
from policyguard.cli.options import (
    BASE_URL,
    BASELINE,
    CACHE,
    CONFIG,
    DIALECT,
    EXPLAIN,
    MODEL,
    PATHS,
    POLICIES,
    WORKERS,
    TextOrJson,
)
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

if TYPE_CHECKING:
    from policyguard.runs.accept import Accepted
    from policyguard.runs.baseline import Baseline, BaselineEntry
    from policyguard.runs.job import Job
    from policyguard.runs.run import CheckedImage
    from policyguard.runs.settings import Effective
    from policyguard.runs.sources import Source

__all__ = ["app"]

app = typer.Typer(
    help="Accept violations that somebody has looked at, and see what is accepted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("update")
@command
def update(
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why these violations are accepted.")
    ],
    until: Annotated[
        str,
        typer.Option("--until", metavar="DATE", help="The last day on which they are, such as 2027-01-31."),
    ],
    paths: PATHS = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who accepts them. Default: git's user.name.")
    ] = None,
    policy: POLICIES = None,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    explain: EXPLAIN = None,
    workers: WORKERS = None,
    cache: CACHE = None,
    baseline: BASELINE = None,
    config: CONFIG = None,
) -> ExitCode:
    """Check images, and accept the violations that are blocked and not accepted yet.

    An entry holds for the very bytes of the image and the rules that it breaks today. Images that could not
    be judged are never accepted. Exit code: 0 everything that blocks is accepted now; 1 a violation is left
    that cannot be; 3 something could not be judged; 2 the command or the set-up is wrong.
    """
    from policyguard.runs.baseline import write_baseline
    from policyguard.runs.git import user_name
    from policyguard.runs.job import build_job, select_images
    from policyguard.runs.project import find_project
    from policyguard.runs.settings import Flags, effective

    flags = Flags(
        policy=tuple(policy or ()),
        model=model,
        base_url=base_url,
        dialect=dialect,
        explain=explain,
        workers=workers,
        cache=cache,
        baseline=baseline,
    )
    settings = effective(flags, find_project(config))
    last = _day(until)
    if not reason.strip():
        raise UsageError("--reason is empty", hint="say why these images may stay")
    who = (by or user_name(settings.project.root) or "").strip()
    if not who:
        raise UsageError("nobody is named who accepts this", hint="give --by NAME, or set git's user.name")
    known = _read(settings, missing_ok=True)
    selected = select_images(paths or [], settings)
    for note in selected.notes:
        warn(note)
    job = build_job(settings, selected)
    job.baseline = known
    for note in job.notes:
        warn(note)
    for problem in job.problems:
        print_error(problem)
    with job.guard:
        accepted = _accept(job, by=who, reason=reason.strip(), until=last)
    entries = {**known.known()} | {(entry.sha256, entry.policy): entry for entry in accepted.entries}
    if accepted.entries:
        write_baseline(settings.baseline_path, entries.values())
    for entry in accepted.entries:
        print(f"accepted  {_line(entry, known)}")
    print(
        f"{len(accepted.entries):,} accepted until {last}, {len(entries):,} in {settings.baseline}",
        file=sys.stderr,
    )
    for line in accepted.left:
        warn(line)
    if job.problems:
        return ExitCode.USAGE
    if accepted.violating:
        return ExitCode.BLOCKED
    return ExitCode.UNJUDGED if accepted.unjudged or job.unchecked else ExitCode.OK


@app.command("list")
@command
def show(
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
    baseline: BASELINE = None,
    config: CONFIG = None,
) -> ExitCode:
    """List what is accepted: until when, by whom and why.

    Exit code: 0; 2 the file is not there, or holds lines that cannot be understood.
    """
    settings = _settings(baseline, config)
    known = _load(settings)
    if style is TextOrJson.JSON:
        rows = [entry.to_dict() | {"expired": known.expired(entry)} for entry in known.entries]
        print(json.dumps(rows, indent=2))
    else:
        for entry in known.entries:
            print(_line(entry, known))
    return ExitCode.USAGE if known.problems else ExitCode.OK


@app.command("prune")
@command
def prune(
    baseline: BASELINE = None,
    config: CONFIG = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be dropped, and drop nothing.")
    ] = False,
) -> ExitCode:
    """Drop entries that have expired, and those whose image is not in the project any more.

    No model is asked. Exit code: 0; 2 the file is not there, or holds lines that cannot be understood.
    """
    from policyguard.runs.baseline import write_baseline
    from policyguard.runs.job import select_images

    settings = _settings(baseline, config)
    known = _read(settings, missing_ok=False)
    present = _hashes(select_images([], settings, allow_empty=True).sources)
    kept = [entry for entry in known.entries if entry.sha256 in present and not known.expired(entry)]
    for entry in known.entries:
        if entry not in kept:
            print(f"{'would drop' if dry_run else 'dropped'}  {_line(entry, known)}")
    if len(kept) < len(known.entries) and not dry_run:
        write_baseline(settings.baseline_path, kept)
    print(f"{len(kept):,} of {len(known.entries):,} entries hold", file=sys.stderr)
    return ExitCode.OK


def _settings(baseline: str | None, config: Path | None) -> Effective:
    from policyguard.runs.project import find_project
    from policyguard.runs.settings import Flags, effective

    return effective(Flags(baseline=baseline), find_project(config))


def _load(settings: Effective, *, missing_ok: bool = False) -> Baseline:
    """The baseline, and its problems on stderr."""
    from policyguard.runs.baseline import read_baseline

    known = read_baseline(settings.baseline_path, today=datetime.now(UTC).date(), missing_ok=missing_ok)
    for problem in known.problems:
        print_error(str(problem))
    return known


def _read(settings: Effective, *, missing_ok: bool) -> Baseline:
    """The baseline, to write it anew. Raises UsageError where that would lose a line."""
    known = _load(settings, missing_ok=missing_ok)
    if known.problems:
        raise UsageError("the baseline is left as it is", hint="mend or delete these lines first")
    return known


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--until {text!r} is not a date", hint="write it like 2027-01-31") from None
    if day < datetime.now(UTC).date():
        raise UsageError(f"--until {text} has passed already")
    return day


def _accept(job: Job, *, by: str, reason: str, until: date) -> Accepted:
    from policyguard.cli.progress import progress_bar, waiting
    from policyguard.runs.accept import accept
    from policyguard.runs.engine import check_groups

    with waiting("loading the guard model", sys.stderr):
        job.guard.warm()
    images = check_groups(job.groups, shown=job.shown, baseline=job.baseline, workers=job.workers)
    with progress_bar(sys.stderr) as move:

        def counted() -> Iterator[CheckedImage]:
            for number, image in enumerate(images, 1):
                yield image
                move(number, job.images, "judging")

        return accept(counted(), job.baseline, by=by, reason=reason, until=until)


def _hashes(sources: Iterable[Source]) -> set[str]:
    """SHA-256 of the bytes of each image that can be read."""
    found = set()
    for path in (Path(source.name) for source in sources):
        with contextlib.suppress(OSError):
            if path.is_file():  # a pipe would never end
                with path.open("rb") as file:
                    found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _line(entry: BaselineEntry, known: Baseline) -> str:
    until = f"{entry.until}{' (expired)' if known.expired(entry) else ''}"
    what = f"{entry.path}: {', '.join(entry.rules)} of {entry.policy}"
    return one_line(f"{what}, until {until}, by {entry.by}: {entry.reason}")
