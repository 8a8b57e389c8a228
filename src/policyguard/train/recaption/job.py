"""The job: two steps per image, a few images at a time, one finished row after the other on the disk.

The rows are the journal: a row is written, and on the disk, as soon as its image is done, so a job that is
killed loses what it was working on and nothing else. Started again, it goes on with the images that have no
row yet.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.errors import ConfigurationError, ImageError, Problem
from policyguard.strict.files import sha256_of
from policyguard.train.data import CaptionRow, Split, append_rows, read_rows, write_rows
from policyguard.train.recaption.chat import Chat, ChatError, Reply, ServerDownError
from policyguard.train.recaption.checks import caption_problem, edit_problem, kept_share
from policyguard.train.recaption.prompts import PROMPT_VERSION, Mode, caption_request, edit_request
from policyguard.train.recipe import Checks
from policyguard.train.rows import open_frame

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["Report", "Task", "recaption", "run_workers"]

Progress = Callable[[int, int | None, str], None]
_DOWN_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Task:
    """One image to caption, with its provenance. ``sha256``: if it is known, the file must have it."""

    path: Path
    source: str
    licence: str
    sha256: str | None = None
    split: Split | None = None


@dataclass(slots=True)
class Report:
    """How it went. ``reused``: rows of earlier runs. ``rejected``: why answers were, also those that a retry
    replaced. ``tokens``: (model, "in" or "out") -> count, where models count.
    """

    out: Path
    images: int = 0
    reused: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def words(self) -> str:
        """The text beside a progress bar."""
        rate = self.statuses.total() / self.seconds if self.seconds else 0.0
        spent = sum(count for (_, way), count in self.tokens.items() if way == "out")
        kept = f"{self.statuses['kept']:,} kept as they were"
        return f"{rate:.2f} images/s, {spent:,} tokens written, {kept}"

    @property
    def lines(self) -> list[str]:
        """The summary for people."""
        done = self.statuses.total()
        rate = done / self.seconds if self.seconds else 0.0
        open_, took = self.images - self.reused, f"{self.seconds:.1f} s ({rate:.2f} images/s)"
        how = f"{self.statuses['edited']:,} edited, {self.statuses['kept']:,} left with the base caption"
        lines = [f"{done:,} of {open_:,} images captioned in {took}: {how}"]
        if self.reused:
            lines.append(f"{self.reused:,} were done already")
        lines += [
            f"{model}: {self.tokens[model, 'in']:,} tokens read, {self.tokens[model, 'out']:,} written"
            for model in sorted({model for model, _ in self.tokens})
        ]
        if self.rejected:
            lines.append(
                "answers rejected: " + ", ".join(f"{n:,} {why}" for why, n in self.rejected.most_common())
            )
        if self.problems:
            lines.append(f"{len(self.problems):,} images have no caption; start again to try them once more")
        return lines


@dataclass(slots=True)
class _Job:
    captioner: Chat
    editor: Chat
    mode: Mode
    request: str
    checks: Checks
    out: Path
    report: Report

    async def row(self, task: Task, seed: int) -> CaptionRow:
        """Both steps for one image. Raises ChatError, ImageError and OSError, which concern this image."""
        sha256, frame = await asyncio.to_thread(_open, task)
        base = await self._caption(frame, seed)
        edited = await self._edit(base, frame, seed)
        caption = base if edited is None else edited
        return CaptionRow(
            image=_relative(task.path, self.out.parent),
            sha256=sha256,
            source=task.source,
            licence=task.licence,
            split=task.split,
            prompt=self.request,
            caption=caption,
            base_caption=base,
            status="kept" if edited is None else "edited",
            kept_share=round(kept_share(base, caption), 4),
            captioner=self.captioner.model,
            editor=self.editor.model,
            mode=f"{self.mode}/{PROMPT_VERSION}",
        )

    async def _caption(self, frame: PILImage, seed: int) -> str:
        problem: str | None = None
        for attempt in range(self.checks.retries + 1):
            reply = await self._ask(self.captioner, caption_request(self.request, frame), seed + attempt)
            problem = caption_problem(reply)
            if problem is None:
                return reply.text
            self.report.rejected[f"base {problem}"] += 1
        raise ChatError(f"{self.captioner.model} gave no base caption: {problem}")

    async def _edit(self, base: str, frame: PILImage, seed: int) -> str | None:
        """The edit, or ``None`` if no attempt passed the checks."""
        for attempt in range(self.checks.retries + 1):
            reply = await self._ask(self.editor, edit_request(self.mode, base, frame), seed + attempt)
            problem = edit_problem(base, reply, self.checks)
            if problem is None:
                return reply.text
            self.report.rejected[f"edit {problem}"] += 1
        return None

    async def _ask(self, chat: Chat, messages: Any, seed: int) -> Reply:
        reply = await chat.reply(messages, seed=seed)
        self.report.tokens[chat.model, "in"] += reply.prompt_tokens or 0
        self.report.tokens[chat.model, "out"] += reply.answer_tokens or 0
        return Reply(reply.text.strip(), reply.prompt_tokens, reply.answer_tokens, reply.cut)


async def recaption(
    tasks: Sequence[Task],
    out: Path,
    *,
    captioner: Chat,
    editor: Chat,
    mode: Mode,
    request: str,
    checks: Checks | None = None,
    workers: int = 8,
    seed: int = 0,
    progress: Progress = lambda done, total, words: None,
) -> Report:
    """Write one ``CaptionRow`` per image to ``out``, ``workers`` images at a time.

    An image that gives no caption is in the report's ``problems`` and has no row. Raises ConfigurationError
    for what is wrong with the set-up, also in the middle; finished rows stay.
    """
    report = Report(out, images=len(tasks))
    job = _Job(captioner, editor, mode, request, checks or Checks(), out, report)
    done = await asyncio.to_thread(_earlier, job)
    started = time.perf_counter()
    waiting = _pending(tasks, done, report)
    down: list[str] = []

    async def work() -> None:
        for number, task in waiting:
            try:
                row = await job.row(task, seed + 1000 * number)
            except ServerDownError as error:
                down.append(str(error))
                report.problems.append(Problem(str(error), str(task.path)))
                if len(down) >= _DOWN_IN_A_ROW:
                    raise ConfigurationError(
                        f"stopped: {error}",
                        hint=f"{report.statuses.total() + report.reused:,} finished rows are in {out}; "
                        "start the same command again when the server is up",
                    ) from None
            except (ChatError, ImageError, OSError) as error:
                report.problems.append(Problem(str(error).splitlines()[0], str(task.path)))
            else:
                down.clear()
                if row.sha256 in done:  # the same image under two names
                    report.reused += 1
                    continue
                done.add(row.sha256)
                append_rows(out, [row])
                report.statuses[row.status] += 1
            report.seconds = time.perf_counter() - started
            finished = report.reused + report.statuses.total() + len(report.problems)
            progress(finished, len(tasks), report.words)

    try:
        await run_workers(work, workers)
    finally:
        report.seconds = time.perf_counter() - started
    return report


async def run_workers(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run ``work`` ``count`` times at once; the first error of one ends all, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, count)):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _pending(tasks: Sequence[Task], done: set[str], report: Report) -> Iterator[tuple[int, Task]]:
    for number, task in enumerate(tasks):
        try:
            known = task.sha256 or sha256_of(task.path)
        except OSError as error:
            report.problems.append(Problem(error.strerror or str(error), str(task.path)))
            continue
        if known in done:
            report.reused += 1
        else:
            yield number, task


def _open(task: Task) -> tuple[str, PILImage]:
    sha256 = sha256_of(task.path)
    if task.sha256 is not None and sha256 != task.sha256:
        raise ImageError(f"{task.path}: the file is not the one that `sha256` names")
    return sha256, open_frame(task.path)


def _earlier(job: _Job) -> set[str]:
    """Hashes of the images that have a row. Raises ConfigurationError if those are of another kind."""
    if not job.out.exists():
        return set()
    read = read_rows(job.out, CaptionRow)
    ended = job.out.read_bytes().endswith(b"\n")
    last = max((problem.line or 0 for problem in read.problems), default=0)
    if read.problems and (ended or {problem.line for problem in read.problems} != {last}):
        raise ConfigurationError(
            "\n".join([f"{job.out} holds lines that are not rows:", *map(str, read.problems[:10])]),
            hint="fix or remove them, or name another file",
        )
    if read.problems:  # a kill cut the last line short; its image is done again
        write_rows(job.out, read.rows)
    made = (job.captioner.model, job.editor.model, f"{job.mode}/{PROMPT_VERSION}", job.request)
    for row in read.rows:
        if (row.captioner, row.editor, row.mode, row.prompt) != made:
            raise ConfigurationError(
                f"{job.out} holds captions of {row.captioner} edited by {row.editor} ({row.mode}), and this "
                f"run has {made[0]} edited by {made[1]} ({made[2]}), or another request",
                hint="name another file for these",
            )
    return {row.sha256 for row in read.rows}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
