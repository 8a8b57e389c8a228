"""An audit on a Ray cluster of two nodes on this machine: what dies on the way costs nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.support import house_rules, red
from policyguard.backends.base import AssessmentRequest
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.run import Set, left, start
from policyguard.testing import FakeBackend
from runs.audit.support import contents, folder_of, keys, made_of, rows, run, shot, spec

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TESTS = Path(__file__).parents[2]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{TESTS.parent / 'src'}")
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False},
    )
    made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


class Deadly:
    """Makes a guard that kills its own process when a file says so: once for each line in it."""

    def __init__(self, wills: Path) -> None:
        self.wills = wills

    def __call__(self) -> FakeBackend:
        return FakeBackend(self.answer)

    def answer(self, request: AssessmentRequest) -> float:
        pixel = request.frame.getpixel((0, 0))
        will = self.wills / f"{pixel[1] * 256 + pixel[2]}"  # type: ignore[index]
        try:
            will.unlink()
        except FileNotFoundError:
            return red(request)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0


def deadly(tmp_path: Path, *at: int) -> Set:
    wills = tmp_path / "wills"
    wills.mkdir(exist_ok=True)
    for number in at:
        (wills / str(number)).touch()
    return Set((house_rules().resolve(),), settings={"cache": None}, backend=Deadly(wills))


def whole(tmp_path: Path, audit: Audit) -> None:
    """Every image has one row, equal to that of an audit of one process."""
    assert left(audit) == []
    plain = start(tmp_path / "plain", spec("photos", root=tmp_path, per_part=10), made_of())
    run(plain)
    assert keys(rows(audit)) == keys(rows(plain))
    assert dict(contents(tmp_path / "out")) == dict(contents(tmp_path / "plain"))


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    folder_of(tmp_path / "photos", (shot(number, number % 256) for number in range(300)))
    return start(tmp_path / "out", spec("photos", root=tmp_path, per_part=10), made_of())


def engine(**options: Any) -> Any:
    from policyguard.runs.audit.ray import RayEngine

    return RayEngine(**options)


def test_workers_that_are_killed_lose_and_double_nothing(cluster: Any, tmp_path: Path, audit: Audit) -> None:
    from policyguard.runs.audit.run import Work

    work = Work(str(tmp_path / "out"), deadly(tmp_path, 5, 105, 205))
    dones = list(engine(workers=2)(work, left(audit), lambda counts: None))
    assert sorted(done.part for done in dones) == list(range(30))
    assert not list((tmp_path / "wills").iterdir())
    whole(tmp_path, audit)


def test_a_node_that_goes_away_takes_nothing_with_it(cluster: Any, tmp_path: Path, audit: Audit) -> None:
    from policyguard.runs.audit.run import Work

    second = cluster.worker_nodes.__iter__().__next__()
    work = Work(str(tmp_path / "out"), deadly(tmp_path))
    seen = 0
    for _ in engine(workers=2)(work, left(audit), lambda counts: None):
        seen += 1
        if seen == 5:
            cluster.remove_node(second, allow_graceful=False)
    assert seen == 30
    whole(tmp_path, audit)


def test_a_set_up_that_cannot_work_is_raised_as_it_is(cluster: Any, tmp_path: Path, audit: Audit) -> None:
    from policyguard.errors import ConfigurationError, UsageError
    from policyguard.runs.audit.run import Work

    def broken() -> FakeBackend:
        return FakeBackend(ConfigurationError("the key is wrong"))

    work = Work(str(tmp_path / "out"), Set(made_of().policies, settings={"cache": None}, backend=broken))
    with pytest.raises(UsageError, match="the key is wrong"):
        list(engine(workers=1)(work, left(audit), lambda counts: None))
