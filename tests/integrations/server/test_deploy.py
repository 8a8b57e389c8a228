"""The files for Docker, systemd and Kubernetes say what the program takes, and give nothing away.

They are not run here: what can be read of them is held to what the program and the other files say.
"""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from integrations.http.pictures import RED, picture
from policyguard.cli import main
from policyguard.server.keys import new_key
from server.support import serving, write

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "integrations" / "server"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()


def documents(name: str) -> list[Any]:
    return list(yaml.load_all((FOLDER / name).read_text(), yaml.SafeLoader))


COMPOSE = documents("compose.yaml")[0]["services"]
DEPLOYMENT, SERVICE, BUDGET = documents("kubernetes.yaml")
(CONTAINER,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
UNIT = configparser.ConfigParser(interpolation=None, strict=False)
UNIT.optionxform = str  # type: ignore[assignment, method-assign]
UNIT.read(FOLDER / "policyguard.service")

COMMANDS = {
    "compose": shlex.split(COMPOSE["policyguard"]["command"]),
    "kubernetes": CONTAINER["args"],
    "systemd": shlex.split(UNIT["Service"]["ExecStart"])[2:],
    **{
        f"docker {number}": [word.strip(' "') for word in found.split(",")]
        for number, found in enumerate(re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, re.MULTILINE))
    },
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_program_takes_what_it_is_given(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["serve", *COMMANDS[name], "--help"]), capsys.readouterr().err
    assert 2 == main(["serve", *COMMANDS[name], "--nonsense", "--help"])


@pytest.mark.parametrize("name", COMMANDS)
def test_who_listens_for_others_asks_for_keys(name: str) -> None:
    words = " ".join(COMMANDS[name])
    assert "--keys" in words
    assert "--write" not in words


def test_each_stage_of_the_image_ends_as_a_user_without_rights() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    targets = {stage.split()[2]: stage for stage in stages}
    assert {"base", "remote", "local", "cpu", "cuda"} == set(targets)
    for target in ("remote", "local"):
        assert targets[target].index("pip install") < targets[target].index("USER 10001")
    assert {stage.split()[0] for stage in stages} <= {"python:3.12-slim-bookworm", "base", "local"}


def test_what_is_copied_into_the_image_is_there_and_no_secret() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert "*" == lines[0]
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert "tests" not in kept


def test_the_extras_of_the_image_are_ours() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE) for name in group.split(",")}
    assert {"server", "remote"} <= named <= set(extras)


def test_containers_can_write_nothing_and_gain_nothing() -> None:
    service, rights = COMPOSE["policyguard"], CONTAINER["securityContext"]
    assert (True, ["ALL"]) == (service["read_only"], service["cap_drop"])
    assert service["ports"][0].startswith("127.0.0.1:")
    assert all(mount.endswith(":ro") for mount in service["volumes"])
    assert (True, False, ["ALL"]) == (
        rights["readOnlyRootFilesystem"],
        rights["allowPrivilegeEscalation"],
        rights["capabilities"]["drop"],
    )
    assert DEPLOYMENT["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]


def test_the_service_can_read_keys_that_are_their_owner_s_alone() -> None:
    """Which is what `serve key new` makes: a mount shows them as they are, a Secret as its volume says."""
    assert COMPOSE["policyguard"]["user"].startswith("${OWNER:?")
    header = (FOLDER / "compose.yaml").read_text().partition("services:")[0]
    assert "OWNER=$(id -u):$(id -g)" in header
    pod = DEPLOYMENT["spec"]["template"]["spec"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert (pod["securityContext"]["fsGroup"], secret["defaultMode"]) == (10001, 0o440)


def test_names_and_ports_fit_each_other() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"]
    assert labels == BUDGET["spec"]["selector"]["matchLabels"]
    (port,) = CONTAINER["ports"]
    assert port["name"] == SERVICE["spec"]["ports"][0]["targetPort"]
    probes = [CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert ["/healthz", "/healthz", "/readyz"] == [probe["path"] for probe in probes]
    volumes = {volume["name"] for volume in DEPLOYMENT["spec"]["template"]["spec"]["volumes"]}
    assert volumes == {mount["name"] for mount in CONTAINER["volumeMounts"]}


def test_each_waits_longer_for_the_end_than_a_request_may_take() -> None:
    from policyguard.server.app import Settings

    longest = Settings(policies=()).timeout + Settings(policies=()).body_seconds
    grace = DEPLOYMENT["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(COMPOSE["policyguard"]["stop_grace_period"].rstrip("s")) > longest
    assert int(UNIT["Service"]["TimeoutStopSec"]) > longest
    assert grace > longest + 5


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "policyguard.service"
    text = (FOLDER / "policyguard.service").read_text()
    unit.write_text(text.replace("/opt/policyguard/bin/policyguard", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "policyguard.service" not in done.stderr.replace(str(unit.parent), "")


(ALERTS,) = documents("alerts.yaml")[0]["groups"]


def test_alerts_ask_for_metrics_and_labels_that_the_service_has(tmp_path: Path) -> None:
    new_key(keys := tmp_path / "keys.yaml", "ops", policies=["*"], operator=True)
    shadow = write(tmp_path / "beside", "strict")
    with serving(tmp_path / "policies", keys=keys, shadow=(f"colours={shadow}",)) as service:
        service.state.metrics.answered("/v1/check", 429, 0.01)
        service.state.metrics.checked({"tests/colours": "colours"}, service.state.guard.check(picture(RED)))
        samples = [one for family in service.state.metrics.registry.collect() for one in family.samples]
    labels = {sample.name: {"instance", *sample.labels} for sample in samples} | {"up": {"job", "instance"}}
    for rule in ALERTS["rules"]:
        asked = re.findall(r"\b(policyguard_\w+|up)\b(?:\{(\w+)=)?", rule["expr"])
        kept = set(re.findall(r"by \((\w+)\)", rule["expr"]))
        assert asked, rule
        for name, label in asked:
            assert {label or "instance", *kept} <= labels[name], rule
        said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert said <= (kept or labels[asked[0][0]]), rule


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus")
def test_prometheus_reads_the_alerts() -> None:
    subprocess.run(["promtool", "check", "rules", str(FOLDER / "alerts.yaml")], check=True)
