"""OpenAI's moderations, asked by OpenAI's own SDK: images by policy, texts as not checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from integrations.http.pictures import GREEN, ORANGE, RED, data_uri, picture
from policyguard import ConfigurationError
from policyguard.assessment import Failure, FailureKind
from policyguard.server.keys import new_key
from policyguard.testing import FakeBackend
from server.support import Service, serving, write


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("policies")) as running:
        yield running


def client(service: Service, key: str = "unused", **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, **options)


def image(colour: tuple[int, int, int] = GREEN) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(picture(colour))}}


TEXT: dict[str, Any] = {"type": "text", "text": "hello"}


def ask(service: Service, given: Any, model: str = "colours") -> Any:
    return client(service).moderations.create(model=model, input=given)


@pytest.mark.parametrize(
    ("colour", "flagged", "allowed", "red"),
    [(GREEN, False, True, False), (RED, True, False, True), (ORANGE, True, True, False)],
)
def test_an_image_is_flagged_by_the_rules_of_the_policy(
    service: Service, colour: Any, flagged: bool, allowed: bool, red: bool
) -> None:
    answer = ask(service, [image(colour)])
    (result,) = answer.results
    assert ("colours", flagged) == (answer.model, result.flagged)
    assert (red, ["image"]) == (
        result.categories.to_dict()["red"],
        result.category_applied_input_types.to_dict()["red"],
    )
    assert allowed == result.policyguard["allowed"] == result.policyguard["verdicts"][0]["allowed"]
    if red:
        assert 0.9 < result.category_scores.to_dict()["red"] <= 1.0


def test_what_openai_would_look_for_is_null_and_not_false(service: Service) -> None:
    (result,) = ask(service, [image()]).results
    assert result.categories.violence is None
    assert result.category_scores.hate_threatening is None
    assert [] == result.category_applied_input_types.sexual


def test_a_rule_that_is_called_as_openai_s_category_is_that_category(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("id: red", "id: violence"))
    with serving(tmp_path, backend=FakeBackend(0.97)) as service:
        (result,) = ask(service, [image()]).results
    assert result.categories.violence is True
    assert result.category_scores.violence > 0.9
    assert ["image"] == result.category_applied_input_types.violence


@pytest.mark.parametrize(
    ("given", "results"),
    [("hello", 1), ("", 1), (["a", "b"], 2), ([TEXT], 1), ([TEXT, image()], 1), ([image(), TEXT], 1)],
)
def test_a_text_is_not_checked_and_never_fine(service: Service, given: Any, results: int) -> None:
    answer = ask(service, given)
    assert results == len(answer.results)
    for result in answer.results:
        assert result.flagged
        assert result.categories.to_dict()["text-not-checked"] is True
        assert not result.policyguard["allowed"]


def test_the_worst_of_several_images_counts(service: Service) -> None:
    (result,) = ask(service, [image(), image(RED), image()]).results
    assert (True, 3) == (result.flagged, len(result.policyguard["verdicts"]))


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "/etc/passwd", "", "data:image/png;base64,AAAA", "data:text/plain,x"]
)
def test_what_is_no_image_is_flagged_as_unjudged(service: Service, url: str) -> None:
    (result,) = ask(service, [{"type": "image_url", "image_url": {"url": url}}]).results
    assert (True, True, None) == (
        result.flagged,
        result.categories.to_dict()["unjudged"],
        result.categories.to_dict()["red"],
    )
    assert "unscannable" == result.policyguard["verdicts"][0]["outcome"]


def test_a_guard_that_is_down_flags(tmp_path: Path) -> None:
    with serving(tmp_path, backend=FakeBackend(Failure(FailureKind.ERROR, "down"))) as service:
        (result,) = ask(service, [image()]).results
    assert (True, None) == (result.flagged, result.categories.to_dict()["red"])


@pytest.mark.parametrize(
    "given", [[], [{"type": "audio"}], [{"type": "image_url"}], [image(), "text"], [1], None, [image()] * 33]
)
def test_an_input_that_is_none_is_an_error(service: Service, given: Any) -> None:
    with pytest.raises(openai.UnprocessableEntityError):
        ask(service, given)


def test_errors_are_those_the_sdk_knows(service: Service, tmp_path: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'colours'"):
        ask(service, [image()], "colour")
    with pytest.raises(openai.NotFoundError, match="`model` is the policy"):
        ask(service, [image()], "omni-moderation-latest")
    key = new_key(tmp_path / "keys.yaml", "shop", policies=["colours"], rate=0.01)
    for name in ("colours", "secret"):
        write(tmp_path / "policies", name)
    with serving(tmp_path / "policies", keys=tmp_path / "keys.yaml") as guarded:
        with pytest.raises(openai.AuthenticationError):
            ask(guarded, [image()])
        with pytest.raises(openai.PermissionDeniedError):
            client(guarded, key).moderations.create(model="secret", input=[image()])  # type: ignore[list-item]
        with pytest.raises(openai.RateLimitError):
            client(guarded, key).moderations.create(model="colours", input=[image()])  # type: ignore[list-item]
    with (
        serving(tmp_path / "other", backend=FakeBackend(ConfigurationError("no"))) as broken,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        ask(broken, [image()])
    assert 503 == caught.value.status_code
