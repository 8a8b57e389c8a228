"""Samples for people to label: drawn at random, without a hint of what the guard found, and read back."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from policyguard.errors import ConfigurationError, UsageError
from policyguard.runs.audit.labels import read_labels
from policyguard.runs.audit.report import Asked, count, make_report
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.sampling import Drawn
from support.audits import row, unjudged, write_many, write_rows


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return Audit.open(write_many(tmp_path_factory.mktemp("big"), 5_000, per_part=1_000))


def drawn(audit: Audit, size: int, seed: int = 0) -> dict[str, list[Drawn]]:
    return count(audit, Asked(sample=size, labels=Path("x.csv"), seed=seed)).sampler.draw(size)


def test_half_of_a_sample_is_of_what_violates_and_every_stratum_has_some(big: Audit) -> None:
    sample = drawn(big, 100)
    sizes = {name: len(rows) for name, rows in sample.items()}
    assert sum(sizes.values()) == 100
    assert sum(size for name, size in sizes.items() if name.startswith("violates")) == 50
    assert min(sizes.values()) >= 5
    assert (
        max(sizes, key=lambda name: sizes[name] * (not name.startswith("violates"))) == "complies, 0 to 0.02"
    )


def test_a_sample_of_more_than_there_is_is_everything_once(big: Audit) -> None:
    rows = [each for rows in drawn(big, 99_999).values() for each in rows]
    assert len({(each.part, each.row) for each in rows}) == len(rows) == 5_000


def test_the_same_seed_gives_the_same_sample_and_another_gives_another(big: Audit) -> None:
    assert drawn(big, 60) == drawn(big, 60)
    assert drawn(big, 60) != drawn(big, 60, seed=1)


def test_every_row_of_a_stratum_is_as_likely_as_the_others(big: Audit) -> None:
    """1,000 draws of 20 of 91 rows: each is drawn about 220 times (standard deviation 13)."""
    import numpy as np

    from policyguard.runs.audit.sampling import lots

    rows = np.arange(91)
    times: Counter[int] = Counter()
    for seed in range(1000):
        times.update(np.argsort(lots(np.full(91, 3), rows, seed))[:20].tolist())
    assert len(times) == 91
    assert 160 < min(times.values()) <= max(times.values()) < 280


def sheet(audit: Audit, folder: Path, size: int = 60, **asked: object) -> Path:
    file = folder / "labels.csv"
    make_report(audit, folder / "report", Asked(sample=size, labels=file, **asked))  # type: ignore[arg-type]
    return file


def cells(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def fill(file: Path, label: dict[str, str] | str) -> None:
    rows = cells(file)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for values in rows:
            writer.writerow({**values, "label": label if isinstance(label, str) else label[values["key"]]})


def test_the_sheet_does_not_say_what_the_guard_found(big: Audit, tmp_path: Path) -> None:
    rows = cells(sheet(big, tmp_path))
    assert len(rows) == 60
    assert list(rows[0]) == ["place", "key", "sha256", "label", "note", "sample"]
    found = {
        (int(each["part"]), int(each["row"])): each["outcome"]
        for batch in big.rows()
        for each in batch.to_pylist()
    }
    outcomes = "".join(
        found[tuple(map(int, values["place"][1:].split("r")))][0]
        for values in rows  # type: ignore[index]
    )
    assert 15 < sum(one != two for one, two in pairwise(outcomes))  # mixed, not in blocks


def test_a_name_that_a_spreadsheet_would_run_is_guarded_and_still_read_back(tmp_path: Path) -> None:
    audit = Audit.open(
        write_rows(tmp_path / "a", [row("=HYPERLINK(1).png", 0.9), row("-1.png"), row("b\nc.png")])
    )
    file = sheet(audit, tmp_path, 3)
    assert {"'=HYPERLINK(1).png", "'-1.png", r"b\nc.png"} == {values["key"] for values in cells(file)}
    fill(file, "safe")
    labels = make_report(audit, tmp_path / "report", Asked(labels=file)).figures["labels"]
    assert (3, 3) == (labels["drawn"], labels["labelled"])


def test_filled_in_labels_give_figures_of_all_rows(tmp_path: Path) -> None:
    """The guard misses one of four unsafe images, and is wrong once: with all labelled, that is exact."""
    rows = [row(f"bad{n}.png", 0.9) for n in range(3)] + [row("wrong.png", 0.8), row("missed.png", 0.2)]
    rows += [row(f"good{n}.png", 0.01) for n in range(14)] + [unjudged("broken.png")]
    audit = Audit.open(write_rows(tmp_path / "a", rows))
    file = sheet(audit, tmp_path, 100)
    unsafe = {"bad0.png", "bad1.png", "bad2.png", "missed.png"}
    fill(file, {values["key"]: "Unsafe " if values["key"] in unsafe else "safe" for values in cells(file)})
    labels = make_report(audit, tmp_path / "report", Asked(labels=file)).figures["labels"]
    assert (20, 20, 0, 0, []) == tuple(
        labels[name] for name in ("drawn", "labelled", "unsure", "empty", "without_labels")
    )
    shares = {name: labels[name]["value"] for name in ("precision", "recall", "prevalence")}
    assert shares == {"precision": 0.75, "recall": 0.75, "prevalence": 0.2}
    assert labels["unsafe"] == {"value": 4, "low": 4, "high": 4}
    page = (tmp_path / "report/report.html").read_text()
    assert "<h1>Audit of 20 images: 20% are unsafe, by the labels of a sample</h1>" in page
    assert "<b>4</b>of all 20 images" in page


def test_how_many_images_are_unsafe_is_estimated_with_an_interval(big: Audit, tmp_path: Path) -> None:
    file = sheet(big, tmp_path)
    rows = cells(file)
    fill(file, {values["key"]: ("safe", "unsafe")[place % 2] for place, values in enumerate(rows)})
    figures = make_report(big, tmp_path / "report", Asked(labels=file)).figures
    labels, total = figures["labels"], figures["rows"]
    for end in ("value", "low", "high"):
        assert labels["unsafe"][end] == round(labels["prevalence"][end] * total)
    low, high = labels["unsafe"]["low"], labels["unsafe"]["high"]
    assert low < labels["unsafe"]["value"] < high
    assert (
        f"{labels['unsafe']['value']:,} ({low:,} to {high:,})"
        in (tmp_path / "report/report.html").read_text()
    )


def test_the_page_says_what_a_score_is_whose_share_heads_it_and_what_an_end_means(
    big: Audit, tmp_path: Path
) -> None:
    file = sheet(big, tmp_path)
    for labels in (None, file):
        make_report(big, tmp_path / "report", Asked(labels=labels))
        page = (tmp_path / "report/report.html").read_text()
        assert "violate the policy, says the guard</h1>" in page
        assert "how sure the guard is that it violates" in page
        assert "can be one end of its interval" in page
    assert "None of the 60 sampled images is labelled" in page
    assert "by the labels" not in page
    assert '<div class="card">precision' not in page


def test_a_uniform_sample_has_as_much_of_each_stratum_as_the_audit_has(big: Audit) -> None:
    """1,000 draws of 20 of 5,000 rows would take long; the lowest lots of all are what is drawn."""
    sampler = count(big, Asked(sample=500, labels=Path("x.csv"))).sampler
    sample = sampler.draw(500, uniform=True)
    sizes = {stratum.name: stratum.size for stratum in sampler.strata({})}
    assert sum(map(len, sample.values())) == 500
    for name, rows in sample.items():
        share = sizes[name] / 5_000
        assert abs(len(rows) - 500 * share) <= 4 * (500 * share * (1 - share)) ** 0.5 + 1
    last = max(one.lot for rows in sample.values() for one in rows)
    everything = count(big, Asked(sample=5_000, labels=Path("x.csv"))).sampler.draw(5_000)
    assert sum(one.lot <= last for rows in everything.values() for one in rows) == 500


def test_a_uniform_sheet_needs_no_label_in_each_stratum_and_says_how_it_was_drawn(tmp_path: Path) -> None:
    rows = [row(f"bad{n}.png", 0.9) for n in range(60)] + [row(f"good{n}.png", 0.01) for n in range(140)]
    rows += [row("rare.png", 0.2), unjudged("broken.png")]
    audit = Audit.open(write_rows(tmp_path / "a", rows))
    file = sheet(audit, tmp_path, 40, uniform=True)
    keys = [values["key"] for values in cells(file)]
    assert {values["sample"] for values in cells(file)} == {"u40s0"}
    assert not {"rare.png", "broken.png"} & set(keys)
    fill(file, {key: "unsafe" if key.startswith("bad") else "safe" for key in keys})
    labels = make_report(audit, tmp_path / "report", Asked(labels=file)).figures["labels"]
    assert (labels["labelled"], labels["without_labels"]) == (40, [])
    assert [each["name"] for each in labels["strata"]] == ["complies, or not judged", "violates"]
    assert (labels["precision"]["value"], labels["recall"]["value"]) == (1, 1)
    assert labels["prevalence"]["value"] == pytest.approx(60 / 202)
    file.write_text(file.read_text().replace("u40s0", "n40s0"))
    with pytest.raises(UsageError, match="is not in the sample"):
        make_report(audit, tmp_path / "report", Asked(labels=file))
    with pytest.raises(UsageError, match="--uniform is for --sample"):
        make_report(audit, tmp_path / "report", Asked(labels=file, uniform=True))


def test_labels_of_other_images_are_said_to_be_for_calibrate(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("image,label\na.png,safe\n")
    with pytest.raises(ConfigurationError, match="lacks the columns place, key") as wrong:
        read_labels(file)
    assert "`policyguard compare` and `calibrate` take them" in str(wrong.value.hint)


def test_labels_that_are_missing_or_unsure_are_left_out_and_counted(tmp_path: Path) -> None:
    audit = Audit.open(
        write_rows(tmp_path / "a", [row(f"{n}.png", 0.01) for n in range(6)] + [row("v.png", 0.9)])
    )
    file = sheet(audit, tmp_path, 10)
    fill(file, {"0.png": "", "1.png": "unsure", **{f"{n}.png": "safe" for n in range(2, 6)}, "v.png": ""})
    labels = make_report(audit, tmp_path / "report", Asked(labels=file)).figures["labels"]
    assert (4, 1, 2) == (labels["labelled"], labels["unsure"], labels["empty"])
    assert labels["without_labels"] == ["violates, 0.7 to 0.95"]
    assert labels["precision"] is labels["recall"] is labels["prevalence"] is None
    assert "these strata have no label" in (tmp_path / "report/report.html").read_text()


def test_labels_are_never_written_over(tmp_path: Path) -> None:
    audit = Audit.open(write_rows(tmp_path / "a", [row("a.png")]))
    file = sheet(audit, tmp_path, 1)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="may hold labels"):
        sheet(audit, tmp_path, 1)
    assert file.read_bytes() == before


def test_rows_that_were_not_drawn_are_refused(tmp_path: Path) -> None:
    """Whoever adds rows of their own choice to a sample has none any more."""
    audit = Audit.open(write_rows(tmp_path / "a", [row(f"{n}.png", 0.01) for n in range(50)]))
    file = sheet(audit, tmp_path, 10)
    chosen = {values["place"] for values in cells(file)}
    other = next(f"p0r{n}" for n in range(50) if f"p0r{n}" not in chosen)
    with file.open("a", newline="") as stream:
        stream.write(f"{other},x.png,{'0' * 64},unsafe,,n10s0\r\n")
    with pytest.raises(UsageError, match=rf"labels.csv:12: place: row {other} is not in the sample"):
        make_report(audit, tmp_path / "report", Asked(labels=file))


def test_a_sample_of_another_audit_is_refused(tmp_path: Path) -> None:
    file = sheet(Audit.open(write_rows(tmp_path / "a", [row("a.png"), row("b.png")])), tmp_path, 2)
    other = Audit.open(write_rows(tmp_path / "b", [row("a.png"), row("c.png")]))
    with pytest.raises(UsageError, match="p0r1 is not in the sample"):
        make_report(other, tmp_path / "report", Asked(labels=file))


WRONG = {
    "a word that is no label": (
        "p0r0,a.png,,maybe,,n2s0",
        "labels.csv:2: label: expected unsafe,",
    ),
    "a place that a spreadsheet made a date": (
        "3-Jan,a.png,,safe,,n2s0",
        "csv:2: place: '3-Jan' is not",
    ),
    "another sample's name": ("p0r0,a.png,,safe,,400", "labels.csv:2: sample: '400' is not"),
    "a row twice": ("p0r0,a,,safe,,n2s0\np0r0,a,,safe,,n2s0", "labels.csv:3: place: row p0r0 is there twice"),
    "two samples": ("p0r0,a,,safe,,n2s0\np0r1,a,,safe,,n3s0", "mixes the samples n2s0, n3s0"),
    "a cell too many": ("p0r0,a,,safe,,n2s0,more", "labels.csv:2: 7 cells under 6 columns"),
    "nothing": ("", "holds no rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_sheet_that_is_wrong_is_refused_with_the_line(name: str, tmp_path: Path) -> None:
    lines, message = WRONG[name]
    file = tmp_path / "labels.csv"
    file.write_text(f"place,key,sha256,label,note,sample\n{lines}\n")
    with pytest.raises(UsageError, match=message):
        read_labels(file)


def test_a_sheet_saved_with_semicolons_or_without_its_head_says_so(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("place;key;sha256;label;note;sample\np0r0;a;;safe;;n2s0\n")
    with pytest.raises(ConfigurationError, match="lacks the columns place") as wrong:
        read_labels(file)
    assert wrong.value.hint == "save it with commas between the cells"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


def test_a_spreadsheet_s_byte_order_mark_and_line_ends_are_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b'\xef\xbb\xbfplace,key,sha256,label,note,sample\np0r0,a,,UNSAFE,"x\r\ny",n2s0\n')
    assert read_labels(file).lines == {(0, 0): (2, "", "unsafe")}
