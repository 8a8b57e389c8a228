"""The shape of the house: no circle between files, few files, none of them long.

import-linter (`make check`) holds the floors between packages. Here the unit is the file, and every import
counts, those inside functions and under ``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import statistics
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import policyguard

SOURCE = Path(policyguard.__file__).parent
LENGTHS = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}


def imports(package: str) -> dict[str, set[str]]:
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, each imported by the next, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_of_the_package_imports_itself_by_a_detour() -> None:
    graph = imports("policyguard")
    assert len(graph) == len(LENGTHS)
    assert circle(graph) == []


@pytest.mark.parametrize("hidden", ["function", "type checking"])
def test_an_import_that_is_not_run_at_load_time_counts(
    hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above rests on."""
    package = tmp_path / f"circle_{hidden.replace(' ', '_')}"
    package.mkdir()
    opening = (
        "def late():\n" if hidden == "function" else "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    )
    (package / "__init__.py").touch()
    (package / "upper.py").write_text(f"from {package.name} import lower\n")
    (package / "lower.py").write_text(f"{opening}    from {package.name} import upper\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert {f"{package.name}.upper", f"{package.name}.lower"} == set(circle(imports(package.name)))


def test_there_are_at_most_330_files_besides_dialects_and_sensors_of_which_each_guard_has_one() -> None:
    each_guards_own = ("dialects/", "backends/sensors/")
    assert len([name for name in LENGTHS if not name.startswith(each_guards_own)]) <= 330


def test_no_file_is_longer_than_600_lines() -> None:
    assert {name: lines for name, lines in LENGTHS.items() if lines > 600} == {}


def test_half_the_files_have_more_than_120_lines_and_half_fewer_than_250() -> None:
    assert 120 <= statistics.median(LENGTHS.values()) <= 250
