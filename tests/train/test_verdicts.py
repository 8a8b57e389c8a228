"""Verdicts on held-out rows during training: the guard's own, bounded, exact over a stop, shared by ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from policyguard.backends.transformers import TransformersBackend
from policyguard.dialects import get_dialect
from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.train.command import dry_run
from policyguard.train.evaluate import choose, judge
from policyguard.train.recipe import AssessRecipe, Stop, load_recipe
from policyguard.train.verdicts import standing, why_not
from support.training import (
    caption_rows,
    differences,
    environment,
    gentle_model,
    label_rows,
    left,
    pictosafe_rows,
    recipe,
    record,
    train,
    weights,
    write_recipe,
)

FINISHED = ("config.json", "model.safetensors", "README.md")


def watched(out: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "training/watch.jsonl").read_text().splitlines())
    return [line for line in lines if "verdicts" in line]


def assess(folder: Path, **changes: Any) -> dict[str, Any]:
    values = recipe(
        "assess",
        gentle_model(folder / "base", "qwen3_vl"),
        label_rows(folder / "data", count=24),
        folder / "out",
        optim={"max_steps": 4},
        run={"eval_every": 2},
        measure={"rows": 6},
    )
    for name, change in changes.items():
        values[name] = values.get(name, {}) | change if isinstance(change, dict) else change
    return values


def with_splits(rows: Path, held_out: int) -> None:
    """The last rows are held out, in pairs."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["split"] = "validation" if number >= len(lines) - held_out else "train"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("answer", ["rating-first", "thinking-first"])
def test_the_figures_of_a_run_are_those_of_the_guard_that_it_leaves(answer: str, tmp_path: Path) -> None:
    count = 6 if answer == "rating-first" else 2  # an untrained model thinks for as long as it may
    values = assess(tmp_path, answer=answer)
    with_splits(tmp_path / "data/labels.jsonl", count)
    out = train("assess", tmp_path, values)
    lines = watched(out)
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert {line["verdicts"]["rows"] for line in lines} == {count}
    items = choose(tmp_path / "data/labels.jsonl", model=out).items
    assert len(items) == count
    with TransformersBackend(str(out), dtype="float32", dialect=get_dialect(declared(out))) as backend:
        found = judge(items, backend)
    last = lines[-1]["verdicts"]
    for name, value in found.values().items():
        now = last[name]
        assert value == pytest.approx(now[0] if isinstance(now, list) else total(now), abs=1e-6), name
    card = (out / "README.md").read_text()
    assert f"| verdicts on {count} rows held out" in card
    assert "balanced accuracy" in card
    assert record(out)["verdicts"] == last


def total(value: Any) -> float:
    return float(sum(value.values()) if isinstance(value, dict) else value)


def declared(out: Path) -> str:
    return str(json.loads((out / "config.json").read_text())["policyguard"]["dialect"])


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_run_that_gets_no_better_ends_early_and_keeps_the_best_weights(mode: str, tmp_path: Path) -> None:
    changes = {
        "tune": {"mode": mode, "vision": "frozen", "rank": 4, "alpha": 8},
        "stop": {"on": "balanced_accuracy", "patience": 2},
        "optim": {"lr": 1e-9, "max_steps": 40},
        "run": {"eval_every": 1},
    }
    out = train("assess", tmp_path, assess(tmp_path, **changes))
    assert [line["step"] for line in watched(out)] == [0, 1, 2, 3]
    card = (out / "README.md").read_text()
    assert "ended early at update 3: balanced_accuracy has not got better" in card
    assert "the weights are those of update 1" in card
    if mode == "full":
        best = weights(out / "training/checkpoint-1")
        assert all(value.equal(best[name]) for name, value in weights(out).items())
    saved = sorted(path.parent.name for path in out.glob("training/checkpoint-*/COMPLETE"))
    assert saved == ["checkpoint-1", "checkpoint-3"]  # run.keep is 2: the best one and the last


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_run_killed_after_it_ended_early_ends_there_again_wherever_its_folder_is(
    mode: str, tmp_path: Path
) -> None:
    values = assess(
        tmp_path,
        tune={"mode": mode, "rank": 4, "alpha": 8, "dropout": 0.1},
        stop={"on": "loss", "patience": 1, "min_gain": 1.0},
        optim={"lr": 1e-4, "max_steps": 40},
        run={"eval_every": 1},
    )
    out = train("assess", tmp_path, values)
    before = left(out)
    unfinish(out)
    train("assess", tmp_path, values)
    assert differences(before, left(out)) == []
    unfinish(out)
    moved = train("assess", tmp_path, values | {"out": str(out.rename(tmp_path / "moved"))})
    after = left(moved)
    assert [line for line in before.pop("card") if line not in after["card"]] == []
    assert differences(before, after) == []


def test_a_run_that_went_on_has_the_same_figures_and_weights_as_one_that_was_not_stopped(
    tmp_path: Path,
) -> None:
    values = assess(tmp_path, run={"eval_every": 1})
    whole = train("assess", tmp_path, values | {"out": str(tmp_path / "whole")})
    out = train("assess", tmp_path, values | {"optim": values["optim"] | {"max_steps": 2}})
    for name in FINISHED:
        assert (out / name).is_file()
    unfinish(out)
    train("assess", tmp_path, values)
    assert watched(out) == watched(whole)
    assert [line["step"] for line in watched(whole)] == [0, 1, 2, 3, 4]
    before = weights(whole)
    assert all(torch.equal(value, before[name]) for name, value in weights(out).items())


def unfinish(out: Path) -> None:
    """As a kill leaves it while the finished model is written."""
    for file in out.iterdir():
        if file.is_file():
            file.unlink()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, dict[str, Any]]:
    """A run of three updates, in the middle of an epoch: recipe, folder, and what it has left there."""
    folder = tmp_path_factory.mktemp("ended")
    values = assess(folder, optim={"max_steps": 3}, run={"eval_every": 2, "save_every": 1})
    log = folder / "out/training/watch.jsonl"
    log.parent.mkdir(parents=True)  # of a start that was killed before its first checkpoint
    log.write_text('{"step": 0, "verdicts": {"rows": 6}}\n{"step": 0, "verd')
    out = train("assess", folder, values)
    return values, out, left(out)


def test_a_run_killed_before_its_first_checkpoint_measures_the_base_once(
    ended: tuple[dict[str, Any], Path, dict[str, Any]],
) -> None:
    lines = watched(ended[1])
    assert [line["step"] for line in lines] == [0, 2, 3]
    assert lines[0]["verdicts"] != {"rows": 6}


def test_a_run_killed_after_its_last_update_makes_no_other_and_measures_nothing_twice(
    ended: tuple[dict[str, Any], Path, dict[str, Any]],
) -> None:
    values, out, before = ended
    unfinish(out)
    with (out / "training/watch.jsonl").open("a") as log:
        log.write('{"step": 4, "verdicts": {"rows": 6}}\n{"step": 4, "rew')
    train("assess", out.parent, values)
    assert differences(before, left(out)) == []


def test_the_card_is_written_before_the_model_counts_as_finished(
    ended: tuple[dict[str, Any], Path, dict[str, Any]],
) -> None:
    values, out, before = ended
    unfinish(out)
    (out / "config.json").mkdir()
    with pytest.raises(PolicyGuardError, match="training failed"):
        train("assess", out.parent, values)
    assert "# A guard model" in (out / "README.md").read_text()
    (out / "config.json").rmdir()
    train("assess", out.parent, values)
    assert differences(before, left(out)) == []


def test_grpo_and_sft_measure_what_they_can(tmp_path: Path) -> None:
    rows = pictosafe_rows(tmp_path / "data", scenes=12)
    values = recipe(
        "grpo",
        "pico",
        rows,
        tmp_path / "grpo",
        dialect="pico",
        rollout={"group": 4, "max_tokens": 6, "temperature": 1.9},
        optim={"batch": 8, "lr": 1e-5, "max_steps": 1},
        watch={"max_zero_variance": 1.0},
        measure={"rows": 4},
    )
    out = train("grpo", tmp_path, values)
    lines = watched(out)
    assert [line["step"] for line in lines] == [0, 1]
    assert lines[0]["verdicts"]["rows"] == 4
    answered = next(entry for entry in record(out)["history"] if "eval_runtime" in entry)
    assert round(answered["eval_runtime"] * answered["eval_samples_per_second"]) == 4
    assert lines[0]["verdicts"]["accuracy"][0] > 0.7  # pico knows its world
    assert "| verdicts on 4 rows held out" in (out / "README.md").read_text()
    captions = recipe(
        "sft",
        gentle_model(tmp_path / "base", "qwen3_vl"),
        caption_rows(tmp_path / "captions"),
        tmp_path / "sft",
        stop={"on": "loss", "patience": 1, "min_gain": 100.0},
        run={"eval_every": 1},
        optim={"max_steps": 9},
    )
    card = (train("sft", tmp_path, captions) / "README.md").read_text()
    assert "ended early at update 2: loss has not got better" in card


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ranks_share_the_rows_and_all_know_all_answers(tmp_path: Path) -> None:
    values = assess(
        tmp_path, optim={"batch": 2, "max_steps": 40, "lr": 1e-9}, run={"eval_every": 1, "devices": 2}
    )
    values |= {"stop": {"on": "accuracy", "patience": 2}, "measure": {"rows": 5}}
    path = write_recipe(tmp_path / "run.yaml", values)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "29591",
    ]
    done = subprocess.run(
        [*torchrun, "-m", "policyguard.train", str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in watched(tmp_path / "out")] == [0, 1, 2, 3]
    alone = values | {"run": values["run"] | {"devices": 1}, "out": str(tmp_path / "alone")}
    single = watched(train("assess", tmp_path, alone))
    assert single[0] == watched(tmp_path / "out")[0]


def history(*values: float) -> list[dict[str, float]]:
    return [{"step": step, "held_out/f1": value, "held_out/rows": 9} for step, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "gain", "ends"),
    [
        ((0.9, 0.1, 0.2, 0.3), 0.0, False),  # the first is from before any update
        ((0.0, 0.5, 0.5, 0.4), 0.0, True),
        ((0.0, 0.5, 0.4, 0.6), 0.0, False),
        ((0.0, 0.5, 0.52, 0.54), 0.05, True),
        ((0.0, 0.5, 0.5), 0.0, False),
    ],
)
def test_a_run_ends_when_a_figure_has_not_got_better_for_long_enough(
    values: tuple[float, ...], gain: float, ends: bool
) -> None:
    stop = Stop(on="f1", patience=2, min_gain=gain)
    assert (standing(history(*values), stop) is not None) is ends


def test_the_loss_gets_better_by_falling() -> None:
    def losses(*values: float) -> list[dict[str, float]]:
        return [{"step": step, "eval_loss": value} for step, value in enumerate(values)]

    stop = Stop(on="loss", patience=2)
    assert standing(losses(9, 3, 2, 1), stop) is None
    assert "loss has not got better than 1" in (standing(losses(9, 1, 2, 3), stop) or "")


def test_the_dry_run_says_what_is_measured_and_what_ends_the_run(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "run.yaml", assess(tmp_path, answer="thinking-first"))
    notes = "\n".join(dry_run(load_recipe(path, settings=["stop.on=balanced_accuracy"])))
    assert "answer: thinking-first; the model is served in the dialect safeguard:think" in notes
    assert "6 of 6 held-out rows are judged every 2 updates" in notes or "held-out rows are judged" in notes
    assert "the run ends when balanced_accuracy has not got better in 3 evaluations" in notes
    for settings, words in (
        (["stop.on=f1", "measure.rows=0"], r"stop\.on: f1 is not measured: measure\.rows is 0"),
        (["stop.on=f1", "data.held_out=0.0"], r"stop\.on: f1 needs held-out rows"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            dry_run(load_recipe(path, settings=settings))


def test_thinking_models_in_shards_are_not_measured_and_others_are(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "run.yaml", assess(tmp_path))
    for answer, sharding, measured in (
        ("thinking-first", "fsdp2", False),
        ("thinking-first", "zero2", True),
        ("rating-first", "fsdp2", True),
    ):
        loaded = load_recipe(path, settings=[f"answer={answer}", f"run.sharding={sharding}"])
        assert isinstance(loaded, AssessRecipe)
        assert (why_not(loaded) is None) is measured
