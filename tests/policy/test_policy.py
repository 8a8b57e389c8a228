"""Policies from files and from plain values: where they are found, and what is said when they are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policyguard.errors import ConfigurationError, PolicyError
from policyguard.outcomes import Action, Outcome
from policyguard.policy import Defaults, Policy, Rule, Status, load_policy, packaged_policies, parse_policy
from policyguard.policy.files import find_library

FULL = """\
id: house/rules
version: 1.2.3-rc.1+build.5
title: House rules
description: |
  What may hang here.

  Ask if in doubt.
world: pictosafe
owner: Trust team
licence: Apache-2.0
sources: [a meeting]
rules:
  - id: weapons
    title: Weapons
    description: Things made to hurt.
    unsafe: [a gun, "yes: a knife"]
    safe:
      - a kitchen
        knife
    status: sensitive
    threshold: 1
    action: flag
  - {id: no, title: on, unsafe: [0x1F, 0777, 1:30, 1_000, 2026-01-01, Yes, .5.1, ~x, True]}
defaults: {threshold: 4e-1, action: allow, undecided_band: [.3, 0.5], min_label_mass: 0, frames: sample}
outcomes: {error: flag, undecided: allow}
"""


def data(**changes: Any) -> dict[str, Any]:
    rule = {"id": "w", "title": "Weapons", "unsafe": ["a gun"]}
    return {"id": "a", "version": "1.0.0", "title": "T", "rules": [rule]} | changes


def problems_of(values: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(values)
    return [str(problem) for problem in caught.value.problems]


def test_every_field_is_read(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    policy = load_policy(path)
    assert policy.description == "What may hang here.\n\nAsk if in doubt."
    weapons, other = policy.rules
    assert weapons.safe == ("a kitchen knife",)
    assert (weapons.status, weapons.threshold, weapons.action) == (Status.SENSITIVE, 1.0, Action.FLAG)
    assert policy.defaults == Defaults(
        threshold=0.4, action=Action.ALLOW, undecided_band=(0.3, 0.5), min_label_mass=0.0, frames="sample"
    )
    assert policy.outcomes == {Outcome.ERROR: Action.FLAG, Outcome.UNDECIDED: Action.ALLOW}
    assert (policy.world, policy.owner, policy.licence) == ("pictosafe", "Trust team", "Apache-2.0")
    assert (other.id, other.title) == ("no", "on")


def test_only_true_false_null_and_plain_numbers_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    assert load_policy(path).rules[1].unsafe == (
        "0x1F", "0777", "1:30", "1_000", "2026-01-01", "Yes", ".5.1", "~x", "True",
    )  # fmt: skip


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "id: House\nversion: &v 1\ntitle: T\nrules:\n  - title: Guns\n    unsafe: x\n    statsu: exempt\n"
        "  - id: w\n    title: W\n    threshold: 2\n    unsafe: [x]\n    unsafe: [y]\n"
        "  - id: w\n    title: V\n    description: d\noutcomes:\n  oops: block\nextra: 1\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    places = [(problem.line, problem.field) for problem in caught.value.problems]
    assert places == [
        (1, "id"),
        (2, None),
        (5, "rules[0].id"),
        (6, "rules[0].unsafe"),
        (7, "rules[0].statsu"),
        (10, "rules[1].threshold"),
        (12, None),
        (13, "rules[2].id"),
        (17, "outcomes.oops"),
        (18, "extra"),
    ]


def test_a_misspelt_required_key_is_one_problem() -> None:
    assert problems_of(data(rules=[{"idd": "w", "title": "W", "unsafe": ["x"]}])) == [
        "<dict>: rules[0].idd: unknown key 'idd': did you mean `id:`?"
    ]


def test_a_long_list_of_problems_is_cut() -> None:
    found = problems_of(data(**{f"key{i}": 1 for i in range(500)}))
    assert len(found) == 51
    assert found[-1] == "<dict>: and more: fix these first"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "expected a mapping, found nothing"),
        ([], "expected a mapping, found a list"),
        (data(rules={"a", "b"}), "found a set"),
        (data(title="a\u202eb"), "U+202E"),
        (data(description="a\0b"), "U+0000"),
        (data(rules=[{"id": "w", "title": "W", "unsafe": ["\ud800"]}]), "lone surrogate"),
        (data(defaults={"threshold": float("nan")}), "found the number nan"),
        (data(defaults={"threshold": float("inf")}), "found the number inf"),
        (data(defaults={"threshold": 10**5000}), "number"),
        (data(id="a\n"), "use a-z"),
        (data(version="1.0.0\n"), "three numbers"),
        (data(version="\u0661.0.0"), "three numbers"),
        ({1: 2} | data(), "1"),
    ],
)
def test_plain_values_are_checked_as_files_are(values: Any, words: str) -> None:
    assert any(words in problem for problem in problems_of(values))


def test_a_model_built_by_hand_raises_our_error() -> None:
    with pytest.raises(PolicyError, match="did you mean `unsafe:`"):
        Rule(id="w", title="W", unsaf=("x",))  # type: ignore[call-arg]
    with pytest.raises(PolicyError, match="must be above 0"):
        Defaults(threshold=0.0)
    rule = Rule(id="w", title="W", unsafe=("x",))
    with pytest.raises(PolicyError, match="two rules have the id 'w'"):
        Policy(id="a", version="1.0.0", title="T", rules=(rule, rule))
    assert Policy(id="a", version="1.0.0", title="T", rules=(rule,)) == parse_policy(
        {"id": "a", "version": "1.0.0", "title": "T", "rules": [rule]}
    )


def test_a_rule_may_forbid_nothing_only_if_it_is_exempt() -> None:
    assert Rule(id="w", title="W", status=Status.EXEMPT).unsafe == ()
    assert Rule(id="w", title="W", description="Weapons of any kind.").unsafe == ()
    for status in (Status.ACTIVE, Status.SENSITIVE):
        with pytest.raises(PolicyError, match="forbids nothing"):
            Rule(id="w", title="W", safe=("a toy",), status=status)


def test_twenty_six_rules_are_allowed() -> None:
    rules = [{"id": f"r{i}", "title": "T", "unsafe": ["x"]} for i in range(26)]
    assert len(parse_policy(data(rules=rules)).rules) == 26


# Where policies are found.


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("safeedit/L3", "did you mean safeedit/l3"),
        ("safeedit/l33", "did you mean safeedit/l3"),
        ("house-rules", "a file's name ends in .yaml; `policyguard policy list` shows"),
        ("safeedit/../safeedit/l3", "no packaged policy"),
        ("", "no packaged policy"),
        ("safeedit/l3\0", "no packaged policy"),
        ("./nowhere/x.yaml", "no such file"),
        ("safeedit/l3.yaml", "the packaged policy of that name is 'safeedit/l3'"),
        ("x\0.yaml", "cannot be opened"),
        ("x" * 5000 + ".yaml", "cannot be opened"),
        ("~nobody-of-this-name/x.yaml", "no such file"),
        (b"safeedit/l3", "named by a str or a Path"),
        (None, "named by a str or a Path"),
    ],
)
def test_a_source_that_names_no_policy_gives_one_clear_message(source: Any, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(source)
    assert len(caught.value.problems) == 1
    assert words in str(caught.value)


def test_a_folder_is_refused_and_its_policies_are_named(tmp_path: Path) -> None:
    (tmp_path / "house.yaml").write_text(FULL)
    for source in (tmp_path, str(tmp_path)):
        with pytest.raises(PolicyError, match=r"this is a folder.*\n.*house\.yaml"):
            load_policy(source)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "house.yaml").write_text(FULL)
    with pytest.raises(PolicyError, match=r"no such file\n.*did you mean .*house\.yaml"):
        load_policy(tmp_path / "hous.yaml")


def test_a_name_that_is_a_folder_here_suggests_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules").mkdir()
    with pytest.raises(PolicyError, match=r"write \./rules"):
        load_policy("rules")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(PolicyError, match="a device or a pipe"):
            load_policy(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text(FULL)
    path.chmod(0)
    with pytest.raises(PolicyError, match="may not be read"):
        load_policy(path)


def test_the_library_is_found_in_a_wheel_and_in_a_checkout(tmp_path: Path) -> None:
    wheel = tmp_path / "site-packages" / "policyguard"
    (wheel / "policies").mkdir(parents=True)
    checkout = tmp_path / "checkout" / "src" / "policyguard"
    checkout.mkdir(parents=True)
    (tmp_path / "checkout" / "policies").mkdir()
    assert find_library(wheel) == wheel / "policies"
    assert find_library(checkout) == tmp_path / "checkout" / "policies"
    with pytest.raises(ConfigurationError, match="no packaged policies"):
        find_library(tmp_path / "elsewhere" / "policyguard")


def test_loading_a_policy_imports_no_image_or_model_library() -> None:
    code = (
        "import sys; from policyguard.policy import load_policy; load_policy('safeedit/l3').resolve()\n"
        "sys.exit(', '.join({'torch', 'transformers', 'PIL', 'numpy', 'httpx'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_packaged_policies_are_listed() -> None:
    assert {"safeedit/l1", "safeedit/l5", "llavaguard/default"} <= set(packaged_policies())
    assert list(packaged_policies()) == sorted(packaged_policies())
