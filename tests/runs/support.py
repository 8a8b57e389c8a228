"""A project in a folder, checked as ``policyguard check`` does, by a backend that answers with a red."""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cli.support import picture, red
from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.runs.baseline import BASELINE_FILE, BaselineEntry, write_baseline
from policyguard.runs.exits import ExitCode
from policyguard.runs.job import build_job
from policyguard.runs.project import find_project
from policyguard.runs.reports.registry import Reports
from policyguard.runs.run import CheckedImage, RunInfo, RunSummary
from policyguard.runs.selection import select_images
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


TWO = """\
policy = "./base.yaml"
[[policies]]
paths = ["avatars/", "!avatars/drafts/"]
policy = "./avatars.yaml"
[[policies]]
paths = "*-ad.png"
policy = ["./ads.yaml"]
"""
TODAY = datetime.now(UTC).date()
EXAMPLES = Path(__file__).parents[2] / "examples" / "images"
posix = pytest.mark.skipif(os.name == "nt", reason="devices and signals as on POSIX")


class Checked:
    """What one check printed, and how it ended."""

    def __init__(self, code: ExitCode, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.verdicts: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]

    @property
    def sources(self) -> list[str]:
        return [verdict["source"] for verdict in self.verdicts]


def check_project(
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
    job = build_job(settings, selected, backend=backend or FakeBackend(red, preferred_batch=1))
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


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "more")


def entry(**changes: object) -> BaselineEntry:
    made = BaselineEntry(
        path="bad.png",
        policy="house",
        sha256=sha256(picture(255)).hexdigest(),
        rules=("arms",),
        until=TODAY,
        by="Ann",
        reason="a museum piece",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def accept(*entries: BaselineEntry) -> None:
    write_baseline(Path(BASELINE_FILE), entries)


class Recorded:
    """A report that remembers what it was told; ``fails`` names the call that ends in ``error``."""

    def __init__(self, fails: str = "", error: Exception | None = None) -> None:
        self.run: RunInfo | None = None
        self.images: list[CheckedImage] = []
        self.summary: RunSummary | None = None
        self._fails = fails
        self._error = error or OSError(28, os.strerror(28))

    def begin(self, run: RunInfo) -> None:
        self.run = run
        self._write("begin")

    def add(self, image: CheckedImage) -> None:
        self.images.append(image)
        self._write("add")

    def finish(self, summary: RunSummary) -> None:
        self._write("finish")
        self.summary = summary

    def _write(self, call: str) -> None:
        if call == self._fails:
            raise self._error


def reported(*paths: str, report: Recorded, **options: object) -> Checked:
    return check_project(*paths, reports=Reports({"recorded": report}), **options)  # type: ignore[arg-type]
