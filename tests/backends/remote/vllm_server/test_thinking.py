"""A tiny model trained to think first: this process and a real server let it think, and judge alike.

Both compute in bfloat16 or wider, so scores differ by its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.remote.vllm_server.conftest import serving
from backends.remote.vllm_server.running import RealServer
from policyguard import Guard
from policyguard.outcomes import Outcome
from policyguard.train.evaluate import Evaluation, choose, judge
from support.training import POLICY, gentle_model, label_rows, recipe, train

NATS = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """Some minutes of one core: 160 updates on pictures of one colour each."""
    folder = tmp_path_factory.mktemp("thinking")
    values = recipe(
        "assess",
        gentle_model(folder / "base", "qwen3_vl"),
        label_rows(folder / "data", count=48),
        folder / "model",
        answer="thinking-first",
        tune={"vision": "trained"},
        augment={"exceptions": 0.0, "irrelevant": 0.0},
        optim={"max_steps": 160, "batch": 8, "lr": 0.004, "schedule": "linear"},
        run={"save_every": 1000},
    )
    model = train("assess", folder, values)
    with serving(RealServer(model, "thinking", folder / "log", "--max-model-len", "4096")) as running:
        yield running


def rows_of(server: RealServer) -> Path:
    return server.folder.parent / "data" / "labels.jsonl"


def evaluate(guard: Guard, rows: Path) -> Evaluation:
    items = choose(rows, split="all", limit=16).items
    with guard:
        return judge(items, guard.backend, explain=True)


@pytest.mark.timeout(3600)
def test_a_thinking_model_is_judged_alike_here_and_behind_a_server(server: RealServer) -> None:
    here = evaluate(Guard(POLICY, model=str(server.folder)), rows_of(server))
    remote = Guard(POLICY, model=server.name, base_url=server.url, dialect="safeguard:think", timeout=600)
    there = evaluate(remote, rows_of(server))
    assert not there.unasked
    assert [item.outcome for item in there.judged] == [item.outcome for item in here.judged]
    assert [item.rules for item in there.judged] == [item.rules for item in here.judged]
    assert here.values()["accuracy"] == 1.0
    assert here.unread.value == there.unread.value == 0.0
    for one, other in zip(here.judged, there.judged, strict=True):
        assert one.score is not None
        assert other.score is not None
        odds = [math.log(item / (1 - item)) for item in (one.score, other.score)]
        assert odds[0] == pytest.approx(odds[1], abs=NATS)


@pytest.mark.timeout(3600)
def test_asked_without_a_thought_the_same_model_says_nothing_that_counts_as_safe(server: RealServer) -> None:
    items = choose(rows_of(server), split="all", limit=8).items
    with Guard(POLICY, model=str(server.folder), dialect="safeguard") as guard:
        report = judge(items, guard.backend)
    assert {item.outcome for item in report.judged} == {str(Outcome.UNDECIDED)}
