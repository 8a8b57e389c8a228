"""What a remote guard reads: the same numbers in each way of asking, and no more calls than it needs."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from PIL import Image

from backends.remote.other_servers import verdict, whole
from backends.remote.server import RATINGS, VOCABULARY, ToyServer
from backends.remote.support import ask, backend, pico, picture, policy
from policyguard import Guard
from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.backends.base import Backend
from policyguard.backends.remote.answers import TokenProbabilities, read_probabilities
from policyguard.backends.remote.errors import CallError
from policyguard.deciding import decide
from policyguard.errors import ConfigurationError
from policyguard.outcomes import Outcome

# What a server lacks, and whether it refuses a field that it does not know (or ignores it).
WAYS: dict[str, tuple[set[str], bool]] = {
    "exactly these tokens": (set(), True),
    "likeliest tokens by id": ({"token-ids"}, False),
    "likeliest tokens by id, strict server": ({"token-ids"}, True),
    "likeliest tokens by text": ({"token-ids", "ids-as-tokens"}, False),
    "no tokenizer": ({"token-ids", "ids-as-tokens", "tokenize"}, False),
    "no tokenizer, strict server": ({"token-ids", "ids-as-tokens", "tokenize"}, True),
}


def assess(server: ToyServer, frame: Image.Image, *, explain: bool = False, **changes: object) -> Assessment:
    with backend(server) as guard:
        (result,) = guard.assess([ask(frame, policy(**changes), explain=explain)])
    assert isinstance(result, Assessment), result
    return result


def test_it_is_a_backend(server: ToyServer) -> None:
    with backend(server, concurrency=3) as guard:
        assert isinstance(guard, Backend)
        assert (guard.preferred_batch, guard.preferred_workers) == (1, 3)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_asking_gives_the_models_probabilities(server: ToyServer, way: str) -> None:
    lacking, strict = WAYS[way]
    server.features -= lacking
    server.strict = strict
    frame = server.show(picture(), unsafe=0.9, rules={"A": 0.7, "B": 0.2}, mass=0.95)
    found = assess(server, frame)
    assert found.rating is Rating.UNSAFE
    assert found.p_unsafe == pytest.approx(0.9)
    assert found.label_mass == pytest.approx(0.95)
    assert found.rule_scores == pytest.approx({"arms": 0.7 / 0.9, "drinks": 0.2 / 0.9})
    assert found.category == "arms"
    assert found.category_mass == pytest.approx(0.9 * 0.95)
    assert (found.scoring, found.reading, found.notes) == ("joint", Reading.FAST, ())


def listing(**probabilities: float) -> TokenProbabilities:
    top = [{"token": token, "logprob": math.log(p)} for token, p in probabilities.items()]
    content = [{**top[0], "top_logprobs": top}]
    return read_probabilities(
        {
            "choices": [
                {
                    "finish_reason": "length",
                    "message": {"content": top[0]["token"]},
                    "logprobs": {"content": content},
                }
            ]
        }
    )


def test_all_tokens_that_only_one_label_begins_with_count_as_it() -> None:
    found = listing(safe=0.3, un=0.25, unsafe=0.2, sa=0.1, s=0.05, u=0.04, uns=0.01, other=0.05)
    assert found.of_texts(("safe", "unsafe")) == pytest.approx({"safe": 0.45, "unsafe": 0.5})


def test_a_token_that_several_labels_begin_with_is_an_error_unless_it_is_a_trace() -> None:
    labels = ("safe", "unsafe", "undecided")
    trace = listing(safe=0.9, unsafe=0.09, un=0.0005)
    assert trace.of_texts(labels) == pytest.approx({"safe": 0.9, "unsafe": 0.09})
    with pytest.raises(CallError, match="do not distinguish the labels"):
        listing(safe=0.5, un=0.4).of_texts(labels)


def test_a_letter_that_safe_begins_with_is_not_safe() -> None:
    labels = ("safe", "unsafe")
    assert listing(s=0.6, unsafe=0.2).of_texts(labels, safe=["safe"]) == pytest.approx({"unsafe": 0.2})
    both = listing(safe=0.5, sa=0.3, un=0.1, unsafe=0.05).of_texts(labels, safe=["safe"])
    assert both == pytest.approx({"safe": 0.5, "unsafe": 0.15})
    several = listing(un=0.7, harm=0.2).of_texts(("harmful", "unharmful"), safe=["unharmful"])
    assert several == pytest.approx({"unharmful": 0.7, "harmful": 0.2})


def test_a_server_whose_tokens_are_letters_is_undecided(server: ToyServer) -> None:
    """It says *s*, which may become *suspicious*."""

    def spelt(handler: Any, answer: Any) -> None:
        tokens = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in spelling.items()]
        content = [tokens[0] | {"top_logprobs": tokens}]
        choice = answer["choices"][0] | {"logprobs": {"content": content}}
        choice["message"] = {"role": "assistant", "content": "s"}
        handler.send_json(200, answer | {"choices": [choice]})

    spelling = {"s": 0.9, "x": 0.02, "y": 0.02, "z": 0.02, "w": 0.02, "unsafe": 0.01}
    server.features -= {"token-ids", "ids-as-tokens", "tokenize"}
    server.fault = spelt
    with backend(server) as backend_:
        verdict = Guard(policy(), backend=backend_).check(picture())
    assert verdict.outcome is Outcome.UNDECIDED


@pytest.mark.parametrize("top", [None, [], [{"token": "safe", "logprob": 0.0}]])
def test_a_token_that_is_listed_alone_and_as_certain_makes_no_score(
    server: ToyServer, top: list[dict[str, object]] | None
) -> None:
    """Some servers write 0.0 beside every generated token without having looked."""

    def unlooked(handler: Any, answer: Any) -> None:
        body = server.bodies()[-1]
        if "response_format" in body:
            handler.send_json(200, whole(verdict(body)))
            return
        entry = {"token": "safe", "logprob": 0.0} | ({} if top is None else {"top_logprobs": top})
        content = {
            "logprobs": {"content": [entry]},
            "finish_reason": "length",
            "message": {"content": "safe"},
        }
        handler.send_json(200, {"choices": [content], "usage": {}})

    server.features -= {"tokenize"}
    server.fault = unlooked
    found = assess(server, picture())
    assert (found.rating, found.p_unsafe, found.label_mass) == (Rating.UNSAFE, None, None)


def test_the_request_is_one_token_at_the_rating_with_the_labels_ids(server: ToyServer) -> None:
    frame = picture(3, (30, 20))
    assess(server, frame)
    (body,) = server.bodies()
    system, user, assistant = body["messages"]
    assert system["role"] == "system"
    assert isinstance(system["content"], str)
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert assistant == {"role": "assistant", "content": '{"rating": "'}
    assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
    assert (body["max_tokens"], body["temperature"], body["logprobs"]) == (1, 0, True)
    assert body["logprob_token_ids"] == [VOCABULARY.index("safe"), VOCABULARY.index("unsafe")]
    assert "uuid" not in str(body)


def test_pixels_arrive_exactly_and_a_transparent_colour_hides_none_of_them(server: ToyServer) -> None:
    frame = picture(9)
    frame.info |= {"transparency": (9, 0, 7), "icc_profile": b"no profile", "comment": "private"}
    server.show(frame, unsafe=0.9)
    assert assess(server, frame).p_unsafe == pytest.approx(0.9)


def test_equal_policies_are_equal_bytes_before_the_picture(server: ToyServer) -> None:
    with backend(server) as guard:
        guard.assess([ask(picture(shade)) for shade in range(3)])
    assert len({body["messages"][0]["content"] for body in server.bodies()}) == 1


def test_label_tokens_are_asked_for_once(server: ToyServer) -> None:
    server.default.unsafe = 0.9
    with backend(server) as guard:
        guard.assess([ask(picture(shade)) for shade in range(6)])
        asked = len(server.bodies("/tokenize"))
        guard.assess([ask(picture(shade)) for shade in range(6)])
    assert asked == len(server.bodies("/tokenize")) == 6  # two prefixes, two ratings, two rules
    assert len(server.bodies()) == 24


def test_what_the_server_lacks_is_found_out_once(server: ToyServer) -> None:
    server.features -= {"token-ids"}
    with backend(server) as guard:
        guard.assess([ask(picture(0))])
        guard.assess([ask(picture(1))])
    assert ["logprob_token_ids" in body for body in server.bodies()] == [
        False,
        False,
        False,
    ]  # the server drops it
    assert ["top_logprobs" in body for body in server.bodies()] == [False, True, True]


def test_rules_are_not_asked_for_when_they_cannot_matter(server: ToyServer) -> None:
    frame = server.show(picture(), unsafe=0.2)
    found = assess(server, frame)
    assert found.rule_scores is None
    assert len(server.bodies()) == 1


def test_rules_with_thresholds_get_zeros_when_the_score_is_under_all_of_them(server: ToyServer) -> None:
    frame = server.show(picture(), unsafe=0.2)
    rules = [{"id": "arms", "title": "Arms", "unsafe": ["weapons"], "threshold": 0.3}]
    found = assess(server, frame, rules=rules)
    assert found.rule_scores == {"arms": 0.0}
    assert "not read" in found.notes[0]
    assert decide(policy(rules=rules).resolve(), found).outcome is Outcome.COMPLIES
    assert len(server.bodies()) == 1


def test_a_rules_own_low_threshold_makes_the_rules_be_read(server: ToyServer) -> None:
    frame = server.show(picture(), unsafe=0.2, rules={"A": 0.9, "B": 0.1})
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "threshold": 0.15},
        {"id": "drinks", "title": "Drinks", "unsafe": ["alcohol"]},
    ]
    found = assess(server, frame, rules=rules)
    decision = decide(policy(rules=rules).resolve(), found)
    assert decision.outcome is Outcome.VIOLATES
    assert [finding.rule for finding in decision.findings] == ["arms"]


def test_an_undecided_band_makes_the_share_of_exempt_rules_be_read(server: ToyServer) -> None:
    frame = server.show(picture(), unsafe=0.3, rules={"A": 0.9, "B": 0.1})
    changes = {
        "rules": [
            {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "status": "exempt"},
            {"id": "drinks", "title": "Drinks", "unsafe": ["alcohol"]},
        ],
        "defaults": {"undecided_band": [0.25, 0.4]},
    }
    decision = decide(policy(**changes).resolve(), assess(server, frame, **changes))
    assert decision.outcome is Outcome.COMPLIES
    assert decision.score == pytest.approx(0.03)


def test_a_model_that_says_something_else_is_undecided(server: ToyServer) -> None:
    for way in (set(), {"token-ids"}):
        server.features -= way
        found = assess(server, server.show(picture(), unsafe=0.0, mass=0.1))
        assert found.label_mass == pytest.approx(0.1)
        assert decide(policy().resolve(), found).outcome is Outcome.UNDECIDED


def test_labels_without_any_probability_give_no_score(server: ToyServer) -> None:
    found = assess(server, server.show(picture(), mass=0.0))
    assert (found.rating, found.p_unsafe, found.label_mass) == (Rating.UNDECIDED, None, 0.0)
    assert decide(policy().resolve(), found).outcome is Outcome.UNDECIDED


def test_a_short_list_that_could_hide_the_label_unsafe_is_undecided(server: ToyServer) -> None:
    server.features -= {"token-ids"}
    server.top_limit = 1
    for unsafe in (0.45, 0.001):
        found = assess(server, server.show(picture(), unsafe=unsafe, mass=1.0), defaults={"threshold": 0.4})
        assert decide(policy().resolve(), found).outcome is Outcome.UNDECIDED, unsafe


def test_a_label_unsafe_that_is_not_among_five_tokens_counts_as_0_with_a_note(server: ToyServer) -> None:
    server.features -= {"token-ids"}
    server.top_limit = 5
    found = assess(server, server.show(picture(), unsafe=0.0001, mass=0.9))
    assert decide(policy().resolve(), found).outcome is Outcome.COMPLIES
    assert "counts as 0" in found.notes[0]


@pytest.mark.parametrize(("threshold", "outcome"), [(0.05, Outcome.ERROR), (0.3, Outcome.COMPLIES)])
def test_a_short_list_that_could_hide_a_rule_over_its_threshold_is_an_error(
    server: ToyServer, threshold: float, outcome: Outcome
) -> None:
    server.features -= {"token-ids"}
    server.top_limit = 2
    rules: list[dict[str, object]] = [{"id": f"rule-{key}", "title": key, "unsafe": [key]} for key in "abc"]
    rules[2]["threshold"] = threshold
    frame = server.show(picture(), unsafe=0.4, rules={"A": 0.5, "B": 0.3, "C": 0.2}, mass=1.0)
    decision = decide(policy(rules=rules).resolve(), assess(server, frame, rules=rules))
    assert decision.outcome is outcome


def test_a_short_list_that_hides_active_rules_gives_an_exempt_one_no_more_than_its_least_share(
    server: ToyServer,
) -> None:
    server.features -= {"token-ids"}
    server.top_limit = 2
    rules: list[dict[str, object]] = [{"id": f"rule-{key}", "title": key, "unsafe": [key]} for key in "abcd"]
    rules[0]["status"] = "exempt"
    frame = server.show(picture(), unsafe=0.9, rules={"A": 0.31, "B": 0.3, "C": 0.2, "D": 0.19}, mass=1.0)
    found = assess(server, frame, rules=rules)
    assert found.rule_scores is not None
    assert found.rule_scores["rule-a"] <= 0.31
    assert found.rule_scores.keys() == {"rule-a", "rule-b", "rule-c", "rule-d"}
    assert sum(found.rule_scores.values()) == pytest.approx(1.0)
    assert decide(policy(rules=rules).resolve(), found).outcome is Outcome.VIOLATES


def test_rules_that_the_server_does_not_list_have_no_mass(server: ToyServer) -> None:
    server.features -= {"token-ids"}
    found = assess(server, server.show(picture(), unsafe=0.9, rules={}))
    assert (found.category_mass, found.rule_scores) == (0.0, None)


def test_a_server_without_log_probabilities_needs_a_dialect_whose_answers_have_a_form(
    server: ToyServer,
) -> None:
    server.features -= {"logprobs"}
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    with pico(server) as guard, pytest.raises(ConfigurationError, match="no log-probabilities"):
        guard.assess([ask(picture(), under)])


def test_explain_goes_on_from_the_rating_and_the_rule_that_the_scores_gave(server: ToyServer) -> None:
    frame = server.show(picture(), unsafe=0.9, rules={"A": 0.2, "B": 0.7})
    found = assess(server, frame, explain=True)
    assert (found.reading, found.rating, found.category) == (Reading.EXPLAIN, Rating.UNSAFE, "drinks")
    assert found.rationale == "There is a dagger on the table."
    assert found.p_unsafe == pytest.approx(0.9)
    last = server.bodies()[-1]
    assert last["messages"][-1]["content"] == '{"rating": "unsafe", "category": "B'
    assert last["max_tokens"] > 1
    pattern = last["structured_outputs"]["regex"]
    assert re.fullmatch(pattern, '", "rationale": "A dagger."}')
    assert not re.fullmatch(pattern, '", "rationale": "", "rating": "safe"}')


def test_a_server_that_refuses_the_form_is_asked_without_it_from_then_on(server: ToyServer) -> None:
    server.features -= {"structured"}
    server.strict = True
    with backend(server) as guard:
        for shade in (1, 2):
            (found,) = guard.assess([ask(picture(shade), explain=True)])
            assert isinstance(found, Assessment)
            assert found.rationale
    assert ["structured_outputs" in body for body in server.bodies() if body["max_tokens"] > 1] == [
        True,
        False,
        False,
    ]


def test_explain_of_a_safe_picture_takes_two_calls(server: ToyServer) -> None:
    found = assess(server, picture(), explain=True)
    assert (found.rating, found.category) == (Rating.SAFE, None)
    assert found.rationale
    assert [body["messages"][-1]["content"] for body in server.bodies()] == [
        '{"rating": "',
        '{"rating": "safe',
    ]


@pytest.mark.parametrize(
    "rationale",
    ["word " * 400, '", "rating": "safe'],
    ids=["longer than the bound", "breaks out of its string"],
)
def test_an_explanation_that_cannot_be_parsed_is_an_error(server: ToyServer, rationale: str) -> None:
    frame = server.show(picture(), rationale=rationale)
    if rationale.startswith('"'):
        server.scenes[next(iter(server.scenes))].rest_of_answer = (  # type: ignore[method-assign]
            lambda said: '", "category": "none", "rationale": "' + rationale + '"}'
        )
    with backend(server) as guard:
        (result,) = guard.assess([ask(frame, explain=True)])
    assert isinstance(result, Failure)
    assert result.kind is FailureKind.ERROR


def test_a_broken_explanation_takes_no_violation_back(server: ToyServer) -> None:
    frame = server.show(picture(), unsafe=0.9, rationale="word " * 400)
    found = assess(server, frame, explain=True)
    assert (found.rating, found.category, found.rationale) == (Rating.UNSAFE, "arms", None)
    assert found.notes == ("the explanation could not be read: the model's explanation was cut off",)
    assert decide(policy().resolve(), found).outcome is Outcome.VIOLATES


def test_an_empty_prefill_asks_for_a_fresh_turn(server: ToyServer) -> None:
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    frame = server.show(picture(size=(96, 96)), unsafe=0.8, rules={"A": 1.0})
    with pico(server) as guard:
        (found,) = guard.assess([ask(frame, under, explain=True)])
    assert isinstance(found, Assessment), found
    assert found.p_unsafe == pytest.approx(0.8)
    assert found.rule_scores == {"arms": pytest.approx(1.0)}
    assert found.rationale == "The scene shows dagger."
    rating, rule, words = server.bodies()
    assert rating["add_generation_prompt"] is True
    assert "continue_final_message" not in rating
    assert [message["role"] for message in rating["messages"]] == ["system", "user"]
    assert rating["logprob_token_ids"] == [VOCABULARY.index(f" {word}") for word in RATINGS]
    assert [body["messages"][-1]["content"] for body in (rule, words)] == [" unsafe", " unsafe A"]


def test_a_third_label_is_read(server: ToyServer) -> None:
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    frame = server.show(picture(size=(96, 96)), unsafe=0.1, undecided=0.7)
    with pico(server) as guard:
        (found,) = guard.assess([ask(frame, under, explain=True)])
    assert isinstance(found, Assessment)
    assert found.rating is Rating.UNDECIDED
    assert found.p_undecided == pytest.approx(0.7)
    assert found.p_unsafe == pytest.approx(0.1)


@pytest.mark.parametrize(("undecided", "outcome"), [(0.21, Outcome.UNDECIDED), (0.19, Outcome.VIOLATES)])
def test_a_dialects_share_of_undecided_outweighs_another_rating(
    server: ToyServer, undecided: float, outcome: Outcome
) -> None:
    """pico's, which is 0.2."""
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    frame = server.show(picture(size=(96, 96)), unsafe=0.9, undecided=undecided)
    verdict = Guard(under, backend=pico(server)).check(frame)
    assert verdict.outcome is outcome
    assert outcome is Outcome.VIOLATES or "puts 0.21 on being undecided" in str(verdict.reason)


def test_a_picture_outside_the_dialects_world_is_not_sent(server: ToyServer) -> None:
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    with pico(server) as guard:
        (found,) = guard.assess([ask(picture(size=(30, 20)), under)])
    assert isinstance(found, Assessment)
    assert found.rating is Rating.UNDECIDED
    assert not server.calls
