"""Servers without log-probabilities: the rating alone, strictly read, and no score made up."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest

from backends.remote.other_servers import SERVERS, install, ollama, openai, verdict, whole
from backends.remote.server import ToyServer, shows_image
from backends.remote.support import ask, backend, picture, policy
from policyguard import Guard
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.cache import MemoryCache
from policyguard.deciding import decide
from policyguard.errors import ConfigurationError
from policyguard.outcomes import Outcome

KINDS = pytest.mark.parametrize("kind", SERVERS)


@KINDS
@pytest.mark.parametrize("explain", [False, True])
def test_each_server_is_read_by_its_rating_and_gives_no_score(
    server: ToyServer, kind: str, explain: bool
) -> None:
    install(server, SERVERS[kind])
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture(), explain=explain)])
    assert isinstance(found, Assessment), found
    assert (found.rating, found.category) == (Rating.UNSAFE, "arms")
    assert (found.p_unsafe, found.label_mass, found.rule_scores) == (None, None, None)
    assert found.rationale == ("A dagger lies on the table." if explain else None)
    assert "no scores" in found.notes[0]
    assert decide(policy().resolve(), found).outcome is Outcome.VIOLATES


@KINDS
def test_each_server_s_safe_rating_complies(server: ToyServer, kind: str) -> None:
    install(server, lambda body: SERVERS[kind](body, rating="safe", category="none"))
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment), found
    decision = decide(policy().resolve(), found)
    assert (decision.outcome, decision.score) == (Outcome.COMPLIES, None)


@KINDS
def test_what_a_server_lacks_is_found_out_once(server: ToyServer, kind: str) -> None:
    install(server, SERVERS[kind])
    with backend(server) as guard:
        guard.assess([ask(picture(1))])
        first = len(server.bodies())
        guard.assess([ask(picture(2))])
    assert len(server.bodies()) - first == 1
    assert "logprobs" not in server.bodies()[-1]


@KINDS
def test_no_server_is_sent_a_field_that_newer_ones_ignore(server: ToyServer, kind: str) -> None:
    install(server, SERVERS[kind])
    with backend(server) as guard:
        guard.assess([ask(picture(), explain=True)])
    assert not any(name.startswith("guided") or name == "uuid" for body in server.bodies() for name in body)
    assert "uuid" not in json.dumps(server.bodies())


PROSE = [
    "This picture looks safe to me.",
    'Sure! {"verdict": {"rating": "safe", "category": "none"}}',
    '```json\n{"verdict": {"rating": "safe", "category": "none"}}\n```\nIt looks safe.',
    '```json\n{"rating": "safe", "category": "none", "rationale": ""}\n``` ```json\n{}\n```',
    '{"rating": "safe", "category": "A", "rationale": "Nothing that the policy forbids."}',
    '{"rating": "safe", "category": "none", "rationale": "Nothing.", "verdict": "unsafe"}',
    '{"verdict": {"rating": "safe", "category": "none"}} {"verdict": {"rating": "unsafe", "category": "A"}}',
    '{"verdict": {"rating": "safe", "rating": "unsafe", "category": "none"}}',
    '{"verdict": {"rating": "unsafe", "category": "A"}, "verdict": {"rating": "safe", "category": "none"}}',
    '{"verdict": {"rating": "not unsafe", "category": "none"}}',
    '{"verdict": {"rating": "Safe", "category": "none"}}',
    '{"verdict": {"rating": "safe"}}',
    '{"verdict": {"rating": "safe", "category": "none", "note": "but"}}',
    '{"verdict": {"rating": "safe", "category": "none"}, "note": "but"}',
    '{"verdict": {"rating": ["safe"], "category": "none"}}',
    '{"verdict": {"rating": "safe", "category": "A"}}',
    '{"verdict": {"rating": "safe", "category": "Z"}}',
    '{"verdict": {"rating": "safe", "category": null}}',
    '{"rating": "safe", "category": "none"}',
    '{"verdict": "safe"}',
    '["safe"]',
    "null",
    "",
]


@pytest.mark.parametrize("text", PROSE)
def test_a_server_that_ignores_the_form_with_200_is_an_error(server: ToyServer, text: str) -> None:
    install(server, lambda body: (200, whole(text)))
    with backend(server) as guard:
        for _ in range(2):
            (found,) = guard.assess([ask(picture())])
            assert isinstance(found, Failure)
            assert found.kind is FailureKind.ERROR


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"finish": "length"}, FailureKind.ERROR),
        ({"finish": "content_filter"}, FailureKind.REFUSED),
        ({"refusal": "I cannot look at this."}, FailureKind.REFUSED),
    ],
)
def test_a_cut_off_or_declined_answer_is_no_rating(
    server: ToyServer, changes: dict[str, Any], kind: FailureKind
) -> None:
    install(
        server, lambda body: (200, whole('{"verdict": {"rating": "safe", "category": "none"}}', **changes))
    )
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Failure)
    assert found.kind is kind


def test_an_unsafe_rating_without_a_category_still_violates(server: ToyServer) -> None:
    install(server, lambda body: ollama(body, category="none"))
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment)
    assert decide(policy().resolve(), found).outcome is Outcome.VIOLATES


LOW = [{"id": "arms", "title": "Arms", "unsafe": ["weapons"], "threshold": 0.3}]


def test_a_policy_that_needs_scores_is_refused_before_an_answer_is_paid_for(server: ToyServer) -> None:
    install(server, lambda body: ollama(body, rating="safe", category="none"))
    under = policy(rules=LOW)
    with backend(server) as backend_:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=r"score of 0\.3 \(rules: arms\)") as caught:
                backend_.assess([ask(picture(), under)])
            assert "without_scores: ratings" in str(caught.value)
        assert not any("response_format" in body for body in server.bodies())
        assert isinstance(backend_.assess([ask(picture())])[0], Assessment)
        with pytest.raises(ConfigurationError, match="without scores"):  # now it is known
            Guard(under, backend=backend_)
        Guard(policy(), backend=backend_)


def test_a_policy_that_decides_from_half_on_needs_no_scores(server: ToyServer) -> None:
    install(server, lambda body: ollama(body, rating="safe", category="none"))
    rules = [LOW[0] | {"threshold": 0.7}]
    with backend(server) as backend_:
        assert Guard(policy(rules=rules), backend=backend_).check(picture()).outcome is Outcome.COMPLIES


STARTERS = ["apps/avatars", "apps/family", "apps/marketplace", "apps/news", "mlcommons/images"]


def about_children(body: dict[str, Any]) -> bool:
    text = json.dumps(body["messages"])
    return "\\nA. " in text and "\\nB. " not in text and "child" in text


@pytest.mark.parametrize("name", STARTERS)
def test_the_starters_are_decided_by_ratings_with_a_question_for_the_rule_on_children(
    server: ToyServer, name: str
) -> None:
    server.context = 100_000
    for alone, outcome in (("safe", Outcome.COMPLIES), ("unsafe", Outcome.VIOLATES)):
        install(
            server,
            lambda body, alone=alone: openai(
                body,
                rating=alone if about_children(body) else "safe",
                category="A" if about_children(body) and alone == "unsafe" else "none",
            ),
        )
        with backend(server) as backend_:
            guard = Guard(name, backend=backend_)
            guard.check(picture(1))
            before = len(server.bodies())
            verdict = guard.check(picture(2))
        assert verdict.outcome is outcome, verdict
        assert verdict.allowed is (alone == "safe")
        assert len(server.bodies()) - before == 2
        assert verdict.score is None
        assert any("stand in" in note for note in verdict.evidence.notes) is (alone == "safe")


RULES = [
    {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "action": "block"},
    {"id": "drinks", "title": "Drinks", "unsafe": ["alcohol"]},
    {"id": "toys", "title": "Toys", "unsafe": ["dolls"], "status": "exempt"},
]


@pytest.mark.parametrize(
    ("category", "again", "action"),
    [
        ("A", "safe", "block"),  # the named rule's own action, whatever the default is
        ("B", "safe", "flag"),  # a mild rule is named, and those that block are asked about again
        ("B", "unsafe", "block"),
        ("none", "safe", "block"),  # none named: the most severe
        ("C", "safe", "block"),  # an exempt one named: none that can be broken
    ],
)
def test_the_rule_that_a_mere_rating_names_decides_the_action(
    server: ToyServer, category: str, again: str, action: str
) -> None:
    def answers(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "Drinks" in json.dumps(body["messages"]):
            return ollama(body, rating="unsafe", category=category)
        return ollama(body, rating=again, category="A" if again == "unsafe" else "none")

    install(server, answers)
    with backend(server) as backend_:
        verdict = Guard(policy(rules=RULES, defaults={"action": "flag"}), backend=backend_).check(picture())
    assert (verdict.outcome, verdict.action) == (Outcome.VIOLATES, action)


def test_a_server_that_once_gave_scores_is_never_read_by_rating_alone(server: ToyServer) -> None:
    def no_longer(handler: Any, answer: Any) -> None:
        body = server.bodies()[-1]
        handler.send_json(200, whole(verdict(body, "safe", "none") if "response_format" in body else "safe"))

    with backend(server) as guard:
        assert isinstance(guard.assess([ask(picture(1))])[0], Assessment)
        server.fault = no_longer
        (found,) = guard.assess([ask(picture(2))])
    assert isinstance(found, Failure)
    assert "log-probabilities" in found.reason


def test_one_odd_answer_does_not_settle_that_a_server_gives_no_scores(server: ToyServer) -> None:
    server.fault = lambda handler, answer: handler.send_json(200, whole("?"))
    with backend(server) as guard:
        assert isinstance(guard.assess([ask(picture(1))])[0], Failure)
        server.fault = None
        (found,) = guard.assess([ask(picture(2))])
    assert isinstance(found, Assessment)
    assert found.p_unsafe is not None


@pytest.mark.parametrize("rest", [0, 1])
def test_a_first_answer_without_scores_is_asked_for_again(server: ToyServer, rest: int) -> None:
    """One hiccup at the very first picture; with ``rest``, the server would also give its rating alone."""
    hiccups = [whole("?")]

    def once(handler: Any, answer: Any) -> None:
        body = server.bodies()[-1]
        if rest and "response_format" in body:
            answer = whole(verdict(body, "safe", "none"))
        handler.send_json(200, hiccups.pop() if hiccups else answer)

    server.fault = once
    server.default.unsafe = 0.9
    with backend(server) as guard:
        found = [guard.assess([ask(picture(shade))])[0] for shade in range(2)]
    assert [isinstance(one, Assessment) and one.p_unsafe for one in found] == [pytest.approx(0.9)] * 2


def test_pictures_asked_about_at_once_do_not_settle_that_a_server_gives_no_scores(server: ToyServer) -> None:
    """Two of them get no scores, twice, and then a slow rating, during which others get theirs."""
    unlucky = Counter[str]()
    rated = Counter[str]()
    both_rated, scored = threading.Event(), threading.Event()
    bodies = threading.local()
    lock = threading.Lock()

    def remember(path: str, body: dict[str, Any]) -> bool:
        bodies.mine = body
        return shows_image(path, body)

    def racing(handler: Any, answer: Any) -> None:
        body = bodies.mine
        url = body["messages"][1]["content"][0]["image_url"]["url"]
        if "response_format" in body:
            with lock:
                rated.update([url])
                if len(rated) == 2:
                    both_rated.set()
            scored.wait()
            handler.send_json(200, whole(verdict(body, "safe", "none")))
            return
        with lock:
            hiccups = unlucky[url] < 2 if url in unlucky else len(unlucky) < 2
            unlucky.update([url] if hiccups else [])
        if hiccups:
            handler.send_json(200, whole("?"))
            return
        both_rated.wait()
        if body["messages"][-1]["content"].endswith('"category": "'):
            scored.set()  # whoever asks for the rule has read the rating's scores
        handler.send_json(200, answer)

    server.fault, server.fault_at = racing, remember
    server.default.unsafe = 0.9
    with backend(server, concurrency=8) as guard:
        found = guard.assess([ask(picture(shade)) for shade in range(8)])
        later = guard.assess([ask(picture(99))])
    scores = [one.p_unsafe if isinstance(one, Assessment) else one for one in (*found, *later)]
    assert scores == [pytest.approx(0.9)] * 9


def test_a_bare_rating_is_never_served_from_the_cache(server: ToyServer) -> None:
    install(server, lambda body: ollama(body, rating="safe", category="none"))
    cache = MemoryCache()
    with backend(server) as first:
        guard = Guard(policy(), backend=first, cache=cache)
        assert [guard.check(picture()).cached for _ in range(2)] == [False, False]
    server.reset()
    server.default.unsafe = 0.9
    with backend(server) as second:
        found = Guard(policy(), backend=second, cache=cache).check(picture())
    assert (found.cached, found.outcome) == (False, Outcome.VIOLATES)


def test_a_server_that_refuses_the_form_as_well_is_a_configuration_error(server: ToyServer) -> None:
    def refuse(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "response_format" in body:
            message = "'response_format' of type 'json_schema' is not supported with this model."
            return 400, {"error": {"message": message, "param": "response_format"}}
        return openai(body)

    install(server, refuse)
    with backend(server) as guard, pytest.raises(ConfigurationError, match="response_format"):
        guard.assess([ask(picture())])


def test_only_five_likeliest_tokens_are_asked_of_a_server_that_gives_no_more(server: ToyServer) -> None:
    server.features -= {"token-ids", "ids-as-tokens", "tokenize"}
    server.top_limit, server.strict = 5, True
    server.default.unsafe = 0.9
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment), found
    assert found.p_unsafe == pytest.approx(0.9)
    assert server.bodies()[-1]["top_logprobs"] == 5
