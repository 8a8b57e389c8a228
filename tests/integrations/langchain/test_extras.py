"""What is not installed is named, and nothing is loaded before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = """
import sys
import policyguard.integrations.langchain
heavy = {"langchain", "langchain_core", "langgraph", "PIL", "numpy", "torch", "httpx"} & sys.modules.keys()
assert not heavy, heavy
"""

MISSING = """
import sys
sys.modules[{package!r}] = None
from policyguard.errors import MissingExtraError
try:
    from policyguard.integrations.langchain import {name}
except MissingExtraError as error:
    assert "'{extra}'" in str(error), error
else:
    raise SystemExit("it was found")
"""


def test_the_package_loads_nothing_by_itself() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("langchain_core", "GuardRunnable", "langchain"),
        ("langchain_core", "GuardMiddleware", "langchain"),
        ("langchain", "GuardMiddleware", "agents"),
    ],
)
def test_a_missing_package_is_named_by_its_extra(package: str, name: str, extra: str) -> None:
    code = MISSING.format(package=package, name=name, extra=extra)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_are_no_names_of_the_package() -> None:
    import policyguard.integrations.langchain as package

    with pytest.raises(AttributeError):
        package.Nothing  # noqa: B018
