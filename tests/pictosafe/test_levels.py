"""The five levels: how strict, how mixed, and not one inside the other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from policyguard.pictosafe.benchmark import edit_pair
from policyguard.pictosafe.rules import LEVELS, group_table, is_unsafe, load_level, symbolic_level
from policyguard.pictosafe.scene import draw_scene
from policyguard.pictosafe.world import CONTEXTS, GROUP_OF, MEMBERS, NAMES, Context

DOCS = Path(__file__).parents[2] / "docs" / "pictosafe.md"
BANDS = {"l1": (0.0, 0.0), "l2": (0.12, 0.18), "l3": (0.31, 0.39), "l4": (0.52, 0.60), "l5": (0.66, 0.74)}


def forbidden(level: str) -> set[tuple[str, Context | None]]:
    """Every (pictogram, context) that the level forbids."""
    rules = symbolic_level(level).rules
    return {
        (name, context)
        for name in NAMES
        for context in (None, *CONTEXTS)
        if any(rule.is_broken_by(name, context=context) for rule in rules)
    }


@pytest.mark.parametrize("name", LEVELS)
def test_the_share_of_unsafe_scenes_is_in_its_band(name: str) -> None:
    rng = Random(21)
    unsafe = [is_unsafe(symbolic_level(name), draw_scene(rng)) for _ in range(4000)]
    low, high = BANDS[name.rpartition("/")[2]]
    assert low <= sum(unsafe) / len(unsafe) <= high


def test_no_level_is_inside_a_stricter_one() -> None:
    for lenient, strict in pairwise(LEVELS[1:]):
        assert forbidden(lenient) - forbidden(strict), f"{strict} forbids all that {lenient} does"
    assert {GROUP_OF[name] for name, _ in forbidden(LEVELS[1]) - forbidden(LEVELS[4])} >= {"tobacco"}
    assert {GROUP_OF[name] for name, _ in forbidden(LEVELS[2]) - forbidden(LEVELS[4])} >= {"protest"}


def test_levels_use_the_whole_language_and_fit_what_random_policies_look_like() -> None:
    rules = [rule for name in LEVELS for rule in symbolic_level(name).rules]
    assert {rule.status for rule in rules} == {"active", "exempt", "sensitive"}
    unsafe = [item for rule in rules for item in rule.unsafe]
    safe = [item for rule in rules for item in rule.safe]
    assert (
        {item.concept in MEMBERS for item in unsafe}
        == {item.concept in MEMBERS for item in safe}
        == {True, False}
    )
    assert {item.context for item in safe} == {None, *CONTEXTS}
    assert {item.context for item in unsafe} >= {None, "prohibited"}
    for name in LEVELS:
        level = symbolic_level(name)
        assert 5 <= len(level.rules) <= 8
        assert sum(len(rule.unsafe) + len(rule.safe) for rule in level.rules) <= 18


def test_no_level_speaks_of_prohibited_tobacco_which_looks_like_the_pictogram_nosmoking() -> None:
    items = [
        item for name in LEVELS for rule in symbolic_level(name).rules for item in rule.unsafe + rule.safe
    ]
    tobacco = {"tobacco", *MEMBERS["tobacco"]}
    assert not [item for item in items if item.concept in tobacco and item.context == "prohibited"]


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_says_whose_it_is_and_how_to_use_it(name: str) -> None:
    source = (DOCS.parents[1] / "policies" / f"{name}.yaml").read_text()
    assert source.startswith("# PictoSafe level")
    assert f"policyguard check PATH --policy {name}" in source
    policy = load_level(name)
    assert policy.world == "pictosafe"
    assert policy.id == name
    assert policy.description
    assert all(rule.description for rule in policy.rules)


def test_the_table_in_the_docs_is_what_the_code_says() -> None:
    text = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- table: begin -->\n", "\n<!-- table: end -->"
    assert text[text.index(start) + len(start) : text.index(end)] == group_table()


def test_every_edit_pair_differs_in_one_place_and_flips_the_levels_it_names() -> None:
    levels = [symbolic_level(name) for name in LEVELS]
    rng = Random(2)
    first = []
    for _ in range(300):
        pair = edit_pair(rng, levels)
        assert pair.before.replace(pair.place) != pair.after
        one, other = pair.before.placements[pair.place], pair.after.placements[pair.place]
        assert (one.name != other.name) != (one.context != other.context)
        assert pair.before.replace(pair.place, name=other.name, context=other.context) == pair.after
        flipped = {p.id for p in levels if is_unsafe(p, pair.before) != is_unsafe(p, pair.after)}
        assert set(pair.policies) == flipped
        assert is_unsafe(symbolic_level(pair.policies[0]), pair.before)
        first.append(pair.policies[0])
    assert all(0.15 < first.count(name) / len(first) < 0.35 for name in LEVELS[1:])


def test_no_edit_pair_is_made_up_where_nothing_is_forbidden() -> None:
    with pytest.raises(ValueError, match="no edit"):
        edit_pair(Random(1), [symbolic_level(LEVELS[0])])


def test_the_docs_list_every_word_of_the_world_in_order() -> None:
    text = DOCS.read_text(encoding="utf-8")
    start, end = "<!-- words: begin -->\n", "\n<!-- words: end -->"
    rows = text[text.index(start) + len(start) : text.index(end)].splitlines()[2:]
    assert rows == [f"| {group} | {', '.join(members)} |" for group, members in MEMBERS.items()]
