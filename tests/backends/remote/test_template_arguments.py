"""Policies that travel as arguments of the chat template: they reach the model, or nothing is judged."""

from __future__ import annotations

from typing import Any

import pytest

from backends.remote.other_servers import install, openai, verdict, whole
from backends.remote.server import ToyServer
from backends.remote.support import ask, backend, backend_on, picture, policy
from policyguard.assessment import Assessment, Rating
from policyguard.dialects import Dialect, LlamaGuardDialect, SafeguardDialect, SingGuardDialect
from policyguard.errors import ConfigurationError

DIALECTS = pytest.mark.parametrize(
    "dialect", [LlamaGuardDialect(), SingGuardDialect()], ids=lambda it: it.name
)


class Worded(SafeguardDialect):
    """A dialect of a JSON answer whose policy travels as an argument: also for servers without scores."""

    name = "worded"

    def render(self, policy: Any) -> Any:
        from dataclasses import replace

        (prompt,) = super().render(policy)
        text = prompt.messages[0].parts[0]
        return (replace(prompt, messages=prompt.messages[1:], template={"policy": text}),)


def test_a_server_that_passes_the_arguments_on_gives_a_verdict(server: ToyServer) -> None:
    server.default.unsafe = 0.1
    with backend(server, dialect=LlamaGuardDialect()) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment), found
    assert (found.rating, found.p_unsafe) == (Rating.SAFE, pytest.approx(0.1))
    sent = server.bodies()[0]["chat_template_kwargs"]
    assert sent["categories"]["S1"] == "Arms: The image must not show weapons."


@DIALECTS
@pytest.mark.parametrize("strict", [False, True])
def test_a_server_that_ignores_or_refuses_them_is_refused(
    server: ToyServer, dialect: Dialect, strict: bool
) -> None:
    server.features -= {"template"}
    server.strict = strict
    with backend(server, dialect=dialect) as guard, pytest.raises(ConfigurationError) as caught:
        guard.assess([ask(picture())])
    assert ("chat_template_kwargs" if strict else "judge without the policy") in caught.value.message


def test_a_template_that_leaves_one_category_out_is_refused(server: ToyServer) -> None:
    def counted(handler: Any, answer: Any) -> None:
        categories = server.bodies()[-1]["chat_template_kwargs"]["categories"]
        answer["usage"]["prompt_tokens"] = len(categories["S1"].split())
        handler.send_json(200, answer)

    server.fault = counted
    with (
        backend(server, dialect=LlamaGuardDialect()) as guard,
        pytest.raises(ConfigurationError, match="do not reach"),
    ):
        guard.assess([ask(picture())])


def test_a_server_that_does_not_count_prompts_is_refused(server: ToyServer) -> None:
    def uncounted(handler: Any, answer: Any) -> None:
        handler.send_json(200, answer | {"usage": None})

    server.fault = uncounted
    with (
        backend(server, dialect=LlamaGuardDialect()) as guard,
        pytest.raises(ConfigurationError, match="does not report the length of prompts"),
    ):
        guard.assess([ask(picture())])


def test_it_is_seen_once_for_a_policy_and_a_server(server: ToyServer) -> None:
    with backend(server, dialect=LlamaGuardDialect()) as guard:
        guard.assess([ask(picture(shade)) for shade in range(4)])
        first = len(server.bodies())
        guard.assess([ask(picture(9), policy(rules=[{"id": "a", "title": "A", "unsafe": ["knives"]}]))])
    assert first == 4 + 1
    assert len(server.bodies()) == first + 1 + 1


def test_each_of_several_servers_has_to_show_it(server: ToyServer) -> None:
    with ToyServer() as other:
        other.features -= {"template"}
        with (
            backend_on([server.url, other.url], dialect=LlamaGuardDialect(), concurrency=2) as guard,
            pytest.raises(ConfigurationError, match=other.url.split("/")[2]),
        ):
            guard.assess([ask(picture(shade)) for shade in range(16)])


@pytest.mark.parametrize("sees", [True, False])
def test_a_bare_rating_needs_the_arguments_as_well(server: ToyServer, sees: bool) -> None:
    def answers(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, whole(verdict(body) if "response_format" in body else "The picture")

    install(server, answers)
    server.features -= set() if sees else {"template"}
    with backend(server, dialect=Worded()) as guard:
        if sees:
            (found,) = guard.assess([ask(picture())])
            assert isinstance(found, Assessment), found
            assert found.rating is Rating.UNSAFE
        else:
            with pytest.raises(ConfigurationError, match="judge without the policy"):
                guard.assess([ask(picture())])


def test_a_service_that_refuses_them_says_so_in_one_message(server: ToyServer) -> None:
    install(server, openai)
    with (
        backend(server, dialect=Worded()) as guard,
        pytest.raises(ConfigurationError, match="chat_template_kwargs"),
    ):
        guard.assess([ask(picture())])
