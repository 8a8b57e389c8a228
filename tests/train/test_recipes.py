"""Recipes: packaged ones are right, and every mistake in one is named at once, with its place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import BaseModel

from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.train.command import dry_run, prepare, start
from policyguard.train.preflight import Preflight, check_batches
from policyguard.train.recipe import (
    AssessRecipe,
    GrpoRecipe,
    SftRecipe,
    find_recipes,
    load_recipe,
    recipe_names,
)
from policyguard.train.rows import validate_rows
from policyguard.train.trainer import latest_checkpoint
from support.tiny_models import tiny_model
from support.training import caption_rows, environment, label_rows, recipe, write_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", recipe_names())
def test_a_packaged_recipe_loads_says_what_it_is_for_and_opens_with_its_command(name: str) -> None:
    loaded = load_recipe(name)
    head = (find_recipes() / f"{name}.yaml").read_text().splitlines()[:2]
    assert all(line.startswith("# ") for line in head)
    command = head[1]
    assert f"policyguard train {loaded.stage} {name}" in command or f"-m policyguard.train {name}" in command
    launch = re.search(r"--config_file train/accelerate/(\w+)\.yaml(?: --num_processes (\d+))?", command)
    if launch is not None:  # as many processes, and the way of sharing, that the command starts
        assert loaded.run.sharding == launch[1]
        assert loaded.run.devices == int(launch[2] or 8)
    elif isinstance(loaded, SftRecipe | AssessRecipe | GrpoRecipe):
        assert (loaded.run.sharding, loaded.run.devices) == ("none", 1)
    if isinstance(loaded, GrpoRecipe):
        found = Preflight()
        check_batches(loaded, found)
        assert not found.problems


def test_the_released_settings_are_those_of_the_release() -> None:
    sft, rl = load_recipe("safeguard-vl/sft"), load_recipe("safeguard-vl/rl")
    assert (sft.tune.rank, sft.tune.alpha, sft.optim.lr, sft.optim.weight_decay) == (64, 128, 1e-4, 1e-3)
    assert (sft.optim.batch, sft.optim.accumulate, sft.run.devices, sft.optim.epochs) == (1, 8, 8, 1)
    assert isinstance(rl, GrpoRecipe)
    assert (rl.grpo.beta, rl.optim.lr, rl.rollout.group, rl.rollout.max_tokens) == (0.01, 1e-6, 8, 512)
    assert (rl.optim.batch, rl.optim.accumulate, rl.tune.mode, rl.answer) == (1, 2, "full", "thinking-first")
    assert (sft.optim.warmup, rl.optim.warmup, rl.optim.weight_decay) == (0.05, 0.01, 0.1)
    assert rl.rollout.by == "transformers"
    assess = load_recipe("llavaguard/assess-7b")
    assert isinstance(assess, AssessRecipe)
    assert (assess.optim.lr, assess.optim.weight_decay, assess.optim.epochs) == (1e-5, 0.1, 3)
    augment = assess.augment
    assert (augment.exceptions, augment.irrelevant, augment.irrelevant_of) == (1.0, 3, "unsafe")


def test_the_page_on_recipes_has_every_line_of_the_published_ones_and_names_no_source_for_guesses() -> None:
    page = (ROOT / "docs/recipes.md").read_text()
    seen = set()
    for section in page.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        cells = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("| `")]
        rows = {key.strip(" `"): [cell.strip() for cell in rest] for key, *rest in cells}
        for name in re.findall(r"`([^`]+)`", title):
            seen.add(name)
            lines = flat_lines((find_recipes() / f"{name}.yaml").read_text())
            assert rows.keys() == lines.keys(), name
            for key, (released, paper, ours, _) in rows.items():
                value, _, comment = (part.strip() for part in lines[key].partition("#"))
                assert ours == value, f"{name}: {key}"
                assert (released == paper == "–") is comment.startswith("guess"), f"{name}: {key}"
    assert seen == {name for name in recipe_names() if name.startswith(("safeguard-vl/", "llavaguard/"))}
    for name in set(recipe_names()) - seen:
        if not name.startswith(("recaption", "pico/")):
            assert "guesses" in (find_recipes() / f"{name}.yaml").read_text()


def flat_lines(text: str) -> dict[str, str]:
    """``optim.lr`` -> the rest of its line; without what a user sets, and without lists."""
    lines, part = {}, ""
    for line in text.splitlines():
        match = re.fullmatch(r"( *)(\w+):(.*)", line)
        if match is None or match[2] in ("stage", "model", "out", "rows"):
            continue
        part = part if match[1] else f"{match[2]}."
        if match[3].strip():
            lines[f"{part if match[1] else ''}{match[2]}"] = match[3].strip()
    return lines


def test_a_run_that_accelerate_shares_out_otherwise_than_the_recipe_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe("sft", tiny_model("qwen3_vl"), caption_rows(tmp_path), tmp_path / "out")
    loaded = prepare("sft", str(write_recipe(tmp_path / "run.yaml", values)))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ConfigurationError, match=r"sharding is none, and accelerate was started for zero3"):
        start(loaded)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "train/accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_an_accelerate_configuration_has_keys_that_accelerate_knows_and_says_whether_it_was_run(
    path: Path,
) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    text = path.read_text()
    was = path.stem in ("fsdp2", "zero2", "zero3")
    assert ("\n# Run by this project on two CPU" if was else "\n# Not run by this project: ") in text
    assert "-m policyguard.train " in text
    assert load_config_from_file(str(path)).num_processes >= 8  # it raises for unknown keys


def test_all_mistakes_are_reported_at_once_with_place_field_and_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "stage: grpo\nmodel: x\nout: y\ndata: {row: a}\noptim: {lr: fast, betch: 3}\nrolout: {}\n"
        "max_tokens: 3\nrollout: {by: vlm}\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load_recipe(path, settings=["grpo.betaa=2", "optim.epochs=-1", "nonsense"])
    said = caught.value.message.replace(f"{path}:", "")
    for line in (
        "4:8: data.row: unknown key 'row': did you mean `rows:`?",
        "5:13: optim.lr: expected a number, found the text 'fast'",
        "5:19: optim.betch: unknown key 'betch': did you mean `batch:`?",
        "6:1: rolout: unknown key 'rolout': did you mean `rollout:`?",
        "7:1: max_tokens: unknown key 'max_tokens': it belongs under `rollout:`",
        "8:15: rollout.by: expected transformers, vllm-colocate or vllm-server, found the text 'vlm'",
        "--set: grpo.betaa: unknown key 'betaa': did you mean `beta:`?",
        "--set: optim.epochs: must be above 0, found the number -1",
        "--set: nonsense: expected key=value, such as optim.lr=1e-5",
    ):
        assert line in said


@pytest.mark.parametrize(
    "text", ["", "- a", "stage: [", "stage: sft\nstage: sft\n", "stage: !!python/name:os.system x"]
)
def test_what_is_no_recipe_is_refused_without_a_traceback(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"run\.yaml"):
        load_recipe(tmp_path / "run.yaml")


def test_a_recipe_for_another_stage_and_an_unknown_name_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match="run `policyguard train sft`"):
        load_recipe("safeguard-vl/sft", stage="grpo")
    with pytest.raises(ConfigurationError, match="did you mean 'safeguard-vl/sft'"):
        load_recipe("safeguard-vl/stf")


def test_settings_change_single_values_of_a_packaged_recipe() -> None:
    loaded = load_recipe(
        "safeguard-vl/rl", settings=["optim.lr=2e-6", "model=./mine", "data.rows=[a.jsonl, b.jsonl]"]
    )
    assert (loaded.optim.lr, loaded.model, loaded.data.rows) == (2e-6, "./mine", ["a.jsonl", "b.jsonl"])


def test_a_dry_run_of_a_good_recipe_counts_rows_and_estimates_memory_and_time(tmp_path: Path) -> None:
    model = tiny_model("qwen3_vl")
    sft = write_recipe(tmp_path / "sft.yaml", recipe("sft", model, caption_rows(tmp_path), tmp_path / "out"))
    notes = "\n".join(dry_run(prepare("sft", str(sft))))
    assert re.search(r"\d+ rows to train on, \d+ held out", notes)
    assert re.search(r"memory per device about .* MiB .*time about", notes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["assess", "grpo"])
def test_a_dry_run_names_a_missing_image_a_changed_one_and_a_bad_model(stage: str, tmp_path: Path) -> None:
    rows = label_rows(tmp_path)
    (tmp_path / "images/white-1.png").unlink()
    (tmp_path / "images/red-0.png").write_bytes((tmp_path / "images/green-2.png").read_bytes())
    path = write_recipe(tmp_path / "run.yaml", recipe(stage, tmp_path / "nowhere", rows, tmp_path / "out"))
    with pytest.raises(ConfigurationError) as caught:
        dry_run(prepare(stage, str(path)))
    said = caught.value.message
    assert "white-1.png: there is no such image" in said
    assert "red-0.png: the file is not the one that `sha256` names" in said
    assert "there is no model folder" in said


@pytest.mark.parametrize("stage", ["assess", "grpo"])
def test_a_dry_run_refuses_rows_of_one_label(stage: str, tmp_path: Path) -> None:
    rows = label_rows(tmp_path)
    rows.write_text("".join(line + "\n" for line in rows.read_text().splitlines() if '"safe"' in line))
    path = write_recipe(tmp_path / "run.yaml", recipe(stage, tiny_model("qwen3_vl"), rows, tmp_path / "out"))
    with pytest.raises(ConfigurationError, match="training rows are safe: there is nothing to tell apart"):
        dry_run(prepare(stage, str(path)))
    meant = ["data.one_label=true", *(["variants.lone=keep"] if stage == "grpo" else [])]
    settings = [*meant, "optim.batch=8", *(["rollout.group=4"] if stage == "grpo" else [])]
    assert dry_run(prepare(stage, str(path), settings=settings))


def test_a_dry_run_refuses_a_policy_without_rules_and_names_it(tmp_path: Path) -> None:
    rows = label_rows(tmp_path)
    (tmp_path / "empty.yaml").write_text("id: empty\nversion: 1.0.0\ntitle: Empty\nrules: []\n")
    rows.write_text(rows.read_text().replace('"#colours"', '"empty.yaml"', 1))
    path = write_recipe(
        tmp_path / "run.yaml", recipe("assess", tiny_model("qwen3_vl"), rows, tmp_path / "out")
    )
    with pytest.raises(ConfigurationError, match=r"empty\.yaml.*needs at least one rule"):
        dry_run(prepare("assess", str(path)))


def test_bad_rows_up_to_the_allowed_share_are_named_and_skipped(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path)
    rows.write_text(rows.read_text() + '{"image": "x"}\n')
    values = recipe("sft", tiny_model("qwen3_vl"), rows, tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"captions\.jsonl:17: sha256: is missing"):
        dry_run(prepare("sft", str(write_recipe(tmp_path / "run.yaml", values))))
    values["data"]["skip_bad"] = 0.1
    notes = dry_run(prepare("sft", str(write_recipe(tmp_path / "run.yaml", values))))
    assert any("captions.jsonl:17" in note for note in notes)


def test_too_little_memory_is_named_with_the_way_out(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path)
    values = recipe("sft", tiny_model("qwen3_vl"), rows, tmp_path / "out", optim={"batch": 10_000_000})
    with pytest.raises(ConfigurationError, match=r"too little memory.*lower optim\.batch"):
        dry_run(prepare("sft", str(write_recipe(tmp_path / "run.yaml", values))))


def test_batches_that_split_groups_or_labels_are_refused(tmp_path: Path) -> None:
    def problems(**changes: object) -> str:
        values = recipe("grpo", "pico", tmp_path / "rows.jsonl", tmp_path / "out", **changes)
        found = Preflight()
        loaded = load_recipe(write_recipe(tmp_path / "run.yaml", values))
        assert isinstance(loaded, GrpoRecipe)
        check_batches(loaded, found)
        return "\n".join(found.problems)

    assert "does not divide" in problems(optim={"batch": 6}, rollout={"group": 4})
    assert "even number" in problems(optim={"batch": 12}, rollout={"group": 4})
    assert "class weights do nothing" in problems(
        optim={"batch": 8}, rollout={"group": 4}, reward={"safe_weight": 2.0}
    )
    assert not problems(optim={"batch": 8}, rollout={"group": 4})


def test_the_docs_list_every_key_with_its_default() -> None:
    def keys(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
        for name, field in kind.model_fields.items():
            part = field.annotation
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from keys(part, f"{prefix}{name}.")
            elif name != "stage":
                yield f"{prefix}{name}", "required" if field.is_required() else field.default

    page = (ROOT / "docs/training.md").read_text()
    shown = {None: "none", True: "true", False: "false"}
    for kind in (SftRecipe, AssessRecipe, GrpoRecipe):
        for key, default in keys(kind):
            text = shown[default] if default is None or isinstance(default, bool) else default
            assert f"| `{key}` | {text} |" in page


def test_recipes_rows_and_rewards_load_no_heavy_library() -> None:
    """The reward of an export runs where nothing but the package is installed."""
    code = (
        "import sys; import policyguard.train.recipe, policyguard.train.data, policyguard.train.export, "
        "policyguard.train.grpo, policyguard.cli.train; "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'PIL'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout.strip() == "[]"


def test_what_a_library_raises_in_a_run_becomes_an_error_of_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = caption_rows(tmp_path)
    path = write_recipe(tmp_path / "run.yaml", recipe("sft", tiny_model("qwen3_vl"), rows, tmp_path / "out"))
    loaded = prepare("sft", str(path))
    for error, said in [
        (RuntimeError("CUDA out of memory"), "ran out of memory"),
        (KeyError("x"), "training failed"),
    ]:
        monkeypatch.setattr("trl.SFTTrainer", _raising(error))
        with pytest.raises(PolicyGuardError, match=said):
            start(loaded)


def test_a_run_on_another_number_of_devices_than_the_recipe_s_is_refused(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path)
    values = recipe("sft", tiny_model("qwen3_vl"), rows, tmp_path / "out", run={"devices": 8})
    with pytest.raises(ConfigurationError, match=r"for 8 devices .*, and 1 processes run"):
        start(prepare("sft", str(write_recipe(tmp_path / "run.yaml", values))))


def _raising(error: Exception) -> object:
    def raise_(*_: object, **__: object) -> None:
        raise error

    return raise_


def test_a_policy_that_cannot_be_used_is_named_once(tmp_path: Path) -> None:
    rows = label_rows(tmp_path)
    (tmp_path / "policies.jsonl").write_text('{"id": ["colours"], "policy": {}}\n')
    path = write_recipe(tmp_path / "run.yaml", recipe("assess", "pico", rows, tmp_path / "out"))
    with pytest.raises(ConfigurationError) as caught:
        dry_run(prepare("assess", str(path)))
    assert "16 of 16 rows are bad" in caught.value.message
    assert caught.value.message.count("policies.jsonl:1: id: expected a text") == 1


@pytest.mark.parametrize("stage", ["assess", "grpo"])
def test_an_image_with_both_labels_under_one_policy_is_refused(stage: str, tmp_path: Path) -> None:
    rows = label_rows(tmp_path)
    first = json.loads(rows.read_text().splitlines()[0])
    other = first | {"label": "safe", "category": None, "violations": []}
    rows.write_text(rows.read_text() + json.dumps(other) + "\n")
    path = write_recipe(tmp_path / "run.yaml", recipe(stage, "pico", rows, tmp_path / "out"))
    with pytest.raises(ConfigurationError, match=r"red-0\.png: rows call it both safe and unsafe under #col"):
        dry_run(prepare(stage, str(path)))


def test_a_wrong_hash_is_found_also_where_another_row_has_the_right_one(tmp_path: Path) -> None:
    rows = label_rows(tmp_path)
    first = json.loads(rows.read_text().splitlines()[0])
    rows.write_text(json.dumps(first | {"sha256": "0" * 64}) + "\n" + rows.read_text())
    path = write_recipe(tmp_path / "run.yaml", recipe("assess", "pico", rows, tmp_path / "out"))
    with pytest.raises(ConfigurationError, match=r"red-0\.png: rows give this file more than one `sha256`"):
        dry_run(prepare("assess", str(path)))
    said = [str(problem) for problem in validate_rows(rows).problems]
    assert any("red-0.png: the file is not the one that `sha256` names" in line for line in said)


def test_an_empty_file_of_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n")
    path = write_recipe(
        tmp_path / "run.yaml", recipe("assess", "pico", tmp_path / "rows.jsonl", tmp_path / "out")
    )
    with pytest.raises(ConfigurationError, match=r"rows\.jsonl holds no rows"):
        dry_run(prepare("assess", str(path)))


def test_a_folder_that_holds_something_else_is_no_place_for_a_run(tmp_path: Path) -> None:
    rows, out = caption_rows(tmp_path), tmp_path / "out"
    path = write_recipe(tmp_path / "run.yaml", recipe("sft", tiny_model("qwen3_vl"), rows, out))
    out.mkdir()
    assert dry_run(prepare("sft", str(path)))
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(
        ConfigurationError, match=r"holds other files than a training run's, such as thesis\.tex"
    ):
        dry_run(prepare("sft", str(path)))
    (out / "training").mkdir()
    assert dry_run(prepare("sft", str(path)))
    with pytest.raises(ConfigurationError, match=r"out: .* cannot be made, because .*run\.yaml is a file"):
        prepare("sft", str(path), settings=[f"out={path}/out"])


def test_only_half_written_checkpoints_of_a_run_are_removed(tmp_path: Path) -> None:
    for name in ("checkpoint-2", "checkpoint-4", "checkpoint-best"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-2" / "COMPLETE").write_text("")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-best"]


def test_too_little_disk_is_named_with_the_way_out(tmp_path: Path) -> None:
    many = {"keep": 10**8, "save_every": 1}
    values = recipe(
        "sft",
        tiny_model("qwen3_vl"),
        caption_rows(tmp_path),
        tmp_path / "out",
        run=many,
        optim={"max_steps": 10**8},
    )
    with pytest.raises(ConfigurationError, match=r"out: too little disk: .* lower run\.keep"):
        dry_run(prepare("sft", str(write_recipe(tmp_path / "run.yaml", values))))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("reward.wrong=1.5", r"reward: right \(1 with its weight\) must be over wrong \(1\.5\)"),
        ("reward.unreadable=0.5", r"no less than unreadable \(0\.5\)"),
        ("rollout.server=ftp://gpu", r"rollout\.server: is not an http or https URL"),
        ("run.report_to=wandbb", r"run\.report_to: wandbb is unknown or not installed; available: none"),
        pytest.param(
            "rollout.by=vllm-colocate",
            r"rollout\.by: vllm-colocate needs vllm, which is not installed",
            marks=pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed"),
        ),
    ],
)
def test_what_would_teach_nonsense_or_fail_later_is_said_by_a_dry_run(
    setting: str, said: str, tmp_path: Path
) -> None:
    rows = label_rows(tmp_path)
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", tiny_model("qwen3_vl"), rows, tmp_path / "out"))
    with pytest.raises(ConfigurationError, match=said):
        dry_run(prepare("grpo", str(path), settings=["rollout.group=4", "optim.batch=8", setting]))
