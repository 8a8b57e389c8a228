"""One model in several processes: the same verdicts in order, and nothing lost when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.transformers.support import (
    DeadlyDialect,
    PlainDialect,
    assessments,
    furthest,
    picture,
    policy,
    requests,
    tiny_backend,
)
from policyguard import Guard, Outcome
from policyguard.assessment import Assessment, Failure
from policyguard.backends import ReplicatedBackend
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import ConfigurationError, ModelLoadError
from support.tiny_models import tiny_model
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="replicas need POSIX sockets")


@pytest.fixture(scope="module")
def two() -> Iterator[ReplicatedBackend]:
    with ReplicatedBackend(tiny_backend("qwen3_vl"), 2) as backend:
        yield backend


def pids(backend: ReplicatedBackend) -> list[int]:
    return [one._process.pid for one in backend._places if one is not None and one.alive]


def runs(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_replicas_give_the_verdicts_of_one_process_in_order(two: ReplicatedBackend) -> None:
    alone = tiny_backend("qwen3_vl")
    images = [picture(n) for n in range(24)]
    expected = [one.score for one in Guard(policy(), backend=alone).check_many(images)]
    guard = Guard(policy(), backend=two)
    found = [one.score for one in guard.check_many(images)]
    assert found == pytest.approx(expected, abs=1e-5)
    stats = guard.stats()
    assert (stats.images, stats.frames, stats.replicas) == (24, 24, 2)
    assert (stats.device, stats.dtype) == ("cpu", "float32")
    assert {"prepare", "wait", "model", "read"} < set(stats.seconds)
    assert two.model == alone.model
    asked = requests(5, policy())
    assert furthest(assessments(two.assess(asked)), assessments(alone.assess(asked))) < 1e-5


def test_a_replica_that_is_killed_costs_no_image(two: ReplicatedBackend) -> None:
    guard = Guard(policy(), backend=two)
    verdicts = guard.check_many([picture(n) for n in range(32)])
    found = [next(verdicts)]
    os.kill(pids(two)[0], signal.SIGKILL)
    found += verdicts
    assert len(found) == 32
    assert Outcome.ERROR not in {one.outcome for one in found}
    two.assess(requests(1, policy()))  # starts another in its place
    assert len(pids(two)) == 2


def test_an_image_that_kills_replicas_is_an_error_and_takes_no_other_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ReplicatedBackend(tiny_backend("qwen3_vl", DeadlyDialect()), 2)
    deadly = picture(0, DeadlyDialect.deadly)
    asked = [AssessmentRequest(deadly if n == 2 else picture(n), policy()) for n in range(4)]
    backend._left = 1
    with backend:
        found = backend.assess(asked)
        assert [type(one) for one in found] == [Assessment, Assessment, Failure, Assessment]
        assert isinstance(found[2], Failure)
        assert found[2].reason == "the process that runs the model ended (exit code 3)"
        assert any("ended (exit code 3)" in text for text in backend.stats().fallbacks)
        (last,) = backend.assess([AssessmentRequest(deadly, policy())])  # and so the last replica is gone
        assert isinstance(last, Failure)
        (last,) = backend.assess(asked[:1])
        assert isinstance(last, Failure)
        assert "is not started again" in last.reason


def test_closing_ends_every_replica_and_is_final() -> None:
    backend = ReplicatedBackend(tiny_backend("qwen3_vl"), 2)
    backend.warm()
    running = pids(backend)
    assert len(running) == 2
    backend.close()
    assert not any(runs(pid) for pid in running)
    with pytest.raises(ConfigurationError, match="is closed"):
        backend.assess(requests(1, policy()))
    backend.close()


SLOW = [pytest.param(end, marks=pytest.mark.slow) for end in ("exit", "drop")]


@pytest.mark.parametrize("end", ["interrupt", "kill", *SLOW])
def test_no_replica_outlives_the_program(end: str, tmp_path: Path) -> None:
    """However it ends; and the program needs no ``if __name__`` around what it does."""
    code = f"""
        import os, signal, sys, time
        from policyguard import Guard
        from policyguard.backends import ReplicatedBackend, TransformersBackend
        from PIL import Image

        backend = ReplicatedBackend(TransformersBackend("pico"), 2)
        guard = Guard("pictosafe/l3", backend=backend)
        for verdict in guard.check_many(Image.new("RGB", (96, 96), (n, 0, 0)) for n in range(64)):
            break
        print(*[one._process.pid for one in backend._places], flush=True)
        if {end!r} == "interrupt":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
            os.kill(os.getpid(), signal.SIGINT)
        elif {end!r} == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif {end!r} == "drop":
            del backend, guard, verdict
            time.sleep(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        check=False,
    )
    replicas = [int(pid) for pid in done.stdout.split()]
    assert len(replicas) == 2, done.stderr
    assert (done.returncode == 0) is (end in ("exit", "drop")), done.stderr
    wait_until(lambda: not any(runs(pid) for pid in replicas))


def test_a_model_that_cannot_be_loaded_is_refused_as_in_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    subprocess.run(["cp", "-r", str(tiny_model("qwen3_vl")), str(folder)], check=True)
    backend = ReplicatedBackend(tiny_backend(folder), 2)
    (folder / "model.safetensors").write_bytes(b"no weights")
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="cannot be loaded from"):
            backend.assess(requests(1, policy()))
    assert pids(backend) == []


def test_a_wrong_policy_raises_as_in_one_process(two: ReplicatedBackend) -> None:
    with pytest.raises(ConfigurationError, match="policy 'long'"):
        two.assess(requests(1, policy("long", words="xqzjvkw " * 999)))


def test_what_cannot_be_sent_to_a_replica_is_a_clear_error() -> None:
    class Local(PlainDialect):
        pass

    backend = ReplicatedBackend(tiny_backend("qwen3_vl", Local()), 1)
    with pytest.raises(ConfigurationError, match="cannot be sent to another process"):
        backend.warm()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"replicas": 0}, "replicas must be a whole number of at least 1"),
        ({"replicas": "many"}, "replicas must be a whole number of at least 1"),
        ({"replicas": 3, "devices": ["cpu", "cpu"]}, "2 devices for replicas=3"),
        ({"devices": []}, "devices is an empty list"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ReplicatedBackend(tiny_backend("qwen3_vl"), **settings)  # type: ignore[arg-type]


def test_a_guard_takes_replicas_for_a_model_that_runs_here_only() -> None:
    with Guard("pictosafe/l3", replicas=2) as guard:
        assert isinstance(guard.backend, ReplicatedBackend)
        assert guard.backend.preferred_workers == 4
    with pytest.raises(ConfigurationError, match="run a model here"):
        Guard("safeedit/l3", model="m", base_url="http://localhost:1/v1", replicas=2)
    with pytest.raises(ConfigurationError, match="run a model here"):
        Guard("safeedit/l3", model="open-nsfw", replicas="auto")
    with pytest.raises(ConfigurationError, match="replicas"):
        Guard("pictosafe/l3", backend=tiny_backend("qwen3_vl"), replicas=2)
