"""``policyguard cache`` and ``policyguard check --cache``."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from cli.support import Captured
from policyguard.assessment import Assessment, Rating
from policyguard.cache import SqliteCache
from policyguard.cache.codec import encode
from policyguard.cli import main
from policyguard.runs.exits import ExitCode

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "images")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    cache = SqliteCache(tmp_path / "verdicts.sqlite")
    for number in range(5):
        cache.put(f"{number:064x}", encode(Assessment(Rating.SAFE, number / 10)))
    cache.close()
    return cache.path


def test_info_shows_what_the_cache_holds(path: Path, capsys: Captured) -> None:
    assert ExitCode.OK == main(["cache", "info", str(path), "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert (str(path), 5, None) == (found["path"], found["entries"], found["problem"])
    assert ExitCode.OK == main(["cache", "info", str(path)])
    assert "entries: 5" in capsys.readouterr().out


def test_the_default_is_the_variable_and_then_the_user_s_cache_folder(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLICYGUARD_CACHE", str(path))
    assert ExitCode.OK == main(["cache", "info"])
    monkeypatch.delenv("POLICYGUARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ExitCode.USAGE == main(["cache", "info"])
    assert str(tmp_path / "policyguard" / "verdicts.sqlite") in capsys.readouterr().err
    SqliteCache(tmp_path / "policyguard" / "verdicts.sqlite").close()
    assert ExitCode.OK == main(["cache", "info"])


@pytest.mark.parametrize("action", ["info", "clear", "verify"])
def test_a_cache_that_is_not_there_is_a_mistake_and_none_is_made(
    action: str, tmp_path: Path, capsys: Captured
) -> None:
    assert ExitCode.USAGE == main(["cache", action, str(tmp_path / "none.sqlite")])
    assert "there is no verdict cache" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("action", ["info", "clear", "verify"])
def test_another_program_s_database_is_left_alone(action: str, tmp_path: Path, capsys: Captured) -> None:
    theirs = tmp_path / "app.db"
    with sqlite3.connect(theirs) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()
    before = theirs.read_bytes()
    assert ExitCode.USAGE == main(["cache", action, str(theirs)])
    assert "another program" in capsys.readouterr().err
    assert before == theirs.read_bytes()


def test_clear_deletes_all_entries(path: Path, capsys: Captured) -> None:
    assert ExitCode.OK == main(["cache", "clear", str(path), "--format", "json"])
    assert {"path": str(path), "removed": 5, "entries": 0} == json.loads(capsys.readouterr().out)
    assert ExitCode.OK == main(["cache", "verify", str(path)])


def test_verify_counts_damaged_entries_and_changes_nothing(path: Path, capsys: Captured) -> None:
    assert ExitCode.OK == main(["cache", "verify", str(path)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE verdicts SET value = CAST(replace(value, '0.1', '0.9') AS BLOB)")
    connection.close()
    capsys.readouterr()
    assert ExitCode.BLOCKED == main(["cache", "verify", str(path), "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert (5, 1) == (found["entries"], found["damaged"])


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_damaged_file_is_told_by_verify_and_replaced_by_no_command(
    size: int, path: Path, capsys: Captured
) -> None:
    os.truncate(path, size)
    data = path.read_bytes()
    assert ExitCode.BLOCKED == main(["cache", "verify", str(path)])
    assert "problem:" in capsys.readouterr().out
    assert ExitCode.USAGE == main(["cache", "clear", str(path)])
    assert "delete the file" in capsys.readouterr().err
    assert data == path.read_bytes()
    assert not list(path.parent.glob("*corrupt*"))


@pytest.mark.parametrize("action", ["info", "clear", "verify"])
def test_a_file_that_is_no_cache_is_left_alone(action: str, tmp_path: Path, capsys: Captured) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Read me\n")
    assert ExitCode.USAGE == main(["cache", action, str(readme)])
    assert "is not a verdict cache" in capsys.readouterr().err
    assert "# Read me\n" == readme.read_text()
    assert [readme] == list(tmp_path.iterdir())


def test_the_file_may_be_named_as_check_names_it(path: Path) -> None:
    for action in ("info", "verify", "clear"):
        assert ExitCode.OK == main(["cache", action, "--cache", str(path)])


def test_check_remembers_scores_in_the_file_that_it_is_given(tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("torch")
    image = str(next(Path(EXAMPLE).glob("*.png")))
    command = ["check", image, "-p", "pictosafe/l3", "-f", "json", "--cache", str(tmp_path / "v.sqlite")]
    found = []
    for _ in range(2):
        main(command)
        found.append(json.loads(capsys.readouterr().out)[0])
    assert [False, True] == [verdict["evidence"]["cached"] for verdict in found]
    assert found[0]["outcome"] == found[1]["outcome"]
    assert found[0]["score"] == found[1]["score"]
