"""An answer that contradicts itself is no answer: asked sync and async, with a cache and without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from backends.remote.contradictions import BY_ID, BY_TEXT, HARMLESS, TEXTS, Change
from backends.remote.other_servers import verdict
from backends.remote.server import ToyServer
from backends.remote.support import backend, picture, policy
from policyguard import Guard, Outcome
from policyguard.backends.remote import answers
from policyguard.cache import MemoryCache

NO_IDS = {"token-ids", "ids-as-tokens", "tokenize"}


def honest(server: ToyServer, change: Change) -> Callable[[Any, Any], None]:
    """Answers with the honest answer, changed."""
    return lambda handler, answer: handler.send_json(200, change(deepcopy(answer)))


def rated(server: ToyServer, change: Change) -> Callable[[Any, Any], None]:
    """As ``honest``, of a server that gives no log-probabilities and holds to ``response_format``."""

    def send(handler: Any, answer: Any) -> None:
        body = server.bodies()[-1]
        answer = deepcopy(answer)
        choice = answer["choices"][0]
        choice["logprobs"] = None
        choice["finish_reason"] = "stop"
        if "response_format" not in body:
            handler.send_json(200, answer)
            return
        choice["message"]["content"] = verdict(body, "safe", "none")
        answer["usage"] = {"completion_tokens": 20}
        handler.send_json(200, change(answer))

    return send


def outcomes(server: ToyServer, *, explain: bool = False) -> list[Outcome]:
    """Those of one image in every way: sync and async, not cached, cached, and asked for again."""
    found = []
    for cache in (None, MemoryCache()):
        with backend(server) as guarded:
            guard = Guard(policy(), backend=guarded, cache=cache, explain=explain)
            found += [guard.check(picture(1)).outcome, asyncio.run(guard.acheck(picture(1))).outcome]
            found += [each.outcome for each in guard.check_many([picture(1)])]
    return found


@pytest.mark.parametrize("change", BY_ID.values(), ids=BY_ID)
def test_no_answer_with_ids_that_contradicts_itself_complies(server: ToyServer, change: Change) -> None:
    server.fault = honest(server, change)
    assert not {Outcome.COMPLIES, Outcome.VIOLATES} & set(outcomes(server))


@pytest.mark.parametrize("change", BY_TEXT.values(), ids=BY_TEXT)
def test_no_answer_with_texts_that_contradicts_itself_complies(server: ToyServer, change: Change) -> None:
    server.features -= NO_IDS
    server.fault = honest(server, change)
    assert not {Outcome.COMPLIES, Outcome.VIOLATES} & set(outcomes(server))


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS)
def test_no_rating_that_contradicts_itself_complies(server: ToyServer, change: Change) -> None:
    server.features -= NO_IDS
    server.fault = rated(server, change)
    assert not {Outcome.COMPLIES, Outcome.VIOLATES} & set(outcomes(server))


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS)
def test_no_explanation_that_contradicts_itself_complies(server: ToyServer, change: Change) -> None:
    server.fault = honest(server, change)
    server.fault_at = lambda path, body: body.get("max_tokens", 0) > 1
    assert not {Outcome.COMPLIES, Outcome.VIOLATES} & set(outcomes(server, explain=True))


def without_extras(change: Change) -> Change:
    def changed(answer: dict[str, Any]) -> Any:
        if answer["choices"][0]["logprobs"] is None:
            answer["choices"][0]["logprobs"] = {"content": None}
            answer = change(answer)
            answer["choices"][0]["logprobs"] = None
            return answer
        return change(answer)

    return changed


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.parametrize("way", ["ids", "texts", "rated", "explained"])
def test_what_servers_add_to_a_right_answer_changes_nothing(
    server: ToyServer, change: Change, way: str
) -> None:
    if way in ("texts", "rated"):
        server.features -= NO_IDS
    server.fault = (rated if way == "rated" else honest)(server, without_extras(change))
    assert set(outcomes(server, explain=way == "explained")) == {Outcome.COMPLIES}


def test_the_documents_list_the_fields_that_answers_may_hold() -> None:
    tables = {
        "answer": answers._COMPLETION_FIELDS,
        "choice": answers._CHOICE_FIELDS,
        "message": answers._MESSAGE_FIELDS,
        "log-probabilities": answers._LOGPROBS_FIELDS,
        "token": answers._TOKEN_FIELDS,
    }
    text = (Path(__file__).parents[3] / "docs" / "remote.md").read_text()
    for holder, servers in tables.items():
        for server, names in servers.items():
            fields = ", ".join(f"`{name}`" for name in names.split())
            assert f"| {holder} | {server} | {fields} |\n" in text


def test_an_alias_of_the_model_is_the_model(server: ToyServer) -> None:
    def aliased(handler: Any, answer: Any) -> None:
        if "data" in answer:
            served = ["first-name", "toy-guard", "other"]
            roots = dict.fromkeys(served, "/weights") | {"other": "/others"}
            handler.send_json(200, {"data": [{"id": name, "root": roots[name]} for name in served]})
        else:
            handler.send_json(200, answer | {"model": name})

    server.fault, server.fault_at = aliased, lambda path, body: path != "/tokenize"
    for name, outcome in (("first-name", Outcome.COMPLIES), ("other", Outcome.ERROR)):
        assert set(outcomes(server)) == {outcome}, name


def test_the_table_holds_at_least_eighty_contradictions() -> None:
    tables: tuple[Mapping[str, Change], ...] = (BY_ID, BY_TEXT, TEXTS)
    assert len({name for table in tables for name in table}) >= 80
