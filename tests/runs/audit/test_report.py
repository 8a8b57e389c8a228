"""The report of an audit: what it counts, what it says, and what hostile text and odd rows make of it."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image as Pictures
from pyarrow import parquet
from scipy.sparse.csgraph import connected_components

from policyguard.errors import UsageError
from policyguard.runs.audit import alike
from policyguard.runs.audit.report import Asked, make_report
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.select import copy, read_where, select
from policyguard.runs.audit.tally import MAX_VALUES
from support.audits import POLICY, row, unjudged, write_many, write_rows

GUNS = {"id": "arms", "title": "Guns in ads", "status": "active", "threshold": 0.3}
SCHEMA = Path(__file__).parents[3] / "docs/audit-report.schema.json"


def report(
    tmp_path: Path, *parts: list[dict[str, Any]], asked: Asked | None = None, **options: Any
) -> dict[str, Any]:
    audit = Audit.open(write_rows(tmp_path / "audit", *parts, **options))
    return make_report(audit, tmp_path / "report", asked or Asked()).figures


def page(tmp_path: Path) -> str:
    return (tmp_path / "report/report.html").read_text(encoding="utf-8")


def category(figures: dict[str, Any], rule: str) -> dict[str, Any]:
    return next(each for each in figures["categories"] if each["rule"] == rule)


def test_it_counts_outcomes_actions_and_what_could_not_be_judged(tmp_path: Path) -> None:
    figures = report(
        tmp_path,
        [
            row("a.png", 0.9),
            row("b.png"),
            row("c.png", 0.6, action="flag"),
            unjudged("d.png", reason="d.png: page 12 of 30"),
        ],
        [
            unjudged("e.png", reason="page 3 of 4"),
            unjudged("f.png", "error", None, action="allow", degraded=True),
        ],
    )
    assert 6 == figures["rows"]
    assert {
        "complies": 1,
        "violates": 2,
        "unscannable": 2,
        "error": 1,
        "undecided": 0,
        "refused": 0,
    } == figures["outcomes"]
    assert {"allow": 2, "flag": 1, "block": 3} == figures["actions"]
    assert 1 == figures["degraded"]
    assert (2, 3) == (figures["violating"]["part"], figures["violating"]["of"])
    assert (3, 6) == (figures["unjudged"]["part"], figures["unjudged"]["of"])
    assert [
        [{"key": "d.png", "reason": "page 12 of 30"}, {"key": "e.png", "reason": "page 3 of 4"}],
        [{"key": "f.png", "reason": "no reason given"}],
    ] == [each["examples"] for each in figures["reasons"]]
    assert "<code>e.png</code>: page 3 of 4</div>" in page(tmp_path)
    assert " of the 3 that could be judged violate the policy, says the guard</h1>" in page(tmp_path)
    assert [("unscannable", "page # of #", 2), ("error", "no reason given", 1)] == [
        (each["outcome"], each["reason"], each["rows"]) for each in figures["reasons"]
    ]


def test_a_category_has_what_is_attributed_to_it_and_of_that_what_violates(tmp_path: Path) -> None:
    """Figure 4 of the LlavaGuard paper."""
    rows = [row("a", 0.9), row("b", 0.8), row("c", 0.3), row("d", 0.05), row("e", 0.45, rule="drugs")]
    figures = report(tmp_path, rows)
    arms, drugs = category(figures, "arms"), category(figures, "drugs")
    assert (3, 2, 0.5) == (arms["attributed"], arms["violating"], arms["threshold"])
    assert 2 / 3 == pytest.approx(arms["violating_of_attributed"]["value"])
    assert (1, 0) == (drugs["attributed"], drugs["violating"])
    assert 4 == figures["attributed"]
    assert 5 == report(tmp_path, rows, asked=Asked(attributed=0.01))["attributed"]


def test_an_image_that_violates_two_rules_or_none_in_particular_counts_as_one_image(tmp_path: Path) -> None:
    two = [{"rule": name, "score": 0.8, "threshold": 0.5, "action": "block"} for name in ("arms", "gore")]
    figures = report(tmp_path, [row("a", 0.9, rules=two), row("b", 0.9, rules=[])])
    assert [1, 1, 1] == [category(figures, rule)["violating"] for rule in ("arms", "gore", "(no rule)")]
    assert 2 == figures["attributed"] == figures["outcomes"]["violates"]


def test_a_model_without_scores_is_reported_too(tmp_path: Path) -> None:
    named = [{"rule": "arms", "score": None, "threshold": 0.5, "action": "block"}]
    rows = [
        row("a", None, outcome="violates", action="block", rules=named),
        row("b", None),
        row("c", None, closest={"rule": "gore", "score": None}),
    ]
    figures = report(tmp_path, [{**each, "keep_prompt": "x"} for each in rows], keep=["prompt"])
    assert (1, 1) == (category(figures, "arms")["violating"], category(figures, "gore")["attributed"])
    assert 0 == sum(figures["scores"]["violates"])
    assert ["a"] == [each["key"] for each in figures["examples"]["worst"]]
    assert [] == figures["examples"]["least_certain"]
    assert figures["prompts"]["worst_score_of_k"] is None
    assert 1 / 3 < figures["prompts"]["violation_in_k"]["value"] < 1
    assert "No image has a score: the model gives ratings without scores." in page(tmp_path)
    assert '<svg class="plot"' not in page(tmp_path)


def test_several_policies_are_told_apart_by_their_rules(tmp_path: Path) -> None:
    other = {**POLICY, "id": "ads", "rules": [GUNS]}
    rules = [{"rule": "ads:arms", "score": 0.4, "threshold": 0.3, "action": "flag"}]
    figures = report(
        tmp_path,
        [row("a", 0.4, outcome="violates", rules=rules, closest=None), row("b", 0.1, rule="house:arms")],
        about={"policies": [POLICY, other]},
    )
    assert (1, 0.3) == (
        category(figures, "ads:arms")["violating"],
        category(figures, "ads:arms")["threshold"],
    )
    assert (1, 0.5) == (
        category(figures, "house:arms")["attributed"],
        category(figures, "house:arms")["threshold"],
    )
    assert "Guns in ads" in page(tmp_path)


def test_scores_are_in_the_histogram_with_the_thresholds(tmp_path: Path) -> None:
    figures = report(tmp_path, [row("a", 0.011), row("b", 0.5), row("c", 1.0), row("d", 0.69, rule="drugs")])
    scores = figures["scores"]
    assert (50, 0.5) == (scores["bins"], scores["threshold"])
    assert {0: 1, 34: 1} == {place: number for place, number in enumerate(scores["complies"]) if number}
    assert {25: 1, 49: 1} == {place: number for place, number in enumerate(scores["violates"]) if number}
    assert page(tmp_path).count('<svg class="plot"') == 5
    assert ", threshold 0.7" in page(tmp_path)


def test_columns_and_folders_have_tables_with_what_violates_first(tmp_path: Path) -> None:
    rows = [row(f"cats/{n}.png", 0.9 if n < 2 else 0.1, keep_source="web") for n in range(6)]
    rows += [row("dogs/a/b.png", keep_source=None), unjudged("top.png", keep_source="stock")]
    columns = report(tmp_path, rows, keep=["source"])["columns"]
    assert [("cats", 6), ("", 1), ("dogs/a", 1)] == [
        (each["value"], each["rows"]) for each in columns["folder"]["values"]
    ]
    cats = columns["folder"]["values"][0]["violating"]
    assert (2, 6) == (cats["part"], cats["of"])
    assert [("web", 0), (None, 0), ("stock", 1)] == [
        (each["value"], each["unjudged"]) for each in columns["keep_source"]["values"]
    ]
    assert "(top folder)" in page(tmp_path)


def test_values_beyond_the_listed_ones_are_counted_together(tmp_path: Path) -> None:
    rows = [row(f"{n:02}/x.png", 0.9 if n == 7 else 0.1) for n in range(30)]
    folder = report(tmp_path, rows, asked=Asked(values=3))["columns"]["folder"]
    assert (30, "07", 3) == (folder["distinct"], folder["values"][0]["value"], len(folder["values"]))
    assert (27, 27, 0) == (
        folder["rest"]["rows"],
        folder["rest"]["violating"]["of"],
        folder["rest"]["violating"]["part"],
    )


def test_a_column_with_a_value_of_its_own_in_every_row_takes_no_more_memory(tmp_path: Path) -> None:
    import pyarrow as pa

    from policyguard.runs.audit.tally import _Groups

    groups = _Groups()
    for first in range(0, 3 * MAX_VALUES, MAX_VALUES // 2):
        names = pa.array([str(first + n) for n in range(MAX_VALUES // 2)])
        groups.add(names, np.ones(len(names), bool), np.zeros(len(names), bool))
    figures = groups.figures(10)
    assert (MAX_VALUES, True) == (figures["distinct"], figures["more"])
    assert 3 * MAX_VALUES - 10 == figures["rest"]["rows"]


def test_blocked_images_come_before_flagged_ones_of_higher_scores(tmp_path: Path) -> None:
    flagged = [row(f"flagged-{number}.png", 0.99, action="flag") for number in range(30)]
    figures = report(tmp_path, [*flagged, row("a.png", 0.6), row("b.png", 0.7)], [row("c.png", 0.8)])
    keys = [each["key"] for each in figures["examples"]["worst"]]
    assert ["c.png", "b.png", "a.png", "flagged-0.png"] == keys[:4]


def test_the_worst_and_the_least_certain_come_with_their_paths(tmp_path: Path) -> None:
    rows = [row(f"{score:.2f}.png", score) for score in (0.99, 0.97, 0.52, 0.49, 0.3, 0.02)]
    rows += [
        row("drugs.png", 0.71, rule="drugs"),
        row("copy.png", 0.999, duplicate_of="0.99.png"),
    ]
    examples = report(tmp_path, rows)["examples"]
    assert ["0.99.png", "0.97.png", "drugs.png", "0.52.png"] == [each["key"] for each in examples["worst"]]
    assert ["drugs.png"] == [each["key"] for each in examples["worst_of_rule"]["drugs"]]
    unsure = [(each["key"], round(each["margin"], 3)) for each in examples["least_certain"]]
    assert [("0.49.png", 0.01), ("0.52.png", 0.02), ("0.30.png", 0.2)] == unsure[:3]
    # It would still violate the policy by its score of 0.71 if the rule's threshold were at 0.72.
    assert ("drugs.png", 0.21) in unsure
    assert "0.99.png" in page(tmp_path)
    assert "data:image" not in page(tmp_path)


def test_thumbnails_are_in_the_page_only_where_asked_for_and_blurred(tmp_path: Path) -> None:
    audit = Audit.open(write_rows(tmp_path / "audit", [row("a.png", 0.9), row("b.png", 0.8)]))
    seen: list[str] = []

    def thumbnail(example: Any) -> str:
        seen.append(example["key"])
        return "data:image/jpeg;base64,AAAA" if example["key"] == "a.png" else ""

    make_report(audit, tmp_path / "report", Asked(), thumbnail=thumbnail)
    text = page(tmp_path)
    assert {"a.png", "b.png"} == set(seen)
    assert (
        text.count('<label class="blurred"')
        == text.count("data:image/jpeg;base64,AAAA")
        == seen.count("a.png")
    )
    assert "no preview: the image cannot be read, or has changed" in text
    assert "data:" not in (tmp_path / "report/report.json").read_text()


def test_duplicates_count_once_and_twice(tmp_path: Path) -> None:
    base = 0x123456789ABCDEF0
    rows = [
        row("a", 0.9, sha256="a" * 64, dhash=base),
        row("copy", 0.9, sha256="a" * 64, dhash=base, duplicate_of="a"),
        row("resized", 0.4, dhash=base ^ 0b101),
        row("other", 0.1, dhash=base ^ 0b111),
        row("far", 0.1, dhash=base ^ 0xFF00FF00),
        row("flat", 0.1, dhash=0),
        row("flat too", 0.1, dhash=1),
        unjudged("broken", sha256=None),
        unjudged("broken too", sha256=None),
    ]
    found = report(tmp_path, rows)["duplicates"]
    equal, alike = found["equal_bytes"], found["nearly_equal"]
    assert (8, 1, 0) == (equal["distinct"], equal["violating"]["part"], equal["judged_both_ways"])
    # "other" differs from "resized" in one bit, and so belongs to the group.
    assert (6, 1, 1) == (alike["distinct"], alike["violating"]["part"], alike["judged_both_ways"])
    assert (2, 1) == (found["too_plain"], found["judged_once"])


def test_groups_of_alike_images_are_listed_those_judged_both_ways_first(tmp_path: Path) -> None:
    base = 0x123456789ABCDEF0
    figures = report(
        tmp_path,
        [row("a", 0.1, sha256="a" * 64), row("=b", 0.9, dhash=base), row("alone")],
        [row("a too", 0.1, sha256="a" * 64), row("<b>", 0.4, dhash=base ^ 1)],
    )
    assert [
        "group,key,action,outcome,score",
        "1,'=b,block,violates,0.9",
        "1,<b>,allow,complies,0.4",
        "2,a,allow,complies,0.1",
        "2,a too,allow,complies,0.1",
    ] == [line.rpartition(",")[0] for line in (tmp_path / "report/duplicates.csv").read_text().splitlines()]
    assert [(1, 2, ["=b", "<b>"])] == [
        (group["group"], group["rows"], [image["key"] for image in group["images"]])
        for group in figures["duplicates"]["both_ways"]
    ]
    assert "<code>&lt;b&gt;</code>" in page(tmp_path)


def test_parts_that_are_done_while_a_report_is_made_are_in_no_group(tmp_path: Path) -> None:
    parts = [
        [row(f"{number}-{place}", sha256=f"{place + 1}" * 64) for place in range(2)] for number in range(3)
    ]
    folder = write_rows(tmp_path / "audit", *parts)
    late = folder / "verdicts/part-00000001.parquet"
    data = late.read_bytes()
    late.unlink()

    def progress(rows: int) -> None:
        late.write_bytes(data)

    make_report(Audit.open(folder), tmp_path / "report", Asked(), progress=progress)
    lines = (tmp_path / "report/duplicates.csv").read_text().splitlines()[1:]
    assert ["1,0-0", "1,2-0", "2,0-1", "2,2-1"] == [",".join(line.split(",")[:2]) for line in lines]


@pytest.mark.parametrize("seed", range(3))
def test_hashes_two_bits_apart_are_grouped_and_no_others(seed: int) -> None:
    """Beside a comparison of each with each."""
    random = np.random.default_rng(seed)
    hashes = np.repeat(random.integers(0, 2**64, 40, dtype=np.uint64, endpoint=False), 12)
    for _ in range(3):
        flipped = np.uint64(1) << random.integers(0, 64, len(hashes)).astype(np.uint64)
        hashes ^= np.where(random.random(len(hashes)) < 0.6, flipped, np.uint64(0))
    apart = np.array([[int(one ^ other).bit_count() for other in hashes] for one in hashes])
    _, expected = connected_components(apart <= 2)
    found = alike.together(alike.same(hashes), alike.near(hashes, np.ones(len(hashes), bool)))
    assert len(set(zip(expected, found, strict=True))) == len(set(expected)) == len(set(found)) > 40


def test_two_halves_that_differ_are_told(tmp_path: Path) -> None:
    rows = [row(f"{n}.png", 0.9 if n >= 60 and n % 2 else 0.1) for n in range(100)]
    drift = report(tmp_path, rows[:30], rows[30:])["drift"]
    assert [50, 50] == drift["rows"]
    assert [0, 20] == [share["part"] for share in drift["violating"]]
    assert 0.2 < drift["violating_change"]["low"] < 0.4 < drift["violating_change"]["high"]
    assert drift["score_distance"] == pytest.approx(0.4)
    assert drift["score_distance_by_chance"] == pytest.approx(1.358 * 0.2)
    assert "+40.00 points" in page(tmp_path)


def test_prompts_have_their_share_with_violations_and_the_expected_worst(tmp_path: Path) -> None:
    """Two prompts: one never violates, the other in one of four images."""
    rows = [row(f"a{n}", 0.2, keep_prompt="a cat") for n in range(4)]
    rows += [row(f"b{n}", 0.8 if n == 0 else 0.2, keep_prompt="a dog") for n in range(4)]
    rows += [row("c", 0.9, keep_prompt=None), unjudged("d", keep_prompt="a bird")]
    prompts = report(tmp_path, rows, keep=["prompt"], asked=Asked(k=2))["prompts"]
    assert (2, 1) == (prompts["prompts"], prompts["with_violation"]["part"])
    assert (1 - 0.75**2) / 2 == pytest.approx(prompts["violation_in_k"]["value"])
    worst = 0.2 * 0.75**2 + 0.8 * (1 - 0.75**2)
    assert (0.2 + worst) / 2 == pytest.approx(prompts["worst_score_of_k"]["value"], abs=1e-6)
    assert {"least": 4, "median": 4.0, "most": 4} == prompts["images_per_prompt"]
    assert "chance of a violation in 2 images of a prompt" in page(tmp_path)


def test_a_prompt_column_that_was_not_carried_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="carries no column 'promt'") as wrong:
        report(tmp_path, [row("a", keep_prompt="x")], keep=["prompt"], asked=Asked(prompt="promt"))
    assert wrong.value.hint == "did you mean 'prompt'?"


def test_an_audit_that_is_not_complete_says_so_first(tmp_path: Path) -> None:
    figures = report(tmp_path, [row("a"), row("b")], missing=3)
    assert (4, 1, 32, False) == tuple(
        figures["audit"][name] for name in ("parts", "parts_done", "rows_planned", "complete")
    )
    assert "This audit is not complete: 1 of 4 parts are done" in page(tmp_path)
    report(tmp_path / "whole", [row("a")])
    assert "not complete" not in page(tmp_path / "whole")


@pytest.mark.parametrize("what", ["cut off", "of another audit", "of another part", "something else"])
def test_a_file_of_verdicts_that_is_not_the_audit_s_own_is_refused(what: str, tmp_path: Path) -> None:
    """Else a report, or a copy of what is allowed, rests on what somebody put there."""
    audit = Audit.open(write_rows(tmp_path / "audit", [row("a")], [row("b")], missing=1))
    other = write_rows(tmp_path / "other", [row("a")], about={"mark": "another"})
    first, second, third = (tmp_path / f"audit/verdicts/part-0000000{number}.parquet" for number in range(3))
    if what == "cut off":
        second.write_bytes(second.read_bytes()[:-20])
    elif what == "of another audit":
        table = parquet.read_table(other / "verdicts/part-00000000.parquet")
        marks = {**table.schema.metadata, b"policyguard.audit.mark": b"another"}
        parquet.write_table(table.replace_schema_metadata(marks), first)
    elif what == "of another part":
        third.write_bytes(first.read_bytes())
    else:
        (tmp_path / "audit/verdicts/notes.txt").write_text("mine")
    for read in (
        lambda: make_report(audit, tmp_path / "report", Asked()),
        lambda: select(audit, read_where(audit, "row == 0"), tmp_path / "list.txt"),
        lambda: copy(audit, tmp_path / "clean", read_where(audit, "row == 0")),
    ):
        with pytest.raises(UsageError, match="is damaged, or not of this audit"):
            read()


def test_an_audit_without_rows_or_without_judged_ones_has_no_figures_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no judged row yet"):
        report(tmp_path, missing=2)
    figures = report(tmp_path / "unjudged", [unjudged("a"), unjudged("b")])
    assert figures["violating"] is figures["drift"] is None
    assert 0 == figures["duplicates"]["nearly_equal"]["distinct"] - 2


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "$\\frac{$",
    "\x1b[31m\u202egpj",
    "&amp;{{ 7*7 }}",
)


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_are_shown_as_words(words: str, tmp_path: Path) -> None:
    """In names, columns, rules, rationales, reasons, and what audit.json says."""
    found = [{"rule": words, "score": 0.9, "threshold": 0.5, "action": "block"}]
    rows = [
        row(f"{words}/{words}.png", 0.9, rules=found, rationale=words, keep_source=words)
        | {"keep_prompt": words},
        row("b", closest={"rule": words, "score": 0.2}),
        unjudged("c", reason=words),
    ]
    about = {
        "policies": [{**POLICY, "title": words}],
        "source": {"sources": [words], "root": "/"},
        "model": {"id": words},
    }
    report(tmp_path, rows, keep=["source", "prompt"], about=about)
    text = page(tmp_path)
    assert text.count("<script") == 0
    assert not re.search(r"<img|onerror=alert\(1\)>|\x1b|\u202e", text)
    assert json.loads((tmp_path / "report/report.json").read_text())["audit"]["source"]["sources"] == [words]


def test_the_plots_are_images_of_a_sensible_size(tmp_path: Path) -> None:
    report(tmp_path, [row("a", 0.9), row("b", 0.2, rule="drugs"), unjudged("c")])
    for name in ("categories.png", "scores.png"):
        with Pictures.open(tmp_path / "report" / name) as image:  # noqa: TID251
            assert image.width > 900
            assert 200 < image.height < 2000


def test_the_same_audit_gives_the_same_bytes(tmp_path: Path) -> None:
    audit = Audit.open(write_many(tmp_path / "audit", 300, per_part=100))
    files = [make_report(audit, tmp_path / name, Asked()).files for name in ("one", "two")]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_the_figures_do_not_depend_on_how_rows_are_cut_into_parts(tmp_path: Path) -> None:
    rows = [row(f"{n}.png", n / 97, rule=("arms", "drugs")[n % 2], dhash=n * 7919) for n in range(98)]
    whole, cut = (
        report(tmp_path / name, *parts)
        for name, parts in (("a", [rows]), ("b", [rows[:5], rows[5:60], rows[60:]]))
    )
    for figures in (whole, cut):
        figures.pop("audit")
        worst, unsure, of_rule = (
            figures["examples"][name] for name in ("worst", "least_certain", "worst_of_rule")
        )
        for each in chain(worst, unsure, *of_rule.values()):
            del each["part"], each["row"]
    assert whole == cut


def test_a_page_stays_small_whatever_the_number_of_rows(tmp_path: Path) -> None:
    audit = Audit.open(write_many(tmp_path / "audit", 20_000))
    make_report(audit, tmp_path / "report", Asked())
    assert (tmp_path / "report/report.html").stat().st_size < 150_000


def test_the_figures_are_as_the_schema_says(tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.check_schema(validator.schema)
    many = Audit.open(write_many(tmp_path / "many", 500, per_part=100))
    few = Audit.open(
        write_rows(tmp_path / "few", [row("a", keep_prompt=None), unjudged("b")], keep=["prompt"])
    )
    for audit in (many, few):
        labels = tmp_path / f"{audit.place.local}.csv"
        make_report(audit, tmp_path / "report", Asked(sample=30, labels=labels))
        figures = make_report(audit, tmp_path / "report", Asked(labels=labels)).figures
        assert not [error.message for error in validator.iter_errors(figures)]
        assert json.loads((tmp_path / "report/report.json").read_text()) == figures
        assert set(figures) == set(validator.schema["properties"])
