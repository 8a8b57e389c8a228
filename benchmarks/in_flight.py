"""A server that answers after 50 ms: 64 images in flight against 8; and the CPU time of a photograph.

    PYTHONPATH=tests python benchmarks/in_flight.py

The server runs in a process of its own and does next to nothing. Goals: 64 in flight reach at least 4 times
the rate of 8, with no more CPU time for each check; a check of a JPEG of 1 MB takes at most the CPU time of
decoding it and 5 ms. Rounds alternate, and the best round of each counts.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time

ROUNDS = 3
SECONDS = 0.05
FEW, MANY = 8, 64


async def serve(delay: float) -> None:
    """Answers each request like vLLM, after ``delay`` seconds."""
    top = [
        {"token": token, "logprob": math.log(share), "bytes": list(token.encode())}
        for token, share in (("safe", 0.9), ("unsafe", 0.05), ("the", 0.02), ("a", 0.01), ("I", 0.01))
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "safe"},
        "logprobs": {"content": [top[0] | {"top_logprobs": top}]},
        "finish_reason": "length",
    }
    usage = {"prompt_tokens": 900, "completion_tokens": 1}
    answer = {
        "object": "chat.completion",
        "created": 1,
        "model": "guard",
        "choices": [choice],
        "usage": usage,
    }

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                sent = await reader.readexactly(int(fields.get("content-length", 0)))
                found = "/chat/completions" in head.split("\r\n", 1)[0]
                if found:
                    await asyncio.sleep(delay)
                usage["prompt_tokens"] = 900 if b"data:image/" in sent else 600
                body = json.dumps(answer | {"id": fields["x-request-id"]} if found else {}).encode()
                status = b"200 OK" if found else b"404 Not Found"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, limit=2**24, backlog=256)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextmanager
def serving(delay: float) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(delay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def small(count: int) -> list[bytes]:
    from PIL import Image

    def png(number: int) -> bytes:
        encoded = io.BytesIO()
        Image.new("RGB", (16, 16), (number % 256, number // 256, 30)).save(encoded, "PNG")
        return encoded.getvalue()

    return [png(number) for number in range(count)]


def photograph(number: int) -> bytes:
    """A JPEG of about 1 MB."""
    import random

    from PIL import Image

    noise = Image.frombytes("RGB", (400, 300), random.Random(number).randbytes(360_000))
    encoded = io.BytesIO()
    noise.resize((2400, 1800), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=74)
    return encoded.getvalue()


def in_flight(url: str) -> None:
    from policyguard import Guard
    from policyguard.backends import RemoteBackend
    from policyguard.dialects import SafeguardDialect

    def check(concurrency: int, images: Sequence[bytes]) -> tuple[float, float]:
        with RemoteBackend(
            url, model="guard", dialect=SafeguardDialect(), concurrency=concurrency
        ) as backend:
            guard = Guard("safeedit/l3", backend=backend)
            assert all(verdict.allowed for verdict in guard.check_many(images[:concurrency]))
            began, cpu = perf_counter(), process_time()
            for verdict in guard.check_many(images):
                assert verdict.allowed
            return len(images) / (perf_counter() - began), 1e3 * (process_time() - cpu) / len(images)

    source = small(1280)
    rounds = [(check(FEW, source[:320]), check(MANY, source)) for _ in range(ROUNDS)]
    (few, few_cpu), (many, many_cpu) = (
        (max(rate for rate, _ in column), min(cpu for _, cpu in column))
        for column in zip(*rounds, strict=True)
    )
    print(f"{FEW} in flight {few:.0f}/s (ideal {FEW / SECONDS:.0f}), {MANY} in flight {many:.0f}/s "
          f"(ideal {MANY / SECONDS:.0f}): ratio {many / few:.2f} (goal: at least 4)")  # fmt: skip
    print(f"CPU for each check: {few_cpu:.2f} ms at {FEW}, {many_cpu:.2f} ms at {MANY}: "
          f"ratio {many_cpu / few_cpu:.2f} (goal: at most 1)")  # fmt: skip


def large(url: str) -> None:
    from PIL import Image

    from policyguard import Guard

    source = [photograph(number) for number in range(12)]
    guard = Guard("safeedit/l3", base_url=url, model="guard")
    guard.check(source[0])
    decoding, whole = [], []
    for data in source * ROUNDS:
        cpu = process_time()
        Image.open(io.BytesIO(data)).load()  # noqa: TID251 (what is compared with)
        decoding.append(process_time() - cpu)
        cpu = process_time()
        assert guard.check(data).allowed
        whole.append(process_time() - cpu)
    guard.close()
    decoded, checked = 1e3 * min(decoding), 1e3 * min(whole)
    size = f"{len(source[0]) / 1e6:.2f} MB"
    print(f"a JPEG of {size}: decoding {decoded:.1f} ms of CPU, a check {checked:.1f} ms: "
          f"{checked - decoded:+.1f} ms (goal: at most +5)")  # fmt: skip


def main() -> None:
    with serving(SECONDS) as url:
        in_flight(url)
    with serving(0.0) as url:
        large(url)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]))) if len(sys.argv) > 1 else main()
