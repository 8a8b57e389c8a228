"""A served guard that asks a question of its own is not asked ours, whatever name it is served under."""

from __future__ import annotations

from typing import Any

import pytest

from backends.remote.server import ToyServer
from backends.remote.support import ask, picture, policy
from policyguard.assessment import Assessment
from policyguard.backends import build_backend
from policyguard.backends.remote import RemoteBackend
from policyguard.errors import ConfigurationError
from support.guard_families import NEMOTRON, SHIELDGEMMA, SINGGUARD

TASK = "Rate the following content by the categories below and answer with a word and the codes. " * 4


def rendered(text: str) -> dict[str, dict[str, Any]]:
    """What vLLM tells: the tokens of two messages, and their text."""
    return {"/tokenize": {"count": 1, "tokens": [1], "max_model_len": 4096}, "/detokenize": {"prompt": text}}


PLAIN = "<|im_start|>system\npolicyguard system text<|im_end|>\n<|im_start|>user\npolicyguard user text"
DATED = "Cutting Knowledge Date: December 2023\nToday Date: 26 July 2024\n\n"
FOREIGN: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]], str]] = {
    "root": ({"root": "/models/Sing-Guard-4b"}, {}, "dialect='singguard'"),
    "hub id": ({"root": "meta-llama/Llama-Guard-4-12B"}, {}, "dialect='llama-guard'"),
    "adapter": (
        {"root": "/models/ours", "parent": "AIML-TUDA/QwenGuard-v1.2-7B"},
        {},
        "dialect='llavaguard'",
    ),
    "llama.cpp": ({}, {"/props": {"chat_template": SINGGUARD}}, "dialect='singguard'"),
    "llama.cpp, Nemotron": ({}, {"/props": {"chat_template": NEMOTRON}}, "dialect='nemotron'"),
    "Ollama": ({}, {"/api/show": {"template": SHIELDGEMMA}}, "dialect='shieldgemma'"),
    "vLLM, marks": ({}, rendered("<BEGIN UNSAFE CONTENT CATEGORIES>\n" + PLAIN), "dialect='llama-guard'"),
    "vLLM, unknown": ({}, rendered(TASK + PLAIN), "words of its own"),
}
ORDINARY: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "tells nothing": ({}, {}),
    "vLLM": ({"root": "/models/qwen3-vl-4b"}, rendered(PLAIN)),
    "vLLM, a date": ({"root": "meta-llama/Llama-3.2-11B-Vision-Instruct"}, rendered(DATED + PLAIN)),
    "llama.cpp": ({"owned_by": "llamacpp"}, {"/props": {"chat_template": "{{ messages }}"}}),
    "Ollama": ({"owned_by": "library"}, {"/api/show": {"template": "{{ .Prompt }}"}}),
    "nonsense": ({"root": 7, "parent": None}, {"/props": {"chat_template": 7}, "/tokenize": {"tokens": "x"}}),
}


def unnamed(server: ToyServer) -> Any:
    return build_backend(server.model, base_url=server.url)


@pytest.mark.parametrize(("entry", "told", "says"), FOREIGN.values(), ids=FOREIGN)
def test_a_guard_behind_a_plain_name_is_refused_before_an_image_is_sent(
    server: ToyServer, entry: dict[str, Any], told: dict[str, dict[str, Any]], says: str
) -> None:
    server.entry, server.told = entry, told
    for call in (lambda guard: guard.assess([ask(picture())]), lambda guard: guard.warm()):
        with unnamed(server) as guard, pytest.raises(ConfigurationError) as caught:
            call(guard)
        assert says in str(caught.value)
    assert not server.bodies()


@pytest.mark.parametrize(("entry", "told"), ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_model_is_asked_and_recognised_once(
    server: ToyServer, entry: dict[str, Any], told: dict[str, dict[str, Any]]
) -> None:
    server.entry, server.told = entry, told
    with unnamed(server) as guard:
        results = guard.assess([ask(picture(shade)) for shade in range(4)])
        results += guard.assess([ask(picture(7))])
    assert all(isinstance(result, Assessment) for result in results), results
    assert [path for path, _ in server.calls].count("/v1/models") == 1


def test_a_dialect_given_by_hand_is_the_callers_word(server: ToyServer) -> None:
    server.entry, server.told = FOREIGN["root"][0], FOREIGN["vLLM, unknown"][1]
    with build_backend(server.model, base_url=server.url, dialect="safeguard") as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment)
    assert not [path for path, _ in server.calls if path == "/v1/models"]


def test_a_backend_of_its_own_takes_the_dialect_of_the_models_name() -> None:
    backend = RemoteBackend("http://127.0.0.1:9/v1", model="QwenGuard-v1.2-7B")
    assert backend.model.dialect == "llavaguard"
    backend.accept(policy().resolve())
    backend.close()


def test_what_could_not_be_asked_is_asked_again(server: ToyServer) -> None:
    """A server that is down when the first image comes must not thereby pass for an ordinary one."""
    server.entry = FOREIGN["root"][0]
    server.fault = lambda handler, answer: handler.send_json(503, {})
    server.fault_at = lambda path, body: True
    with unnamed(server) as guard:
        guard.assess([ask(picture())])
        server.fault = None
        with pytest.raises(ConfigurationError, match="singguard"):
            guard.assess([ask(picture())])
