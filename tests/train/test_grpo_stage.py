"""Stage grpo end to end: pico at a high temperature, and random models of both families (slow)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from policyguard import Guard
from policyguard.errors import ConfigurationError
from policyguard.train.answers import conversation
from policyguard.train.data import LabelRow
from policyguard.train.grpo import banned_tokens, read_prompts
from policyguard.train.models import model_folder, processor_of
from policyguard.train.recipe import AssessRecipe, Data, GrpoRecipe, load_recipe
from policyguard.train.rows import gather
from policyguard.train.sft import fine_tune
from support.tiny_models import QWEN, Family, tiny_model
from support.training import (
    changed,
    environment,
    gentle_model,
    label_rows,
    pictosafe_rows,
    recipe,
    record,
    train,
    weights,
    write_recipe,
)
from support.waiting import wait_until

PICO: dict[str, Any] = {
    "dialect": "pico",
    "rollout": {"group": 8, "max_tokens": 6, "temperature": 1.9},
    "optim": {"batch": 16, "lr": 1e-3, "max_steps": 2},
    "grpo": {"beta": 0.01},
    "data": {"held_out": 0.0},
    "variants": {"units": 8},
    "watch": {"max_zero_variance": 1.0},
}


def logged(out: Path) -> list[dict[str, Any]]:
    return [entry for entry in record(out)["history"] if "reward" in entry]


def warm_model(folder: Path, family: Family) -> Path:
    """A tiny model that has learnt to say safe or unsafe, each half of the time, whatever it is asked."""
    base, data = gentle_model(folder / "cold", family), label_rows(folder / "data")
    values = recipe("assess", base, data, folder / "warm", optim={"max_steps": 40, "batch": 4, "lr": 0.004})
    loaded = load_recipe(write_recipe(folder / "warm.yaml", values))
    assert isinstance(loaded, AssessRecipe)
    from policyguard.dialects import SafeguardDialect

    rows = gather(Data(rows=[str(data)], held_out=0), LabelRow, seed=0, inspect=lambda item: None)
    examples = []
    for number, item in enumerate(rows.train):
        assert item.policy is not None
        word = "safe" if number % 2 else "unsafe"
        examples.append(
            {
                "image": str(item.path),
                "prompt": conversation(SafeguardDialect(), item.policy),
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": word}]}],
            }
        )
    return fine_tune(loaded, train=examples, validation=[], files={}, counts={}, dialect="safeguard")


def tiny(model: Path, rows: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values = recipe(
        "grpo",
        model,
        rows,
        out,
        rollout={"group": 4, "max_tokens": 4},
        optim={"batch": 8, "lr": 1e-3, "max_steps": 3},
        grpo={"beta": 0.01},
        reward={"bare_words": True},
        watch={"max_zero_variance": 1.0, "min_recall": 0.0},
    )
    for name, change in changes.items():
        inner = values.get(name)
        values[name] = {**inner, **change} if isinstance(inner, dict) else change
    return values


def test_grpo_starts_at_kl_zero_changes_the_weights_and_leaves_a_model_that_the_guard_loads(
    tmp_path: Path,
) -> None:
    rows = pictosafe_rows(tmp_path / "data", scenes=16)
    out = train("grpo", tmp_path, recipe("grpo", "pico", rows, tmp_path / "out", **PICO))
    first, last = logged(out)[0], logged(out)[1]
    assert first["kl"] == 0.0 < last["kl"]
    assert first["verdict/readable"] > 0.2
    assert 0.0 <= first["verdict/recall_safe"] <= 1.0
    touched = changed(model_folder("pico"), out)
    assert touched
    assert not {name for name in touched if "visual" in name}
    watched = [json.loads(line) for line in (out / "training/watch.jsonl").read_text().splitlines()]
    assert {"recall_safe", "recall_unsafe", "zero_variance", "entropy"} <= watched[0].keys()
    verdict = Guard("pictosafe/l3", model=str(out)).check(tmp_path / "data/images/scene-0.png")
    assert verdict.score is not None


def test_the_order_of_halves_survives_trl_s_sampler(tmp_path: Path) -> None:
    """Each generation batch holds whole halves: two prompts under one text, each as often as the group is
    large.
    """
    from trl.trainer.utils import RepeatSampler

    from policyguard.train.rows import image_dataset

    rows = label_rows(tmp_path)
    loaded = load_recipe(write_recipe(tmp_path / "r.yaml", tiny(Path("pico"), rows, tmp_path / "out")))
    assert isinstance(loaded, GrpoRecipe)
    _, units = read_prompts(loaded)
    prompts = units.prompts
    assert len(image_dataset([{"image": str(prompt.path)} for prompt in prompts])) == len(prompts)
    sampler = RepeatSampler(prompts, mini_repeat_count=4, batch_size=2, repeat_count=1, shuffle=False, seed=0)
    order = [prompts[index] for index in sampler]
    for start in range(0, len(order), 8):
        batch = order[start : start + 8]
        assert len({prompt.policy.text for prompt in batch}) == 1
        assert sum(prompt.label == "unsafe" for prompt in batch) == 4


@pytest.mark.parametrize("family", QWEN)
def test_image_and_video_tokens_are_banned_from_answers_and_padding_is_on_the_left(family: Family) -> None:
    processor = processor_of(tiny_model(family), max_pixels=None)
    banned = {processor.tokenizer.convert_ids_to_tokens(token) for token in banned_tokens(processor)}
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"} <= banned
    assert "<|im_end|>" not in banned
    assert processor.tokenizer.padding_side == "left"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("family", QWEN)
def test_both_families_take_steps_fully_and_with_lora_from_kl_zero(
    family: Family, mode: str, tmp_path: Path
) -> None:
    base = warm_model(tmp_path, family)
    tune = {"mode": mode, "vision": "frozen", "rank": 8, "alpha": 16}
    out = train("grpo", tmp_path, tiny(base, tmp_path / "data/labels.jsonl", tmp_path / "out", tune=tune))
    assert logged(out)[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert logged(out)[0]["verdict/readable"] > 0.5
    assert changed(base, out)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_grpo_with_thinking_leaves_is_served_in_the_dialect_that_lets_it_think(tmp_path: Path) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), label_rows(tmp_path / "data")
    values = tiny(base, rows, tmp_path / "out", answer="thinking-first", optim={"max_steps": 1})
    out = train("grpo", tmp_path, values)
    assert json.loads((out / "config.json").read_text())["policyguard"] == {"dialect": "safeguard:think"}
    with Guard("safeedit/l3", model=str(out)) as guard:
        assert guard.backend.model.dialect_version.endswith("+think")
        verdict = guard.check(tmp_path / "data/images/red-0.png")
    assert not verdict.allowed  # it has learnt nothing yet: its thought does not end


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_collapsed_run_is_stopped_and_says_why(tmp_path: Path) -> None:
    base = gentle_model(tmp_path / "base", "qwen3_vl")  # it says nothing readable: both recalls are 0
    values = tiny(base, label_rows(tmp_path / "data"), tmp_path / "out")
    values |= {"watch": {"patience": 2, "grace": 0}, "optim": values["optim"] | {"max_steps": 30}}
    with pytest.raises(ConfigurationError, match=r"at update 2: 0\.000 of the answers can be read") as caught:
        train("grpo", tmp_path, values)
    assert "format_warmup.updates" in (caught.value.hint or "")
    assert len(caught.value.message.splitlines()) == 6  # five answers, and what each lacks
    assert "the answer was cut off" in caught.value.message
    _, *updates = (
        (tmp_path / "out/training/watch.jsonl").read_text().splitlines()
    )  # the first one is the start
    assert [5, 5] == [len(json.loads(line)["unread"]) for line in updates]
    assert not (tmp_path / "out/config.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", ["tiny random", "caption model"])
def test_a_format_warm_up_makes_answers_readable_from_a_start_that_says_nothing_readable(
    start: str, tmp_path: Path
) -> None:
    if start == "tiny random":
        base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), label_rows(tmp_path / "data")
        values = tiny(base, rows, tmp_path / "out", rollout={"max_tokens": 120}, reward={"bare_words": False})
        values |= {"format_warmup": {"updates": 160, "lr": 4e-3, "batch": 8}}
    else:
        base = Path(__file__).parents[2] / "train/experiments/cross_policy/base-model"
        rows = pictosafe_rows(tmp_path / "data", scenes=40)
        values = recipe("grpo", base, rows, tmp_path / "out", **PICO)
        values |= {"format_warmup": {"updates": 40, "lr": 1e-3, "batch": 8}}
        values["rollout"] |= {"temperature": 1.0}
    values["optim"]["max_steps"] = 2
    out = train("grpo", tmp_path, values)
    assert logged(out)[0]["verdict/readable"] > 0.5
    assert logged(out)[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the warmed-up model


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_difficulty_filter_drops_what_the_model_settles(tmp_path: Path) -> None:
    rows = pictosafe_rows(tmp_path / "data", scenes=12)
    values = recipe("grpo", "pico", rows, tmp_path / "out", **PICO)
    values |= {
        "difficulty": {"filter": True, "samples": 4, "keep_at_most_easy": 0.0},
        "variants": {"units": 12},
        "rollout": values["rollout"] | {"temperature": 1.5},
    }
    out = train("grpo", tmp_path, values)
    lines = [json.loads(line) for line in (out / "training/difficulty.jsonl").read_text().splitlines()]
    teaching = [line for line in lines if 0 < line["first"] < 1 or 0 < line["second"] < 1]
    assert record(out)["counts"]["prompts"] == 2 * (len(teaching) or len(lines))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_killed_run_goes_on_from_a_step_boundary_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    rows = pictosafe_rows(tmp_path / "data", scenes=20)
    changes = PICO | {"optim": PICO["optim"] | {"max_steps": 6, "lr": 1e-4}}
    whole = train("grpo", tmp_path, recipe("grpo", "pico", rows, tmp_path / "whole", **changes))
    path = write_recipe(
        tmp_path / "killed.yaml", recipe("grpo", "pico", rows, tmp_path / "killed", **changes)
    )
    run = [sys.executable, "-m", "policyguard.train", str(path)]
    with subprocess.Popen(
        run, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        checkpoints = tmp_path / "killed/training"
        wait_until(lambda: process.poll() is not None or list(checkpoints.glob("checkpoint-*/COMPLETE")))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed/config.json").exists()
    done = subprocess.run(run, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [entry["step"] for entry in logged(tmp_path / "killed")] == list(range(1, 7))
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(tmp_path / "killed")[name], atol=1e-4), name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_measuring_and_prompts_and_end_with_one_model(ranks: int, tmp_path: Path) -> None:
    rows = pictosafe_rows(tmp_path / "data", scenes=20)
    changes = PICO | {"optim": PICO["optim"] | {"batch": 16 // ranks}, "run": {"devices": ranks}}
    changes |= {"difficulty": {"filter": True, "samples": 2}}
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", "pico", rows, tmp_path / "out", **changes))
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(ranks),
        "--master_port",
        str(29570 + ranks),
    ]
    done = subprocess.run(
        [*torchrun, "-m", "policyguard.train", str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert logged(tmp_path / "out")[0]["kl"] == 0.0
    assert len(list((tmp_path / "out/training").glob("difficulty-*.jsonl"))) == ranks
    assert changed(model_folder("pico"), tmp_path / "out")
