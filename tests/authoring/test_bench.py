"""The field's benchmarks: files in their makers' formats, scorers to the digit, what is wrong by name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.authoring.bench import (
    BENCHMARKS,
    BenchRow,
    Judged,
    Line,
    compare,
    load_rows,
    published_tables,
    run_rows,
    score,
)
from policyguard.authoring.bench.page import bench_page
from policyguard.authoring.bench.rows import CATEGORIES
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.published import MEASURES, SYSTEMS
from policyguard.cache import CachedBackend, SqliteCache
from policyguard.cli import main
from policyguard.errors import ConfigurationError, PolicyError
from policyguard.metrics import Answer
from policyguard.policy import load_policy
from policyguard.runs.exits import ExitCode
from policyguard.testing import FakeBackend
from support.published import parquet

pytest.importorskip("sklearn")
pytest.importorskip("pyarrow")
Captured = pytest.CaptureFixture[str]
CLASSES = {"safety_label": ["safe", "unsafe"], "policy_name": [f"Policy L{number}" for number in range(1, 6)]}
O6 = "O6: Weapons or Substance Abuse"
PREAMBLE = "Assess the content by these categories:\n"
STEPS = 'Assessment steps:\n1. Select a rating.\n{\n    "category": str<"O1: A"|"O6: B">,\n}\n<image>\n'


def png(red: int, blue: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, blue)).save(buffer, "PNG")
    return buffer.getvalue()


def reds(request: AssessmentRequest) -> float | Failure:
    """Unsafe as the image is red; blue images are declined."""
    pixel = request.frame.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return Failure(FailureKind.REFUSED, "declined") if pixel[2] else pixel[0] / 255


def judged(group: str, *answers: str, source: str = "", extreme: bool | None = None) -> list[Judged]:
    """Rows of a group: label and answer as two letters, ``u`` unsafe, ``s`` safe, ``-`` none; then a name."""
    policy = load_policy("unsafebench/default").resolve()
    made = []
    for number, item in enumerate(answers):
        pair, _, name = item.partition(" ")
        place = f"{group} {source} {number}.jsonl:{number}"
        row = BenchRow(place, name or str(number), b"", pair[0] == "u", policy, group, source, extreme)
        answer = {"u": Answer.UNSAFE, "s": Answer.SAFE, "-": Answer.UNPARSED}[pair[1]]
        made.append(Judged(row, answer, None if pair[1] == "-" else pair[1] == "u"))
    return made


def by_key(lines: Sequence[Line]) -> dict[str, Line]:
    made = {line.key: line for line in lines}
    assert len(made) == len(lines)
    return made


def papers(lines: Sequence[Line], scorer: str) -> dict[str, float]:
    return {line.key: round(line.papers[scorer], 6) for line in lines if scorer in line.papers}


def ours(lines: Sequence[Line]) -> dict[str, float | None]:
    return {line.key: line.ours.value and round(line.ours.value, 6) for line in lines}


# The scorers, on rows worked out by hand.


def test_safeeditbench_s_scorer_counts_silence_as_safe_and_ours_as_wrong() -> None:
    rows = [
        *judged("L1", "ss", "ss", "su", "s-"),
        *judged("L2", "uu", "u-", "su", "ss"),
        *judged("L3", "s-", "uu"),
        *judged("L4", "us"),
        *judged("L5", "uu", "uu", "uu", "su"),
    ]
    lines = score("safeedit", rows)
    assert papers(lines, "safeguard-vl") == {
        "L1/accuracy": 0.75,  # 3 of 4
        "L2/f1": 0.5,  # 1 found, 1 missed, 1 false alarm
        "L3/f1": 1.0,
        "L4/f1": 0.0,
        "L5/f1": round(6 / 7, 6),  # 3 found, 1 false alarm
        "all/f1": round(10 / 15, 6),  # 5 found, 2 missed, 3 false alarms: what the paper's script pools
        "all/mean_of_levels": round((0.75 + 0.5 + 1 + 0 + 6 / 7) / 5, 6),
        "L2-L5/mean_of_levels": round((0.5 + 1 + 0 + 6 / 7) / 4, 6),
        "L2-L5/f1": round(10 / 14, 6),
        "all/accuracy": round(10 / 15, 6),
    }
    assert ours(lines) == {
        "L1/accuracy": 0.5,
        "L2/f1": 0.5,
        "L3/f1": round(2 / 3, 6),
        "L4/f1": 0.0,
        "L5/f1": round(6 / 7, 6),
        "all/f1": round(10 / 17, 6),
        "all/mean_of_levels": round((0.5 + 0.5 + 2 / 3 + 0 + 6 / 7) / 5, 6),
        "L2-L5/mean_of_levels": round((0.5 + 2 / 3 + 0 + 6 / 7) / 4, 6),
        "L2-L5/f1": round(10 / 15, 6),
        "all/accuracy": round(8 / 15, 6),
    }
    assert {line.key: line.silent for line in lines if line.silent} == {
        "L1/accuracy": 1, "L2/f1": 1, "L3/f1": 1, "all/f1": 3, "all/mean_of_levels": 3,
        "L2-L5/mean_of_levels": 2, "L2-L5/f1": 2, "all/accuracy": 3,
    }  # fmt: skip


def test_a_mean_over_levels_is_not_printed_where_a_level_is_missing() -> None:
    keys = by_key(score("safeedit", judged("L1", "ss") + judged("L5", "uu")))
    assert "all/f1" in keys
    assert not any("mean" in key for key in keys)


def test_unsafebench_s_coin_is_thrown_once_a_row_and_safeguard_vl_counts_the_row_as_safe() -> None:
    """The coin of seed 0 says safe, safe, unsafe."""
    rows = [
        *judged("hate", "uu", "u-", "su", source="real"),
        *judged("hate", "ss", "u-", source="generated"),
        *judged("spam", "s-", "uu", source="generated"),
    ]
    lines = score("unsafebench", rows)
    coin, safe = papers(lines, "unsafebench"), papers(lines, "safeguard-vl")
    assert coin == {
        "hate/f1": round(2 / 5, 6),  # 1 found, 2 missed, 1 false alarm
        "spam/f1": round(2 / 3, 6),  # 1 found, and the coin's false alarm
        "all/f1": round(4 / 8, 6),
        "hate real/f1": 0.5,
        "all real/f1": 0.5,
        "hate generated/f1": 0.0,
        "spam generated/f1": round(2 / 3, 6),
        "all generated/f1": round(2 / 4, 6),
        "all/accuracy": round(3 / 7, 6),
    }
    assert safe | {"spam/f1": 1.0} == safe
    assert safe["all/f1"] == round(4 / 7, 6)
    assert ours(lines)["spam/f1"] == round(2 / 3, 6)


def test_llavaguard_s_scorer_drops_silence_and_rounds_before_it_averages() -> None:
    rows = [
        *judged("O6", "uu a", "uu b", "us c", "u- d", "ss e", "ss f", "su g", extreme=True),
        *judged("NA", "ss h", "su i"),
        *judged("O2", "ss j_v2", "su k_v2", "uu l_v4", "s- m_v2"),
    ]
    lines = score("llavaguard", rows)
    figures = papers(lines, "llavaguard")
    assert figures["extreme/recall"] == figures["extreme/specificity"] == 0.6667
    assert figures["extreme/balanced_accuracy"] == 0.6667
    assert figures["extreme/f1"] == 0.666683  # of a precision of 2/3 and a recall of 0.6667
    assert figures["O6/balanced_accuracy"] == 0.6667
    assert figures["NA/accuracy"] == 0.5
    assert figures["all/recall"] == 0.75  # 3 of the 4 that were answered
    assert figures["all/specificity"] == round(4 / 7, 4)
    assert figures["default policy/recall"] == 0.6667
    assert figures["exceptions/policy_exception_rate"] == round(2 / 3, 6)
    mine = ours(lines)
    assert mine["all/recall"] == 0.6  # the one without an answer counts
    assert mine["extreme/balanced_accuracy"] == round((2 / 4 + 2 / 3) / 2, 6)
    assert mine["exceptions/policy_exception_rate"] == 0.5
    assert by_key(lines)["exceptions/policy_exception_rate"].rows == 4


def test_a_category_without_unsafe_rows_is_zero_for_the_papers_and_nothing_for_us() -> None:
    lines = by_key(score("llavaguard", judged("O1", "ss") + judged("O2", "uu")))
    assert lines["O1/recall"].papers == {"llavaguard": 0.0}
    assert lines["O1/balanced_accuracy"].papers == {"llavaguard": 0.5}
    assert lines["O1/balanced_accuracy"].ours.value is None


# The files.


def safeedit(folder: Path, answers: dict[str, list[tuple[str, int]]], **more: Any) -> Path:
    """SafeEditBench as it is published: per level, labels and the red of the image."""
    rows: list[dict[str, Any]] = []
    for level, items in answers.items():
        for label, red in items:
            cell = {"bytes": png(red), "path": None}
            row = {"image": cell, "image_path": f"images/{len(rows)}.jpg", "policy": f"The words of {level}."}
            numbers = {"safety_label": CLASSES["safety_label"].index(label), "policy_name": int(level[1]) - 1}
            rows.append(row | numbers | more)
    parquet(folder / "data" / "test-00000-of-00001.parquet", rows, CLASSES)
    return folder


def test_safeeditbench_is_judged_by_the_rows_own_words_and_nothing_else(tmp_path: Path) -> None:
    folder = safeedit(tmp_path, {"L1": [("safe", 0)], "L3": [("unsafe", 255), ("safe", 1)]})
    loaded = load_rows("safeedit", folder)
    backend = FakeBackend(reds)
    report = run_rows("safeedit", loaded, backend=backend)
    assert by_key(report.lines)["L3/f1"].papers == {"safeguard-vl": 1.0}
    texts = [request.policy.text for request in backend.requests]
    assert texts == [f"Policy: Policy {level}\n\nA. Policy {level} — The words of {level}." for level in
                     ("L1", "L3", "L3")]  # fmt: skip
    assert report.complete
    (note,) = loaded.notes
    assert "has 601 rows, and this one 3: it is of another version" in note
    packaged = load_rows("safeedit", folder, policy="safeedit/{level}")
    assert [row.policy.id for row in packaged.rows] == ["safeedit/l1", "safeedit/l3", "safeedit/l3"]


def test_safeeditbench_is_read_from_json_lines_with_image_files_too(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(png(9))
    row = {"image_path": "7.png", "safety_label": "unsafe", "policy": "No red.", "policy_level": "L5"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    (loaded,) = load_rows("safeedit", tmp_path).rows
    assert (loaded.group, loaded.unsafe, loaded.image) == ("L5", True, tmp_path / "7.png")
    row["image_path"] = "../7.png"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigurationError, match=r"test\.jsonl:1: image: there is no image '\.\./7\.png'"):
        load_rows("safeedit", tmp_path / "data")


def unsafebench(folder: Path, name: str = "data/test-00000-of-00001.parquet", **more: Any) -> Path:
    def row(red: int, label: str, category: str, source: str) -> dict[str, Any]:
        image = {"bytes": png(red), "path": f"{red}.png"}
        return {"image": image, "safety_label": label, "category": category, "source": source} | more

    rows = [
        row(250, "Unsafe", "Illegal activity", "Laion5B"),
        row(3, "Safe", "Public and personal health", "Lexica"),
        row(251, "Unsafe", "Self-harm", "Lexica"),
        row(252, "Safe", "Hate", "Laion5B"),
    ]
    parquet(folder / name, rows)
    return folder


def test_unsafebench_is_judged_by_the_packaged_policy_or_by_the_row_s_category_alone(tmp_path: Path) -> None:
    loaded = load_rows("unsafebench", unsafebench(tmp_path))
    assert [(row.group, row.source, row.unsafe) for row in loaded.rows] == [
        ("illegal-activity", "real", True),
        ("health", "generated", False),
        ("self-harm", "generated", True),
        ("hate", "real", False),
    ]
    assert {len(row.policy.rules) for row in loaded.rows} == {11}
    report = run_rows("unsafebench", loaded, backend=FakeBackend(reds))
    figures = by_key(report.lines)
    assert figures["all/f1"].papers["unsafebench"] == figures["all/f1"].papers["safeguard-vl"] == 4 / 5
    assert figures["all generated/f1"].ours.value == 1.0
    assert figures["all/auc"].ours.value == 0.5  # 252 stands above both, 3 below
    own = load_rows("unsafebench", tmp_path, own_category=True)
    assert [[rule.id for rule in row.policy.rules] for row in own.rows] == [
        ["illegal-activity"], ["health"], ["self-harm"], ["hate"],
    ]  # fmt: skip


def test_unsafebench_is_read_as_its_own_loader_saves_it(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "images"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(png(1))
    line = {"image_fname": "0.png", "label": "Unsafe", "source": "Lexica", "category": "Spam"}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    (row,) = load_rows("unsafebench", tmp_path, images=folder).rows
    assert (row.group, row.unsafe) == ("spam", True)


def body(*forbidden: str, can: str = "show a museum") -> str:
    return "\n".join(["Should not:", *(f"- {item}" for item in forbidden), "Can:", f"- {can}", ""])


def prompt(**bodies: str) -> str:
    titles = {"O1": "O1: Hate, Humiliation, Harassment", "O6": O6}
    return PREAMBLE + "".join(f"{titles[key]}: \n{text}\n" for key, text in bodies.items()) + STEPS


FREED = "Category O6 is declared as non-violating. Therefore anything goes, e.g.\n - weapons\n - drugs\n"
STRICT = "Category O6 is declared as sensitive. Nothing goes, such as\n - weapons\n"


def llavaguard(folder: Path) -> Path:
    rows = [
        ("a", "Unsafe", O6, prompt(O1=body("mock"), O6=body("show weapons", "show drugs")), "Highly Unsafe"),
        ("a_v2", "Safe", O6, prompt(O1=body("mock"), O6=FREED), "Highly Unsafe"),
        ("b_v4", "Unsafe", O6, prompt(O6=STRICT), "Barely Safe"),
        (
            "c",
            "Safe",
            "NA: None applying",
            prompt(O1=body("mock"), O6=body("show weapons")),
            "Generally Safe",
        ),
    ]
    for name, red in (("a", 230), ("b", 200), ("c", 2)):
        (folder / f"{name}.png").write_bytes(png(red))
    with (folder / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "rating", "category", "policy", "severity"), *rows])
    return folder


def test_llavaguardbench_s_policies_become_rules_in_the_rows_own_words(tmp_path: Path) -> None:
    loaded = load_rows("llavaguard", llavaguard(tmp_path))
    first, freed, strict, last = (row.policy for row in loaded.rows)
    assert [rule.title for rule in first.rules] == ["O1: Hate, Humiliation, Harassment", O6]
    weapons = first.rules[1]
    assert (weapons.unsafe, weapons.safe) == (("show weapons", "show drugs"), ("show a museum",))
    assert [rule.status.value for rule in freed.rules] == ["active", "exempt"]
    assert freed.rules[1].unsafe == ("weapons", "drugs")
    assert [rule.status.value for rule in strict.rules] == ["sensitive"]
    assert [rule.title for rule in last.rules] == [rule.title for rule in first.rules]
    assert [row.extreme for row in loaded.rows] == [True, True, False, True]
    packaged = load_rows("llavaguard", tmp_path, policy="llavaguard/default").rows
    assert [[rule.status.value for rule in row.policy.rules] for row in packaged] == [
        ["active", "active"], ["active", "exempt"], ["sensitive"], ["active", "active"],
    ]  # fmt: skip


def test_the_paper_s_scorer_reads_the_rating_and_ours_what_is_left_of_it_under_exempt_rules(
    tmp_path: Path,
) -> None:
    """A model that rates a freed image unsafe, for the category that the policy frees."""
    backend = FakeBackend(reds, rules={"o6": 1.0})
    report = run_rows("llavaguard", load_rows("llavaguard", llavaguard(tmp_path)), backend=backend)
    line = by_key(report.lines)["exceptions/policy_exception_rate"]
    assert line.papers == {"llavaguard": 0.5}
    assert line.ours.value == 1.0
    figures = by_key(report.lines)
    assert figures["extreme/balanced_accuracy"].papers == {"llavaguard": 0.75}
    assert figures["all/auc"].ours.value is not None


def test_llavaguardbench_is_read_in_the_form_that_its_makers_build(tmp_path: Path) -> None:
    (tmp_path / "x.jpeg").write_bytes(png(200))
    answer = {"rating": "Unsafe", "category": O6, "rationale": "A weapon."}
    turns = [
        {"from": "human", "value": prompt(O6=body("weapons"))},
        {"from": "gpt", "value": json.dumps(answer)},
    ]
    row = {"id": "smid_x_v4", "image": "x.jpeg", "score": "Highly Inappropriate", "conversations": turns}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    (loaded,) = load_rows("llavaguard", tmp_path).rows
    assert (loaded.name, loaded.unsafe, loaded.group, loaded.extreme) == ("smid_x_v4", True, "O6", True)
    assert loaded.policy.rules[0].unsafe == ("weapons",)


# What is wrong, by name.


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    unsafebench(tmp_path, "data/train-00000-of-00002.parquet")
    with pytest.raises(ConfigurationError, match="has no table of the split 'test': it has train"):
        load_rows("unsafebench", tmp_path)
    assert len(load_rows("unsafebench", tmp_path, split="train").rows) == 4
    assert not load_rows("unsafebench", tmp_path, split="train").notes
    (tmp_path / "bare").mkdir()
    with pytest.raises(ConfigurationError, match="no table called train, validation or test"):
        load_rows("unsafebench", tmp_path / "bare")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        load_rows("unsafebench", tmp_path / "none")


@pytest.mark.parametrize("benchmark", ["safeedit", "llavaguard"])
def test_a_folder_of_another_data_set_or_version_is_named_with_its_columns(
    benchmark: str, tmp_path: Path
) -> None:
    unsafebench(tmp_path)
    if benchmark == "llavaguard":
        (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
        (tmp_path / "test.jsonl").write_text('{"id": "a", "verdict": "Safe"}\n')
    with pytest.raises(ConfigurationError, match=r"has no column .*: it has ") as error:
        load_rows(benchmark, tmp_path)
    assert BENCHMARKS[benchmark].maker in str(error.value.hint)


def test_rows_that_cannot_be_used_are_named_and_counted_and_the_others_scored(
    tmp_path: Path, capsys: Captured
) -> None:
    good = {"bytes": png(255), "path": None}
    rows = [
        {"image": good, "safety_label": "Unsafe", "category": "Hate", "source": "Lexica"},
        {"image": good, "safety_label": "Perhaps", "category": "Hate", "source": "Lexica"},
        {"image": good, "safety_label": "Safe", "category": "Weather", "source": "Lexica"},
        {"image": good, "safety_label": "Safe", "category": "Hate", "source": "Flickr"},
        {"image": {"bytes": b"torn", "path": "torn.jpg"}, "safety_label": "Safe", "category": "Hate",
         "source": "Lexica"},
    ]  # fmt: skip
    parquet(tmp_path / "test.parquet", rows)
    loaded = load_rows("unsafebench", tmp_path)
    report = run_rows("unsafebench", loaded, backend=FakeBackend(reds))
    assert [(problem.line, problem.field) for problem in loaded.problems] == [
        (2, "safety_label"), (3, "category"), (4, "source"),
    ]  # fmt: skip
    assert [(problem.line, problem.field) for problem in report.unused] == [(5, "torn.jpg")]
    assert "the image cannot be judged" in report.unused[0].message
    assert not report.complete
    assert by_key(report.lines)["all/f1"].rows == 1
    assert len(report.to_dict()["rows"]["bad"]) == 3


def test_refusals_are_the_parse_failure_rate_and_a_dead_server_s_rows_are_not_scored(tmp_path: Path) -> None:
    folder = safeedit(tmp_path, {"L4": [("unsafe", 255), ("unsafe", 254), ("safe", 1), ("safe", 2)]})
    backend = FakeBackend(reds).enqueue(
        Failure(FailureKind.ERROR, "the answer is not the word safe or unsafe"),
        Failure(FailureKind.ERROR, "the server is down", retryable=True),
        Failure(FailureKind.REFUSED, "declined"),
    )
    report = run_rows("safeedit", load_rows("safeedit", folder), backend=backend)
    assert dict(report.silent) == {"error": 1, "refused": 1}
    assert report.silence == 2 / 3
    assert [problem.message for problem in report.unused] == [
        "the model could not be asked: the server is down"
    ]
    line = by_key(report.lines)["L4/f1"]
    assert (line.rows, line.silent) == (3, 2)


def test_a_guard_without_scores_has_figures_of_its_ratings_and_no_areas(tmp_path: Path) -> None:
    def rating(request: AssessmentRequest) -> Assessment:
        unsafe = reds(request)
        assert isinstance(unsafe, float)
        return Assessment(rating=Rating.UNSAFE if unsafe > 0.5 else Rating.SAFE)

    report = run_rows(
        "unsafebench", load_rows("unsafebench", unsafebench(tmp_path)), backend=FakeBackend(rating)
    )
    assert not report.to_dict()["scores"]
    keys = by_key(report.lines)
    assert keys["all/f1"].papers["safeguard-vl"] == 4 / 5
    assert "all/auc" not in keys


def test_a_row_that_frees_every_category_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    row = {"id": "a", "rating": "Safe", "category": O6, "policy": prompt(O6=FREED)}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigurationError, match="declares every category non-violating"):
        load_rows("llavaguard", tmp_path)
    row["policy"] = "Anything goes."
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigurationError, match="policy: speaks of none of the categories O1 to O9"):
        load_rows("llavaguard", tmp_path)


CELLS: list[Any] = [
    None, "", 0, 1, True, -5, 3.5, [], {}, {"path": "a.png"}, {"bytes": "x"}, "../a.png", "a\x00.png",
    "safe", "Unsafe", "L1", "Policy L2", "O1", "O1: x", "NA", "Highly Unsafe", "a_v2", "x" * 9000,
    "\u202eabc", "O1:\nO1:\n", "O1: \nCan:\n- only\n", 10**30, "Lexica", "Hate",
    "O6: a:\nCategory O6 is declared as non-violating.", "O6: a:\nCategory O6 is declared as sensitive.",
    "http://x/y.png", [{"value": "x"}, {"value": "{}"}], [{"value": 1}, {"value": 2}], [[], []],
    [{"value": "O1: b:\nShould not:\n- q"}, {"value": '{"rating": "Unsafe", "category": "O1"}'}],
]  # fmt: skip


@pytest.mark.parametrize("benchmark", [*BENCHMARKS])
def test_whatever_stands_in_a_table_is_a_row_or_is_named(benchmark: str, tmp_path: Path) -> None:
    """Rows of random cells, most of them right: nothing but our own errors, and a report that is JSON."""
    (tmp_path / "a.png").write_bytes(png(200))
    right = {
        "image": "a.png",
        "safety_label": "unsafe",
        "rating": "Unsafe",
        "source": "Lexica",
        "policy_name": "Policy L2",
        "category": "Hate" if benchmark == "unsafebench" else "O1",
        "policy": f"O1: Hate:\n{body('mock')}",
    }
    columns = {*right, "id", "url", "policy_level", "severity", "score", "conversations", "decision", "label"}
    draw, rows = Random(7), []
    for _ in range(100):
        made = [
            {name: right.get(name) if draw.random() < 0.8 else draw.choice(CELLS) for name in sorted(columns)}
            for _ in range(4)
        ]
        (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        try:
            loaded = load_rows(benchmark, tmp_path)
        except ConfigurationError:
            continue
        assert len(loaded.rows) + len(loaded.problems) == 4
        rows += [replace(row, place=f"{row.place}{len(rows)}") for row in loaded.rows]
    assert len(rows) > 20
    loaded.rows = rows
    json.dumps(run_rows(benchmark, loaded, backend=FakeBackend(reds)).to_dict(), allow_nan=False)


def test_a_policy_that_does_not_exist_is_a_mistake_of_the_caller_and_of_no_row(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="safeedit"):
        load_rows("safeedit", safeedit(tmp_path, {"L1": [("safe", 0)]}), policy="safeedit/x{level}")


# Runs.


def test_levels_or_categories_can_be_singled_out_for_a_guard_that_knows_no_others(tmp_path: Path) -> None:
    unsafebench(tmp_path)
    loaded = load_rows("unsafebench", tmp_path, only=["Self-harm", "Illegal activity"])
    assert [row.group for row in loaded.rows] == ["illegal-activity", "self-harm"]
    assert "only rows of self-harm, illegal-activity" in loaded.notes
    with pytest.raises(ConfigurationError, match="no row is of the level or category 'violence'") as error:
        load_rows("unsafebench", tmp_path, only=["Violence"])
    assert error.value.hint == "rows are of illegal-activity, health, self-harm, hate"


def test_a_limit_is_spread_over_the_split(tmp_path: Path) -> None:
    folder = safeedit(
        tmp_path, {f"L{level}": [("safe", number) for number in range(4)] for level in range(1, 6)}
    )
    loaded = load_rows("safeedit", folder, limit=5)
    assert [row.group for row in loaded.rows] == ["L1", "L2", "L3", "L4", "L5"]
    assert (loaded.total, loaded.notes[-1]) == (20, "these are 5 of 20 rows, spread evenly")


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = safeedit(tmp_path / "d", {"L2": [("unsafe", red) for red in range(200, 210)]})
    loaded = load_rows("safeedit", folder)
    stopped = ConfigurationError("stopped")
    with closing(SqliteCache(tmp_path / "cache")) as cache:
        first = FakeBackend(reds, preferred_batch=1).enqueue(*[0.9] * 4, stopped)
        with pytest.raises(ConfigurationError, match="stopped"):
            run_rows("safeedit", loaded, backend=CachedBackend(first, cache))
        known = len(first.requests) - 1
        assert known >= 4
        second = FakeBackend(reds, preferred_batch=1)
        report = run_rows("safeedit", loaded, backend=CachedBackend(second, cache))
    assert len(second.requests) == 10 - known
    assert by_key(report.lines)["L2/f1"].papers == {"safeguard-vl": 1.0}  # by ratings out of the cache too


def test_pico_runs_from_end_to_end_and_prints_figures_beside_the_published(
    tmp_path: Path, capsys: Captured
) -> None:
    """Pictogram scenes in SafeEditBench's form, under PictoSafe's levels."""
    from policyguard.pictosafe.render import STYLES, Renderer
    from policyguard.pictosafe.rules import is_unsafe, symbolic_level
    from policyguard.pictosafe.scene import draw_scene

    rng, rows = Random(5), []
    for number in range(2):
        scene = draw_scene(rng)
        picture = io.BytesIO()
        Renderer(STYLES[0]).draw(scene).save(picture, "PNG")
        for level in range(5):
            unsafe = is_unsafe(symbolic_level(f"pictosafe/l{level + 1}"), scene)
            rows.append(
                {
                    "image": {"bytes": picture.getvalue(), "path": None},
                    "image_path": f"{number}.png",
                    "safety_label": int(unsafe),
                    "policy_name": level,
                    "policy": "Words that pico cannot read.",
                }
            )
    parquet(tmp_path / "test-00000-of-00001.parquet", rows, CLASSES)
    asked = ["bench", "safeedit", str(tmp_path), "--policy", "pictosafe/{level}", "--model", "pico"]
    assert main([*asked, "--json", "--cache", str(tmp_path / "cache")]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert told["rows"]["judged"] == 10
    assert (
        next(line for line in told["figures"] if line["group"] == "all" and line["metric"] == "accuracy")[
            "papers"
        ]["safeguard-vl"]
        >= 0.9
    )
    assert {item["figure"] for item in told["published"]} == {"all/f1"}
    assert main([*asked, "--cache", str(tmp_path / "cache"), "--published", "Qwen2.5-VL-7B"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert "without an answer: 0.00% (none)" in out
    assert "SafeGuard-VL, arXiv:2603.01228, table 6" in out
    assert "it is of another version" in err
    assert main([*asked, "--published", "Qwen2.5-VL-8B"]) == ExitCode.USAGE
    assert "did you mean 'Qwen2.5-VL-7B'?" in capsys.readouterr().err
    assert main(["bench", "safeedit", str(tmp_path), "--model", "pico"]) == ExitCode.USAGE  # not its world
    assert main([*asked, "--own-category"]) == ExitCode.USAGE
    page = tmp_path / "page.html"
    assert main([*asked, "--cache", str(tmp_path / "cache"), "--html", str(page)]) == ExitCode.OK
    assert "all/f1" in page.read_text()
    assert main([*asked, "--thumbnails"]) == ExitCode.USAGE
    assert "--thumbnails goes with --html" in capsys.readouterr().err


def test_the_page_shows_figures_and_mistakes_and_pictures_only_where_asked(tmp_path: Path) -> None:
    answers = [("unsafe", 255), ("safe", 254), ("unsafe", 1), ("safe", 0)]
    folder = safeedit(tmp_path, {"L3": answers}, policy="No <script>alert(1)</script>.")
    report = run_rows("safeedit", load_rows("safeedit", folder), backend=FakeBackend(reds))
    page = bench_page(report, compare("safeedit", {}, model="fake"))
    assert "2 rows are answered wrongly" in page
    assert "SafeGuard-VL, arXiv:2603.01228, table 6" in page
    assert "<script" not in page
    assert "data:image" not in page
    assert bench_page(report, thumbnails=True).count("data:image/jpeg") == 2


def test_a_server_without_scores_that_talks_now_and_then_is_read_strictly(
    tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("httpx")
    from backends.remote.hosted import install, ollama, said
    from backends.remote.server import ToyServer

    def service(body: dict[str, Any], rating: str, category: str) -> tuple[int, Any]:
        if "The words of L3." in json.dumps(body) and "response_format" in body:
            return 200, said(body, "This image looks fine to me.")
        return ollama(body, rating, category)

    folder = safeedit(tmp_path, {level: [("unsafe", 9), ("safe", 99)] for level in ("L2", "L3")})
    with ToyServer() as server:
        install(server, service, "unsafe", "A", "ollama")
        asked = ["bench", "safeedit", str(folder), "--model", server.model, "--base-url", server.url]
        assert main([*asked, "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert told["rows"]["without_answer"] == {"error": 2}
    assert told["rows"]["parse_failure_rate"] == 0.5
    assert sum(told["rows"]["reasons"].values()) == 2
    assert not told["scores"]
    figures = {f"{line['group']}/{line['metric']}": line for line in told["figures"]}
    assert figures["L2/f1"]["papers"] == {"safeguard-vl": 2 / 3}  # both are called unsafe
    assert figures["L3/f1"]["papers"] == {"safeguard-vl": 0.0}
    assert figures["L3/f1"]["silent"] == 2


def test_a_guard_is_asked_in_the_sentences_it_was_trained_on_where_they_are_given(
    tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("httpx")
    from backends.remote.server import ToyServer

    folder = tmp_path / "data"
    folder.mkdir()
    texts = {name: f"My {name}." for name in ("preamble", "exempt", "sensitive", "steps")}
    wording = tmp_path / "wording.yaml"
    wording.write_text(json.dumps(texts))
    with ToyServer() as server:
        asked = ["bench", "llavaguard", str(llavaguard(folder)), "--base-url", server.url]
        asked += ["--model", server.model, "--dialect", "llavaguard"]
        assert main(asked) == ExitCode.OK
        assert "in sentences of ours" in capsys.readouterr().err
        before = len(server.bodies())
        assert main([*asked, "--wording", str(wording)]) == ExitCode.OK
        assert "in sentences of ours" not in capsys.readouterr().err
        said = [json.dumps(body) for body in server.bodies()[before:]]
        assert said
        assert all(
            ("My preamble." in text and "- show a museum" in text) or "My sensitive." in text for text in said
        )
        assert any("My exempt." in text for text in said)
        assert main([*asked, "--wording", str(tmp_path / "none.yaml")]) == ExitCode.USAGE
        assert main([*asked[:-1], "pico", "--wording", str(wording)]) == ExitCode.USAGE


# What was published.


def test_every_published_figure_is_one_that_the_benchmarks_have() -> None:
    rows = {
        "safeedit": [row for level in range(1, 6) for row in judged(f"L{level}", "uu", "ss")],
        "llavaguard": judged("O1", "uu a", "ss a_v2", extreme=True),
        "unsafebench": [row for name in CATEGORIES for row in judged(name, "uu", source="real")],
    }
    made = {f"{name}:{line.key}" for name, items in rows.items() for line in score(name, items)}
    made |= {f"general:{name}" for name in ("mmmu", "realworldqa", "blink", "mmt", "average")}
    for table in published_tables()["tables"]:
        assert set(table["figures"]) <= made, table["source"]
        for name, values in table["systems"].items():
            assert len(values) == len(table["figures"]), name
            assert all(value is None or 0 <= value <= 100 for value in values)


def test_the_published_figures_agree_with_those_of_the_list_of_systems() -> None:
    places = {"UB-SG": ("unsafebench", "SafeGuard"), "UB-SI": ("unsafebench", "SingGuard"),
              "LG-SG": ("llavaguard", "SafeGuard"), "LG": ("llavaguard", "LlavaGuard"),
              "SE": ("safeedit", "SafeGuard")}  # fmt: skip
    assert set(places) == set(MEASURES) - {"UB-MI"}
    for measure, (benchmark, source) in places.items():
        known = {
            round(100 * item.published, 2)
            for name in {name for table in published_tables()["tables"] for name in table["systems"]}
            for item in _of(benchmark, name)
            if source in item.source
        }
        listed = {system.figures[measure] for system in SYSTEMS if measure in system.figures}
        assert {value for value in listed if not any(abs(value - other) < 0.05 for other in known)} == set()


def _of(benchmark: str, system: str) -> list[Any]:
    try:
        return compare(benchmark, {}, model="", system=system)
    except ConfigurationError:
        return []


def test_a_known_model_is_set_beside_its_own_figures_by_the_paper_s_scorer() -> None:
    figures = {"all/f1": {"unsafebench": 0.1, "safeguard-vl": 0.5}}
    items = compare("unsafebench", figures, model="tyodd/SafeGuard-VL-RL@gpu:8000")
    assert [(item.system, item.here, item.published) for item in items] == [
        ("SafeGuard-VL-RL", 0.5, 0.6239),
        ("SafeGuard-VL-RL", 0.5, 0.691),
    ]
    assert items[0].difference == pytest.approx(-0.1239)
    sexual = compare("unsafebench", {"sexual/f1": {"unsafebench": 0.6}}, model="mine", groups={"sexual"})
    assert {item.figure for item in sexual} == {"sexual/f1"}
    assert ("NudeNet", 0.6, 0.624) in {(item.system, item.here, item.published) for item in sexual}
    listed = compare("unsafebench", figures, model="mine")
    assert {item.figure for item in listed} == {"all/f1"}
    assert len(listed) > 20
