"""Runs to look at, pictures to check, and a score that is the red of the first pixel."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image as Pictures

import policyguard
from policyguard import Guard, Policy
from policyguard.backends.base import AssessmentRequest
from policyguard.cli.run import run_check
from policyguard.policy import parse_policy
from policyguard.runs.exits import ExitCode
from policyguard.runs.job import Job
from policyguard.runs.sources import Source

Captured = pytest.CaptureFixture[str]
GOOD = """\
id: house
version: 1.0.0
title: House rules
description: What our shop shows.
owner: The shop
licence: CC-BY-4.0
rules:
  - id: arms
    title: Arms
    unsafe: [weapons]
    safe: [toys]
    threshold: 0.6
    action: flag
defaults:
  threshold: 0.7
"""
LAYER = """\
id: shop
version: 1.0.0
title: Shop
owner: The shop
extends: good.yaml
overrides:
  arms:
    safe:
      add: [replicas on a wall]
    weakens: Collectors want to see them.
"""


class Terminal(io.StringIO):
    """A text stream that says that a person is watching."""

    def isatty(self) -> bool:
        return True


class Run:
    """What one run printed, and how it ended."""

    def __init__(self, guard: Guard, sources: list[Source], *, terminal: bool, **options: Any) -> None:
        self.stdout: io.StringIO = Terminal() if terminal else io.StringIO()
        self.stderr: io.StringIO = Terminal() if terminal else io.StringIO()
        self.raised: BaseException | None = None
        self.code: ExitCode | None = None
        try:
            self.code = run_check(Job.of(guard, sources), stdout=self.stdout, stderr=self.stderr, **options)
        except BaseException as error:
            self.raised = error

    @property
    def out(self) -> str:
        return self.stdout.getvalue()

    @property
    def err(self) -> str:
        return self.stderr.getvalue()


def picture(red: int = 0) -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def red(request: AssessmentRequest) -> float:
    pixel = request.frame.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return float(pixel[0]) / 255


def house_rules(**changes: Any) -> Policy:
    rules = [{"id": "arms", "title": "Arms", "unsafe": ["weapons"], "safe": ["toys"]}]
    return parse_policy({"id": "house", "version": "1.0.0", "title": "House rules", "rules": rules} | changes)


def environment() -> dict[str, str]:
    source = str(Path(policyguard.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "COLUMNS": "80"}


def program(*arguments: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "policyguard", *arguments]
    pipe = subprocess.PIPE
    return subprocess.run(command_line, stdout=stdout, stderr=pipe, text=True, env=environment(), check=False)
