"""Rows: strict reading that names what is bad and goes on, atomic writing, splits by image."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from policyguard.errors import ConfigurationError
from policyguard.strict.files import fresh_folder, write_lines
from policyguard.train.data import CaptionRow, LabelRow, append_rows, read_rows, write_rows
from policyguard.train.policies import PolicyShelf, write_policies
from policyguard.train.rows import assign_splits, images_on_two_sides
from support.training import POLICY

HASH = "ab" * 32
GOOD = {"image": "a.png", "sha256": HASH, "source": "drawn", "licence": "CC0-1.0"}
CAPTION = GOOD | {"prompt": "Describe the picture.", "caption": "a knife on a table"}
LABEL = GOOD | {"policy": "safeedit/l3", "label": "unsafe", "category": "weapons"}


def label(number: int, **changes: object) -> LabelRow:
    return LabelRow(**(LABEL | {"sha256": f"{number:064x}", "category": None} | changes))  # type: ignore[arg-type]


def written(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_bad_rows_are_named_with_file_line_field_and_reason_and_good_ones_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "rows.jsonl",
        LABEL,
        LABEL | {"label": "dangerous"},
        "{not json",
        "",
        {key: value for key, value in LABEL.items() if key != "licence"},
        LABEL | {"lable": "safe"},
        LABEL | {"sha256": "ABC"},
        '{"image": "a", "image": "b"}',
        "[1]",
        LABEL | {"violations": []},
        LABEL | {"label": "safe", "category": None},
    )
    found = read_rows(path, LabelRow)
    assert [row.label for row in found.rows] == ["unsafe", "safe"]
    lines = [str(problem).removeprefix(f"{path}:") for problem in found.problems]
    assert lines == [
        "2: label: expected safe or unsafe, found the text 'dangerous'",
        "3: the line is not JSON: Expecting property name enclosed in double quotes at character 2",
        "5: licence: is missing",
        "6: lable: unknown key 'lable': did you mean `label`?",
        "7: sha256: expected the file's SHA-256, 64 hex digits in lower case",
        "8: the line holds the key 'image' twice",
        "9: the line is not a JSON object",
        "10: the label is unsafe, and violations holds 0 rules",
    ]
    assert found.bad == 8


@pytest.mark.parametrize(
    "line", [b"\xff\xfe{}", b'{"image": NaN}', b"[" * 100_000, b'{"a": "' + b"x" * (2 << 20)]
)
def test_a_hostile_line_is_one_bad_row(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(CAPTION).encode() + b"\n")
    found = read_rows(path, CaptionRow)
    assert (len(found.rows), found.bad) == (1, 1)
    assert {problem.line for problem in found.problems} == {1}


def test_rows_come_back_as_they_were_written_and_datasets_reads_them(tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = [label(1, violations=("weapons",), pair_id="p"), label(2, label="safe", violations=())]
    assert write_rows(tmp_path / "rows.jsonl", rows) == 2
    assert list(read_rows(tmp_path / "rows.jsonl", LabelRow).rows) == rows
    loaded = load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["label"][:] == ["unsafe", "safe"]


@pytest.mark.parametrize("name", ["label", "rating", "policy", "category", "verdict", "rationale"])
def test_a_caption_row_with_a_verdict_field_is_refused(name: str, tmp_path: Path) -> None:
    found = read_rows(written(tmp_path / "rows.jsonl", CAPTION | {name: "safe"}), CaptionRow)
    assert not found.rows
    assert any("holds no verdict" in problem.message for problem in found.problems)


@pytest.mark.parametrize(
    "caption",
    [
        "unsafe",
        "Safe.",
        "A knife on a table. Unsafe",
        '{"rating": "unsafe", "category": "A", "rationale": "a knife"}',
        "The image is unsafe because of a knife.",
        "A knife. This violates the policy.",
        "It complies with the given guidelines.",
        "A gun <answer>yes</answer>",
        "A harmful scene in a kitchen.",
        "Two people in an inappropriate pose.",
        "An NSFW photo of a beach.",
    ],
)
def test_a_caption_that_passes_judgement_is_refused(caption: str, tmp_path: Path) -> None:
    assert not read_rows(written(tmp_path / "rows.jsonl", CAPTION | {"caption": caption}), CaptionRow).rows


@pytest.mark.parametrize(
    "caption",
    [
        "a man opens a safe in the wall",
        "children on an unsafe ladder over a river",
        "a label on a bottle",
        'a bottle with a label: "red wine"',
        "a category of its own: a car with wings",
    ],
)
def test_a_caption_may_use_the_words_safe_and_unsafe_of_things(caption: str, tmp_path: Path) -> None:
    assert read_rows(written(tmp_path / "rows.jsonl", CAPTION | {"caption": caption}), CaptionRow).rows


def test_a_prompt_that_asks_for_a_verdict_is_refused(tmp_path: Path) -> None:
    asking = CAPTION | {"prompt": "Is this picture safe under the policy?"}
    assert not read_rows(written(tmp_path / "rows.jsonl", asking), CaptionRow).rows


def test_appending_after_a_line_cut_short_loses_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [label(1)])
    with path.open("a") as file:
        file.write('{"image": "cut sho')
    append_rows(path, [label(2), label(3)])
    found = read_rows(path, LabelRow)
    assert [row.sha256[-1] for row in found.rows] == ["1", "2", "3"]
    assert found.bad == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def lines() -> object:
        yield "new"
        raise RuntimeError("killed")

    path = tmp_path / "rows.jsonl"
    write_lines(path, ["old"])
    with pytest.raises(RuntimeError):
        write_lines(path, lines())  # type: ignore[arg-type]
    assert path.read_text() == "old\n"
    with pytest.raises(RuntimeError), fresh_folder(tmp_path / "out") as folder:
        write_lines(folder / "half", lines())  # type: ignore[arg-type]
    assert [found.name for found in tmp_path.iterdir()] == ["rows.jsonl"]


def test_no_image_is_on_two_sides_and_twins_stay_together_however_rows_are_ordered() -> None:
    rng = random.Random(0)
    rows = [
        label(number, policy=policy, pair_id=f"p{number // 2}" if number < 100 else None)
        for number in range(300)
        for policy in ("safeedit/l1", "safeedit/l3")
    ]
    split = assign_splits(rows, shares={"train": 0.8, "validation": 0.2}, seed=2)
    assert not images_on_two_sides(split)
    sides = {row.sha256: row.split for row in split}
    assert all(sides[f"{number:064x}"] == sides[f"{number + 1:064x}"] for number in range(0, 100, 2))
    assert 0.12 < sum(side == "validation" for side in sides.values()) / 300 < 0.28
    again = assign_splits(rng.sample(rows, len(rows)), shares={"train": 0.8, "validation": 0.2}, seed=2)
    assert {row.sha256: row.split for row in again} == sides


def test_a_split_that_was_decided_stays_and_takes_the_twin_with_it() -> None:
    rows = [label(1, pair_id="p", split="test"), label(2, pair_id="p"), label(3)]
    split = assign_splits(rows, shares={"train": 1.0, "validation": 0.0})
    assert [row.split for row in split] == ["test", "test", "train"]
    torn = [label(1, pair_id="p", split="test"), label(2, pair_id="p", split="train")]
    assert list(images_on_two_sides(torn).values()) == [("test", "train")]


def test_policies_are_found_by_path_by_name_and_by_id(tmp_path: Path) -> None:
    write_policies(tmp_path, {"colours": POLICY})
    (tmp_path / "house.yaml").write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nrules: [{id: arms, title: Arms, unsafe: [knives]}]\n"
    )
    shelf = PolicyShelf(tmp_path)
    assert shelf.get("#colours").fingerprint == POLICY.resolve().fingerprint
    assert shelf.get("house.yaml").id == "house"
    assert shelf.get("safeedit/l3").id == "safeedit/l3"
    with pytest.raises(ConfigurationError, match="no policy 'colour'"):
        shelf.get("#colour")
