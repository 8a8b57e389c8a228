"""Data sets on disk: the same from the same seed, checkable, whole or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from policyguard.errors import ConfigurationError
from policyguard.pictosafe import Sizes, make
from policyguard.pictosafe.benchmark import draw_benchmark
from policyguard.pictosafe.dataset import load
from policyguard.pictosafe.rules import LEVELS
from policyguard.pictosafe.world import RESERVED_NAMES
from policyguard.policy import load_policy

SIZES = Sizes(scenes=6, pairs=3, held_out=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path / "data", seed=7, sizes=SIZES)
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(data: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", seed=7, sizes=SIZES)
    make(tmp_path / "other", seed=8, sizes=SIZES)
    assert contents(tmp_path / "again") == contents(data)
    assert contents(tmp_path / "other")["scenes.jsonl"] != contents(data)["scenes.jsonl"]


def test_the_manifest_holds_the_hash_of_every_other_file(data: Path) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    hashes = {name: hashlib.sha256(raw).hexdigest() for name, raw in contents(data).items()}
    hashes.pop("manifest.json")
    assert manifest["files"] == hashes
    assert len([name for name in hashes if name.endswith(".png")]) == 6 + 2 * 3 + 3
    assert set(manifest["levels"]) == set(LEVELS)
    assert "Twemoji" in (data / "NOTICE.md").read_text()


def test_what_is_written_is_read_back(data: Path) -> None:
    read, drawn = load(data), draw_benchmark(7, sizes=SIZES)
    assert read.sizes == drawn.sizes
    assert [shot.scene for shot in read.all_shots()] == [shot.scene for shot in drawn.all_shots()]
    assert [pair.policies for pair in read.pairs] == [pair.policies for pair in drawn.pairs]
    assert [sample.policy for sample in read.held_out] == [sample.policy for sample in drawn.held_out]


def test_rows_say_what_is_shown_and_what_it_breaks(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "scenes.jsonl").read_text().splitlines()]
    assert len(rows) == SIZES.scenes
    for row in rows:
        assert (data / row["image"]).is_file()
        assert set(row["labels"]) == set(LEVELS)
        for name, label in row["labels"].items():
            assert label["unsafe"] == bool(label["violations"])
            for violation in label["violations"]:
                assert violation["rule"] in {rule.id for rule in load_policy(name).rules}
                assert violation["place"] < len(row["scene"]["placements"])


def test_a_longer_benchmark_begins_with_the_shorter_one() -> None:
    short, long = (
        draw_benchmark(7, sizes=SIZES),
        draw_benchmark(7, sizes=Sizes(scenes=9, pairs=5, held_out=4)),
    )
    assert long.shots[:6] == short.shots
    assert long.pairs[:3] == short.pairs
    assert long.held_out[:3] == short.held_out


def test_reserved_pictograms_are_in_no_benchmark_scene() -> None:
    benchmark = draw_benchmark(1, sizes=Sizes(scenes=200, pairs=60, held_out=60))
    assert not {name for shot in benchmark.all_shots() for name in shot.scene.names} & set(RESERVED_NAMES)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        make(tmp_path, sizes=SIZES)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_an_interrupted_make_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "data", sizes=SIZES, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["scenes.jsonl", "images/scene-00000.png"])
def test_a_changed_file_is_noticed_by_name(name: str, data: Path) -> None:
    (data / name).write_bytes((data / name).read_bytes() + b" ")
    with pytest.raises(ConfigurationError, match=f"{name} has changed"):
        load(data)


def test_labels_of_other_policies_are_noticed(data: Path) -> None:
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["levels"][LEVELS[2]] = "0" * 64
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="another version of policy pictosafe/l3"):
        load(data)


@pytest.mark.parametrize("manifest", [None, "{}", "not json", '{"format": 99}', "[]"])
def test_a_folder_that_is_no_data_set_is_refused(manifest: str | None, tmp_path: Path) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigurationError, match="is not a PictoSafe data set"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"), [({"styles": ("oil",)}, "drawing styles are"), ({"scale": 0}, "scale 0")]
)
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(tmp_path / "data", sizes=SIZES, **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
