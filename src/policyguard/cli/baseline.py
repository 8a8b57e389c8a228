"""``policyguard baseline``: accept violations by image, list what is accepted, and drop stale entries."""

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
from policyguard.cli.options import PATHS, STYLE, TextOrJson, group, with_settings
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

if TYPE_CHECKING:
    from policyguard.runs.acceptance import Accepted
    from policyguard.runs.baseline import Baseline, BaselineEntry
    from policyguard.runs.job import Job
    from policyguard.runs.run import CheckedImage
    from policyguard.runs.settings import RunSettings
    from policyguard.runs.sources import Source

__all__ = ["app"]

app = group("Accept violations that somebody has reviewed, and list what is accepted.")


@app.command("update")
@command
@with_settings(
    *("policy", "model", "base_url", "dialect", "subset", "explain"),
    *("replicas", "workers", "cache", "baseline"),
)
def update(
    *,
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
    settings: RunSettings,
) -> ExitCode:
    """Check images, and accept the violations that are blocked and not accepted yet.

    An entry holds for the exact bytes of the image and the rules that it breaks today. Images that could not
    be judged are never accepted. Exit code: 0 everything that blocks is accepted now; 1 a violation is left
    that cannot be accepted; 3 something could not be judged; 2 the command or the set-up is wrong.
    """
    from policyguard.runs.baseline import write_baseline
    from policyguard.runs.git import user_name
    from policyguard.runs.job import build_job
    from policyguard.runs.selection import select_images

    last = _day(until)
    if not reason.strip():
        raise UsageError("--reason is empty", hint="say why these images may stay")
    name = (by or user_name(settings.project.root) or "").strip()
    if not name:
        raise UsageError("who accepts this?", hint="give --by NAME, or set git's user.name")
    baseline = _read_to_rewrite(settings, missing_ok=True)
    selection = select_images(paths or [], settings)
    for note in selection.notes:
        warn(note)
    job = build_job(settings, selection)
    job.baseline = baseline
    for note in job.notes:
        warn(note)
    for problem in job.problems:
        print_error(problem)
    with job.guard:
        accepted = _accept(job, by=name, reason=reason.strip(), until=last)
    entries = {**baseline.by_key()} | {(entry.sha256, entry.policy): entry for entry in accepted.entries}
    if accepted.entries:
        write_baseline(settings.baseline_path, entries.values())
    for entry in accepted.entries:
        print(f"accepted  {_line(entry, baseline)}")
    print(
        f"{len(accepted.entries):,} accepted until {last}, {len(entries):,} in {settings.baseline}",
        file=sys.stderr,
    )
    for line in accepted.blocking:
        warn(line)
    if job.problems:
        return ExitCode.USAGE
    if accepted.violating:
        return ExitCode.BLOCKED
    return ExitCode.UNJUDGED if accepted.unjudged or job.unchecked else ExitCode.OK


@app.command("list")
@command
@with_settings("baseline")
def show(*, style: STYLE = TextOrJson.TEXT, settings: RunSettings) -> ExitCode:
    """List what is accepted: until when, by whom and why.

    Exit code: 0; 2 the file does not exist, or holds invalid lines.
    """
    baseline = _read(settings)
    if style is TextOrJson.JSON:
        rows = [entry.to_dict() | {"expired": baseline.expired(entry)} for entry in baseline.entries]
        print(json.dumps(rows, indent=2))
    else:
        for entry in baseline.entries:
            print(_line(entry, baseline))
    return ExitCode.USAGE if baseline.problems else ExitCode.OK


@app.command("prune")
@command
@with_settings("baseline")
def prune(
    *,
    settings: RunSettings,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be dropped, and drop nothing.")
    ] = False,
) -> ExitCode:
    """Drop entries that have expired, and those whose image is no longer in the project.

    No model is asked. Exit code: 0; 2 the file does not exist, or holds invalid lines.
    """
    from policyguard.runs.baseline import write_baseline
    from policyguard.runs.selection import select_images

    baseline = _read_to_rewrite(settings, missing_ok=False)
    present = _hashes(select_images([], settings, allow_empty=True).sources)
    kept = [entry for entry in baseline.entries if entry.sha256 in present and not baseline.expired(entry)]
    for entry in baseline.entries:
        if entry not in kept:
            print(f"{'would drop' if dry_run else 'dropped'}  {_line(entry, baseline)}")
    if len(kept) < len(baseline.entries) and not dry_run:
        write_baseline(settings.baseline_path, kept)
    print(f"{len(kept):,} of {len(baseline.entries):,} entries hold", file=sys.stderr)
    return ExitCode.OK


def _read(settings: RunSettings, *, missing_ok: bool = False) -> Baseline:
    """The baseline, with its problems on stderr."""
    from policyguard.runs.baseline import read_baseline

    baseline = read_baseline(settings.baseline_path, today=datetime.now(UTC).date(), missing_ok=missing_ok)
    for problem in baseline.problems:
        print_error(str(problem))
    return baseline


def _read_to_rewrite(settings: RunSettings, *, missing_ok: bool) -> Baseline:
    """The baseline, in order to write it again. Raises UsageError where that would lose a line."""
    baseline = _read(settings, missing_ok=missing_ok)
    if baseline.problems:
        raise UsageError("the baseline is left as it is", hint="fix or delete these lines first")
    return baseline


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--until {text!r} is not a date", hint="write it like 2027-01-31") from None
    if day < datetime.now(UTC).date():
        raise UsageError(f"--until {text} has passed already")
    return day


def _accept(job: Job, *, by: str, reason: str, until: date) -> Accepted:
    from policyguard.cli.progress import load_model, progress_bar
    from policyguard.runs.acceptance import accept
    from policyguard.runs.engine import check_groups

    load_model(job.guard, sys.stderr)
    images = check_groups(job.groups, report_path=job.report_path, baseline=job.baseline, workers=job.workers)
    with progress_bar(sys.stderr) as move:

        def counted() -> Iterator[CheckedImage]:
            for number, image in enumerate(images, 1):
                yield image
                move(number, job.images, "judging")

        return accept(counted(), job.baseline, by=by, reason=reason, until=until)


def _hashes(sources: Iterable[Source]) -> set[str]:
    """SHA-256 of the bytes of each image that can be read."""
    hashes = set()
    for path in (Path(source.name) for source in sources):
        with contextlib.suppress(OSError):
            if path.is_file():  # a pipe would never end
                with path.open("rb") as file:
                    hashes.add(hashlib.file_digest(file, "sha256").hexdigest())
    return hashes


def _line(entry: BaselineEntry, baseline: Baseline) -> str:
    until = f"{entry.until}{' (expired)' if baseline.expired(entry) else ''}"
    acceptance = f"{entry.path}: {', '.join(entry.rules)} of {entry.policy}"
    return one_line(f"{acceptance}, until {until}, by {entry.by}: {entry.reason}")
