"""The public surface: names, weight, types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import policyguard

SOURCE = Path(policyguard.__file__).parent
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


def test_the_public_names_are_sorted_and_exist() -> None:
    assert sorted(policyguard.__all__, key=lambda name: (name.startswith("_"), name)) == policyguard.__all__
    for name in policyguard.__all__:
        assert getattr(policyguard, name) is not None


def test_the_front_module_stays_small() -> None:
    assert len((SOURCE / "__init__.py").read_text().splitlines()) <= 60


def test_nothing_loads_code_from_models_or_policies() -> None:
    banned = ("import pickle", "pickle.load", "torch.load", "yaml.load(", "trust_remote_code=True", " eval(")
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert not [word for word in banned if word in text and f"no {word}" not in text], path


def test_types_are_shipped() -> None:
    assert (SOURCE / "py.typed").exists()
