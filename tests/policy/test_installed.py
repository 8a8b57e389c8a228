"""Policies that other packages install: found by name, bounded by their folder, without running any code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from policyguard.errors import PolicyError
from policyguard.policy import load_policy

POLICY = "id: {}\nversion: 1.0.0\ntitle: T\nrules: [{{id: w, title: W, unsafe: [x]}}]\n"


def install(site: Path, package: str, *, point: str) -> Path:
    folder = site / package
    (folder / "more").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the code of a package of policies was run')\n")
    (folder / "house.yaml").write_text(POLICY.format("house"))
    (folder / "more" / "strict.yaml").write_text(
        "id: strict\nversion: 1.0.0\nextends: ../house.yaml\ndefaults: {threshold: 0.4}\n"
    )
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[policyguard.policies]\n{point}\n")
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "site"
    made.mkdir()
    monkeypatch.syspath_prepend(str(made))
    return made


def test_an_installed_policy_is_found_by_name_and_extends_its_neighbours(site: Path, tmp_path: Path) -> None:
    install(site, "acme_policies", point="acme = acme_policies")
    assert load_policy("acme/house").id == "house"
    assert load_policy("acme/more/strict").defaults.threshold == 0.4
    top = tmp_path / "top.yaml"
    top.write_text("id: top\nversion: 1.0.0\nextends: [acme/more/strict, safeedit/l3]\n")
    assert load_policy(top).rules[0].id == "w"
    assert "acme_policies" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "acme/none",
        "acme",
        "acme/",
        "acme/../acme_policies/house",
        "acme//house",
        "acme/more/../house",
        "other/x",
    ],
)
def test_a_name_that_is_not_installed_is_refused(name: str, site: Path) -> None:
    install(site, "acme_policies", point="acme = acme_policies")
    with pytest.raises(PolicyError, match="no packaged policy"):
        load_policy(name)


def test_an_installed_policy_cannot_lead_out_of_its_folder(site: Path) -> None:
    folder = install(site, "acme_policies", point="acme = acme_policies")
    (site / "secret.yaml").write_text(POLICY.format("secret"))
    (folder / "bad.yaml").write_text("id: bad\nversion: 1.0.0\nextends: ../secret.yaml\n")
    with pytest.raises(PolicyError, match="leads out of the policy root"):
        load_policy("acme/bad")


@pytest.mark.parametrize("point", ["acme = ../acme_policies", "acme = /etc", "acme = nowhere.at_all"])
def test_an_entry_point_that_names_no_package_names_no_policy(point: str, site: Path) -> None:
    install(site, "acme_policies", point=point)
    with pytest.raises(PolicyError, match="no packaged policy"):
        load_policy("acme/house")


def test_of_two_packages_that_claim_one_name_neither_gets_it(site: Path) -> None:
    install(site, "acme_policies", point="acme = acme_policies")
    install(site, "evil_policies", point="acme = evil_policies")
    with pytest.raises(PolicyError, match="no packaged policy"):
        load_policy("acme/house")
