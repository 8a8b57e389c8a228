"""What ``policyguard serve`` adds to a check, and whether it holds under load.

    PYTHONPATH=tests python benchmarks/server.py [latency] [throughput] [memory] [reload] [--requests N]

The service runs in a process of its own on one core, the clients here on the others. The backend is a fake
one that waits and answers, so that what is measured is HTTP, decoding, queueing and deciding. Figures are of
this machine at this moment: run it alone.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image

from policyguard.backends.base import AssessmentRequest
from policyguard.testing import FakeBackend

ROOT = Path(__file__).parents[1]
POLICY = """\
id: bench/{name}
version: 1.0.{n}
title: T
rules:
  - {{id: red, title: Red {n}, unsafe: [red {n}]}}
"""
PICTURE = (ROOT / "examples" / "images" / "picnic.png").read_bytes()


class Waiting(FakeBackend):
    """Waits ``delay`` seconds for each call, ``room`` calls at a time, on the event loop."""

    def __init__(self, delay: float, room: int) -> None:
        super().__init__(0.9, preferred_workers=room)
        self.seconds, self._room = delay, asyncio.Semaphore(room)

    async def aassess(self, requests: list[AssessmentRequest]) -> list:  # type: ignore[override, type-arg]
        async with self._room:
            await asyncio.sleep(self.seconds)
        return [self._result(request, self._next(request)) for request in requests]


def run_service(options: dict) -> None:  # type: ignore[type-arg]
    """In the process of its own: serve until it is ended."""
    import uvicorn

    from policyguard.server.app import Settings, configured, create_app

    os.sched_setaffinity(0, {0})
    backend = Waiting(options["delay"], options["room"])
    settings = Settings(policies=(options["folder"],), backend=backend, port=0, reload_every=0.2)
    server = uvicorn.Server(configured(create_app(settings), settings))

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await task

    asyncio.run(run())


@asynccontextmanager
async def service(folder: Path, *, delay: float, room: int) -> AsyncIterator[tuple[Client, int]]:
    """A client of a running service, and the service's process id."""
    write(folder, 0)
    options = json.dumps({"folder": str(folder), "delay": delay, "room": room})
    command = [sys.executable, __file__, "--serve", options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 (quick)
    try:
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        client = Client(port)
        for _ in range(20):
            await client.check(PICTURE)
        yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def write(folder: Path, number: int) -> None:
    fresh = folder / "bench.new"
    fresh.write_text(POLICY.format(name="colours", n=number))
    fresh.replace(folder / "bench.yaml")


class Client:
    """Asks over kept connections, with as little work of its own as can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, head: str, body: bytes = b"") -> dict:  # type: ignore[type-arg]
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        lines = f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        kind = "Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
        writer.write(lines.encode() + kind.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        content = await reader.readexactly(int(answer.partition("content-length: ")[2].split()[0]))
        assert " 200 " in answer.partition("\r\n")[0], content
        self._free.append((reader, writer))
        return json.loads(content)  # type: ignore[no-any-return]

    async def check(self, image: bytes) -> dict:  # type: ignore[type-arg]
        head = b'--xx\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        return await self.ask("POST /v1/check?policy=bench", head + image + b"\r\n--xx--\r\n")


async def together(count: int, clients: int, once: Callable[[], Awaitable[object]]) -> float:
    """Seconds that ``count`` calls take, ``clients`` at a time."""
    left = iter(range(count))

    async def one() -> None:
        for _ in left:
            await once()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return time.perf_counter() - began


async def latency(folder: Path, requests: int) -> None:
    small = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 9)).save(small, "PNG")
    for name, image in (("64 pixels square", small.getvalue()), ("384 pixels square", PICTURE)):
        await latency_of(folder, name, image, requests)


async def latency_of(folder: Path, name: str, image: bytes, requests: int) -> None:
    rate, delay = 50, 0.005
    async with service(folder, delay=delay, room=16) as (client, pid):
        taken: list[float] = []

        async def one() -> None:
            began = time.perf_counter()
            await client.check(image)
            taken.append((time.perf_counter() - began - delay) * 1000)

        tasks = []
        chance = random.Random(1)
        due, before = time.perf_counter(), worked(pid)
        for _ in range(requests):
            due += chance.expovariate(rate)  # as independent clients ask
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
        cpu = (worked(pid) - before) / requests * 1000
    cuts = statistics.quantiles(taken, n=100)
    print(
        f"latency, {name}: {requests} requests at {rate}/s over a {delay * 1000:g} ms backend: "
        f"added p50 {cuts[49]:.1f} ms, p90 {cuts[89]:.1f} ms, p99 {cuts[98]:.1f} ms; "
        f"{cpu:.1f} ms of CPU each"
    )


async def throughput(folder: Path, requests: int) -> None:
    for room in (1, 8):
        await throughput_of(folder, room, requests if room > 1 else requests // 8)


async def throughput_of(folder: Path, room: int, requests: int) -> None:
    clients, delay = 200, 0.05
    async with service(folder, delay=delay, room=room) as (client, pid):
        before = worked(pid)
        seconds = await together(requests, clients, lambda: client.check(PICTURE))
        cpu = (worked(pid) - before) / requests * 1000
    own = room / delay
    print(
        f"throughput: {clients} clients, {room} at a time at {delay * 1000:g} ms: "
        f"{requests / seconds:.0f}/s, {requests / seconds / own:.0%} of the backend's own {own:.0f}/s; "
        f"{cpu:.1f} ms of CPU each"
    )


def worked(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """MiB of memory that the process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def memory(folder: Path, requests: int) -> None:
    noise = Image.frombytes("RGB", (448, 448), random.Random(2).randbytes(448 * 448 * 3))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG", compress_level=1)
    image = buffer.getvalue()
    async with service(folder, delay=0.0, room=8) as (client, pid):
        seen = []
        for _ in range(10):
            await together(requests // 10, 8, lambda: client.check(image))
            seen.append(resident(pid))
    print(
        f"memory: {requests} requests of {len(image) / 1000:.0f} KB; MiB after each tenth: "
        + " ".join(f"{each:.0f}" for each in seen)
    )


async def reload(folder: Path, requests: int) -> None:
    reloads = 100
    async with service(folder, delay=0.002, room=8) as (client, _):
        titles: dict[str, str] = {}
        mixed, done, stop = 0, 0, False

        async def ask() -> None:
            nonlocal mixed, done
            while not stop:
                verdict = await client.check(PICTURE)
                (policy,), (finding,) = verdict["evidence"]["policies"], verdict["findings"]
                mixed += titles.setdefault(policy["fingerprint"], finding["title"]) != finding["title"]
                done += 1

        tasks = [asyncio.create_task(ask()) for _ in range(20)]
        for number in range(1, reloads + 1):
            write(folder, number)
            await client.ask("POST /v1/policies/bench/reload")
            before = done
            while done < before + 20:  # noqa: ASYNC110 (counted by others)
                await asyncio.sleep(0.005)
        stop = True
        await asyncio.gather(*tasks)
    print(
        f"reload: {reloads} reloads under {done} requests: none dropped, {mixed} mixed, "
        f"{len(titles)} policies seen"
    )


PARTS = {
    "latency": (latency, 2000),
    "throughput": (throughput, 2000),
    "memory": (memory, 5000),
    "reload": (reload, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--requests", type=int, help="how many; default: the part's own number")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        run_service(json.loads(chosen.serve))
        return
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})
    for name in chosen.parts or PARTS:
        part, count = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(part(Path(folder), chosen.requests or count))


if __name__ == "__main__":
    main()
