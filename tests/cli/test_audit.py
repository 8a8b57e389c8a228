"""``policyguard audit`` as a shell sees it, judged by pico."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cli.support import GOOD, Captured
from policyguard.cli import main
from policyguard.cli.audit import _go_on, _print_estimate, _so_far
from policyguard.cli.options import TextOrJson
from policyguard.runs.audit.parts import Done, Moved
from policyguard.runs.audit.run import Estimate, Work, _gpus, estimate, local, start
from policyguard.runs.exits import ExitCode, FailOn

pytest.importorskip("pyarrow")
pytest.importorskip("torch")
SCENES = Path(__file__).parents[2] / "examples" / "images"
BASIC = ("--policy", "pictosafe/l3", "--per-part", "2")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("armoury.png", "beach.png", "picnic.png"):
        shutil.copy(SCENES / name, tmp_path / "photos")
    return tmp_path


def test_an_audit_says_what_it_found_and_goes_on_where_it_stopped(here: Path, capsys: Captured) -> None:
    (here / "photos" / "broken.png").write_bytes(b"no image")
    assert main(["audit", "photos", *BASIC, "--out", "audit"]) == ExitCode.BLOCKED
    first = capsys.readouterr()
    assert "4 images in 2 of 2 parts" in first.out
    assert "outcomes: complies 2, unscannable 1, violates 1" in first.out
    assert "part 1, row 0: photos/broken.png" in first.err
    assert first.out.endswith("for a report: policyguard audit report audit\n")
    (here / "audit" / "verdicts" / "part-00000000.parquet").unlink()
    assert main(["audit", "resume", "audit", "--format", "json"]) == ExitCode.BLOCKED
    counts = json.loads(capsys.readouterr().out)
    assert (counts["rows"], counts["parts left"], counts["outcome violates"]) == (4, 0, 1)
    assert main(["audit", "photos", *BASIC, "--out", "audit", "--fail-on", "never"]) == ExitCode.OK
    assert "nothing was left to judge" in capsys.readouterr().out


def test_an_audit_runs_the_model_as_the_project_file_says_and_in_several_processes(
    here: Path, capsys: Captured
) -> None:
    """How many is a matter of the machine; how the model computes stays, and is not changed half-way."""
    file = here / "policyguard.toml"
    file.write_text('local = {dtype = "float32", attention = "eager", device = "cpu"}\n')
    asked = ["audit", "photos", *BASIC, "--out", "audit"]
    assert main([*asked, "--replicas", "2"]) == ExitCode.BLOCKED
    assert "outcomes: complies 2, violates 1" in capsys.readouterr().out
    about = json.loads((here / "audit" / "audit.json").read_text())
    assert (about["model"]["dtype"], about["model"]["settings"]) == ("float32", "attention=eager")
    assert "replicas" not in about["settings"]
    file.unlink()
    (here / "audit" / "verdicts" / "part-00000000.parquet").unlink()
    assert main(["audit", "resume", "audit"]) == ExitCode.BLOCKED
    file.write_text('local = {dtype = "float32", attention = "sdpa", device = "cpu"}\n')
    assert main(asked) == ExitCode.USAGE
    assert "the model changed since the audit" in capsys.readouterr().err


def test_ctrl_c_says_how_many_images_stay_judged_and_how_many_do_not(
    tmp_path: Path, capsys: Captured
) -> None:
    from runs.audit.support import folder_of, made_of, shot, spec

    folder_of(tmp_path / "photos", (shot(number) for number in range(7)))
    audit = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=3), made_of())
    work = Work(str(tmp_path / "out"), made_of())

    def stopped(work: Work, numbers: Sequence[int], moved: Moved) -> Iterator[Done]:
        judged = Counter[str]()

        def count(counts: Counter[str]) -> None:
            judged.update(counts)
            moved(counts)
            if judged["rows"] == 5:
                raise KeyboardInterrupt

        yield from local(work, numbers, count)

    with pytest.raises(KeyboardInterrupt):
        _go_on(audit, work, stopped, FailOn.BLOCK, TextOrJson.TEXT)
    said = capsys.readouterr().err
    assert "3 judged images stay, 2 of parts under way will be judged again; go on with: " in said
    _go_on(audit, work, local, FailOn.BLOCK, TextOrJson.TEXT)
    assert "7 images in 3 of 3 parts" in capsys.readouterr().out


def test_what_a_check_leaves_out_is_audited(here: Path, capsys: Captured) -> None:
    (here / ".policyguardignore").write_text("armoury.png\n")
    (here / "policyguard.toml").write_text('exclude = ["beach.png"]\n')
    assert main(["audit", "photos", *BASIC, "--out", "audit"]) == ExitCode.BLOCKED
    assert "3 images in 2 of 2 parts" in capsys.readouterr().out
    main(["audit", "select", "audit", "--where", 'not key startswith "photos/b"'])
    assert ["photos/armoury.png", "photos/picnic.png"] == capsys.readouterr().out.split()


def test_more_unjudged_images_than_are_named_are_counted_and_a_command_lists_them(
    here: Path, capsys: Captured
) -> None:
    for number in range(25):
        (here / "photos" / f"broken-{number:02}.png").write_bytes(b"no image")
    assert main(["audit", "photos", "--policy", "pictosafe/l3", "--out", "an audit"]) == ExitCode.BLOCKED
    said = capsys.readouterr().err
    assert said.count("note: part 0, row ") == 20
    command = said.partition("and 5 more could not be judged; this lists them: ")[2].splitlines()[0]
    assert main(shlex.split(command)[1:]) == ExitCode.OK
    assert [f"photos/broken-{number:02}.png" for number in range(25)] == capsys.readouterr().out.split()


def test_more_parts_left_than_are_named_are_counted(tmp_path: Path, capsys: Captured) -> None:
    from runs.audit.support import folder_of, made_of, shot, spec

    folder_of(tmp_path / "photos", (shot(number) for number in range(25)))
    audit = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=1), made_of())
    for file in (tmp_path / "photos").iterdir():
        file.write_bytes(b"changed")
    _go_on(audit, Work(str(tmp_path / "out"), made_of()), local, FailOn.BLOCK, TextOrJson.TEXT)
    said = capsys.readouterr().err
    assert said.count("is left: ") == 20
    assert "and 5 more parts are left" in said


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (None, ""),
        (0.372, "0.37/s, "),
        (9.96, "10/s, "),
        (178.4, "178/s, "),
        (1999.6, "2,000/s, "),
    ],
)
def test_a_running_audit_tells_a_slow_rate_and_what_could_not_be_judged(
    rate: float | None, shown: str
) -> None:
    counts = Counter({"rows": 9, "outcome violates": 4, "outcome complies": 4, "outcome undecided": 1})
    assert _so_far(counts, rate) == f"{shown}4 violate, 1 could not be judged"


def test_another_policy_is_another_audit_and_diff_compares_the_two(here: Path, capsys: Captured) -> None:
    main(["audit", "photos", *BASIC, "--out", "audit"])
    lax = ("--policy", "pictosafe/l1", "--per-part", "2")
    assert main(["audit", "photos", *lax, "--out", "audit"]) == ExitCode.USAGE
    assert "the policies changed since the audit in audit began" in capsys.readouterr().err
    assert main(["audit", "photos", *lax, "--out", "lax"]) == ExitCode.OK
    capsys.readouterr()
    assert main(["audit", "diff", "audit", "lax"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "3 images in both, 0 only before, 0 only after" in out
    assert "action block -> allow: 1" in out
    assert "more: --list" not in out
    assert main(["audit", "diff", "audit", "lax", "--list", "0"]) == ExitCode.OK
    assert "  and 1 more: --list 1 shows all" in capsys.readouterr().out
    assert "photos/armoury.png: block -> allow" in out
    assert main(["audit", "diff", "audit", "lax", "--format", "json"]) == ExitCode.OK
    compared = capsys.readouterr()
    assert json.loads(compared.out)["both"] == 3
    assert "not judged yet" not in compared.err
    (here / "lax" / "verdicts" / "part-00000000.parquet").unlink()
    assert main(["audit", "diff", "audit", "lax"]) == ExitCode.OK
    assert "lax: 1 of 2 parts are not judged yet, and not in this" in capsys.readouterr().err


def test_lists_of_the_project_file_count_in_an_audit_and_another_list_is_another_audit(
    here: Path, capsys: Captured
) -> None:
    pytest.importorskip("pdqhash")
    picnic = hashlib.sha256((here / "photos" / "picnic.png").read_bytes()).hexdigest()
    (here / "known.txt").write_text(f"sha256\n{picnic}\n")
    (here / "policyguard.toml").write_text('[[lists]]\nfile = "known.txt"\ndeny = "weapons"\n')
    assert main(["audit", "photos", *BASIC, "--out", "audit"]) == ExitCode.BLOCKED
    assert "violates 2" in capsys.readouterr().out
    (here / "audit" / "verdicts" / "part-00000001.parquet").unlink()
    assert main(["audit", "resume", "audit"]) == ExitCode.BLOCKED
    assert "violates 2" in capsys.readouterr().out
    (here / "known.txt").write_text(f"sha256\n{'0f' * 32}\n")
    assert main(["audit", "resume", "audit"]) == ExitCode.USAGE
    assert "the lists of known images changed" in capsys.readouterr().err


def test_resuming_takes_the_project_s_replicas_which_ray_refuses(here: Path, capsys: Captured) -> None:
    (here / "policyguard.toml").write_text("replicas = 2\n")
    begun = ["audit", "photos", *BASIC, "--out", "audit"]
    assert main([*begun, "--engine", "ray"]) == ExitCode.USAGE
    assert "Ray's workers are processes already" in capsys.readouterr().err
    assert main(begun) == ExitCode.BLOCKED
    (here / "audit" / "verdicts" / "part-00000000.parquet").unlink()
    assert main(["audit", "resume", "audit", "--engine", "ray"]) == ExitCode.USAGE
    assert "Ray's workers are processes already" in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(here: Path, capsys: Captured) -> None:
    assert main(["audit", "photos", *BASIC, "--dry-run", "--format", "json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["parts"], found["images"], found["sample"]) == (2, 3, 3)
    assert found["images per second"] > 0
    assert found["prompt tokens per image, without the image's own"] > 50
    assert (found["blocked in the sample"], found["flagged in the sample"]) == (1, 0)
    assert found["could not be judged in the sample"] == 0
    assert sorted(path.name for path in here.iterdir()) == ["photos"]


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_a_dry_run_without_a_gpu_knows_no_gpu_hours(here: Path, capsys: Captured, replicas: str) -> None:
    (here / "policyguard.toml").write_text('local = {device = "cpu"}\n')
    asked = ["audit", "photos", *BASIC, "--dry-run", "--replicas", replicas]
    assert main([*asked, "--format", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["GPU-hours"] is None
    assert main(asked) == ExitCode.OK
    assert (
        "GPU-hours: not known: no GPU judged the sample, so plan where there is one\n"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("found", "given", "said"),
    [
        (None, 0.0, "not known: the hours, times the GPUs that the model takes"),
        (None, 0.5, "1.0"),
        (0, 0.5, "1.0"),
        (4, 0.0, "8.0"),
    ],
)
def test_gpu_hours_are_those_of_the_gpus_that_judged_or_that_each_worker_is_given(
    capsys: Captured, found: int | None, given: float, said: str
) -> None:
    taken = Estimate(1, 7200, 64, 64, 0, 0, [], 1.0, 100.0, None, found)
    _print_estimate(taken, 1, given, TextOrJson.TEXT)
    assert f"hours: 2.0\nGPU-hours: {said}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "number"), [("cuda:0, cuda:1", 2), ("cuda", 1), ("cpu", 0), ("cpu, cuda:3", 1), ("", None)]
)
def test_the_gpus_that_judged_are_counted_by_their_names(device: str, number: int | None) -> None:
    assert _gpus(device) == number


def test_a_dry_run_tells_what_could_not_be_judged_from_what_is_blocked(here: Path, capsys: Captured) -> None:
    for number in range(5):
        (here / "photos" / f"broken-{number}.png").write_bytes(b"no image")
    asked = ["audit", "photos", *BASIC, "--dry-run"]
    assert main([*asked, "--format", "json"]) == ExitCode.OK
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["sample"], found["could not be judged in the sample"]) == (8, 5)
    assert found["blocked in the sample"] == 1
    assert "5 of the 8 images could not be judged: the speed is that of the other 3" in said.err
    assert "note: photos/broken-0.png: " in said.err


def test_a_dry_run_that_could_judge_nothing_knows_no_speed(here: Path, capsys: Captured) -> None:
    for image in (here / "photos").iterdir():
        image.write_bytes(b"no image")
    assert main(["audit", "photos", *BASIC, "--dry-run"]) == ExitCode.UNJUDGED
    said = capsys.readouterr()
    assert "images per second: not known\nhours: not known\n" in said.out
    assert "blocked in the sample: 0" in said.out
    assert "3 of the 3 images could not be judged, so no speed is known" in said.err


@pytest.mark.parametrize(
    ("sizes", "per_part", "judged"),
    [([200], 7, 64), ([60], 50, 60), ([300, 1, 1], 100, 64)],
)
def test_a_dry_run_judges_64_images_or_all_that_there_are(
    tmp_path: Path, sizes: list[int], per_part: int, judged: int
) -> None:
    from runs.audit.support import folder_of, made_of, shot, spec

    numbers = iter(range(1000))
    folders = [f"photos-{place}" for place in range(len(sizes))]
    for folder, size in zip(folders, sizes, strict=True):
        folder_of(tmp_path / folder, (shot(next(numbers)) for _ in range(size)))
    found = estimate(spec(*folders, root=tmp_path, per_part=per_part), made_of())
    assert (judged, judged) == (found.sample, found.judged)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "photos", *BASIC, "--dry-run", "--workers", "8"], "are for --engine ray"),
        (["audit", "photos", *BASIC, "--dry-run", "--gpus-per-worker", "1"], "are for --engine ray"),
        (["audit", "photos", "--out", "audit"], "no policy to judge images under"),
        (["audit", "photos", *BASIC], "where is the audit to be kept?"),
        (["audit", "nowhere", *BASIC, "--out", "audit"], "there is no 'nowhere'"),
        (["audit", "photos", *BASIC, "--out", "audit", "--workers", "2"], "are for --engine ray"),
        (["audit", "photos", *BASIC, "--out", "audit", "--replicas", "0"], "whole number of at least 1"),
        (
            ["audit", "photos", *BASIC, "--out", "audit", "--replicas", "2", "--engine", "ray"],
            "Ray's workers are processes already",
        ),
        (["audit", "resume", "photos"], "photos holds no audit"),
        (["audit", "diff", "photos", "photos"], "photos holds no audit"),
        (["audit", "photos", "--policy", "house.yaml", "--out", "audit"], "needs a guard model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_judged(
    here: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    (here / "house.yaml").write_text(GOOD)
    assert main(arguments) == ExitCode.USAGE
    assert message in capsys.readouterr().err
    assert not (here / "audit").exists()
