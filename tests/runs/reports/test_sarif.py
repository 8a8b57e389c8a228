"""SARIF: valid, one rule per policy rule, alerts that keep their identity, limits kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from policyguard.runs.reports import sarif
from policyguard.runs.run import CheckedImage, ImageStatus, PolicyInfo
from runs.reports.support import ADS, HOUSE, every_kind, finding, image, many, run_info, stopped, written


def schemas() -> Iterable[Validator]:
    """Ours, and the standard's own where POLICYGUARD_SARIF_SCHEMA names a copy of sarif-schema-2.1.0.json."""
    paths = [Path(__file__).parent / "schemas" / "sarif.schema.json"]
    if own := os.environ.get("POLICYGUARD_SARIF_SCHEMA"):
        paths.append(Path(own))
    for path in paths:
        schema = json.loads(path.read_text(encoding="utf-8"))
        kind = validator_for(schema)
        yield kind(schema, format_checker=kind.FORMAT_CHECKER)


def run_of(folder: Path, images: Iterable[CheckedImage], **options: Any) -> dict[str, Any]:
    document = json.loads(written(folder, "sarif", images, **options))
    for schema in schemas():
        schema.validate(document)
    (run,) = document["runs"]
    return run


def uri(result: dict[str, Any]) -> str:
    return result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]


def fingerprints(run: dict[str, Any]) -> list[str]:
    return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]


@pytest.mark.parametrize("ending", [{}, stopped()], ids=["whole", "stopped"])
def test_it_is_valid(tmp_path: Path, ending: dict[str, Any]) -> None:
    assert run_of(tmp_path, every_kind(), **ending)["results"]


def test_a_run_without_images_is_valid(tmp_path: Path) -> None:
    assert [] == run_of(tmp_path, [])["results"]


def test_every_rule_of_every_policy_is_a_rule(tmp_path: Path) -> None:
    rules = run_of(tmp_path, [])["tool"]["driver"]["rules"]
    named = [(rule["id"], rule["defaultConfiguration"]["level"]) for rule in rules]
    assert [
        ("house/arms", "error"),
        ("house/drugs", "warning"),
        ("house/art", "error"),
        ("team/ads/smoke", "error"),
        ("house/*", "error"),
        ("team/ads/*", "error"),
    ] == named
    assert (
        "A. Weapons\nMust not show:\n- guns\n- knives as weapons\nMay show:\n- kitchens"
        == rules[0]["help"]["text"]
    )
    assert rules[2]["defaultConfiguration"]["enabled"] is False


def test_each_broken_rule_is_a_result_that_points_at_its_rule(tmp_path: Path) -> None:
    run = run_of(tmp_path, every_kind())
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    found = [(uri(result), result["ruleId"], result["level"]) for result in run["results"]]
    assert [
        ("art/gun.png", "house/arms", "error"),
        ("art/two.png", "house/arms", "error"),
        ("art/museum.png", "house/arms", "error"),
        ("art/nameless.png", "house/*", "error"),
        ("ads/smoke.png", "team/ads/smoke", "error"),
        ("ads/smoke.png", "house/arms", "error"),
        ("art/two.png", "house/drugs", "warning"),
        ("art/pills.png", "house/drugs", "warning"),
    ] == found
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])


def test_what_the_baseline_accepts_is_suppressed_with_its_reason(tmp_path: Path) -> None:
    results = run_of(tmp_path, every_kind())["results"]
    found = {uri(result): result["suppressions"] for result in results if "suppressions" in result}
    said = "accepted by Ann until 2027-06-30: museum piece"
    assert {"art/museum.png": [{"kind": "external", "status": "accepted", "justification": said}]} == found


def test_images_that_could_not_be_judged_make_the_run_unsuccessful(tmp_path: Path) -> None:
    (whole,) = run_of(tmp_path, [image("a.png")])["invocations"]
    assert (True, []) == (whole["executionSuccessful"], whole["toolExecutionNotifications"])
    (found,) = run_of(tmp_path, [image("a.png", ImageStatus.UNJUDGED)])["invocations"]
    (note,) = found["toolExecutionNotifications"]
    assert found["executionSuccessful"] is False
    assert ("error", "the file is not an image", "a.png") == (
        note["level"],
        note["message"]["text"],
        uri(note),
    )


def test_what_was_not_checked_and_what_is_wrong_with_the_set_up_are_told(tmp_path: Path) -> None:
    (found,) = run_of(tmp_path, [image("a.png")], **stopped())["invocations"]
    assert (False, 2) == (found["executionSuccessful"], found["exitCode"])
    assert ["not checked: the run was out of time"] == [
        note["message"]["text"] for note in found["toolExecutionNotifications"]
    ]
    assert 1 == len(found["toolConfigurationNotifications"])


def test_a_moved_image_stays_the_same_alert(tmp_path: Path) -> None:
    def at(path: str) -> list[str]:
        return fingerprints(run_of(tmp_path, [image(path, ImageStatus.FAILED, finding(), content="x")]))

    assert at("old/a.png") == at("new/b.png")


def test_another_picture_in_its_place_is_another_alert(tmp_path: Path) -> None:
    def holding(content: str) -> list[str]:
        return fingerprints(
            run_of(tmp_path, [image("a.png", ImageStatus.FAILED, finding(), content=content)])
        )

    assert holding("one") != holding("two")


def test_two_rules_broken_by_one_image_are_two_alerts(tmp_path: Path) -> None:
    found = fingerprints(run_of(tmp_path, [image("a.png", ImageStatus.FAILED, finding(), finding("drugs"))]))
    assert 2 == len(set(found))


def test_a_score_that_moves_does_not_make_a_new_alert(tmp_path: Path) -> None:
    def scored(score: float) -> list[str]:
        return fingerprints(run_of(tmp_path, [image("a.png", ImageStatus.FAILED, finding(score=score))]))

    assert scored(0.9) == scored(0.8)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a b/ü%.png", "a%20b/%C3%BC%25.png"),
        ("c:d.png", "c%3Ad.png"),
        ("a?b#c.png", "a%3Fb%23c.png"),
        ("x\udcff\n.png", "x%FF%0A.png"),
        ("/tmp/a b.png", "file:///tmp/a%20b.png"),
        ("<stdin>", "%3Cstdin%3E"),
    ],
)
def test_a_path_is_a_uri_whatever_is_in_it(path: str, expected: str, tmp_path: Path) -> None:
    (result,) = run_of(tmp_path, [image(path, ImageStatus.FAILED, finding())])["results"]
    assert expected == uri(result)


def test_paths_start_at_the_root_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    inside, beside = "art/a.png", f"{tmp_path}/other/b.png"
    images = [image(path, ImageStatus.FAILED, finding()) for path in (inside, beside, "/elsewhere/c.png")]
    results = run_of(tmp_path, images, info=run_info(tmp_path / "game"))["results"]
    assert ["game/art/a.png", "other/b.png", "file:///elsewhere/c.png"] == [uri(result) for result in results]


def test_no_more_results_than_github_takes_and_the_most_severe_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sarif, "_MAX_RESULTS", 5)
    flagged = [image(f"f{n}.png", ImageStatus.FLAGGED, finding("drugs", 0.8)) for n in range(9)]
    failed = [image(f"x{n}.png", ImageStatus.FAILED, finding()) for n in range(3)]
    run = run_of(tmp_path, [*flagged, *failed])
    assert ["x0.png", "x1.png", "x2.png", "f0.png", "f1.png"] == [uri(result) for result in run["results"]]
    (note,) = run["invocations"][0]["toolConfigurationNotifications"]
    assert note["message"]["text"].startswith("7 results are left out")


def test_results_are_left_out_when_the_file_would_be_too_large_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sarif, "_MAX_COMPRESSED", 20_000)
    run = run_of(tmp_path, many(2000))
    left = run["invocations"][0]["toolConfigurationNotifications"][0]["message"]["text"]
    assert 0 < len(run["results"]) < 1600
    assert f"{1600 - len(run['results']):,} results are left out" in left


def test_a_model_s_words_are_neither_a_link_nor_a_placeholder(tmp_path: Path) -> None:
    said = "see [here](https://evil.example) and {0}"
    (result,) = run_of(tmp_path, [image("a.png", ImageStatus.FAILED, finding(), rationale=said)])["results"]
    assert result["message"]["text"].endswith("see [here] (https://evil.example) and (0)")


def test_a_policy_s_text_cannot_leave_its_block_of_markdown(tmp_path: Path) -> None:
    bad = replace(HOUSE, rules=(HOUSE.rules[0].model_copy(update={"unsafe": ("x```\n# y", "````")}),))
    info = run_info(policies=(PolicyInfo(bad, "house"), PolicyInfo(ADS, "team/ads")))
    text = run_of(tmp_path, [], info=info)["tool"]["driver"]["rules"][0]["help"]["markdown"]
    assert text.startswith("`````text\n")
    assert text.endswith("\n`````")
