"""The wheel carries everything: a fresh environment judges a file with it, far away from the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from policyguard._version import DISTRIBUTION, __version__

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path = ROOT, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command without the settings of this process; give its standard output."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "POLICYGUARD"))
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode in codes, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    return next(folder.glob("*.whl"))


@pytest.mark.packaging
def test_the_wheel_holds_policies_weights_sprites_and_licences_and_is_small(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "policyguard/py.typed",
        "policyguard/policies/pictosafe/l3.yaml",
        "policyguard/policies/safeedit/l1.yaml",
        "policyguard/policies/llavaguard/default.yaml",
        "policyguard/train/recipes/safeguard-vl/sft.yaml",
        "policyguard/models/pico/model.safetensors",
        "policyguard/pictosafe/assets/noto.webp",
        "policyguard/pictosafe/assets/NOTICE.md",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".bin", ".pt")) or "/tests/" in name]
    assert wheel.stat().st_size < 20 * 2**20


@pytest.mark.packaging
def test_an_index_would_take_the_wheel_and_nothing_in_it_is_out_of_place(wheel: Path, tmp_path: Path) -> None:
    """By ``twine check`` and ``check-wheel-contents``, in an environment of their own."""
    run(sys.executable, "-m", "venv", tmp_path / "tools")
    binaries = tmp_path / "tools" / "bin"
    tools = "twine>=6", "check-wheel-contents>=0.6"
    run(binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *tools)
    assert "PASSED" in run(binaries / "twine", "check", "--strict", wheel)
    assert "OK" in run(binaries / "check-wheel-contents", wheel)


@pytest.mark.parametrize(
    ("origin", "asked"),
    [
        ({"dir_info": {}, "url": ROOT.as_uri()}, f"{ROOT}[remote]"),
        ({"dir_info": {}, "url": "file:///not/here/any/more"}, f"{DISTRIBUTION}[remote]"),
        (
            {"archive_info": {}, "url": "https://example.org/p.whl"},
            f"{DISTRIBUTION}[remote] @ https://example.org/p.whl",
        ),
        (None, f"{DISTRIBUTION}[remote]"),
    ],
    ids=["folder", "folder gone", "file", "index"],
)
def test_a_missing_extra_is_installed_from_where_the_package_came(
    origin: dict[str, object] | None, asked: str, tmp_path: Path
) -> None:
    package = tmp_path / "policyguard"
    package.mkdir()
    for name in ("errors.py", "_version.py"):
        (package / name).write_bytes((ROOT / "src" / "policyguard" / name).read_bytes())
    (package / "__init__.py").touch()
    installed = tmp_path / f"{DISTRIBUTION.replace('-', '_')}-{__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {__version__}\n"
    )
    if origin is not None:
        (installed / "direct_url.json").write_text(json.dumps(origin))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from policyguard.errors import MissingExtraError as Missing; print(Missing('x', 'remote').hint)"
    )
    assert f"pip install '{asked}'" in run(sys.executable, "-S", "-c", code)


@pytest.mark.packaging
def test_a_fresh_environment_checks_an_image_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env")
    binaries = tmp_path / "env" / "bin"
    pip = [binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, wheel)
    command = [binaries / "policyguard", "check", ROOT / "examples/images", "--policy", "pictosafe/l3"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    same = f"{DISTRIBUTION}[transformers] @ {wheel.as_uri()}"
    assert f"pip install '{same}'" in refused.stderr
    run(*pip, "--constraint", ROOT / "constraints.txt", same)
    output = run(*command, "--format", "json", cwd=tmp_path, codes=(1,))
    verdicts = {Path(verdict["source"]).stem: verdict for verdict in json.loads(output)}
    assert ("violates", "complies", "undecided") == tuple(
        verdicts[name]["outcome"] for name in ("armoury", "museum", "chart")
    )


INSTALLS = re.compile(r"(?:pip install|pipx install|uv add|uv tool install|POLICYGUARD_PACKAGE:)[^\n]*")
OURS = re.compile(r"(?<![\w./-])policyguard[\w-]*")


def installed_names(text: str) -> set[str]:
    """Names that begin with ours and that the commands in ``text`` hand to an installer."""
    return {name for command in INSTALLS.findall(text) for name in OURS.findall(command)}


def test_the_name_to_install_by_is_written_once_and_everything_keeps_to_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert DISTRIBUTION == project["name"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    assert {DISTRIBUTION} == {name for text in extras for name in OURS.findall(text)}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    texts = {
        path: (ROOT / path).read_text(encoding="utf-8")
        for path in tracked.splitlines()
        if path.endswith((".md", ".py", ".yml", ".yaml", ".sh", ".toml")) and not path.startswith("tests/")
    }
    wrong = {path: names for path, text in texts.items() if (names := installed_names(text) - {DISTRIBUTION})}
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pip install policyguard", {"policyguard"}),
        ("    - python3 -m pip install -q 'policyguard[remote]'", {"policyguard"}),
        ("pip install policyguard-vision[remote] starlette", {"policyguard-vision"}),
        ("pip install '.[remote]' ./policyguard", set()),
        ("policyguard check images", set()),
    ],
)
def test_what_the_test_above_reads(text: str, names: set[str]) -> None:
    assert names == installed_names(text)


def test_the_citation_names_the_version_and_the_release_takes_its_actions_by_commit() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", workflow)
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action)] == []
