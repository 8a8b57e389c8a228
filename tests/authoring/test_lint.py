"""Lint says what is doubtful about a policy that can be used, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyguard import Policy
from policyguard.authoring import Level, Remark, TokenCounter, doubts, lint
from policyguard.errors import ConfigurationError
from policyguard.pictosafe.world import NAMES
from policyguard.policy import load_policy, parse_policy

WEAPONS = {"id": "arms", "title": "Arms", "unsafe": ["guns, knives or swords"], "safe": ["water pistols"]}


def policy(*rules: dict[str, Any], **changes: Any) -> Policy:
    head = {"id": "house", "version": "1.0.0", "title": "House", "owner": "Us", "licence": "MIT"}
    return parse_policy(head | {"rules": list(rules) or [WEAPONS]} | changes)


def found(*rules: dict[str, Any], **changes: Any) -> list[Remark]:
    return list(doubts(policy(*rules, **changes)))


def codes(*rules: dict[str, Any], **changes: Any) -> set[str]:
    return {remark.code for remark in found(*rules, **changes)}


def arms(**changes: Any) -> dict[str, Any]:
    return WEAPONS | changes


def test_a_good_policy_gives_no_remark() -> None:
    assert [] == found()


@pytest.mark.parametrize(
    ("safe", "level"),
    [
        ("Guns, knives or swords", Level.ERROR),
        ("the sword", Level.ERROR),
        ("harmless knives", Level.WARNING),
        ("guns that are allowed", Level.WARNING),
        ("acceptable", Level.WARNING),
    ],
)
def test_an_exception_that_repeats_the_prohibition_is_named(safe: str, level: Level) -> None:
    (remark,) = found(arms(safe=[safe]))
    assert (level, "rules.arms.safe[0]") == (remark.level, remark.field)


@pytest.mark.parametrize(
    "safe", ["swords in a display case", "kitchen knives", "a toy gun in bright colours"]
)
def test_an_exception_that_says_what_it_looks_like_is_fine(safe: str) -> None:
    assert set() == codes(arms(safe=[safe]))


def test_a_sensitive_rule_may_list_one_thing_twice_since_both_lists_are_forbidden() -> None:
    assert set() == codes(arms(safe=["the sword"], status="sensitive"))


def test_rules_that_contradict_each_other_are_named() -> None:
    other = {"id": "tools", "title": "Tools", "unsafe": ["saws"], "safe": ["Guns, knives, or swords"]}
    remark = next(r for r in found(arms(), other) if r.code == "contradiction")
    assert ("rules.tools.safe[0]", Level.WARNING) == (remark.field, remark.level)
    assert "'arms' forbids this" in remark.message
    exempt = {"id": "tools", "title": "Tools", "unsafe": ["guns, knives or swords"], "status": "exempt"}
    assert {"contradiction"} == codes(arms(), exempt)


NOTHING_LEFT = "nothing can break this rule"


def idle(policy: Policy) -> list[str | None]:
    """Where lint says that a rule forbids nothing."""
    remarks = [remark for remark in doubts(policy) if NOTHING_LEFT in remark.message]
    assert {("contradiction", Level.ERROR)} >= {(remark.code, remark.level) for remark in remarks}
    return [remark.field for remark in remarks]


@pytest.mark.parametrize(
    ("unsafe", "safe", "place"),
    [
        (["a bow", "a pistol"], ["weapons"], 0),
        (["a bow"], ["a boomerang", "every weapons", "a bomb"], 1),
        (["tobacco"], ["cigarette", "nosmoking"], 1),
        (["framed bow", "museum exhibits of weapons"], ["a cat", "exhibited weapons"], 1),
        (["weapons", "a bow"], ["a bow", "pictures of weapons"], 1),
        (["any bow", "beer"], ["weapons", "alcohol"], 1),
        (["museum bow"], ["images of weapons"], 0),
    ],
)
def test_a_rule_of_pictosafe_whose_exceptions_cover_all_it_forbids_is_named(
    unsafe: list[str], safe: list[str], place: int
) -> None:
    rule = arms(unsafe=unsafe, safe=safe)
    assert [f"rules.arms.safe[{place}]"] == idle(policy(rule, world="pictosafe"))
    assert [] == idle(policy(rule | {"status": "sensitive"}, world="pictosafe"))


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        (["weapons"], ["a bow", "a pistol"]),
        (["a bow", "a bomb"], ["weapons"]),
        (["a bow"], ["framed weapons", "banned weapons"]),
        (["framed weapons"], ["prohibited weapons"]),
        (["tobacco"], ["cigarette", "framed nosmoking"]),
        (["weapons"], []),
    ],
)
def test_a_rule_of_pictosafe_whose_exceptions_leave_something_is_fine(
    unsafe: list[str], safe: list[str]
) -> None:
    assert [] == idle(policy(arms(unsafe=unsafe, safe=safe), world="pictosafe"))


@pytest.mark.parametrize(
    ("unsafe", "safe", "place"),
    [
        (["guns", "swords"], ["Swords, knives and guns"], 0),
        (["guns or swords", "bombs"], ["guns, swords", "knives or bombs"], 1),
        (["guns", "people who fight"], ["any image"], 0),
        (["guns"], ["toys", "everything"], 1),
    ],
)
def test_a_rule_whose_exceptions_name_all_it_forbids_is_named(
    unsafe: list[str], safe: list[str], place: int
) -> None:
    assert [f"rules.arms.safe[{place}]"] == idle(policy(arms(unsafe=unsafe, safe=safe)))


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        (["guns", "swords", "bombs"], ["swords, knives and guns"]),
        (["a knife held against a person"], ["knives", "a person"]),
        (["children in beds or pools"], ["adults in beds or pools"]),
        (["guns"], ["all other images", "everything else"]),
        (["guns"], ["images of toys"]),
    ],
)
def test_a_rule_whose_exceptions_leave_something_is_fine(unsafe: list[str], safe: list[str]) -> None:
    assert [] == idle(policy(arms(unsafe=unsafe, safe=safe)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("safe:\n      add: [weapons]", ("layer.yaml", 8)),
        ("unsafe:\n      remove: [a bomb]", ("base.yaml", 10)),
        ("unsafe:\n      add: [a flame]", None),
        ("safe:\n      add: [explosives]", ("layer.yaml", 8)),
    ],
)
def test_a_layer_that_leaves_a_rule_with_nothing_to_forbid_is_named(
    tmp_path: Path, change: str, named: tuple[str, int] | None
) -> None:
    base, layer = tmp_path / "base.yaml", tmp_path / "layer.yaml"
    held = "a bow, a bomb" if "remove" in change else "a bow" if "weapons" in change else "a bomb"
    fine = "weapons" if "remove" in change else "a cat"
    base.write_text(
        "id: base\nversion: 1.0.0\ntitle: Base\nworld: pictosafe\nrules:\n  - id: arms\n    title: Arms\n"
        f"    unsafe: [{held}]\n    safe:\n      - {fine}\n"
    )
    layer.write_text(
        "id: layer\nversion: 1.0.0\ntitle: Layer\nextends: base.yaml\noverrides:\n  arms:\n"
        f"    {change}\n    weakens: for this test\n"
    )
    places = [(r.file, r.line) for r in lint(layer) if NOTHING_LEFT in r.message]
    assert ([(str(tmp_path / named[0]), named[1])] if named else []) == places


@pytest.mark.parametrize(
    ("status", "said", "quoted"),
    [
        ("exempt", "Weapons of any kind. They are not allowed on our site.", "are not allowed"),
        ("exempt", "We forbid every weapon.", "We forbid"),
        ("exempt", "Weapons. Do not show any.", "Do not show"),
        ("exempt", "Guns must not be shown, not even toys.", "must not be shown"),
        ("exempt", "No weapons.", "No weapons"),
        ("exempt", "No weapons of any kind, not even toys.", "No weapons of any kind"),
        ("exempt", "None.", "None"),
        ("exempt", "None, except those in a museum.", "None"),
        ("exempt", "Nothing that shows a gun. Toys look like guns.", "Nothing that shows a gun"),
        ("exempt", "Nothing that is sharp.", "Nothing that is sharp"),
        ("exempt", "No weapons; no exceptions.", "No weapons"),
        ("exempt", "No weapon may be shown.", "No weapon may be shown"),
        ("sensitive", "Weapons of any kind; kitchen knives are fine.", "are fine"),
        ("sensitive", "Every weapon except a kitchen knife.", "except"),
    ],
)
def test_a_description_that_says_the_opposite_of_the_status_is_named(
    status: str, said: str, quoted: str
) -> None:
    (remark,) = found(arms(status=status, description=said))
    assert ("contradiction", Level.WARNING, "rules.arms.status") == (remark.code, remark.level, remark.field)
    assert f"the description says '{quoted}'" in remark.message
    assert found(arms(description=said)) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("exempt", "Nothing about weapons is forbidden here."),
        ("exempt", "Weapons are not forbidden."),
        ("exempt", "No problem here."),
        ("exempt", "No harm in a picture of a gun."),
        ("exempt", "No concern of ours."),
        ("exempt", "No weapon is forbidden."),
        ("exempt", "No rules about weapons."),
        ("exempt", "No longer forbidden."),
        ("exempt", "No one minds a gun."),
        ("exempt", "None of these breaks the policy."),
        ("exempt", "None of it, guns too, is forbidden."),
        ("exempt", "Nothing that shows a gun is blocked."),
        ("exempt", "Weapons. No examples are given."),
        ("sensitive", "No weapons."),
        ("exempt", "Blocks of flats, and weapons that are banned in some countries."),
        ("exempt", "They may not be real, and pictures do not show them well."),
        ("sensitive", "No weapon is allowed, and none may be shown."),
        ("sensitive", "Weapons are never fine, without exception."),
        ("sensitive", "A part of the blade can be seen, or may appear in a mirror."),
        ("sensitive", "Weapons, such as those that are allowed in other countries."),
    ],
)
def test_a_description_that_agrees_with_the_status_is_fine(status: str, said: str) -> None:
    assert found(arms(status=status, description=said)) == []


def test_a_status_that_a_layer_changes_is_named_where_the_layer_says_it(tmp_path: Path) -> None:
    base, layer = tmp_path / "base.yaml", tmp_path / "layer.yaml"
    base.write_text(
        "id: base\nversion: 1.0.0\ntitle: Base\nowner: Us\nlicence: MIT\nrules:\n"
        "  - id: arms\n    title: Arms\n    description: Arms are not allowed.\n    unsafe: [guns]\n"
        "    safe: [water pistols]\n"
    )
    layer.write_text(
        "id: layer\nversion: 1.0.0\ntitle: Layer\nowner: Us\nextends: base.yaml\n"
        "overrides:\n  arms:\n    status: exempt\n    weakens: we sell them\n"
    )
    assert [(str(layer), 8, "contradiction")] == [(r.file, r.line, r.code) for r in lint(layer)]


@pytest.mark.parametrize("side", ["unsafe", "safe"])
def test_an_item_that_a_comma_cut_off_is_named_on_either_side(side: str) -> None:
    items = ["pistols made of wood", "And bows in a museum", "such as androids", "orchids", "notes"]
    remarks = found(arms(**{side: items}))
    assert [("split-item", f"rules.arms.{side}[{n}]") for n in (1, 2)] == [(r.code, r.field) for r in remarks]


def test_a_condition_that_a_comma_cut_off_is_named_where_it_would_be_an_exception() -> None:
    items = ["knives", "without a blade"]
    assert "split-item" in codes(arms(safe=items))
    assert "split-item" not in codes(arms(unsafe=items))


def test_rules_and_items_that_repeat_each_other_are_named() -> None:
    assert {"duplicate-rule"} == codes(arms(), arms(id="more", title="More"))
    assert {"duplicate-rule"} == codes(arms(), arms(id="more", unsafe=["bombs"]))
    assert {"duplicate-item"} == codes(
        arms(), arms(id="more", title="More", unsafe=["bombs", *WEAPONS["unsafe"]])
    )
    assert {"duplicate-item"} == codes(arms(unsafe=["bombs", "Bombs."]))


@pytest.mark.parametrize(
    "text",
    [
        "a person who intends to shoot",
        "a knife held in order to frighten",
        "pictures taken without the consent of those shown",
        "illegal firearms",
        "stolen goods",
        "pictures posted by strangers",
        "misinformation about vaccines",
        "somebody who wants to fight",
    ],
)
def test_what_no_picture_can_show_is_named(text: str) -> None:
    (remark,) = found(arms(unsafe=[text]))
    assert ("not-visible", Level.WARNING) == (remark.code, remark.level)
    assert remark.message.split("'")[1].lower() in text.lower()


@pytest.mark.parametrize(
    "text", ["a tent in the woods", "a plan of a house", "a legalistic letter", "a laterite wall"]
)
def test_words_that_merely_look_alike_are_left_alone(text: str) -> None:
    assert set() == codes(arms(unsafe=[text]))


def test_a_judgement_instead_of_a_sight_is_worth_a_thought() -> None:
    (remark,) = found(arms(unsafe=["inappropriate clothing"]))
    assert ("vague", Level.INFO) == (remark.code, remark.level)


def test_a_rule_with_an_empty_side_is_named() -> None:
    assert {"no-safe-example"} == codes(arms(safe=[]))
    assert {"no-unsafe-example"} == codes(arms(unsafe=[], description="Weapons of all kinds."))
    assert set() == codes(arms(unsafe=[], safe=[], status="exempt"))


@pytest.mark.parametrize("defaults", [{"threshold": 0.99}, {"threshold": 0.01}])
def test_a_threshold_outside_sense_is_named(defaults: dict[str, float]) -> None:
    assert {"threshold"} == codes(defaults=defaults)


def test_a_rule_s_threshold_above_the_policy_s_changes_nothing_and_is_named() -> None:
    (remark,) = found(arms(threshold=0.8))
    assert ("threshold", "rules.arms.threshold") == (remark.code, remark.field)
    assert set() == codes(arms(threshold=0.8), defaults={"threshold": 0.8})


@pytest.mark.parametrize("band", [[0.1, 0.9], [0.7, 0.8], [0.1, 0.2]])
def test_an_undecided_band_beside_the_threshold_or_over_everything_is_named(band: list[float]) -> None:
    assert {"undecided-band"} == codes(defaults={"undecided_band": band})


def test_settings_that_make_nothing_of_the_model_s_answers_are_named() -> None:
    assert {"label-floor"} == codes(defaults={"min_label_mass": 0.0})
    assert {"fails-open"} == codes(outcomes={"error": "allow"})
    assert {"action"} == codes(arms(action="allow"))


def test_who_answers_for_it_and_on_what_terms_should_be_said() -> None:
    assert {"no-owner", "no-licence"} == codes(owner=None, licence=None)


def test_a_prompt_over_the_budget_is_named_as_estimated_where_it_was() -> None:
    (remark,) = doubts(policy(), budget=100)
    assert ("too-long", Level.WARNING) == (remark.code, remark.level)
    assert "estimated" in remark.message
    assert () == doubts(policy(), budget=4000)


def test_with_a_model_the_prompt_is_counted_by_its_own_tokenizer_and_held_to_its_context() -> None:
    counter = TokenCounter("pico")
    (remark,) = doubts(load_policy("pictosafe/l5"), counter=counter, budget=10)[:1]
    assert "counted by the tokenizer of pico" in remark.message
    counter.context = 20
    (remark,) = doubts(load_policy("pictosafe/l5"), counter=counter)[:1]
    assert (Level.ERROR, "too-long") == (remark.level, remark.code)


def test_a_model_that_cannot_read_the_policy_is_an_error() -> None:
    (remark,) = doubts(policy(world="pictosafe"))[:1]
    assert (Level.ERROR, "unreadable") == (remark.level, remark.code)


def test_words_that_pictosafe_lacks_are_named_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nowner: Us\nlicence: MIT\nworld: pictosafe\nrules:\n"
        "  - id: arms\n    title: Arms\n    unsafe:\n      - a knife\n      - knifes\n    safe: [guns]\n"
        "  - id: told\n    title: Told\n    description: All weapons.\n    safe: [bow]\n"
    )
    error, *rest = lint(file)
    assert ("unreadable", 8, "rules.arms") == (error.code, error.line, error.field)
    assert error.message.startswith("pico cannot read policy 'house': rule 'arms': 'knifes' is no pictogram")
    assert error.message.endswith("did you mean 'knife'? (and 2 more, at their own lines)")
    named = [(r.code, r.line, r.column) for r in rest if r.code != "no-unsafe-example"]
    assert [("unknown-word", 12, 9), ("unknown-word", 13, 12), ("only-described", 16, 18)] == named
    assert {Level.WARNING} == {r.level for r in rest}
    assert "did you mean 'knife'?" in rest[0].message


def test_what_is_about_the_whole_prompt_has_a_file_and_no_line(tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    rules = "".join(f"  - {{id: r{n}, title: R{n}, unsafe: [knife], safe: [bow]}}\n" for n in range(9))
    file.write_text(
        f"id: house\nversion: 1.0.0\ntitle: House\nowner: Us\nlicence: MIT\nworld: pictosafe\nrules:\n{rules}"
    )
    remark = next(remark for remark in lint(file, budget=1) if remark.code == "unreadable")
    assert str(remark).startswith(f"{file}: error: pico reads at most 8 rules")


def test_more_rules_than_pico_reads_are_named() -> None:
    rules = [{"id": f"r{n}", "title": f"R{n}", "unsafe": ["knife"], "safe": ["bow"]} for n in range(9)]
    found = [r for r in doubts(policy(*rules, world="pictosafe")) if r.code == "too-many-rules"]
    assert [("rules.r8", Level.WARNING)] == [(r.field, r.level) for r in found]
    assert "too-many-rules" not in {r.code for r in doubts(policy(*rules[:8], world="pictosafe"))}


def test_more_items_than_pico_reads_are_named() -> None:
    def named(count: int) -> list[tuple[str | None, Level]]:
        rule = {"id": "r", "title": "R", "unsafe": list(NAMES[:count])}
        return [
            (r.field, r.level) for r in doubts(policy(rule, world="pictosafe")) if r.code == "too-many-items"
        ]

    assert [("rules", Level.WARNING)] == named(23)
    assert [] == named(22)


@pytest.mark.parametrize(
    ("world", "said"), [("pictosaf", "did you mean pictosafe?"), ("mars", "known is pictosafe")]
)
def test_a_world_that_nobody_knows_is_named(world: str, said: str) -> None:
    (remark,) = found(world=world)
    assert ("unknown-world", "world", Level.WARNING) == (remark.code, remark.field, remark.level)
    assert f"unknown world '{world}': {said}" == remark.message


def test_no_tokenizer_is_fetched_from_anywhere() -> None:
    with pytest.raises(ConfigurationError, match="not on this machine"):
        TokenCounter("Qwen/Qwen3-VL-4B-Instruct")


def test_remarks_stand_in_the_order_of_the_file_with_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nowner: Us\nrules:\n"
        "  - id: arms\n    title: Arms\n    unsafe:\n      - guns\n      - guns\n    safe: [the gun]\n"
    )
    places = [(r.code, r.line, r.column) for r in lint(file)]
    assert [("no-licence", 1, 1), ("duplicate-item", 10, 9), ("contradiction", 11, 12)] == places


def test_of_a_composed_policy_the_file_that_says_it_is_named(tmp_path: Path) -> None:
    base, layer = tmp_path / "base.yaml", tmp_path / "layer.yaml"
    base.write_text(
        "id: base\nversion: 1.0.0\ntitle: Base\nowner: Us\nlicence: MIT\nrules:\n"
        "  - id: arms\n    title: Arms\n    unsafe:\n      - illegal guns\n    safe: [water pistols]\n"
    )
    layer.write_text(
        "id: layer\nversion: 1.0.0\ntitle: Layer\nowner: Us\nextends: base.yaml\n"
        "overrides:\n  arms:\n    threshold: 0.01\n"
    )
    assert {(str(base), 10, "not-visible"), (str(layer), 8, "threshold")} == {
        (r.file, r.line, r.code) for r in lint(layer)
    }


def test_a_file_that_cannot_be_used_gives_its_mistakes_as_remarks(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("id: house\nversion: one\ntitle: House\nrules: []\n")
    assert {("invalid", Level.ERROR)} == {(r.code, r.level) for r in lint(file)}
    assert [2, 4] == [r.line for r in lint(file)]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("unsafe:\n      - guns\n        - knives\n        - swords\n      - bombs\n", [9, 10]),
        ("unsafe: [guns]\n    description: No\n      - guns\n", [9]),
        ("unsafe:\n      - guns\n      - knives\n", []),
        ("unsafe:\n      - 'guns\n        - knives'\n", []),
        ("unsafe:\n      - guns\n        -knives\n", []),
    ],
)
def test_a_line_of_a_list_that_yaml_adds_to_the_text_above_is_named(
    tmp_path: Path, source: str, lines: list[int]
) -> None:
    file = tmp_path / "house.yaml"
    head = "id: house\nversion: 1.0.0\ntitle: House\nrules:\n"
    file.write_text(f"{head}  - id: arms\n    title: Arms\n    {source}")
    remarks = [remark for remark in lint(file) if remark.code == "swallowed-item"]
    assert lines == [remark.line for remark in remarks]


def test_a_line_that_yaml_adds_to_the_text_above_is_named_in_a_file_that_is_extended(tmp_path: Path) -> None:
    base, middle, layer = (tmp_path / name for name in ("base.yaml", "middle.yaml", "layer.yaml"))
    rule = "  - id: {0}\n    title: {0}\n    unsafe:\n      - guns\n        - knives\n"
    head = "id: {0}\nversion: 1.0.0\ntitle: {0}\n"
    base.write_text(head.format("base") + "rules:\n" + rule.format("arms"))
    middle.write_text(head.format("middle") + "extends: base.yaml\nrules:\n" + rule.format("tools"))
    layer.write_text(head.format("layer") + "extends: middle.yaml\noverrides:\n  arms: {threshold: 0.4}\n")
    for text in (None, layer.read_text()):
        found = [(r.file, r.line, r.column) for r in lint(layer, text=text) if r.code == "swallowed-item"]
        assert [(str(base), 9, 9), (str(middle), 10, 9)] == found
