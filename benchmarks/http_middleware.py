"""The guarded client against the plain one, interleaved in one run, on a loopback server.

    PYTHONPATH=tests python benchmarks/http_middleware.py

Goals: at most 1 ms more at the median for a request without images; at most 2 ms and the decoding of its
base64 for one with an image that was judged before; memory flat over 10,000 requests; a 20 MB upload held at
most twice; an image of 8 MB in a stream takes at most 20 ms of the event loop's thread at a time.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import os
import statistics
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import httpx
from PIL import Image

from integrations.http.calling import chat
from integrations.http.pictures import GREEN, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Upstream, json_answer
from policyguard.integrations.extract.magic import decode_base64
from policyguard.integrations.http import guarded_async_client, guarded_client

RUNS = 300
REQUESTS = 10_000


def main() -> None:
    with Upstream() as upstream:
        upstream.respond = lambda _asked: json_answer({"choices": [{"message": {"content": "words " * 50}}]})
        guard, _ = colour_guard()
        with httpx.Client() as plain, guarded_client(guard, family="httpx") as guarded:
            latency(upstream, plain, guarded)
            memory(upstream, guarded)
        stream(upstream)
        upload()


def latency(upstream: Upstream, plain: Any, guarded: Any) -> None:
    url = upstream.url + "/v1/chat/completions"
    noise = io.BytesIO()
    Image.effect_noise((448, 448), 90).convert("RGB").save(noise, "PNG")
    code = base64.b64encode(noise.getvalue()).decode()
    bodies = {
        "no image": (chat(text="words " * 100), lambda: None),
        f"one image of {len(code) // 1024} KiB of base64, judged before": (
            chat(data_uri(noise.getvalue())),
            lambda: decode_base64(code),
        ),
    }
    for name, (body, decode) in bodies.items():
        calls: dict[str, Callable[[], object]] = {
            "plain": partial(plain.post, url, json=body),
            "guarded": partial(guarded.post, url, json=body),
            "decoding": decode,
        }
        calls["guarded"]()  # judged from now on
        times: dict[str, list[float]] = {kind: [] for kind in calls}
        for _ in range(RUNS):
            for kind, call in calls.items():
                times[kind].append(timed(call))
        print(name)
        for word, value in (("fastest", min), ("median", statistics.median)):
            ms = {kind: value(spent) * 1e3 for kind, spent in times.items()}
            added = ms["guarded"] - ms["plain"]
            print(f"  {word}: plain {ms['plain']:.2f} ms, guarded {ms['guarded']:.2f}, "
                  f"added {added:.2f}; decoding base64 {ms['decoding']:.2f}")  # fmt: skip


def timed(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def memory(upstream: Upstream, guarded: Any) -> None:
    url = upstream.url + "/v1/chat/completions"
    images = [data_uri(picture(GREEN, seed=number)) for number in range(32)]
    bodies = [body for image in images for body in (chat(image), chat(text=image[-9:-3]))]
    sizes = []
    for number in range(REQUESTS + 1):
        if number in (REQUESTS // 5, REQUESTS):
            gc.collect()
            sizes.append(_resident())
        guarded.post(url, json=bodies[number % len(bodies)])
    before, after = (size / 2**20 for size in sizes)
    print(f"memory after {REQUESTS // 5} and after {REQUESTS} requests: "
          f"{before:.1f} and {after:.1f} MiB, ratio {after / before:.3f}")  # fmt: skip


def stream(upstream: Upstream) -> None:
    """The longest step of the event loop, in time of its own thread, while an image comes in one event."""
    pixels = Image.frombytes("RGB", (1650, 1650), os.urandom(1650 * 1650 * 3))
    pixels.paste(GREEN, (700, 700, 1000, 1000))  # what the guard looks at
    file = io.BytesIO()
    pixels.save(file, "PNG", compress_level=0)
    event = b'data: {"b64_json": "' + base64.b64encode(file.getvalue()) + b'"}\n\n'
    pieces = [event[at : at + 2**16] for at in range(0, len(event), 2**16)]
    upstream.respond = lambda _asked: Answer(pieces, "text/event-stream")
    guard, _ = colour_guard()
    longest = {
        name: min(asyncio.run(_longest_step(upstream.url, make)) for _ in range(5)) * 1e3
        for name, make in (
            ("plain", httpx.AsyncClient),
            ("guarded", partial(guarded_async_client, guard, family="httpx")),
        )
    }
    print(f"an image of {file.tell() / 1e6:.1f} MB in a stream: longest step of the event loop "
          f"plain {longest['plain']:.1f} ms, guarded {longest['guarded']:.1f}")  # fmt: skip


async def _longest_step(url: str, make: Callable[[], Any]) -> float:
    steps = [0.0]
    run = asyncio.events.Handle._run

    def measured(handle: asyncio.events.Handle) -> None:
        began = thread_time()
        run(handle)
        steps.append(thread_time() - began)

    async with make() as client, client.stream("POST", url + "/v1/images/generations", json={}) as answer:
        asyncio.events.Handle._run = measured  # type: ignore[method-assign]
        try:
            async for _ in answer.aiter_bytes():
                pass
        finally:
            asyncio.events.Handle._run = run  # type: ignore[method-assign]
    return max(steps)


def upload() -> None:
    """The highest level of Python's allocations while a picture goes through, as a multiple of its size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.png"
        noise = Image.frombytes("RGB", (2500, 2500), os.urandom(2500 * 2500 * 3))
        noise.paste(GREEN, (1000, 1000, 1500, 1500))  # what the guard looks at
        noise.save(path, "PNG", compress_level=0)
        del noise
        guard, _ = colour_guard()
        data = path.read_bytes()
        alone = peak(lambda: guard.check(data)) / len(data)
        sink = httpx.MockTransport(lambda _request: httpx.Response(200, json={"id": "file-1"}))

        def send() -> None:
            with path.open("rb") as file:
                answer = client.post("http://sink/v1/files", files={"file": ("large.png", file, "image/png")})
            assert answer.status_code == 200

        with guarded_client(guard, family="httpx", transport=sink) as client:
            whole = peak(send) / len(data)
    print(f"an upload of {len(data) / 1e6:.1f} MB: at most {whole:.2f} times its size in memory, "
          f"{alone:.2f} of it the guard's own work on the pixels")  # fmt: skip


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
