"""Consoles that cannot show every character, as on Windows: what they lack is escaped, and nothing fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

POLICY = """\
id: n
version: 1.0.0
title: "猫 ✓ ż"
rules:
  - {id: a, title: "刀", unsafe: [a knife]}
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_policy_is_read_as_utf_8_and_shown_in_whatever_the_console_has(
    encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "n.yaml").write_text(POLICY, encoding="utf-8")
    console = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-m", "policyguard", "policy", "show", "n.yaml"],
        cwd=tmp_path,
        env={**os.environ, **console},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    title = "猫 ✓ ż".encode(encoding, errors="backslashreplace").decode(encoding)
    assert title in done.stdout.decode(encoding)
