"""What reading an answer as a whole costs a check, beside a reader that takes the label's number and no more.

    PYTHONPATH=src:tests python benchmarks/strict_answers.py

One answer of 20 likeliest tokens and all of vLLM's fields is read 2,000 times each way, in turns: parsed and
one number taken from it, or parsed strictly, held to be one answer without a contradiction, tied to its
request by the length of its prompt, and its server known to show images. Goal: at most 0.3 ms more.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
from time import process_time
from typing import Any

from backends.remote.server import Scene

ROUNDS, RUNS = 40, 50


def body() -> bytes:
    weights = Scene().next_tokens('{"rating": "')
    ranked = sorted(weights, key=lambda word: -weights[word])[:20]
    entries = [
        {"token": word, "logprob": math.log(weights[word]), "bytes": list(word.encode())} for word in ranked
    ]
    message = {"role": "assistant", "content": ranked[0], "refusal": None, "reasoning": None}
    logprobs = {"content": [{**entries[0], "top_logprobs": entries}]}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "length"}
    answer: dict[str, Any] = {"id": "chatcmpl-" + "0" * 32, "object": "chat.completion", "created": 1}
    usage = {"prompt_tokens": 900, "completion_tokens": 1, "total_tokens": 901}
    answer |= {"model": "guard", "service_tier": None, "prompt_logprobs": None}
    return json.dumps(answer | {"choices": [choice], "usage": usage}).encode()


def main() -> None:
    from policyguard.backends.remote.answers import read_probabilities
    from policyguard.backends.remote.endpoint import Endpoint
    from policyguard.backends.remote.errors import Reply
    from policyguard.backends.remote.sight import Lengths, Look, Sight
    from policyguard.strict.jsontext import parse_json

    data, labels = body(), ("safe", "unsafe")
    endpoint, lengths = Endpoint.parse("http://gpu:8000/v1"), Lengths()

    async def never(*args: object) -> Any:
        raise AssertionError(args)

    sight = Sight("guard", never)

    async def seen(*args: object, **options: object) -> Look:
        return Look(True, "")

    sight.look = seen  # type: ignore[method-assign]

    def barely() -> object:
        content = json.loads(data)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {entry["token"]: math.exp(entry["logprob"]) for entry in content}

    async def strictly() -> object:
        reply = Reply(200, parse_json(data), endpoint)
        assert lengths.fits(reply, ("fingerprint", None, (448, 448), "fields"))
        await sight.require({}, reply, free=True)
        tokens = read_probabilities(reply.data, prefill='{"rating": "', labels=labels)
        assert not tokens.leaves_out
        return tokens.of_texts(labels, safe=["safe"])

    async def measure() -> tuple[list[float], list[float]]:
        bare, strict = [], []
        for _ in range(ROUNDS):
            began = process_time()
            for _ in range(RUNS):
                barely()
            between = process_time()
            for _ in range(RUNS):
                await strictly()
            bare.append(1e3 * (between - began) / RUNS)
            strict.append(1e3 * (process_time() - between) / RUNS)
        return bare, strict

    bare, strict = asyncio.run(measure())
    for name, of in (("fastest", min), ("median", statistics.median)):
        one, other = of(bare), of(strict)
        ways = f"{one:.3f} ms barely, {other:.3f} ms strictly"
        print(f"{name}: {ways}: {other - one:.3f} ms more ({other / one:.1f} times)")


if __name__ == "__main__":
    main()
