"""A project in a folder, checked as ``policyguard check`` does, by a backend that answers with a red."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

from cli.support import picture, red
from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.runs.exits import ExitCode
from policyguard.runs.job import build_job
from policyguard.runs.selection import select_images
from policyguard.runs.project import find_project
from policyguard.runs.reports.registry import Reports
from policyguard.runs.settings import Flags, merge_settings
from policyguard.testing import FakeBackend

POLICY = """\
id: {id}
version: 1.0.0
title: House rules
rules:
  - id: arms
    title: Arms
    unsafe: [weapons]
"""


class Checked:
    """What one check printed, and how it ended."""

    def __init__(self, code: ExitCode, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.verdicts: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]

    @property
    def sources(self) -> list[str]:
        return [verdict["source"] for verdict in self.verdicts]


def check(
    *paths: str,
    backend: FakeBackend | None = None,
    changed_since: str | None = None,
    allow_empty: bool = False,
    config: Path | None = None,
    reports: Reports | None = None,
    stdout: io.TextIOBase | None = None,
    **flags: Any,
) -> Checked:
    """Check the project of the current folder."""
    out, err = io.StringIO(), io.StringIO()
    settings = merge_settings(Flags(**flags), find_project(config))
    selected = select_images(paths, settings, changed_since=changed_since, allow_empty=allow_empty)
    whole = not paths and changed_since is None
    job = build_job(settings, selected, whole=whole, backend=backend or FakeBackend(red, preferred_batch=1))
    code = run_check(
        job,
        style=Format.JSONL,
        fail_on=settings.fail_on,
        reports=reports,
        stdout=stdout or out,  # type: ignore[arg-type]
        stderr=err,
    )
    notes = "".join(f"note: {note}\n" for note in (*selected.notes, *job.notes))
    return Checked(code, out.getvalue(), notes + err.getvalue())


def write(root: Path, **files: str | bytes) -> None:
    """Files by name, ``__`` standing for a slash and ``_dot_`` for a dot."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def pictures(root: Path, *names: str, score: int = 0) -> None:
    """PNGs that the backend gives ``score`` / 255."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(score))


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *arguments],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
