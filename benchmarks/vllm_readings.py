"""What prefilling and the prefix cache are worth on a real vLLM server: ratios of one interleaved run.

    make .venv-vllm/.ready && PYTHONPATH=tests python benchmarks/vllm_readings.py [ROUNDS]

One server, a random Qwen3-VL of about 100 M parameters (language model to vision tower about 10:1, as in a 7B
model), a policy of about 2,000 tokens, pictures of noise of 448 x 448 pixels, each of them new to the server.

- fast: policy first, answer begun, one token; the policy is in the server's prefix cache.
- cold: the same with a cache_salt of its own, so that nothing is.
- card: the picture first, the policy after it, 200 tokens decoded, as LlavaGuard's model card does it.
  End tokens are ignored: a random model would stop anywhere.

Goals: card / fast at least 6, cold / fast at least 2.3.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from models import build_100m, policy
from PIL import Image

from backends.remote.vllm_server.running import RealServer
from policyguard.backends import AssessmentRequest
from policyguard.backends.remote.capabilities import cached_tokens
from policyguard.backends.remote.chat import chat_messages, continuing
from policyguard.backends.remote.frame_encoding import data_uri, grid_for
from policyguard.dialects import SafeguardDialect

ROUNDS = 8
SIDE = 448


def main(rounds: int = ROUNDS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = build_100m(Path(folder) / "model")
        server = RealServer(model, "random-100m", Path(folder) / "log", "--max-model-len", "8192")
        server.start()
        try:
            measure(server, rounds)
        finally:
            server.kill()


def measure(server: RealServer, rounds: int) -> None:
    resolved = policy(words=1100).resolve()
    first, image_first = SafeguardDialect(), SafeguardDialect(layout="image-first")
    (prompt,), (turned,) = first.render(resolved), image_first.render(resolved)

    def picture() -> str:
        noise = Image.effect_noise((SIDE, SIDE), 90).convert("RGB")
        return data_uri(AssessmentRequest(noise, resolved), grid_for("safeguard", server.name))

    def fast(**fields: Any) -> dict[str, Any]:
        return continuing(chat_messages(prompt, picture()), prompt.prefill) | {"max_tokens": 1} | fields

    def cold() -> dict[str, Any]:
        return fast(cache_salt=os.urandom(8).hex())

    def card() -> dict[str, Any]:
        return {"messages": chat_messages(turned, picture()), "max_tokens": 200, "ignore_eos": True}

    def timed(body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        started = perf_counter()
        status, answer = server.post("/v1/chat/completions", {"model": server.name, "temperature": 0, **body})
        assert status == 200, answer
        return 1e3 * (perf_counter() - started), answer

    timed(card())
    timed(fast())
    times: dict[str, list[float]] = {"fast": [], "cold": [], "card": []}
    for _ in range(rounds):
        for name, make in (("fast", fast), ("cold", cold), ("card", card)):
            spent, answer = timed(make())
            times[name].append(spent)
            usage = answer["usage"]
            if name == "fast":
                whole, cached = usage["prompt_tokens"], cached_tokens(answer)
    told = server.post("/tokenize", {"model": server.name, "prompt": str(prompt.messages[0].parts[0])})[1]
    print(f"policy {told['count']} tokens, prompt {whole}, of which cached {cached}; {rounds} rounds")
    for name, value in (("fastest", min), ("median", statistics.median)):
        best = {way: value(spent) for way, spent in times.items()}
        print(f"{name}: fast {best['fast']:.0f} ms, cold {best['cold']:.0f} ms, card {best['card']:.0f} ms; "
              f"cold / fast {best['cold'] / best['fast']:.1f} (goal: at least 2.3), "
              f"card / fast {best['card'] / best['fast']:.1f} (goal: at least 6)")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
