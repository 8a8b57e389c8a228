"""Each image is judged under all policies for its path; a policy that cannot be used fails the run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.testing import FakeBackend
from runs.support import POLICY, TWO, check_project, commit, pictures, write


def ids(verdict: dict[str, object]) -> list[str]:
    evidence = verdict["evidence"]
    assert isinstance(evidence, dict)
    return [policy["id"] for policy in evidence["policies"]]


def test_a_policy_whose_pattern_matches_nothing_is_no_success(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = 'policy = "./house.yaml"\n[[policies]]\npaths = "avatar/"\npolicy = "./house.yaml"\n'
    write(project, policyguard_dot_toml=entry)
    pictures(project, "avatars/a.png")
    for paths, allow_empty in (((), False), ((), True), ((".",), False), ((str(project),), True)):
        found = check_project(*paths, allow_empty=allow_empty)
        assert (ExitCode.USAGE, [project / "avatars/a.png"]) == (
            found.code,
            [Path(name).absolute() for name in found.sources],
        )
        said = capsys.readouterr().err
        assert "no image matches policyguard.toml: policies[0].paths (avatar/)" in said
        assert "add it with the first image" in said
    assert ExitCode.OK == check_project("avatars").code, (
        "a part of the project says nothing about its patterns"
    )


def test_a_pattern_is_held_against_unchanged_images_too(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_entries(*paths: str) -> None:
        entries = "".join(f'[[policies]]\npaths = "{path}"\npolicy = "./house.yaml"\n' for path in paths)
        write(repository, policyguard_dot_toml='policy = "./house.yaml"\n' + entries)

    pictures(repository, "new/a.png")
    write_entries("/old.png", "new/")
    found = check_project(changed_since="main", allow_empty=True)
    assert (ExitCode.OK, ["new/a.png"]) == (found.code, found.sources)
    write_entries("/old.png", "nwe/")
    for allow_empty in (False, True):
        found = check_project(changed_since="main", allow_empty=allow_empty)
        assert (ExitCode.USAGE, ["new/a.png"]) == (found.code, found.sources)
        assert "no image matches policyguard.toml: policies[1].paths (nwe/)" in capsys.readouterr().err
    commit(repository)
    assert ExitCode.USAGE == check_project(changed_since="HEAD", allow_empty=True).code, "nothing changed"


def test_each_pattern_of_an_entry_that_matches_no_image_is_named(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "art/us/a.png", "art/ca/b.png")

    def said(paths: str) -> list[str]:
        entry = f'policy = "./house.yaml"\n[[policies]]\npaths = {paths}\npolicy = "./house.yaml"\n'
        write(project, policyguard_dot_toml=entry)
        found = check_project(allow_empty=True)
        assert ["art/ca/b.png", "art/us/a.png"] == found.sources
        lines = capsys.readouterr().err.splitlines()
        named = [
            re.findall(r"no image matches policyguard\.toml: policies\[0\]\.paths \((.*?)\):", line)
            for line in lines
        ]
        assert (ExitCode.USAGE if any(named) else ExitCode.OK) == found.code
        return [name for names in named for name in names]

    assert said('["art/us/", "art/cnn/"]') == ["art/cnn/"]
    assert said('["art/us/", "art/cnn/", "*.gif"]') == ["art/cnn/", "*.gif"]
    assert said('["nope/", "no/"]') == ["nope/, no/"], "an entry that matches nothing is one mistake"
    assert said('["art/", "!art/cnn/", "# art/"]') == [], "what is taken out need not be there"
    assert said('["art/", "!art/us/", "art/us/a.png"]') == []
    assert said('["art/us/", "!art/"]') == ["art/us/, !art/"]


def test_in_a_project_without_an_image_no_pattern_can_match(project: Path) -> None:
    entry = 'exclude = ["cases/"]\n[[policies]]\npaths = "avatars/"\npolicy = "./house.yaml"\n'
    write(project, policyguard_dot_toml=entry)
    assert ExitCode.OK == check_project(allow_empty=True).code
    pictures(project, "cases/a.png")
    assert ExitCode.USAGE == check_project(allow_empty=True).code, (
        "all that there is may be excluded by mistake"
    )


@pytest.mark.parametrize(
    ("north", "said"),
    [
        (None, "policy './north.yaml' of policyguard.toml cannot be used"),
        ("id: north\n  version: 1\n", "policy './north.yaml' of policyguard.toml cannot be used"),
        (POLICY.format(id="house").replace("1.0.0", "2.0.0"), "are two policies with the same id: house"),
    ],
)
def test_a_policy_of_images_that_did_not_change_must_load_too(
    repository: Path, capsys: pytest.CaptureFixture[str], north: str | None, said: str
) -> None:
    """Else a branch that breaks the policy of one folder is green as long as it touches another one."""
    entry = '[[policies]]\npaths = "/old.png"\npolicy = "./north.yaml"\n'
    write(repository, policyguard_dot_toml=f'policy = "./house.yaml"\n{entry}')
    (repository / "north.yaml").write_text(POLICY.format(id="north"))
    commit(repository)
    pictures(repository, "new/a.png")
    found = check_project(changed_since="HEAD", allow_empty=True)
    assert (ExitCode.OK, ["house"]) == (found.code, ids(found.verdicts[0]))
    if north is None:
        (repository / "north.yaml").unlink()
    else:
        (repository / "north.yaml").write_text(north)
    found = check_project(changed_since="HEAD", allow_empty=True)
    assert (ExitCode.USAGE, ["new/a.png"]) == (found.code, found.sources)
    assert said in capsys.readouterr().err


def test_images_that_no_policy_is_for_are_said_and_are_not_enough(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = 'unmatched = "ignore"\n[[policies]]\npaths = "ads/"\npolicy = "./house.yaml"\n'
    write(project, policyguard_dot_toml=entry)
    pictures(project, "bad.png", score=255)
    assert ExitCode.USAGE == check_project("bad.png").code
    assert "nothing is left to check" in capsys.readouterr().err
    assert ExitCode.OK == check_project("bad.png", allow_empty=True).code
    assert "no policy applies to 1 image (bad.png)" in check_project("bad.png", allow_empty=True).err


def test_two_policies_with_one_id_are_no_success(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, other_dot_yaml=POLICY.format(id="house") + "defaults: {threshold: 0.9}\n")
    pictures(project, "a.png")
    assert ExitCode.USAGE == check_project(policy=("house.yaml", "other.yaml")).code
    assert "'house.yaml' and 'other.yaml' are two policies with the same id: house" in capsys.readouterr().err
    assert ExitCode.OK == check_project(policy=("house.yaml", "./house.yaml")).code


def test_every_entry_that_matches_applies(several: Path) -> None:
    pictures(several, "x.png", "avatars/a.png", "avatars/b-ad.png", "avatars/drafts/c.png", "d-ad.png")
    found = {verdict["source"]: ids(verdict) for verdict in check_project().verdicts}
    assert {
        "x.png": ["base"],
        "d-ad.png": ["base", "ads"],
        "avatars/a.png": ["base", "avatars"],
        "avatars/b-ad.png": ["base", "avatars", "ads"],
        "avatars/drafts/c.png": ["base"],
    } == found


def test_images_under_one_set_of_policies_come_together_and_in_order(several: Path) -> None:
    pictures(several, "a.png", "b-ad.png", "c.png", "d-ad.png")
    assert ["a.png", "c.png", "b-ad.png", "d-ad.png"] == check_project().sources
    assert check_project().sources == check_project(workers=7).sources


def test_policies_on_the_command_line_replace_the_file_s(several: Path) -> None:
    pictures(several, "avatars/a.png")
    assert [["ads"]] == [ids(verdict) for verdict in check_project(policy=("ads.yaml",)).verdicts]


def test_an_image_that_no_entry_is_for_fails_the_run_and_the_others_are_checked(several: Path) -> None:
    text = TWO.partition("\n")[2]
    (several / "policyguard.toml").write_text(text)
    pictures(several, "x.png", "avatars/a.png")
    found = check_project()
    assert (ExitCode.USAGE, ["avatars/a.png"]) == (found.code, found.sources)
    assert "x.png: no policy applies to this path" in found.err
    (several / "policyguard.toml").write_text('unmatched = "ignore"\n' + text)
    pictures(several, "a-ad.png")
    assert (ExitCode.OK, ["a-ad.png", "avatars/a.png"]) == (check_project().code, check_project().sources)
    assert "note: no policy applies to 1 image (x.png)" in check_project().err


def test_a_renamed_policy_fails_the_run_and_images_under_others_are_checked(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (several / "avatars.yaml").rename(several / "people.yaml")
    pictures(several, "x.png", "avatars/a.png")
    found = check_project()
    assert (ExitCode.USAGE, ["x.png"]) == (found.code, found.sources)
    assert "avatars/a.png: policy './avatars.yaml' cannot be used" in found.err
    said = "policy './avatars.yaml' of policyguard.toml cannot be used: avatars.yaml: there is no such file"
    assert said in capsys.readouterr().err


def test_the_only_policy_being_gone_names_the_file_that_names_it(project: Path) -> None:
    (project / "house.yaml").rename(project / "hose.yaml")
    pictures(project, "a.png")
    with pytest.raises(UsageError, match=r"did you mean hose\.yaml") as caught:
        check_project()
    said = "policy './house.yaml' of policyguard.toml cannot be used: house.yaml: there is no such file"
    assert said == caught.value.message
    with pytest.raises(UsageError) as caught:
        check_project(policy=("house.yaml",))
    assert "house.yaml: there is no such file" == caught.value.message


def test_a_policy_for_no_image_of_this_run_need_not_be_there(several: Path) -> None:
    (several / "avatars.yaml").unlink()
    pictures(several, "x.png")
    assert ExitCode.OK == check_project("x.png").code


def test_several_policies_share_one_backend(several: Path) -> None:
    pictures(several, "x.png", "avatars/a.png", score=255)
    backend = FakeBackend(0.1)
    assert ExitCode.OK == check_project("x.png", "avatars", backend=backend).code
    assert 3 == len(backend.requests)
    assert not backend.closed


def test_a_pattern_that_cannot_be_read_is_named(several: Path) -> None:
    (several / "policyguard.toml").write_text('[[policies]]\npaths = ["a", "!"]\npolicy = "./base.yaml"\n')
    pictures(several, "a.png")
    with pytest.raises(UsageError, match=r"policies\[0\]\.paths:2: '!' is not a valid"):
        check_project()


def test_without_a_policy_anywhere_nothing_is_checked(project: Path) -> None:
    (project / "policyguard.toml").write_text("")
    pictures(project, "a.png")
    with pytest.raises(UsageError, match="no policy to check"):
        check_project()
