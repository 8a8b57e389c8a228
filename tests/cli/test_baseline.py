"""``policyguard baseline``: update and prune."""

from __future__ import annotations

from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from cli.support import picture
from policyguard.cli import main
from policyguard.runs.baseline import BASELINE_FILE, read_baseline
from policyguard.runs.exits import ExitCode
from runs.support import EXAMPLES, TODAY, accept, entry, git


@pytest.fixture
def pictograms(project: Path) -> Path:
    """A project that pico judges: one scene that violates, one that does not, one that cannot be judged."""
    (project / "policyguard.toml").write_text('policy = "pictosafe/l3"\n')
    for name in ("armoury.png", "picnic.png"):
        (project / name).write_bytes((EXAMPLES / name).read_bytes())
    return project


def test_update_accepts_what_check_blocks_and_check_is_green(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitCode.BLOCKED == main(["check"])
    update = ["baseline", "update", "--reason", "museum", "--until", str(TODAY), "--by", "Ann"]
    assert ExitCode.OK == main(update)
    assert ExitCode.OK == main(["check"])
    (kept,) = read_baseline(pictograms / BASELINE_FILE, today=TODAY).entries
    digest = sha256((EXAMPLES / "armoury.png").read_bytes()).hexdigest()
    assert ("armoury.png", digest, "Ann", "museum") == (kept.path, kept.sha256, kept.by, kept.reason)
    capsys.readouterr()
    assert ExitCode.OK == main(["baseline", "list"])
    assert f"of pictosafe/l3, until {TODAY}, by Ann: museum" in capsys.readouterr().out
    before = (pictograms / BASELINE_FILE).read_bytes()
    assert ExitCode.OK == main(update)
    assert before == (pictograms / BASELINE_FILE).read_bytes()


def test_update_does_not_accept_what_could_not_be_judged(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictograms / "broken.png").write_bytes(b"\x89PNG")
    code = main(["baseline", "update", "--reason", "x", "--until", str(TODAY), "--by", "Ann"])
    assert ExitCode.UNJUDGED == code
    assert "broken.png: could not be judged" in capsys.readouterr().err
    assert ExitCode.UNJUDGED == main(["check"])


def test_update_takes_the_name_from_git_or_asks_for_one(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update = ["baseline", "update", "--reason", "x", "--until", str(TODAY)]
    assert ExitCode.USAGE == main(update)
    assert "--by NAME" in capsys.readouterr().err
    git(pictograms, "init", "-q")
    git(pictograms, "config", "user.name", "Béa")
    assert ExitCode.OK == main(update)
    assert "Béa" == read_baseline(pictograms / BASELINE_FILE, today=TODAY).entries[0].by


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reason", "x", "--until", "soon"], "is not a date"),
        (["--reason", "x", "--until", str(date(2020, 1, 1))], "has passed already"),
        (["--reason", " ", "--until", str(TODAY)], "--reason is empty"),
    ],
)
def test_update_needs_a_reason_and_a_day_to_come(
    bad: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitCode.USAGE == main(["baseline", "update", *options, "--by", "Ann"])
    assert said in capsys.readouterr().err


def test_update_and_prune_do_not_write_over_a_file_they_cannot_read(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictograms / BASELINE_FILE).write_text("nonsense\n")
    update = ["baseline", "update", "--reason", "x", "--until", str(TODAY), "--by", "Ann"]
    for command in (update, ["baseline", "prune"], ["baseline", "list"]):
        assert ExitCode.USAGE == main(command)
        assert f"{BASELINE_FILE}:1: this line is not used" in capsys.readouterr().err
    assert "nonsense\n" == (pictograms / BASELINE_FILE).read_text()


def test_prune_drops_what_has_expired_and_what_is_gone(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sha256(picture(0)).hexdigest()
    accept(
        entry(),
        entry(path="gone.png", sha256="0" * 64),
        entry(path="good.png", sha256=good, until=TODAY - timedelta(days=1)),
    )
    assert ExitCode.OK == main(["baseline", "prune", "--dry-run"])
    assert 3 == len(read_baseline(bad / BASELINE_FILE, today=TODAY).entries)
    assert ExitCode.OK == main(["baseline", "prune"])
    assert (entry(),) == read_baseline(bad / BASELINE_FILE, today=TODAY).entries
    assert "dropped  gone.png" in capsys.readouterr().out
