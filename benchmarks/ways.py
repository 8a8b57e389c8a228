"""How far attention, compiling and weights in fewer bits move pico's scores of PictoSafe scenes, in float32.

    python benchmarks/ways.py                       # 200 scenes under each of two policies, all ways
    python benchmarks/ways.py --scenes 50 int8 fp8

What needs a package that is not here, or other hardware, is printed as not run, with the reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from random import Random
from typing import Any

from policyguard import Guard
from policyguard.backends import TransformersBackend
from policyguard.errors import ConfigurationError
from policyguard.pictosafe import Renderer
from policyguard.pictosafe.render import styles
from policyguard.pictosafe.scene import draw_scene

WAYS: dict[str, dict[str, Any]] = {
    "eager": {"attention": "eager"},
    "flex": {"attention": "flex_attention"},
    "flash": {"attention": "flash_attention_2"},
    "compiled": {"compiled": True},
    "auto": {"device_map": "auto"},
    "int8": {"quantise": "int8"},
    "fp8": {"quantise": "fp8"},
    "int4": {"quantise": "int4"},
}
POLICIES = ["pictosafe/l3", "pictosafe/l5"]


def scenes(count: int) -> Iterator[Any]:
    rng, renderers = Random(7), [Renderer(style) for style in styles()]
    for number in range(count):
        yield renderers[number % len(renderers)].draw(draw_scene(rng))


def verdicts(count: int, **ways: Any) -> tuple[list[Any], tuple[str, ...]]:
    device = {} if "device_map" in ways else {"device": "cpu"}
    with TransformersBackend("pico", dtype="float32", **device, **ways) as backend:
        found = []
        for policy in POLICIES:
            with Guard(policy, backend=backend) as guard:
                found += list(guard.check_many(scenes(count)))
        return found, backend.stats().fallbacks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--scenes", type=int, default=200)
    arguments = parser.parse_args()
    usual, _ = verdicts(arguments.scenes)
    print(f"{len(usual)} checks; score: largest and mean difference; outcomes that differ", flush=True)
    for name in arguments.ways or WAYS:
        try:
            other, fallbacks = verdicts(arguments.scenes, **WAYS[name])
        except ConfigurationError as error:
            print(f"{name:9} not run: {error.message[:150]}", flush=True)
            continue
        failed = [one.reason for one in other if one.score is None]
        if failed:
            print(f"{name:9} not run: {failed[0]}", flush=True)
            continue
        pairs = list(zip(usual, other, strict=True))
        moved = [abs(one.score - two.score) for one, two in pairs]
        differ = sum(one.outcome is not two.outcome for one, two in pairs)
        print(
            f"{name:9} {max(moved):.1e} {sum(moved) / len(moved):.1e} {differ} {' '.join(fallbacks)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
