"""The client's own cost: Guard.check against a hand-written request, and its memory over 1,000 checks.

    PYTHONPATH=tests python benchmarks/vllm_client.py

Both talk to a loopback server in another process, about the same pictures: PNG files of 448 x 448 pixels. The
hand-written way reads the file's bytes, builds the request, posts it with httpx on a kept connection, and
decodes the answer; Guard.check also decodes and checks the picture, and decides. Goals: at most 5% or 3 ms
more, whichever is larger; at most 80 MiB resident after 1,000 checks, and flat from the 200th on.
"""

from __future__ import annotations

import base64
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from memory import pictures, resident_mib

RUNS = 200
CHECKS = 1000
_SERVER = (
    "import sys; from backends.remote.server import ToyServer\n"
    "with ToyServer() as server:\n"
    "    server.context = 10**6\n"
    "    print(server.url, flush=True); sys.stdin.read()\n"
)


@contextmanager
def serving() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def overhead(url: str) -> None:
    import httpx

    from policyguard import Guard
    from policyguard.backends.remote.chat import chat_messages, continuing
    from policyguard.dialects import SafeguardDialect

    guard = Guard("safeedit/l3", base_url=url, model="toy-guard")
    (policy,) = guard.policies
    prompt = SafeguardDialect().render(policy)[0]
    client = httpx.Client(trust_env=False)
    source = pictures(16)

    def by_hand(data: bytes) -> object:
        uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        body = continuing(chat_messages(prompt, uri), prompt.prefill) | {
            "model": "toy-guard",
            "max_tokens": 1,
            "logprobs": True,
            "logprob_token_ids": [0, 1],
            "return_tokens_as_token_ids": True,
            "temperature": 0,
        }
        return client.post(f"{url}/chat/completions", json=body).json()["choices"]

    times: dict[str, list[float]] = {"by hand": [], "guard": []}
    for number in range(RUNS + 5):
        data = source[number % len(source)]
        for name, call in (("by hand", by_hand), ("guard", guard.check)):
            started = perf_counter()
            call(data)
            if number >= 5:
                times[name].append(1e3 * (perf_counter() - started))
    guard.close()
    for name, value in (("fastest", min), ("median", statistics.median)):
        hand, whole = value(times["by hand"]), value(times["guard"])
        print(f"{name}: by hand {hand:.1f} ms, Guard.check {whole:.1f} ms, {whole - hand:+.1f} ms, "
              f"ratio {whole / hand:.3f} (goal: at most 1.05 or +3 ms)")  # fmt: skip


def memory(url: str) -> None:
    from policyguard import Guard

    guard = Guard("safeedit/l3", base_url=url, model="toy-guard")
    source = pictures(64)
    readings = []
    for number in range(1, CHECKS + 1):
        guard.check(source[number % len(source)])
        if number in (CHECKS // 5, CHECKS):
            readings.append(resident_mib())
    guard.close()
    print(f"after {CHECKS // 5} checks {readings[0]:.1f} MiB, after {CHECKS} {readings[1]:.1f} MiB "
          f"(goal: at most 80), ratio {readings[1] / readings[0]:.3f} (goal: flat)")  # fmt: skip


def main() -> None:
    with serving() as url:
        overhead(url)
    with serving() as url:  # in a process of its own: nothing of the above stays in its memory
        code = f"import sys; sys.path[:0] = {sys.path!r}; import vllm_client; vllm_client.memory({url!r})"
        subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    main()
