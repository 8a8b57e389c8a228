"""How many threads a model computes with: its size, the cores it may use, and nobody else's setting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from backends.transformers.support import assessments, policy, requests, tiny_backend
from policyguard.backends.transformers import placement
from policyguard.backends.transformers.placement import (
    choose_attention,
    choose_threads,
    dtype_reason,
    limited,
    usable_cores,
)

CPU = torch.device("cpu")
LARGE = 1_000_000_000


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch as it is where nobody has set its threads."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    yield
    torch.set_num_threads(before)


def number_elsewhere() -> int:
    found: list[int] = []
    thread = Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("untouched")
def test_a_small_model_gets_one_thread_and_a_large_one_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_threads(CPU, 3_700_000).count == 1
    assert choose_threads(CPU, LARGE).count == usable_cores()
    monkeypatch.setattr(placement, "usable_cores", lambda: 16)
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    monkeypatch.setattr(placement, "_defaults", lambda: {torch.get_num_threads()})
    assert choose_threads(CPU, LARGE, load=4.0).count == 16  # 28 are free
    busy = choose_threads(CPU, LARGE, load=26.0)
    assert (busy.count, "busy" in busy.reason) == (6, True)
    assert choose_threads(CPU, LARGE, load=300.0).count == 1
    assert choose_threads(CPU, LARGE, among=4).count == 4


@pytest.mark.usefixtures("untouched")
def test_a_number_that_the_program_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(usable_cores() + 61)
    found = choose_threads(CPU, LARGE)
    assert found.count is None
    assert found.reason == f"the program has set torch to {usable_cores() + 61}"
    assert choose_threads(CPU, LARGE, asked=2).count == 2
    torch.set_num_threads(usable_cores())
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(CPU, 1000) == placement.Threads(None, "OMP_NUM_THREADS is set")
    assert choose_threads(torch.device("meta"), 1000).count is None


@pytest.mark.usefixtures("untouched")
def test_only_the_thread_that_asks_computes_with_fewer() -> None:
    here, there = torch.get_num_threads(), number_elsewhere()
    for count in (1, here + 5):
        with limited(count):
            assert torch.get_num_threads() == count
            assert number_elsewhere() == there
        assert torch.get_num_threads() == here
        assert number_elsewhere() == there
    with pytest.raises(KeyError), limited(here + 5):
        raise KeyError
    assert torch.get_num_threads() == here
    with limited(None):
        assert torch.get_num_threads() == here


@pytest.mark.usefixtures("untouched")
def test_a_check_leaves_torch_as_it_was_and_says_what_it_chose() -> None:
    torch.set_num_threads(usable_cores())
    seen = []
    backend = tiny_backend("qwen3_vl")
    model = backend._load().loaded.model
    model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    expected = assessments(backend.assess(requests(2, policy())))
    assert set(seen) == {1}
    assert torch.get_num_threads() == usable_cores() == number_elsewhere()
    stats = backend.stats()
    assert (stats.device, stats.dtype, stats.dtype_reason) == ("cpu", "float32", "asked for")
    assert stats.threads == 1
    assert stats.threads_reason.endswith("million parameters gain nothing by more")
    more = tiny_backend("qwen3_vl", threads=usable_cores() + 1)
    found = assessments(more.assess(requests(2, policy())))
    assert [one.rating for one in found] == [one.rating for one in expected]
    assert more.stats().threads == usable_cores() + 1


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "300000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, os.cpu_count()),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, os.cpu_count()),
        ({"cpu.max": "nonsense"}, os.cpu_count()),
        ({}, os.cpu_count()),
    ],
)
def test_the_share_of_a_control_group_bounds_the_cores(
    files: dict[str, str], cpus: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert placement._quota(tmp_path) == cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of processes")
def test_the_affinity_of_the_process_bounds_the_cores() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from policyguard.backends.transformers.placement import usable_cores; print(usable_cores())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"


def test_why_a_number_format_was_chosen_is_said() -> None:
    assert dtype_reason("float16", CPU) == "asked for"
    chosen = str(placement.choose_dtype(None, CPU))
    assert ("computes in" in dtype_reason(None, CPU)) is (chosen == "torch.bfloat16")


@pytest.mark.parametrize(
    ("has", "settings", "expected"),
    [
        ({"avx512_bf16": True}, {}, "matmul"),
        ({"avx512_bf16": True, "amx_bf16": True}, {}, None),
        ({}, {}, None),
        ({"avx512_bf16": True}, {"asked": "sdpa"}, "sdpa"),
        ({"avx512_bf16": True}, {"compiled": True}, None),
        ({"avx512_bf16": True}, {"dtype": torch.float32}, None),
        ({"avx512_bf16": True}, {"device": torch.device("meta")}, None),
    ],
)
def test_attention_by_products_is_chosen_where_torch_has_no_fast_one(
    has: dict[str, bool], settings: dict[str, Any], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    usual = {"asked": None, "dtype": torch.bfloat16, "device": CPU, "compiled": False}
    assert choose_attention(**usual | settings) == expected
