"""``policyguard audit report``, ``select`` and ``copy`` as a shell sees them, on made-up verdicts."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from cli.support import Captured
from policyguard.cli import main
from policyguard.runs.audit.sources import Spec
from policyguard.runs.audit.where import parse_where
from policyguard.runs.exits import ExitCode
from runs.audit.support import parquet_of, tar_of
from support.audits import POLICY, audit_of, row, unjudged, write_rows

HIDDEN = "\x1b]0;owned\x07"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two images in one of two parts."""
    monkeypatch.chdir(tmp_path)
    rows = [row("a.png", 0.9), row(f"b{HIDDEN}.png", 0.2), unjudged("c.png")]
    write_rows(tmp_path / "audit", rows, missing=1)
    return "audit"


def test_a_report_is_written_and_summed_up(audit: str, capsys: Captured) -> None:
    assert main(["audit", "report", audit]) == ExitCode.OK
    said = capsys.readouterr()
    assert "3 images; 50% (9 to 91) of those judged violate the policy" in said.out
    assert "1 could not be judged; let through without being judged: 0" in said.out
    assert "arms: violated by 1, closest for 1 more" in said.out
    assert "note: 1 of 2 parts are not judged yet, and not in this" in said.err
    names = {"report.html", "report.json", "categories.png", "scores.png", "duplicates.csv"}
    assert names == {path.name for path in Path("audit/report").iterdir()}
    assert main(["audit", "report", audit, "--out", "elsewhere", "--format", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == json.loads(Path("elsewhere/report.json").read_text())


def test_a_sample_is_drawn_labelled_and_read_back(audit: str, capsys: Captured) -> None:
    assert main(["audit", "report", audit, "--sample", "10", "--labels", "labels.csv"]) == ExitCode.OK
    assert "3 rows to label are in labels.csv" in capsys.readouterr().err
    sheet = Path("labels.csv").read_text()
    assert HIDDEN not in sheet
    assert main(["audit", "report", audit, "--labels", "labels.csv"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "labels.csv: none of the 3 sampled images is labelled, so there are no figures yet" in said
    assert "–" not in said
    Path("labels.csv").write_text(sheet.replace(",,,n10s0", ",unsafe,,n10s0", 1))
    assert main(["audit", "report", audit, "--labels", "labels.csv"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "labels.csv: no figures yet; labelled: 1 of 3 sampled images" in said
    assert "–" not in said
    assert 2 == said.count("no label for: ")
    Path("labels.csv").write_text(sheet.replace(",,,n10s0", ",safe,,n10s0"))
    assert main(["audit", "report", audit, "--labels", "labels.csv"]) == ExitCode.OK
    assert "recall: – (no image is unsafe, by the labels)" in capsys.readouterr().out
    Path("labels.csv").write_text(sheet.replace(",,,n10s0", ",unsafe,,n10s0"))
    assert main(["audit", "report", audit, "--labels", "labels.csv"]) == ExitCode.OK
    assert (
        "precision: 100%\nrecall: 33.33%\nprevalence: 100%\nunsafe: 3 of 3 images" in capsys.readouterr().out
    )


def test_the_images_of_a_sample_are_put_beside_the_sheet_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    held = {f"{number}.png": PNG + bytes([number]) for number in range(5)}
    tar_of(tmp_path / "s.tar", [*held.items(), ("6.png", b"")])
    parquet_of(tmp_path / "p.parquet", {"image": [PNG + b"p"]})
    audit = audit_of(tmp_path, Spec(("s.tar", "p.parquet"), str(tmp_path)))
    rows = list(audit.rows(["sha256"]))
    assert sum(map(len, rows)) == 7
    (tmp_path / "s.tar").unlink()
    tar_of(tmp_path / "s.tar", [*held.items(), ("6.png", b"changed")])
    asked = ["audit", "report", "audit", "--sample", "7", "--labels", "sheets/labels.csv", "--images"]
    Path("sheets").mkdir()
    assert main([*asked, "to-label"]) == ExitCode.OK
    assert "note: 0" in (said := capsys.readouterr().err)
    assert said.count("it has changed since it was judged") == 1
    with Path("sheets/labels.csv").open(newline="", encoding="utf-8") as file:
        sheet = list(csv.DictReader(file))
    for number, line in enumerate(sheet, 1):
        if line["key"] == "s.tar/6.png":
            assert line["image"] == ""
        else:
            assert line["image"] == f"../to-label/{number:04}.png"
            data = (Path("sheets") / line["image"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == line["sha256"]
    filled = Path("sheets/labels.csv").read_text().replace(",,,n7s0,", ",safe,,n7s0,")
    Path("sheets/labels.csv").write_text(filled)
    assert main(["audit", "report", "audit", "--labels", "sheets/labels.csv"]) == ExitCode.OK
    Path("sheets/labels.csv").unlink()
    assert main([*asked, "to-label"]) == ExitCode.USAGE
    assert "to-label is not empty" in capsys.readouterr().err


def test_names_go_to_a_pipe_as_they_are_and_the_count_to_stderr(audit: str, capsys: Captured) -> None:
    assert main(["audit", "select", audit, "--where", "score < 0.5"]) == ExitCode.OK
    said = capsys.readouterr()
    assert f"b{HIDDEN}.png\n" == said.out
    assert "1 image\n" == said.err.partition("\n")[2]
    assert main(["audit", "select", audit, "--where", "degraded", "--out", "none.txt"]) == ExitCode.OK
    assert "" == Path("none.txt").read_text()


def test_what_is_listed_can_be_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        row("a", 0.7),
        row("b", 0.99, action="flag"),
        unjudged("c"),
        row("d", 0.8),
        row("e", 0.8),
        row("f"),
    ]
    write_rows(tmp_path / "audit", rows[:3], rows[3:])
    for order, expected in (("source", "abcdef"), ("worst", "deacbf"), ("score", "bdeafc")):
        assert main(["audit", "select", "audit", "--where", "row >= 0", "--order", order]) == ExitCode.OK
        assert expected == capsys.readouterr().out.replace("\n", ""), order


def test_what_is_allowed_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("a", "bad", "c"):
        Path(f"photos/{name}.png").write_bytes(PNG + name.encode())
    spec = Spec(("photos",), str(tmp_path))
    audit_of(tmp_path, spec, lambda key: row(key, 0.9 if "bad" in key else 0.1, partial="c" in key))
    assert main(["audit", "copy", "audit", "--allowed", "clean"]) == ExitCode.OK
    said = capsys.readouterr()
    assert ("2 copied, 0 there already, 0 failed\n", "note: 1 of them are judged in part\n") == said
    assert ["a.png", "c.png"] == sorted(path.name for path in Path("clean/photos").iterdir())
    Path("photos/a.png").write_bytes(PNG)
    assert main(["audit", "copy", "audit", "--allowed", "again", "--format", "json"]) == ExitCode.UNJUDGED
    said = capsys.readouterr()
    assert (1, 1) == tuple(json.loads(said.out)[name] for name in ("copied", "failed"))
    assert "error: photos/a.png: it has changed since it was judged" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "nowhere holds no audit"),
        (["report", "audit", "--sample", "5"], "--sample needs --labels"),
        (["report", "audit", "--labels", "labels.txt"], "labels.txt is no CSV"),
        (
            ["report", "audit", "--labels", "labels.csv", "--images", "x"],
            "--images needs --sample and --labels",
        ),
        (["report", "audit", "--labels", "none.csv"], "none.csv cannot be read"),
        (["report", "audit", "--prompt", "words"], "carries no column 'words'"),
        (["report", "audit", "--out", "audit/audit.json"], "audit/audit.json is a file"),
        (["select", "audit"], "which images?"),
        (["select", "audit", "--where", "scor > 1"], "did you mean score?"),
        (["select", "audit", "--where", "degraded", "--out", "x.xls"], "ends in none of .txt, .csv, "),
        (["copy", "audit", "clean"], "which images?"),
        (["copy", "audit", "clean", "--allowed", "--where", "degraded"], "which images?"),
        (["copy", "audit", "audit/clean", "--allowed"], "which belongs to the audit"),
        (["copy", "audit", "audit/audit.json", "--allowed"], "audit/audit.json is a file"),
    ],
)
def test_a_command_that_cannot_work_says_why_and_ends_in_2(
    arguments: list[str], message: str, audit: str, capsys: Captured
) -> None:
    assert main(["audit", *arguments]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_named(audit: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["audit", "report", audit]) == ExitCode.USAGE
    assert "install the extra 'audit'" in capsys.readouterr().err


PAGE = (Path(__file__).parents[2] / "docs/audit.md").read_text(encoding="utf-8")
WEAPONS = {**POLICY, "rules": [{"id": "weapons", "title": "Weapons", "status": "active", "threshold": 0.5}]}


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(6):
        Path(f"photos/{number}.png").write_bytes(PNG + bytes([number]))
    spec = Spec(("photos",), str(tmp_path))
    audit_of(
        tmp_path, spec, lambda key: row(key, int(key[7]) / 5, rule="weapons"), about={"policies": [WEAPONS]}
    )


def test_the_commands_in_the_docs_run(documented: None) -> None:
    section = PAGE.partition("## The report")[2]
    commands = re.findall(r"^policyguard (audit .*?)(?: +#.*)?$", section, re.MULTILINE)
    assert len(commands) == 12
    for command in commands:
        if "s3://" not in command:
            assert main(shlex.split(command)) == ExitCode.OK, command
        if "--sample" in command:
            Path("labels.csv").write_text(Path("labels.csv").read_text().replace(",,,n", ",safe,,n"))
    assert [
        "blocked.txt",
        "clean",
        "distinct",
        "labels.csv",
        "random",
        "random.csv",
        "to-label",
        "unjudged.csv",
        "weapons.csv",
    ] == sorted(path.name for path in Path().iterdir() if path.name not in ("audit", "photos"))


def test_the_script_in_the_docs_leaves_one_image_of_each_group(documented: None) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.partition("### Duplicates")[2], re.DOTALL)
    for name in ("1", "2", "3", "4"):
        Path(f"photos/{name}.png").write_bytes(PNG + (b"same" if name in "12" else name.encode()))
    shutil.rmtree("audit")
    hashes = {"photos/3.png": 0x123456789ABCDEF0, "photos/4.png": 0x123456789ABCDEF1}
    audit_of(Path(), Spec(("photos",), str(Path.cwd())), lambda key: row(key, 0.1, dhash=hashes.get(key)))
    assert main(["audit", "report", "audit"]) == ExitCode.OK
    assert main(["audit", "copy", "audit", "--allowed", "--once", "distinct"]) == ExitCode.OK
    assert ["0", "1", "3", "4", "5"] == sorted(path.stem for path in Path("distinct/photos").iterdir())
    exec(compile(script, "audit.md", "exec"), {})
    assert ["0", "1", "3", "5"] == sorted(path.stem for path in Path("distinct/photos").iterdir())


def test_the_conditions_in_the_docs_are_conditions() -> None:
    table = PAGE.partition("A condition compares")[2].partition("Carried columns")[0]
    found = re.findall(r"`([^`]*(?:[<>=]|in |is |with )[^`]*[^`=<>])`", table)
    assert len(found) >= 8
    for text in found:
        if " " in text and not re.fullmatch(r"is (not )?null|not in", text):
            parse_where(text, keep=["label"])


def test_the_lines_for_other_programs_in_the_docs_run(documented: None) -> None:
    pytest.importorskip("duckdb")
    pytest.importorskip("pandas")
    (block,) = re.findall(r"^```python\n(import duckdb.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(block, {})
