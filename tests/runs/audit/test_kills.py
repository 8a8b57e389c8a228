"""An audit that is killed at any moment goes on, and ends in the files of one that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import house_rules, red
from policyguard.runs.audit import rows as rows_module
from policyguard.runs.audit.rows import Audit, Place
from policyguard.runs.audit.run import Set, Work, left, local, resume, start
from policyguard.testing import FakeBackend
from runs.audit.support import contents, folder_of, keys, made_of, rows, run, shot, spec
from support.examples import ROOT, example


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def at(count: int, then: Callable[..., Any], before: Callable[..., Any] = die) -> Callable[..., Any]:
    """``then``, but ``before`` in place of its call number ``count``."""
    left_over = count

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left_over
        left_over -= 1
        return (before if left_over == 0 else then)(*args, **kwargs)

    return call


def disturbed(root: Path, moment: str) -> None:
    """Begin or resume the audit in ``root``, and die at ``moment``. Runs in a process of its own."""
    found = spec("photos", root=root, per_part=5)
    answer: Callable[..., Any] = red
    write = Place.write

    def written(*args: Any) -> None:
        write(*args)
        die()

    if moment == "planning":
        rows_module._as_dict = at(3, rows_module._as_dict)  # type: ignore[attr-defined]
    elif moment == "manifest":
        Place.write = die  # type: ignore[method-assign]
    elif moment == "judging":
        answer = at(8, red)
    elif moment == "writing":
        Path.replace = at(2, Path.replace)  # type: ignore[method-assign]
    elif moment == "written":
        Place.write = at(2, write, written)  # type: ignore[method-assign]
    made = Set((house_rules().resolve(),), settings={"cache": None}, backend=lambda: FakeBackend(answer))
    audit = start(root / "out", found, made)
    for _ in local(Work(str(root / "out"), made), left(audit), lambda counts: None):
        pass


def test_an_audit_killed_at_every_kind_of_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", (shot(number // 2 * 2, number) for number in range(40)))
    plain = start(tmp_path / "plain", spec("photos", root=tmp_path, per_part=5), made_of())
    run(plain)
    program = "import sys, pathlib, runs.audit.test_kills as test; "
    program += "test.disturbed(pathlib.Path(sys.argv[1]), sys.argv[2])"
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    for moment in ("planning", "manifest", "judging", "writing", "written"):
        command = [sys.executable, "-c", program, str(tmp_path), moment]
        ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
        assert ended.returncode == -signal.SIGKILL, moment
    audit = resume(Audit.open(tmp_path / "out"), made_of())
    assert len(left(audit)) == 5  # one was done before `judging`, one before `writing`, one at `written`
    run(audit)
    assert keys(rows(audit)) == keys(rows(plain)) == sorted(set(keys(rows(audit))))
    assert dict(contents(tmp_path / "out")) == dict(contents(tmp_path / "plain"))


def test_two_runs_of_one_audit_at_once_end_in_the_same_files(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", (shot(number, number) for number in range(60)))
    found = spec("photos", root=tmp_path, per_part=5)
    audit, plain = (start(tmp_path / name, found, made_of()) for name in ("out", "plain"))
    threads = [threading.Thread(target=run, args=(audit,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(plain)
    assert dict(contents(tmp_path / "out")) == dict(contents(tmp_path / "plain"))


@pytest.mark.slow
def test_audits_killed_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    example("audit_kills", "benchmarks").local_kills(tmp_path, count=1000, kills=40, pico=False, per_part=50)


@pytest.mark.slow
def test_the_demo_ends_in_a_whole_audit_and_a_report(tmp_path: Path) -> None:
    example("demo_audit").main(tmp_path, scenes=40)
    for name in ("audit", "audit-l2"):
        assert len(rows(Audit.open(tmp_path / name), "key")) == 40
    assert (tmp_path / "audit" / "report" / "report.html").is_file()
