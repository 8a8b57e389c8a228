"""Under load: policies are replaced between requests, too much is refused, and the end is graceful."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from integrations.http.pictures import GREEN, RED, data_uri, picture
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import ConfigurationError, PolicyError
from policyguard.server.app import Settings, serve
from policyguard.server.requests import Refusal, Room, weigh
from policyguard.testing import FakeBackend
from server.support import Service, serving, write
from support.waiting import wait_until


class Gate(FakeBackend):
    """Answers once it is opened."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.opened = threading.Event()
        self.entered = 0

    def assess(self, requests: Any) -> Any:
        self.entered += 1
        self.opened.wait()
        return super().assess(requests)


@contextmanager
def asking(service: Service, count: int) -> Iterator[list[Any]]:
    """``count`` requests in flight, and their answers to come."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield [pool.submit(service.check, picture(GREEN)) for _ in range(count)]
        finally:
            service.backend.opened.set()


def test_a_hundred_reloads_drop_no_request_and_mix_no_fingerprints(tmp_path: Path) -> None:
    with serving(tmp_path, backend=FakeBackend(0.97)) as service:
        titles: dict[str, str] = {}
        done, stop = [0] * 4, threading.Event()

        def ask(place: int) -> None:
            while not stop.is_set():
                answer = service.check(picture(RED))
                verdict = answer.json()
                (policy,), (finding,) = verdict["evidence"]["policies"], verdict["findings"]
                assert 200 == answer.status_code
                assert finding["title"] == titles.setdefault(policy["fingerprint"], finding["title"])
                done[place] += 1

        with ThreadPoolExecutor(len(done)) as pool:
            asked = [pool.submit(ask, place) for place in range(len(done))]
            try:
                for number in range(100):
                    write(tmp_path, title=f"Red {number}")
                    pushed = service.post("/v1/policies/colours/reload").json()
                    told = service.check(picture(RED)).json()
                    assert pushed["fingerprint"] == told["evidence"]["policies"][0]["fingerprint"]
                    assert f"Red {number}" == told["findings"][0]["title"]
                    before = sum(done)
                    wait_until(lambda before=before: sum(done) > before or any(each.done() for each in asked))
            finally:
                stop.set()
            for each in asked:
                each.result()
        assert len(set(titles.values())) == len(titles)
        assert len(titles) > 50


def test_a_request_ends_under_the_policy_it_began_with(tmp_path: Path) -> None:
    with serving(tmp_path, backend=(gate := Gate())) as service, asking(service, 1) as answers:
        wait_until(lambda: gate.entered)
        before = service.state.policies.current.live["colours"].policy.fingerprint
        write(tmp_path, title="Crimson")
        assert before != service.post("/v1/policies/colours/reload").json()["fingerprint"]
        gate.opened.set()
        assert before == answers[0].result().json()["evidence"]["policies"][0]["fingerprint"]


def test_more_than_the_queue_holds_is_told_to_come_back(tmp_path: Path) -> None:
    """One is judged, one is decoded meanwhile, and two wait."""
    with serving(tmp_path, backend=Gate(), workers=1, queue=2) as service, asking(service, 4) as answers:
        room = service.state.room
        wait_until(lambda: (room.judging, room.waiting, service.backend.entered) == (2, 2, 1))
        refused = service.check(picture(GREEN))
        assert (429, False) == (refused.status_code, refused.json()["allowed"])
        assert int(refused.headers["Retry-After"]) >= 1
        service.backend.opened.set()
        assert [True] * 4 == [answer.result().json()["allowed"] for answer in answers]
        assert service.check(picture(GREEN)).json()["allowed"]
        assert (0, 0) == (room.judging, room.waiting)


def test_who_waits_too_long_gets_no_verdict_that_allows(tmp_path: Path) -> None:
    with serving(tmp_path, backend=Gate(), workers=1, timeout=0.2) as service, asking(service, 4) as answers:
        wait_until(lambda: sum(answer.done() for answer in answers) == 3)
        for answer in (answer.result() for answer in answers if answer.done()):
            body = answer.json()
            assert (answer.status_code, body["allowed"]) in ((429, False), (200, False))
            assert 429 == answer.status_code or "error" == body["outcome"]
        assert 1 == service.backend.entered


def test_no_turn_in_time_is_told_to_come_back() -> None:
    async def run() -> None:
        room = Room(workers=1, queue=9, wait=0.01, body=1, memory=1, body_seconds=1.0)
        async with room.turn():
            with pytest.raises(Refusal) as refused:
                async with room.turn():
                    pass
            assert (429, "1") == (refused.value.status, refused.value.headers["Retry-After"])
            assert (1, 0) == (room.judging, room.waiting)
        async with room.turn():
            assert 1 == room.judging

    asyncio.run(run())


def test_no_more_images_are_judged_at_once_than_was_said(tmp_path: Path) -> None:
    class Counting(FakeBackend):
        running = most = 0
        lock = threading.Lock()

        def assess(self, requests: list[AssessmentRequest]) -> Any:  # type: ignore[override]
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            try:
                return super().assess(requests)
            finally:
                with self.lock:
                    self.running -= 1

    backend = Counting(0.0, delay=0.01)
    with serving(tmp_path, backend=backend, workers=3) as service, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(service.check, [picture(GREEN, seed=n) for n in range(48)]))
    assert {200} == {answer.status_code for answer in answers}
    assert backend.most <= 3


def test_large_images_wait_for_each_other_and_small_ones_for_none(tmp_path: Path) -> None:
    large = picture(GREEN, size=(7000, 7000))
    assert 49_000_000 == weigh(large) == weigh(data_uri(large))
    assert 0 == weigh(b"none") == weigh("data:none")
    with serving(tmp_path, backend=(gate := Gate()), workers=8) as service, ThreadPoolExecutor(4) as pool:
        room = service.state.room
        try:
            answers = [pool.submit(service.check, large) for _ in range(3)]
            wait_until(lambda: (room.judging, room.waiting) == (2, 1))
            small = pool.submit(service.check, picture(GREEN))
            wait_until(lambda: room.judging == 3)
        finally:
            gate.opened.set()
        assert [True] * 4 == [answer.result().json()["allowed"] for answer in [*answers, small]]
        assert 0 == room.pixels


def test_the_end_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    with serving(tmp_path, backend=(gate := Gate())) as service, asking(service, 1) as answers:
        wait_until(lambda: gate.entered)
        service.server.should_exit = True
        wait_until(lambda: not _connects(service))
        gate.opened.set()
        assert answers[0].result().json()["allowed"]
    assert gate.closed is False  # a backend that was handed in is its owner's


def _connects(service: Service) -> bool:
    try:
        service.get("/healthz")
    except httpx.TransportError:
        return False
    return True


def test_the_files_are_looked_at_without_being_asked(tmp_path: Path) -> None:
    with serving(tmp_path, reload_every=0.01) as service:
        write(tmp_path, title="Crimson")
        wait_until(lambda: service.check(picture(RED)).json()["findings"][0]["title"] == "Crimson")


@pytest.mark.slow
def test_memory_stays_flat_over_many_large_requests(tmp_path: Path) -> None:
    import os

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    image = picture(GREEN) + bytes(600_000)
    backend = FakeBackend(0.05)
    backend.requests = deque(maxlen=1)  # what the fake remembers, with its images, is not the service's
    with serving(tmp_path, backend=backend) as service:
        sizes = []
        for _ in range(4):
            for _ in range(1000):
                service.check(image).raise_for_status()
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 20 * 2**20


def test_a_port_that_is_taken_ends_it_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            settings = Settings(policies=(str(tmp_path / "missing.yaml"),), host=host, port=port)
            with pytest.raises(ConfigurationError, match=f"port {port} of {host}: .*in use") as caught:
                serve(settings)
            assert "--port" in str(caught.value)
    with pytest.raises(PolicyError, match="missing"):  # the port is free again, and nobody holds it
        serve(Settings(policies=(str(tmp_path / "missing.yaml"),), backend=FakeBackend(), port=port))
