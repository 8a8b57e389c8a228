"""A diff says what a change of policy changes: in its text, and on pictures."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures

from cache.support import server_like, short_sighted
from policyguard import Policy
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.authoring import diff_page
from policyguard.authoring.diff import Change, Effect, Kind, compare_on, compare_policies
from policyguard.backends.base import AssessmentRequest
from policyguard.cache import CachedBackend, MemoryCache, SqliteCache, VerdictCache
from policyguard.errors import ConfigurationError
from policyguard.policy import extend_policy, parse_policy
from policyguard.testing import FakeBackend

ARMS = {"id": "arms", "title": "Arms", "unsafe": ["guns", "knives"], "safe": ["toys", "kitchen tools"]}
TOYS_TOO = ["guns", "knives", "toys"]
KNIVES_TOO = ["toys", "kitchen tools", "knives"]
DRINK = {"id": "drink", "title": "Drink", "unsafe": ["beer"]}


def policy(*rules: dict[str, Any], **changes: Any) -> Policy:
    head = {"id": "house", "version": "1.0.0", "title": "House"}
    return parse_policy(head | {"rules": list(rules) or [ARMS]} | changes)


def changes(before: Policy, after: Policy) -> list[Change]:
    return list(compare_policies(before, after).changes)


def arms(**fields: Any) -> Policy:
    return policy(ARMS | fields)


def test_the_same_policy_has_no_difference() -> None:
    diff = compare_policies(policy(), policy())
    assert ((), True, True, False) == (diff.changes, diff.same_prompt, diff.same_decisions, diff.weaker)


@pytest.mark.parametrize(
    ("fields", "kind", "effect", "field"),
    [
        ({"unsafe": ["guns", "knives", "bombs"]}, Kind.STRENGTHENED, Effect.STRONGER, "unsafe"),
        ({"unsafe": ["guns"]}, Kind.WEAKENED, Effect.WEAKER, "unsafe"),
        ({"safe": ["toys", "kitchen tools", "swords"]}, Kind.WEAKENED, Effect.WEAKER, "safe"),
        ({"safe": ["toys"]}, Kind.STRENGTHENED, Effect.STRONGER, "safe"),
        ({"safe": ["toys", "tools in a kitchen"]}, Kind.REWORDED, Effect.UNCLEAR, "safe"),
        ({"unsafe": ["knives", "guns"]}, Kind.MOVED, Effect.UNCLEAR, "order of unsafe"),
        ({"unsafe": ["guns"], "safe": KNIVES_TOO}, Kind.MOVED, Effect.WEAKER, "unsafe to safe"),
        ({"unsafe": TOYS_TOO, "safe": ["kitchen tools"]}, Kind.MOVED, Effect.STRONGER, "safe to unsafe"),
        ({"title": "Weapons"}, Kind.REWORDED, Effect.UNCLEAR, "title"),
        ({"description": "Things that hurt."}, Kind.REWORDED, Effect.UNCLEAR, "description"),
        ({"status": "exempt"}, Kind.WEAKENED, Effect.WEAKER, "status"),
        ({"status": "sensitive"}, Kind.STRENGTHENED, Effect.STRONGER, "status"),
        ({"threshold": 0.4}, Kind.STRENGTHENED, Effect.STRONGER, "threshold"),
        ({"threshold": 0.6}, Kind.WEAKENED, Effect.WEAKER, "threshold"),
        ({"action": "flag"}, Kind.WEAKENED, Effect.WEAKER, "action"),
    ],
)  # fmt: skip
def test_a_change_of_a_rule_is_named_with_its_effect(
    fields: dict[str, Any], kind: Kind, effect: Effect, field: str
) -> None:
    (change,) = changes(policy(), arms(**fields))
    assert (kind, effect, "arms", field) == (change.kind, change.effect, change.rule, change.field)


@pytest.mark.parametrize(
    ("was", "now", "effect"),
    [
        ("active", "sensitive", Effect.STRONGER),  # what was excused is not even listed
        ("sensitive", "sensitive", Effect.WEAKER),  # it was forbidden
        ("sensitive", "active", Effect.WEAKER),
        ("exempt", "active", Effect.UNCLEAR),
        ("active", "exempt", Effect.UNCLEAR),
    ],
)
def test_an_exception_that_goes_counts_by_the_status_that_it_had(was: str, now: str, effect: Effect) -> None:
    found = changes(arms(status=was), arms(status=now, safe=["toys"]))
    assert [effect] == [change.effect for change in found if change.field == "safe"]


@pytest.mark.parametrize(
    ("was", "now", "effect"),
    [
        ("active", "sensitive", Effect.STRONGER),
        ("sensitive", "active", Effect.WEAKER),
        ("exempt", "active", Effect.UNCLEAR),
        ("active", "exempt", Effect.UNCLEAR),
    ],
)
def test_an_exception_that_comes_counts_by_the_status_that_it_gets(
    was: str, now: str, effect: Effect
) -> None:
    found = changes(arms(status=was), arms(status=now, safe=["toys", "kitchen tools", "swords"]))
    assert [effect] == [change.effect for change in found if change.field == "safe"]


@pytest.mark.parametrize(
    ("was", "now", "fields", "effect"),
    [
        ("active", "sensitive", {"unsafe": TOYS_TOO, "safe": ["kitchen tools"]}, Effect.STRONGER),
        ("sensitive", "active", {"unsafe": TOYS_TOO, "safe": ["kitchen tools"]}, Effect.UNCLEAR),
        ("sensitive", "active", {"unsafe": ["guns"], "safe": KNIVES_TOO}, Effect.WEAKER),
        ("active", "sensitive", {"unsafe": ["guns"], "safe": KNIVES_TOO}, Effect.UNCLEAR),
    ],
)
def test_an_item_that_moves_counts_by_both_statuses(
    was: str, now: str, fields: dict[str, Any], effect: Effect
) -> None:
    found = changes(arms(status=was), arms(status=now, **fields))
    assert [effect] == [change.effect for change in found if change.kind is Kind.MOVED]


def test_a_stricter_policy_for_one_country_is_not_called_weaker() -> None:
    assert not compare_policies(policy(), arms(status="sensitive", safe=[])).weaker
    assert compare_policies(arms(status="sensitive", safe=[]), policy()).weaker


@pytest.mark.parametrize(
    ("fields", "kind", "effect", "field"),
    [
        ({"title": "Home"}, Kind.REWORDED, Effect.UNCLEAR, "title"),
        ({"version": "1.1.0"}, Kind.CHANGED, Effect.NONE, "version"),
        ({"defaults": {"threshold": 0.7}}, Kind.WEAKENED, Effect.WEAKER, "defaults.threshold"),
        ({"defaults": {"action": "flag"}}, Kind.WEAKENED, Effect.WEAKER, "defaults.action"),
        ({"defaults": {"frames": "sample"}}, Kind.WEAKENED, Effect.WEAKER, "defaults.frames"),
        ({"outcomes": {"error": "allow"}}, Kind.WEAKENED, Effect.WEAKER, "outcomes.error"),
        (
            {"defaults": {"undecided_band": [0.4, 0.6]}},
            Kind.CHANGED,
            Effect.UNCLEAR,
            "defaults.undecided_band",
        ),
    ],
)
def test_a_change_of_the_policy_as_a_whole_is_named(
    fields: dict[str, Any], kind: Kind, effect: Effect, field: str
) -> None:
    (change,) = changes(policy(), policy(**fields))
    assert (kind, effect, None, field) == (change.kind, change.effect, change.rule, change.field)


def test_rules_that_come_go_and_change_places_are_named() -> None:
    one, two = policy(ARMS, DRINK), policy(DRINK, ARMS)
    assert [(Kind.ADDED, Effect.STRONGER)] == [(c.kind, c.effect) for c in changes(policy(), one)]
    assert [(Kind.REMOVED, Effect.WEAKER)] == [(c.kind, c.effect) for c in changes(one, policy())]
    assert [(Kind.MOVED, "order of rules")] == [(c.kind, c.field) for c in changes(one, two)]


def test_two_words_that_look_alike_are_not_one_reworded() -> None:
    found = changes(arms(unsafe=["every redflag"]), arms(unsafe=["every placard"]))
    assert [Kind.WEAKENED, Kind.STRENGTHENED] == [change.kind for change in found]


def test_what_the_model_reads_and_what_is_decided_are_told_apart() -> None:
    diff = compare_policies(policy(), arms(threshold=0.4))
    assert (True, False) == (diff.same_prompt, diff.same_decisions)


def test_the_reasons_that_the_new_policy_gives_are_carried() -> None:
    layer = {
        "id": "shop",
        "version": "1.0.0",
        "title": "House",
        "drop": [{"id": "drink", "weakens": "we are a pub"}],
    }
    base = policy(ARMS, DRINK)
    diff = compare_policies(base, extend_policy(base, layer))
    assert any("we are a pub" in reason for reason in diff.weakenings)
    assert diff.weaker


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three pictures whose red is 0, 60 and 100 percent."""
    paths = []
    for red in (0, 153, 255):
        paths.append(tmp_path / f"{red}.png")
        Pictures.new("RGB", (8, 8), (red, 0, 0)).save(paths[-1])
    return paths


def by_red(request: AssessmentRequest) -> float:
    pixel = request.frame.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return float(pixel[0]) / 255


def test_images_that_change_their_outcome_are_found_with_scores(images: list[Path]) -> None:
    diff = compare_on(policy(), policy(defaults={"threshold": 0.8}), images, backend=FakeBackend(by_red))
    (change,) = diff.changed
    assert (str(images[1]), "violates", "complies") == (
        change.source,
        change.before.outcome,
        change.after.outcome,
    )
    assert (0.6, 0.0, True) == (change.before.score, change.shift, change.weaker)


def test_policies_that_read_the_same_are_judged_once_and_decided_afresh(images: list[Path]) -> None:
    backend = FakeBackend(by_red)
    diff = compare_on(policy(), policy(defaults={"threshold": 0.8}), images, backend=backend)
    assert (3, 3, 3) == (len(backend.requests), diff.asked, diff.known)


def test_what_could_not_be_judged_says_once_why_and_under_which_policy_if_not_under_both(
    images: list[Path],
) -> None:
    images[0].write_bytes(b"no picture")
    failing = FakeBackend(lambda request: Failure(FailureKind.ERROR, f"down for {request.policy.id}"))
    before, after = policy(), policy(id="other", title="Other")
    diff = compare_on(before, after, images[:2], backend=failing)
    assert [str(image) for image in images[:2]] == [name for name, _ in diff.unjudged]
    assert diff.unjudged[0][1].startswith("is text; ")
    assert re.fullmatch("before: .*down for house; after: .*down for other", diff.unjudged[1][1])
    one = FakeBackend(lambda r: Failure(FailureKind.ERROR, "down") if r.policy.id == "other" else 0.9)
    ((_, why),) = compare_on(before, after, images[1:2], backend=one).unjudged
    assert why.startswith("after: ")
    assert compare_on(before, after, images[1:2], backend=one).to_dict()["unjudged"] == 1


@pytest.mark.parametrize(("backend", "outcome"), [(server_like, "violates"), (short_sighted, "undecided")])
def test_scores_left_unread_under_the_old_thresholds_are_asked_for_under_the_new_ones(
    images: list[Path], backend: Callable[[AssessmentRequest], Assessment], outcome: str
) -> None:
    before, after = arms(threshold=0.6), arms(threshold=0.2)
    diff = compare_on(before, after, images[:1], backend=FakeBackend(backend))
    (change,) = diff.changed
    assert ("complies", outcome) == (change.before.outcome, change.after.outcome)
    assert (2, 0) == (diff.asked, diff.known)


def test_policies_that_read_differently_are_judged_each(images: list[Path]) -> None:
    diff = compare_on(policy(), arms(unsafe=["guns"]), images, backend=FakeBackend(by_red))
    assert (6, 0) == (diff.asked, diff.known)


def cached(answer: Any, cache: VerdictCache | None = None) -> CachedBackend:
    return CachedBackend(FakeBackend(answer), cache or MemoryCache())


def test_the_same_picture_under_two_names_is_judged_once(images: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[0].read_bytes())
    diff = compare_on(policy(), policy(), [images[0], copy], backend=FakeBackend(by_red))
    assert (2, 1, 3) == (len(diff.images), diff.asked, diff.known)


def test_what_a_cache_remembers_is_not_judged_again_in_another_run(
    images: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "judged.sqlite"
    first = compare_on(policy(), policy(), images, backend=cached(by_red, SqliteCache(file)))
    failing = cached(ConfigurationError("asked all the same"), SqliteCache(file))
    second = compare_on(policy(), policy(), images, backend=failing)
    assert [i.after.score for i in first.images] == [i.after.score for i in second.images]
    assert (3, 0) == (first.asked, second.asked)


def test_failures_are_not_remembered(images: list[Path]) -> None:
    backend = cached(Failure(FailureKind.ERROR, "down"))
    diff = compare_on(policy(), policy(), images[:1], backend=backend)
    assert (2, 0) == (diff.asked, diff.known)


@pytest.fixture
def page(images: list[Path]) -> Callable[..., str]:
    def build(name: str = "a.png", **options: Any) -> str:
        rule = ARMS | {"title": name}
        before, after = policy(rule), policy(rule, defaults={"threshold": 0.8})
        names = [name, name, name]
        diff = compare_on(before, after, images, names=names, backend=FakeBackend(by_red))
        return diff_page(diff, compare_policies(before, after), **options)

    return build


def test_the_page_holds_no_picture_unless_asked(page: Callable[..., str], images: list[Path]) -> None:
    assert "<img" not in page()
    shown = page(thumbnails=images.__getitem__)
    assert 1 == shown.count("<img"), "of changed images only"
    assert "blur(" in shown
    assert 'src="data:image/jpeg;base64,' in shown


def test_the_page_has_no_column_of_scores_where_there_are_none(
    page: Callable[..., str], images: list[Path]
) -> None:
    head = '<th scope="col">score</th>'
    assert head in page()
    rated = FakeBackend(Assessment(Rating.SAFE, rule_scores=None))
    diff = compare_on(policy(), policy(), images, backend=rated)
    assert head not in diff_page(diff, compare_policies(policy(), policy()))


def test_the_page_fetches_nothing_and_runs_nothing(page: Callable[..., str], images: list[Path]) -> None:
    shown = page(thumbnails=images.__getitem__)
    assert "default-src 'none'" in html.unescape(shown)
    assert not re.search(r"<script|<link|https?://|javascript:|\son\w+=", shown)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a'b&c"])
def test_nothing_that_a_name_or_a_policy_says_is_markup(name: str, page: Callable[..., str]) -> None:
    shown = page(name)
    assert name not in shown
    assert name in html.unescape(shown)


def test_characters_that_reorder_text_are_shown_as_escapes(page: Callable[..., str]) -> None:
    backend = FakeBackend(by_red)
    diff = compare_on(policy(), policy(), ["x"], names=["gpj.\u202eexe"], backend=backend)
    shown = diff_page(diff, compare_policies(policy(), policy()))
    assert "\u202e" not in shown
    assert r"gpj.\u202eexe" in shown
