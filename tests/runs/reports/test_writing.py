"""How every report is written: whole or not at all, in memory that does not grow, and always the same."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest

from policyguard.runs.reports import open_report, parse_report
from policyguard.runs.reports.registry import Reports
from policyguard.strict.files import write_report
from runs.reports.support import (
    FILES,
    ROOT_ALONE,
    STARTED,
    as_user,
    every_kind,
    image,
    many,
    open_to_all,
    run_info,
    stopped,
    summary_of,
    written,
)


def all_of(folder: Path, *, replaced: dict[str, str] | None = None) -> list[str]:
    paths = {kind: str(folder / kind) for kind in FILES} | (replaced or {})
    return [f"{kind}={path}" for kind, path in paths.items()]


def report_on(reports: Reports, number: int = 10) -> None:
    images = list(every_kind())[:number]
    reports.begin(run_info())
    for item in images:
        reports.add(item)
    reports.finish(summary_of(images))


@pytest.mark.parametrize("kind", FILES)
def test_equal_runs_give_equal_bytes(kind: str, tmp_path: Path) -> None:
    assert written(tmp_path, kind, every_kind(), **stopped()) == written(
        tmp_path, kind, every_kind(), **stopped()
    )


@pytest.mark.parametrize("kind", FILES)
def test_a_run_at_another_time_differs_in_its_times_alone(kind: str, tmp_path: Path) -> None:
    one = written(tmp_path, kind, every_kind()).splitlines()
    later = run_info(started=STARTED + timedelta(days=1, hours=1))
    other = written(tmp_path, kind, every_kind(), info=later).splitlines()
    changed = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    assert all("2027-03-0" in a and "2027-03-0" in b for a, b in changed)


def test_one_full_disk_is_one_line_and_the_others_are_written(tmp_path: Path) -> None:
    for full in FILES:
        specs = [parse_report(text) for text in all_of(tmp_path, replaced={full: "/dev/full"})]
        reports = Reports.open(specs, log=StringIO())
        report_on(reports)
        assert [f"the report {full}=/dev/full cannot be written: No space left on device"] == reports.problems
        assert set(FILES) - {full} == {path.name for path in tmp_path.iterdir()}
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_path_that_cannot_be_a_file_is_said_before_anything_is_checked(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    wrong = {"junit": str(tmp_path / "folder"), "sarif": str(tmp_path / "file" / "x")}
    reports = Reports.open(
        [parse_report(text) for text in all_of(tmp_path / "out", replaced=wrong)], log=StringIO()
    )
    assert [
        f"the report junit={wrong['junit']} cannot be written: Is a directory",
        f"the report sarif={wrong['sarif']} cannot be written: Not a directory",
    ] == reports.problems
    report_on(reports)
    assert set(FILES) - {"junit", "sarif"} == {path.name for path in (tmp_path / "out").iterdir()}


def test_a_folder_that_may_not_be_written_is_said_before_anything_is_checked() -> None:
    reports = Reports.open([parse_report("junit=/proc/report")], log=StringIO())  # root may not either
    (problem,) = reports.problems
    assert problem.startswith("the report junit=/proc/report cannot be written: ")


def test_a_write_that_fails_midway_leaves_the_old_report_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def chunks() -> Iterator[str]:
        yield "new" * 100_000
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_report(path, chunks())
    assert "old" == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_nothing_is_at_the_path_until_the_run_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    report = open_report(parse_report(f"json={path}"), log=StringIO())
    report.begin(run_info())
    report.add(image())
    assert "old" == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_a_report_keeps_its_file_s_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("")
    real.chmod(0o640)
    (tmp_path / "report-json").symlink_to(real)
    written(tmp_path, "json", [])
    assert (tmp_path / "report-json").is_symlink()
    assert 0o640 == stat.S_IMODE(real.stat().st_mode)


@ROOT_ALONE
def test_a_file_that_is_replaced_keeps_its_owner_and_group(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("old")
    os.chown(file, 12345, 23456)
    file.chmod(0o640)
    write_report(file, ["new"])
    kept = file.stat()
    assert ("new", 12345, 23456) == (file.read_text(), kept.st_uid, kept.st_gid)
    assert 0o640 == stat.S_IMODE(kept.st_mode)


@ROOT_ALONE
def test_who_may_not_give_a_file_back_to_its_owner_writes_it_all_the_same() -> None:
    """The group is kept by a member of it, though the owner cannot be."""
    with open_to_all() as folder:
        file = folder / "report.json"
        file.write_text("old")
        os.chown(file, 12345, 23456)
        as_user(34567, [23456], lambda: write_report(file, ["new"]))
        kept = file.stat()
        assert ("new", 34567, 23456) == (file.read_text(), kept.st_uid, kept.st_gid)


def access_list(user: int) -> bytes:
    """``u::rw-,u:USER:r--,g::---,m::r--,o::---``, as Linux keeps it."""
    entries = [(1, 6, -1), (2, 4, user), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def set_access_list(path: Path, kind: str, user: int) -> None:
    try:
        os.setxattr(path, f"system.posix_acl_{kind}", access_list(user))
    except (OSError, AttributeError) as error:
        pytest.skip(f"no access lists here: {error}")


def test_a_file_that_is_replaced_keeps_its_access_list(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("old")
    set_access_list(file, "access", 12345)
    write_report(file, ["new"])
    assert ("new", access_list(12345)) == (file.read_text(), os.getxattr(file, "system.posix_acl_access"))
    assert 0o640 == stat.S_IMODE(file.stat().st_mode)


def test_a_file_that_is_replaced_is_not_opened_to_those_of_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("old")
    file.chmod(0o640)
    set_access_list(tmp_path, "default", 12345)
    write_report(file, ["new"])
    assert ("new", []) == (file.read_text(), os.listxattr(file))
    assert 0o640 == stat.S_IMODE(file.stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    code = (
        "from io import StringIO\n"
        "from policyguard.runs.reports import open_report, parse_report\n"
        "from runs.reports.support import run_info, summary_of\n"
        "report = open_report(parse_report('gitlab=/dev/stdout'), log=StringIO())\n"
        "report.begin(run_info())\nreport.finish(summary_of([]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
    )
    assert ("[\n]\n", "") == (found.stdout, found.stderr)


def test_a_report_for_stdout_follows_what_is_printed_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    code = (
        "from pathlib import Path\nfrom policyguard.strict.files import write_report\n"
        "print('before', flush=True)\nwrite_report(Path('/dev/stdout'), ['report\\n'])\nprint('after')\n"
    )
    with path.open("w") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert "before\nreport\nafter\n" == path.read_text()


def test_a_report_that_is_dropped_leaves_nothing_behind(tmp_path: Path) -> None:
    specs = [parse_report(text) for text in all_of(tmp_path)]
    reports = Reports.open(specs, log=StringIO())
    reports.begin(run_info())
    for item in many(3000):
        reports.add(item)
    del reports
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [*FILES, "github"])
def test_memory_does_not_grow_with_the_number_of_images(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    spec = parse_report(kind if kind == "github" else f"{kind}={tmp_path / kind}")

    def peak(number: int) -> int:
        report = open_report(spec, log=StringIO())
        report.begin(run_info())
        tracemalloc.start()
        try:
            for item in many(number):
                report.add(item)
            report.finish(summary_of([]))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(1_500), peak(6_000)
    # The digest behind the job summary fills up to its limit, and stays there.
    assert large - small < 1_000_000 + (2_000_000 if kind == "github" else 0)


@pytest.mark.slow
def test_a_hundred_thousand_images_take_the_memory_of_five_thousand(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from io import StringIO\n"
        "from pathlib import Path\n"
        "from runs.reports.support import FILES, many, run_info, summary_of\n"
        "from policyguard.runs.reports.registry import Reports\n"
        "from policyguard.runs.reports import parse_report\n"
        "specs = [parse_report(f'{kind}={Path(sys.argv[2]) / kind}') for kind in FILES]\n"
        "reports = Reports.open([*specs, parse_report('github')], log=StringIO())\n"
        "reports.begin(run_info())\n"
        "for item in many(int(sys.argv[1])):\n"
        "    reports.add(item)\n"
        "reports.finish(summary_of([]))\n"
        "assert not reports.problems, reports.problems\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )

    def megabytes(number: int) -> int:
        command = [sys.executable, "-c", code, str(number), str(tmp_path)]
        tests = Path(__file__).parents[2]
        settings = {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
        settings["GITHUB_STEP_SUMMARY"] = str(tmp_path / f"summary-{number}")
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | settings)
        return int(done.stdout)

    small, large = megabytes(5_000), megabytes(100_000)
    assert large - small < 20, (small, large)
