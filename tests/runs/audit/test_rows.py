"""The rows and the folder of an audit, as other programs read them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import compute, parquet

from policyguard.errors import ConfigurationError, UsageError
from policyguard.runs.audit.rows import FORMAT, Audit, Item, Part, Place, open_filesystem, schema, write_parts


def audit(folder: str | Path, *, parts: int = 2, keep: tuple[str, ...] = ("label",)) -> Audit:
    """An audit of ``parts`` parts of three rows each, all done."""
    place = Place(folder)
    listed = [
        Part(number, "files", "photos", 3 * number, 3, fingerprint=f"f{number}", items=(Item("a.png", 1, 2),))
        for number in range(parts)
    ]
    assert write_parts(place, iter(listed)) == (parts, 3 * parts)
    for part in listed:
        rows = [
            dict.fromkeys(schema(keep).names)
            | {"key": f"{part.number}/{row}.png", "part": part.number, "row": row, "policy": "house"}
            | {"fingerprint": "00", "outcome": "complies", "action": "allow", "rules": []}
            | {"degraded": False, "partial": False, "seconds": 0.5, "score": row / 2, "keep_label": "cat"}
            for row in range(3)
        ]
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows, schema(keep)), buffer)
        place.write(part.file, buffer.getvalue())
    names = ("mark", "source", "policies", "model", "settings", "counts")
    about = {"format": FORMAT, "options": {"keep": list(keep)}, **dict.fromkeys(names)}
    place.write("audit.json", json.dumps(about).encode())
    return Audit.open(folder)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "audit") if request.param == "disk" else f"memory://{tmp_path.name}/audit"


def test_rows_come_in_the_order_of_their_parts_wherever_the_folder_is(folder: str) -> None:
    read = pa.Table.from_batches(audit(folder, parts=12).rows(["part", "row"])).to_pylist()
    assert read == [{"part": part, "row": row} for part in range(12) for row in range(3)]


def test_columns_and_rows_can_be_chosen(folder: str) -> None:
    opened = audit(folder)
    rows = pa.Table.from_batches(opened.rows(["key", "keep_label"], where=compute.field("score") == 0.5))
    assert rows.to_pylist() == [{"key": f"{n}/1.png", "keep_label": "cat"} for n in range(2)]


def test_every_part_comes_back_as_it_was_written_and_by_its_number(folder: str) -> None:
    opened = audit(folder, parts=35)
    parts = list(opened.parts())
    assert [part.number for part in parts] == list(range(35))
    assert (
        parts[20]
        == opened.part(20)
        == Part(20, "files", "photos", 60, 3, None, "f20", (Item("a.png", 1, 2),))
    )


def test_a_part_without_a_file_has_no_rows(tmp_path: Path) -> None:
    opened = audit(tmp_path)
    (tmp_path / opened.part(0).file).unlink()
    assert pa.Table.from_batches(opened.rows(["part"])).column("part").to_pylist() == [1, 1, 1]


def test_a_folder_without_an_audit_and_one_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no audit: there is no audit\.json"):
        Audit.open(tmp_path)
    (tmp_path / "audit.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="is an audit of format 99, and this version reads format 1"):
        Audit.open(tmp_path)
    (tmp_path / "audit.json").write_text('{"format": 1, "options": {}}')
    with pytest.raises(UsageError, match="lacks mark, source, policies"):
        Audit.open(tmp_path)
    (tmp_path / "audit.json").write_text('{"format"')
    with pytest.raises(UsageError, match="cannot be read"):
        Audit.open(tmp_path)


def test_an_unknown_kind_of_store_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match="nosuch") as caught:
        open_filesystem("nosuch://bucket/x")
    assert "fsspec" in str(caught.value.hint)


def test_duckdb_pandas_and_polars_read_the_rows_in_a_line_each(tmp_path: Path) -> None:
    audit(tmp_path)
    files = f"{tmp_path}/verdicts/*.parquet"
    import duckdb
    import pandas as pd
    import polars as pl

    assert duckdb.sql(f"SELECT count(*) FROM '{files}'").fetchall() == [(6,)]
    assert len(pd.read_parquet(f"{tmp_path}/verdicts")) == 6
    assert pl.read_parquet(files).height == 6


def test_a_key_in_the_address_of_a_store_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match=r"s3://\*\*\*@bucket/x holds a key") as caught:
        open_filesystem("s3://id:secret@bucket/x")
    assert "secret" not in str(caught.value)
