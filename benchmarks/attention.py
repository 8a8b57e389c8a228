"""A guard model's attention over a long policy on a CPU: torch's own, and by products, in bfloat16.

    python benchmarks/attention.py      # CPU milliseconds, the fastest of 5 in turns; one thread

The error is that of the output against float64, as a share of its size, for scores whose standard deviation
is 1 and 4.
"""

from __future__ import annotations

from time import process_time
from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from policyguard.backends.transformers.ways import attend_by_matmul

SHAPES = {
    "a check": (1, 8, 4, 233, 1936, 64),
    "a batch of 4": (4, 8, 4, 233, 1936, 64),
    "one token": (1, 8, 4, 1, 2168, 64),
    "as in a 7B": (1, 28, 4, 233, 1936, 128),
}
"""Rows, heads, heads of keys, queries, keys before them, size of a head."""


def main(runs: int = 5) -> None:
    torch.set_num_threads(1)
    print("what | sdpa, ms | matmul, ms | error of each, scores of 1 | of 4")
    for name, (rows, heads, own, queries, before, size) in SHAPES.items():
        errors, times = [], {"sdpa": [], "matmul": []}
        for spread in (1.0, 4.0):
            keys = before + queries
            query = (spread * torch.randn(rows, queries, heads, size)).bfloat16().transpose(1, 2)
            key, value = (torch.randn(rows, own, keys, size).bfloat16() for _ in range(2))
            mask = torch.ones(rows, 1, queries, keys, dtype=torch.bool).tril(before)
            layer: Any = SimpleNamespace(num_key_value_groups=heads // own, is_causal=True)
            exact = sdpa_attention_forward(layer, query.double(), key.double(), value.double(), mask)[0]
            for run in range(runs + 1):
                for way, function in (("sdpa", sdpa_attention_forward), ("matmul", attend_by_matmul)):
                    began = process_time()
                    found = function(layer, query, key, value, mask)[0]
                    if run:
                        times[way].append(1e3 * (process_time() - began))
                    else:
                        errors.append(float((found.double() - exact).norm() / exact.norm()))
        fastest = " | ".join(f"{min(each):.1f}" for each in times.values())
        print(
            f"{name} | {fastest} | "
            + " | ".join(f"{a:.1e} {b:.1e}" for a, b in zip(errors[::2], errors[1::2], strict=True))
        )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
