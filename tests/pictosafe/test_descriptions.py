"""Titles and descriptions that say what the lists do not are found, and harmless ones are not."""

from __future__ import annotations

import pytest

from policyguard import Policy
from policyguard.authoring import doubts
from policyguard.dialects.pico import PicoDialect
from policyguard.errors import ConfigurationError
from policyguard.pictosafe.descriptions import Said, unlisted
from policyguard.policy import load_policy, parse_policy


def house(
    description: str = "",
    *,
    title: str = "A rule",
    unsafe: tuple[str, ...] = ("weapons",),
    safe: tuple[str, ...] = (),
    status: str = "active",
    about: str = "",
) -> Policy:
    rule = {"id": "r", "title": title, "description": description, "unsafe": list(unsafe), "safe": list(safe)}
    head = {"id": "house", "version": "1.0.0", "title": "House", "world": "pictosafe", "description": about}
    return parse_policy(head | {"rules": [rule | {"status": status}]})


def refused(policy: Policy) -> bool:
    """Whether pico's dialect refuses it, and for this reason."""
    try:
        PicoDialect().render(policy.resolve())
    except ConfigurationError as error:
        return "says more than the lists" in error.message and "`unsafe:` and `safe:`" in (error.hint or "")
    return False


@pytest.mark.parametrize(
    "text",
    [
        "Knives are fine.",
        "Weapons are forbidden; a knife may stay.",
        "All weapons except knives and axes.",
        "No weapons, but swords and axes are allowed.",
        "No weapons, except museum exhibits.",
        "No weapons unless they are framed.",
        "Framed ones are fine.",
        "Weapons that hang in a museum are welcome.",
        "Weapons are never fine, except in a museum.",
        "Signs that forbid weapons are fine.",
        "This rule does not apply to knives.",
        "Knives are not forbidden.",
        "No weapons and no alcohol.",
        "Beer is forbidden too.",
        "Beer must not be shown.",
        "Wine is never welcome here.",
        "Weapons, including bombs.",
        "Everything is fine except beer.",
        "KNIVES  are\nfine",
        "Knives are of course tolerated.",
        "Knives aren't forbidden.",
        "Exceptions: museum exhibits.",
        "Beer isn’t allowed.",
        "Do not show beer.",
    ],
)
def test_a_text_that_says_outright_what_the_lists_deny_is_refused(text: str) -> None:
    assert refused(house(text))
    assert refused(house(title=text.replace("\n", " ")))


@pytest.mark.parametrize(
    ("text", "unsafe", "safe"),
    [
        ("Knives are fine.", ("weapons",), ("knife",)),
        ("All weapons except knives and axes.", ("weapons",), ("a knife", "the axe")),
        ("No weapons, except museum exhibits.", ("weapons",), ("museum exhibits of weapons",)),
        ("No weapons unless they are framed.", ("weapons",), ("framed weapons",)),
        ("Signs that forbid weapons are fine.", ("weapons",), ("prohibition signs of weapons",)),
        ("No weapons and no alcohol.", ("weapons", "alcohol"), ()),
        ("Everything is fine except beer.", ("beer",), ()),
        ("Apart from beer, everything is allowed.", ("beer",), ()),
        ("Everything except beer may hang here.", ("beer",), ()),
        ("Unless it shows beer, it is fine.", ("beer",), ()),
        ("Hearts are welcome, kisses are not.", ("kiss",), ()),
        ("Weapons are not allowed.", ("weapons",), ()),
        ("No weapons of any kind, at any time.", ("weapons",), ()),
        ("No weapons and no harm.", ("weapons",), ()),
    ],
)
def test_the_same_words_pass_where_the_lists_say_so_too(
    text: str, unsafe: tuple[str, ...], safe: tuple[str, ...]
) -> None:
    policy = house(text, unsafe=unsafe, safe=safe)
    assert not refused(policy)
    assert "only-described" not in {remark.code for remark in doubts(policy)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Weapons",
        "Weapons and the like",
        "Nothing that frightens our visitors.",
        "Nobody should have to look at these.",
        "The office cat saw none of them, and the sun is shining.",
        "Pictures in the corridors of a hospital, next to the church.",
        "No death threats, please.",
        "See the book by the door for what this means.",
        "Ask the owner about doubtful cases.",
        "There are no bottles of wine here.",
        "Even framed weapons are forbidden.",
        "Weapons are banned, framed or not.",
        "All weapons. No exceptions.",
        "It does not matter who carries weapons.",
        "Because weapons frighten our cats, they are banned.",
        "Our museum shows no weapons.",
        "A weapon under a prohibition sign is still a weapon.",
    ],
)
def test_plain_texts_are_no_matter(text: str) -> None:
    assert () == tuple(unlisted(house(text)))
    assert () == tuple(unlisted(house(about=text)))


@pytest.mark.parametrize(
    "text",
    [
        "No machines, dice or cards.",
        "No machines, dice or cards beside the classrooms.",
        "No cards or dice.",
        "No cards, machines, dice.",
        "No slot machines, packs of cards, dice and the like.",
        "No dice, cards or machines are allowed.",
        "No machines or dice are allowed.",
        "No machines and dice may be shown here.",
        "No wine bottles, pistol grips or dice, please.",
        "Neither cards nor dice.",
        "Nothing with cards or dice.",
        "Never cards, machines or dice.",
        "Roulette, dice and cards are forbidden.",
        "Dice and cards are not allowed.",
        "Cards, dice and machines must not be shown.",
        "We forbid machines, cards and dice.",
        "Do not show machines, dice or cards.",
        "Games of chance, including machines, dice and cards.",
        "Quiet, no machines, dice or cards.",
        "Games including cards and dice are forbidden.",
        "No machines or dice may be brought along.",
        "No machines or dice are wanted.",
    ],
)
def test_an_item_anywhere_in_a_list_of_what_is_forbidden_is_found(text: str) -> None:
    for field in ({"description": text}, {"title": text}, {"about": text}):
        assert refused(house(**field, unsafe=("gambling",), safe=("dice",)))
        assert refused(house(**field, unsafe=("weapons",)))
        assert not refused(house(**field, unsafe=("gambling",)))
    found = list(unlisted(house(text, unsafe=("gambling",), safe=("dice",))))
    assert [True] == [said.sure for said in found[:1]]
    assert all("'dice'" in said.message for said in found)


@pytest.mark.parametrize(
    "text",
    [
        "Toys and knives are fine.",
        "Knives, rulers and forks are fine.",
        "Rulers or knives may be shown.",
        "We allow rulers and knives.",
        "No weapons, except rulers, knives or forks.",
        "Exceptions: rulers and knives.",
        "This rule does not apply to rulers or knives.",
    ],
)
def test_an_item_anywhere_in_a_list_of_what_is_permitted_is_found(text: str) -> None:
    assert refused(house(text))
    assert not refused(house(text, safe=("knife",)))


@pytest.mark.parametrize(
    "text",
    [
        "No machines, games or cards.",
        "No harm, dice are fine.",
        "No worries, dice and cats are fine.",
        "No fuss about it, dice or cards, whatever they like.",
        "No weapons, thank you, and dice are fine.",
        "No machines with dice, books about dice or talk of dice.",
        "No dice games or card games.",
        "Whether cards, dice or machines, ask the owner.",
        "No weapons, but dice and cards are allowed.",
        "No weapons apart from toys; cards and dice are fine.",
        "No machines that frighten cats.",
        "No matter what, cards, dice and machines are fine.",
        "No weapons near dice and cards.",
        "Neither the author nor the book is to blame.",
        "No book is too dull.",
        "Cats, dogs and dice are fine.",
    ],
)
def test_what_stands_beside_a_list_of_what_is_forbidden_is_no_part_of_it(text: str) -> None:
    assert not refused(house(text))
    assert not refused(house(title=text))


@pytest.mark.parametrize(
    "text", ["No dice are allowed.", "No cards or dice may be shown.", "Neither dice nor cards are fine."]
)
def test_a_list_that_is_denied_is_not_taken_for_one_that_is_allowed(text: str) -> None:
    assert () == tuple(unlisted(house(text, unsafe=("dice",))))


@pytest.mark.parametrize(
    "text", ["No machines that take coins, dice or cards.", "No worries, dice or cards.", "No book is dull."]
)
def test_an_item_of_a_list_that_is_hard_to_follow_is_left_to_lint(text: str) -> None:
    ((_, sure),) = [(said.message, said.sure) for said in unlisted(house(text))]
    assert not sure


@pytest.mark.parametrize("level", range(1, 6))
def test_the_packaged_policies_say_in_their_texts_what_their_lists_say(level: int) -> None:
    policy = load_policy(f"pictosafe/l{level}")
    assert () == tuple(unlisted(policy))
    assert not refused(policy)


@pytest.mark.parametrize(
    ("policy", "part"),
    [
        (house("Only framed weapons are allowed."), "allows 'framed weapons'"),
        (house("Knives are fine.", safe=("framed knife",)), "forbid a part of it"),
        (house("No weapons.", unsafe=("knife",)), "do not forbid pistol"),
        (house(title="Alcohol"), "the lists do not name it"),
        (house("More than two knives."), "a number"),
        (house("Weapons next to children's toys, weapons next to food."), "together"),
        (house("We tolerate knives."), "seems to allow"),
        (house("Let knives pass."), "seems to allow"),
        (house("The same goes for beer."), "seems to forbid"),
        (house("Block beer too."), "seems to forbid"),
        (house("Only unframed weapons."), "a frame, a museum or a sign"),
        (house("Behind glass everything is allowed."), "a frame, a museum or a sign"),
        (house("No toy pistols."), "how a pictogram looks"),
        (house("Whatever hurts, unless the parents agree."), "makes an exception"),
    ],
)
def test_what_is_doubtful_is_left_to_lint(policy: Policy, part: str) -> None:
    assert not refused(policy)
    (remark,) = [remark for remark in doubts(policy) if remark.code == "only-described"]
    assert part in remark.message
    assert "pico does not read it" in remark.message


def test_the_text_of_the_policy_itself_is_held_against_all_rules() -> None:
    assert refused(house(about="Alcohol is forbidden in this house."))
    assert not refused(house(about="Alcohol is forbidden in this house.", unsafe=("weapons", "alcohol")))


def test_a_rule_that_forbids_nothing_may_say_what_it_likes() -> None:
    assert not refused(house("Knives are fine.", status="exempt"))


def test_what_is_found_names_its_rule_and_field() -> None:
    (said,) = unlisted(house("Knives are fine."))
    message = "'knives are fine' allows 'knives', and the lists forbid it"
    assert Said(0, "description", message, sure=True) == said
