"""Policies that build on others: what each part of a layer does, in a file and in Python alike."""

from __future__ import annotations

import copy
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from policyguard.errors import PolicyError
from policyguard.guard import Guard
from policyguard.outcomes import Action, Outcome
from policyguard.policy import Policy, Status, extend_policy, load_policy, parse_policy
from policyguard.testing import FakeBackend

HOUSE = """\
id: house
version: 1.0.0
title: House rules
description: What may hang here.
owner: House team
licence: Apache-2.0
sources: [a meeting]
parameters: {min_age: 18, city: null}
rules:
  - id: weapons
    title: Weapons
    unsafe: [a gun, toy guns, a knife]
    safe: [museum pieces, a kitchen knife]
    threshold: 0.4
  - id: gambling
    title: Gambling
    description: "For people under {{ min_age }} in {{city}}."
    unsafe: [dice, "a casino with people under {{min_age}}"]
    action: flag
defaults: {threshold: 0.6}
"""
SHOP = """\
id: acme/shop
version: 2.0.0
title: Acme shop
description: What may be sold.
extends: [house.yaml, safeedit/l3]
parameters: {city: Paris}
sources: [a by-law]
rules:
  - {id: tobacco, title: Tobacco, unsafe: [cigars], action: flag}
replace:
  - {id: gambling, title: Games, unsafe: [slot machines], weakens: dice are sold here}
overrides:
  weapons:
    title: Arms
    description: Things made to hurt.
    status: sensitive
    threshold: 0.3
    action: block
    unsafe: {add: [a bow], remove: [toy guns]}
    safe: {remove: [museum pieces]}
    move: {to_unsafe: [a kitchen knife]}
    weakens: toy guns are sold here
drop:
  - {id: harassment, weakens: reviews are not pictures}
defaults: {action: flag, undecided_band: [0.3, 0.4]}
outcomes: {error: flag}
weakens: a person looks at all that is flagged
"""

# Raise TEXT_VERSION when the text changes, then both of these.
FINGERPRINT = "6b03b92f4b9f18f41c2aa3573a50c1ee2b6ce579d1ea6e0c4af84adf27223aa7"
DECISION = "c7cdb093a9645676e2e11481d8218a7795bb5ff8d15cfea85d35cc766b7a6567"


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Policy:
    drop = load_policy("safeedit/l3").rules[-1].id
    return load_policy(files(tmp_path, house=HOUSE, shop=SHOP.replace("harassment", drop)) / "shop.yaml")


def problems(load: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load()
    return [str(problem) for problem in caught.value.problems]


def test_every_part_of_a_layer_does_what_it_says(shop: Policy) -> None:
    l3 = load_policy("safeedit/l3")
    ids = [rule.id for rule in shop.rules]
    assert ids == ["weapons", "gambling", *(rule.id for rule in l3.rules[:-1]), "tobacco"]
    weapons, games, *_, tobacco = shop.rules
    assert (weapons.title, weapons.description) == ("Arms", "Things made to hurt.")
    assert weapons.unsafe == ("a gun", "a knife", "a kitchen knife", "a bow")
    assert weapons.safe == ()
    assert (weapons.status, weapons.threshold, weapons.action) == (Status.SENSITIVE, 0.3, Action.BLOCK)
    assert (games.title, games.unsafe, games.action) == ("Games", ("slot machines",), None)
    assert tobacco.action is Action.FLAG
    assert (shop.id, shop.version, shop.title) == ("acme/shop", "2.0.0", "Acme shop")
    assert (shop.defaults.threshold, shop.defaults.action) == (0.5, Action.FLAG)
    assert shop.outcomes == {Outcome.ERROR: Action.FLAG}
    assert (shop.owner, shop.licence) == (None, "Apache-2.0")
    assert shop.sources == ("a meeting", *l3.sources, "a by-law")


def test_what_the_bases_say_about_themselves_stays_in_front(shop: Policy) -> None:
    l3 = load_policy("safeedit/l3")
    assert shop.description == f"What may hang here.\n\n{l3.description}\n\nWhat may be sold."


def test_the_reasons_for_what_is_weakened_are_kept(shop: Policy) -> None:
    assert {(w.change.split(":")[0], w.reason) for w in shop.weakenings} == {
        ("defaults.action", "a person looks at all that is flagged"),
        ("outcomes.error", "a person looks at all that is flagged"),
        ("rules.weapons.title", "toy guns are sold here"),
        ("rules.weapons.unsafe", "toy guns are sold here"),
        ("rules.gambling", "dice are sold here"),
        ("rules." + load_policy("safeedit/l3").rules[-1].id, "reviews are not pictures"),
    }
    assert {w.policy for w in shop.weakenings} == {"acme/shop"}
    assert all(w.file.endswith("shop.yaml") and w.line for w in shop.weakenings)
    assert shop.resolve().weakenings == shop.weakenings
    again = extend_policy(shop, {"id": "top", "version": "1.0.0"})
    assert again.weakenings == shop.weakenings
    for one in (shop, shop.resolve()):  # which goes the way that another process is reached
        assert copy.deepcopy(one).weakenings == shop.weakenings


def test_the_reasons_are_in_the_evidence_of_a_verdict(shop: Policy) -> None:
    guard = Guard([shop, "safeedit/l3"], backend=FakeBackend())
    evidence = guard.check("nowhere.png").to_dict()["evidence"]["policies"]
    assert evidence[0]["weakenings"][0] == {
        "policy": "acme/shop",
        "change": shop.weakenings[0].change,
        "reason": shop.weakenings[0].reason,
    }
    assert "weakenings" not in evidence[1]


def test_each_part_knows_where_it_was_said(shop: Policy, tmp_path: Path) -> None:
    def said(path: str) -> tuple[str, int | None]:
        origin = shop.origins[path]
        return Path(origin.file).name, origin.line

    assert said("title") == ("shop.yaml", 3)
    assert said("rules.weapons") == ("house.yaml", 10)
    assert said("rules.weapons.title") == ("shop.yaml", 14)
    assert said("rules.weapons.unsafe[0]") == ("house.yaml", 12)
    assert said("rules.weapons.unsafe[2]") == ("shop.yaml", 21)
    assert said("rules.weapons.unsafe[3]") == ("shop.yaml", 19)
    assert said("rules.gambling.title") == ("shop.yaml", 11)
    assert said("rules.tobacco.action") == ("shop.yaml", 9)
    assert said("defaults.action") == ("shop.yaml", 25)
    assert said("outcomes.error") == ("shop.yaml", 26)
    assert said("licence")[0] == "l3.yaml"
    assert "owner" not in shop.origins
    lists = {
        f"rules.{r.id}.{n}[{i}]"
        for r in shop.rules
        for n in ("unsafe", "safe")
        for i in range(len(getattr(r, n)))
    }
    assert {path for path in shop.origins if path.endswith("]")} == lists


def test_python_and_files_give_the_same(tmp_path: Path) -> None:
    layer = {
        "id": "top",
        "version": "1.0.0",
        "rules": [{"id": "arms", "title": "Arms", "unsafe": ["a gun"]}],
        "defaults": {"threshold": 0.4},
    }
    (tmp_path / "top.yaml").write_text(
        "id: top\nversion: 1.0.0\nextends: safeedit/l3\ndefaults: {threshold: 0.4}\n"
        "rules: [{id: arms, title: Arms, unsafe: [a gun]}]\n"
    )
    loaded = load_policy(tmp_path / "top.yaml")
    assert loaded == extend_policy(load_policy("safeedit/l3"), layer)
    assert loaded == parse_policy(layer | {"extends": "safeedit/l3"})
    assert loaded.resolve() == parse_policy(layer | {"extends": ["safeedit/l3"]}).resolve()


def test_a_layer_with_nothing_but_a_name_changes_nothing_that_is_judged() -> None:
    base = load_policy("safeedit/l3")
    same = extend_policy(base, {"id": "mine", "version": "1.0.0"}).resolve()
    assert same.fingerprint == base.resolve().fingerprint
    assert same.decision_fingerprint == base.resolve().decision_fingerprint


# Parameters.


def test_parameters_are_filled_in_by_default_by_a_layer_and_by_the_caller(tmp_path: Path) -> None:
    files(tmp_path, house=HOUSE, top="id: t\nversion: 1.0.0\nextends: house.yaml\nparameters: {city: Rome}\n")
    house = load_policy(tmp_path / "house.yaml", parameters={"city": "Bonn"})
    assert house.rules[1].description == "For people under 18 in Bonn."
    assert house.rules[1].unsafe[1] == "a casino with people under 18"
    assert house.parameters == {"city": "Bonn", "min_age": "18"}
    assert load_policy(tmp_path / "top.yaml").parameters == {"city": "Rome", "min_age": "18"}
    given = load_policy(tmp_path / "top.yaml", parameters={"city": "Oslo", "min_age": 21})
    assert given.rules[1].description == "For people under 21 in Oslo."
    assert given.resolve().parameters == {"city": "Oslo", "min_age": "21"}
    assert given.resolve().fingerprint != load_policy(tmp_path / "top.yaml").resolve().fingerprint


def test_a_missing_parameter_is_one_error_where_it_is_declared(tmp_path: Path) -> None:
    path = files(tmp_path, house=HOUSE) / "house.yaml"
    (said,) = problems(lambda: load_policy(path))
    assert said.startswith(f"{path}:8:33: parameters.city: the parameter 'city' has no value: ")


def test_a_layer_that_changes_a_value_needs_a_reason(tmp_path: Path) -> None:
    top = "id: t\nversion: 1.0.0\nextends: house.yaml\nparameters: {city: Rome, min_age: 16}\n"
    files(tmp_path, house=HOUSE, top=top)
    assert "changed from 18 to 16" in problems(lambda: load_policy(tmp_path / "top.yaml"))[0]
    files(tmp_path, top=top + "weakens: the law there\n")
    assert load_policy(tmp_path / "top.yaml").weakenings[0].change.startswith("parameters.min_age: changed")


@pytest.mark.parametrize(
    "value",
    ["{{ city }}", "a }} b", "two\nlines", "a\ttab", "a\rb", "\x00", "\u202e", "\u200b", "", "  ", "x" * 201,
     float("nan"), float("inf"), 10**30, ["x"], {"a": 1}, None, b"x"],
)  # fmt: skip
def test_a_value_that_could_say_more_than_a_value_is_refused(value: Any, tmp_path: Path) -> None:
    path = files(tmp_path, house=HOUSE) / "house.yaml"
    found = problems(lambda: load_policy(path, parameters={"city": value}))
    assert any("<parameters>: city: " in problem for problem in found)


def test_a_value_is_text_and_nothing_else(tmp_path: Path) -> None:
    path = files(tmp_path, house=HOUSE) / "house.yaml"
    for value, text in (
        (True, "true"),
        (1.5, "1.5"),
        (-3, "-3"),
        ("a: b # c", "a: b # c"),
        ("$HOME", "$HOME"),
    ):
        assert load_policy(path, parameters={"city": value}).rules[1].description.endswith(f"in {text}.")


def test_a_parameter_nobody_declares_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = files(tmp_path, house=HOUSE.replace("{{min_age}}", "{{ min_aeg }}")) / "house.yaml"
    found = problems(lambda: load_policy(path, parameters={"city": "x", "min_ag": 1}))
    assert found == [
        "<parameters>: min_ag: the policy has no such parameter: did you mean min_age?",
        f"{path}:18:20: rules[1].unsafe[1]: there is no parameter 'min_aeg': did you mean min_age?",
    ]


# Several bases.


def base(rule: str, head: str = "", name: str = "b") -> str:
    return f"id: {name}\nversion: 1.0.0\ntitle: T\n{head}rules:\n  - {{id: w, title: W, {rule}}}\n"


def together(folder: Path, one: str, other: str, more: str = "") -> Policy:
    files(folder, one=one, other=other, top=f"id: t\nversion: 1.0.0\nextends: [one.yaml, other.yaml]\n{more}")
    return load_policy(folder / "top.yaml")


@pytest.mark.parametrize(
    ("one", "other", "wins"),
    [
        ("unsafe: [a]", "unsafe: [a]", "same"),
        ("unsafe: [a]", "unsafe: [a, b]", "other"),
        ("unsafe: [a, b]", "unsafe: [a]", "one"),
        ("unsafe: [a], safe: [c]", "unsafe: [a]", "other"),
        ("unsafe: [a], threshold: 0.4", "unsafe: [a]", "one"),
        ("unsafe: [a], action: flag", "unsafe: [a]", "other"),
        ("unsafe: [a], status: sensitive", "unsafe: [a]", "one"),
        ("unsafe: [a], status: exempt", "unsafe: [a]", "other"),
        ("unsafe: [a]", "unsafe: [a], description: d", "other"),
    ],
)
def test_of_two_bodies_of_one_rule_the_stricter_wins(one: str, other: str, wins: str, tmp_path: Path) -> None:
    rules = {"one": base(one), "other": base(other), "same": base(one)}
    expected = parse_policy(load(tmp_path, rules[wins])).rules
    assert together(tmp_path, base(one), base(other)).rules == expected
    assert together(tmp_path, base(other), base(one)).rules == expected


def load(folder: Path, text: str) -> dict[str, Any]:
    (folder / "x.yaml").write_text(text)
    return load_policy(folder / "x.yaml").model_dump()


def test_two_bodies_that_cannot_be_compared_are_settled_by_the_file_above(tmp_path: Path) -> None:
    one, other = base("unsafe: [a]", name="one"), base("unsafe: [b]", name="other")
    assert "define the rule 'w' differently" in problems(lambda: together(tmp_path, one, other))[0]
    settled = together(tmp_path, one, other, "replace: [{id: w, title: W, unsafe: [a, b], weakens: both}]\n")
    assert settled.rules[0].unsafe == ("a", "b")


def test_of_defaults_and_outcomes_the_stricter_win(tmp_path: Path) -> None:
    one = base("unsafe: [a]", "defaults: {threshold: 0.4, action: flag, undecided_band: [0.2, 0.3]}\n")
    other = base(
        "unsafe: [a]",
        "defaults: {min_label_mass: 0.7, undecided_band: [0.1, 0.2]}\noutcomes: {error: flag}\n",
    )
    for policy in (together(tmp_path, one, other), together(tmp_path, other, one)):
        assert policy.defaults.model_dump() == {
            "threshold": 0.4,
            "action": Action.BLOCK,
            "undecided_band": (0.1, 0.3),
            "min_label_mass": 0.7,
            "frames": "all",
            "without_scores": "refuse",
            "calibration": None,
        }
        assert policy.resolve().outcomes[Outcome.ERROR] is Action.BLOCK


def test_a_base_that_another_base_loosens_needs_a_reason(tmp_path: Path) -> None:
    one = base("unsafe: [a]")
    other = "id: o\nversion: 1.0.0\ntitle: T\nrules: [{id: x, title: X, unsafe: [a], status: exempt}]\n"
    assert "declares its items non-violating" in problems(lambda: together(tmp_path, one, other))[0]
    assert together(tmp_path, one, other, "weakens: x is art\n").weakenings[0].reason == "x is art"


def test_worlds_are_not_mixed(tmp_path: Path) -> None:
    one, other = base("unsafe: [a]", "world: pictosafe\n"), base("unsafe: [a]")
    assert "different worlds" in problems(lambda: together(tmp_path, one, other))[0]
    assert "cannot be changed" in problems(lambda: together(tmp_path, other, other, "world: pictosafe\n"))[0]
    assert together(tmp_path, one, one).world == "pictosafe"
    assert together(tmp_path, one, one, "world: pictosafe\n").world == "pictosafe"


def test_a_base_that_is_reached_on_two_ways_counts_once(tmp_path: Path) -> None:
    files(tmp_path, base=base("unsafe: [a]", "description: D\n"))
    side = "id: {0}\nversion: 1.0.0\nextends: base.yaml\noverrides: {{w: {{threshold: {1}}}}}\n"
    policy = together(tmp_path, side.format("l", 0.4), side.format("r", 0.3))
    assert policy.rules[0].threshold == 0.3
    assert policy.description == "D"


# Purity.


def test_resolution_depends_on_nothing_but_what_the_files_say(
    shop: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key order, comments, line ends, quotes, the folder, the working folder, the environment, and links."""
    expected = (shop.resolve().fingerprint, shop.resolve().decision_fingerprint, shop)
    texts = {name: (tmp_path / f"{name}.yaml").read_text() for name in ("house", "shop")}
    rng = random.Random(7)
    for index in range(20):
        folder = tmp_path / f"copy {index}" / "x"
        folder.mkdir(parents=True)
        for name, text in texts.items():
            blocks: list[str] = []
            for line in text.splitlines():
                if line.startswith((" ", "}")):
                    blocks[-1] += line + "\n"
                else:
                    blocks.append(line + "\n")
            rng.shuffle(blocks)
            changed = "".join(f"# {rng.random()}\n{block}" for block in blocks)
            if index % 2:
                changed = changed.replace("\n", "\r\n")
            (folder / f"{name}.yaml").write_bytes(changed.encode())
        monkeypatch.chdir(folder if index % 3 else tmp_path)
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setenv("min_age", str(index))
        source = Path("shop.yaml") if index % 3 else folder / "shop.yaml"
        loaded = load_policy(source)
        assert (loaded.resolve().fingerprint, loaded.resolve().decision_fingerprint, loaded) == expected
        assert hash(loaded.resolve()) == hash(shop.resolve())


def test_a_composed_policy_has_the_same_fingerprint_on_every_machine(tmp_path: Path) -> None:
    files(tmp_path, house=HOUSE, top="id: t\nversion: 1.0.0\nextends: house.yaml\nparameters: {city: Rome}\n")
    resolved = load_policy(tmp_path / "top.yaml").resolve()
    assert resolved.fingerprint == FINGERPRINT
    assert resolved.decision_fingerprint == DECISION
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    os.utime(tmp_path / "copy" / "top.yaml", (0, 0))
    assert load_policy(tmp_path / "copy" / "top.yaml").resolve() == resolved


def test_who_forbids_more_in_an_exempt_rule_is_told_that_it_is_exempt(tmp_path: Path) -> None:
    def drinks(before: str, change: str) -> Any:
        rule = f"{{id: drinks, title: Drinks, unsafe: [wine], status: {before}}}"
        layer = f"overrides:\n  drinks: {{{change}unsafe: {{add: [whisky]}}}}\n"
        files(
            tmp_path,
            base=f"id: base\nversion: 1.0.0\ntitle: Base\nrules:\n  - {rule}\n",
            top=f"id: top\nversion: 1.0.0\nextends: base.yaml\n{layer}",
        )
        return lambda: load_policy(tmp_path / "top.yaml")

    (problem,) = problems(drinks("exempt", ""))
    assert "declares 'whisky' non-violating (the rule is exempt: `status: active` would forbid it)" in problem
    assert ("wine", "whisky") == drinks("exempt", "status: active, ")().rules[0].unsafe
    assert not any("would forbid it" in line for line in problems(drinks("active", "status: exempt, ")))
