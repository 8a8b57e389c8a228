"""The library as a whole: every packaged policy is complete, short, lint-clean and reads as it did before.

To write the golden renderings anew, run ``python tests/policy/test_library.py`` and read what changed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policyguard.policy import Status, load_policy, packaged_policies
from policyguard.policy.files import find_library, packaged_path
from policyguard.strict.documents import parse, plain

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
REGENERATE = "python tests/policy/test_library.py"

STARTERS = tuple(name for name in packaged_policies() if name.startswith("apps/"))
MODULES = tuple(name for name in packaged_policies() if name.startswith("modules/"))
FICTIONS = ("safeedit/l1", "safeedit/l5", "pictosafe/l5")
SCHEMA_LINE = "# yaml-language-server: $schema=../../src/policyguard/authoring/policy.schema.json"
UNSAFEBENCH = (
    "Hate",
    "Harassment",
    "Violence",
    "Self-harm",
    "Sexual",
    "Shocking",
    "Illegal activity",
    "Deception",
    "Political",
    "Public and personal health",
    "Spam",
)
MLCOMMONS = (
    "Violent crimes",
    "Non-violent crimes",
    "Sex-related crimes",
    "Child sexual exploitation",
    "Indiscriminate weapons",
    "Suicide and self-harm",
    "Intellectual property",
    "Privacy",
    "Defamation",
    "Hate",
    "Sexual content",
    "Specialized advice",
)


def golden_path(name: str) -> Path:
    return GOLDEN / f"{name}.txt"


def rendering(name: str) -> str:
    return load_policy(name).resolve().text + "\n"


def document(name: str) -> dict[str, object]:
    """The file as it is written, before anything is composed."""
    values = plain(parse(packaged_path(name).read_bytes(), name).root)
    assert isinstance(values, dict)
    return values


def comment(name: str) -> str:
    head = re.match(r"(?:#.*\n)+", packaged_path(name).read_text(encoding="utf-8"))
    assert head, f"{name} does not open with a comment"
    return head[0]


@pytest.mark.parametrize("name", packaged_policies())
def test_every_policy_says_whose_it_is_in_its_own_file(name: str) -> None:
    values = document(name)
    assert values["id"] == name
    assert values["owner"]
    assert values["licence"] == "Apache-2.0"
    assert values.get("sources") or values.get("world") == "pictosafe"  # that world's only facts are its own


@pytest.mark.parametrize("name", packaged_policies())
def test_every_policy_names_the_schema_so_that_editors_complete_it(name: str) -> None:
    assert SCHEMA_LINE in comment(name).splitlines()
    relative = SCHEMA_LINE.split("=", 1)[1]
    assert (packaged_path(name).parent / relative).resolve().is_file()


@pytest.mark.parametrize("name", FICTIONS)
def test_fictions_are_marked(name: str) -> None:
    assert "benchmark fiction" in comment(name).lower()


@pytest.mark.parametrize("name", packaged_policies())
def test_every_rule_shows_both_sides(name: str) -> None:
    policy = load_policy(name)
    assert len(policy.rules) <= 26
    for rule in policy.rules:
        assert rule.unsafe, rule.id
        if policy.world != "pictosafe":  # pictograms have no border cases: there, no exception is a rule too
            assert rule.safe, rule.id
            assert rule.description, rule.id
            assert rule.status is Status.ACTIVE, rule.id


@pytest.mark.parametrize("name", packaged_policies())
def test_items_are_short_and_said_once(name: str) -> None:
    for rule in load_policy(name).rules:
        items = [*rule.unsafe, *rule.safe]
        assert not [item for item in items if len(item) > 140], rule.id
        assert len({item.casefold() for item in items}) == len(items), rule.id
        assert len(rule.unsafe) <= 8, rule.id
        assert len(rule.safe) <= 8, rule.id


def test_no_line_is_wider_than_the_code() -> None:
    for name in packaged_policies():
        assert max(map(len, packaged_path(name).read_text(encoding="utf-8").splitlines())) <= 120, name


def test_unsafebench_has_the_benchmark_s_categories_in_its_order() -> None:
    assert tuple(rule.title for rule in load_policy("unsafebench/default").rules) == UNSAFEBENCH


def test_mlcommons_has_the_benchmark_s_hazards_in_its_order() -> None:
    assert tuple(rule.title for rule in load_policy("mlcommons/images").rules) == MLCOMMONS


@pytest.mark.parametrize("name", STARTERS)
def test_starters_are_composed_from_modules_and_stay_short(name: str) -> None:
    extends = document(name)["extends"]
    assert isinstance(extends, list)
    assert len(extends) >= 3
    assert not set(extends) - set(MODULES)
    assert 6 <= len(load_policy(name).rules) <= 12


@pytest.mark.parametrize("name", STARTERS)
def test_what_a_starter_loosens_has_a_reason_that_people_can_read(name: str) -> None:
    weakenings = load_policy(name).weakenings
    assert weakenings
    for weakening in weakenings:
        assert weakening.policy == name
        assert len(weakening.reason.split()) >= 5


def test_every_module_is_used_and_brings_no_settings() -> None:
    used = {module for name in STARTERS for module in document(name)["extends"]}  # type: ignore[attr-defined]
    assert used == set(MODULES)
    for name in MODULES:  # a base's description and defaults would reach every policy that extends it
        assert not {"description", "defaults", "outcomes", "world"} & set(document(name)), name


def test_no_two_modules_have_a_rule_in_common() -> None:
    ids = [rule.id for name in MODULES for rule in load_policy(name).rules]
    assert len(set(ids)) == len(ids)


def test_the_family_starter_s_age_can_be_set() -> None:
    assert "aged 6 and older" in load_policy("apps/family").description
    assert "aged 10 and older" in load_policy("apps/family", parameters={"youngest_age": 10}).description


@pytest.mark.parametrize("name", packaged_policies())
def test_every_policy_is_lint_clean(name: str) -> None:
    from policyguard.authoring import Level, lint

    accepted = {"no-safe-example"} if load_policy(name).world == "pictosafe" else set()
    said = [str(remark) for remark in lint(name) if remark.code not in accepted or remark.level > Level.INFO]
    assert not said


@pytest.mark.parametrize("name", packaged_policies())
def test_every_policy_reads_as_it_did(name: str) -> None:
    expected = golden_path(name).read_text(encoding="utf-8") if golden_path(name).is_file() else ""
    assert rendering(name) == expected, f"if the change is wanted, run `{REGENERATE}`"


def test_no_golden_rendering_is_left_over() -> None:
    files = {path.relative_to(GOLDEN).with_suffix("").as_posix() for path in GOLDEN.rglob("*.txt")}
    assert files == set(packaged_policies())


def test_the_readme_lists_every_policy_with_its_number_of_rules() -> None:
    text = (find_library() / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([a-z0-9/-]+)` \| (\d+) \|", text, re.MULTILINE))
    assert listed == {name: str(len(load_policy(name).rules)) for name in packaged_policies()}


def test_the_readme_s_composed_example_loads(tmp_path: Path) -> None:
    text = (find_library() / "README.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "extends:" in block]
    path = tmp_path / "kids-club.yaml"
    path.write_text(example, encoding="utf-8")
    policy = load_policy(path)
    assert len(policy.rules) == len(load_policy("apps/family").rules) + 1
    assert policy.weakenings


def regenerate() -> None:
    for old in GOLDEN.rglob("*.txt"):
        old.unlink()
    for name in packaged_policies():
        golden_path(name).parent.mkdir(parents=True, exist_ok=True)
        golden_path(name).write_text(rendering(name), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    regenerate()
