"""``policyguard policy``: policies can be read, and every mistake in them has a place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import red
from policyguard.assessment import Failure, FailureKind
from policyguard.cli import main
from policyguard.policy import load_policy, packaged_policies
from policyguard.testing import FakeBackend

GOOD = """\
id: house
version: 1.0.0
title: House rules
description: What our shop shows.
owner: The shop
licence: CC-BY-4.0
rules:
  - id: arms
    title: Arms
    unsafe: [weapons]
    safe: [toys]
    threshold: 0.6
    action: flag
defaults:
  threshold: 0.7
"""
LAYER = """\
id: shop
version: 1.0.0
title: Shop
owner: The shop
extends: good.yaml
overrides:
  arms:
    safe:
      add: [replicas on a wall]
    weakens: Collectors want to see them.
"""
CASES = """\
policies: {house: good.yaml}
images:
  - image: images/unsafe.png
    expect: {house: EXPECTED}
"""
BAD = """\
id: house
version: one
title: House rules
rules:
  - title: Arms
    unsafe: [weapons]
    tresholds: 0.6
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def layer(tmp_path: Path, good: str) -> str:
    path = tmp_path / "shop.yaml"
    path.write_text(LAYER)
    return str(path)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A backend that goes by the red of a picture, in the place of a model."""
    backend = FakeBackend(red)
    monkeypatch.setattr("policyguard.backends.build_backend", lambda *_, **__: backend)
    return backend


def test_show_says_what_the_rules_are(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good])
    out = capsys.readouterr().out
    for words in (
        "house 1.0.0: House rules",
        "What our shop shows.",
        "A. Arms (arms, threshold 0.6, action flag)",
        "must not show - weapons",
        "may show      - toys",
        "undecided: block",
        "owner         The shop",
    ):
        assert words in out
    assert load_policy(good).resolve().fingerprint in out


def test_show_heads_the_lists_by_what_the_model_is_told(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "house.yaml"
    lists = "unsafe: [guns, swords], safe: [toys]"
    file.write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nrules:\n"
        f"  - {{id: a, title: A, status: exempt, {lists}}}\n"
        f"  - {{id: b, title: B, status: sensitive, {lists}}}\n"
    )
    assert 0 == main(["policy", "show", str(file)])
    out = capsys.readouterr().out
    first, second = out[out.index("A. A") :].split("\n\n")[:2]
    assert ["may show      - guns", "- swords", "- toys"] == [x.strip() for x in first.splitlines()[1:]]
    assert [
        "   must not show - guns",
        "                 - swords",
        "   nor, though often allowed",
        "                 - toys",
    ] == second.rstrip().splitlines()[1:]


def test_show_as_json_holds_the_policy_and_what_follows_from_it(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good, "--format", "json"])
    shown = json.loads(capsys.readouterr().out)
    resolved = load_policy(good).resolve()
    assert ("house", "arms", 0.6) == (shown["id"], shown["rules"][0]["id"], shown["rules"][0]["threshold"])
    assert (resolved.fingerprint, resolved.text) == (shown["fingerprint"], shown["text"])
    assert "block" == shown["outcomes"]["error"]


def test_show_as_yaml_is_the_file_itself(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good, "-f", "yaml"])
    assert GOOD == capsys.readouterr().out


def test_a_policy_that_does_not_exist_is_a_usage_error(capsys: Captured) -> None:
    assert 2 == main(["policy", "show", "nowhere/l3"])
    captured = capsys.readouterr()
    assert "" == captured.out
    assert "error: nowhere/l3" in captured.err
    assert "hint:" in captured.err


def test_lint_gives_every_mistake_its_place(tmp_path: Path, good: str, capsys: Captured) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    assert 2 == main(["policy", "lint", good, str(bad)])
    captured = capsys.readouterr()
    assert f"{bad}:2:10: error: version:" in captured.out
    assert f"{bad}:7:5: error: rules[0].tresholds" in captured.out
    assert good not in captured.out
    assert "2 policies: errors 3, warnings 0, infos 0" in captured.err


def test_lint_doubts_what_may_be_used_and_is_incomplete(tmp_path: Path, capsys: Captured) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        "id: house\nversion: 1.0.0\ntitle: House rules\nrules:\n"
        "  - id: arms\n    title: Arms\n    description: Weapons of all kinds.\n"
    )
    assert 0 == main(["policy", "lint", str(bare)])
    captured = capsys.readouterr()
    assert f"{bare}:5:5: warning: rules.arms: rule 'arms' gives no example under `unsafe:`" in captured.out
    assert f"{bare}:5:5: info: rules.arms: rule 'arms' gives no example under `safe:`" in captured.out
    assert "no `owner:`" in captured.out
    assert "no `licence:`" in captured.out
    assert "1 policy: errors 0, warnings 3, infos 1" in captured.err


def test_lint_names_a_missing_file_and_goes_on(tmp_path: Path, good: str, capsys: Captured) -> None:
    assert 2 == main(["policy", "lint", str(tmp_path / "nowhere.yaml"), good])
    assert "nowhere.yaml: error: there is no such file" in capsys.readouterr().out


def test_list_names_every_packaged_policy_and_its_world(capsys: Captured) -> None:
    assert 0 == main(["policy", "list", "--format", "json"])
    assert list(packaged_policies()) == [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert 0 == main(["policy", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert list(packaged_policies()) == [line.split()[0] for line in lines]


@pytest.mark.parametrize("name", packaged_policies())
def test_every_packaged_policy_can_be_shown_and_has_no_error(name: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", name])
    assert 0 == main(["policy", "lint", name])
    assert ": error:" not in capsys.readouterr().out


def test_show_gives_the_origin_of_each_part_and_the_reason_for_each_weakening(
    layer: str, good: str, capsys: Captured
) -> None:
    assert 0 == main(["policy", "show", layer])
    out = capsys.readouterr().out
    assert f"weapons [{good}:10]" in out
    assert f"replicas on a wall [{layer}:9]" in out
    assert "because: Collectors want to see them." in out
    assert 0 == main(["policy", "show", layer, "-f", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert {"file": layer, "line": 9} == shown["origins"]["rules.arms.safe[1]"]
    assert "Collectors want to see them." == shown["weakenings"][0]["reason"]


def test_a_parameter_is_given_on_the_command_line(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "age.yaml"
    file.write_text(
        GOOD.replace("[weapons]", '["weapons, for those under {{ age }}"]') + "parameters: {age: 18}\n"
    )
    assert 0 == main(["policy", "show", str(file), "--set", "age=16"])
    assert "for those under 16" in capsys.readouterr().out
    assert 2 == main(["policy", "show", str(file), "--set", "age"])
    assert "--set takes NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("warning", 1), ("info", 1), ("never", 0)])
def test_lint_fails_from_the_level_that_is_named(tmp_path: Path, level: str, code: int) -> None:
    file = tmp_path / "no_owner.yaml"
    file.write_text(GOOD.replace("owner: The shop\n", ""))
    assert code == main(["policy", "lint", str(file), "--fail-on", level])


def test_lint_as_json_holds_level_code_and_place(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "no_owner.yaml"
    file.write_text(GOOD.replace("owner: The shop\n", ""))
    assert 0 == main(["policy", "lint", str(file), "-f", "json", "--budget", "10"])
    report = json.loads(capsys.readouterr().out)
    assert {"no-owner", "too-long"} == {remark["code"] for remark in report["policies"][0]["remarks"]}
    assert {"error": 0, "warning": 2, "info": 0} == report["counts"]


def test_render_prints_what_the_model_reads(good: str, capsys: Captured) -> None:
    from policyguard.dialects import SafeguardDialect

    assert 0 == main(["policy", "render", good])
    captured = capsys.readouterr()
    (prompt,) = SafeguardDialect().render(load_policy(good).resolve())
    assert all(part in captured.out for m in prompt.messages for part in m.parts if isinstance(part, str))
    assert "[user]\n<image>\n" in captured.out
    assert captured.out.endswith('[assistant]\n{"rating": "\n')
    assert "tokens without the image (estimated)" in captured.err
    assert 0 == main(["policy", "render", good, "-f", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert prompt.messages[0].parts[0] == shown["messages"][0]["parts"][0]["text"]
    assert {"A": "arms"} == shown["categories"]


def test_render_for_a_model_uses_its_own_template_and_tokenizer(capsys: Captured) -> None:
    assert 0 == main(["policy", "render", "pictosafe/l3", "--model", "pico"])
    captured = capsys.readouterr()
    assert captured.out.startswith("<|im_start|>system\n A no weapons, explosives.")
    assert "counted by the tokenizer of pico" in captured.err


def test_render_refuses_a_dialect_that_cannot_say_it(good: str, capsys: Captured) -> None:
    assert 2 == main(["policy", "render", good, "--dialect", "pico"])
    assert "pictosafe" in capsys.readouterr().err


def test_diff_names_what_changed_and_why(good: str, layer: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "diff", good, layer])
    out = capsys.readouterr().out
    assert "weakened      safe: + replicas on a wall" in out
    assert "Collectors want to see them." in out
    assert 1 == main(["policy", "diff", good, layer, "--fail-on", "weaker", "-f", "json"])
    assert "weaker" in {change["effect"] for change in json.loads(capsys.readouterr().out)["changes"]}
    assert 0 == main(["policy", "diff", good, good, "--fail-on", "any"])


def test_diff_on_images_shows_those_that_change_and_asks_once(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    milder = tmp_path / "milder.yaml"
    milder.write_text(GOOD.replace("action: flag", "action: allow"))
    page = tmp_path / "page.html"
    arguments = ["policy", "diff", good, str(milder), "--on", str(images), "--html", str(page)]
    assert 0 == main([*arguments, "--thumbnails"])
    captured = capsys.readouterr()
    assert "unsafe.png  flag (violates 1.000)  allow (violates 1.000)" in captured.out
    assert "1 of 3 images change: 1 flag -> allow; 2 judgements by fake, 2 known already" in captured.out
    assert 2 == len(guarded.requests)
    assert 1 == page.read_text().count("<img")
    guarded.closed = False  # each run of the program has a model of its own
    assert 1 == main([*arguments, "--fail-on", "weaker"])
    assert "<img" not in page.read_text()


def test_diff_keeps_scores_from_run_to_run_where_asked(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    arguments = [
        "policy",
        "diff",
        good,
        good,
        "--on",
        str(images),
        "--judged",
        str(tmp_path / "judged.sqlite"),
    ]
    assert [0, 0] == [main(arguments), main(arguments)]
    assert 2 == len(guarded.requests)
    assert "0 judgements by fake, 4 known already" in capsys.readouterr().out


def test_diff_refuses_scores_kept_in_another_form_and_leaves_the_file_alone(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    file = tmp_path / "judged.jsonl"
    file.write_text('{"key": "a", "rating": "safe"}\n' * 100)
    before = file.read_bytes()
    assert 2 == main(["policy", "diff", good, good, "--on", str(images), "--judged", str(file)])
    printed = capsys.readouterr().err
    assert f"{file} is not a verdict cache" in printed
    assert "name a new file" in printed
    assert before == file.read_bytes()


@pytest.mark.parametrize("options", [["--html", "x.html"], ["--thumbnails"], ["--judged", "x.jsonl"]])
def test_diff_refuses_options_that_need_images(good: str, options: list[str], capsys: Captured) -> None:
    assert 2 == main(["policy", "diff", good, good, *options])
    assert "go with --on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expected", "code", "said"),
    [
        ("violates", 0, "1 passed"),
        ("complies", 1, "expected outcome complies, found violates"),
        ("{outcome: complies, xfail: later}", 0, "1 failing as known"),
        ("{outcome: violates, xfail: later}", 1, "this holds now: delete `xfail:` (later)"),
        ("sometimes", 2, "expected complies,"),
    ],
)
def test_test_says_what_does_not_hold_and_ends_accordingly(
    expected: str, code: int, said: str, tmp_path: Path, good: str, images: Path, guarded: FakeBackend,
    capsys: Captured,
) -> None:  # fmt: skip
    file, report = tmp_path / "cases.yaml", tmp_path / "report.xml"
    file.write_text(CASES.replace("EXPECTED", expected))
    assert code == main(["policy", "test", str(file), "--junit", str(report)])
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    assert report.exists() == (code != 2)


def test_test_as_json_holds_every_result(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(CASES.replace("EXPECTED", "violates"))
    assert 0 == main(["policy", "test", str(file), "-f", "json"])
    report = json.loads(capsys.readouterr().out)
    assert (True, "passed", ["arms"]) == (
        report["passed"],
        report["results"][0]["status"],
        report["results"][0]["found"][0]["findings"],
    )


def test_a_model_that_fails_ends_in_3(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    guarded.answer = Failure(FailureKind.ERROR, "the server is down")
    file = tmp_path / "cases.yaml"
    file.write_text(CASES.replace("EXPECTED", "violates"))
    assert 3 == main(["policy", "test", str(file)])
    assert "the server is down" in capsys.readouterr().out


def test_schema_is_json_schema_of_the_file(capsys: Captured) -> None:
    assert 0 == main(["policy", "schema"])
    schema = json.loads(capsys.readouterr().out)
    assert {"id", "version", "title", "rules", "extends"} <= set(schema["properties"])
