"""Shadows of a service: they judge a share of the traffic, change no answer, and what they say is counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integrations.http.pictures import _judge, data_uri, picture
from policyguard.assessment import Rating
from policyguard.errors import ConfigurationError, PolicyError
from policyguard.server.keys import new_key
from policyguard.testing import FakeBackend
from server.support import POLICY, Service, serving, write
from support.waiting import wait_until


def shadow_policy(folder: Path, action: str = "flag") -> Path:
    """The served policy, with another action for red."""
    text = POLICY.format(name="next", version="2.0.0", title="Red")
    path = folder / "next.yaml"
    path.write_text(text.replace("    unsafe: [red areas]", f"    unsafe: [red areas]\n    action: {action}"))
    return path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "policies").mkdir()
    file = shadow_policy(tmp_path)
    shadow = (f"colours={file}",)
    with serving(tmp_path / "policies", shadow=shadow, shadow_share=1.0) as running:
        yield running


def shown(service: Service) -> dict[str, Any]:
    (shadow,) = service.get("/page-api/shadows").json()["shadows"]
    return dict(shadow)


def settled(service: Service, images: int) -> dict[str, Any]:
    def done() -> bool:
        stats = shown(service)["stats"]
        return stats["compared"] + stats["dropped"] + stats["failed"] == images

    wait_until(done)
    return shown(service)


def test_a_shadow_changes_no_answer_and_is_counted_by_rule(service: Service) -> None:
    answers = [service.check(picture(colour)).json() for colour in ("red", "blue", "red")]
    assert [answer["action"] for answer in answers] == ["block", "allow", "block"]
    assert "shadows" not in answers[0]
    page = settled(service, 3)
    stats = page["stats"]
    assert (stats["compared"], stats["changed"], stats["weaker"]) == (3, 2, 2)
    assert stats["rules"] == {"red": 2}
    lines = service.get("/metrics").text.splitlines()
    (images,) = [
        line
        for line in lines
        if line.startswith("policyguard_shadow_changed_images_total") and "weaker" in line
    ]
    assert images.endswith(" 2.0")
    name = next(line for line in lines if line.startswith("policyguard_shadow_changes_total"))
    assert 'rule="red"' in name
    assert 'direction="weaker"' in name
    assert name.endswith(" 2.0")
    assert any(
        line.startswith("policyguard_shadow_images_total")
        and 'result="compared"' in line
        and line.endswith(" 3.0")
        for line in lines
    )


def test_what_is_kept_for_the_page_are_hashes_and_scores(service: Service) -> None:
    answer = service.check(picture("red")).json()
    (entry,) = settled(service, 1)["recent"]
    assert entry["image_sha256"] == answer["evidence"]["image_sha256"]
    assert entry.keys() == {"image_sha256", "changed", "rules", "fingerprint", "before", "after"}
    assert entry["before"] == {"outcome": "violates", "action": "block", "score": answer["score"]}
    assert entry["after"]["action"] == "flag"


def test_every_endpoint_that_judges_has_shadows(service: Service) -> None:
    image = {"type": "image_url", "image_url": {"url": data_uri(picture("red"))}}
    moderated = service.post("/v1/moderations", json={"model": "colours", "input": [image]})
    assert moderated.json()["results"][0]["flagged"] is True
    assert settled(service, 1)["stats"]["changed"] == 1


def test_a_shadow_that_fails_fails_nothing_and_is_counted(tmp_path: Path) -> None:
    def judge(request: Any) -> Any:
        return RuntimeError("it broke") if request.policy.id == "tests/next" else _judge(request)

    (tmp_path / "policies").mkdir()
    file = shadow_policy(tmp_path)
    file.write_text(file.read_text().replace("red areas", "crimson areas"))
    options: dict[str, Any] = {"shadow": (f"colours={file}",), "shadow_share": 1.0}
    with serving(tmp_path / "policies", backend=FakeBackend(judge), **options) as service:
        assert service.check(picture("red")).json()["action"] == "block"
        assert settled(service, 1)["stats"]["failed"] == 1


def take_up(service: Service) -> None:
    for _ in range(2):
        service.state.shadows.refresh()


def counted(service: Service, start: str) -> list[str]:
    return [line for line in service.get("/metrics").text.splitlines() if line.startswith(start)]


def test_a_shadow_is_kept_while_its_file_is_wrong_and_that_is_seen(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "policyguard.server")
    good = (file := service.folder.parent / "next.yaml").read_text()
    service.check(picture("red"))
    assert (settled(service, 1)["error"], service.get("/readyz").json()["policies"]) == (None, {})
    file.write_text("id: broken\n")
    take_up(service)
    service.check(picture("red"))
    page = settled(service, 2)
    assert (page["stats"]["changed"], "next.yaml" in page["error"]) == (2, True)
    ready = service.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert "the shadow of colours stays as it was: " in ready.json()["policies"]["next"]
    labels = f'{{policy="colours",shadow="{service.folder.parent / "next.yaml"}"}}'
    assert counted(service, "policyguard_shadow_broken{") == [f"policyguard_shadow_broken{labels} 1.0"]
    assert counted(service, "policyguard_policy_broken{") == [
        'policyguard_policy_broken{policy="colours"} 0.0'
    ]
    assert "does not load" in caplog.text
    file.write_text(good)
    take_up(service)
    assert (shown(service)["error"], service.get("/readyz").json()["policies"]) == (None, {})
    assert counted(service, "policyguard_shadow_broken{") == [f"policyguard_shadow_broken{labels} 0.0"]
    assert "policy next loads again" in caplog.text
    assert shown(service)["stats"]["changed"] == 2


def test_what_is_counted_under_one_wording_is_not_summed_with_another(service: Service) -> None:
    service.check(picture("red"))
    before = settled(service, 1)
    (former, *_) = counted(service, "policyguard_shadow_changes_total")
    shadow_policy(service.folder.parent, "block")
    take_up(service)
    service.check(picture("blue"))
    after = settled(service, 1)
    assert [each["stats"]["changed"] for each in (before, after)] == [1, 0]
    assert [len(each["recent"]) for each in (before, after)] == [1, 1]
    assert counted(service, "policyguard_shadow_changes_total") == []
    images = counted(service, "policyguard_shadow_images_total")
    marks = {re.findall(r'(\w*fingerprint)="(\w{12})"', line)[0][1] for line in images}
    assert len(images) == 3  # results, of one state
    assert len(marks) == 1
    assert not marks & set(re.findall(r'decision_fingerprint="(\w+)"', former))


def test_an_edit_of_the_served_policy_begins_its_shadow_s_counts_anew(service: Service) -> None:
    """What is compared is the shadow with the served policy; only its action changes here."""
    service.check(picture("red"))
    assert settled(service, 1)["stats"]["changed"] == 1
    file = service.folder / "colours.yaml"
    file.write_text(file.read_text().replace("[red areas]", "[red areas]\n    action: flag"))
    for _ in range(2):
        service.state.policies.poll()
    assert service.check(picture("red")).json()["action"] == "flag"
    assert settled(service, 1)["stats"]["changed"] == 1  # the old figure still, without the new policy's
    take_up(service)
    assert settled(service, 0)["recent"] == []
    service.check(picture("red"))
    stats = settled(service, 1)["stats"]
    assert (stats["sampled"], stats["changed"]) == (1, 0)
    file.unlink()
    for _ in range(3):
        service.state.policies.poll()
    take_up(service)
    assert settled(service, 1)["stats"]["sampled"] == 1


def test_a_shadow_whose_own_edit_cannot_be_used_is_still_compared_with_an_edited_served_policy(
    tmp_path: Path,
) -> None:
    class Choosy(FakeBackend):
        def accept(self, policy: Any) -> None:
            if "purple" in policy.rules[0].unsafe[0]:
                raise ConfigurationError("no purple")

    (tmp_path / "policies").mkdir()
    file = shadow_policy(tmp_path)
    options: dict[str, Any] = {"shadow": (f"colours={file}",), "shadow_share": 1.0}
    with serving(tmp_path / "policies", backend=Choosy(_judge), **options) as service:
        (shadow,) = service.state.shadows.all
        former = shadow.now.marks
        file.write_text(file.read_text().replace("red areas", "purple areas"))
        write(service.folder, title="Reds")
        for _ in range(2):
            service.state.policies.poll()
        take_up(service)
        assert "no purple" in str(shown(service)["error"])
        assert shadow.now.marks == former
        service.check(picture("red"))
        assert settled(service, 1)["stats"]["changed"] == 1


def test_a_shadow_s_file_is_nothing_for_a_site_s_key(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    file = shadow_policy(tmp_path)
    keys = tmp_path / "keys.yaml"
    names = {name: new_key(keys, name, policies=["*"], operator=name == "ops") for name in ("shop", "ops")}
    with serving(tmp_path / "policies", shadow=(f"colours={file}",), keys=keys) as service:
        file.write_text("id: broken\n")
        take_up(service)
        found = {
            name: service.get("/readyz", headers={"x-api-key": key}).json()["policies"]
            for name, key in names.items()
        }
    assert [list(found["shop"]), list(found["ops"])] == [[], ["next"]]


def test_an_image_that_differs_is_counted_once_whatever_number_of_rules_it_is_put_down_to(
    tmp_path: Path,
) -> None:
    """Counts by rule add up to more than images; where neither breaks a rule, ``rule`` is empty."""

    def judge(request: Any) -> Any:
        found = _judge(request)
        if request.policy.id != "tests/next":
            return found
        if found.rating is Rating.SAFE:
            return replace(found, rating=Rating.UNDECIDED, p_undecided=0.9)
        if any(each.id == "orange" and each.status != "exempt" for each in request.policy.rules):
            return replace(found, rule_scores={"red": 0.0, "orange": 1.0})
        return replace(found, rating=Rating.SAFE, p_unsafe=0.02)  # asked about red alone

    (tmp_path / "policies").mkdir()
    file = shadow_policy(tmp_path, "block")
    options: dict[str, Any] = {"shadow": (f"colours={file}",), "shadow_share": 1.0}
    with serving(tmp_path / "policies", backend=FakeBackend(judge), **options) as service:
        for colour in ("red", "blue"):
            service.check(picture(colour))
        settled(service, 2)
        found = {
            metric: sorted(
                (*re.findall(r'(?:direction|rule)="(\w*)"', line), float(line.rpartition(" ")[2]))
                for line in counted(service, f"policyguard_shadow_{metric}_total{{")
            )
            for metric in ("changes", "changed_images")
        }
    assert found["changed_images"] == [("other", 0.0), ("stronger", 1.0), ("weaker", 1.0)]
    assert found["changes"] == [("stronger", "", 1.0), ("weaker", "orange", 1.0), ("weaker", "red", 1.0)]


def test_the_served_policy_may_be_judged_by_another_model(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "policies": ("pictosafe/l3",),
        "shadow": ("pictosafe/l3",),
        "shadow_model": "pico",
    }
    with serving(tmp_path, **options) as service:
        (shadow,) = service.state.shadows.all
        assert shadow.name == "pictosafe/l3"
        assert shadow._backend is not service.backend
        assert shadow._backend.model.id != service.backend.model.id


WRONG = [
    (("colors=x.yaml",), {}, "no policy called 'colors' is served"),
    (("colours=",), {}, "which policy"),
    (("colours",), {}, "the same policy by the same model"),
    ((), {"shadow_model": "pico"}, "of no use alone"),
    (("colours=pictosafe/l3",), {"shadow_share": 0.0}, "share must be above 0"),
    (("colours=pictosafe/l33",), {}, "no packaged policy"),
]


@pytest.mark.parametrize(("shadow", "options", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_a_shadow_that_cannot_work_is_refused_at_the_start(
    tmp_path: Path, shadow: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    write(tmp_path)
    with (
        pytest.raises((ConfigurationError, PolicyError), match=message),
        serving(tmp_path, shadow=shadow, **options),
    ):
        pass


def test_without_shadows_there_is_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.get("/page-api/shadows").json() == {"shadows": []}
