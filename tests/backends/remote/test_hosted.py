"""A right answer of each documented service is read as it says, and what does not work says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from backends.remote.hosted import WITH_SCORES, WITHOUT_SCORES, install, openai, refused, said
from backends.remote.server import ToyServer
from backends.remote.support import ask, backend, backend_on, picture, policy
from policyguard import Guard
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.authoring import compare_guards
from policyguard.backends.remote.capabilities import capabilities
from policyguard.backends.remote.doctor import examine
from policyguard.deciding import decide
from policyguard.errors import ConfigurationError
from policyguard.outcomes import Outcome
from policyguard.policy import load_policy
from policyguard.testing import FakeBackend


def _address(server: ToyServer, name: str) -> str:
    return f"{server.url}?api-version=2024-10-21" if name == "azure" else server.url


def assess(server: ToyServer, name: str, rating: str, category: str) -> Assessment:
    install(server, (WITHOUT_SCORES | WITH_SCORES)[name], rating, category)
    with backend_on([_address(server, name)], model=server.model) as guard:
        found = [guard.assess([ask(picture(shade))])[0] for shade in range(3)][-1]
    assert isinstance(found, Assessment), found
    return found


@pytest.mark.parametrize("name", [*WITHOUT_SCORES, *WITH_SCORES])
@pytest.mark.parametrize(
    ("rating", "category", "outcome"), [("safe", "none", Outcome.COMPLIES), ("unsafe", "A", Outcome.VIOLATES)]
)
def test_each_service_s_answer_is_read_as_it_says(
    server: ToyServer, name: str, rating: str, category: str, outcome: Outcome
) -> None:
    found = assess(server, name, rating, category)
    assert found.rating == rating
    assert (found.p_unsafe is not None) is (name in WITH_SCORES)
    assert found.category == ("arms" if rating == "unsafe" else None)
    assert decide(policy().resolve(), found).outcome is outcome


@pytest.mark.parametrize("name", WITHOUT_SCORES)
@pytest.mark.parametrize("rating", ["safe", "unsafe"])
def test_each_service_without_scores_explains_in_one_call_that_its_form_holds(
    server: ToyServer, name: str, rating: str
) -> None:
    install(server, WITHOUT_SCORES[name], rating, "A" if rating == "unsafe" else "none")
    with backend_on([_address(server, name)], model=server.model) as backend_:
        guard = Guard(policy(), backend=backend_, explain=True)
        guard.check(picture(1))
        first = len(server.calls)
        verdict = guard.check(picture(2))
    assert len(server.calls) == first + 1
    assert (verdict.rationale, verdict.allowed) == ("A dagger lies on the table.", rating == "safe")
    assert [finding.rule for finding in verdict.findings] == (["arms"] if rating == "unsafe" else [])
    schema = server.calls[-1][1]["response_format"]["json_schema"]["schema"]
    assert list(_objects(schema))
    for part in _objects(schema):  # what OpenAI and Azure ask of a strict schema
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


@pytest.mark.parametrize(
    ("name", "thought"), [("openai", 0), ("gpt_5", 1004), ("gemini", 0), ("gemini", 700)]
)
def test_the_tokens_that_a_service_counts_are_summed_up(server: ToyServer, name: str, thought: int) -> None:
    """``thought``: OpenAI counts it among the answer's tokens, Gemini in the total alone."""
    told: list[dict[str, int]] = []

    def service(body: dict[str, Any], rating: str, category: str) -> tuple[int, Any]:
        status, answer = WITHOUT_SCORES[name](body, rating, category)
        if status == 200:
            usage = answer["usage"]
            usage["completion_tokens"] += thought if name == "gpt_5" else 0
            usage["total_tokens"] += thought
            told.append(usage)
        return status, answer

    install(server, service, name=name)
    with backend(server) as guard:
        guard.assess([ask(picture(1))])
        guard.assess([ask(picture(2))])
        stats = guard.stats()
    assert stats.requests >= len(told) >= 2
    assert stats.tokens_in == sum(usage["prompt_tokens"] for usage in told)
    assert stats.tokens_out == len(told) * (20 + thought)


@pytest.mark.parametrize(
    "name", ["apps/avatars", "apps/family", "apps/marketplace", "apps/news", "mlcommons/images"]
)
def test_without_scores_a_photograph_under_a_packaged_policy_for_apps_takes_two_requests(
    server: ToyServer, name: str
) -> None:
    install(server, openai, "safe", "none")
    with backend(server) as backend_:
        guard = Guard(name, backend=backend_)
        guard.check(picture(1))
        before = guard.stats().requests
        assert guard.check(picture(2)).outcome is Outcome.COMPLIES
        assert guard.stats().requests - before == 2


def test_a_comparison_says_what_went_to_a_server_beside_what_it_was_asked(server: ToyServer) -> None:
    install(server, openai, "safe", "none")
    with backend(server) as one:
        images = [picture(shade) for shade in range(1, 5)]
        (found,) = compare_guards(load_policy("apps/marketplace"), images, [("one", one)]).guards
    assert found.asked == 4
    sent = found.to_dict()["sent"]
    assert sent["requests"] == len([path for path, _ in server.calls if "completions" in path]) > 2 * 4
    assert sent["tokens_in"] > 8 * 600
    assert sent["tokens_out"] >= 8 * 20
    (fake,) = compare_guards(policy(), images, [("fake", FakeBackend())]).guards
    assert fake.to_dict()["sent"] is None


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in a schema, which knows nothing but what every service supports."""
    assert set(schema) <= {"type", "properties", "required", "additionalProperties", "enum", "anyOf"}
    if schema.get("type") == "object":
        yield schema
    for part in (*schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        yield from _objects(part)


@pytest.mark.parametrize("name", WITHOUT_SCORES)
def test_each_service_without_scores_is_asked_once_per_image_when_it_is_known(
    server: ToyServer, name: str
) -> None:
    install(server, WITHOUT_SCORES[name])
    with backend_on([_address(server, name)], model=server.model) as guard:
        guard.assess([ask(picture(1))])
        first = len(server.calls)
        guard.assess([ask(picture(2))])
    assert len(server.calls) == first + 1


@pytest.mark.parametrize(
    ("asked", "listed"),
    [("gemini-2.5-flash", "models/gemini-2.5-flash"), ("llava", "llava:latest"), ("llava", "llava")],
)
def test_a_model_s_other_name_in_the_list_is_known(server: ToyServer, asked: str, listed: str) -> None:
    server.model = listed
    with backend(server, model=asked) as guard:
        guard.warm()
    assert capabilities(server.url, model=asked, api_key=f"sk-{listed}", timeout=100.0).model == asked
    found = examine(server.url, model=asked, timeout=100.0)
    assert next(remark for remark in found.remarks if remark.check == "model").level == "ok"


def test_another_model_in_the_list_is_still_refused(server: ToyServer) -> None:
    server.model = "models/gemini-2.5-pro"
    with (
        backend(server, model="gemini-2.5-flash") as guard,
        pytest.raises(ConfigurationError, match="not serve"),
    ):
        guard.warm()


# --- Azure -------------------------------------------------------------------------------------------


def test_azure_gets_its_version_and_its_key_where_it_wants_them(server: ToyServer) -> None:
    seen: list[tuple[str, str | None, str | None]] = []

    def record(handler: Any, answer: Any) -> None:
        seen.append((handler.path, handler.headers["api-key"], handler.headers["Authorization"]))
        handler.send_json(200, said(handler.body, "x", model="toy-guard"))

    server.fault, server.fault_at = record, lambda path, body: "completions" in path
    base = server.url.removesuffix("/v1")
    urls = [
        f"{base}/openai/deployments/gpt-4o?api-version=2024-10-21",
        f"{base}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
    ]
    for url in urls:
        seen.clear()
        with backend_on([url], api_key="0123456789abcdef") as guard:
            guard.assess([ask(picture())])
        path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
        assert (path, "0123456789abcdef", None) in seen


def test_a_token_of_entra_id_goes_as_a_bearer_token(server: ToyServer) -> None:
    seen: list[str | None] = []

    def record(handler: Any, answer: Any) -> None:
        seen.append(handler.headers["Authorization"])
        handler.send_json(200, said(handler.body, "x", model="toy-guard"))

    server.fault, server.fault_at = record, lambda path, body: "completions" in path
    with backend_on([f"{server.url}?api-version=v1"], api_key="eyJhbGciOi.eyJzdWIi.c2ln") as guard:
        guard.assess([ask(picture())])
    assert set(seen) == {"Bearer eyJhbGciOi.eyJzdWIi.c2ln"}


@pytest.mark.parametrize(
    "query", ["key=secret", "api-version=1&key=secret", "api-version=", "api-version=a b"]
)
def test_any_other_query_is_refused_without_being_shown(query: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        backend_on([f"https://x.openai.azure.com/openai?{query}"])
    assert "secret" not in str(caught.value)


# --- llama.cpp ---------------------------------------------------------------------------------------


def test_a_tokenizer_that_wants_another_field_is_done_without(server: ToyServer) -> None:
    """llama.cpp's gives no tokens where its own field, ``content``, is missing."""
    server.fault = lambda handler, answer: handler.send_json(200, {"tokens": []})
    server.fault_at = lambda path, body: path == "/tokenize"
    server.default.unsafe = 0.9
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment), found
    assert found.p_unsafe == pytest.approx(0.9)
    assert len(server.bodies("/tokenize")) == 1


def test_a_model_without_its_projector_is_one_message_and_no_failing_server(server: ToyServer) -> None:
    message = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
    server.fault = lambda handler, answer: handler.send_json(
        500, {"error": {"code": 500, "message": message, "type": "server_error"}}
    )
    with backend(server) as guard:
        for _ in range(8):
            with pytest.raises(ConfigurationError, match="takes no images") as caught:
                guard.assess([ask(picture())])
            assert "--mmproj" in (caught.value.hint or "")
        server.fault = None
        assert isinstance(guard.assess([ask(picture())])[0], Assessment)  # no breaker is open


@pytest.mark.parametrize(("rating", "category"), [("safe", "none"), ("unsafe", "A")])
def test_an_explanation_that_repeats_what_was_begun_is_read(
    server: ToyServer, rating: str, category: str
) -> None:
    install(server, WITH_SCORES["llama_cpp"], rating, category)
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture(), explain=True)])
    assert isinstance(found, Assessment), found
    assert (found.rating, found.rationale) == (rating, "A dagger lies on the table.")
    assert not any("could not be read" in note for note in found.notes)


# --- Where an answer is begun anew ------------------------------------------------------------------


def test_labels_that_were_once_seen_are_never_given_up_for_a_bare_rating(server: ToyServer) -> None:
    server.features -= {"token-ids", "ids-as-tokens", "tokenize"}
    strange = server.show(picture(1), mass=0.0)
    with backend(server) as guard:
        assert isinstance(guard.assess([ask(picture())])[0], Assessment)
        for _ in range(3):
            (found,) = guard.assess([ask(strange)])
            assert isinstance(found, Assessment)
            assert (found.rating, found.p_unsafe) == (Rating.UNDECIDED, None)
    assert not any("response_format" in body for body in server.bodies())


# --- HTTP 403 ----------------------------------------------------------------------------------------

FLAGGED = {
    "code": 403,
    "message": "openai/gpt-4o requires moderation on OpenAI. Your input was flagged.",
    "metadata": {"reasons": ["violence/graphic"], "flagged_input": "...", "provider_name": "OpenAI"},
}


@pytest.mark.parametrize("first", [True, False])
def test_a_flagged_image_is_refused_and_the_batch_goes_on(server: ToyServer, first: bool) -> None:
    flagged = picture(3)
    server.show(flagged, rationale="flagged")
    unlucky = 0 if first else 2

    def flag(handler: Any, answer: Any) -> None:
        handler.send_json(403, {"error": FLAGGED})

    with backend(server, concurrency=1) as on_server:
        guard = Guard(policy(), backend=on_server)
        verdicts = []
        for index in range(4):
            server.fault = flag if index == unlucky else None
            verdicts.append(guard.check(picture(10 + index)))
    outcomes = [verdict.outcome for verdict in verdicts]
    assert outcomes.pop(unlucky) is Outcome.REFUSED
    assert outcomes == [Outcome.COMPLIES] * 3
    assert "violence/graphic" in (verdicts[unlucky].reason or "")
    assert not verdicts[unlucky].allowed


def test_a_bad_key_of_403_raises_at_first_sight(server: ToyServer) -> None:
    message = "Your API key does not have permission for this"
    server.fault = lambda handler, answer: handler.send_json(403, {"error": {"message": message}})
    with (
        backend(server, api_key="sk-1") as guard,
        pytest.raises(ConfigurationError, match="refuses the API key"),
    ):
        guard.assess([ask(picture())])


def test_a_403_of_unknown_reason_is_of_the_set_up_until_the_server_has_answered(
    server: ToyServer,
) -> None:
    def forbid(handler: Any, answer: Any) -> None:
        handler.send_json(403, {"error": {"message": "Country, region, or territory not supported"}})

    with backend(server, api_key="sk-1") as guard:
        server.fault = forbid
        with pytest.raises(ConfigurationError, match="territory not supported"):
            guard.assess([ask(picture(1))])
        server.fault = None
        assert isinstance(guard.assess([ask(picture(2))])[0], Assessment)
        server.fault = forbid
        (found,) = guard.assess([ask(picture(3))])
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.ERROR


def test_a_403_about_log_probabilities_means_a_service_without_scores(server: ToyServer) -> None:
    def no_scores(body: dict[str, Any], rating: str, category: str) -> tuple[int, Any]:
        if "logprobs" in body:
            return refused("You are not allowed to request logprobs from this model.", status=403)
        return openai(body, rating, category)

    install(server, no_scores, name="openai")
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment), found
    assert (found.rating, found.category) == (Rating.UNSAFE, "arms")


def test_each_request_is_a_line_of_the_log_without_image_or_key(
    server: ToyServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "policyguard.backends"), backend(server, api_key="sk-secret") as guard:
        guard.assess([ask(picture(1))])
    lines = [one for one in caplog.messages if "chat/completions" in one]
    assert len(lines) == sum("chat/completions" in path for path, _ in server.calls) > 0
    assert "HTTP 200 in" in lines[0]
    assert "sk-secret" not in caplog.text
    assert "base64" not in caplog.text
