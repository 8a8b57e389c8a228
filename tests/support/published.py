"""Files in the formats in which data sets are published, made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parquet(path: Path, rows: list[dict[str, Any]], classes: dict[str, list[str]] | None = None) -> Path:
    """A parquet file as ``datasets`` writes it. ``classes``: names for columns of numbered classes."""
    import pyarrow as pa
    from pyarrow import parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if classes:
        features = {name: {"names": names, "_type": "ClassLabel"} for name, names in classes.items()}
        told = json.dumps({"info": {"features": features | {"image": {"_type": "Image"}}}})
        table = table.replace_schema_metadata({"huggingface": told})
    files.write_table(table, path)
    return path
