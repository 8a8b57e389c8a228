"""The Python in docs/langchain.md."""

from __future__ import annotations

import re

from support.examples import ROOT

__all__ = ["blocks"]


def blocks() -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "langchain.md").read_text(), re.MULTILINE | re.DOTALL
    )
