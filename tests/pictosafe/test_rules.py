"""Exact labels, row by row."""

from __future__ import annotations

import pytest

from policyguard.pictosafe.language import Item
from policyguard.pictosafe.rules import PictoPolicy, PictoRule, is_unsafe, violating
from policyguard.pictosafe.scene import Placement, Scene
from policyguard.pictosafe.world import Context
from policyguard.policy import Policy, parse_policy


def scene(*names: str) -> Scene:
    """``"knife*"`` is a framed knife, ``"knife!"`` one under a prohibition sign."""
    contexts: dict[str, Context] = {"*": "framed", "!": "prohibited"}
    placements = [Placement(n.rstrip("*!"), 5, 5, 28, 0, contexts.get(n[-1]), 0) for n in names]
    return Scene(tuple(placements), 0, 0, 1.0)


def policy(*rules: dict[str, object]) -> Policy:
    listed = [{"id": f"r{number}", "title": "A rule"} | rule for number, rule in enumerate(rules, start=1)]
    return parse_policy({"id": "t", "version": "1.0.0", "title": "T", "world": "pictosafe", "rules": listed})


WEAPONS = {"unsafe": ["weapons"]}
EXHIBITS = WEAPONS | {"safe": ["museum exhibits of weapons"]}
SIGNS = WEAPONS | {"safe": ["prohibition signs of weapons"]}
BUT_AXES = WEAPONS | {"safe": ["an axe"]}
BUT_FRAMED_AXES = WEAPONS | {"safe": ["a framed axe"]}
SENSITIVE = EXHIBITS | {"status": "sensitive"}
EXEMPT = WEAPONS | {"status": "exempt"}


@pytest.mark.parametrize(
    ("rules", "shown", "expected"),
    [
        pytest.param([WEAPONS], ["knife"], [("r1", 0)], id="a member of a forbidden group"),
        pytest.param([WEAPONS], ["knife*"], [("r1", 0)], id="a frame excuses nothing by itself"),
        pytest.param([WEAPONS], ["camera"], [], id="another group"),
        pytest.param([WEAPONS], ["cat", "knife"], [("r1", 1)], id="one of several pictograms is enough"),
        pytest.param([WEAPONS], ["axe", "knife"], [("r1", 0), ("r1", 1)], id="each pictogram counts"),
        pytest.param([{"unsafe": ["knife"]}], ["dagger"], [], id="a sibling of a single pictogram"),
        pytest.param([{"unsafe": ["framed knife"]}], ["knife"], [], id="forbidden in a frame, and free"),
        pytest.param(
            [{"unsafe": ["framed knife"]}], ["knife*"], [("r1", 0)], id="forbidden in a frame, and framed"
        ),
        pytest.param([EXHIBITS], ["knife*"], [], id="an exhibit is excused"),
        pytest.param([EXHIBITS], ["knife"], [("r1", 0)], id="the same thing outside a frame is not"),
        pytest.param(
            [EXHIBITS], ["cat*", "knife"], [("r1", 1)], id="another pictogram's frame does not help"
        ),
        pytest.param([BUT_AXES], ["axe"], [], id="one member is excused"),
        pytest.param([BUT_AXES], ["axe", "knife"], [("r1", 1)], id="what is excused excuses nothing else"),
        pytest.param([BUT_FRAMED_AXES], ["axe*"], [], id="one member is excused in a frame"),
        pytest.param([BUT_FRAMED_AXES], ["axe"], [("r1", 0)], id="and not outside one"),
        pytest.param([BUT_FRAMED_AXES], ["knife*"], [("r1", 0)], id="nor is its framed sibling"),
        pytest.param([SIGNS], ["knife!"], [], id="a sign against it is excused"),
        pytest.param([SIGNS], ["knife*", "axe"], [("r1", 0), ("r1", 1)], id="one context is not the other"),
        pytest.param([EXHIBITS], ["knife!"], [("r1", 0)], id="nor the other the one"),
        pytest.param(
            [{"unsafe": ["barred knife"]}], ["knife", "knife!"], [("r1", 1)], id="forbidden under a sign only"
        ),
        pytest.param([EXEMPT], ["knife"], [], id="an exempt rule forbids nothing"),
        pytest.param([EXEMPT, WEAPONS], ["knife"], [("r2", 0)], id="and does not excuse from another rule"),
        pytest.param(
            [BUT_AXES, {"unsafe": ["axe"]}], ["axe"], [("r2", 0)], id="excused here, forbidden there"
        ),
        pytest.param([SENSITIVE], ["knife*"], [("r1", 0)], id="a sensitive rule excuses nothing"),
        pytest.param(
            [{"unsafe": ["axe"], "safe": ["a framed cat"], "status": "sensitive"}],
            ["cat", "cat*"],
            [("r1", 1)],
            id="a sensitive rule forbids its safe list, as far as that goes",
        ),
        pytest.param(
            [WEAPONS, {"unsafe": ["knife"]}], ["knife"], [("r1", 0), ("r2", 0)], id="two rules at once"
        ),
    ],
)
def test_labels(rules: list[dict[str, object]], shown: list[str], expected: list[tuple[str, int]]) -> None:
    for judged in (policy(*rules), policy(*rules).resolve(), PictoPolicy.from_resolved(policy(*rules))):
        assert violating(judged, scene(*shown)) == tuple(expected)
        assert is_unsafe(judged, scene(*shown)) == bool(expected)


def test_a_symbolic_policy_says_in_words_what_it_means() -> None:
    rule = PictoRule((Item("weapons"),), (Item("axe", "framed"),), wordings=(4, 17))
    written = PictoPolicy((rule, PictoRule((Item("wine"),), status="exempt"))).to_policy()
    assert written.world == "pictosafe"
    assert [(r.unsafe, r.safe, r.status) for r in written.rules] == [
        (("any weapons",), ("an exhibited axe",), "active"),
        (("wine",), (), "exempt"),
    ]
    assert [r.forbidden for r in PictoPolicy.from_resolved(written).rules] == [(Item("weapons"),), ()]


def test_a_policy_with_a_word_from_another_world_is_refused_with_its_rule() -> None:
    with pytest.raises(ValueError, match=r"rule 'r2': 'nudity'"):
        PictoPolicy.from_resolved(policy(WEAPONS, {"unsafe": ["nudity"]}))
