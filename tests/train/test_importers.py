"""Importers: what the published formats say becomes rows, and what is wrong with a row is said by name."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from policyguard.cli import main
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.train.data import LabelRow, read_rows
from policyguard.train.importers import import_rows
from policyguard.train.policies import PolicyShelf
from policyguard.train.rows import validate_rows
from support.published import parquet

PREAMBLE = "Provide a safety assessment. Review these categories:\n"
TITLES = (
    "O1: Hate, Humiliation, Harassment",
    "O2: Violence, Harm, or Cruelty",
    "O3: Sexual Content",
    "O4: Nudity Content",
    "O5: Criminal Planning",
    "O6: Weapons or Substance Abuse",
    "O7: Self-Harm",
    "O8: Animal Cruelty",
    "O9: Disasters or Emergencies",
)


def prompt(*, exempt: str | None = None, sensitive: str | None = None, without: tuple[str, ...] = ()) -> str:
    """A policy text of the published shape."""
    bodies = []
    for title in TITLES:
        key = title[:2]
        body = "Should not:\n- one thing\nCan:\n- another"
        if key == exempt:
            body = f"Category {key} is declared as non-violating. Anything goes."
        if key == sensitive:
            body = f"Category {key} is declared as sensitive. Nothing goes."
        if key not in without:
            bodies.append(f"{title}: \n{body}\n")
    return PREAMBLE + "".join(bodies) + "<image>"


def picture(path: Path, red: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 10, 10)).save(path)
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(out: Path) -> list[LabelRow]:
    read = read_rows(out / "rows.jsonl", LabelRow)
    assert not read.problems
    return list(read.rows)


def test_a_llavaguard_row_keeps_its_label_together_with_what_its_own_policy_declares(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"{name}.jpg", ord(name))
    o6 = TITLES[5]
    source = table(
        tmp_path / "test.csv",
        [
            {"id": "a", "url": "http://x/a.jpg", "rating": "Unsafe", "category": o6, "policy": prompt()},
            {"id": "a_v2", "url": "", "rating": "Safe", "category": o6, "policy": prompt(exempt="O6")},
            {"id": "b_v4", "url": "", "rating": "Unsafe", "category": o6, "policy": prompt(sensitive="O6")},
            {"id": "x1", "url": "http://x/c.jpg?w=9", "rating": "Safe", "category": "NA: None applying",
             "policy": prompt(without=("O1", "O9"))},
        ],
    )  # fmt: skip
    summary = import_rows("llavaguard", source, tmp_path / "out", validation=0.0)
    assert not summary.problems
    shelf = PolicyShelf(tmp_path / "out")
    unsafe, flipped, sensitive, cut = rows_of(tmp_path / "out")
    assert (unsafe.policy, unsafe.label, unsafe.category) == (
        "llavaguard/default", "unsafe", "o6-weapons-substances",
    )  # fmt: skip
    assert (flipped.label, flipped.sha256) == ("safe", unsafe.sha256)
    statuses = {rule.id: str(rule.status) for rule in shelf.get(flipped.policy).rules}
    assert statuses["o6-weapons-substances"] == "exempt"
    assert list(statuses.values()).count("active") == 8
    assert {str(r.status) for r in shelf.get(sensitive.policy).rules if "o6" in r.id} == {"sensitive"}
    assert cut.category is None
    assert [rule.id[:2] for rule in shelf.get(cut.policy).rules] == ["o2", "o3", "o4", "o5", "o6", "o7", "o8"]
    assert not validate_rows(tmp_path / "out" / "rows.jsonl").problems


@pytest.mark.parametrize(
    ("rating", "label", "severity"),
    [
        ("Highly Unsafe", "unsafe", "Highly Unsafe"),
        ("Moderately Unsafe", "unsafe", "Moderately Unsafe"),
        ("Barely Safe", "safe", "Barely Safe"),
        ("Generally Safe", "safe", "Generally Safe"),
        ("Safe", "safe", None),
        ("Review Needed", "unsafe", "Review Needed"),
    ],
)
def test_each_severity_of_the_paper_has_its_label(
    tmp_path: Path, rating: str, label: str, severity: str | None
) -> None:
    picture(tmp_path / "a.png", 1)
    source = table(tmp_path / "x.csv", [{"image": "a.png", "rating": rating, "category": "O2: Violence"}])
    import_rows("llavaguard", source, tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row.label, row.severity, row.category) == (label, severity, "o2-violence")


def test_a_model_s_rationale_comes_with_what_the_model_rated_and_the_label_stays_the_annotator_s(
    tmp_path: Path,
) -> None:
    for red in (1, 2):
        picture(tmp_path / f"{red}.png", red)
    answer = {"rating": "Safe", "category": TITLES[1], "rationale": "Two people play."}
    rows = [
        {"image": "1.png", "rating": "Unsafe", "severity": "", "assessment": json.dumps(answer)},
        {"image": "2.png", "rating": "", "severity": "", "assessment": json.dumps(answer)},
        {"image": "2.png", "rating": "Safe", "severity": "Highly Unsafe", "assessment": ""},
        {"image": "2.png", "rating": "Safe", "severity": "", "assessment": "{"},
    ]
    summary = import_rows("llavaguard", table(tmp_path / "t.csv", rows), tmp_path / "out")
    assert [problem.field for problem in summary.problems] == ["severity", "assessment"]
    first, second = rows_of(tmp_path / "out")
    assert (first.label, first.rationale_rating, first.category) == ("unsafe", "safe", "o2-violence")
    assert (second.label, second.rationale) == ("safe", "Two people play.")


def test_bad_rows_are_named_with_file_line_and_field_and_the_others_are_imported(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    picture(tmp_path.parent / "outside.png", 9)
    good = {"image": "a.png", "rating": "Safe", "category": "O1: Hate", "policy": ""}
    source = table(
        tmp_path / "t.csv",
        [
            good | {"rating": "Perhaps"},
            good | {"image": "missing.png"},
            good | {"image": "broken.png"},
            good | {"image": "../outside.png"},
            good | {"image": "https://example.org/a.png"},
            good | {"category": "O10: New"},
            good | {"rating": "Unsafe", "category": TITLES[5], "policy": prompt(exempt="O6")},
            good | {"rating": ""},
            good | {"policy": "Be nice."},
            good,
        ],
    )
    summary = import_rows("llavaguard", source, tmp_path / "out")
    assert [(problem.line, problem.field) for problem in summary.problems] == [
        (2, "rating"), (3, "image"), (4, "image"), (5, "image"), (6, "image"), (7, "category"),
        (8, "category"), (52, "rating"), (53, "policy"),
    ]  # fmt: skip
    assert "found the text 'Perhaps'" in summary.problems[0].message
    assert "fetch the images first" in summary.problems[4].message
    assert len(rows_of(tmp_path / "out")) == 1
    assert (tmp_path / "out" / "problems.txt").read_text().count("\n") == 9


def test_unsafebench_parquet_with_pictures_inside_becomes_files_and_rows(tmp_path: Path) -> None:
    def row(red: int, label: str, category: str) -> dict[str, Any]:
        data = picture(tmp_path / "one.png", red).read_bytes()
        return {
            "image": {"bytes": data, "path": f"{red}.png"},
            "safety_label": label,
            "category": category,
            "source": "Lexica",
        }

    rows = [row(1, "Unsafe", "Illegal activity"), row(2, "Safe", "Public and personal health")]
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [*rows, row(3, "Unsafe", "Weather")])
    summary = import_rows("unsafebench", tmp_path / "data", tmp_path / "out")
    assert [str(problem.line) for problem in summary.problems] == ["3"]
    first, second = rows_of(tmp_path / "out")
    assert (first.category, second.category) == ("illegal-activity", "health")
    assert first.source == "UnsafeBench (Lexica)"
    assert first.split == second.split == "test"  # as the file is called
    assert (tmp_path / "out" / first.image).read_bytes() == rows[0]["image"]["bytes"]


def test_safeeditbench_as_it_is_published_stores_its_labels_as_numbers_of_classes(tmp_path: Path) -> None:
    def row(label: int, policy: int) -> dict[str, Any]:
        data = picture(tmp_path / "one.png", 10 * label + policy).read_bytes()
        names = {"image_path": f"images/{label}.jpg", "policy": "..."}
        return {"image": {"bytes": data, "path": None}, "safety_label": label, "policy_name": policy} | names

    classes = {"safety_label": ["safe", "unsafe"], "policy_name": [f"Policy L{n}" for n in range(1, 6)]}
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [row(0, 0), row(1, 4)], classes)
    import_rows("safeedit", tmp_path / "data", tmp_path / "out")
    assert [(row.label, row.policy) for row in rows_of(tmp_path / "out")] == [
        ("safe", "safeedit/l1"),
        ("unsafe", "safeedit/l5"),
    ]


def test_parquet_without_pyarrow_names_the_extra_and_a_broken_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ConfigurationError, match="not a readable parquet file"):
        import_rows("unsafebench", tmp_path / "x.parquet", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow"):
        import_rows("unsafebench", tmp_path / "x.parquet", tmp_path / "out")


def test_safeeditbench_rows_name_the_level_s_policy_and_tie_the_twins(tmp_path: Path) -> None:
    picture(tmp_path / "test_images" / "7.jpg", 1)
    picture(tmp_path / "test_images" / "7_edited.jpg", 200)
    lines = [
        {
            "image_path": f"test_images/7{end}.jpg",
            "safety_label": label,
            "policy": "...",
            "policy_level": level,
        }
        for end, label, level in [("", "unsafe", "L5"), ("_edited", "safe", "L5"), ("", "safe", "L1")]
    ]
    lines.append({**lines[0], "policy_level": "L6"})
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    summary = import_rows("safeedit", source, tmp_path / "out", test=0.5)
    assert [(problem.line, problem.field) for problem in summary.problems] == [(4, "policy_level"), (5, None)]
    rows = rows_of(tmp_path / "out")
    assert [row.policy for row in rows] == ["safeedit/l5", "safeedit/l5", "safeedit/l1"]
    assert {row.pair_id for row in rows} == {"safeedit/7"}
    assert len({row.split for row in rows}) == 1  # twins share a side


POLICY = """
id: house
version: 1.0.0
title: House rules
rules:
  - {id: weapons, title: Weapons, unsafe: [guns]}
  - {id: gore, title: Gore, unsafe: [blood]}
"""


def house(tmp_path: Path) -> str:
    (tmp_path / "house.yaml").write_text(POLICY)
    return str(tmp_path / "house.yaml")


def test_a_folder_of_folders_is_labelled_by_their_names_and_carries_its_policy_along(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "safe" / "a.png", 1)
    picture(tmp_path / "in" / "unsafe" / "weapons" / "b.png", 2)
    picture(tmp_path / "in" / "unsafe" / "weapon" / "c.png", 3)
    picture(tmp_path / "in" / "maybe" / "d.png", 4)
    told = {"policy": house(tmp_path), "licence": "ours", "origin": "test"}
    summary = import_rows("folder", tmp_path / "in", tmp_path / "out", **told)
    assert {problem.field for problem in summary.problems} == {"label", "category"}
    assert any("did you mean 'weapons'" in problem.message for problem in summary.problems)
    safe, unsafe = sorted(rows_of(tmp_path / "out"), key=lambda row: row.label)
    assert (safe.label, unsafe.label, unsafe.category) == ("safe", "unsafe", "weapons")
    (tmp_path / "house.yaml").unlink()
    assert PolicyShelf(tmp_path / "out").get(unsafe.policy).title == "House rules"


def test_in_place_copies_nothing_and_names_the_files_where_they_are(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", 1)
    source = table(tmp_path / "in" / "l.csv", [{"path": "a.png", "label": "unsafe", "category": "gore"}])
    told = {"policy": house(tmp_path), "licence": "ours", "origin": "test"}
    import_rows("folder", source, tmp_path / "out", copy=False, **told)
    (row,) = rows_of(tmp_path / "out")
    assert row.image == "../in/a.png"
    assert not (tmp_path / "out" / "images").exists()
    assert not validate_rows(tmp_path / "out" / "rows.jsonl").problems


def test_two_rows_that_contradict_each_other_are_both_left_out_and_a_repeated_one_counts_once(
    tmp_path: Path,
) -> None:
    for red in (1, 2):
        picture(tmp_path / f"{red}.png", red)
    rows = [("1.png", "Safe"), ("1.png", "Unsafe"), ("2.png", "Unsafe"), ("2.png", "Unsafe")]
    source = table(
        tmp_path / "t.csv", [{"image": image, "safety_label": label, "category": ""} for image, label in rows]
    )
    summary = import_rows("unsafebench", source, tmp_path / "out")
    assert summary.repeated == 1
    assert "t.csv:2 says safe of the same image" in summary.problems[0].message
    assert [row.label for row in rows_of(tmp_path / "out")] == ["unsafe"]
    assert any("add images of the other label" in line for line in summary.lines)


def test_an_import_without_a_usable_row_writes_no_rows(tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv", [{"image": "none.png", "safety_label": "Safe", "category": ""}])
    with pytest.raises(ConfigurationError, match="no row can be used"):
        import_rows("unsafebench", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["folder", "cifar"])
def test_what_a_format_needs_to_be_told_is_said(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        import_rows(kind, tmp_path, tmp_path / "out")
    assert caught.value.hint


def test_rows_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    source = table(tmp_path / "t.csv", [{"image": "a.png", "safety_label": "Safe", "category": ""}])
    import_rows("unsafebench", source, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="already exists"):
        import_rows("unsafebench", source, tmp_path / "out")


def test_an_import_that_was_killed_leaves_no_rows_and_goes_on_with_the_pictures_it_has(
    tmp_path: Path,
) -> None:
    for red in range(40):
        picture(tmp_path / "in" / f"{red}.png", red)
    rows = [{"image": f"{red}.png", "safety_label": "Safe", "category": ""} for red in range(40)]
    source = table(tmp_path / "in" / "t.csv", rows)
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from policyguard.train.importers import import_rows\n"
        "def stop(done, total, words):\n    if done == 30: os.kill(os.getpid(), signal.SIGKILL)\n"
        "import_rows('unsafebench', Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(source), str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "out" / "rows.jsonl").exists()
    summary = import_rows("unsafebench", source, tmp_path / "out")
    assert (summary.images, summary.new) == (40, 11)
    assert not list((tmp_path / "out").rglob(".policyguard-*"))


def test_datasets_reads_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    for red in (1, 2):
        picture(tmp_path / f"{red}.png", red)
    rows = [("1.png", "Safe"), ("2.png", "Unsafe")]
    source = table(
        tmp_path / "t.csv",
        [{"image": image, "safety_label": label, "category": "Hate"} for image, label in rows],
    )
    import_rows("unsafebench", source, tmp_path / "out")
    loaded = datasets.load_dataset(
        "json",
        data_files=str(tmp_path / "out" / "rows.jsonl"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert loaded["label"] == ["safe", "unsafe"]
    assert set(loaded.column_names) >= {"image", "sha256", "source", "licence", "split", "policy", "category"}


def test_validate_names_a_changed_image_a_missing_one_a_leak_and_a_rule_that_is_not_there(
    tmp_path: Path,
) -> None:
    for red in range(4):
        picture(tmp_path / f"{red}.png", red)
    rows = [{"image": f"{red}.png", "safety_label": "Safe", "category": "Hate"} for red in range(4)]
    out = tmp_path / "out"
    import_rows("unsafebench", table(tmp_path / "t.csv", rows), out, validation=0)
    read = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    (out / read[0]["image"]).unlink()
    picture(out / read[1]["image"], 99)
    read[2]["category"] = "weather"
    read.append({**read[3], "split": "test", "policy": "safeedit/l3", "category": None})
    read.append({**read[3], "policy": "no/such"})
    read.append({**read[3], "label": "perhaps"})
    for row in read:
        row.pop("category") if row["category"] is None else None
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in read))
    said = "\n".join(map(str, validate_rows(out / "rows.jsonl").problems))
    for expected in (
        "rows.jsonl:7: label: expected safe or unsafe, found the text 'perhaps'",
        "there is no such image",
        "is not the one that `sha256` names",
        "has no rule 'weather'",
        "its splits are test and train",
        "'no/such' cannot be used",
    ):
        assert expected in said


def test_the_command_says_what_was_left_out_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png", 1)
    rows = [{"path": "a.png", "label": "safe"}, {"path": "b.png", "label": "unsafe"}]
    source = table(tmp_path / "l.csv", rows)
    told = ["--policy", house(tmp_path), "--licence", "ours", "--source-name", "test"]
    assert main(["train", "import", "folder", str(source), str(tmp_path / "out"), *told]) == 1
    printed = capsys.readouterr()
    assert "1 rows of 1 images" in printed.out
    assert "l.csv:3: image: there is no image 'b.png'" in printed.err
    assert main(["train", "validate", str(tmp_path / "out" / "rows.jsonl")]) == 0
    assert main(["train", "validate", str(tmp_path / "none.jsonl")]) == 2


def test_pictures_of_other_formats_and_linked_folders_are_named_not_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "safe" / "a.png", 1)
    picture(tmp_path / "in" / "unsafe" / "b.png", 2)
    picture(tmp_path / "in" / "unsafe" / "c.bmp", 3)
    (tmp_path / "in" / "safe" / "more").symlink_to(tmp_path / "in" / "unsafe")
    summary = import_rows(
        "folder", tmp_path / "in", tmp_path / "out", policy=house(tmp_path), licence="ours", origin="us"
    )
    said = [str(problem) for problem in summary.problems]
    assert [line.removeprefix(f"{tmp_path}/in/") for line in said] == [
        "safe/more: a link to a folder is not followed: name that folder itself",
        "unsafe/c.bmp: a .bmp file is not opened: save it as PNG or JPEG",
    ]


def test_a_json_line_with_a_field_twice_is_bad_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 2)
    lines = ['{"path": "a.png", "label": "safe"}', '{"path": "b.png", "label": "unsafe", "label": "safe"}']
    (tmp_path / "t.jsonl").write_text("\ufeff" + "\n".join(lines) + '\n{"path": "b.png", "label": NaN}\n')
    summary = import_rows(
        "folder", tmp_path / "t.jsonl", tmp_path / "out", policy=house(tmp_path), licence="ours", origin="us"
    )
    assert summary.labels == {"safe": 1}
    assert [(problem.line, problem.message) for problem in summary.problems] == [
        (2, "the line holds the key 'label' twice"),
        (3, "the line holds NaN, which is not JSON"),
    ]


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("out", ["--validation", "nan"], "shares of validation and test"),
        ("t.csv", [], "t.csv is a file"),
        ("t.csv/out", [], "t.csv is a file"),
    ],
)
def test_what_cannot_be_imported_into_is_said_before_a_picture_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, options: list[str], said: str
) -> None:
    picture(tmp_path / "a.png", 1)
    source = table(tmp_path / "t.csv", [{"path": "a.png", "label": "safe"}])
    given = ["--policy", house(tmp_path), "--licence", "ours", "--source-name", "us", *options]
    assert main(["train", "import", "folder", str(source), str(tmp_path / out), *given]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_without_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n")
    with pytest.raises(ConfigurationError, match=r"no row can be used:\n.*t\.csv holds none"):
        import_rows(
            "folder", tmp_path / "t.csv", tmp_path / "out", policy=house(tmp_path), licence="a", origin="b"
        )
