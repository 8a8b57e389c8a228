"""Every fault of a server, through every way of asking: nothing is let through, and all ends in time."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backends.remote.faults import AGAIN, MATRIX, SLOW, TRIPS
from backends.remote.server import ToyServer
from backends.remote.support import ask, backend, picture, policy
from policyguard import Action, ConfigurationError, Guard, Outcome, Verdict
from policyguard.assessment import Assessment, Failure
from policyguard.backends.remote import RemoteBackend, Retries
from policyguard.backends.remote.servers import CONSECUTIVE, State
from policyguard.cli.app import app
from policyguard.dialects import SafeguardDialect

DOCS = Path(__file__).parents[3] / "docs" / "reliability.md"

Way = Callable[[Guard], list[Verdict]]


def check(guard: Guard) -> list[Verdict]:
    return [guard.check(picture(1))]


def check_many(guard: Guard) -> list[Verdict]:
    return list(guard.check_many([picture(1), picture(2)]))


def acheck(guard: Guard) -> list[Verdict]:
    return [asyncio.run(guard.acheck(picture(1)))]


def acheck_many(guard: Guard) -> list[Verdict]:
    async def collect() -> list[Verdict]:
        return [verdict async for verdict in guard.acheck_many([picture(1), picture(2)])]

    return asyncio.run(collect())


WAYS: dict[str, Way] = {
    "check": check,
    "check_many": check_many,
    "acheck": acheck,
    "acheck_many": acheck_many,
}


@pytest.fixture(params=MATRIX)
def fault(request: pytest.FixtureRequest, server: ToyServer) -> str:
    server.fault = MATRIX[request.param][0]
    return str(request.param)


def guarded(server: ToyServer, fault: str, *, patience: float = 0.3, **changes: Any) -> Guard:
    return Guard(policy(**changes), backend=backend(server, timeout=patience if fault in SLOW else 100.0))


@pytest.mark.parametrize("way", WAYS)
def test_no_fault_allows_a_picture(server: ToyServer, fault: str, way: str) -> None:
    becomes = MATRIX[fault][1]
    guard = guarded(server, fault)
    with guard.backend:
        if becomes == "ConfigurationError":
            with pytest.raises(ConfigurationError):
                WAYS[way](guard)
            return
        for verdict in WAYS[way](guard):
            assert (verdict.outcome, verdict.action) == (Outcome(becomes), Action.BLOCK), verdict.reason
            assert verdict.reason


@pytest.mark.parametrize("way", WAYS)
def test_an_open_door_is_marked_and_never_covers_the_set_up(server: ToyServer, fault: str, way: str) -> None:
    becomes = MATRIX[fault][1]
    guard = guarded(server, fault, outcomes={"error": "allow"})
    with guard.backend:
        if becomes == "ConfigurationError":
            with pytest.raises(ConfigurationError):
                WAYS[way](guard)
            return
        for verdict in WAYS[way](guard):
            assert verdict.outcome == becomes
            assert verdict.allowed is verdict.degraded is (becomes == "error")


def test_the_command_line_says_with_its_exit_code_that_nothing_was_judged(
    server: ToyServer, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shade in (1, 2):
        picture(shade).save(tmp_path / f"{shade}.png")
    rules = tmp_path / "house.yaml"
    rules.write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nrules:\n  - {id: arms, title: Arms, unsafe: [weapons]}\n"
    )
    options = ["--policy", str(rules), "--base-url", server.url, "--model", server.model]
    hasty = {"timeout": 0.3 if fault in SLOW else 100.0, "retries": Retries.without_waits()}
    monkeypatch.setattr(
        "policyguard.backends.remote.RemoteBackend",
        lambda *given, **named: RemoteBackend(*given, **named | hasty),
    )
    done = CliRunner().invoke(app, ["check", str(tmp_path), *options, "--format", "jsonl"])
    setup = MATRIX[fault][1] == "ConfigurationError"
    assert done.exit_code == (2 if setup else 3), done.output
    assert '"action": "allow"' not in done.stdout
    assert done.stdout.count('"action": "block"') == (0 if setup else 2)


def test_what_is_asked_again_and_what_opens_the_breaker(server: ToyServer, fault: str) -> None:
    if MATRIX[fault][1] == "ConfigurationError":
        return
    with guarded(server, fault, patience=2.0).backend as patient:  # a busy server needs time to see a request
        patient.assess([ask(picture())])
        ((_, attempts),) = Counter(map(json.dumps, server.bodies())).most_common(1)
        # Not all three are seen: slow ones fill the deadline, and a broken connection may not get that far.
        assert attempts > 1 if fault in AGAIN else attempts == 1
    with guarded(server, fault).backend as guard:
        for _ in range(CONSECUTIVE + 1):
            guard.assess([ask(picture())])
        (tried,) = guard._reader._servers._pool.servers
        assert (tried.breaker.state is State.OPEN) is (fault in TRIPS)


def test_the_table_in_the_documents_is_this_matrix() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", DOCS.read_text(), re.MULTILINE)
    yes = {True: "yes", False: "no"}
    expected = [
        (fault, f"`{becomes}`", yes[fault in AGAIN], yes[fault in TRIPS])
        for fault, (_, becomes) in MATRIX.items()
    ]
    assert [row for row in rows if row[0] in MATRIX] == expected


@pytest.mark.parametrize("number", range(2))
def test_the_documents_python_runs(number: int) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    exec(compile(blocks[number], DOCS.name, "exec"), names)
    for value in names.values():
        if isinstance(value, RemoteBackend | Guard):
            value.close()


def test_a_server_that_dies_in_the_middle_allows_nothing_and_is_found_again(tmp_path: Path) -> None:
    with ToyServer() as server:
        guard = Guard(policy(), backend=backend(server, retries=Retries.without_waits(cool_down=0.1)))
        server.default.unsafe = 0.9
        verdicts = []
        for verdict in guard.check_many(picture(shade) for shade in range(20)):
            verdicts.append(verdict)
            if len(verdicts) == 5:
                server.die()
        port = server.server_address[1]
    assert len(verdicts) == 20
    assert not any(verdict.allowed for verdict in verdicts)
    assert verdicts[-1].outcome is Outcome.ERROR
    with ToyServer(port) as again:
        time.sleep(0.2)
        assert guard.check(picture()).allowed
        assert again.calls
    guard.backend.close()


def test_plain_http_where_tls_was_expected_is_an_error(server: ToyServer) -> None:
    url = server.url.replace("http:", "https:")
    retries = Retries.without_waits()
    with RemoteBackend(
        url, model="toy-guard", dialect=SafeguardDialect(), timeout=100.0, retries=retries
    ) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Failure)
    assert "failed" in found.reason


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_of_nobody_is_a_wrong_set_up_that_no_policy_covers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=me"
    command = [*make.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ToyServer() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        open_door = policy(outcomes={"error": "allow"})
        with Guard(open_door, base_url=url, model="toy-guard") as guard:
            with pytest.raises(ConfigurationError, match="certificate"):
                guard.warm()
            with pytest.raises(ConfigurationError, match="certificate"):
                guard.check(picture())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # as the error's hint says
        with Guard(open_door, base_url=url, model="toy-guard") as guard:
            assert guard.warm().check(picture()).outcome is Outcome.COMPLIES
            before = len(server.bodies())
            for shade in range(24):  # TLS has messages of its own between a request and its answer
                assert guard.check(picture(shade)).outcome is Outcome.COMPLIES
            assert len(server.bodies()) == before + 24


def test_an_honest_server_that_closes_after_each_answer_is_fine(server: ToyServer) -> None:
    def close(handler: Any, answer: Any) -> None:
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(answer).encode())

    server.fault = close
    with backend(server) as guard:
        results = guard.assess([ask(picture(shade)) for shade in range(4)])
    assert all(isinstance(result, Assessment) for result in results)
