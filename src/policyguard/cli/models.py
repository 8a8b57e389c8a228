"""``policyguard models``: known guard models, and what a server runs; ``policyguard doctor``: its health."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, STYLE, TextOrJson
from policyguard.cli.progress import waiting
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

if TYPE_CHECKING:
    from policyguard.backends.remote.doctor import Examination
    from policyguard.policy import ResolvedPolicy

__all__ = ["doctor", "models"]

_FIELDS = (
    "id",
    "aliases",
    "family",
    "size",
    "gigabytes",
    "dialect",
    "sensor",
    "licence",
    "gated",
    "served",
    "context",
    "world",
    "about",
    "advice",
)


@command
def doctor(
    base_url: BASE_URL = None,
    model: MODEL = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            help="The policy to try. Default: safeedit/l3; for pico pictosafe/l3.",
        ),
    ] = None,
    dialect: DIALECT = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="For one call.", min=0.1)
    ] = 60.0,
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """Say what is wrong with a server that runs a guard model, and how fast it is.

    Sends a few small requests and images of noise. Without a server, --model is run here; it says on which
    device, in which numbers and with how many threads, and why. With a sensor, it says what that looks at.
    Exit code 0 if a guard can work with it, else 2.
    """
    from policyguard.backends import runs_here
    from policyguard.backends.registry import resolve_model
    from policyguard.policy import load_policy

    model = model or os.environ.get("POLICYGUARD_MODEL") or None
    resolved = load_policy(policy).resolve() if policy else None
    if model is not None and resolve_model(model).sensor is not None:
        examination = _examine_sensor(model, resolved, base_url, dialect, timeout)
    elif model is not None and (
        base_url is None and (runs_here(model) or not os.environ.get("POLICYGUARD_BASE_URL"))
    ):
        examination = _examine_local(model, resolved, dialect)
    else:
        from policyguard.backends.remote.doctor import examine
        from policyguard.dialects import get_dialect

        address, key = _server_address(base_url)
        with waiting("examining the server", sys.stderr):
            examination = examine(
                address,
                model=model,
                policy=resolved,
                dialect=get_dialect(dialect) if dialect else None,
                api_key=key,
                timeout=timeout,
            )
    print(json.dumps(examination.to_dict(), indent=2) if style is TextOrJson.JSON else _text(examination))
    return ExitCode.OK if examination.healthy else ExitCode.USAGE


def _examine_sensor(
    model: str, policy: ResolvedPolicy | None, base_url: str | None, dialect: str | None, timeout: float
) -> Examination:
    from policyguard.backends import build_backend
    from policyguard.backends.sensors import SensorBackend
    from policyguard.backends.sensors.doctor import examine_sensor

    with build_backend(model, base_url=base_url, dialect=dialect, timeout=timeout, subset=True) as backend:
        assert isinstance(backend, SensorBackend)
        with waiting("examining the sensor", sys.stderr):
            return examine_sensor(backend, policy=policy)


def _examine_local(model: str, policy: ResolvedPolicy | None, dialect: str | None) -> Examination:
    from policyguard.backends import TransformersBackend
    from policyguard.backends.transformers.doctor import examine_local
    from policyguard.dialects import get_dialect

    spoken = get_dialect(dialect) if dialect else None
    with TransformersBackend(model, dialect=spoken) as backend, waiting("loading the model", sys.stderr):
        return examine_local(backend, policy=policy)


def _server_address(base_url: str | None) -> tuple[str, str | None]:
    """The server's URL and key, from option and environment. Raises ConfigurationError without a URL."""
    from policyguard.errors import ConfigurationError

    address = base_url or os.environ.get("POLICYGUARD_BASE_URL")
    if not address:
        raise ConfigurationError(
            "which server?",
            hint="give --base-url URL or set POLICYGUARD_BASE_URL; --model alone is a model to run here",
        )
    if "," in address:
        raise ConfigurationError("several servers are named", hint="examine one at a time: --base-url URL")
    return address, os.environ.get("POLICYGUARD_API_KEY") or None


def _text(examination: Examination) -> str:
    lines = []
    for remark in examination.remarks:
        lines.append(f"{remark.level:8}{remark.check}: {one_line(remark.says)}")
        if remark.fix:
            lines.append(f"{'':8}  fix: {one_line(remark.fix)}")
    if (speed := examination.speed) is not None:
        lines.append(
            f"speed   a new image takes {speed.cached_ms:.0f} ms, "
            f"the first one under a policy {speed.first_ms:.0f} ms "
            f"(medians of {speed.readings})"
        )
    lines.append("healthy" if examination.healthy else "not healthy: see the problems above")
    return "\n".join(lines)


@command
def models(
    style: STYLE = TextOrJson.TEXT,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="Ask this server; its key is in POLICYGUARD_API_KEY."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Which of the server's models.")
    ] = None,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed", help="Measure this machine for a second, and estimate each model's seconds per photo."
        ),
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="List published systems: whether they work here, and figures.")
    ] = False,
) -> ExitCode:
    """List the guard models that are known by name; with --base-url, what a server runs and can do.

    GB is about what is downloaded and takes memory, on a GPU too, beside the images in work. --speed works
    out a photo of 512 pixels a side and an answer of one token; a policy's first photo takes longer.
    Without --model, a server is asked what it can do with the only model that it runs.
    """
    if base_url is not None:
        return _served(base_url, model, style)
    if published:
        return _published(style)
    from policyguard.backends.registry import known_models
    from policyguard.cli.output import print_table

    known = [{field: getattr(entry, field) for field in _FIELDS} for entry in known_models()]
    if speed:
        from policyguard.backends.transformers.doctor import measure_rate, seconds_per_photo

        with waiting("measuring this machine", sys.stderr):
            rate, where = measure_rate()
        for entry in known:
            size = None if entry["sensor"] else entry["gigabytes"]
            entry["seconds"] = size and seconds_per_photo(size, rate)
    if style is TextOrJson.JSON:
        print(json.dumps(known, indent=2))
    else:
        heads = ("id", "family", "GB", *(["s/photo"] if speed else []), "dialect", "licence", "vLLM", "about")
        for entry in known:  # one column, so that the last has room in a narrow terminal
            entry["family"] = " ".join(filter(None, (entry["family"], entry["size"])))
            entry["dialect"] = entry["dialect"] or "(sensor)"
            entry["licence"] = ", ".join(filter(None, (entry["licence"], "gated" if entry["gated"] else "")))
            entry["GB"] = f"{entry['gigabytes']:g}" if entry["gigabytes"] else ""
            if speed:
                seconds = entry["seconds"] or 0
                entry["s/photo"] = f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}" if seconds else ""
            entry["vLLM"] = "yes" if entry["served"] else "no"
            entry["about"] = "; ".join(filter(None, (entry["about"], entry["advice"])))
        print_table(heads, [[entry[head] or "-" for head in heads] for entry in known], sys.stdout)
        sys.stdout.flush()
        if speed:
            warn(f"s/photo: estimated, at {rate / 1e12:.2g} TFLOP/s ({where}); if the model fits in memory")
        warn(
            "any other image-text-to-text model can be named by its hub id or folder; "
            "`policyguard models --published` shows which published systems work, and their figures"
        )
    return ExitCode.OK


def _published(style: TextOrJson) -> ExitCode:
    from policyguard.backends.published import MEASURES, SYSTEMS
    from policyguard.cli.output import print_table

    if style is TextOrJson.JSON:
        systems = [
            {"name": it.name, "state": it.state, "how": it.how, "figures": dict(it.figures)} for it in SYSTEMS
        ]
        print(json.dumps({"measures": MEASURES, "systems": systems}, indent=2))
        return ExitCode.OK
    rows = [
        [it.name, it.state, *(str(it.figures.get(measure, "-")) for measure in MEASURES), it.how]
        for it in SYSTEMS
    ]
    print_table(("system", "state", *MEASURES, "how, or why not"), rows, sys.stdout)
    sys.stdout.flush()
    for name, about in MEASURES.items():
        warn(f"{name}: {about}")
    return ExitCode.OK


def _served(base_url: str, model: str | None, style: TextOrJson) -> ExitCode:
    from policyguard.backends.remote.capabilities import capabilities
    from policyguard.cli.output import print_table

    address, key = _server_address(base_url)
    with waiting("examining the server", sys.stderr):
        server = capabilities(address, model=model, api_key=key)
    if style is TextOrJson.JSON:
        print(json.dumps(server.to_dict(), indent=2))
        return ExitCode.OK
    rows = [[entry.id, "-" if entry.context is None else str(entry.context)] for entry in server.served]
    print_table(("served as", "context"), rows, sys.stdout)
    if server.model is None or server.tokenize is None:  # nothing was tried
        sys.stdout.flush()
        warn("name one of them with --model to see what the server can do with it")
        return ExitCode.OK
    can = {None: "unknown", True: "yes", False: "no"}
    abilities = [
        ("version", server.version or "unknown"),
        ("log-probabilities", server.logprobs or "unknown"),
        ("tokenize", can[server.tokenize]),
        ("continues a begun answer", can[server.continues]),
        ("structured_outputs", can[server.constrains]),
        ("response_format", can[server.response_format]),
        ("prefix cache", can[server.prefix_cache]),
    ]
    print()
    print_table((server.host, server.model), abilities, sys.stdout)
    return ExitCode.OK
