"""examples/policy-repo is a policy repository whose tests pass with the packaged model."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pictures

from policyguard import Guard
from policyguard.authoring import Level, compare_on, lint
from policyguard.authoring.cases import CaseFile, Status, load_cases, run_cases
from policyguard.backends.base import Backend
from policyguard.cli import main
from policyguard.policy import load_policy
from policyguard.strict.documents import parse, plain

ROOT = Path(__file__).parents[2]
REPO = ROOT / "examples" / "policy-repo"
POLICIES = sorted((REPO / "policies").glob("*.yaml"))


@pytest.fixture(scope="module")
def pico() -> Iterator[Backend]:
    with Guard("pictosafe/l1", model="pico") as guard:
        yield guard.backend


def test_its_cases_hold(pico: Backend) -> None:
    report = run_cases(load_cases(REPO / "cases.yaml"), backend=pico)
    assert report.passed, [result.to_dict() for result in report.results if not result.status.good]
    assert report.counts[Status.XFAILED]


def test_the_country_overlay_flags_drinks_and_allows_the_lottery(pico: Backend) -> None:
    policies = [load_policy(REPO / "policies" / name) for name in ("shop.yaml", "shop-north.yaml")]
    images = [REPO / "images" / f"{name}.png" for name in ("bar", "casino", "picnic")]
    diff = compare_on(*policies, images, backend=pico)
    assert ["casino.png", "bar.png"] == [Path(image.source).name for image in diff.changed]
    assert [("block", "allow"), ("block", "flag")] == [
        (i.before.action, i.after.action) for i in diff.changed
    ]


def test_the_museum_gives_its_reason() -> None:
    (weakening,) = load_policy(REPO / "policies" / "museum.yaml").weakenings
    assert "frame on the wall" in weakening.reason


@pytest.mark.parametrize("file", POLICIES, ids=lambda path: path.stem)
def test_its_policies_are_lint_clean(file: Path) -> None:
    assert [] == [str(remark) for remark in lint(file) if remark.level is not Level.INFO]


def test_the_commands_of_its_readme_succeed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = shutil.copytree(REPO, tmp_path / "repo")
    monkeypatch.chdir(copy)
    (block,) = re.findall(r"^```bash\n(.*?)^```", (REPO / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        words = [
            name for word in shlex.split(line)[1:] for name in (sorted(map(str, Path().glob(word))) or [word])
        ]
        assert 0 == main(words), line
    assert (copy / "report.xml").exists()


def test_the_code_and_the_cases_of_the_page_about_tools_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "policy-tools.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "policy-tools.md", "exec"), {})
    (cases,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert CaseFile.model_validate(plain(parse(cases.encode(), "policy-tools.md").root)).pairs


def test_its_images_are_what_its_script_draws(tmp_path: Path) -> None:
    script = runpy.run_path(str(REPO / "draw.py"))
    for name, (style, words) in script["SCENES"].items():
        drawn = script["Renderer"](style).draw(script["scene"](words, script["SEEDS"].get(name, name)))
        with Pictures.open(REPO / "images" / f"{name}.png") as kept:  # noqa: TID251 (our own file)
            assert kept.convert("RGB").tobytes() == drawn.tobytes(), name
