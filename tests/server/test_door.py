"""Who may ask: keys, their policies and rates; without keys, this machine and no web page in its browser."""

from __future__ import annotations

import logging
import os
import re
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from integrations.http.pictures import GREEN, RED, picture
from policyguard import ConfigurationError, PolicyError
from policyguard.cli import main
from policyguard.errors import UsageError
from policyguard.server.app import Settings, is_loopback, serve
from policyguard.server.keys import Caller, Keys, new_key
from runs.reports.support import ROOT_ALONE, as_user, open_to_all
from server.support import Service, serving, write


def bearer(key: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def with_keys(tmp_path: Path, file: Path, **options: Any) -> Any:
    for name in ("colours", "secret"):
        write(tmp_path / "policies", name)
    return serving(tmp_path / "policies", keys=file, **options)


def test_a_key_opens_its_policies_and_no_others(tmp_path: Path, file: Path) -> None:
    key = new_key(file, "shop", policies=["colours"])
    with with_keys(tmp_path, file) as service:
        assert 401 == service.check(picture(GREEN)).status_code
        for wrong in ("x", key[:-1], key + "x"):
            assert 401 == service.check(picture(GREEN), **bearer(wrong)).status_code
        assert service.check(picture(GREEN), **bearer(key)).json()["allowed"]
        assert service.check(picture(GREEN), headers={"x-api-key": key}).json()["allowed"]
        assert 403 == service.check(picture(GREEN), "secret", **bearer(key)).status_code
        assert 403 == service.check(picture(GREEN), "colours&policy=secret", **bearer(key)).status_code
        unknown = service.check(picture(GREEN), "secre", **bearer(key))
        assert (404, False) == (unknown.status_code, "'secret'" in unknown.text)
        listed = service.get("/v1/policies", **bearer(key)).json()["policies"]
        assert ["colours"] == [policy["name"] for policy in listed]
        files = {"image": picture(GREEN)}
        assert service.post("/v1/check", files=files, **bearer(key)).json()[
            "allowed"
        ]  # the only one it may use


def test_two_keys_in_one_request_are_none(tmp_path: Path, file: Path) -> None:
    key = new_key(file, "shop", policies=["*"])
    with with_keys(tmp_path, file) as service:
        headers = {"Authorization": f"Bearer {key}", "x-api-key": "other"}
        assert 401 == service.check(picture(GREEN), headers=headers).status_code


def test_what_operators_do_is_for_operators(tmp_path: Path, file: Path) -> None:
    user, operator = (
        new_key(file, "shop", policies=["*"]),
        new_key(file, "ops", policies=["*"], operator=True),
    )
    with with_keys(tmp_path, file) as service:
        for path in ("/metrics", "/try/anything"):
            assert 401 == service.get(path).status_code
            assert 403 == service.get(path, **bearer(user)).status_code
        assert 200 == service.get("/metrics", **bearer(operator)).status_code
        assert 403 == service.post("/v1/policies/colours/reload", **bearer(user)).status_code
        assert 200 == service.post("/v1/policies/colours/reload", **bearer(operator)).status_code
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert 200 == service.get(path).status_code


def test_what_is_wrong_is_told_to_operators_alone(tmp_path: Path, file: Path) -> None:
    user, operator = (
        new_key(file, "shop", policies=["*"]),
        new_key(file, "ops", policies=["*"], operator=True),
    )
    with with_keys(tmp_path, file) as service:
        (tmp_path / "policies" / "colours.yaml").write_text("id: [")
        service.state.policies.poll()
        service.state.policies.poll()
        assert {} == service.get("/readyz").json()["policies"]
        told = service.get("/readyz", **bearer(user)).json()["policies"]
        assert {"colours": "its present file does not load"} == told
        assert "colours.yaml:1" in service.get("/readyz", **bearer(operator)).text
        assert "colours.yaml" not in service.get("/v1/policies", **bearer(user)).text
        assert service.check(picture(GREEN), **bearer(user)).json()["allowed"]


def test_a_rate_is_kept_and_says_when_to_come_back(tmp_path: Path, file: Path) -> None:
    key = new_key(file, "shop", policies=["*"], rate=0.01)
    with with_keys(tmp_path, file) as service:
        assert 200 == service.check(picture(GREEN), **bearer(key)).status_code
        answer = service.check(picture(GREEN), **bearer(key))
        assert (429, False) == (answer.status_code, answer.json()["allowed"])
        assert 1 <= int(answer.headers["Retry-After"]) <= 101


def test_a_second_s_worth_may_come_at_once() -> None:
    caller = Caller("shop", rate=5.0)
    assert [0.0] * 5 == [caller.wait() for _ in range(5)]
    assert 0.0 < caller.wait() <= 0.2


def test_keys_are_taken_back_and_added_while_it_runs(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = new_key(file, "first", policies=["*"])
    keys = Keys(file)
    second = new_key(file, "second", policies=["*"])
    assert keys.find(second) is None
    keys.poll()
    keys.poll()
    assert keys.find(second) is not None
    file.write_text(file.read_text().replace("first", "renamed"))
    keys.poll()
    keys.poll()
    assert "renamed" == keys.find(first).name  # type: ignore[union-attr]
    file.write_text("keys: [")
    keys.poll()
    keys.poll()
    assert keys.find(second) is not None
    assert "kept as they were" in caplog.text


def test_a_key_for_a_policy_that_is_not_served_is_told_in_the_log(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new_key(file, "shop", policies=["colors", "colours"])
    new_key(file, "ops", policies=["*"])
    with serving(tmp_path / "policies", keys=file) as service:
        assert service.state.keys is not None
        (told,) = [line for line in caplog.messages if "is not served" in line]
        assert told == "the key shop is for 'colors', which is not served: did you mean 'colours'?"
        new_key(file, "club", policies=["albums"])
        for _ in range(2):
            service.state.keys.poll()
    assert "the key club is for 'albums', which is not served" in caplog.messages


def test_a_file_of_keys_holds_no_key_and_is_its_owner_s(file: Path) -> None:
    key = new_key(file, 'it\'s "a" shop', policies=["a/b"], rate=2.5)
    assert key not in file.read_text()
    assert 0o600 == file.stat().st_mode & 0o777
    caller = Keys(file).find(key)
    assert caller is not None
    assert ('it\'s "a" shop', {"a/b"}, 2.5, False) == (
        caller.name,
        caller.policies,
        caller.rate,
        caller.operator,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys: []", "keys"),
        ("keys:\n  - name: a\n    sha256: abc\n    policies: ['*']\n", "sha256"),
        ("keys:\n  - name: a\n    key: pgk_x\n    policies: ['*']\n", "key"),
        (f"keys:\n  - name: a\n    sha256: {'0' * 64}\n", "policies"),
        (f"keys:\n  - name: a\n    sha256: {'0' * 64}\n    policies: []\n", "policies"),
        (f"keys:\n  - name: a\n    sha256: {'0' * 64}\n    policies: ['*']\n    rate: 0\n", "rate"),
        ("keys:\n" + 2 * f"  - name: a\n    sha256: {'0' * 64}\n    policies: ['*']\n", "two keys"),
        ("nothing: 1", "keys"),
    ],
)
def test_a_wrong_file_of_keys_is_refused_with_its_place(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        Keys(file)
    assert str(file) in str(caught.value)


def test_there_must_be_a_file(file: Path) -> None:
    with pytest.raises(PolicyError, match="no such file"):
        Keys(file)


def test_key_new_prints_the_key_and_nothing_else_on_stdout(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", "key", "new", "shop", "--policy", "colours", "--keys", str(file)]
    assert 0 == main(command)
    printed = capsys.readouterr()
    assert Keys(file).find(printed.out.strip()) is not None
    assert "shown this once" in printed.err
    assert 2 == main(command)
    printed = capsys.readouterr()
    assert ("", True) == (printed.out, "'shop'" in printed.err)


@ROOT_ALONE
def test_a_key_that_is_added_leaves_the_file_to_the_service_s_group(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_key(file, "shop", policies=["*"])
    os.chown(file, 0, 23456)
    file.chmod(0o640)
    assert 0 == main(["serve", "key", "new", "club", "--policy", "*", "--keys", str(file)])
    kept = file.stat()
    assert (0, 23456, 0o640) == (kept.st_uid, kept.st_gid, kept.st_mode & 0o777)
    assert "owner" not in capsys.readouterr().err


@ROOT_ALONE
def test_key_new_says_where_it_could_not_leave_the_file_to_its_owner() -> None:
    with open_to_all() as folder:
        file = folder / "keys.yaml"
        new_key(file, "shop", policies=["*"])
        os.chown(file, 12345, 23456)
        file.chmod(0o644)

        def add() -> None:
            with (folder / "said").open("w") as said, redirect_stderr(said):
                assert 0 == main(["serve", "key", "new", "club", "--policy", "*", "--keys", str(file)])

        as_user(34567, [], add)
        (line,) = [line for line in (folder / "said").read_text().splitlines() if "owner" in line]
        assert line == (
            f"note: {file} had the owner 12345:23456, and now has 34567:34567: `chown 12345:23456 {file}`, "
            "if the service is to read it"
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_without_keys_it_is_not_reached_from_elsewhere(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigurationError, match="nobody is asked for a key"):
        serve(Settings(policies=("pictosafe/l3",), host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("policies")) as running:
        yield running


FOREIGN = {
    "another name": {"Host": "attacker.example"},
    "another name that ends like ours": {"Host": "localhost.attacker.example:8765"},
    "a user before the name": {"Host": "localhost@attacker.example"},
    "another site": {"Origin": "https://attacker.example"},
    "no site at all": {"Origin": "null"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "a request across sites": {"Sec-Fetch-Site": "cross-site"},
    "a request of the same machine's other site": {"Sec-Fetch-Site": "same-site"},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_page_of_another_site_gets_nothing(service: Service, case: str) -> None:
    before = service.backend.calls
    answer = service.check(picture(GREEN), headers=FOREIGN[case])
    assert answer.status_code in (403, 421)
    assert before == service.backend.calls


def test_our_own_page_gets_its_answer(service: Service) -> None:
    for headers in (
        {"Origin": service.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Host": f"localhost:{service.port}", "Origin": f"http://localhost:{service.port}"},
        {"Host": "localhost"},
    ):
        assert service.check(picture(GREEN), headers=headers).json()["allowed"]


@pytest.mark.parametrize(
    "query",
    ["api_key=x", "key=x", "token=x", "a=b&access_token=x", "x-api-key=x", "API%5FKEY=x", "a=pgk_abc"],
)
def test_a_key_in_an_address_is_refused(service: Service, query: str) -> None:
    answer = service.check(picture(GREEN), f"colours&{query}")
    assert (400, "key_in_url") == (answer.status_code, answer.json()["error"]["code"])


def test_what_is_counted_is_shown(service: Service) -> None:
    service.check(picture(RED))
    text = service.get("/metrics").text
    assert (
        'policyguard_checks_total{action="block",cached="false",outcome="violates",policy="colours"}' in text
    )
    assert 'policyguard_violations_total{action="block",policy="colours",rule="red"}' in text
    assert 'policyguard_policy_info{decision_fingerprint="' in text
    assert "policyguard_waiting 0.0" in text
    for made_up in ("/made-up", "/made-up/too"):
        service.get(made_up)
    assert "made-up" not in service.get("/metrics").text


def test_policies_are_counted_by_the_names_they_are_served_by(tmp_path: Path) -> None:
    """So that one metric can be divided by another."""
    write(tmp_path, "club/albums")
    write(tmp_path, "shop")
    with serving(tmp_path) as service:
        service.check(picture(RED), "club/albums")
        service.check(picture(RED), "shop&policy=club/albums")
        lines = service.get("/metrics").text.splitlines()
    named = {
        metric: {
            re.findall(r'policy="([^"]*)"', line)[0]
            for line in lines
            if line.startswith(f"policyguard_{metric}{{")
        }
        for metric in ("checks_total", "violations_total", "policy_info", "policy_broken")
    }
    served = {"club/albums", "shop"}
    assert named == {
        "checks_total": {"club/albums", "several"},
        "violations_total": served,
        "policy_info": served,
        "policy_broken": served,
    }


def test_a_second_key_of_one_name_is_refused_and_says_how_a_key_is_replaced(file: Path) -> None:
    new_key(file, "shop", policies=["*"])
    before = file.read_text()
    with pytest.raises(ConfigurationError, match="two keys are called 'shop'") as caught:
        new_key(file, "shop", policies=["*"])
    assert "delete the old entry" in str(caught.value)
    assert file.read_text() == before


@pytest.mark.parametrize("mistake", ["entry", "rights", "gone"])
def test_keys_that_do_not_load_are_seen_by_operators_until_they_do(
    tmp_path: Path, file: Path, mistake: str
) -> None:
    user = new_key(file, "shop", policies=["*"])
    operator = new_key(file, "ops", policies=["*"], operator=True)
    good = file.read_text()

    def broken(service: Service) -> tuple[str, str | None]:
        assert service.state.keys is not None
        for _ in range(2):
            service.state.keys.poll()
        lines = service.get("/metrics", **bearer(operator)).text.splitlines()
        (gauge,) = [line for line in lines if line.startswith("policyguard_keys_broken ")]
        ready = service.get("/readyz", **bearer(operator))
        assert (200, True) == (ready.status_code, ready.json()["ready"])
        return gauge, ready.json()["keys"]

    with with_keys(tmp_path, file) as service:
        others = [service.get("/readyz", **of).json() for of in ({}, bearer(user))]
        assert ("policyguard_keys_broken 0.0", None) == broken(service)
        if mistake == "entry":
            file.write_text(good.replace("policies:", "polices:"))
        elif mistake == "gone":
            file.unlink()
        else:
            file.unlink()
            file.mkdir()
        gauge, told = broken(service)
        assert ("policyguard_keys_broken 1.0", True) == (gauge, str(file) in (told or ""))
        assert service.check(picture(GREEN), **bearer(user)).json()["allowed"]
        assert others == [service.get("/readyz", **of).json() for of in ({}, bearer(user))]
        if mistake == "rights":
            file.rmdir()
        file.write_text(good)
        assert ("policyguard_keys_broken 0.0", None) == broken(service)


@ROOT_ALONE
def test_keys_that_may_be_read_again_are_read_again() -> None:
    """Rights alone change: neither the time of its content nor its size."""
    with open_to_all() as folder:
        file = folder / "keys.yaml"
        new_key(file, "shop", policies=["*"])
        os.chown(file, 34567, 34567)

        def read() -> None:
            keys = Keys(file)
            for mode, problem in ((0o000, True), (0o600, False)):
                file.chmod(mode)
                for _ in range(2):
                    keys.poll()
                assert problem is (keys.problem is not None)

        as_user(34567, [], read)


def test_without_keys_there_is_nothing_to_say_of_them(service: Service) -> None:
    assert "keys" not in service.get("/readyz").json()
    assert "policyguard_keys_broken" not in service.get("/metrics").text


def test_a_key_whose_policies_are_not_served_is_told_that_and_no_other_name(
    tmp_path: Path, file: Path
) -> None:
    files = {"image": picture(GREEN)}
    for names, expected in (
        (["albums", "lost"], (403, "policy_not_allowed", "no policy that this key may use is served")),
        (["*"], (422, "policy_missing", "name a policy: `policy` is one of GET /v1/policies")),
    ):
        file.unlink(missing_ok=True)
        key = new_key(file, "shop", policies=names)
        with with_keys(tmp_path, file) as running:
            answer = running.post("/v1/check", files=files, **bearer(key))
        error = answer.json()["error"]
        assert expected == (answer.status_code, error["code"], error["message"])
        assert "colours" not in answer.text


def test_no_picture_and_no_key_reaches_the_log(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = new_key(file, "shop", policies=["*"])
    with with_keys(tmp_path, file) as service:
        caplog.clear()
        for image in (picture(GREEN), picture(RED), b"broken image bytes"):
            service.check(image, **bearer(key))
        service.get(f"/v1/policies?key={key}")
    assert key not in "".join(record.getMessage() for record in caplog.records if record.name != "httpx")
    assert "broken image" not in caplog.text


def test_a_trace_goes_on_inside(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    service.check(picture(GREEN), headers={"traceparent": parent})
    service.check(picture(GREEN))
    inside, outside = exporter.get_finished_spans()
    assert 0x0AF7651916CD43DD8448EB211C80319C == inside.context.trace_id
    assert inside.parent is not None
    assert outside.parent is None
