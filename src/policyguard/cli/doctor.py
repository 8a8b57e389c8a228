"""``policyguard doctor``: what is wrong with a server, and how fast it is."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, TextOrJson
from policyguard.cli.text import one_line

if TYPE_CHECKING:
    from policyguard.backends.vllm.examination import Examination

__all__ = ["doctor", "server_address"]


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
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
) -> ExitCode:
    """Say what is wrong with a server that runs a guard model, and how fast it is.

    Sends a few small requests and pictures of noise. Exit code 0 if a guard can work with it, else 2.
    """
    from policyguard.backends.vllm.doctor import examine
    from policyguard.dialects import get_dialect
    from policyguard.policy import load_policy

    address, key = server_address(base_url)
    found = examine(
        address,
        model=model or os.environ.get("POLICYGUARD_MODEL") or None,
        policy=load_policy(policy).resolve() if policy else None,
        dialect=get_dialect(dialect) if dialect else None,
        api_key=key,
        timeout=timeout,
    )
    print(json.dumps(found.to_dict(), indent=2) if style is TextOrJson.JSON else _text(found))
    return ExitCode.OK if found.healthy else ExitCode.USAGE


def server_address(base_url: str | None) -> tuple[str, str | None]:
    """The server's URL and key, from option and environment. Raises ConfigurationError without a URL."""
    from policyguard.errors import ConfigurationError

    address = base_url or os.environ.get("POLICYGUARD_BASE_URL")
    if not address:
        raise ConfigurationError("which server?", hint="give --base-url URL or set POLICYGUARD_BASE_URL")
    if "," in address:
        raise ConfigurationError("several servers are named", hint="look at one at a time: --base-url URL")
    return address, os.environ.get("POLICYGUARD_API_KEY") or None


def _text(found: Examination) -> str:
    lines = []
    for remark in found.remarks:
        lines.append(f"{remark.level:8}{remark.check}: {one_line(remark.says)}")
        if remark.fix:
            lines.append(f"{'':8}  fix: {one_line(remark.fix)}")
    if found.speed is not None:
        speed = found.speed
        lines.append(
            f"speed   a new picture takes {speed.cached_ms:.0f} ms, "
            f"the first one under a policy {speed.first_ms:.0f} ms "
            f"(medians of {speed.readings})"
        )
    lines.append("healthy" if found.healthy else "not healthy: see the problems above")
    return "\n".join(lines)
