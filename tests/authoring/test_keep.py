"""A case is put into a file of policy tests as an author would write it; nothing else of the file changes."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest

from policyguard import Action, ConfigurationError, Outcome
from policyguard.authoring import load_cases
from policyguard.authoring.cases.keep import NewCase, find_case_file, with_case

HAND = """\
# Ours. Run with every change.
policies:
  base: policies/base.yaml   # the floor
  set: {source: policies/shop.yaml, parameters: {age: 18}}
tolerance: 0.1

images:
  # known since spring
  - image: images/a.png
    note: "two: drinks"
    expect:
      base: violates
  -   image: images/b.png
      expect: {base: complies}

# pairs are at the end
pairs:
  - {unsafe: images/a.png, safe: images/b.png}
"""


def case(**changes: Any) -> NewCase:
    values: dict[str, Any] = {
        "policy": "shop",
        "source": "policies/shop.yaml",
        "image": "images/c.png",
        "outcome": Outcome.VIOLATES,
        "action": Action.BLOCK,
        "findings": ("arms", "smoke"),
        "note": 'said "no": # not',
    }
    return NewCase(**values | changes)


def added(before: str, after: str) -> list[str]:
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    assert not [line for line in lines if line.startswith("-")], "nothing is taken away"
    return [line[2:] for line in lines if line.startswith("+")]


def test_a_new_file_holds_the_case_and_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "c.png").write_bytes(b"never opened here")
    rules = "".join(f"  - {{id: {name}, title: T{name}, unsafe: [x{name}]}}\n" for name in ("arms", "smoke"))
    (tmp_path / "policies" / "shop.yaml").write_text(f"id: a/shop\nversion: 1.0.0\ntitle: S\nrules:\n{rules}")
    (tmp_path / "cases.yaml").write_text(with_case(None, case()))
    (image,) = load_cases(tmp_path / "cases.yaml").content.images
    assert image.note == 'said "no": # not'
    expected = image.expect["shop"]
    assert (expected.outcome, expected.action, expected.findings) == ("violates", "block", ("arms", "smoke"))


def test_a_case_joins_a_file_written_by_hand() -> None:
    text = with_case(HAND, case(note=None))
    assert added(HAND, text) == [
        '  shop: "policies/shop.yaml"',
        '  - image: "images/c.png"',
        "    expect:",
        "      shop: {outcome: violates, action: block, findings: [arms, smoke]}",
    ]
    assert text.index("images/c.png") < text.index("# pairs are at the end")


def test_a_policy_that_the_file_knows_keeps_its_name() -> None:
    text = with_case(HAND, case(source="./policies/base.yaml", note=None, action=None, findings=None))
    assert added(HAND, text)[-1] == "      base: {outcome: violates}"
    assert "shop" not in "".join(added(HAND, text))


def test_an_image_that_the_file_knows_gets_one_expectation_more() -> None:
    text = with_case(HAND, case(image="images/a.png", note=None))
    assert added(HAND, text)[-1] == "      shop: {outcome: violates, action: block, findings: [arms, smoke]}"


def test_a_name_that_is_taken_by_another_file_is_not_used_twice() -> None:
    text = with_case(HAND, case(policy="base"))
    assert '  base-2: "policies/shop.yaml"' in text


def test_what_the_file_says_already_is_not_said_twice() -> None:
    with pytest.raises(ConfigurationError, match=r"cases.yaml:12 says already what 'base' should say"):
        with_case(HAND, case(image="images/a.png", source="policies/base.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "policies: {base: b.yaml}\nimages: [{image: a.png, expect: {base: complies}}]\n",
        "policies:\n  base: b.yaml\nimages: [{image: a.png, expect: {base: complies}}]\n",
        "policies:\n  base: b.yaml\nimages:\n  - {image: images/c.png, expect: {base: complies}}\n",
    ],
)
def test_a_file_that_is_not_written_line_by_line_is_refused_with_what_to_add(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not written line by line") as error:
        with_case(text, case())
    assert '- image: "images/c.png"' in (error.value.hint or "")


def test_the_nearest_file_of_cases_up_to_the_root_is_used(tmp_path: Path) -> None:
    policy = tmp_path / "root" / "policies" / "shop.yaml"
    policy.parent.mkdir(parents=True)
    (tmp_path / "cases.yaml").touch()
    root = str(tmp_path / "root")
    assert find_case_file(policy, root) == policy.parent / "cases.yaml"
    (tmp_path / "root" / "cases.yaml").touch()
    assert find_case_file(policy, root) == tmp_path / "root" / "cases.yaml"
