"""What an audit finds in each kind of source, and that nothing in it is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from policyguard.errors import UsageError
from policyguard.runs.audit.run import start
from policyguard.runs.audit.sources import plan
from runs.audit.support import audited, folder_of, keys, made_of, parquet_of, rows, run, shot, spec, tar_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_a_folder_is_cut_into_parts_of_its_files_in_order(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", (shot(number) for number in range(7)))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    notes: list[str] = []
    parts = list(plan(spec("photos", root=tmp_path, per_part=3), notes))
    assert [(part.number, part.kind, part.rows) for part in parts] == [
        (0, "files", 3),
        (1, "files", 3),
        (2, "files", 1),
    ]
    assert notes == ["skipped in 'photos': 1 file not named like an image (.txt)"]
    found, _ = audited(tmp_path / "out", spec("photos", root=tmp_path, per_part=3))
    assert keys(found) == [f"photos/{number:05}.png" for number in range(7)]


def test_parts_are_small_at_first_and_grow_with_what_came_before(tmp_path: Path) -> None:
    """A stop then costs at most 50 images, or a tenth of those before, or 1,000."""
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{n}.png\n" for n in range(30_000)))
    sizes = [part.rows for part in plan(spec("list.csv", root=tmp_path), [])]
    assert sizes[:11] == [50] * 11
    assert sum(sizes) == 30_000
    assert max(sizes) == sizes[-2] == 1000
    assert all(size <= max(50, sum(sizes[:n]) // 10) for n, size in enumerate(sizes))
    assert {1000} == {part.rows for part in plan(spec("list.csv", root=tmp_path, per_part=1000), [])}


def test_the_same_command_goes_on_with_parts_of_the_size_that_the_audit_was_begun_with(
    tmp_path: Path,
) -> None:
    folder_of(tmp_path / "photos", (shot(number) for number in range(5)))
    begun = start(tmp_path / "out", spec("photos", root=tmp_path, per_part=2), made_of())
    again = start(tmp_path / "out", spec("photos", root=tmp_path), made_of())
    assert (list(begun.parts()), 3) == (list(again.parts()), len(list(again.parts())))
    with pytest.raises(UsageError, match="begun with other options"):
        start(tmp_path / "out", spec("photos", root=tmp_path, per_part=3), made_of())


def test_patterns_and_braces_name_files_and_shards(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", [shot(1)])
    folder_of(tmp_path / "b", [shot(2)])
    for name in ("000", "001", "002"):
        tar_of(tmp_path / f"{name}.tar", [("x.png", shot(int(name)))])
    parts = plan(spec("{a,b}/*.png", "00{0..1}.tar", root=tmp_path), [])
    assert [(part.kind, part.location) for part in parts] == [
        ("files", "a/*.png"),
        ("tar", "000.tar"),
        ("tar", "001.tar"),
    ]
    found = plan(spec("*.tar", root=tmp_path), [])
    assert [part.location for part in found] == ["000.tar", "001.tar", "002.tar"]


def test_an_image_named_by_two_sources_is_judged_once(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(1), shot(2)])
    found, _ = audited(tmp_path / "out", spec("photos", "photos/00001.png", root=tmp_path))
    assert keys(found) == ["photos/00000.png", "photos/00001.png"]


def test_an_image_of_a_folder_that_a_list_names_too_is_judged_once(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(1), shot(2)])
    (tmp_path / "list.csv").write_text("path\nphotos/00001.png\nphotos/../photos/00000.png\n")
    notes: list[str] = []
    parts = list(plan(spec("photos", "list.csv", root=tmp_path), notes))
    assert [[item.path for item in part.items] for part in parts] == [
        ["photos/00000.png", "photos/00001.png"],
        ["photos/../photos/00000.png"],
    ]
    assert notes == [
        "list.csv: row 0 names 'photos/00001.png' again (another source did); each is judged once"
    ]


def test_a_list_that_cannot_be_read_to_its_end_is_refused_by_name(tmp_path: Path) -> None:
    names = [f"photos/{number}.png" for number in range(5000)]
    path = parquet_of(tmp_path / "x.parquet", {"path": names}, rows_per_group=1000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    path.write_bytes(data)
    with pytest.raises(UsageError, match="the source cannot be listed"):
        list(plan(spec("x.parquet", root=tmp_path), []))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_every_image_of_a_tar_shard_is_a_row_with_the_fields_of_its_sample(tmp_path: Path, mode: str) -> None:
    name = "s.tar" if mode == "w" else "s.tar.gz"
    members = [
        ("a.png", shot(1)),
        ("a.json", b'{"prompt": "a cat", "n": 3}'),
        ("a.cls", b"7\n"),
        ("b.cls", b"8"),
        ("b.left.png", shot(2)),
        ("b.right.jpg", b"no image at all"),
    ]
    tar_of(tmp_path / name, members, mode)
    found, _ = audited(tmp_path / "out", spec(name, root=tmp_path, keep=("prompt", "n", "cls")))
    assert keys(found) == [f"{name}/a.png", f"{name}/b.left.png", f"{name}/b.right.jpg"]
    assert [(row["keep_prompt"], row["keep_n"], row["keep_cls"]) for row in found] == [
        ("a cat", "3", "7"),
        (None, None, "8"),
        (None, None, "8"),
    ]
    assert [row["outcome"] for row in found] == ["complies", "complies", "unscannable"]


def test_parquet_holds_bytes_structs_or_paths(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(9)])
    parquet_of(tmp_path / "bytes.parquet", {"jpg": [shot(n) for n in range(5)], "label": [*"abcde"]})
    structs = [{"bytes": shot(1), "path": "x.png"}, {"bytes": None, "path": "photos/00000.png"}]
    structs += [{}, {"bytes": None, "path": str(tmp_path / "photos/00000.png")}]
    parquet_of(tmp_path / "structs.parquet", {"image": structs, "label": [1, 2, 3, 4]})
    parquet_of(tmp_path / "paths.parquet", {"path": ["photos/00000.png"], "label": ["x"]})
    names = ("bytes.parquet", "structs.parquet", "paths.parquet")
    found, _ = audited(tmp_path / "out", spec(*names, root=tmp_path, keep=("label",)))
    assert [(row["key"], row["outcome"], row["keep_label"]) for row in found] == [
        *((f"bytes.parquet/{n}", "complies", "abcde"[n]) for n in range(5)),
        ("structs.parquet/0", "complies", "1"),
        ("structs.parquet/1", "complies", "2"),
        ("structs.parquet/2", "unscannable", "3"),
        ("structs.parquet/3", "unscannable", "4"),
        ("photos/00000.png", "complies", "x"),
    ]
    parts = plan(spec("bytes.parquet", root=tmp_path), [])
    assert [(part.first, part.rows, part.group) for part in parts] == [(0, 2, 0), (2, 2, 1), (4, 1, 2)]


def test_lists_name_images_from_their_own_folder_each_once(tmp_path: Path) -> None:
    folder_of(tmp_path / "data" / "photos", [shot(1), shot(2, 255)])
    names = ["photos/00000.png", "photos/00001.png", "photos/00000.png", "absent.png"]
    lines = [json.dumps({"file_name": name, "prompt": f"no {n}"}) for n, name in enumerate(names)]
    (tmp_path / "data" / "list.jsonl").write_text("\n".join(lines))
    header = "path,prompt\n"
    (tmp_path / "data" / "list.csv").write_text(
        header + "".join(f"{name},no {n}\n" for n, name in enumerate(names))
    )
    for name in ("data/list.jsonl", "data/list.csv"):
        notes: list[str] = []
        found = spec(name, root=tmp_path, keep=("prompt",))
        list(plan(found, notes))
        assert notes == [f"{name}: row 2 names 'photos/00000.png' again (row 0 did); each is judged once"]
        judged, _ = audited(tmp_path / f"out-{name[-3:]}", found)
        assert [(row["key"], row["outcome"], row["keep_prompt"]) for row in judged] == [
            ("data/photos/00000.png", "complies", "no 0"),
            ("data/photos/00001.png", "violates", "no 1"),
            ("data/absent.png", "unscannable", "no 3"),
        ]
        assert "there is no such file" in judged[-1]["reason"]


def test_a_data_set_saved_on_disk_is_read_split_by_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    columns = {"image": [{"bytes": shot(n), "path": None} for n in range(5)], "label": list(range(5))}
    train = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": train, "test": train.select([1])}).save_to_disk(tmp_path / "set")
    found, _ = audited(tmp_path / "out", spec("set", root=tmp_path, keep=("label",)))
    assert [row["keep_label"] for row in found] == ["0", "1", "2", "3", "4", "1"]
    assert keys(found)[:1] == ["set/train/data-00000-of-00001.arrow/0"]
    assert {row["outcome"] for row in found} == {"complies"}


def test_an_object_store_holds_the_source_and_the_audit(tmp_path: Path) -> None:
    import fsspec

    store, bucket = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    for number in range(3):
        store.pipe(f"{bucket}/photos/{number}.png", shot(number))
    tar_of(tmp_path / "s.tar", [("x.png", shot(7, 255))])
    store.pipe(f"{bucket}/s.tar", (tmp_path / "s.tar").read_bytes())
    url = f"memory://{tmp_path.name}"
    found, dones = audited(f"{url}/out", spec(f"{url}/photos", f"{url}/*.tar", root=tmp_path, per_part=2))
    assert keys(found) == [*(f"{url}/photos/{n}.png" for n in range(3)), f"{url}/s.tar/x.png"]
    assert [row["outcome"] for row in found] == [*["complies"] * 3, "violates"]
    assert len(dones) == 3


def test_addresses_are_fetched_only_if_asked_and_only_by_the_careful_fetcher(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url\nhttps://127.0.0.1/a.png\n")
    left_alone, _ = audited(tmp_path / "out", spec("list.csv", root=tmp_path))
    assert [(row["outcome"], row["action"]) for row in left_alone] == [("unscannable", "block")]
    assert "nothing is fetched unless --fetch is given" in left_alone[0]["reason"]
    refused, _ = audited(tmp_path / "fetched", spec("list.csv", root=tmp_path, fetch=True))
    assert [(row["outcome"], row["action"]) for row in refused] == [("error", "block")]
    assert "not public" in refused[0]["reason"]


def test_a_name_that_is_not_utf8_is_judged_and_its_key_is_written_as_an_escape(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / "photos" / name).write_bytes(shot(1))
    except OSError:
        pytest.skip("this file system takes no such name")
    found, _ = audited(tmp_path / "out", spec("photos", root=tmp_path))
    assert [(row["key"], row["outcome"]) for row in found] == [("photos/caf\\udce9.png", "complies")]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "there is no 'nowhere'"),
        ("empty", {}, "neither images nor shards found in folder 'empty'"),
        ("photos", {"keep": ("label",)}, "'photos' has no columns to keep"),
        ("bad.csv", {}, r"bad\.csv:3: has not as many fields as the header"),
        ("bad.jsonl", {}, r"bad\.jsonl:2: "),
        ("none.csv", {}, "none.csv: row 1 names no image"),
        ("odd.parquet", {}, r"no column is named like one with images; there are number"),
        (
            "good.csv",
            {"column": "url"},
            "--column names 'url', which is no column it can use; there are path",
        ),
        ("good.csv", {"keep": ("label",)}, "--keep names 'label'"),
    ],
)
def test_a_source_that_cannot_be_planned_is_refused_before_anything_is_judged(
    tmp_path: Path, source: str, options: dict[str, object], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    folder_of(tmp_path / "photos", [shot(1)])
    (tmp_path / "bad.csv").write_text("path,n\na.png,1\nb.png\n")
    (tmp_path / "bad.jsonl").write_text('{"path": "a.png"}\n{"path"\n')
    (tmp_path / "none.csv").write_text('path\na.png\n""\n')
    (tmp_path / "good.csv").write_text("path\nphotos/00000.png\n")
    parquet_of(tmp_path / "odd.parquet", {"number": [1]})
    with pytest.raises(UsageError, match=message):
        start(tmp_path / "out", spec(source, root=tmp_path, **options), made_of())
    assert not (tmp_path / "out" / "audit.json").exists()


def test_keys_do_not_depend_on_the_folder_that_the_process_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "photos", [shot(1)])
    audit = start(tmp_path / "out", spec("./photos/", root=tmp_path), made_of())
    monkeypatch.chdir("/")
    run(audit)
    assert keys(rows(audit)) == ["photos/00000.png"]


def test_a_column_of_large_binaries_holds_images_too(tmp_path: Path) -> None:
    column = pa.array([shot(1)], pa.large_binary())
    parquet_of(tmp_path / "x.parquet", {"picture_data": column})
    found, _ = audited(tmp_path / "out", spec("x.parquet", root=tmp_path))
    assert [row["outcome"] for row in found] == ["complies"]


def test_a_carried_text_that_is_no_utf_8_is_written_with_escapes(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", [shot(1)])
    (tmp_path / "x.jsonl").write_text('{"path": "photos/00000.png", "label": "\\ud800 cat"}\n')
    found, _ = audited(tmp_path / "out", spec("x.jsonl", root=tmp_path, keep=("label",)))
    assert [row["keep_label"] for row in found] == [r"\ud800 cat"]
