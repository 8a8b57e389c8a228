"""Conditions, the rows that they select, and the images that are copied."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from policyguard.errors import UsageError
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.select import ALLOWED, Copied, copy, read_where, select
from policyguard.runs.audit.sources import Spec
from policyguard.runs.audit.where import parse_where
from support.audits import audit_of, row, unjudged, write_rows
from support.waiting import wait_until

ROWS = [
    row("cats/a.png", 0.95, keep_label="cat"),
    row("cats/b.png", 0.6, action="flag", keep_label="cat"),
    row("dogs/c.png", 0.2, keep_label="dog"),
    row("dogs/d.png", 0.45, rule="drugs", keep_label=None),
    row("e.png", 0.8, rule="gore", rules=[
        {"rule": name, "score": 0.8, "threshold": 0.5, "action": "block"} for name in ("gore", "arms")
    ], keep_label='say "x"'),
    unjudged("f.png", keep_label="cat"),
    unjudged("g.png", "error", action="allow", degraded=True, keep_label="cat"),
]  # fmt: skip

CONDITIONS = {
    'action == "block"': "aef",
    "action != 'block'": "bcdg",
    'action in ("flag", "allow") and not degraded': "bcd",
    "score > 0.5": "abe",
    "score >= .6 and score <= 0.8": "be",
    "not (score > 0.5)": "cd",
    "score is null": "fg",
    "score is not null and (score < 0.3 or action == 'flag')": "bc",
    '"arms" in rules': "abe",
    '"gore" in rules and "arms" in rules': "e",
    '"arms" not in rules': "cdfg",
    'not "arms" in rules and not "gore" in rules': "cdfg",
    'closest.rule == "drugs"': "d",
    "closest.score >= 0.4": "d",
    'key startswith "cats/" or key endswith "e.png"': "abe",
    'key contains "s/"': "abcd",
    'label == "cat"': "abfg",
    'keep_label not in ("cat")': "ce",
    "label is null": "d",
    '`label` == "say \\"x\\""': "e",
    "row < 2 or row == 6": "abg",
    "row > -1 and part == 0": "abcdefg",
    "degraded": "g",
    "degraded == true": "g",
    "NOT degraded AND score IS NULL": "f",
    'fingerprint contains "ff" and row == 0': "a",
    "a": None,
    "score == 1 or score == 0.2 and action == 'allow'": "c",
    "  (((row == 0)))\n": "a",
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return Audit.open(write_rows(tmp_path_factory.mktemp("audit"), ROWS, keep=["label"]))


def selected(audit: Audit, text: str) -> list[str]:
    stream = io.StringIO()
    count = select(audit, read_where(audit, text), stream.write)
    keys = stream.getvalue().splitlines()
    assert count == len(keys)
    return keys


@pytest.mark.parametrize("text", [text for text, found in CONDITIONS.items() if found is not None])
def test_a_condition_selects_what_it_says(text: str, audit: Audit) -> None:
    assert CONDITIONS[text] == "".join(key.removesuffix(".png")[-1] for key in selected(audit, text))


WRONG = {
    "": (1, "there is no condition"),
    "scor > 1": (1, "there is no column 'scor'"),
    'action = "block"': (8, "= is not known here"),
    'action == "block" && degraded': (19, "&& is not known here"),
    "action == block": (11, "expected a value, found 'block'"),
    'action == "blocked"': (11, "action is never 'blocked'"),
    'outcome in ("complies", "violate")': (25, "outcome is never 'violate'"),
    '"weapon" in rules': (1, "no policy of the audit has a rule 'weapon'"),
    '"arms" in label': (11, "expected 'rules', found 'label'"),
    '"arms"': (7, "expected 'in', found the end"),
    'rules == "arms"': (7, "rules is a list"),
    'score > "high"': (9, "score is a number, and '\"high\"' is a text"),
    "key == 3": (8, "key is a text, and '3' is a number"),
    "degraded == 1": (13, "degraded is true or false, and '1' is a number"),
    'key > "a"': (5, "key is a text, which > does not compare"),
    "score contains 'x'": (7, "contains is for texts"),
    "score == null": (10, "nothing is equal to null"),
    "score is 3": (10, "expected 'null', found '3'"),
    "score in 3": (10, "expected '(', found '3'"),
    "score in (0.5": (14, "expected ')', found the end"),
    "score >": (8, "expected a value, found the end"),
    "score 0.5": (7, "expected a comparison with score, found '0.5'"),
    "degraded partial": (10, "expected 'and', 'or' or the end, found 'partial'"),
    "degraded and": (13, "expected a column, found the end"),
    "(degraded": (10, "expected ')', found the end"),
    'key == "a': (8, "this quote is not closed"),
    "key == 'a\\n'": (8, "this quote is not closed, or a backslash in it escapes nothing"),
    "__import__('os')": (1, "there is no column '__import__'"),
    "score > 1; degraded": (10, "';' is not known here"),
    "score > 90%": (11, "'%' is not known here"),
    "score > 90": (9, "scores go from 0 to 1, and '90' is none"),
    "closest.score <= -0.1": (18, "scores go from 0 to 1, and '-0.1' is none"),
    "score in (0.5, 1.5)": (16, "scores go from 0 to 1, and '1.5' is none"),
    "score.%": (7, "'%' is not known here"),
    "score > 0x10": (9, "'0' is not known here"),
    "dhash == 1.5": (10, "dhash is a whole number"),
    "(" * 200: (51, "the condition is nested more than 50 deep"),
    "not " * 200 + "degraded": (201, "the condition is nested more than 50 deep"),
    'key == "\u202e" or x': (15, "there is no column 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_condition_that_is_wrong_is_refused_with_the_place(text: str, audit: Audit) -> None:
    place, message = WRONG[text]
    with pytest.raises(UsageError) as wrong:
        read_where(audit, text)
    first, line, mark = wrong.value.message.split("\n")
    assert first.startswith(f"--where, character {place}: {message}")
    assert mark == " " * min(len(mark) - 1, 1000) + "^"
    assert "\u202e" not in line


def test_the_mark_stands_under_the_place_and_the_hint_says_what_to_write(audit: Audit) -> None:
    with pytest.raises(UsageError) as wrong:
        read_where(audit, 'degraded or action == "blok"')
    assert wrong.value.message.splitlines()[1:] == ['degraded or action == "blok"', " " * 22 + "^"]
    assert wrong.value.hint == "did you mean block?"


@pytest.mark.parametrize(("share", "written"), [("90%", "0.9"), ("2.5 %", "0.025"), ("100%", "1")])
def test_a_share_in_percent_comes_with_the_number_to_write(share: str, written: str, audit: Audit) -> None:
    with pytest.raises(UsageError) as wrong:
        read_where(audit, f"score > {share}")
    assert wrong.value.hint == f"scores are from 0 to 1: write {written}"


@pytest.mark.parametrize(("number", "hint"), [("90", "write 0.9"), ("250", None), ("-1", None)])
def test_a_number_that_no_score_is_is_no_condition_on_scores(
    number: str, hint: str | None, audit: Audit
) -> None:
    with pytest.raises(UsageError) as wrong:
        read_where(audit, f"score >= {number}")
    assert wrong.value.hint == hint
    assert parse_where("score < 1 and row > 90 and keep_score == '90'", keep=["score"]).columns >= {
        "keep_score"
    }


def test_a_carried_number_is_a_text_and_the_hint_says_so(audit: Audit) -> None:
    with pytest.raises(UsageError) as wrong:
        read_where(audit, "label == 1")
    assert wrong.value.hint == 'write "1"'


def test_a_condition_of_any_length_is_read_or_refused(audit: Audit) -> None:
    assert len(selected(audit, " or ".join(["row == 0"] * 800))) == 1
    with pytest.raises(UsageError, match="longer than 10,000 characters"):
        read_where(audit, "degraded or " * 1000 + "degraded")


@given(st.text(alphabet="()\"'\\`=!<>,. andorinkeyscoreul0.5\0\n\u00e9", max_size=40))
def test_no_text_does_anything_but_select_or_be_refused(text: str) -> None:
    table = pa.Table.from_pylist([{**ROWS[0], "part": 0, "row": 0}])
    try:
        where = parse_where(text, keep=["label"], rules=["arms"])
    except UsageError:
        return
    assert where.columns
    assert where.filter(table.select([*where.columns])).num_rows <= 1


def test_a_parquet_file_has_all_columns_and_a_list_the_keys(audit: Audit, tmp_path: Path) -> None:
    where = read_where(audit, '"arms" in rules')
    assert select(audit, where, tmp_path / "new/arms.parquet") == 3
    table = parquet.read_table(tmp_path / "new/arms.parquet")
    assert table.schema.names == next(iter(audit.rows())).schema.names
    assert table.schema.metadata[b"policyguard.audit.format"] == b"1"
    assert table["score"].to_pylist() == [0.95, 0.6, 0.8]
    assert select(audit, where, tmp_path / "arms.txt") == 3
    assert (tmp_path / "arms.txt").read_text() == "cats/a.png\ncats/b.png\ne.png\n"
    none = read_where(audit, "score > 1")
    assert select(audit, none, tmp_path / "none.parquet") == 0
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    with pytest.raises(UsageError, match=r"ends in none of \.txt, \.csv, \.jsonl and \.parquet"):
        select(audit, where, tmp_path / "arms.json")


def test_of_equal_bytes_the_first_alone_is_taken_over_all_parts(tmp_path: Path) -> None:
    same = "a" * 64
    parts = [
        [
            row("x", 0.9, sha256=same),
            row("a", sha256=same),
            row("b", sha256=same),
            unjudged("c", sha256=None),
        ],
        [row("d", sha256=same), row("e"), unjudged("f", sha256=None)],
    ]
    audit = Audit.open(write_rows(tmp_path / "audit", *parts))
    found: list[str] = []
    assert 4 == select(audit, read_where(audit, "score is null or score < 0.5"), found.append, once=True)
    assert ["a\n", "c\n", "e\n", "f\n"] == found


def test_a_table_says_what_was_found_and_why_not_more(tmp_path: Path) -> None:
    both = [{"rule": rule, "score": 0.9, "threshold": 0.5, "action": "block"} for rule in ("arms", "drugs")]
    rows = [row("=a.png", 0.9, rules=both), unjudged("b\n.png", reason="9 is 3 x 3 pixels"), row("c.png")]
    audit = Audit.open(write_rows(tmp_path / "audit", rows))
    where = read_where(audit, "score is null or score > 0.5")
    assert 2 == select(audit, where, tmp_path / "some.csv")
    assert (tmp_path / "some.csv").read_bytes().decode().split("\r\n") == [
        "key,action,outcome,rules,score,reason",
        '\'=a.png,block,violates,"arms, drugs",0.9,',
        "b\\n.png,block,unscannable,,,9 is 3 x 3 pixels",
        "",
    ]
    assert 2 == select(audit, where, tmp_path / "some.jsonl")
    first, second = map(json.loads, (tmp_path / "some.jsonl").read_text(encoding="utf-8").splitlines())
    assert ("=a.png", ["arms", "drugs"], 0.9, None) == tuple(
        first[name] for name in ("key", "rules", "score", "reason")
    )
    assert ("b\n.png", [], None) == (second["key"], second["rules"], second["score"])
    assert 0 == select(audit, read_where(audit, "row > 9"), tmp_path / "none.csv")
    assert b"key,action,outcome,rules,score,reason\r\n" == (tmp_path / "none.csv").read_bytes()


def test_a_name_with_a_line_break_is_refused_in_a_list_which_stays_as_it_was(tmp_path: Path) -> None:
    audit = Audit.open(write_rows(tmp_path / "audit", [row("a.png"), row("b\n/etc/passwd.png")]))
    (tmp_path / "list.txt").write_text("old\n")
    with pytest.raises(UsageError, match=r"the key 'b\\n/etc/passwd.png' holds a line break"):
        select(audit, read_where(audit, "row >= 0"), tmp_path / "list.txt")
    assert (tmp_path / "list.txt").read_text() == "old\n"
    assert select(audit, read_where(audit, "row >= 0"), tmp_path / "list.parquet") == 2


# The images themselves.


def image(number: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes([number])


def verdict(key: str) -> dict[str, Any]:
    return row(key, 0.9 if "bad" in key else 0.1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "deep/b.png", "bad.png", "deep/c.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(image(number))
    return tmp_path / "photos"


def spec(root: Path, *sources: str, **options: Any) -> Spec:
    return Spec(sources, str(root), **options)


def copied(audit: Audit, folder: Path, text: str = ALLOWED, **options: Any) -> Copied:
    return copy(audit, folder, read_where(audit, text), **options)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_what_is_allowed_is_copied_under_its_name(photos: Path, tmp_path: Path) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    done = copied(audit, tmp_path / "clean")
    assert (3, 0, []) == (done.counts["copied"], done.counts["failed"], done.problems)
    assert files(tmp_path / "clean") == {
        "photos/a.png": image(0), "photos/deep/b.png": image(1), "photos/deep/c.png": image(3)
    }  # fmt: skip
    assert (tmp_path / "clean/photos/a.png").stat().st_nlink == 1


_COPY = """
import sys
from pathlib import Path
from random import Random
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.select import copy, read_where
audit = Audit.open(sys.argv[1])
copy(audit, Path(sys.argv[2]), read_where(audit, "row >= 0"), link=sys.argv[3] == "True")
"""


@pytest.mark.parametrize("link", [False, True])
def test_a_copy_that_was_killed_goes_on(link: bool, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(400):
        (tmp_path / f"photos/{number}.png").write_bytes(image(number % 256) * 1000)
    audit = audit_of(tmp_path, spec(tmp_path, "photos", per_part=50), verdict)
    clean = tmp_path / "clean"
    with subprocess.Popen(
        [sys.executable, "-c", _COPY, str(tmp_path / "audit"), str(clean), str(link)]
    ) as process:
        wait_until(lambda: process.poll() is not None or len([*clean.glob("photos/*")]) >= 20)
        process.kill()
    before = {file: file.stat().st_mtime_ns for file in clean.glob("photos/*")}
    done = copied(audit, clean, link=link)
    assert len(before) == done.counts["there already"]
    assert 400 == done.counts["there already"] + done.counts["copied"]
    assert files(tmp_path / "photos") == files(clean / "photos")
    assert before.items() <= {file: file.stat().st_mtime_ns for file in clean.glob("photos/*")}.items()
    assert ["photos"] == [path.name for path in clean.iterdir()]
    linked = {path.stat().st_ino for path in (clean / "photos").iterdir()}
    assert linked.isdisjoint({path.stat().st_ino for path in (tmp_path / "photos").iterdir()}) is not link


def test_an_image_that_changed_since_it_was_judged_is_not_copied(photos: Path, tmp_path: Path) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    (photos / "a.png").write_bytes(image(99))
    (photos / "deep/b.png").unlink()
    for link in (False, True):
        done = copied(audit, tmp_path / "clean", link=link)
        assert sorted(done.problems) == [
            "photos/a.png: it has changed since it was judged",
            "photos/deep/b.png: No such file or directory",
        ]
        assert set(files(tmp_path / "clean")) == {"photos/deep/c.png"}


def test_what_stands_there_with_other_bytes_stays_and_is_named(photos: Path, tmp_path: Path) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    (tmp_path / "clean/photos").mkdir(parents=True)
    (tmp_path / "clean/photos/a.png").write_bytes(b"mine")
    done = copied(audit, tmp_path / "clean")
    (problem,) = done.problems
    assert problem.endswith("photos/a.png is there already and holds something else")
    assert (tmp_path / "clean/photos/a.png").read_bytes() == b"mine"
    assert (2, 1) == (done.counts["copied"], done.counts["failed"])


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    """The members of a tar that somebody else made."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/shard.tar", "w") as tar:
        for number, name in enumerate(
            ("../../a.png", "x/../../../b.png", "/../../../c.png", "fine/../ok.png")
        ):
            member = tarfile.TarInfo(name)
            member.size = len(image(number))
            tar.addfile(member, io.BytesIO(image(number)))
    audit = audit_of(tmp_path / "in", spec(tmp_path / "in", "shard.tar"))
    done = copied(audit, tmp_path / "out/clean")
    assert {"clean/shard.tar/ok.png": image(3)} == files(tmp_path / "out")
    assert {"in", "out"} == {path.name for path in tmp_path.iterdir()}
    assert 3 == done.counts["failed"]
    assert {"its name leads out of the folder"} == {problem.rpartition(": ")[2] for problem in done.problems}


def test_a_link_in_the_folder_is_not_followed(photos: Path, tmp_path: Path) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/photos").symlink_to(tmp_path / "elsewhere")
    done = copied(audit, tmp_path / "clean")
    assert 3 == done.counts["failed"]
    assert "is a link, and is not followed" in done.problems[0]
    assert {} == files(tmp_path / "elsewhere")


def test_a_source_that_was_named_from_above_is_copied_too(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    audit = audit_of(tmp_path / "work", spec(tmp_path / "work", "../photos"), verdict)
    done = copied(audit, tmp_path / "clean")
    assert set(files(tmp_path / "clean")) == {"photos/a.png", "photos/deep/b.png", "photos/deep/c.png"}
    assert 3 == done.counts["copied"]


def test_an_absolute_source_is_copied_below_the_folder(photos: Path, tmp_path: Path) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, str(photos)), verdict)
    assert 3 == copied(audit, tmp_path / "clean").counts["copied"]
    assert image(0) == (tmp_path / "clean" / str(photos / "a.png").lstrip("/")).read_bytes()


def test_a_link_in_the_source_is_copied_as_the_image_that_it_leads_to(photos: Path, tmp_path: Path) -> None:
    (photos / "linked.png").symlink_to("a.png")
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    for folder, link in (("copies", False), ("links", True)):
        copied(audit, tmp_path / folder, link=link)
        assert not (tmp_path / folder / "photos/linked.png").is_symlink()
        assert image(0) == (tmp_path / folder / "photos/linked.png").read_bytes()


def test_a_pipe_in_an_image_s_place_holds_nothing_up(photos: Path, tmp_path: Path) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    (photos / "a.png").unlink()
    os.mkfifo(photos / "a.png")
    assert ["photos/a.png: it is no file any more"] == copied(audit, tmp_path / "clean").problems


def parquet_source(folder: Path) -> Spec:
    table = pa.table({"image": [image(n) for n in range(4)], "label": ["x"] * 4})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=2)
    return spec(folder, "rows.parquet", keep=("label",))


def tar_source(folder: Path) -> Spec:
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for n in range(4):
            member = tarfile.TarInfo(f"{n}.png")
            member.size = len(image(n))
            tar.addfile(member, io.BytesIO(image(n)))
    return spec(folder, "shard.tar")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (parquet_source, ["rows.parquet/0.png", "rows.parquet/1.png", "rows.parquet/3.png"]),
        (tar_source, ["shard.tar/0.png", "shard.tar/1.png", "shard.tar/3.png"]),
    ],
)
def test_images_in_shards_are_copied_out_of_them(
    source: Callable[[Path], Spec], names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    audit = audit_of(tmp_path, source(tmp_path / "in"), lambda key: row(key, 0.9 if "2" in key else 0.1))
    done = copied(audit, tmp_path / "clean")
    assert files(tmp_path / "clean") == {
        name: image(number) for name, number in zip(names, (0, 1, 3), strict=True)
    }
    assert 3 == done.counts["copied"]
    assert 3 == copied(audit, tmp_path / "clean").counts["there already"]
    with pytest.raises(UsageError, match="is not made of files on this machine"):
        copied(audit, tmp_path / "links", link=True)


def test_a_shard_that_changed_gives_what_still_is_what_was_judged(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    audit = audit_of(tmp_path, tar_source(tmp_path / "in"))
    data = (tmp_path / "in/shard.tar").read_bytes()
    (tmp_path / "in/shard.tar").write_bytes(data.replace(image(1), image(77)))
    done = copied(audit, tmp_path / "clean")
    assert ["shard.tar/1.png: it has changed since it was judged"] == done.problems
    assert 3 == done.counts["copied"]
    (tmp_path / "in/shard.tar").unlink()
    assert 1 == len(copied(audit, tmp_path / "clean").problems)


def test_what_was_flagged_or_let_through_unjudged_is_counted(photos: Path, tmp_path: Path) -> None:
    kinds = {
        "a": lambda key: row(key, 0.9, action="flag"),
        "b": lambda key: unjudged(key, action="allow", degraded=True),
        "c": lambda key: row(key, partial=True),
    }
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), lambda key: kinds.get(Path(key).stem, verdict)(key))
    counts = copied(audit, tmp_path / "clean").counts
    assert {"copied": 3, "flagged": 1, "degraded": 1, "partial": 1} == {
        name: n for name, n in counts.items() if n
    }
    assert 1 == copied(audit, tmp_path / "strict", 'action == "allow" and not degraded').counts["copied"]


@pytest.mark.parametrize("inside", ["photos", "photos/new", "audit/clean"])
def test_a_folder_within_the_source_or_the_audit_is_refused(
    inside: str, photos: Path, tmp_path: Path
) -> None:
    audit = audit_of(tmp_path, spec(tmp_path, "photos"), verdict)
    with pytest.raises(UsageError, match="which belongs to the audit"):
        copied(audit, tmp_path / inside)


def _conditions(random: Random, depth: int = 0) -> tuple[str, str]:
    """A condition, and the same in SQL."""
    kind = random.randrange(3 if depth > 2 else 6)
    if kind == 3:
        text, sql = _conditions(random, depth + 1)
        return f"not {text}" if text.startswith(("(", "not")) else f"not ({text})", f"(NOT ({sql}))"
    if kind > 3:
        word = ("and", "or")[kind - 4]
        texts, sqls = zip(*(_conditions(random, depth + 1) for _ in range(random.randint(2, 3))), strict=True)
        return f"({f' {word} '.join(texts)})", f"({f' {word} '.join(sqls)})"
    if kind == 0:
        rule, inside = random.choice(["arms", "gore"]), random.random() < 0.5
        text = f'"{rule}" {"in" if inside else "not in"} rules'
        found = f"len(list_filter(rules, lambda r: r.rule = '{rule}')) > 0"
        return text, found if inside else f"NOT ({found})"
    if kind == 1:
        column = random.choice(["score", "closest.score", "row"])
        sign = random.choice(["==", "!=", "<", "<=", ">", ">="])
        number = random.choice([0, 2, 3] if column == "row" else [0, 0.2, 0.45, 0.5, 1])
        if random.random() < 0.25:
            return f"{column} is null", f"{column} IS NULL"
        return f"{column} {sign} {number}", f"{column} {sign.replace('==', '=')} {number}"
    column = random.choice(["keep_label", "key", "action"])
    word = random.choice(["cat", "cats/a.png"] if column != "action" else ["block", "flag"])
    negated = random.choice(["", "not "])
    return random.choice([
        (f'{column} == "{word}"', f"{column} = '{word}'"),
        (f'{column} contains "{word}"', f"contains({column}, '{word}')"),
        (f'{column} {negated}in ("{word}", "flag")', f"{column} {negated}IN ('{word}', 'flag')"),
    ])  # fmt: skip


def test_conditions_mean_what_they_mean_in_sql(audit: Audit) -> None:
    duckdb = pytest.importorskip("duckdb")
    random = Random(11)
    with duckdb.connect() as connection:
        connection.sql(f"CREATE TABLE rows AS SELECT * FROM '{audit.place.path('verdicts')}/*.parquet'")
        for _ in range(100):
            text, sql = _conditions(random)
            expected = connection.sql(f"SELECT key FROM rows WHERE {sql} ORDER BY row").fetchall()
            assert selected(audit, text) == [key for (key,) in expected], text
