"""An audit on a Ray cluster of two nodes on this machine: what dies on the way costs nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
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


def joined(address: str, home: Path, out: Path) -> str:
    """What an audit in a process of its own says of the cluster at ``address``."""
    script = f"""if True:
        from policyguard.errors import PolicyGuardError
        from policyguard.runs.audit.ray import RayEngine
        from policyguard.runs.audit.run import Work
        try:
            list(RayEngine()(Work({str(out)!r}, None), [0], print))
        except PolicyGuardError as error:
            print(error.message, error.hint, sep=chr(10))
    """
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.run(
        [sys.executable, "-c", script],
        env=known | {"HOME": str(home), "RAY_ADDRESS": address, "PYTHONPATH": str(TESTS.parent / "src")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(("address", "why"), [("127.0.0.1:1", "refused"), ("nonsense", "address format")])
def test_a_cluster_that_cannot_be_joined_is_named(address: str, why: str, tmp_path: Path) -> None:
    message, hint = joined(address, tmp_path, tmp_path / "out").splitlines()
    assert message.startswith(f"no Ray cluster at {address} could be joined: ")
    assert why in message
    assert "RAY_ADDRESS" in hint


def test_a_cluster_with_a_token_is_joined_only_with_it_and_the_error_says_how(tmp_path: Path) -> None:
    """A cluster as `ray start` begins one where its user has a token, as after any run on one machine."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    options = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}"]
    options += ["--num-cpus=1", f"--object-store-memory={80 * 2**20}", "--include-dashboard=false"]
    with tempfile.TemporaryDirectory(dir="/tmp") as short, (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options, f"--temp-dir={short}"],
            env=known | {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=log,
        )
        try:
            while "Ray runtime started" not in (tmp_path / "log").read_text():
                assert started.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
            message, hint = joined(address, tmp_path, tmp_path / "out").splitlines()
        finally:
            started.terminate()
            started.wait()
    assert message.startswith(f"no Ray cluster at {address} could be joined: ")
    assert "RAY_AUTH_MODE=token" in hint
