"""Export: the same prompts for three trainers, and reward files that score as the package does."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from policyguard.cli import main
from policyguard.errors import ConfigurationError
from policyguard.train.export import export
from policyguard.train.grpo import read_prompts
from policyguard.train.recipe import GrpoRecipe, load_recipe
from support.training import label_rows, recipe, write_recipe


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GrpoRecipe]:
    folder = tmp_path_factory.mktemp("export")
    rows = label_rows(folder / "data")
    values = recipe("grpo", "pico", rows, folder / "out", reward={"category_bonus": 0.25, "bare_words": True})
    loaded = load_recipe(write_recipe(folder / "run.yaml", values))
    assert isinstance(loaded, GrpoRecipe)
    export(loaded, folder / "exported")
    return folder / "exported", loaded


def code(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return found


def test_all_layouts_hold_the_same_prompts_in_order_with_one_picture_each(
    written: tuple[Path, GrpoRecipe],
) -> None:
    folder, loaded = written
    _, units = read_prompts(loaded)
    verl, easyr1 = parquet(folder / "verl-train.parquet"), parquet(folder / "easyr1-train.parquet")
    swift = [json.loads(line) for line in (folder / "swift-train.jsonl").read_text().splitlines()]
    assert len(verl) == len(easyr1) == len(swift) == len(units.prompts)
    for one, two, three, prompt in zip(verl, easyr1, swift, units.prompts, strict=True):
        expected = one["reward_model"]["ground_truth"]
        assert expected == two["answer"] == three["expected"]
        assert json.loads(expected)["label"] == prompt.label
        texts = "".join(message["content"] for message in one["prompt"])
        assert texts.count("<image>") == two["problem"].count("<image>") == 1
        assert prompt.policy.text in texts
        assert one["images"][0]["bytes"].startswith(b"\x89PNG")
        assert Path(three["images"][0]).is_file()


def test_the_reward_files_score_as_the_package_does(
    written: tuple[Path, GrpoRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = written
    plugin = types.ModuleType("swift.rewards")
    plugin.ORM, plugin.orms = object, {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "swift", types.ModuleType("swift"))
    monkeypatch.setitem(sys.modules, "swift.rewards", plugin)
    rows = parquet(folder / "verl-train.parquet")
    truth = next(
        row["reward_model"]["ground_truth"]
        for row in rows
        if '"unsafe"' in row["reward_model"]["ground_truth"]
    )
    verl, easyr1 = code(folder / "reward_verl.py"), code(folder / "reward_easyr1.py")
    code(folder / "reward_swift.py")
    swift = plugin.orms["policyguard_verdict"]()  # type: ignore[attr-defined]
    for text, value in [("unsafe", 1.0), ("safe", 0.0), ("not safe", -0.5), ("", -0.5)]:
        assert verl.compute_score("policyguard", text, truth) == value
        assert swift([text], expected=[truth]) == [value]
        (scored,) = easyr1.compute_score([{"response": text, "ground_truth": truth}])
        assert scored["overall"] == value


def test_an_export_is_whole_or_absent_and_never_written_over(
    written: tuple[Path, GrpoRecipe], tmp_path: Path
) -> None:
    folder, loaded = written
    with pytest.raises(ConfigurationError, match="already exists"):
        export(loaded, folder)
    broken = loaded.model_copy(update={"data": loaded.data.model_copy(update={"rows": ["nowhere.jsonl"]})})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        export(broken, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_exports_and_lists_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = label_rows(tmp_path / "data")
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", "pico", rows, tmp_path / "out"))
    assert main(["train", "export", str(path), str(tmp_path / "exported")]) == 0
    assert "verl-train.parquet" in capsys.readouterr().out
    dry = ["train", "grpo", str(path), "--dry-run", "--set", "optim.batch=16"]
    assert main(dry) == 0
    assert "estimate: memory per device" in capsys.readouterr().out
    assert main(["train", "recipes"]) == 0
    assert "safeguard-vl/rl-safeedit" in capsys.readouterr().out
    assert main(["train", "sft", str(path)]) == 2
    assert "this recipe is for stage 'grpo', not 'sft'" in capsys.readouterr().err


def test_every_picture_that_is_missing_or_changed_is_named_before_anything_is_written(tmp_path: Path) -> None:
    rows = label_rows(tmp_path / "data")
    (tmp_path / "data/images/red-0.png").unlink()
    (tmp_path / "data/images/white-1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", "pico", rows, tmp_path / "out"))
    loaded = load_recipe(path)
    assert isinstance(loaded, GrpoRecipe)
    with pytest.raises(ConfigurationError) as caught:
        export(loaded, tmp_path / "new")
    assert "red-0.png: there is no such image" in caught.value.message
    assert "white-1.png: the file is not the one that `sha256` names" in caught.value.message
    assert "white-1.png: is a damaged PNG image, or cut short" in caught.value.message
    with pytest.raises(ConfigurationError, match=r"cannot be made, because .*run\.yaml is a file"):
        export(loaded, path / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "run.yaml"]


def test_a_wrong_verdict_that_earns_something_is_not_accurate(tmp_path: Path) -> None:
    rows = label_rows(tmp_path / "data")
    values = recipe("grpo", "pico", rows, tmp_path / "out", reward={"wrong": 0.2, "bare_words": True})
    loaded = load_recipe(write_recipe(tmp_path / "run.yaml", values))
    assert isinstance(loaded, GrpoRecipe)
    export(loaded, tmp_path / "new")
    truth = json.loads((tmp_path / "new/swift-train.jsonl").read_text().splitlines()[0])["expected"]
    right = json.loads(truth)["label"]
    easyr1 = code(tmp_path / "new" / "reward_easyr1.py")
    for said in ("safe", "unsafe"):
        scored = easyr1.compute_score({"response": said, "ground_truth": truth})
        assert scored["accuracy"] == (said == right)
        assert scored["overall"] == (1.0 if said == right else 0.2)
