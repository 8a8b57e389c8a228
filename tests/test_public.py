"""The public surface: names, weight, types."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

import policyguard
from policyguard.errors import ConfigurationError

SOURCE = Path(policyguard.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "public-api.md").read_text()
PUBLIC = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(r"^\| `([\w.]+)` \| [^|]* \| ([^|]*) \|$", PAGE, re.MULTILINE)
}
HEAVY = ("torch", "transformers", "vllm", "langchain_core", "PIL", "numpy", "httpx", "sklearn")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = modules_after("import policyguard")
    assert not loaded & {*HEAVY, "pydantic", "yaml", "typer"}


def test_building_a_guard_loads_no_model_library() -> None:
    loaded = modules_after("import policyguard; policyguard.Guard(policy='pictosafe/l3')")
    assert not loaded & {"torch", "transformers", "vllm", "sklearn", "httpx"}


def test_the_page_names_the_public_modules() -> None:
    assert len(PUBLIC) == PAGE.count("\n| `policyguard") > 20
    assert {"policyguard", "policyguard.authoring", "policyguard.train", "policyguard.testing"} < set(PUBLIC)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_page_of_public_names_lists_what_each_module_hands_on(module: str) -> None:
    handed_on = import_module(module)
    assert PUBLIC[module] == list(handed_on.__all__)
    for name in handed_on.__all__:
        with suppress(ConfigurationError):  # a library that is not installed here
            assert getattr(handed_on, name) is not None


@pytest.mark.parametrize("module", ["authoring", "train", "pictosafe"])
def test_a_package_that_hands_on_names_loads_nothing_before_they_are_asked_for(module: str) -> None:
    loaded = modules_after(f"import policyguard.{module}")
    assert not loaded & {*HEAVY, "pydantic", "yaml", "typer"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        import_module(f"policyguard.{module}").nonsense  # noqa: B018


def test_the_names_of_the_package_are_sorted() -> None:
    assert sorted(policyguard.__all__, key=lambda name: (name.startswith("_"), name)) == policyguard.__all__


def test_the_front_module_stays_small() -> None:
    assert len((SOURCE / "__init__.py").read_text().splitlines()) <= 60


def test_nothing_loads_code_from_models_or_policies() -> None:
    banned = ("import pickle", "pickle.load", "torch.load", "yaml.load(", "trust_remote_code=True", " eval(")
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert not [word for word in banned if word in text and f"no {word}" not in text], path


def test_types_are_shipped() -> None:
    assert (SOURCE / "py.typed").exists()
