"""Makes the two environments of the SDK tests, where they are missing, and runs the tests in both.

    .venv/bin/python tests/sdk/run.py [--smoke] [pytest's arguments]

The environments stand beside the one that runs this. They see its packages after their own, so that the
large ones are not installed again. With ``--smoke`` only the newest SDKs of OpenAI, Anthropic and Google are
run, and LangChain's agents: at most four minutes, the making of their environment included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("pytest>=8.3", "pytest-timeout>=2.3")
ENVIRONMENTS = {
    "sdk": ("openai>=3,<4", "anthropic>=2,<3", "google-genai>=3,<4", "langchain>=1.4", *TESTS),
    "sdk2": (
        "openai>=2,<3",
        "langchain>=1.4",
        "langchain-openai>=1",
        "anthropic>=2,<3",
        "litellm>=1",
        "diffusers>=0.35",
        "fastapi>=0.115",
        "python-multipart>=0.0.18",
        "uvicorn>=0.34",
        *TESTS,
    ),
}


NODE = "openai@^6"
SMOKE = {
    "sdk": tuple(
        f"tests/sdk/test_{name}.py"
        for name in ("openai", "anthropic", "gemini", "docs", "langchain_agent", "langchain_shapes")
    )
}


def ready(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages."""
    home = Path(f"{sys.prefix}-{name}")
    python = home / "bin" / "python"
    wanted = "\n".join(packages)
    stamp = home / ".ready"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {home}: about a minute", flush=True)
        venv.create(home, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(pip, check=True)
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        (Path(site) / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        stamp.write_text(wanted)
    return python


def node_packages() -> Path | None:
    """The folder with OpenAI's npm SDK, where there is npm. Its lifecycle scripts are not run."""
    npm = shutil.which("npm")
    home = Path(f"{sys.prefix}-node")
    if npm is None:
        print("There is no npm here: OpenAI's npm SDK is left out", flush=True)
        return None
    if not (home / "node_modules" / "openai").is_dir():
        home.mkdir(exist_ok=True)
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(home), NODE]
        subprocess.run(command, check=True)
    return home / "node_modules"


def main() -> int:
    if sys.prefix == sys.base_prefix:
        print("Run this with the Python of an environment, such as .venv/bin/python", file=sys.stderr)
        return 2
    given = sys.argv[1:]
    smoke = "--smoke" in given
    given = [argument for argument in given if argument != "--smoke"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its own copy: the tests fetch nothing
    if not smoke and (packages := node_packages()) is not None:
        environment["POLICYGUARD_NODE_MODULES"] = str(packages)
    worst = 0
    for name, tests in SMOKE.items() if smoke else dict.fromkeys(ENVIRONMENTS, ("tests/sdk",)).items():
        command = [ready(name, ENVIRONMENTS[name]), "-m", "pytest", *tests, "-m", "sdk"]
        command += ["-o", "filterwarnings=default", *given]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
