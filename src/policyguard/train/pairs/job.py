"""The job: check, edit, check again, keep; one finished pair after the other on the disk.

A pair is kept only if the guard finds that the twin complies and the edit is local. An image that fails is
reported, has no line, and is tried again by the next run; a pair that is kept is not checked again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.errors import ConfigurationError, ImageError, Problem
from policyguard.images import decode
from policyguard.outcomes import Outcome
from policyguard.strict.files import write_bytes
from policyguard.train.data import Label
from policyguard.train.importers.images import ENDINGS
from policyguard.train.pairs.candidate import (
    CANDIDATES,
    Candidate,
    EditError,
    Editor,
    Labels,
    Order,
    order_for,
    read_candidates,
)
from policyguard.train.pairs.difference import Difference, Limits, compare, edit_problem
from policyguard.train.recaption.chat import png_of
from policyguard.train.recaption.job import Task, run_workers
from policyguard.verdict import Verdict

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = ["Report", "make_pairs"]

Progress = Callable[[int, int | None, str], None]


@dataclass(slots=True)
class Report:
    """How it went. ``complied``: images with nothing to remove; ``reused``: pairs of earlier runs."""

    images: int = 0
    made: int = 0
    reused: int = 0
    complied: int = 0
    edits: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The summary for people."""
        lines = [f"{self.made:,} pairs from {self.images:,} images, with {self.edits:,} edits"]
        if self.reused:
            lines.append(f"{self.reused:,} pairs were made by an earlier run")
        if self.complied:
            lines.append(f"{self.complied:,} images comply, and have nothing to take out")
        if self.problems:
            lines.append(f"{len(self.problems):,} images gave no pair; start again to try them once more")
        return lines


@dataclass(slots=True)
class _Job:
    guards: Mapping[str, Guard]
    editor: Editor
    out: Path
    limits: Limits
    attempts: int
    report: Report

    @property
    def target(self) -> str:
        return next(iter(self.guards))

    async def pair(self, task: Task, name: str, data: bytes) -> Candidate | None:
        """One image; ``None`` if it complies. Raises EditError and ImageError, which concern this image."""
        original = await asyncio.to_thread(decode, data)
        if len(original.frames) != 1:
            raise EditError("it is animated or transparent, and has no single image to edit")
        frame = original.frames[0]
        guard = self.guards[self.target]
        verdict = await guard.acheck(data, explain=True)
        if verdict.outcome is Outcome.COMPLIES:
            return None
        if verdict.outcome is not Outcome.VIOLATES:
            raise EditError(f"the guard could not judge it: {verdict.reason or verdict.outcome}")
        order = order_for(frame, original.sha256, guard.policies[0], verdict)
        made, difference, order = await self._edit(order)
        labels = {self.target: Labels(before="unsafe", after="safe")}  # as both have just been judged
        for policy, other in [*self.guards.items()][1:]:
            judged = [_label(await other.acheck(image)) for image in (data, made)]
            labels[policy] = Labels(before=judged[0], after=judged[1])
        before, after = f"images/{name}.{ENDINGS[original.format or 'PNG']}", f"images/{name}_edited.png"
        await asyncio.to_thread(write_bytes, self.out / before, data)
        await asyncio.to_thread(write_bytes, self.out / after, made)
        return Candidate(
            id=name,
            before=before,
            after=after,
            before_sha256=original.sha256,
            after_sha256=hashlib.sha256(made).hexdigest(),
            source=task.source,
            licence=task.licence,
            split=task.split,
            policy=self.target,
            rules=list(order.rules),
            labels=labels,
            editor=self.editor.name,
            guard=guard.backend.model.id,
            instruction=order.instruction,
            attempts=order.attempt + 1,
            **{measure: round(value, 4) for measure, value in asdict(difference).items()},
        )

    async def _edit(self, order: Order) -> tuple[bytes, Difference, Order]:
        """The twin as PNG, once it passes. Raises EditError with what was wrong with the last attempt."""
        last_problem = "no attempt was made"
        for _ in range(self.attempts):
            self.report.edits += 1
            edited = (await self.editor.edit(order)).convert("RGB")
            if edited.size != order.frame.size:
                edited = edited.resize(order.frame.size)
            difference = await asyncio.to_thread(compare, order.frame, edited)
            problem = edit_problem(difference, self.limits)
            if problem is None:
                data = await asyncio.to_thread(png_of, edited)
                verdict = await self.guards[self.target].acheck(data)
                if verdict.outcome is Outcome.COMPLIES:
                    return data, difference, order
                problem = _describe(verdict)
            last_problem, order = problem, order.again(problem)
        raise EditError(f"no edit passed in {self.attempts} attempts; the last: {last_problem}")


async def make_pairs(
    tasks: Sequence[Task],
    out: Path,
    *,
    guards: Mapping[str, Guard],
    editor: Editor,
    limits: Limits | None = None,
    attempts: int = 3,
    workers: int = 4,
    progress: Progress = lambda done, total, words: None,
) -> Report:
    """Write pairs into the folder ``out``.

    ``guards``: policy -> a guard of that one policy. The first is the one to edit for; under the others both
    images are labelled only. Raises ConfigurationError for a wrong set-up; finished pairs stay.
    """
    if not guards or any(len(guard.policies) != 1 for guard in guards.values()):
        raise ConfigurationError("pairs need at least one guard, and each of them one policy")
    report = Report(images=len(tasks))
    job = _Job(guards, editor, out, limits or Limits(), attempts, report)
    known = {candidate.id for candidate in read_candidates(out)} if (out / CANDIDATES).exists() else set()
    waiting = _pending(tasks, job, known)

    async def work() -> None:
        for task, name, data in waiting:
            try:
                candidate = await job.pair(task, name, data)
            except (EditError, ImageError) as error:
                report.problems.append(Problem(str(error).splitlines()[0], str(task.path)))
            else:
                if candidate is None:
                    report.complied += 1
                else:
                    _append(out / CANDIDATES, candidate)
                    report.made += 1
            done = report.made + report.reused + report.complied + len(report.problems)
            progress(done, len(tasks), f"{report.made:,} pairs, {len(report.problems):,} without one")

    await run_workers(work, workers)
    return report


def _pending(tasks: Sequence[Task], job: _Job, known: set[str]) -> Iterator[tuple[Task, str, bytes]]:
    """Images that have no pair yet, each once, with the name of the pair."""
    for task in tasks:
        try:
            data = task.path.read_bytes()
        except OSError as error:
            job.report.problems.append(Problem(error.strerror or str(error), str(task.path)))
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if task.sha256 is not None and task.sha256 != sha256:
            message = "the file is not the one that `sha256` names"
            job.report.problems.append(Problem(message, str(task.path)))
            continue
        made = hashlib.sha256(f"{sha256}/{job.target}/{job.editor.name}".encode()).hexdigest()[:16]
        if made in known:
            job.report.reused += 1
            continue
        known.add(made)
        yield task, made, data


def _append(path: Path, candidate: Candidate) -> None:
    """One more line, on the disk on return. What a kill left of an unfinished line goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write((json.dumps(candidate.model_dump(mode="json", exclude_none=True)) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _label(verdict: Verdict) -> Label | None:
    """The guard's label, if it judged the image."""
    if not verdict.outcome.judged:
        return None
    return "unsafe" if verdict.outcome is Outcome.VIOLATES else "safe"


def _describe(verdict: Verdict) -> str:
    if verdict.outcome is not Outcome.VIOLATES:
        return f"the guard could not judge the twin ({verdict.reason or verdict.outcome})"
    broken = ", ".join(finding.title for finding in verdict.findings if finding.violates)
    return f"the twin still violates ({broken})"
