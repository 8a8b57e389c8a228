"""The doctor names what is wrong with a server, and says what to do about it."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from backends.remote.faults import TRANSPORT
from backends.remote.other_servers import install, ollama, openai, whole
from backends.remote.server import ToyServer
from backends.remote.support import policy
from cli.support import Terminal
from policyguard.backends.remote.capabilities import capabilities
from policyguard.backends.remote.doctor import Examination, Level, Remark, examine
from policyguard.cli import main
from policyguard.dialects import PicoDialect
from policyguard.errors import ConfigurationError, UnavailableError
from policyguard.policy import load_policy


@pytest.fixture(autouse=True)
def _every_completion_is_at_fault(server: ToyServer) -> None:
    server.fault_at = lambda path, body: "completions" in path


def visit(server: ToyServer, **options: Any) -> Examination:
    settings = {"model": None, "policy": policy().resolve(), "timeout": 100.0, "readings": 2}
    return examine(server.url, **settings | options)


def remark(found: Examination, check: str) -> Remark:
    return next(remark for remark in found.remarks if remark.check == check)


def problems(found: Examination) -> list[str]:
    return [remark.check for remark in found.remarks if remark.level is Level.PROBLEM]


def test_a_good_server_is_healthy_and_timed(server: ToyServer) -> None:
    server.context = 10_000
    found = visit(server)
    assert found.healthy, found
    assert found.model == "toy-guard"
    assert found.speed is not None
    assert found.speed.readings == 2
    assert all(remark.fix for remark in found.remarks if remark.level is not Level.OK)


def test_a_server_that_is_not_there_is_the_only_remark() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        found = examine(url, model=None, policy=policy().resolve(), timeout=2.0)
        with pytest.raises(UnavailableError):
            capabilities(url, timeout=2.0)
    assert problems(found) == ["reachable"]
    assert len(found.remarks) == 1
    assert "start the server" in found.remarks[0].fix


@pytest.mark.parametrize("key", [None, "sk-wrong-123456"])
def test_a_wrong_key_is_named_and_not_shown(server: ToyServer, key: str | None) -> None:
    server.api_key = "sk-right-123456"
    found = visit(server, api_key=key)
    assert problems(found) == ["key"]
    assert "POLICYGUARD_API_KEY" in found.remarks[0].fix
    assert "sk-" not in str(found)


def test_an_address_without_v1_is_named(server: ToyServer) -> None:
    found = visit(server)
    assert found.remarks
    wrong = examine(server.url.removesuffix("/v1"), model=None, policy=policy().resolve(), timeout=100.0)
    assert problems(wrong) == ["address"]
    assert "/v1" in wrong.remarks[-1].fix


@pytest.mark.parametrize("model", [None, "toy-guard"])
def test_an_address_without_v1_is_the_only_remark_whether_or_not_a_model_is_named(
    server: ToyServer, model: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.url.removesuffix("/v1")
    wrong = examine(url, model=model, policy=policy().resolve(), timeout=100.0)
    assert [one.check for one in wrong.remarks] == ["address"]
    assert "/v1" in wrong.remarks[0].fix
    assert main(["models", "--base-url", url, *(["--model", model] if model else [])]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usually ends in /v1" in captured.err


def _without_list(handler: Any, answer: Any) -> None:
    handler.send_json(404, {"detail": "Not Found"})


def test_a_server_without_a_list_of_models_is_not_said_to_run_one(server: ToyServer) -> None:
    server.fault, server.fault_at = _without_list, lambda path, body: path == "/v1/models"
    named = remark(visit(server, model="toy-guard"), "model")
    assert named.level is Level.NOTE
    assert "no list" in named.says
    assert problems(visit(server, model="toy-gard")) == ["model"]
    assert problems(visit(server)) == ["address"]


def test_models_of_a_server_without_a_list_shows_what_it_can_do(
    server: ToyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fault, server.fault_at = _without_list, lambda path, body: path == "/v1/models"
    assert main(["models", "--base-url", server.url, "--model", "toy-guard"]) == 0
    assert "exact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("says", "held"),
    [
        ('{"rating": "unsafe"}', True),
        ('{\n\t"rating"\n :"safe" }', True),
        ("{" + "\n" * 39, True),
        ('{ "rating": "un', True),
        ('{"rating": "perhaps', False),
        ("\n" * 40, False),
        ("Water is wet", False),
        ('{"rating": "safe"} or so', False),
        ('{"rating": "sa', False),
    ],
)
def test_a_form_is_held_by_an_answer_in_it_or_cut_off_within_it(
    server: ToyServer, says: str, held: bool
) -> None:
    finish = "stop" if says.endswith(("}", "wet", "so", "sa")) else "length"

    def answer(handler: Any, honest: Any) -> None:
        body = handler.body
        handler.send_json(200, whole(says, finish) if "response_format" in body else honest)

    server.fault = answer
    key = f"sk-{held}-{abs(hash(says))}"
    assert capabilities(server.url, model="toy-guard", api_key=key, timeout=100.0).response_format is held


@pytest.mark.parametrize(
    ("tokens", "level"),
    [(0, Level.PROBLEM), (3, Level.PROBLEM), (36, Level.OK), (400, Level.OK)],
)
def test_a_server_that_does_not_show_the_model_the_picture_has_a_problem(
    server: ToyServer, tokens: int, level: Level
) -> None:
    def with_usage(handler: Any, answer: Any) -> None:
        pictures = json.dumps(handler.body["messages"]).count("data:image/")
        usage = {"prompt_tokens": 20 + tokens * pictures}
        handler.send_json(200, answer | {"usage": usage})

    server.fault, server.blind = with_usage, True
    found = visit(server)
    assert remark(found, "image").level is level
    assert ("image" in problems(found)) is (level is Level.PROBLEM)
    assert remark(found, "image").fix or level is Level.OK


def test_a_wrong_model_is_named_with_the_nearest_one(server: ToyServer) -> None:
    found = visit(server, model="Toy-Gard")
    assert problems(found) == ["model"]
    assert "'toy-guard'" in remark(found, "model").fix
    assert "did you mean" in remark(found, "model").fix


def test_a_server_without_log_probabilities_has_a_problem_if_the_policy_needs_scores(
    server: ToyServer,
) -> None:
    install(server, lambda body: ollama(body, rating="safe", category="none"))
    found = visit(server, policy=policy(defaults={"threshold": 0.4}).resolve())
    assert {"log-probabilities", "reading"} <= set(problems(found))
    assert "without_scores: ratings" in remark(found, "log-probabilities").fix
    assert "a score of 0.4" in remark(found, "reading").says
    found = visit(server)
    assert remark(found, "log-probabilities").level is Level.NOTE
    assert "nothing to do" in remark(found, "log-probabilities").fix
    assert "without a score" in remark(found, "reading").says
    assert found.speed is None


def test_a_server_that_refuses_all_that_is_not_openai_s_gives_no_scores(server: ToyServer) -> None:
    install(server, openai)
    found = visit(server)
    assert remark(found, "log-probabilities").level is Level.NOTE
    assert found.healthy
    assert "tokenizer" not in [remark.check for remark in found.remarks]  # without scores, no ids are used


def test_only_likeliest_tokens_are_worth_a_note(server: ToyServer) -> None:
    server.features -= {"token-ids", "ids-as-tokens", "tokenize"}
    found = visit(server)
    assert remark(found, "log-probabilities").level is Level.NOTE
    assert remark(found, "tokenizer").level is Level.NOTE


def test_where_prompts_are_not_counted_a_model_is_asked_for_colours_if_it_can_be(server: ToyServer) -> None:
    server.counts_prompts = False
    assert remark(visit(server), "image").says == "the model sees it: the model names colours"
    found = visit(server, policy=load_policy("pictosafe/l3").resolve(), dialect=PicoDialect())
    assert remark(found, "image").level is Level.NOTE
    assert "unknown" in remark(found, "image").says


def test_a_begun_answer_that_is_not_continued_is_a_problem(server: ToyServer) -> None:
    def with_usage(handler: Any, answer: Any) -> None:
        body = handler.body
        words = sum(len(str(message["content"]).split()) + 4 for message in body["messages"])
        if body.get("continue_final_message"):
            words += 6  # the turn is closed and a new one is opened
        handler.send_json(200, answer | {"usage": {"prompt_tokens": words}})

    server.fault = with_usage
    assert "chat template" in problems(visit(server))


def test_a_tokenizer_that_joins_labels_is_a_problem(server: ToyServer) -> None:
    server.fault = lambda handler, answer: handler.send_json(200, {"tokens": [len(answer["tokens"])]})
    server.fault_at = lambda path, body: path == "/tokenize" and body["prompt"] not in ("safe", "unsafe")
    found = visit(server)
    assert "reading" in problems(found)
    assert "joins 'safe'" in remark(found, "reading").says


def test_a_model_that_does_not_speak_the_dialect_is_a_problem(server: ToyServer) -> None:
    server.default.mass = 0.001
    found = visit(server)
    assert problems(found) == ["reading"]
    assert "--dialect" in remark(found, "reading").fix


def test_a_prefix_cache_that_is_not_hit_is_a_problem(server: ToyServer) -> None:
    cached = 0

    def with_usage(handler: Any, answer: Any) -> None:
        usage = {"prompt_tokens_details": {"cached_tokens": cached}}
        handler.send_json(200, answer | {"usage": usage})

    server.fault = with_usage
    found = visit(server)
    assert problems(found) == ["prefix cache"]
    assert "--enable-prefix-caching" in remark(found, "prefix cache").fix
    cached = 880
    assert remark(visit(server), "prefix cache").level is Level.OK


def test_a_server_that_holds_no_answer_to_a_form_is_worth_a_note(server: ToyServer) -> None:
    found = visit(server)
    assert remark(found, "structured output").level is Level.NOTE
    assert "--explain" in remark(found, "structured output").fix


def test_a_policy_that_is_too_long_is_a_problem(server: ToyServer) -> None:
    server.context = 100
    assert problems(visit(server)) == ["reading"]


@pytest.mark.parametrize("fault", ["500", "reset", "hangs up", "empty body", "truncated"])
def test_no_broken_server_is_healthy(server: ToyServer, fault: str) -> None:
    faults = TRANSPORT | {"truncated": lambda handler, answer: handler.send_bytes(200, b'{"choices": [')}
    faults["empty body"] = lambda handler, answer: handler.send_bytes(200, b"")
    server.fault = faults[fault]
    assert not visit(server).healthy
    server.fault_at = lambda path, body: True
    assert not visit(server).healthy


def test_the_command_prints_remarks_and_fixes_and_fails(
    server: ToyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--base-url", server.url, "--model", "toy"]) == 2
    out = capsys.readouterr().out
    assert "problem model: the server does not run 'toy'; it runs toy-guard" in out
    assert "fix: did you mean 'toy-guard'?" in out


def test_the_command_says_at_a_terminal_that_it_is_at_work(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("doctor", "models"):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        main([command, "--base-url", server.url])
        assert "examining the server" in terminal.getvalue()


def test_the_command_prints_json(server: ToyServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.context = 10_000
    assert main(["doctor", "--base-url", server.url, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is True
    assert told["speed"]["cached_ms"] > 0
    assert {"check", "level", "says", "fix"} == set(told["remarks"][0])


def test_the_command_needs_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert "--base-url" in capsys.readouterr().err


def test_models_shows_what_a_server_can_do(server: ToyServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--base-url", server.url, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["served"] == [{"id": "toy-guard", "context": None}]
    assert (told["logprobs"], told["tokenize"], told["constrains"]) == ("exact", True, False)
    assert main(["models", "--base-url", server.url]) == 0
    assert "log-probabilities" in capsys.readouterr().out


def test_a_server_is_asked_once_what_it_can_do(server: ToyServer) -> None:
    first = capabilities(server.url, timeout=100.0, model="toy-guard")
    asked = len(server.calls)
    assert capabilities(server.url, timeout=100.0, model="toy-guard") is first
    assert len(server.calls) == asked


def test_a_wrong_key_is_a_configuration_error_for_whoever_asks(server: ToyServer) -> None:
    server.api_key = "sk-right-123456"
    with pytest.raises(ConfigurationError, match="without an API key"):
        capabilities(server.url, model="another", timeout=100.0)
