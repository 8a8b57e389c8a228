"""Policies are reloaded whole, or kept as they were."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from policyguard import ConfigurationError, PolicyError
from policyguard.server.policies import Policies
from policyguard.testing import FakeBackend
from server.support import write


def settled(policies: Policies) -> list[str]:
    """What two looks at files that rest take up."""
    return [*policies.poll(), *policies.poll()]


def title(policies: Policies, name: str = "colours") -> str:
    return policies.current.live[name].policy.rules[0].title


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    write(tmp_path)
    return Policies([str(tmp_path)], FakeBackend())


def test_a_folder_gives_policies_by_path_and_leaves_out_what_is_none(tmp_path: Path) -> None:
    for name in ("a", "shop/b", ".hidden", "..data/c", "_draft", "cases", "a.cases"):
        write(tmp_path, name)
    (tmp_path / "README.md").write_text("about")
    assert ["a", "shop/b"] == list(Policies([str(tmp_path)], FakeBackend()).current.live)


def test_files_and_packaged_policies_have_their_own_names(tmp_path: Path) -> None:
    file = write(tmp_path, "house")
    assert ["house", "pictosafe/l3"] == list(
        Policies([str(file), "pictosafe/l3"], FakeBackend()).current.live
    )


@pytest.mark.parametrize("given", [[], ["empty"]])
def test_no_policy_at_all_is_refused(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no policy"):
        Policies([str(tmp_path / name) for name in given], FakeBackend())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nope/", "there is no such folder, and no packaged policy of this name"),
        ("pictosafe/", "there is no such folder, and no packaged policy of this name"),
        ("nope/rules", "there is no such folder, and no packaged policy of this name"),
        ("pictosafe/l33", "there is no packaged policy of this name: did you mean pictosafe/l3"),
        ("nope", "there is no packaged policy of this name"),
    ],
)
def test_a_path_to_nothing_is_not_spoken_of_as_a_packaged_policy_alone(given: str, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policies([given], FakeBackend())
    assert str(caught.value).startswith(f"{given}: {says}")


def test_two_policies_of_one_name_are_refused(tmp_path: Path) -> None:
    given = [str(write(tmp_path / folder, "house")) for folder in ("a", "b")]
    with pytest.raises(ConfigurationError, match="two policies are called 'house'"):
        Policies(given, FakeBackend())


def test_a_policy_that_does_not_load_at_the_start_is_refused(tmp_path: Path) -> None:
    write(tmp_path).write_text("id: 1")
    with pytest.raises(PolicyError, match=r"colours\.yaml"):
        Policies([str(tmp_path)], FakeBackend())


def test_nothing_is_loaded_while_nothing_changes(policies: Policies) -> None:
    before = policies.current
    assert [] == settled(policies)
    assert before is policies.current


def test_a_change_is_taken_up_once_it_rests(policies: Policies, tmp_path: Path) -> None:
    old = policies.current
    write(tmp_path, title="Crimson")
    assert ([], "Red") == (policies.poll(), title(policies))
    assert (["colours"], "Crimson") == (policies.poll(), title(policies))
    assert "Red" == old.live["colours"].policy.rules[0].title
    assert [] == settled(policies)


@pytest.mark.parametrize(("threshold", "told"), [(0.5, 0), (0.6, 1)])
def test_the_log_tells_a_changed_threshold_by_its_fingerprint(
    threshold: float, told: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "policyguard.server")
    file = write(tmp_path)
    file.write_text(file.read_text() + "defaults:\n  threshold: 0.5\n")
    policies = Policies([str(tmp_path)], FakeBackend())
    file.write_text(file.read_text().replace("0.5", str(threshold)))
    policies.reload("colours")
    lines = [record.getMessage() for record in caplog.records]
    assert 1 + told == len(set(lines)) == len(lines)
    decided = policies.current.live["colours"].policy.decision_fingerprint
    assert lines[-1].endswith(f"decision fingerprint {decided[:12]}")


def test_a_file_that_goes_on_changing_waits(policies: Policies, tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path, title=f"Red {number}")
        assert [] == policies.poll()
    assert (["colours"], "Red 4") == (policies.poll(), title(policies))


def test_a_change_of_what_a_policy_extends_counts(tmp_path: Path) -> None:
    write(tmp_path / "_base", "base")
    (tmp_path / "top.yaml").write_text(
        "extends: _base/base.yaml\nid: tests/top\nversion: 1.0.0\ntitle: Top\n"
    )
    policies = Policies([str(tmp_path)], FakeBackend())
    assert "Red" == title(policies, "top")
    write(tmp_path / "_base", "base", title="Crimson")
    assert ["top"] == settled(policies)
    assert "Crimson" == title(policies, "top")


def test_a_policy_that_loads_no_more_stays_and_says_why(policies: Policies, tmp_path: Path) -> None:
    path = tmp_path / "colours.yaml"
    path.write_text(path.read_text().replace("id: red", "idd: red"))
    assert ["colours"] == settled(policies)
    assert "Red" == title(policies)
    assert "colours.yaml:5" in str(policies.current.errors["colours"])
    write(tmp_path, title="Crimson")
    settled(policies)
    assert ("Crimson", {}) == (title(policies), policies.current.errors)


def test_the_log_says_that_a_mended_policy_loads_again_though_it_is_as_it_was(
    policies: Policies, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "policyguard.server")
    path = tmp_path / "colours.yaml"
    text = path.read_text()
    for now in ("id: [", text):
        path.write_text(now)
        settled(policies)
    assert settled(policies) == []
    failed, mended = [record.getMessage() for record in caplog.records]
    assert "policy colours does not load, the old one is kept" in failed
    assert mended.startswith("policy colours loads again: tests/colours 1.0.0, fingerprint ")


def test_a_base_that_comes_late_is_found_though_nobody_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    policies = Policies([str(tmp_path)], FakeBackend())
    (tmp_path / "top.yaml").write_text(
        "extends: _base/base.yaml\nid: tests/top\nversion: 1.0.0\ntitle: Top\n"
    )
    settled(policies)
    assert ["top"] == list(policies.current.errors)
    write(tmp_path / "_base", "base")
    for _ in range(6):
        policies.poll()
    assert {} == policies.current.errors
    assert "Red" == title(policies, "top")


def test_policies_come_and_go_with_their_files(policies: Policies, tmp_path: Path) -> None:
    write(tmp_path, "new")
    settled(policies)
    assert ["colours", "new"] == list(policies.current.live)
    (tmp_path / "new.yaml").unlink()
    assert [] == policies.poll()  # an editor may be putting a new one there
    policies.poll()
    assert ["colours"] == list(policies.current.live)


def test_a_named_file_that_is_gone_keeps_its_policy(tmp_path: Path) -> None:
    file = write(tmp_path)
    policies = Policies([str(file)], FakeBackend())
    file.unlink()
    settled(policies)
    assert ("Red", ["colours"]) == (title(policies), list(policies.current.errors))


def test_links_that_are_swapped_as_kubernetes_does_are_followed(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"..{number}", title=f"Red {number}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "colours.yaml").symlink_to("..data/colours.yaml")
    policies = Policies([str(tmp_path)], FakeBackend())
    assert "Red 1" == title(policies)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    shutil.rmtree(tmp_path / "..1")
    settled(policies)
    assert "Red 2" == title(policies)


def test_a_policy_that_the_model_cannot_judge_is_not_taken_up(tmp_path: Path) -> None:
    class Choosy(FakeBackend):
        def accept(self, policy: object) -> None:
            if "Crimson" in repr(policy):
                raise ConfigurationError("not this one")

    write(tmp_path)
    policies = Policies([str(tmp_path)], Choosy())
    write(tmp_path, title="Crimson")
    with pytest.raises(ConfigurationError, match="not this one"):
        policies.reload("colours")
    assert "Red" == title(policies)


def test_a_push_loads_at_once(policies: Policies, tmp_path: Path) -> None:
    write(tmp_path, title="Crimson")
    assert "Crimson" == policies.reload("colours").policy.rules[0].title == title(policies)
    with pytest.raises(KeyError):
        policies.reload("../colours")


def test_packaged_policies_are_found_again(tmp_path: Path) -> None:
    policies = Policies(["pictosafe/l3"], FakeBackend())
    assert [] == settled(policies)
    assert "pictosafe/l3" == policies.reload("pictosafe/l3").policy.id
