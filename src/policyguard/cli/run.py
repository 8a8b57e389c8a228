"""A run: many images through guards, printed as they come, reported, summed up in one exit code.

Data goes to ``stdout``; progress, summary and images that could not be judged go to ``stderr``. However a run
ends, its results so far are printed and reported, and the images it did not reach are named.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter
from typing import TextIO

from policyguard.backends.stats import GuardStats
from policyguard.cli.errors import forget_stdout, print_error
from policyguard.cli.options import Format
from policyguard.cli.output import MAX_LISTED, Writer, open_writer, print_unjudged
from policyguard.cli.progress import load_model, log_lines, progress_bar, uninterrupted
from policyguard.outcomes import Action
from policyguard.runs.acceptance import BaselineUse
from policyguard.runs.baseline import BaselineEntry
from policyguard.runs.engine import OutOfTime, check_groups
from policyguard.runs.exits import ExitCode, FailOn, Tally
from policyguard.runs.job import Job
from policyguard.runs.reports.registry import Reports
from policyguard.runs.run import CheckedImage, ImageStatus, RunSummary, Stop, Unchecked
from policyguard.strict.text import is_terminal, one_line, printable
from policyguard.verdict import Verdict

__all__ = ["run_check"]

_MAX_NAMED = 5
"""How many baseline entries a note names."""

_NOT_REACHED = {
    Stop.MAX_FAILURES: "the run reached the limit of failures",
    Stop.TIMEOUT: "the run was out of time",
    Stop.INTERRUPT: "the run was interrupted",
    Stop.ERROR: "the run was aborted",
}


def run_check(
    job: Job,
    *,
    style: Format = Format.TEXT,
    only_blocked: bool = False,
    quiet: bool = False,
    fail_on: FailOn = FailOn.BLOCK,
    reports: Reports | None = None,
    stdout: TextIO,
    stderr: TextIO,
) -> ExitCode:
    """Check the images of ``job`` in order and return the exit code. Raises UsageError for a wrong set-up.

    ``only_blocked``: print these alone; ``quiet``: print neither progress nor a summary.

    A KeyboardInterrupt passes through, after the output and the reports so far have been closed properly.
    """
    reports = Reports() if reports is None else reports
    return _Run(job, style, only_blocked, quiet, fail_on, reports, stdout, stderr).execute()


@dataclass
class _Run:
    job: Job
    style: Format
    only_blocked: bool
    quiet: bool
    fail_on: FailOn
    reports: Reports
    stdout: TextIO
    stderr: TextIO

    def __post_init__(self) -> None:
        self.tally = Tally()
        self.counts: Counter[ImageStatus] = Counter()
        self.cached = 0
        self.unjudged: list[Verdict] = []
        self.baseline_use = BaselineUse(self.job.baseline)
        self.problems = list(self.job.problems)
        self._started = False
        self._printed_problems: set[str] = set()
        self._writer: Writer | None = open_writer(
            self.style, self.stdout, _names(self.job), count=self.job.images
        )

    def execute(self) -> ExitCode:
        started = perf_counter()
        self._print_problems()
        self.reports.begin(self.job.info)
        stop: Stop | None = None
        try:
            if self.job.images:
                load_model(self.job.guard, None if self.quiet else self.stderr)
            self._started = True
            stop = self._check()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with uninterrupted():
                # An empty list would look like a run without findings; only an interrupted run may print one.
                if (self.tally.total or interrupted) and self._writer is not None:
                    with suppress(OSError):  # the reports must be finished all the same
                        self._writer.close()
                code = ExitCode.INTERRUPTED if interrupted else ExitCode.USAGE
                code = ExitCode.BROKEN_PIPE if isinstance(error, BrokenPipeError) else code
                stop = Stop.INTERRUPT if interrupted else Stop.ERROR
                self._finish(code, perf_counter() - started, stop)
            raise
        self._write(lambda writer: writer.close())
        return self._finish(self._code(stop), perf_counter() - started, stop)

    def _check(self) -> Stop | None:
        # On one terminal, a bar and a stream of lines would get into each other's way.
        shared = is_terminal(self.stdout) and self.style is not Format.TEXT
        stream = None if shared or self.quiet else self.stderr
        job, total = self.job, self.job.images
        images = check_groups(
            job.groups,
            report_path=job.report_path,
            baseline=job.baseline,
            workers=job.workers,
            deadline=job.deadline,
        )
        with progress_bar(stream) as move, closing(images):
            log = log_lines(None if self.quiet else self.stderr, total)
            try:
                for image in images:
                    with uninterrupted():
                        self._take(image)
                    move(self.tally.total, total, _so_far(self.tally))
                    log(self.tally.total, _so_far(self.tally))
                    left = total - self.tally.total
                    if job.max_failures and left and self.tally.failures(self.fail_on) >= job.max_failures:
                        return Stop.MAX_FAILURES
            except OutOfTime:
                return Stop.TIMEOUT
        return None

    def _take(self, image: CheckedImage) -> None:
        verdict = image.verdict
        accepted = image.status is ImageStatus.ACCEPTED
        self.tally.add(verdict, accepted=accepted)
        self.counts[image.status] += 1
        self.cached += verdict.cached
        self.baseline_use.add(image)
        if not verdict.outcome.judged and not accepted and len(self.unjudged) < MAX_LISTED:
            self.unjudged.append(verdict)
        self.reports.add(image)
        if not self.only_blocked or (not verdict.allowed and not accepted):
            self._write(lambda writer: writer.add(verdict, accepted=accepted))

    def _write(self, action: Callable[[Writer], None]) -> None:
        """Print; if that fails, go on for the sake of the reports, if there are any."""
        if self._writer is None:
            return
        try:
            action(self._writer)
            self.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self.reports:
                raise
            self._writer = None
            self.problems.append(f"the output cannot be written: {error.strerror or error}")
            if self.stdout is sys.stdout:
                forget_stdout()

    def _print_problems(self) -> None:
        """Print each problem once; a progress bar must not be on the screen."""
        for problem in (*self.problems, *self.reports.problems):
            if problem not in self._printed_problems:
                self._printed_problems.add(problem)
                print_error(problem)

    def _code(self, stop: Stop | None) -> ExitCode:
        code = self.tally.exit_code(self.fail_on)
        if code is ExitCode.OK and (stop is not None or self.job.unchecked):
            code = ExitCode.UNJUDGED
        return ExitCode.USAGE if self.problems or self.reports.problems else code

    def _finish(self, code: ExitCode, seconds: float, stop: Stop | None) -> ExitCode:
        job = self.job
        reason = "" if stop is None else _NOT_REACHED[stop]
        unreached = (Unchecked(job.report_path(name), reason) for name in _names(job, start=self.tally.total))
        reported = len(self.reports.problems)
        stale = self.baseline_use.stale(whole=job.whole and stop is None and not job.unchecked)
        summary = RunSummary(
            counts={status: self.counts[status] for status in ImageStatus},
            seconds=seconds,
            model=job.guard.backend.model,
            policies=tuple(info.policy for info in job.info.policies),
            exit_code=code,
            stopped=stop,
            unchecked=(*job.unchecked, *unreached),
            problems=(*self.problems, *self.reports.problems),
            ignored=job.ignored,
            cached=self.cached,
            stale=stale,
        )
        self.reports.finish(summary)
        self._print_problems()
        if len(self.reports.problems) > reported and code in (
            ExitCode.OK,
            ExitCode.BLOCKED,
            ExitCode.UNJUDGED,
        ):
            code = ExitCode.USAGE
        if self._started:
            if not self.quiet:
                _print_summary(summary, self.tally, job.images, job.guard.stats(), self.stderr)
            if self.fail_on is FailOn.NEVER and self.tally.actions[Action.BLOCK]:
                print("note: blocked images do not fail this run: --fail-on never", file=self.stderr)
        _print_baseline_notes(self.baseline_use.expired, stale, self.stderr)
        if (
            self.unjudged
            and stop is None
            and (self.style is not Format.TEXT or self.tally.total > MAX_LISTED)
        ):
            named = [(verdict.source, verdict.reason or verdict.outcome) for verdict in self.unjudged]
            print_unjudged(named, self.tally.unjudged.total(), self.stderr)
        if job.unchecked:
            _print_unchecked(job.unchecked, self.stderr)
        return code


def _names(job: Job, *, start: int = 0) -> Iterator[str]:
    """The names of all images from number ``start`` on, in the order of the run."""
    names = (item.name for item in chain.from_iterable(group.items for group in job.groups))
    return islice(names, start, None)


def _so_far(tally: Tally) -> str:
    return f"{tally.actions[Action.BLOCK]:,} blocked, {tally.unjudged.total():,} not judged"


def _print_summary(summary: RunSummary, tally: Tally, images: int, stats: GuardStats, stderr: TextIO) -> None:
    done = f"{tally.total:,} image{'' if tally.total == 1 else 's'}"
    if summary.stopped is not None:
        done = f"stopped after {done} of {images:,}"
        if summary.stopped in (Stop.TIMEOUT, Stop.MAX_FAILURES):
            done += f" ({summary.stopped})"
    line = (
        f"{done} in {summary.seconds:.1f} s with {printable(summary.model.id)}: "
        f"{tally.actions[Action.ALLOW]:,} allowed, {tally.actions[Action.FLAG]:,} flagged, "
        f"{tally.actions[Action.BLOCK]:,} blocked"
    )
    if unjudged := tally.unjudged.total():
        passed = unjudged - tally.unjudged[Action.BLOCK]
        line += f"; {unjudged:,} could not be judged" + (
            f" ({passed:,} of them not blocked)" if passed else ""
        )
    if tally.accepted:
        line += f"; {tally.accepted:,} accepted by the baseline"
    if summary.unchecked:
        line += f"; {len(summary.unchecked):,} not checked"
    if summary.cached:
        line += f"; {summary.cached:,} known from the cache"
    if stats.requests:
        line += f"; {stats.requests:,} request{'' if stats.requests == 1 else 's'}"
    if stats.tokens_in or stats.tokens_out:
        line += f", {stats.tokens_in:,} tokens in and {stats.tokens_out:,} out"
    print(line, file=stderr)


def _print_unchecked(unchecked: Sequence[Unchecked], stderr: TextIO) -> None:
    print("not checked:", file=stderr)
    for item in unchecked[:MAX_LISTED]:
        print(f"  {printable(item.path)}: {one_line(item.reason)}", file=stderr)
    if len(unchecked) > MAX_LISTED:
        print(f"  ... and {len(unchecked) - MAX_LISTED:,} more", file=stderr)


def _print_baseline_notes(
    expired: Sequence[tuple[str, BaselineEntry]], stale: Sequence[BaselineEntry], stderr: TextIO
) -> None:
    for path, entry in expired[:_MAX_NAMED]:
        print(
            f"note: {printable(path)}: was accepted until {entry.until} by {printable(entry.by)}", file=stderr
        )
    if len(expired) > _MAX_NAMED:
        print(f"note: ... and {len(expired) - _MAX_NAMED:,} more have expired", file=stderr)
    if stale:
        paths = ", ".join(printable(entry.path) for entry in stale[:_MAX_NAMED])
        more = ", ..." if len(stale) > _MAX_NAMED else ""
        entries = "1 baseline entry accepts" if len(stale) == 1 else f"{len(stale):,} baseline entries accept"
        print(f"note: {entries} nothing any more ({paths}{more})", file=stderr)
