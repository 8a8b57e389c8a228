"""Policies, pictures and backends for the tests against a real server."""

from __future__ import annotations

from typing import Any

from PIL import Image

from backends.remote.vllm_server.running import RealServer
from policyguard.assessment import Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.remote import RemoteBackend
from policyguard.dialects import PicoDialect, SafeguardDialect
from policyguard.pictosafe.benchmark import Sizes, draw_benchmark
from policyguard.pictosafe.rules import load_level
from policyguard.policy import Policy, parse_policy


def scenes(count: int, seed: int = 4) -> list[Image.Image]:
    """PictoSafe scenes, 96 x 96 pixels each."""
    drawn = draw_benchmark(seed, sizes=Sizes(scenes=max(2, count), pairs=0, held_out=0))
    found = [shot.source() for shot in drawn.shots[:count]]
    return [picture for picture in found if isinstance(picture, Image.Image)]


def level(number: int) -> Any:
    return load_level(f"pictosafe/l{number}")


def long_policy(items: int) -> Policy:
    """Eight rules with ``items`` wordings each, in words that are one or two tokens of pico's."""
    words = [
        "any weapons",
        "weapons",
        "any alcohol",
        "alcohol",
        "every skull",
        "explosives",
        "a syringe",
        "every redflag",
    ]
    rules = [
        {
            "id": f"rule-{n}",
            "title": f"Rule {n}",
            "unsafe": [words[(n + i) % len(words)] for i in range(items)],
        }
        for n in range(8)
    ]
    fields = {"id": "long", "version": "1.0.0", "title": "Long", "rules": rules}
    return parse_policy(fields)


def pico(server: RealServer, **options: Any) -> RemoteBackend:
    return RemoteBackend(server.url, **{"model": server.name, "dialect": PicoDialect(), **options})


def safeguard(server: RealServer, **options: Any) -> RemoteBackend:
    return RemoteBackend(server.url, **{"model": server.name, "dialect": SafeguardDialect(), **options})


def ask(frame: Image.Image, policy: Any, *, explain: bool = False) -> AssessmentRequest:
    return AssessmentRequest(frame, policy, Reading.EXPLAIN if explain else Reading.FAST)
