"""Images go through guards in one order, whatever the number of workers, and end in time."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path

import pytest

from policyguard.backends.base import AssessmentRequest
from policyguard.errors import ConfigurationError
from policyguard.runs.engine import OutOfTime, until
from policyguard.runs.exits import ExitCode
from policyguard.runs.run import ImageStatus
from policyguard.testing import FakeBackend
from runs.support import Recorded, check_project, pictures, reported
from support.clock import deadline


def test_a_report_gets_paths_from_the_root_with_status_and_policies(project: Path) -> None:
    pictures(project, "art/good.png")
    pictures(project, "art/bad.png", score=255)
    (project / "art" / "broken.png").write_bytes(b"\x89PNG")
    report = Recorded()
    assert ExitCode.BLOCKED == reported("art", report=report).code
    assert [
        ("art/bad.png", ImageStatus.FAILED, ("house",)),
        ("art/broken.png", ImageStatus.UNJUDGED, ("house",)),
        ("art/good.png", ImageStatus.PASSED, ("house",)),
    ] == [(image.path, image.status, image.policies) for image in report.images]
    assert report.run is not None
    assert report.summary is not None
    assert (3, project, "house.yaml") == (report.run.images, report.run.root, report.run.policies[0].file)
    assert {"passed": 1, "flagged": 0, "failed": 1, "unjudged": 1, "accepted": 0} == report.summary.counts
    assert (1, None, ()) == (report.summary.exit_code, report.summary.stopped, report.summary.unchecked)


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_the_order_is_the_same_whatever_the_workers_and_the_time_each_image_takes(
    project: Path, workers: int
) -> None:
    names = [f"{number:03}.png" for number in range(60)]
    for number, name in enumerate(names):
        pictures(project, name, score=number)

    def slow(request: AssessmentRequest) -> float:
        return float(request.frame.getpixel((0, 0))[0]) / 255  # type: ignore[index]

    class Jittery(FakeBackend):
        def assess(self, requests):  # type: ignore[no-untyped-def]
            time.sleep(0.001 * (hash(requests[0].frame.tobytes()) % 7))
            return super().assess(requests)

    found = check_project(workers=workers, backend=Jittery(slow, preferred_batch=1))
    assert names == found.sources
    assert [number / 255 for number in range(60)] == [verdict["score"] for verdict in found.verdicts]


def test_until_hands_on_items_errors_and_the_end() -> None:
    later = deadline(1e6)
    assert list(range(100)) == list(until(later, iter(range(100))))
    with pytest.raises(OutOfTime):
        list(until(deadline(-1.0), iter(range(3))))

    def broken():  # type: ignore[no-untyped-def]
        yield 1
        raise ConfigurationError("the key is wrong")

    items = until(later, broken())
    assert 1 == next(items)
    with pytest.raises(ConfigurationError, match="the key is wrong"):
        next(items)


def test_until_closes_what_it_reads_when_its_reader_leaves() -> None:
    closed = threading.Event()

    def endless():  # type: ignore[no-untyped-def]
        try:
            yield from count()
        finally:
            closed.set()

    items = until(deadline(1e6), endless())
    assert 0 == next(items)
    items.close()  # type: ignore[attr-defined]
    closed.wait()


def test_workers_judge_at_once(project: Path) -> None:
    pictures(project, *(f"{number}.png" for number in range(4)))
    met = threading.Barrier(4)  # passed by four together, or by none

    class Together(FakeBackend):
        def assess(self, requests):  # type: ignore[no-untyped-def]
            met.wait()
            return super().assess(requests)

    assert ExitCode.OK == check_project(workers=4, backend=Together(0.1, preferred_batch=1)).code


def test_reasons_do_not_repeat_the_name_of_their_image(project: Path) -> None:
    (project / "broken.png").write_bytes(b"nonsense")
    (verdict,) = check_project().verdicts
    assert not verdict["reason"].startswith("broken.png")
    assert [verdict["reason"]] == verdict["evidence"]["unexplained"]
