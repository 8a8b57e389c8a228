"""docs/pytest.md runs, and lists what there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from policyguard import Guard
from policyguard.cache.recording import Recording, RecordingBackend, write_recording
from policyguard.testing import FakeBackend
from runs.support import POLICY

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "pytest.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_suite_in_the_docs_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(blocks("ini")[0])
    pytester.makepyfile(test_it=blocks("python")[0])
    (pytester.path / "house.yaml").write_text(POLICY.format(id="house"))
    (pytester.path / "art").mkdir()
    (pytester.path / "tests").mkdir()
    shutil.copy(ROOT / "examples/images/picnic.png", pytester.path / "art/poster.png")
    backend = RecordingBackend(FakeBackend(0.01))
    Guard("./house.yaml", backend=backend).check("art/poster.png")
    recording = Recording(backend.model, backend.entries)
    write_recording(pytester.path / "tests/policyguard-answers.json", recording)
    result = pytester.runpytest_inprocess("-p", "policyguard.runs.pytest_plugin.plugin", "-W", "ignore")
    result.assert_outcomes(passed=3)


def test_the_table_of_settings_is_whole() -> None:
    source = (ROOT / "src/policyguard/runs/pytest_plugin/plugin.py").read_text()
    known = set(re.findall(r'addini\("(\w+)"', source)) | set(re.findall(r'"(--policyguard-\w+)"', source))
    rows = "\n".join(line for line in PAGE.read_text().splitlines() if line.startswith("| "))
    assert known == set(re.findall(r"`(policyguard_\w+|--policyguard-\w+)`", rows))


def test_the_message_in_the_docs_has_the_lines_of_a_real_one(tmp_path: Path) -> None:
    from policyguard.runs.pytest_plugin.failing import failure_message

    (tmp_path / "house.yaml").write_text(POLICY.format(id="house"))
    guard = Guard(str(tmp_path / "house.yaml"), backend=FakeBackend(1.0))
    image = ROOT / "examples/images/armoury.png"
    real = failure_message(guard.check(image), guard.policies, path="art/poster.png").splitlines()
    told = blocks("text")[0].splitlines()
    cut = r"aa14c5c1eb4a[0-9a-f.]+|by \w+$"
    assert [re.sub(cut, "", line.removeprefix("ImageNotAllowedError: ")) for line in told] == [
        re.sub(cut, "", line) for line in real
    ]
