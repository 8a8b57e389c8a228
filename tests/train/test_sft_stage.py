"""Stage sft end to end on tiny models: the loss falls, the result loads, a killed run goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from policyguard import Guard
from policyguard.errors import ConfigurationError
from policyguard.strict.files import sha256_of
from policyguard.train.command import dry_run, prepare, remember
from policyguard.train.preflight import inspect_recipe
from policyguard.train.recipe import load_recipe
from policyguard.train.rows import validate_rows
from policyguard.train.trainer import latest_checkpoint
from support.tiny_models import QWEN, Family, tiny_model
from support.training import (
    POLICY,
    caption_rows,
    changed,
    environment,
    gentle_model,
    held_out_losses,
    label_rows,
    recipe,
    record,
    train,
    weights,
    write_recipe,
)
from support.waiting import wait_until


def test_sft_lowers_the_held_out_loss_and_leaves_a_model_that_the_guard_loads(tmp_path: Path) -> None:
    base = gentle_model(tmp_path / "base", "qwen3_vl")
    values = recipe("sft", base, caption_rows(tmp_path / "data"), tmp_path / "out", optim={"max_steps": 8})
    out = train("sft", tmp_path, values)
    losses = held_out_losses(out)
    assert losses[-1] < losses[0] - 0.5
    assert not {name for name in changed(base, out) if "visual" in name}  # the tower is frozen
    for file in (
        "tokenizer.json",
        "preprocessor_config.json",
        "processor_config.json",
        "chat_template.jinja",
    ):
        assert (out / file).read_bytes() == (base / file).read_bytes()
    verdict = Guard(POLICY, model=str(out)).check(Image.new("RGB", (64, 64), "red"))
    assert verdict.score is not None
    card = (out / "README.md").read_text()
    assert "captions.jsonl" in card
    assert "held-out loss before training" in card
    with pytest.raises(ConfigurationError, match="holds a finished model"):
        train("sft", tmp_path, values)


def test_label_rows_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    rows = label_rows(tmp_path / "data")
    with pytest.raises(ConfigurationError, match="a caption row holds no verdict, and this one has label"):
        train("sft", tmp_path, recipe("sft", tmp_path / "no model", rows, tmp_path / "out"))


def test_a_checkpoint_without_its_mark_is_removed_and_the_one_before_it_taken(tmp_path: Path) -> None:
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}" / "COMPLETE").write_text("")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-10").exists()


def test_what_is_learnt_has_the_tokens_that_the_runtime_asks_with(tmp_path: Path) -> None:
    """Train and serve: prompt, prefill and label come out as the same tokens on both sides."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from policyguard.assessment import Rating
    from policyguard.backends.transformers import TransformersBackend
    from policyguard.backends.transformers.plan import make_plan
    from policyguard.dialects import Answer, SafeguardDialect
    from policyguard.train.assess import assess_example
    from policyguard.train.assess_data import AssessItem
    from policyguard.train.models import processor_of
    from policyguard.train.rows import image_dataset, open_frame

    label_rows(tmp_path)
    base, policy, dialect = tiny_model("qwen3_vl"), POLICY.resolve(), SafeguardDialect()
    item = AssessItem(tmp_path / "images/red-0.png", policy, Answer(Rating.UNSAFE, "warm", "red"))
    processor = processor_of(base, max_pixels=None)
    collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    batch = collate([image_dataset([assess_example(item, dialect)])[0]])
    with TransformersBackend(str(base)) as backend:
        loaded = backend._load().loaded
        plan = make_plan(loaded, dialect.render(policy)[0], policy, share_prefix=False)
    asked = loaded.processor(
        text=[plan.text + "A"],
        images=[[open_frame(item.path)]],
        return_tensors="pt",
    )["input_ids"][0]
    assert batch["input_ids"][0, : len(asked)].tolist() == asked.tolist()
    learnt = batch["labels"][0] != -100
    assert processor.tokenizer.decode(batch["input_ids"][0][learnt]).startswith('{"rating": "unsafe"')


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("vision", ["frozen", "trained"])
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("family", QWEN)
def test_both_families_learn_fully_and_with_lora_in_the_parts_asked_for(
    family: Family, mode: str, vision: str, tmp_path: Path
) -> None:
    base = gentle_model(tmp_path / "base", family)
    tune = {"mode": mode, "vision": vision, "rank": 16, "alpha": 32}
    optim = {"max_steps": 10, "lr": 0.01 if mode == "lora" else 0.003}
    values = recipe("sft", base, caption_rows(tmp_path / "data"), tmp_path / "out", tune=tune, optim=optim)
    out = train("sft", tmp_path, values)
    losses = held_out_losses(out)
    assert losses[-1] < losses[0] - 0.1
    touched = changed(base, out)
    assert any("visual" in name for name in touched) is (vision == "trained")
    assert any("visual" not in name for name in touched)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", QWEN)
def test_assess_lowers_the_held_out_loss_and_its_model_declares_its_dialect(
    family: Family, tmp_path: Path
) -> None:
    base = gentle_model(tmp_path / "base", family)
    values = recipe("assess", base, label_rows(tmp_path / "data"), tmp_path / "out", optim={"max_steps": 8})
    out = train("assess", tmp_path, values)
    losses = held_out_losses(out)
    assert losses[-1] < losses[0] - 0.5
    assert json.loads((out / "config.json").read_text())["policyguard"] == {"dialect": "safeguard"}
    assert record(out)["counts"]["examples rated safe"] == record(out)["counts"]["examples rated unsafe"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint_and_ends_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    base = gentle_model(tmp_path / "base", "qwen3_vl")
    rows = caption_rows(tmp_path / "data")
    optim = {"max_steps": 60, "batch": 2}
    values = recipe("sft", base, rows, tmp_path / "whole", optim=optim)
    whole = train("sft", tmp_path, values)
    path = write_recipe(tmp_path / "killed.yaml", values | {"out": str(tmp_path / "killed")})
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
    steps = [entry["step"] for entry in record(tmp_path / "killed")["history"] if "loss" in entry]
    assert steps == list(range(1, 61))
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(tmp_path / "killed")[name], atol=1e-5), name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_read_the_data_in_one_order_and_learn_what_one_process_learns(
    ranks: int, tmp_path: Path
) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data")
    alone = train("sft", tmp_path, recipe("sft", base, rows, tmp_path / "alone", optim={"batch": 4}))
    optim, run = {"batch": 4 // ranks}, {"devices": ranks}
    values = recipe("sft", base, rows, tmp_path / "out", optim=optim, run=run)
    path = write_recipe(tmp_path / "run.yaml", values)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(ranks),
        "--master_port",
        str(29580 + ranks),
    ]
    command_ = [*torchrun, "-m", "policyguard.train", str(path)]
    done = subprocess.run(command_, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = held_out_losses(tmp_path / "out")
    assert losses[-1] < losses[0]
    assert changed(base, tmp_path / "out")
    shared = [entry["loss"] for entry in record(tmp_path / "out")["history"] if "loss" in entry]
    single = [entry["loss"] for entry in record(alone)["history"] if "loss" in entry]
    assert shared[:2] == pytest.approx(single[:2], abs=0.02)  # another order is 0.1 away
    assert shared == pytest.approx(single, abs=0.05)  # Adam turns rounding of tiny gradients into whole steps


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_run_of_the_family_whose_checkpoints_have_other_names_goes_on_with_its_weights(
    mode: str, tmp_path: Path
) -> None:
    """Started again after its last step, a run has nothing left to do: it must end with the same weights."""
    base = gentle_model(tmp_path / "base", "qwen2_5_vl")
    values = recipe("sft", base, caption_rows(tmp_path / "data"), tmp_path / "out", tune={"mode": mode})
    out = train("sft", tmp_path, values)
    before = weights(out)
    assert changed(base, out)
    for file in out.iterdir():
        if file.is_file():
            file.unlink()
    train("sft", tmp_path, values)
    for name, value in weights(out).items():
        assert torch.allclose(value, before[name], atol=1e-6), name


def begun(folder: Path, stage: str = "sft") -> Path:
    """The recipe of a run that has a checkpoint."""
    out = folder / "out"
    if stage == "sft":
        path = write_recipe(
            folder / "run.yaml", recipe("sft", tiny_model("qwen3_vl"), caption_rows(folder / "data"), out)
        )
    else:
        rollout = {"group": 4, "max_tokens": 8}
        values = recipe(stage, "pico", label_rows(folder / "data"), out, rollout=rollout, optim={"batch": 8})
        path = write_recipe(folder / "run.yaml", values)
    (out / "training" / "checkpoint-2").mkdir(parents=True)
    (out / "training" / "checkpoint-2" / "COMPLETE").write_text("")
    loaded = prepare(stage, str(path))
    remember(loaded, inspect_recipe(loaded).data)
    return path


def test_checkpoints_of_another_run_are_not_gone_on_with(tmp_path: Path) -> None:
    path = begun(tmp_path)
    free = [
        "run.max_pixels=4096",
        "optim.max_steps=9",
        "optim.batch=2",
        "run.save_every=1",
        "data.skip_bad=0.5",
    ]
    assert dry_run(load_recipe(path, settings=free))
    with pytest.raises(
        ConfigurationError, match=r"checkpoints of another run: seed was 0, tune\.mode was full"
    ) as caught:
        dry_run(load_recipe(path, settings=["seed=7", "tune.mode=lora"]))
    assert "--set out=" in str(caught.value)
    for setting in ("optim.lr=0.03", "optim.schedule=cosine", "optim.weight_decay=0.1", "optim.warmup=0.5"):
        key, _, _ = setting.partition("=")
        with pytest.raises(ConfigurationError, match=rf"another run: {key} was"):
            dry_run(load_recipe(path, settings=[setting]))


def test_checkpoints_are_not_gone_on_with_when_rows_were_replaced(tmp_path: Path) -> None:
    path = begun(tmp_path)
    rows = tmp_path / "data" / "captions.jsonl"
    text = rows.read_text()
    rows.write_text(text.replace("a picture of red", "a picture of a rose"))
    with pytest.raises(ConfigurationError, match=r"another run: .*captions\.jsonl changed"):
        dry_run(load_recipe(path))
    rows.write_text(text + "\n\n")  # the same rows
    assert dry_run(load_recipe(path))


def test_checkpoints_are_not_gone_on_with_when_a_policy_or_its_variants_changed(tmp_path: Path) -> None:
    path = begun(tmp_path, "grpo")
    policies = tmp_path / "data" / "policies.jsonl"
    assert dry_run(load_recipe(path))
    for setting in ("reward.wrong=-0.1", "variants.swap=0.1", "grpo.beta=0.1", "rollout.group=2"):
        with pytest.raises(ConfigurationError, match="checkpoints of another run"):
            dry_run(load_recipe(path, settings=[setting]))
    policies.write_text(policies.read_text().replace("orange", "pink"))
    with pytest.raises(ConfigurationError, match="the rows, or their policies, changed"):
        dry_run(load_recipe(path))


def test_what_a_later_start_changed_is_on_the_card(tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = recipe("sft", gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data"), out)
    train("sft", tmp_path, values)
    for file in out.iterdir():
        if file.is_file():
            file.unlink()
    train("sft", tmp_path, values | {"optim": values["optim"] | {"max_steps": 6}})
    assert (
        "- changed by a later start of the run: optim.max_steps was 4, then 6"
        in (out / "README.md").read_text()
    )


def test_an_image_that_is_too_long_for_the_models_is_named_and_skipped_with_its_row(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path / "data")
    Image.new("RGB", (4100, 20), "red").save(tmp_path / "data/images/long.png")
    first = json.loads(rows.read_text().splitlines()[0])
    long = {"image": "images/long.png", "sha256": sha256_of(tmp_path / "data/images/long.png")}
    rows.write_text(rows.read_text() + json.dumps(first | long) + "\n")
    base = gentle_model(tmp_path / "base", "qwen3_vl")
    values = recipe("sft", base, rows, tmp_path / "out", optim={"max_steps": 6})
    notes = dry_run(load_recipe(write_recipe(tmp_path / "run.yaml", values)))
    assert any("long.png: the image has 4100 x 20 pixels" in note for note in notes)
    validation = validate_rows(rows)
    assert not validation.problems
    (skipped,) = [note for note in notes if "long.png" in note]
    assert skipped.replace("skipped:", "skipped in training:") in validation.notes
    assert record(train("sft", tmp_path, values))["counts"]["skipped"] == 1
