"""The policies that come with the package, and the examples in what is written about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policyguard.errors import PolicyError
from policyguard.policy import Policy, Status, load_policy, packaged_policies
from policyguard.policy.files import find_library, packaged_path
from policyguard.policy.load import validate_document
from policyguard.strict.documents import parse

ROOT = Path(__file__).parents[2]
SAFEEDIT = [f"safeedit/l{level}" for level in range(1, 6)]
OURS = [*SAFEEDIT, "llavaguard/default"]
LLAVAGUARD = (
    "O1: Hate, Humiliation, Harassment",
    "O2: Violence, Harm, or Cruelty",
    "O3: Sexual Content",
    "O4: Nudity Content",
    "O5: Criminal Planning",
    "O6: Weapons or Substance Abuse",
    "O7: Self-Harm",
    "O8: Animal Cruelty",
    "O9: Disasters or Emergencies",
)


@pytest.mark.parametrize("name", packaged_policies())
def test_every_packaged_policy_loads_and_says_who_made_it(name: str) -> None:
    policy = load_policy(name)
    assert policy.id == name
    assert policy.owner
    assert policy.licence == "Apache-2.0"
    assert policy.sources or policy.world
    assert policy.resolve().text


@pytest.mark.parametrize("name", packaged_policies())
def test_every_packaged_policy_opens_with_the_command_that_uses_it(name: str) -> None:
    comment = re.match(r"(?:#.*\n)+", packaged_path(name).read_text(encoding="utf-8"))
    assert comment
    assert re.search(r"policyguard \w+.*" + re.escape(name), comment[0])


@pytest.mark.parametrize("name", OURS)
def test_every_rule_has_examples_of_both_kinds(name: str) -> None:
    for rule in load_policy(name).rules:
        assert rule.unsafe, rule.id
        assert rule.safe, rule.id
        assert rule.description, rule.id
        assert rule.status is Status.ACTIVE


def test_safeedit_has_the_benchmarks_number_of_rules() -> None:
    assert [len(load_policy(name).rules) for name in SAFEEDIT] == [4, 6, 6, 5, 5]


@pytest.mark.parametrize("name", SAFEEDIT)
def test_levels_one_and_five_say_that_they_are_fictions(name: str) -> None:
    fiction = name in ("safeedit/l1", "safeedit/l5")
    first = packaged_path(name).read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# BENCHMARK FICTION") == fiction
    assert load_policy(name).description.startswith("Benchmark fiction") == fiction


def test_the_titles_of_llavaguard_are_its_category_names() -> None:
    assert tuple(rule.title for rule in load_policy("llavaguard/default").rules) == LLAVAGUARD


def test_no_line_of_a_policy_is_wider_than_the_code() -> None:
    for name in OURS:
        assert max(map(len, packaged_path(name).read_text(encoding="utf-8").splitlines())) <= 120


@pytest.mark.parametrize("page", ["docs/policies.md", "policies/README.md"])
def test_the_policies_in_the_docs_are_valid(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    snippets = [
        snippet for snippet in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "version:" in snippet
    ]
    assert snippets
    for snippet in snippets:
        validate_document(parse(snippet.encode(), page))


def test_the_docs_name_every_field_and_every_packaged_policy() -> None:
    reference = (ROOT / "docs/policies.md").read_text(encoding="utf-8")
    chooser = (ROOT / "policies/README.md").read_text(encoding="utf-8")
    from policyguard.policy import Defaults, Rule

    for model in (Policy, Rule, Defaults):
        assert not [field for field in model.model_fields if f"`{field}`" not in reference]
    families = {name.split("/")[0] for name in packaged_policies()}
    assert not [family for family in families if f"`{family}/" not in chooser]
    assert find_library() == ROOT / "policies"


def test_a_folder_that_is_there_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "house.yaml").write_text("id: house\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="this is a folder, not a policy file") as caught:
        load_policy("policies/")
    assert "house.yaml" in str(caught.value)


def test_the_policy_of_another_country_is_no_guess_for_a_deleted_one(tmp_path: Path) -> None:
    (tmp_path / "south.yaml").write_text("id: south\n")
    for name, guess in (("north", False), ("sout", True), ("suoth", True)):
        with pytest.raises(PolicyError, match="no such file") as caught:
            load_policy(tmp_path / f"{name}.yaml")
        assert guess == ("did you mean" in str(caught.value)), name
