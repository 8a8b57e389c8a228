"""What --report takes and refuses; a report that fails stops neither the run nor the others."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.runs.reports import FORMATS, ReportSpec, open_report, parse_report
from policyguard.runs.reports.registry import Reports
from runs.support import Recorded, check_project, pictures


@pytest.mark.parametrize("call", ["begin", "add", "finish"])
def test_a_report_on_a_full_disk_is_one_line_and_everything_else_is_done(
    project: Path, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "a.png", "b.png", "c.png")
    full, fine = Recorded(fails=call), Recorded()
    found = check_project(reports=Reports({"junit=x": full, "sarif=y": fine}))
    assert (ExitCode.USAGE, 3) == (found.code, len(found.verdicts))
    assert ["error: the report junit=x cannot be written: No space left on device"] == (
        capsys.readouterr().err.splitlines()
    )
    assert 3 == len(fine.images)
    assert fine.summary is not None


@pytest.mark.parametrize("call", ["begin", "add", "finish"])
@pytest.mark.parametrize("error", [KeyError("rule"), TypeError("None"), BrokenPipeError(32, "Broken pipe")])
def test_a_bug_in_one_report_stops_neither_the_run_nor_the_others(
    project: Path, call: str, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "a.png")
    pictures(project, "b.png", score=255)
    fine = Recorded()
    found = check_project(reports=Reports({"junit=x": Recorded(call, error), "sarif=y": fine}))
    assert (ExitCode.USAGE, 2, 2) == (found.code, len(found.verdicts), len(fine.images))
    assert fine.summary is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the report junit=x cannot be written: ")
    assert isinstance(error, OSError) is ("this is a bug in policyguard" not in line)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("junit=a.xml", ReportSpec("junit", Path("a.xml"))),
        ("html=out/a=b.html", ReportSpec("html", Path("out/a=b.html"))),
        ("html:thumbnails=a.html", ReportSpec("html", Path("a.html"), frozenset({"thumbnails"}))),
        ("github", ReportSpec("github")),
    ],
)
def test_a_report_is_a_format_and_a_file(text: str, spec: ReportSpec) -> None:
    assert spec == parse_report(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("junitt=a", "there is no report 'junitt': did you mean 'junit'?"),
        ("out/report.html", "there is no report 'out/report.html': did you mean html=out/report.html?"),
        ("report.XML", "there is no report 'report.XML': did you mean junit=report.XML?"),
        ("report.md", "did you mean markdown=report.md?"),
        ("report.txt", "known are junit, sarif"),
        ("=a", "there is no report '': known are junit, sarif"),
        ("junit", "the report 'junit' needs a file"),
        ("junit=", "the report 'junit' needs a file"),
        ("github=x", "the report 'github' goes to the log"),
        ("junit:thumbnails=a", "the report 'junit' has no option 'thumbnails': it has none"),
        ("html:pictures=a", "the report 'html' has no option 'pictures': it has thumbnails"),
        ("html=a\0b", "cannot go to a file with a NUL"),
    ],
)
def test_anything_else_is_a_mistake_that_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_report(text)
    assert said in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_can_be_opened(kind: str, tmp_path: Path) -> None:
    spec = parse_report(kind if kind == "github" else f"{kind}={tmp_path / 'new' / 'x'}")
    assert open_report(spec, log=StringIO())
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_reports_in_one_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    same = [parse_report(f"junit={tmp_path}/x"), parse_report(f"sarif={tmp_path}/link/x")]
    with pytest.raises(UsageError, match=r"the reports 'junit' and 'sarif' go to one file, '.*/link/x'"):
        Reports.open(same, log=StringIO())
    with pytest.raises(UsageError, match="the report 'github' is given twice"):
        Reports.open([parse_report("github")] * 2, log=StringIO())
