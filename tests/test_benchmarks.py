"""The arithmetic of ``benchmarks/local.py``, and that all its rows come out, for a toy and without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.examples import ROOT, example

pytest.importorskip("torch")


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return example("local", "benchmarks")


@pytest.fixture
def shapes(local: ModuleType) -> ModuleType:
    return example("shapes", "benchmarks")


@pytest.fixture
def bench(local: ModuleType, tmp_path: Path) -> Iterator[Any]:
    bench = local.Bench("tiny", tmp_path, device="cpu", threads=1, tokens=700, runs=1)
    yield bench
    bench.close()


@contextmanager
def operations() -> Iterator[list[int]]:
    """Collects how many operations torch itself counts for what is done inside."""
    from torch.utils.flop_counter import FlopCounterMode

    total: list[int] = []
    with FlopCounterMode(display=False) as counter:
        yield total
    total.append(counter.get_total_flops())


def test_a_check_costs_the_linear_layers_that_torch_counts_for_it(local: ModuleType, bench: Any) -> None:
    """On a CPU torch does not count the attention, which leaves the linear layers."""
    (forward,) = bench.passes(bench.check)
    with local.stock_attention(bench.model), operations() as counted:
        local.replay([forward])
    assert bench.flops.language + bench.flops.vision == pytest.approx(counted[0], rel=0.002)
    assert bench.prefix > 32
    assert bench.suffix + bench.prefix == bench.prompt


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_attention_costs_what_torch_counts_but_for_what_no_token_may_see(
    shapes: ModuleType, tmp_path: Path, family: Any
) -> None:
    """Written out in full, each of n tokens is compared with all n, and may see (n + 1) / 2 on average."""
    import torch
    from transformers import AutoModelForImageTextToText

    from support.tiny_models import build_tiny_model

    path = build_tiny_model(tmp_path, family)
    model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="eager").eval()
    side = 2 * model.config.vision_config.patch_size * 4  # pixels
    patches = (side // model.config.vision_config.patch_size) ** 2
    ids = torch.full((1, patches // 4 + 20), 5)
    ids[0, 10 : 10 + patches // 4] = model.config.image_token_id
    kinds = (ids == model.config.image_token_id).int()
    grid = torch.tensor([[1, int(patches**0.5), int(patches**0.5)]])
    pixels = torch.randn(patches, 3 * 2 * model.config.vision_config.patch_size**2)
    with torch.inference_mode(), operations() as counted:
        model(
            input_ids=ids,
            mm_token_type_ids=kinds,
            pixel_values=pixels,
            image_grid_thw=grid,
            logits_to_keep=1,
            use_cache=False,
        )
    ours = shapes.flops(model, new=ids.shape[1], before=0, patches=patches, read=1)
    in_full = ours.language_attention * 2 * ids.shape[1] / (ids.shape[1] + 1)
    assert ours.total - ours.language_attention + in_full == pytest.approx(counted[0], rel=0.01)
    behind = shapes.flops(model, new=1, before=9, patches=patches, read=1)
    alone = shapes.flops(model, new=1, before=0, patches=patches, read=1)
    assert behind.language_attention == 10 * alone.language_attention
    assert behind.language == alone.language


def test_a_ratio_is_that_of_the_fastest_runs_and_of_the_medians(local: ModuleType) -> None:
    ratio = local.Ratio.of([8.0, 4.0, 6.0], [2.0, 1.0, 10.0])
    assert (ratio.fastest, ratio.median) == (4.0, 3.0)
    assert local.Ratio(0.9, 0.8).rest() == local.Ratio(pytest.approx(0.1), pytest.approx(0.2))
    assert local.Ratio(6.0, 3.0).over(3.0) == local.Ratio(2.0, 1.0)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        ({"least": 40}, 40.0, True),
        ({"least": 40}, 39.9, False),
        ({"most": 1.5}, 1.5, True),
        ({"most": 1.5}, 1.6, False),
    ],
)
def test_a_goal_is_met_at_its_bound(
    local: ModuleType, goal: dict[str, float], value: float, met: bool
) -> None:
    assert local.Goal(**goal).met(value) is met


def test_what_is_compared_takes_turns_and_the_first_round_does_not_count(local: ModuleType) -> None:
    calls: list[tuple[str, int]] = []
    arms = {name: (lambda run, name=name: calls.append((name, run))) for name in ("one", "other")}
    found = local.in_turns(arms, 2)
    assert calls == [("one", 0), ("other", 0), ("other", 1), ("one", 1), ("one", 2), ("other", 2)]
    assert [len(times.wall) for times in found.values()] == [2, 2]


def test_time_without_a_pass_is_counted_once_however_passes_overlap(local: ModuleType) -> None:
    assert local.idle_share([(0.0, 4.0), (1.0, 2.0), (6.0, 10.0), (3.0, 5.0)]) == pytest.approx(0.1)


def test_no_picture_is_shown_twice(bench: Any) -> None:
    shown = set(bench.fresh(8))
    bench.stock()
    assert len(shown | set(bench.fresh(8))) == 16


def test_every_row_comes_out(local: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["card", "prefill", "share", "policies", "explain", "batches", "pipeline", "memory"]
    rows = local.main([*asked, "--shape", "tiny", "--runs", "1", "--tokens", "700", "--decoded", "8"])
    assert {row.shape for row in rows} == {"tiny"}
    assert all(row.value.fastest > 0 for row in rows if "share" not in row.name)
    printed = capsys.readouterr().out
    assert all(row.markdown() in printed for row in rows)
    assert "the card's way / a check" in printed


def test_the_row_of_threads_marks_the_number_that_is_chosen(local: ModuleType, bench: Any) -> None:
    bench.chosen = local.choose_threads(bench.loaded.device, 1000, asked=1)
    rows = list(local.threads(bench, numbers=(1,)))
    assert [row.name for row in rows] == ["wall time with threads: 1, chosen / 1"]


def test_the_row_of_idle_time_comes_out_on_a_cpu_too(local: ModuleType, bench: Any) -> None:
    (row,) = local.idle(bench, count=3, width=400, height=300)
    assert 0 <= row.value.fastest < 1


def test_weights_can_be_drawn_in_the_numbers_that_they_are_kept_in(
    shapes: ModuleType, tmp_path: Path
) -> None:
    """As they are for billions of them: on the GPU, in bfloat16."""
    import torch

    path = shapes.SHAPES["tiny"].build(tmp_path, dtype="bfloat16")
    from safetensors.torch import load_file

    assert {weight.dtype for weight in load_file(path / "model.safetensors").values()} == {torch.bfloat16}
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(("name", "millions"), [("7b", 7700), ("3b", 3750)])
def test_large_geometries_have_as_many_weights_as_their_models(
    shapes: ModuleType, name: str, millions: int
) -> None:
    """Published: 8.29 and 3.75 billion; the first with a second matrix of its vocabulary, 0.54 billion."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    shape = shapes.SHAPES[name]
    config = AutoConfig.for_model(
        shape.family, text_config=dict(shape.text), vision_config=dict(shape.vision), tie_word_embeddings=True
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert shapes.parameters(model) / 1e6 == pytest.approx(millions, rel=0.02)
