"""The SQLite store: shared by processes, bounded, and whatever is damaged in it is a miss."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.support import assessment, picture, policy
from policyguard import Guard, Outcome
from policyguard.cache import SqliteCache
from policyguard.cache.codec import decode, encode
from policyguard.cache.file import _is_ours, _make
from policyguard.cache.upkeep import inspect
from policyguard.errors import ConfigurationError
from policyguard.testing import FakeBackend

Logs = pytest.LogCaptureFixture


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "verdicts.sqlite"


def filled(path: Path, count: int = 200) -> Path:
    cache = SqliteCache(path)
    for number in range(count):
        cache.put(key(number), encode(assessment(number / 1000, rationale=f"number {number}")))
    cache.close()
    return path


def test_what_is_put_is_got_also_by_the_next_process(path: Path) -> None:
    filled(path, 3)
    code = (
        "import sys; from policyguard.cache import SqliteCache; "
        "print(SqliteCache(sys.argv[1]).get(sys.argv[2]))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, path, key(2)], capture_output=True, text=True, check=True
    )
    assert encode(assessment(0.002, rationale="number 2")) == shown.stdout.strip()
    assert SqliteCache(path).get(key(3)) is None


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    cache = SqliteCache(path)
    cache.put(key(1), "{}")
    files = list(path.parent.iterdir())
    assert {"verdicts.sqlite", "verdicts.sqlite-wal", "verdicts.sqlite-shm"} == {file.name for file in files}
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in files}
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


def write_many(path: str, writer: int) -> None:
    cache = SqliteCache(path, busy_timeout=60.0)
    for number in range(200):
        cache.put(key(number), encode(assessment(number / 1000)))
        cache.put(key(1000 * (writer + 1) + number), encode(assessment(number / 1000)))
        found = cache.get(key(number))
        assert found is not None
        assert decode(found).p_unsafe == number / 1000
    cache.close()


def test_four_processes_write_at_once_and_nothing_is_lost(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(path), writer)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [0] * 4 == [writer.exitcode for writer in writers]
    found = inspect(path, thorough=True)
    assert (1000, 0, None) == (found.entries, found.damaged, found.problem)


def test_a_writer_that_is_killed_midway_leaves_a_sound_file(path: Path) -> None:
    code = (
        "import sys; from cache.test_sqlite import *\n"
        "cache = SqliteCache(sys.argv[1])\n"
        "for number in range(10**6):\n"
        "    cache.put(key(number), encode(assessment(0.1)))\n"
        "    if not number: print('on', flush=True)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, path], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cache = SqliteCache(path)
        assert cache.get(key(0)) == encode(assessment(0.1))
        cache.close()
        found = inspect(path, thorough=True)
        assert (0, None) == (found.damaged, found.problem)
        assert not list(path.parent.glob("*.corrupt-*"))


def test_entries_are_served_for_their_time_and_no_longer(path: Path) -> None:
    filled(path, 1)
    time.sleep(0.06)
    assert SqliteCache(path, ttl=None).get(key(0)) is not None
    assert SqliteCache(path, ttl=60.0).get(key(0)) is not None
    assert SqliteCache(path, ttl=0.05).get(key(0)) is None


def test_an_entry_from_the_future_is_not_served(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1e11)
        filled(path, 1)
    assert SqliteCache(path).get(key(0)) is None


def test_the_file_stays_within_its_bound_and_what_was_used_last_stays(path: Path) -> None:
    cache = SqliteCache(path, max_bytes=1 << 18)
    text = encode(assessment(0.1, rationale="x" * 900))
    for number in range(2000):
        cache.put(key(number), text)
    info = cache.info()
    assert 100 < info.entries < 300
    assert path.stat().st_size <= 1 << 19
    assert cache.get(key(1999)) == text
    assert cache.get(key(0)) is None


def test_clear_empties_the_file_and_gives_its_room_back(path: Path) -> None:
    cache = SqliteCache(filled(path, 500))
    assert 500 == cache.clear()
    assert (0, None) == (cache.info().entries, cache.get(key(1)))
    assert path.stat().st_size < 50_000


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 7)


def head(path: Path) -> None:
    os.truncate(path, 100)


def zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


def other_layout(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE verdicts ADD COLUMN more TEXT")
    connection.close()


def other_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def trigger(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON verdicts BEGIN DELETE FROM verdicts; END")
    connection.close()


DAMAGE = [truncate, head, zeros, other_layout, other_version, trigger]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_set_aside_and_begun_anew_with_one_warning(
    path: Path, damage: Callable[[Path], None], caplog: Logs
) -> None:
    damage(filled(path))
    cache = SqliteCache(path)
    for number in range(200):
        found = cache.get(key(number))
        assert found in (None, encode(assessment(number / 1000, rationale=f"number {number}")))
    cache.put(key(7), encode(assessment(0.7)))
    assert encode(assessment(0.7)) == cache.get(key(7))
    assert (path.parent / "verdicts.sqlite.corrupt-1").exists()
    assert 1 == sum("set aside" in record.message for record in caplog.records)
    assert 0 == inspect(path, thorough=True).damaged


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("content", [picture(), b"# Read me\n", b"SQLite format 3\0" + b"x" * 60, b"x"])
def test_a_file_that_is_no_cache_is_a_mistake_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is not a verdict cache"):
            Guard(policy(), backend=FakeBackend(), cache=path)
        with pytest.raises(ConfigurationError, match="is not a verdict cache"):
            inspect(path, thorough=True)
    assert {"photo.png": content} == files(tmp_path)


def test_a_database_with_a_table_of_the_same_name_is_another_program_s(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE verdicts (jury TEXT)")
    connection.close()
    before = files(tmp_path)
    with pytest.raises(ConfigurationError, match="another program"):
        SqliteCache(path)
    assert before == files(tmp_path)


def test_a_file_that_takes_the_cache_s_place_is_left_alone_and_the_check_goes_on(
    path: Path, caplog: Logs
) -> None:
    backend = FakeBackend(0.1)
    guard = Guard(policy(), backend=backend, cache=path)
    guard.check(picture())
    for side in path.parent.iterdir():
        side.unlink()
    path.write_bytes(b"a report of somebody else\n" * 100)
    assert Outcome.COMPLIES is guard.check(picture(1)).outcome
    assert {path.name: b"a report of somebody else\n" * 100} == files(path.parent)
    assert "is not a verdict cache" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_a_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    filled(path, 1).chmod(mode)
    with pytest.raises(ConfigurationError, match="forge"):
        SqliteCache(path)
    path.chmod(0o644)
    assert SqliteCache(path).get(key(0)) is not None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    os.chown(filled(path, 1), 12345, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        SqliteCache(path)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_never_alter_what_is_served(path: Path, seed: int, caplog: Logs) -> None:
    caplog.set_level(logging.CRITICAL)
    chance = random.Random(seed)
    data = bytearray(filled(path).read_bytes())
    for _ in range(chance.choice([1, 5, 50, 500])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    try:
        cache = SqliteCache(path)
    except ConfigurationError:
        return  # taken for another program's file: left alone, and said
    for number in range(200):
        found = cache.get(key(number))
        assert found in (None, encode(assessment(number / 1000, rationale=f"number {number}")))
    cache.put(key(3), encode(assessment(0.3)))


def test_a_row_that_was_altered_or_exchanged_is_dropped(path: Path, caplog: Logs) -> None:
    filled(path, 4)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE verdicts SET value = CAST(replace(value, '0.001', '0.999') AS BLOB) WHERE key = ?",
            (bytes.fromhex(key(1)),),
        )
        connection.execute(
            "UPDATE verdicts SET created = created + 5 WHERE key = ?", (bytes.fromhex(key(2)),)
        )
        other = connection.execute(
            "SELECT value, checksum FROM verdicts WHERE key = ?", (bytes.fromhex(key(0)),)
        ).fetchone()
        connection.execute(
            "UPDATE verdicts SET value = ?, checksum = ? WHERE key = ?", (*other, bytes.fromhex(key(3)))
        )
    connection.close()
    assert 3 == inspect(path, thorough=True).damaged
    cache = SqliteCache(path)
    assert [True, False, False, False] == [cache.get(key(number)) is not None for number in range(4)]
    assert 1 == cache.info().entries
    assert 1 == len(caplog.records)


@pytest.mark.parametrize(
    "change",
    [
        {"p_unsafe": 1.5},
        {"p_unsafe": -0.1},
        {"p_unsafe": "0.1"},
        {"p_unsafe": True},
        {"p_unsafe": float("nan")},
        {"p_unsafe": float("inf")},
        {"rating": "fine"},
        {"rating": None},
        {"rule_scores": {"arms": 2}},
        {"rule_scores": []},
        {"rule_scores": {"other": 1.0}},
        {"scoring": "guessed"},
        {"reading": "explain"},
        {"notes": "x"},
        {"more": 1},
        {"rationale": 3},
    ],
)
def test_an_entry_that_is_no_assessment_for_the_question_is_a_miss_for_the_guard(
    path: Path, change: dict[str, object]
) -> None:
    backend = FakeBackend(0.9)
    guard = Guard(policy(), backend=backend, cache=path)
    guard.check(picture())
    cache: SqliteCache = guard.backend.cache  # type: ignore[attr-defined]
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT key, value FROM verdicts").fetchall()
    connection.close()
    (name, value) = next((name, json.loads(value)) for name, value in rows if b"p_unsafe" in value)
    cache.put(name.hex(), json.dumps(value | change))  # with a right checksum
    verdict = guard.check(picture())
    assert (Outcome.VIOLATES, 0.9, False) == (verdict.outcome, verdict.score, verdict.cached)
    assert guard.check(picture()).cached
    assert 2 == backend.calls


def test_a_folder_and_another_program_s_database_are_mistakes_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a folder"):
        SqliteCache(tmp_path)
    theirs = tmp_path / "app.db"
    with sqlite3.connect(theirs) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()
    before = theirs.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        SqliteCache(theirs)
    assert before == theirs.read_bytes()
    assert [theirs] == list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_costs_the_cache_and_not_the_check(
    tmp_path: Path, caplog: Logs
) -> None:
    (tmp_path / "file").write_text("")
    guard = Guard(policy(), backend=FakeBackend(0.9), cache=tmp_path / "file" / "verdicts.sqlite")
    assert [Outcome.VIOLATES] * 3 == [guard.check(picture()).outcome for _ in range(3)]
    assert 1 == len(caplog.records)
    assert "checks go on without it" in caplog.text


def test_what_another_process_keeps_from_the_file_waits_in_memory_and_is_written_later(
    path: Path, caplog: Logs
) -> None:
    filled(path, 1)
    backend, cache = FakeBackend(0.9), SqliteCache(path, busy_timeout=0.01)
    guard = Guard(policy(), backend=backend, cache=cache)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert [Outcome.VIOLATES] * 3 == [guard.check(picture()).outcome for _ in range(3)]
    assert 1 == backend.calls
    assert not caplog.records
    holder.close()
    cache.close()
    assert 3 == inspect(path, thorough=True).entries
    assert not list(path.parent.glob("*.corrupt-*"))


def test_a_file_that_stays_locked_costs_what_waits_and_no_more(path: Path) -> None:
    filled(path, 1)
    cache = SqliteCache(path, busy_timeout=0.0)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for number in range(5000):
        cache.put(key(number), "{}")
    assert cache.get(key(4999)) == "{}"
    assert cache.get(key(1)) is None
    cache.close()
    holder.close()
    assert 1 == inspect(path, thorough=True).entries


def test_eight_processes_on_one_file_find_what_the_others_have_put(path: Path) -> None:
    """As eight runs over the same images would, each in an order of its own."""
    code = """
        import sys, time
        from policyguard.cache.sqlite import SqliteCache
        cache, hits = SqliteCache(sys.argv[1]), 0
        for step in range(400):
            name = f"{(step * 7 + int(sys.argv[2]) * 50) % 400:064x}"
            if cache.get(name) is None:
                time.sleep(0.005)  # a model's time
                cache.put(name, "{}")
            else:
                hits += 1
        cache.close()
        print(hits)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    workers = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True) for number in range(8)
    ]
    hits = [int(worker.communicate()[0]) for worker in workers]
    assert 400 == inspect(path, thorough=True).entries
    assert sum(hits) >= 0.6 * 8 * 400


def test_a_file_that_another_process_makes_into_a_cache_meanwhile_is_no_foreign_one(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    other = sqlite3.connect(path, isolation_level=None, timeout=0)

    def meanwhile(action: int, name: str | None, *_: object) -> int:
        if (
            action == sqlite3.SQLITE_PRAGMA and name == "user_version"
        ):  # the mark was read, the tables were not
            with contextlib.suppress(sqlite3.OperationalError):
                _make(other)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(meanwhile)
    assert _is_ours(connection) is False
    other.close()
    connection.set_authorizer(None)
    _make(connection)
    assert _is_ours(connection) is True
    connection.close()


def test_a_full_disk_costs_new_entries_and_not_the_check(path: Path, caplog: Logs) -> None:
    cache = SqliteCache(filled(path, 5))
    assert cache.get(key(1)) is not None
    assert cache._connection is not None
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")  # what a full disk looks like to SQLite
    cache.put(key(9), "x" * 60_000)
    assert "full" in caplog.text
    assert cache.get(key(9)) is None
    assert cache.get(key(1)) is not None


def test_a_file_that_was_deleted_or_replaced_is_begun_anew(path: Path) -> None:
    cache = SqliteCache(filled(path, 5))
    assert cache.get(key(1)) is not None
    for file in path.parent.iterdir():
        file.unlink()
    assert cache.get(key(1)) is None
    cache.put(key(1), "{}")
    assert "{}" == SqliteCache(path).get(key(1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_cache_that_nobody_closes_lets_go_of_its_file_quietly(path: Path) -> None:
    """One that is dropped, one in a circle, one that is there to the end."""
    code = """
        import gc, sys
        from policyguard.cache import SqliteCache
        caches = [SqliteCache(sys.argv[1]) for _ in range(3)]
        for number, cache in enumerate(caches):
            cache.put(f"{number:064x}", "{}")
        caches[1].itself = caches[1]
        del caches[:2], cache
        gc.collect()
    """
    command = [sys.executable, "-X", "dev", "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    assert 3 == inspect(path, thorough=True).entries


def test_a_forked_process_goes_on_without_a_file_that_was_in_use(path: Path) -> None:
    code = (
        "import os, sys; from cache.test_sqlite import *\n"
        "fresh, used = SqliteCache(sys.argv[1]), SqliteCache(sys.argv[1])\n"
        "assert used.get(key(1)) is not None\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(int(used.get(key(1)) is not None or fresh.get(key(1)) is None))\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "assert used.get(key(1)) is not None"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, filled(path, 3)], env=environment, check=True)


def test_names_that_cannot_be_a_cache_are_refused(tmp_path: Path) -> None:
    for name in ("", ":memory:", "redis://host/1", 7):
        with pytest.raises(ConfigurationError):
            Guard(policy(), backend=FakeBackend(), cache=name)  # type: ignore[arg-type]
