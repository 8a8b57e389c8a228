"""What becomes of a part: its rows, what is damaged in it, and what is judged once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from cli.support import house_rules
from policyguard.assessment import Failure, FailureKind
from policyguard.errors import UsageError
from policyguard.runs.audit.rows import Audit, Place
from policyguard.runs.audit.run import Set, Work, drop_errors, left, local, resume, start
from policyguard.testing import FakeBackend
from runs.audit.support import (
    audited,
    backend,
    contents,
    counted,
    folder_of,
    keys,
    made_of,
    parquet_of,
    rows,
    run,
    shot,
    spec,
    tar_of,
)


def test_a_row_says_what_the_verdict_says(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(1, 255), shot(2, 51)])
    found, _ = audited(tmp_path / "out", spec("photos", root=tmp_path))
    worst, fine = found
    assert worst["rules"] == [{"rule": "arms", "score": 1.0, "threshold": 0.5, "action": "block"}]
    assert (worst["outcome"], worst["action"], worst["score"], worst["closest"]) == (
        "violates",
        "block",
        1.0,
        None,
    )
    assert (fine["outcome"], fine["rules"], fine["closest"]) == (
        "complies",
        [],
        {"rule": "arms", "score": 0.2},
    )
    assert (worst["policy"], len(worst["fingerprint"]), len(worst["sha256"])) == ("house", 64, 64)
    assert isinstance(worst["dhash"], int)


def test_alike_images_have_alike_hashes_and_others_have_not(tmp_path: Path) -> None:
    import io

    from PIL import Image as Pictures

    def gradient(turned: bool, quality: int) -> bytes:
        image = Pictures.linear_gradient("L").rotate(90 if turned else 270)
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    folder_of(tmp_path / "photos", [gradient(False, 95), gradient(False, 40), gradient(True, 95)])
    one, alike, other = (row["dhash"] for row in audited(tmp_path / "out", spec("photos", root=tmp_path))[0])
    assert (one ^ alike).bit_count() <= 8
    assert (one ^ other).bit_count() >= 48


def test_equal_bytes_are_judged_once_and_every_one_has_its_row(tmp_path: Path) -> None:
    asked: list[FakeBackend] = []

    def counting() -> FakeBackend:
        asked.append(backend())
        return asked[-1]

    folder_of(tmp_path / "photos", [shot(1), shot(2), shot(1), shot(1)])
    made = Set((house_rules().resolve(),), settings={"cache": "memory"}, backend=counting)
    audit = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=3), made)
    dones = list(local(Work(str(tmp_path / "out"), made), left(audit), lambda counts: None))
    found = rows(audit)
    assert [row["duplicate_of"] for row in found] == [None, None, "photos/00000.png", None]
    assert sum(len(one.requests) for one in asked) == 2
    assert counted(dones)["duplicates"] == 1
    assert found[0]["dhash"] == found[3]["dhash"] is not None
    same = ("outcome", "action", "score", "sha256", "dhash", "closest")
    assert [found[2][name] for name in same] == [found[0][name] for name in same]


def test_a_damaged_shard_keeps_what_was_read_and_says_what_was_not(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "s.tar", [(f"{n}.png", shot(n)) for n in range(4)]).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:2600])  # in the middle of the third member
    tar_of(tmp_path / "t.tar", [("x.png", shot(1))])
    found, dones = audited(tmp_path / "out", spec("s.tar", "t.tar", root=tmp_path))
    assert [(row["key"], row["outcome"]) for row in found] == [
        ("s.tar/0.png", "complies"),
        ("s.tar/1.png", "complies"),
        ("s.tar", "unscannable"),
        ("t.tar/x.png", "complies"),
    ]
    assert "damaged behind '1.png', and the rest of it was not judged" in found[2]["reason"]
    assert found[2]["action"] == "block"
    assert [line.partition(": the")[0] for done in dones for line in done.named] == ["part 0, row 2: s.tar"]


@pytest.mark.parametrize("tail", [b"x" * 1024, b"\0" * 512 + b"more"])
def test_what_follows_the_end_of_a_shard_is_not_passed_over(tmp_path: Path, tail: bytes) -> None:
    tar_of(tmp_path / "s.tar", [("a.png", shot(1))])
    with (tmp_path / "s.tar").open("ab") as file:
        file.write(tail)
    found, _ = audited(tmp_path / "out", spec("s.tar", root=tmp_path))
    assert [row["outcome"] for row in found] == ["complies", "unscannable"]


def test_a_shard_that_is_no_tar_and_one_cut_in_its_compression_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing like a tar" * 100)
    whole = tar_of(tmp_path / "b.tar.gz", [(f"{n}.png", os.urandom(999)) for n in range(9)], "w:gz")
    whole.write_bytes(whole.read_bytes()[:-4000])
    found, _ = audited(tmp_path / "out", spec("a.tar", "b.tar.gz", root=tmp_path))
    assert found[0]["key"] == "a.tar"
    assert found[-1]["key"] == "b.tar.gz"
    assert "the rest of it was not judged" in found[-1]["reason"]
    assert {row["action"] for row in found} == {"block"}


def test_a_row_group_that_cannot_be_read_is_a_row_and_the_others_are_judged(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "x.parquet", {"image": [os.urandom(400) for _ in range(4)]})
    data = bytearray(path.read_bytes())
    start_of_first = parquet.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data[start_of_first : start_of_first + 300] = b"\xff" * 300
    path.write_bytes(data)
    found, _ = audited(tmp_path / "out", spec("x.parquet", root=tmp_path))
    assert keys(found)[-2:] == ["x.parquet/2", "x.parquet/3"]
    assert found[0]["key"] == "x.parquet#group-0"
    assert "rows from 0 on of 2 cannot be read and were not judged" in found[0]["reason"]


def test_a_file_that_is_no_parquet_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but nothing else PAR1")
    found, _ = audited(tmp_path / "out", spec("x.parquet", root=tmp_path))
    assert [(row["key"], row["outcome"], row["action"]) for row in found] == [
        ("x.parquet", "unscannable", "block")
    ]


def test_a_shard_without_an_image_is_a_row_and_not_a_success(tmp_path: Path) -> None:
    tar_of(tmp_path / "s.tar", [("a.bin", shot(1)), ("a.json", b"{}")])
    found, _ = audited(tmp_path / "out", spec("s.tar", root=tmp_path, keep=("label",)))
    assert [(row["key"], row["action"], row["keep_label"]) for row in found] == [("s.tar", "block", None)]
    assert "no member of the shard is named like an image" in found[0]["reason"]


def test_links_in_a_shard_are_not_followed(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    found, _ = audited(tmp_path / "out", spec("s.tar", root=tmp_path))
    assert [(row["outcome"], row["sha256"]) for row in found] == [("unscannable", None)]


def test_a_key_that_stands_twice_in_a_shard_is_told_apart(tmp_path: Path) -> None:
    tar_of(tmp_path / "s.tar", [("a.png", shot(1)), ("a.png", shot(2, 255))])
    found, _ = audited(tmp_path / "out", spec("s.tar", root=tmp_path))
    assert [(row["key"], row["outcome"]) for row in found] == [
        ("s.tar/a.png", "complies"),
        ("s.tar/a.png#2", "violates"),
    ]


def test_a_part_whose_source_changed_is_left_and_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(n) for n in range(4)])
    audit = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=2), made_of())
    (tmp_path / "photos" / "00001.png").write_bytes(shot(99, 255))
    dones = run(audit)
    assert [done.failed for done in dones] == [
        "'photos/00001.png' changed since the manifest was made",
        None,
    ]
    assert left(audit) == [0]
    with pytest.raises(UsageError, match=r"the source changed .*: part 0 \('photos/00001.png' changed\)"):
        resume(audit, made_of())
    resume(audit, made_of(), accept_changed=True)
    run(audit, accept_changed=True)
    assert [row["outcome"] for row in rows(audit)] == ["complies", "violates", "complies", "complies"]


@pytest.mark.parametrize("change", ["gone", "new", "shard"])
def test_a_source_that_lost_or_gained_something_is_refused_by_name(tmp_path: Path, change: str) -> None:
    folder_of(tmp_path / "photos", [shot(n) for n in range(2)])
    tar_of(tmp_path / "s.tar", [("a.png", shot(1))])
    audit = start(tmp_path / "out", spec("photos", "s.tar", root=tmp_path), made_of())
    if change == "gone":
        (tmp_path / "photos" / "00001.png").unlink()
    elif change == "new":
        (tmp_path / "photos" / "new.png").write_bytes(shot(7))
    else:
        tar_of(tmp_path / "s.tar", [("a.png", shot(1)), ("b.png", shot(2)), *[("c.png", shot(3))] * 20])
    expected = {
        "gone": "'photos/00001.png' is gone",
        "new": "'photos/new.png' is new",
        "shard": "'s.tar' changed",
    }[change]
    with pytest.raises(UsageError, match=f"the source changed since the manifest was made.*{expected}"):
        resume(audit, made_of())


def test_an_audit_is_one_set_of_policies_one_model_and_one_source(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(1)])
    found = spec("photos", root=tmp_path)
    audit = start(tmp_path / "out", found, made_of())
    assert start(tmp_path / "out", found, made_of()).about == audit.about
    other = Set(
        (house_rules(defaults={"threshold": 0.9}).resolve(),), settings={"cache": None}, backend=backend
    )
    with pytest.raises(UsageError, match="the policies changed since the audit"):
        resume(audit, other)
    explaining = Set(made_of().policies, settings={"explain": True}, backend=backend)
    with pytest.raises(UsageError, match="--explain changed"):
        resume(audit, explaining)
    with pytest.raises(UsageError, match="was begun with other options"):
        start(tmp_path / "out", spec("photos", root=tmp_path, per_part=7), made_of())
    folder_of(tmp_path / "more", [shot(1)])
    with pytest.raises(UsageError, match="is an audit of photos"):
        start(tmp_path / "out", spec("more", root=tmp_path), made_of())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="lies in the source 'photos'"):
        start(tmp_path / "photos" / "out", found, made_of())
    with pytest.raises(UsageError, match="holds other files"):
        start(tmp_path / "full", found, made_of())


def test_a_file_of_verdicts_that_is_cut_short_or_of_another_audit_is_done_again(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(n) for n in range(6)])
    found = spec("photos", root=tmp_path, per_part=2)
    audit = start(tmp_path / "out", found, made_of())
    run(audit)
    before = dict(contents(tmp_path / "out"))
    files = sorted((tmp_path / "out" / "verdicts").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].write_bytes(files[2].read_bytes())
    assert left(audit) == [0, 1]
    resume(audit, made_of())
    assert len(rows(audit)) == 2
    run(audit)
    assert dict(contents(tmp_path / "out")) == before
    assert left(audit) == []


def test_rows_that_ended_in_an_error_can_be_judged_again(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(n) for n in range(4)])
    broken = FakeBackend(0.1).enqueue(Failure(FailureKind.ERROR, "the server is down", retryable=True))
    made = Set(made_of().policies, settings={"cache": None}, backend=lambda: broken)
    audit = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=2), made_of())
    broken.close = lambda: None  # type: ignore[method-assign]
    dones = list(local(Work(str(tmp_path / "out"), made), left(audit), lambda counts: None))
    assert dones[0].named == ["part 0, row 0: photos/00000.png: the server is down"]
    assert drop_errors(audit) == 1
    assert left(audit) == [0]
    run(audit)
    assert drop_errors(audit) == 0


def test_a_full_disk_stops_the_run_with_what_to_do_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "photos", [shot(n) for n in range(4)])
    audit = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=2), made_of())
    whole = Place.write

    def full(place: Place, name: str, data: bytes) -> None:
        if name.endswith("1.parquet"):
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(place, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(Place, "write", full)
        with pytest.raises(UsageError, match=r"no space is left for .*part-00000001") as caught:
            run(audit)
    assert "policyguard audit resume" in str(caught.value.hint)
    assert left(audit) == [1]
    run(audit)
    assert [row["row"] for row in rows(Audit.open(tmp_path / "out"))] == [0, 1, 0, 1]


def test_several_policies_name_their_rules(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(1, 255)])
    second: Any = house_rules(id="second")
    made = Set((house_rules().resolve(), second.resolve()), settings={"cache": None}, backend=backend)
    audit = start(tmp_path / "out", spec("photos", root=tmp_path), made)
    list(local(Work(str(tmp_path / "out"), made), [0], lambda counts: None))
    [row] = rows(audit)
    assert row["policy"] == "house, second"
    assert sorted(rule["rule"] for rule in row["rules"]) == ["house:arms", "second:arms"]
