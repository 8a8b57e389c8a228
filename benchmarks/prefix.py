"""Local checks with the policy's KV prefix kept, against the same backend without; a new picture each.

The gain depends on the lengths, so they are printed: about (policy + picture) / picture tokens at best.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from models import build_100m, policy
from overhead import noise

from policyguard import Guard
from policyguard.backends import TransformersBackend

RUNS = 8


def main() -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = str(build_100m(Path(folder)))
        rules = policy(words=1600)
        kept, plain = (TransformersBackend(path, prefix_cache_bytes=bound) for bound in (1 << 30, 0))
        guards = {"kept": Guard(rules, backend=kept), "anew": Guard(rules, backend=plain)}
        times: dict[str, list[float]] = {name: [] for name in guards}
        for run in range(RUNS + 1):
            data = noise(448)
            for name, guard in guards.items():
                started = perf_counter()
                guard.check(data)
                if run:  # the first loads the weights and fills the prefix
                    times[name].append(perf_counter() - started)
        tokens = len(kept._load().loaded.processor.tokenizer(rules.resolve().text)["input_ids"])
        best = {name: min(values) for name, values in times.items()}
        print(f"policy of {tokens} tokens, 448-pixel picture (196 tokens), {torch.get_num_threads()} threads")
        print(f"prefix kept {best['kept'] * 1e3:.0f} ms, computed anew {best['anew'] * 1e3:.0f} ms, "
              f"ratio {best['anew'] / best['kept']:.2f}")  # fmt: skip
        kept.close()
        plain.close()


if __name__ == "__main__":
    main()
