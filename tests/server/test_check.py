"""One image in, one verdict out: multipart and JSON, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from backends.remote.other_servers import install, ollama
from backends.remote.server import ToyServer
from integrations.http.pictures import GREEN, ORANGE, RED, b64, data_uri, picture
from policyguard import ConfigurationError, Guard
from policyguard.assessment import Failure, FailureKind
from policyguard.backends.remote.backend import RemoteBackend
from policyguard.backends.remote.retry import Retries
from policyguard.cli import main
from policyguard.server.keys import new_key
from policyguard.server.policies import Policies, Readiness
from policyguard.testing import FakeBackend
from server.support import Service, serving, write
from support.waiting import wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("policies")
    for name in ("colours", "shop/house-rules"):
        write(folder, name)
    with serving(folder) as running:
        yield running


DOCS = Path(__file__).parents[2] / "docs" / "server.md"
RUN = {
    "js": """\
import { readFile } from "node:fs/promises";
HANDLER
console.log(JSON.stringify(await judge(await readFile(process.argv[2]))));
""",
    "php": """<?php
HANDLER
echo json_encode(judge(['tmp_name' => $argv[1], 'error' => (int) getenv('UPLOAD_ERROR')]));
""",
}
FILES = {"js": ("node", "handler.mjs"), "php": ("php", "handler.php")}


def ask_in(
    language: str,
    url: str,
    image: bytes,
    folder: Path,
    *,
    silent: bool = False,
    key: str = "pgk_any",
    error: int = 0,
) -> dict[str, Any]:
    """What the handler in docs/server.md tells a site to do with ``image``, which it must have logged."""
    program, name = FILES[language]
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    (handler,) = re.findall(rf"^```{language}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    handler = handler.partition("\n$result = ")[0]
    handler = handler.replace("http://127.0.0.1:8765/v1/check?policy=house-rules", url)
    if silent:  # as long as it takes to see that nothing comes
        handler = handler.replace("75_000", "2_000").replace("75,", "2,")
    (folder / name).write_text(RUN[language].replace("HANDLER", handler))
    (folder / "photo").write_bytes(image)
    environment = {**os.environ, "SHOP_KEY": key, "UPLOAD_ERROR": str(error)}
    command = [program, str(folder / name), str(folder / "photo")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = dict(json.loads(done.stdout))
    assert json.loads(done.stderr.partition("photo ")[2]) == told
    return told


def test_the_quick_start_answers_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = DOCS.read_text().partition("To try it without")[2].partition("\nIt answers once")[0]
    *lines, answer = "".join(
        re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    ).splitlines()
    serve, draw, ask = map(shlex.split, lines)
    curl, _, upload, url = ask
    assert (draw[0], serve[:2], curl) == ("policyguard", ["policyguard", "serve"], "curl")
    monkeypatch.chdir(tmp_path)
    assert main(draw[1:]) == 0
    backend = Guard(serve[2]).backend
    with serving(tmp_path / "none", policies=tuple(serve[2:]), backend=backend) as service:
        path = url.removeprefix("http://127.0.0.1:8765")
        file = Path(upload.removeprefix("image=@"))
        found = service.post(path, files={"image": file.read_bytes()}).json()
        found["score"] = round(found["score"], 2)
        assert json.dumps(found).startswith(answer.removesuffix("..."))
        gone = file.with_name(file.name.replace("before", "after"))
        for reasons in ("", "&explain=true"):
            found = service.post(f"{path}{reasons}", files={"image": gone.read_bytes()}).json()
            assert ("complies", True, None) == (found["outcome"], found["allowed"], found["rationale"])


@pytest.mark.parametrize("language", FILES)
def test_a_site_s_handler_takes_every_branch(language: str, service: Service, tmp_path: Path) -> None:
    check = f"{service.url}/v1/check?policy="
    for image, then, outcome, rules, why in (
        (picture(GREEN), "publish", "complies", [], ""),
        (picture(ORANGE), "flag", "violates", ["orange"], "Orange"),
        (picture(RED), "refuse", "violates", ["red"], "Red"),
        (b"no image", "hold", "unscannable", [], "is text"),
    ):
        found = ask_in(language, f"{check}colours", image, tmp_path)
        assert (found["then"], found["outcome"], found["rules"]) == (then, outcome, rules)
        assert why in (found["why"] or "")
        assert found["sha256"] == hashlib.sha256(image).hexdigest()
    found = ask_in(language, f"{check}colors", picture(GREEN), tmp_path)
    assert (found["then"], "colours" in found["why"]) == ("hold", True)
    found = ask_in(language, f"{service.url}/?", picture(GREEN), tmp_path)  # not this service's answer
    assert found["then"] != "publish"


@pytest.mark.parametrize("language", FILES)
def test_a_site_s_handler_publishes_nothing_while_nobody_judges(language: str, tmp_path: Path) -> None:
    def asked(url: str, then: str = "retry", **options: Any) -> str:
        found = ask_in(language, url, picture(GREEN), tmp_path, **options)
        assert found["then"] == then
        return str(found["why"])

    down = FakeBackend(Failure(FailureKind.ERROR, "down"))
    with serving(tmp_path / "policies", backend=down) as service:
        assert "down" in asked(f"{service.url}/v1/check")
    gone = f"{service.url}/v1/check"
    assert re.search("refused|connect to", asked(gone), re.IGNORECASE)
    assert re.search("refused|connect to", asked(gone.replace("127.0.0.1", "localhost")), re.IGNORECASE)
    with serving(tmp_path / "policies", backend=FakeBackend(ConfigurationError("revoked"))) as service:
        assert "503" in asked(f"{service.url}/v1/check")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        why = asked(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/check", silent=True)
    assert re.search("timeout|timed out", why, re.IGNORECASE)
    keys = tmp_path / "keys.yaml"
    key = new_key(keys, "shop", policies=["colours"])
    with serving(tmp_path / "policies", keys=keys) as service:
        asked(f"{service.url}/v1/check", "publish", key=key)
        assert "401" in asked(f"{service.url}/v1/check", "retry", key=f"{key}x")
        if language == "js":  # where curl sends two lines, fetch sends nothing and quotes them
            assert "TypeError" in (why := asked(f"{service.url}/v1/check", key=f"{key}\nx"))
            assert key not in why


@pytest.mark.parametrize(
    ("error", "then"), [(1, "smaller"), (2, "smaller"), (3, "hold"), (4, "hold"), (7, "hold")]
)
def test_a_file_that_did_not_arrive_is_not_sent_on(error: int, then: str, tmp_path: Path) -> None:
    found = ask_in("php", "http://127.0.0.1:9/v1/check", b"", tmp_path, error=error)
    assert found == {"then": then, "why": f"upload error {error}"}


@contextmanager
def proxy_answering(status: int, body: bytes, headers: dict[str, str]) -> Iterator[str]:
    """The address of what stands before the service and answers everything itself, as nginx does."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/check"
        finally:
            server.shutdown()
            thread.join()


HTML = b"<html><h1>nginx</h1></html>"
OTHERS = {
    "HTML 413": (413, HTML, {}, {"then": "smaller"}),
    "HTML 401": (401, HTML, {}, {"then": "retry"}),
    "HTML 502": (502, HTML, {}, {"then": "retry"}),
    "503 that says when": (503, HTML, {"Retry-After": "7"}, {"then": "retry", "after": 7}),
    "429 of the service": (429, b'{"error": {}}', {"Retry-After": "2"}, {"then": "retry", "after": 2}),
    "a date to wait for": (503, HTML, {"Retry-After": "Mon, 30 Nov 2026 22:00:00 GMT"}, {"then": "retry"}),
    "200 with junk": (200, HTML, {}, {"then": "hold"}),
    "200 with nothing": (200, b"", {}, {"then": "hold"}),
    "200 with null": (200, b"null", {}, {"then": "hold"}),
    "200 with a list": (200, b'[{"allowed": true}]', {}, {"then": "hold"}),
    "200 with a text": (200, b'"publish"', {}, {"then": "hold"}),
    "204": (204, b"", {}, {"then": "hold"}),
    "an error that allows": (403, b'{"allowed": true}', {}, {"then": "retry"}),
    "another error that allows": (422, b'{"allowed": true}', {}, {"then": "hold"}),
    "no findings": (200, b'{"allowed": false, "outcome": "violates"}', {}, {"then": "hold"}),
    "nothing else": (200, b'{"allowed": true}', {}, {"then": "hold"}),
}


@pytest.mark.parametrize("language", FILES)
def test_a_site_s_handler_looks_at_the_status_before_the_body(language: str, tmp_path: Path) -> None:
    """A proxy's own answers are HTML: one that never ends well is not asked for again and again."""
    found = {}
    for name, (status, body, headers, _) in OTHERS.items():
        with proxy_answering(status, body, headers) as url:
            answer = ask_in(language, url, picture(GREEN), tmp_path)
        found[name] = {key: answer[key] for key in ("then", "after") if answer.get(key) is not None}
        assert str(status) in answer["why"]
    assert found == {name: expected for name, (*_, expected) in OTHERS.items()}


@pytest.mark.parametrize("language", FILES)
def test_a_site_s_handler_has_words_for_a_picture_of_which_the_model_names_no_rule(
    language: str, tmp_path: Path
) -> None:
    verdict = {"allowed": False, "outcome": "violates", "action": "block", "findings": [], "reason": None}
    body = json.dumps(verdict | {"evidence": {"image_sha256": "aa"}}).encode()
    with proxy_answering(200, body, {}) as url:
        answer = ask_in(language, url, picture(GREEN), tmp_path)
    assert ("refuse", "the house rules") == (answer["then"], answer["why"])


def test_a_photo_goes_as_json_through_a_file(service: Service, tmp_path: Path) -> None:
    """Of the size of a photograph: on a command line it would be too long."""
    (lines,) = re.findall(r"^printf .*?^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    lines = lines.removesuffix("```").replace("house-rules", "colours").replace("curl ", "curl -s ")
    (tmp_path / "photo.jpg").write_bytes(picture(GREEN) + bytes(2**20))
    command = lines.replace("http://127.0.0.1:8765", service.url)
    done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outcome"] == "complies"


SENT: dict[str, Any] = {
    "multipart": lambda image: {"files": {"image": image}, "data": {"policy": "colours"}},
    "a data URI": lambda image: {"json": {"image": data_uri(image), "policy": "colours"}},
    "base64": lambda image: {"json": {"image": b64(image), "policy": ["colours"]}},
}


@pytest.mark.parametrize("form", SENT)
@pytest.mark.parametrize(
    ("colour", "outcome", "allowed"),
    [(GREEN, "complies", True), (RED, "violates", False), (ORANGE, "violates", True)],
)
def test_an_image_gets_its_verdict(
    service: Service, form: str, colour: Any, outcome: str, allowed: bool
) -> None:
    answer = service.post("/v1/check", **SENT[form](picture(colour)))
    assert (200, outcome, allowed) == (
        answer.status_code,
        answer.json()["outcome"],
        answer.json()["allowed"],
    )
    (policy,) = answer.json()["evidence"]["policies"]
    assert service.state.policies.current.live["colours"].policy.fingerprint == policy["fingerprint"]


def test_several_policies_must_all_allow(service: Service) -> None:
    answer = service.check(picture(GREEN), "colours&policy=shop/house-rules").json()
    assert ["tests/colours", "tests/shop/house-rules"] == [
        policy["id"] for policy in answer["evidence"]["policies"]
    ]
    assert answer["allowed"]


@pytest.mark.parametrize("image", [b"", b"no image", picture(GREEN)[:40]])
def test_what_cannot_be_judged_is_a_verdict_that_does_not_allow(service: Service, image: bytes) -> None:
    answer = service.check(image)
    assert (200, "unscannable", False) == (
        answer.status_code,
        answer.json()["outcome"],
        answer.json()["allowed"],
    )


REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "no image": (422, {"data": {"policy": "colours"}, "files": {"explain": (None, "true")}}),
    "two images": (422, {"files": [("image", b"a"), ("image", b"b")]}),
    "an empty text": (422, {"json": {"image": ""}}),
    "null": (422, {"json": {"image": None}}),
    "an address": (422, {"json": {"image": "https://example.org/a.png"}}),
    "a path": (422, {"json": {"image": "/etc/passwd"}}),
    "a file address": (422, {"json": {"image": "file:///etc/passwd"}}),
    "a list": (422, {"json": []}),
    "an unknown field": (422, {"json": {"image": data_uri(picture(GREEN)), "polcy": "colours"}}),
    "a policy that is none": (422, {"json": {"image": data_uri(picture(GREEN)), "policy": 1}}),
    "explain that is neither": (422, {"json": {"image": data_uri(picture(GREEN)), "explain": "no"}}),
    "a key twice": (
        400,
        {"content": b'{"image": "", "image": ""}', "headers": {"content-type": "application/json"}},
    ),
    "half a body": (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
    "text": (415, {"content": b"hello", "headers": {"content-type": "text/plain"}}),
    "no type": (415, {"content": b"hello"}),
    "no boundary": (400, {"content": b"hello", "headers": {"content-type": "multipart/form-data"}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_without_an_image_is_refused(service: Service, case: str) -> None:
    status, request = REFUSED[case]
    answer = service.post("/v1/check?policy=colours", **request)
    assert (status, False) == (answer.status_code, answer.json()["allowed"])


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("colurs", "did you mean 'colours'"),
        ("house-rules", "did you mean 'shop/house-rules'"),
        ("x", "lists"),
    ],
)
def test_an_unknown_policy_is_answered_with_the_nearest(service: Service, policy: str, says: str) -> None:
    answer = service.check(picture(GREEN), policy)
    assert 404 == answer.status_code
    assert says in answer.json()["error"]["message"]


def test_the_only_policy_needs_no_name_and_one_of_several_does(service: Service, tmp_path: Path) -> None:
    files = {"image": picture(GREEN)}
    assert 422 == service.post("/v1/check", files=files).status_code
    with serving(tmp_path) as one:
        assert one.post("/v1/check", files=files).json()["allowed"]


def test_a_backend_that_fails_gives_a_verdict_that_does_not_allow(tmp_path: Path) -> None:
    with serving(tmp_path, backend=FakeBackend(Failure(FailureKind.ERROR, "down"))) as service:
        answer = service.check(picture(GREEN))
        assert (200, "error", False) == (
            answer.status_code,
            answer.json()["outcome"],
            answer.json()["allowed"],
        )


def test_a_wrong_set_up_is_503_and_the_log_alone_says_what_to_mend(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, backend=FakeBackend(ConfigurationError("the key sk-123 is refused"))) as service:
        answer = service.check(picture(GREEN))
    assert (503, False) == (answer.status_code, answer.json()["allowed"])
    assert "sk-123" not in answer.text
    assert "sk-123 is refused" in caplog.text


def test_a_body_that_is_too_large_is_413_however_it_comes(tmp_path: Path) -> None:
    with serving(tmp_path, body_limit=1) as service:
        assert 413 == service.check(bytes(2 * 2**20)).status_code
        pieces = (bytes(2**16) for _ in range(40))
        assert 413 == service.post("/v1/check?policy=colours", content=pieces).status_code
        assert 200 == service.check(picture(GREEN)).status_code
        assert 0 == service.state.room.held


def test_policies_are_listed(service: Service) -> None:
    listed = service.get("/v1/policies").json()["policies"]
    assert ["colours", "shop/house-rules"] == [policy["name"] for policy in listed]


def test_the_service_is_alive_and_ready_and_says_why_not(tmp_path: Path) -> None:
    class Loading(FakeBackend):
        def warm(self) -> None:
            if self.closed:
                raise ConfigurationError("no weights")

    with serving(tmp_path, backend=(backend := Loading())) as service:
        assert {"status": "ok"} == service.get("/healthz").json()
        assert (200, True) == ((answer := service.get("/readyz")).status_code, answer.json()["ready"])
        backend.closed = True
        service.state.ready.expire()
        answer = service.get("/readyz")
        assert (503, False, "no weights") == (answer.status_code, *list(answer.json().values())[:2])
        assert {"status": "ok"} == service.get("/healthz").json()


def test_metrics_tell_of_a_backend_that_is_down_though_nobody_asks_readyz(
    tmp_path: Path,
) -> None:
    class Flaky(FakeBackend):
        down = False

        def warm(self) -> None:
            if self.down:
                raise ConfigurationError("it does not answer")

    def told(service: Service, value: str) -> bool:
        service.state.ready.expire()
        return f"policyguard_ready {value}" in service.get("/metrics").text.splitlines()

    with serving(tmp_path, backend=(backend := Flaky())) as service:
        wait_until(lambda: told(service, "1.0"))
        backend.down = True
        wait_until(lambda: told(service, "0.0"))
        backend.down = False
        wait_until(lambda: told(service, "1.0"))


def test_a_backend_that_hangs_does_not_hold_up_the_metrics(tmp_path: Path) -> None:
    answers = threading.Event()

    class Hanging(FakeBackend):
        def warm(self) -> None:
            assert answers.wait(600)

    with serving(tmp_path, backend=Hanging()) as service:
        assert "policyguard_ready 0.0" in service.get("/metrics").text.splitlines()
        answers.set()
        wait_until(lambda: "policyguard_ready 1.0" in service.get("/metrics").text.splitlines())


def test_a_backend_that_stays_down_in_other_words_is_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = iter(["is it up?", "tried twice", "tried thrice", None, "down again"])

    class Down(FakeBackend):
        def warm(self) -> None:
            if (word := next(words)) is not None:
                raise ConfigurationError(word)

    ready = Readiness(Down(), Policies((str(write(tmp_path)),), FakeBackend()), 60)
    with caplog.at_level(logging.INFO, "policyguard.server"):
        for _ in range(5):
            ready.expire()
            asyncio.run(ready.look())
    lines = [record.message for record in caplog.records if "the backend" in record.message]
    down = "the backend does not answer: "
    assert [down + "is it up?", "the backend answers", down + "down again"] == lines


LOW = "defaults:\n  threshold: 0.4\n"


@pytest.mark.parametrize("beside", [False, True])
def test_a_policy_that_needs_scores_which_the_server_does_not_give_is_never_ready(
    beside: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + LOW)
    if beside:
        write(tmp_path, "plain")
    with ToyServer() as model, RemoteBackend(model.url, model=model.model) as backend:
        install(model, lambda body: ollama(body, rating="safe", category="none"))
        with serving(tmp_path, backend=backend) as service:
            answer = service.get("/readyz")
            said = answer.json()["policies"]["colours"]
            assert "gives ratings without scores" in said
            assert "without_scores: ratings" in said
            lines = service.get("/metrics").text.splitlines()
            assert 'policyguard_policy_ready{policy="colours"} 0.0' in lines
            assert f"policyguard_ready {float(beside)}" in lines
            assert beside == ('policyguard_policy_ready{policy="plain"} 1.0' in lines)
            expected = (200, True, None) if beside else (503, False, said)
            assert expected == (answer.status_code, *list(answer.json().values())[:2])
            assert "policy colours judges no image" in caplog.text
            refused = service.check(picture(GREEN))
            assert (503, False) == (refused.status_code, refused.json()["allowed"])

            file.write_text(file.read_text() + "  without_scores: ratings\n")
            assert 200 == service.post("/v1/policies/colours/reload").status_code
            service.state.ready.expire()
            assert {"ready": True, "problem": None, "policies": {}} == service.get("/readyz").json()
            assert "complies" == service.check(picture(GREEN)).json()["outcome"]


def test_a_policy_that_needs_scores_is_ready_once_the_server_has_given_one(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + LOW)
    with (
        ToyServer() as model,
        RemoteBackend(model.url, model=model.model, retries=Retries(attempts=1)) as backend,
    ):
        model.fault = lambda handler, _: handler.send_json(500, {"error": {"message": "still loading"}})
        with serving(tmp_path, backend=backend) as service:
            answer = service.get("/readyz")
            assert (503, False) == (answer.status_code, answer.json()["ready"])
            assert "still loading" in answer.json()["problem"]

            model.fault = None
            wait_until(lambda: service.get("/readyz").json()["ready"])
            asked = len(model.bodies())
            service.state.ready.expire()
            assert {"ready": True, "problem": None, "policies": {}} == service.get("/readyz").json()
            assert asked == len(model.bodies()), "it has given a score and is not asked again"
            assert 200 == service.check(picture(GREEN)).status_code


def test_a_check_that_ends_in_an_error_is_logged_without_image_and_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(handler: Any, _: Any) -> None:
        handler.send_json(
            500, {"error": {"message": f"out of\nmemory for {handler.headers['Authorization']}"}}
        )

    key, once = "sk-of-nobody-0123456789", Retries(attempts=1)
    with (
        ToyServer() as model,
        RemoteBackend(model.url, model=model.model, api_key=key, retries=once) as backend,
        serving(tmp_path, backend=backend) as service,
    ):
        model.fault = broken
        verdict = service.check(picture(GREEN)).json()
        assert ("error", False) == (verdict["outcome"], verdict["allowed"])
    (line,) = [each.getMessage() for each in caplog.records if each.name == "policyguard.server"]
    sha256 = verdict["evidence"]["image_sha256"]
    assert line.startswith(f"policy colours: error on image {sha256[:12]}: ")
    assert "out of memory" in line
    assert key not in caplog.text
    assert b64(picture(GREEN)) not in caplog.text


def test_a_check_that_ends_in_a_verdict_is_not_logged(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    for image in (picture(GREEN), picture(RED), b"no image"):
        assert 200 == service.check(image).status_code
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_push_reloads_a_policy_and_keeps_the_old_one_if_it_is_wrong(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        before = service.get("/v1/policies").json()["policies"][0]["fingerprint"]
        file = write(tmp_path, title="Crimson")
        pushed = service.post("/v1/policies/colours/reload").json()
        assert before != pushed["fingerprint"]
        assert "Crimson" == service.check(picture(RED)).json()["findings"][0]["title"]
        file.write_text("id: [")
        answer = service.post("/v1/policies/colours/reload")
        assert 422 == answer.status_code
        assert "colours.yaml:1" in answer.json()["error"]["message"]
        assert pushed["fingerprint"] == service.get("/v1/policies").json()["policies"][0]["fingerprint"]
        assert "colours.yaml:1" in service.get("/readyz").json()["policies"]["colours"]
        assert 404 == service.post("/v1/policies/..%2Fcolours/reload").status_code


def test_a_service_whose_policies_are_all_gone_is_not_ready_until_one_is_back(tmp_path: Path) -> None:
    with serving(tmp_path, reload_every=0.1) as service:
        (file,) = tmp_path.rglob("colours.yaml")
        file.rename(tmp_path / "aside")
        wait_until(lambda: service.get("/readyz").status_code == 503)
        assert "no policy is served" in service.get("/readyz").json()["problem"]
        assert 404 == service.check(picture(GREEN)).status_code
        (tmp_path / "aside").rename(file)
        wait_until(lambda: service.get("/readyz").status_code == 200)
