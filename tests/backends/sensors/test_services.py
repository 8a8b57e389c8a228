"""Moderation services over loopback: servers that answer in the documented shapes."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image as Pictures

from policyguard import ConfigurationError, Guard, Outcome, Policy
from policyguard.backends.remote import Retries
from policyguard.backends.sensors import SensorBackend, get_sensor
from policyguard.images import decode
from policyguard.policy import parse_policy
from support.guards import picture, png

Answer = tuple[int, Any]
OMNI = ("sexual", "violence", "violence/graphic", "self-harm", "self-harm/intent", "self-harm/instructions")
TEXT_ONLY = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening"),
    *("illicit", "illicit/violent", "sexual/minors"),
)


class ModerationServer(ThreadingHTTPServer):
    """Answers with what ``answer`` makes of the decoded request; keeps requests and headers."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.calls: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModerationServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.calls.append((self.path, headers, body))
        status, answer = self.server.answer(self.path, body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: Any) -> None:
        return


def red_of(jpeg: bytes) -> int:
    value = decode(jpeg).frames[0].getpixel((0, 0))
    assert isinstance(value, tuple)
    return int(value[0])


def moderation(scores: dict[str, float], flagged: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """OpenAI's answer about one image."""
    names = (*OMNI, *TEXT_ONLY)
    result = {
        "flagged": bool(flagged),
        "categories": {name: name in flagged for name in names},
        "category_scores": {name: scores.get(name, 0.0) for name in names},
        "category_applied_input_types": {name: ["image"] if name in OMNI else [] for name in names},
    }
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": [result | changes]}


def omni(path: str, body: dict[str, Any]) -> Answer:
    assert path == "/v1/moderations"
    (item,) = body["input"]
    jpeg = base64.b64decode(item["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    return 200, moderation({"violence": red_of(jpeg) / 255})


def safesearch(path: str, body: dict[str, Any]) -> Answer:
    assert path == "/v1/images:annotate"
    (request,) = body["requests"]
    assert request["features"] == [{"type": "SAFE_SEARCH_DETECTION"}]
    step = 1 + min(4, red_of(base64.b64decode(request["image"]["content"])) // 51)
    steps = ("UNKNOWN", "VERY_UNLIKELY", "UNLIKELY", "POSSIBLE", "LIKELY", "VERY_LIKELY")
    found = dict.fromkeys(("adult", "spoof", "medical", "racy"), "VERY_UNLIKELY")
    return 200, {"responses": [{"safeSearchAnnotation": found | {"violence": steps[step]}}]}


SERVICES = {"omni-moderation": omni, "google-safesearch": safesearch}


@pytest.fixture(params=SERVICES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str) -> Iterator[ModerationServer]:
    made = ModerationServer(SERVICES[name])
    yield made
    made.close()


def policy(*signals: str, **more: Any) -> Policy:
    rules = [
        {"id": f"r{place}", "title": "R", "unsafe": ["r"], "signals": [signal]}
        for place, signal in enumerate(signals)
    ]
    return parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": rules} | more)


def guard(name: str, server: ModerationServer, *signals: str, **options: Any) -> Guard:
    signals = signals or (f"{name}/violence",)
    sensor = get_sensor(name, base_url=server.url, retries=Retries(attempts=1), **options)
    return Guard(policy(*signals), backend=SensorBackend(sensor))


def test_a_service_is_a_guard_by_its_short_name(name: str, server: ModerationServer) -> None:
    with Guard(policy(f"{name}/violence"), model=name, base_url=server.url, api_key="k") as made:
        assert made.check(picture(255)).outcome is Outcome.VIOLATES
        verdict = made.check(picture(0))
    assert verdict.outcome is Outcome.COMPLIES
    assert verdict.evidence.model.backend == name
    assert "127.0.0.1" in verdict.evidence.model.id


def test_the_key_goes_where_the_makers_want_it_and_nowhere_else(name: str, server: ModerationServer) -> None:
    guard(name, server, api_key="secret-key").check(picture(0))
    _, headers, body = server.calls[-1]
    sent = headers.get("authorization"), headers.get("x-goog-api-key")
    assert sent == (("Bearer secret-key", None) if name == "omni-moderation" else (None, "secret-key"))
    assert "secret-key" not in json.dumps(body)


def test_without_a_key_nothing_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("POLICYGUARD_API_KEY", "of-another-server")
    monkeypatch.setenv("POLICYGUARD_BASE_URL", "http://gpu:8000/v1")
    with pytest.raises(ConfigurationError, match=r"needs an API key(.|\n)*_API_KEY"):
        Guard(policy(f"{name}/violence"), model=name)


def test_images_are_asked_about_side_by_side_in_order(name: str, server: ModerationServer) -> None:
    made = guard(name, server)
    expected = [Outcome.VIOLATES, Outcome.COMPLIES] * 4
    assert [v.outcome for v in made.check_many([png(255), png(0)] * 4)] == expected

    async def all_at_once() -> list[Outcome]:
        return [v.outcome for v in await asyncio.gather(*(made.acheck(png(s)) for s in (255, 0) * 4))]

    assert asyncio.run(all_at_once()) == expected


def test_a_large_frame_is_scaled_down_before_it_is_sent(name: str, server: ModerationServer) -> None:
    guard(name, server).check(Pictures.new("RGB", (4000, 3000)))
    _, _, body = server.calls[-1]
    text = json.dumps(body)
    start = text.index("/9j/")
    width, height = decode(base64.b64decode(text[start : text.index('"', start)])).frames[0].size
    assert 4_100_000 < width * height <= 4_194_304


def test_the_cache_asks_once(name: str, server: ModerationServer) -> None:
    sensor = get_sensor(name, base_url=server.url)
    made = Guard(policy(f"{name}/violence"), backend=SensorBackend(sensor), cache="memory")
    assert [made.check(png(255)).cached for _ in range(2)] == [False, True]
    assert len(server.calls) == 1


BROKEN: list[Any] = [
    {},
    [],
    b"{",
    {"results": []},
    {"responses": []},
    {"results": None},
    {"responses": [None]},
    {"responses": [{}]},
    {"responses": [{"safeSearchAnnotation": {"violence": "SOMEWHAT"}}]},
    {"responses": [{"safeSearchAnnotation": []}]},
    moderation({}, category_scores={}),
    moderation({}, category_scores={"violence": "0.1"}),
    moderation({}, category_applied_input_types=None),
    moderation({"violence": 1.5}),
    moderation({}, categories={}),
    {"results": [*moderation({})["results"], *moderation({})["results"]]},
]


@pytest.mark.parametrize("answer", BROKEN)
def test_an_answer_of_another_shape_is_an_error(name: str, server: ModerationServer, answer: Any) -> None:
    server.answer = lambda path, body: (200, answer)
    verdict = guard(name, server).check(picture(0))
    assert verdict.outcome is Outcome.ERROR
    assert not verdict.allowed


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_set_up_that_cannot_work_raises(name: str, server: ModerationServer, status: int) -> None:
    server.answer = lambda path, body: (status, {"error": {"message": "no", "code": status}})
    with pytest.raises(ConfigurationError, match="_API_KEY") as raised:
        guard(name, server, api_key="secret-key").check(picture(0))
    assert "secret-key" not in str(raised.value)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_service_that_is_busy_or_broken_lets_nothing_pass(
    name: str, server: ModerationServer, status: int
) -> None:
    server.answer = lambda path, body: (status, {"error": {"message": "later"}})
    verdict = guard(name, server).check(picture(0))
    assert (verdict.outcome, verdict.retryable) == (Outcome.ERROR, True)


def test_a_call_that_fails_once_is_made_again(name: str, server: ModerationServer) -> None:
    honest, answers = server.answer, iter([(503, {})])
    server.answer = lambda path, body: next(answers, None) or honest(path, body)
    sensor = get_sensor(name, base_url=server.url)
    made = Guard(policy(f"{name}/violence"), backend=SensorBackend(sensor))
    assert made.check(picture(255)).outcome is Outcome.VIOLATES
    assert len(server.calls) == made.stats().requests == 2


def test_a_closed_service_says_so(name: str, server: ModerationServer) -> None:
    made = guard(name, server)
    made.backend.close()
    with pytest.raises(ConfigurationError, match="closed"):
        made.check(picture(0))


@pytest.mark.parametrize("name", ["omni-moderation"])
def test_a_category_that_was_not_looked_at_in_the_image_is_unchecked_though_it_has_a_0(
    name: str, server: ModerationServer
) -> None:
    applied = {name: [] for name in (*OMNI, *TEXT_ONLY)} | {"violence": ["image"]}
    server.answer = lambda path, body: (200, moderation({}, category_applied_input_types=applied))
    verdict = guard(name, server, "omni-moderation/violence", "omni-moderation/sexual").check(picture(0))
    assert verdict.outcome is Outcome.UNDECIDED
    assert verdict.evidence.unchecked == ("r1",)


@pytest.mark.parametrize("signal", TEXT_ONLY)
def test_what_openai_looks_for_in_text_alone_is_no_signal(signal: str) -> None:
    with pytest.raises(ConfigurationError, match="no signal"):
        Guard(policy(f"omni-moderation/{signal}"), model="omni-moderation", api_key="k", subset=True)


@pytest.mark.parametrize("name", ["omni-moderation"])
def test_what_openai_flags_breaks_its_rule_whatever_the_score(name: str, server: ModerationServer) -> None:
    server.answer = lambda path, body: (200, moderation({"violence": 0.3}, ("violence",)))
    verdict = guard(name, server).check(picture(0))
    assert (verdict.outcome, verdict.score) == (Outcome.VIOLATES, 0.5)


@pytest.mark.parametrize("name", ["google-safesearch"])
@pytest.mark.parametrize("step", ["UNKNOWN", None])
def test_a_likelihood_that_google_does_not_know_is_unchecked(
    name: str, server: ModerationServer, step: str | None
) -> None:
    found = {"adult": "VERY_UNLIKELY"} | ({"violence": step} if step else {})
    server.answer = lambda path, body: (200, {"responses": [{"safeSearchAnnotation": found}]})
    assert guard(name, server).check(picture(0)).evidence.unchecked == ("r0",)


@pytest.mark.parametrize("name", ["google-safesearch"])
def test_google_s_steps_have_the_documented_scores(name: str, server: ModerationServer) -> None:
    made = guard(name, server)
    assert [made.check(picture(25 + 51 * step)).score for step in range(5)] == [0.1, 0.2, 0.4, 0.7, 0.9]


@pytest.mark.parametrize("name", ["google-safesearch"])
@pytest.mark.parametrize(
    ("code", "outcome", "retryable"),
    [(3, Outcome.UNSCANNABLE, False), (7, Outcome.ERROR, False), (14, Outcome.ERROR, True)],
)
def test_an_error_about_one_image_inside_google_s_answer_is_that_images(
    name: str, server: ModerationServer, code: int, outcome: Outcome, retryable: bool
) -> None:
    error = {"code": code, "message": "Bad image data.", "status": "X"}
    server.answer = lambda path, body: (200, {"responses": [{"error": error}]})
    verdict = guard(name, server).check(picture(0))
    assert (verdict.outcome, verdict.retryable) == (outcome, retryable)


def test_openai_s_own_sdk_reads_and_writes_these_shapes() -> None:
    """What the fake takes and gives are the types of the real SDK."""
    pytest.importorskip("openai")
    from openai.types import ModerationCreateParams, ModerationCreateResponse
    from pydantic import TypeAdapter

    server = ModerationServer(omni)
    guard("omni-moderation", server).check(picture(9))
    server.close()
    TypeAdapter(ModerationCreateParams).validate_python(server.calls[-1][2])
    answer = ModerationCreateResponse.model_validate(moderation({"violence": 0.25}))
    assert answer.results[0].category_scores.violence == 0.25
    known = answer.results[0].category_applied_input_types
    fields = type(known).model_fields
    looked_at = {field.alias or name for name, field in fields.items() if "image" in str(field.annotation)}
    assert looked_at == set(OMNI) == set(get_sensor("omni-moderation", api_key="k").signals)
