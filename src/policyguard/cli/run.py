"""A run: many images through guards, printed as they come, reported, summed up in one exit code.

Data goes to ``stdout``; progress, summary and what could not be judged go to ``stderr``. However a run ends,
what it found until then is printed and reported, and what it did not get to is named.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from time import perf_counter
from typing import TextIO

from policyguard.cli.errors import forget_stdout, print_error
from policyguard.cli.options import Format
from policyguard.cli.output import Writer, open_writer
from policyguard.cli.progress import log_lines, progress_bar, uninterrupted, waiting
from policyguard.outcomes import Action
from policyguard.runs.engine import OutOfTime, check_groups
from policyguard.runs.exits import ExitCode, FailOn, Tally
from policyguard.runs.job import Job
from policyguard.runs.reporting import Reports
from policyguard.runs.run import CheckedImage, ImageStatus, RunSummary, Stop, Unchecked
from policyguard.runs.stale import Seen
from policyguard.strict.text import is_terminal, one_line, printable
from policyguard.verdict import Verdict

__all__ = ["run_check"]

_LISTED = 20
"""How many images that could not be judged are named below the summary; the data names them all."""

_NOT_REACHED = {
    Stop.MAX_FAILURES: "the run had found as many failures as it may",
    Stop.TIMEOUT: "the run was out of time",
    Stop.INTERRUPT: "the run was interrupted",
    Stop.ERROR: "the run broke off",
}


def run_check(
    job: Job,
    *,
    style: Format = Format.TEXT,
    fail_on: FailOn = FailOn.BLOCK,
    reports: Reports | None = None,
    stdout: TextIO,
    stderr: TextIO,
) -> ExitCode:
    """Check the images of ``job`` in order and say how it went. Raises UsageError for a set-up that is wrong.

    A KeyboardInterrupt passes through, after what is already printed and reported has been closed properly.
    """
    run = _Run(job, style=style, fail_on=fail_on, reports=reports, stdout=stdout, stderr=stderr)
    return run.to_its_end()


class _Run:
    def __init__(
        self,
        job: Job,
        *,
        style: Format,
        fail_on: FailOn,
        reports: Reports | None,
        stdout: TextIO,
        stderr: TextIO,
    ) -> None:
        self.job, self.style, self.fail_on = job, style, fail_on
        self.reports = reports if reports is not None else Reports()
        self.stdout, self.stderr = stdout, stderr
        self.tally = Tally()
        self.counts: Counter[ImageStatus] = Counter()
        self.cached = 0
        self.broken: list[Verdict] = []
        self.seen = Seen(job.baseline)
        self.problems = list(job.problems)
        self._began = False
        self._told: set[str] = set()
        self._writer: Writer | None = open_writer(style, stdout, _names(job), count=job.images)

    def to_its_end(self) -> ExitCode:
        started = perf_counter()
        self._tell()
        self.reports.begin(self.job.info)
        stop: Stop | None = None
        try:
            if self.job.images:
                with waiting("loading the guard model", self.stderr):
                    self.job.guard.warm()
            self._began = True
            stop = self._check()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with uninterrupted():
                # An empty list would read like a run without findings; only one stopped at once may say so.
                if (self.tally.total or interrupted) and self._writer is not None:
                    with suppress(OSError):  # the reports are to be finished all the same
                        self._writer.close()
                code = ExitCode.INTERRUPTED if interrupted else ExitCode.USAGE
                code = ExitCode.BROKEN_PIPE if isinstance(error, BrokenPipeError) else code
                stop = Stop.INTERRUPT if interrupted else Stop.ERROR
                self._finish(code, perf_counter() - started, stop)
            raise
        self._printed(lambda writer: writer.close())
        return self._finish(self._code(stop), perf_counter() - started, stop)

    def _check(self) -> Stop | None:
        # On one terminal, a bar and a stream of lines would get into each other's way.
        shared = is_terminal(self.stdout) and self.style is not Format.TEXT
        job, total = self.job, self.job.images
        images = check_groups(
            job.groups, shown=job.shown, baseline=job.baseline, workers=job.workers, deadline=job.deadline
        )
        with progress_bar(None if shared else self.stderr) as move, closing(images):
            log = log_lines(self.stderr, total)
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
        self.seen.add(image)
        if not verdict.outcome.judged and not accepted and len(self.broken) < _LISTED:
            self.broken.append(verdict)
        self.reports.add(image)
        self._printed(lambda writer: writer.add(verdict, accepted=accepted))

    def _printed(self, do: Callable[[Writer], None]) -> None:
        """Print; when that fails, go on for the reports, if there are any."""
        if self._writer is None:
            return
        try:
            do(self._writer)
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

    def _tell(self) -> None:
        """Each problem once, as soon as it can be said without getting into a bar's way."""
        for problem in (*self.problems, *self.reports.problems):
            if problem not in self._told:
                self._told.add(problem)
                print_error(problem)

    def _code(self, stop: Stop | None) -> ExitCode:
        code = self.tally.exit_code(self.fail_on)
        if code is ExitCode.OK and (stop is not None or self.job.unchecked):
            code = ExitCode.UNJUDGED
        return ExitCode.USAGE if self.problems or self.reports.problems else code

    def _finish(self, code: ExitCode, seconds: float, stop: Stop | None) -> ExitCode:
        job = self.job
        why = "" if stop is None else _NOT_REACHED[stop]
        left = (Unchecked(job.shown(name), why) for name in _names(job, start=self.tally.total))
        known = len(self.reports.problems)
        stale = self.seen.stale(whole=job.whole and stop is None and not job.unchecked)
        summary = RunSummary(
            counts={status: self.counts[status] for status in ImageStatus},
            seconds=seconds,
            model=job.guard.backend.model,
            policies=tuple(info.policy for info in job.info.policies),
            exit_code=code,
            stopped=stop,
            unchecked=(*job.unchecked, *left),
            problems=(*self.problems, *self.reports.problems),
            ignored=job.ignored,
            cached=self.cached,
            stale=stale,
        )
        self.reports.finish(summary)
        self._tell()
        if len(self.reports.problems) > known and code in (ExitCode.OK, ExitCode.BLOCKED, ExitCode.UNJUDGED):
            code = ExitCode.USAGE
        if self._began:
            _summarise(summary, self.tally, job.images, self.stderr)
            if self.fail_on is FailOn.NEVER and self.tally.actions[Action.BLOCK]:
                print("note: what is blocked does not fail this run: --fail-on never", file=self.stderr)
        self.seen.tell(stale, stderr=self.stderr)
        if self.broken and stop is None and (self.style is not Format.TEXT or self.tally.total > _LISTED):
            _list_unjudged(self.broken, self.tally.unjudged.total(), self.stderr)
        if job.unchecked:
            _list_unchecked(job.unchecked, self.stderr)
        return code


def _names(job: Job, *, start: int = 0) -> Iterator[str]:
    """The names of all images from the ``start``-th on, in the order of the run."""
    names = (item.name for item in chain.from_iterable(group.items for group in job.groups))
    for number, name in enumerate(names):
        if number >= start:
            yield name


def _so_far(tally: Tally) -> str:
    return f"{tally.actions[Action.BLOCK]:,} blocked, {tally.unjudged.total():,} not judged"


def _summarise(summary: RunSummary, tally: Tally, images: int, stderr: TextIO) -> None:
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
    print(line, file=stderr)


def _list_unjudged(broken: Sequence[Verdict], total: int, stderr: TextIO) -> None:
    print("could not be judged:", file=stderr)
    for verdict in broken:
        print(f"  {printable(verdict.source)}: {one_line(verdict.reason or verdict.outcome)}", file=stderr)
    if total > len(broken):
        print(f"  ... and {total - len(broken):,} more", file=stderr)


def _list_unchecked(unchecked: Sequence[Unchecked], stderr: TextIO) -> None:
    print("not checked:", file=stderr)
    for item in unchecked[:_LISTED]:
        print(f"  {printable(item.path)}: {one_line(item.reason)}", file=stderr)
    if len(unchecked) > _LISTED:
        print(f"  ... and {len(unchecked) - _LISTED:,} more", file=stderr)
