"""Policy tests: a file of cases is read strictly, and says exactly what did not hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Pictures

from cache.support import server_like, short_sighted
from policyguard.assessment import Assessment, Failure, FailureKind
from policyguard.authoring import CaseReport, Status, load_cases, run_cases
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import PolicyError
from policyguard.testing import FakeBackend

POLICY = """\
id: {id}
version: 1.0.0
title: House
parameters: {{what: guns}}
rules:
  - id: arms
    title: Arms
    unsafe: ["{{{{ what }}}}"]
  - id: drink
    title: Drink
    unsafe: [beer]
"""
GOOD = """\
policies:
  house: house.yaml
  shop: {source: shop.yaml, parameters: {what: knives}}
images:
  - image: images/red.png
    note: as red as can be
    expect:
      house: {outcome: violates, action: block, findings: [arms], score: 1.0}
      shop: violates
  - image: images/black.png
    expect:
      house: {outcome: complies, between: [0, 0.1]}
pairs:
  - unsafe: images/red.png
    safe: images/black.png
    rule: arms
    margin: 0.9
"""
HEAD = "policies: {house: house.yaml}\n"
CASE = HEAD + "images:\n  - image: images/red.png\n    expect:\n      "
RED = "policies: {{house: house.yaml}}\nimages:\n  - {{image: images/red.png, expect: {}}}\n"
PAIR = HEAD + "pairs:\n  - {unsafe: images/red.png, safe: images/black.png"
Repo = Callable[[str], Path]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A policy repository, inside a folder with something that is none of its business."""
    root = tmp_path / "repo"
    (root / "images").mkdir(parents=True)
    (root / "policyguard.toml").touch()
    for name in ("house", "shop"):
        (root / f"{name}.yaml").write_text(POLICY.format(id=name))
    for name, red in (("red", 255), ("brown", 128), ("black", 0)):
        Pictures.new("RGB", (8, 8), (red, 0, 0)).save(root / "images" / f"{name}.png")
    Pictures.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "outside.yaml").write_text(POLICY.format(id="outside"))

    def write(text: str) -> Path:
        path = root / "cases.yaml"
        path.write_text(text)
        return path

    return write


def by_red(request: AssessmentRequest) -> float:
    pixel = request.frame.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return float(pixel[0]) / 255


def run(file: Path, backend: FakeBackend | None = None) -> CaseReport:
    return run_cases(load_cases(file), backend=backend or FakeBackend(by_red))


def one(repo: Repo, image: str, expect: str) -> CaseReport:
    return run(
        repo(
            f"policies: {{house: house.yaml}}\nimages:\n  - image: images/{image}.png\n    expect: {expect}\n"
        )
    )


def refused(file: Path) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_cases(file)
    return [str(problem).replace(str(file), "cases.yaml") for problem in caught.value.problems]


def test_what_is_as_expected_passes(repo: Repo) -> None:
    report = run(repo(GOOD))
    assert report.passed
    assert {Status.PASSED: 5} == report.counts
    assert [8, 9, 12, 14, 14] == [result.line for result in report.results]


def test_an_image_is_judged_once_per_policy_text(repo: Repo) -> None:
    backend = FakeBackend(by_red)
    run(repo(GOOD), backend)
    assert 4 == len(backend.requests), "two images under two policies that read differently"


@pytest.mark.parametrize(("backend", "outcome"), [(server_like, "violates"), (short_sighted, "undecided")])
def test_scores_left_unread_for_one_policy_are_asked_for_where_another_needs_them(
    repo: Repo, backend: Callable[[AssessmentRequest], Assessment], outcome: str
) -> None:
    text = "policies: {lenient: lenient.yaml, strict: strict.yaml}\nimages:\n"
    file = repo(text + f"  - {{image: images/red.png, expect: {{lenient: complies, strict: {outcome}}}}}\n")
    for name, threshold in (("lenient", 0.6), ("strict", 0.2)):
        own = f"title: Arms\n    threshold: {threshold}\n"
        (file.parent / f"{name}.yaml").write_text(POLICY.format(id=name).replace("title: Arms\n", own))
    report = run(file, FakeBackend(backend))
    assert [Status.PASSED] * 2 == [result.status for result in report.results], report.results
    assert 2 == report.asked


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ("{house: complies}", "expected outcome complies, found violates (findings arms)"),
        ("{house: {action: flag}}", "expected action flag, found block (findings arms)"),
        ("{house: {findings: [drink]}}", "expected findings drink, found arms"),
        ("{house: {findings: []}}", "expected findings none, found arms"),
        ("{house: {findings: [drink, arms]}}", "expected findings arms, drink, found arms"),
        ("{house: {score: 0.4, tolerance: 0.1}}", "expected score 0.4 ± 0.1, found 0.502"),
        ("{house: {score: 0.4}}", "expected score 0.4 ± 0.05, found 0.502"),
        ("{house: {between: [0.6, 1]}}", "expected a score from 0.6 to 1, found 0.502"),
    ],
)
def test_what_does_not_hold_fails_and_says_so(repo: Repo, expect: str, said: str) -> None:
    report = one(repo, "brown", expect)
    assert ((said,), Status.FAILED) == (report.results[0].failures, report.results[0].status)
    assert not report.passed


@pytest.mark.parametrize(
    "expect", ["{score: 0.5}", "{score: 0.45, tolerance: 0.06}", "{between: [0.5, 0.51]}"]
)
def test_a_score_within_its_tolerance_passes(repo: Repo, expect: str) -> None:
    assert one(repo, "brown", f"{{house: {expect}}}").passed


def test_a_known_failure_keeps_the_run_green_with_its_reason(repo: Repo) -> None:
    report = one(repo, "red", "{house: {outcome: complies, xfail: no exception yet}}")
    assert (Status.XFAILED, True) == (report.results[0].status, report.passed)


def test_a_known_failure_that_holds_after_all_fails_the_run(repo: Repo) -> None:
    report = one(repo, "red", "{house: {outcome: violates, xfail: no exception yet}}")
    assert (Status.XPASSED, False) == (report.results[0].status, report.passed)


def test_a_model_that_fails_is_an_error_which_xfail_does_not_cover(repo: Repo) -> None:
    text = RED.format("{house: {outcome: complies, xfail: x}}")
    report = run(repo(text), FakeBackend(Failure(FailureKind.ERROR, "down")))
    assert (Status.ERROR, False) == (report.results[0].status, report.passed)


def test_a_broken_image_may_be_expected_to_be_unscannable(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "repo" / "images" / "bad.png").write_bytes(b"no picture")
    assert one(repo, "bad", "{house: {outcome: unscannable, action: block}}").passed


@pytest.mark.parametrize(
    ("unsafe", "safe", "more", "said"),
    [
        ("black", "black", "", "expected the unsafe image to have outcome violates, found complies"),
        ("red", "red", "", "expected the safe image to have outcome complies, found violates"),
        ("red", "black", ", rule: drink", "expected the unsafe image to break drink, found arms"),
        ("brown", "black", ", margin: 0.6", "expected scores at least 0.6 apart, found 0.502"),
    ],
)
def test_a_pair_that_is_not_told_apart_fails(
    repo: Repo, unsafe: str, safe: str, more: str, said: str
) -> None:
    pair = f"{{unsafe: images/{unsafe}.png, safe: images/{safe}.png{more}}}"
    report = run(repo(f"policies: {{house: house.yaml}}\npairs: [{pair}]\n"))
    assert report.results[0].failures[0].startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cases.yaml:1:1: the file holds no cases"),
        ("- a\n", "cases.yaml:1:1: a file of cases is a mapping, and this file holds a list"),
        (HEAD, "cases.yaml:1:1: nothing to test"),
        ("images: []\npolices: {}\n", "cases.yaml:2:1: polices: unknown key 'polices': did you mean"),
        ("polices: {}\nimages: []\n", "cases.yaml:1:1: polices: unknown key 'polices'"),
        ("policies: {}\nimages: []\n", "cases.yaml:1:11: policies: is empty"),
        (CASE + "hous: complies\n", "cases.yaml:5:7: images[0].expect.hous: there is no policy called"),
        (CASE + "house: complied\n", "did you mean complies?"),
        (CASE + "house: {outcom: complies}\n", "cases.yaml:5:15: images[0].expect.house.outcom: unknown key"),
        (CASE + "house: {findings: [armz]}\n", "5:26: images[0].expect.house.findings[0]: there is no rule"),
        (CASE + "house: {xfail: why}\n", "expects nothing"),
        (CASE + "house: {score: 90%}\n", "expected a number from 0 to 1, found the text '90%': write 0.9"),
        (CASE + "house: {outcome: complies, tolerance: 0.1}\n", "tolerance goes with `score:`"),
        (CASE + "house: {score: 1.5}\n", "cases.yaml:5:22: images[0].expect.house.score: must be at most 1"),
        (CASE + "house: {outcome: complies, xfail: ''}\n", "images[0].expect.house.xfail: is empty"),
        (GOOD.replace("red", "rde"),
         "cases.yaml:5:12: images[0].image: there is no file 'images/rde.png': did you mean images/red.png?"),
        (GOOD.replace("images/red", "art/red"),
         "there is no file 'art/red.png', and no folder 'art': a path starts at the folder of this file"),
        (GOOD.replace("images/red", "images/nothing-like-it"),
         "there is no file 'images/nothing-like-it.png': a path starts at the folder of this file"),
        (GOOD.replace("images/red.png", "images"), "this is a folder"),
        (HEAD + "images: [{image: images/red.png}]\n", "images[0].expect: is missing"),
        (GOOD.replace("images/black.png", "images/red.png"), "case 1 already"),
        (HEAD + "pairs: [{unsafe: images/red.png}]\n", "pairs[0].safe: is missing"),
        (PAIR + ", rule: arm}\n", "did you mean 'arms'?"),
        (PAIR + ", policies: [shop]}\n", "there is no policy called 'shop'"),
        (GOOD.replace("house.yaml", "hose.yaml"),
         "policies.house: there is no file 'hose.yaml': did you mean house.yaml?"),
        (GOOD.replace("{what: knives}", "{waht: knives}"), "waht"),
        (HEAD + HEAD, "the key 'policies' is already there"),
        (CASE + "house: &a complies\n", "anchors are refused"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_place_of_each_mistake(repo: Repo, text: str, said: str) -> None:
    problems = refused(repo(text))
    assert any(said in problem for problem in problems), problems


def test_a_misspelt_key_is_one_mistake(repo: Repo) -> None:
    assert 1 == len(refused(repo(GOOD.replace("policies:", "polices:"))))


def test_all_mistakes_are_reported_at_once(repo: Repo) -> None:
    text = CASE + "hous: complies\n      house: {findings: [armz]}\n"
    text += "  - image: nowhere.png\n    expect: {house: complies}\n"
    assert [5, 6, 7] == [int(problem.split(":")[1]) for problem in refused(repo(text))]


ESCAPES = [
    "../secret.png",
    "images/../../secret.png",
    "./././../secret.png",
    "/etc/passwd",
    "~/secret.png",
    "~root/x.png",
    "C:\\secret.png",
    "C:/secret.png",
    "\\\\host\\share\\x.png",
    "//host/share/x.png",
    "file:///etc/passwd",
    "https://example.org/a.png",
    "linked.png",
    "folder/secret.png",
    "images/%2e%2e/%2e%2e/secret.png",
    "device",
]


@pytest.mark.skipif(os.name == "nt", reason="symbolic links and pipes as on POSIX")
@pytest.mark.parametrize("name", ESCAPES)
def test_no_image_outside_of_the_root_is_named(repo: Repo, tmp_path: Path, name: str) -> None:
    root = tmp_path / "repo"
    (root / "linked.png").symlink_to("../secret.png")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "device")
    text = HEAD + f"images:\n  - image: '{name}'\n    expect: {{house: complies}}\n"
    (problem,) = refused(repo(text))
    assert problem.startswith("cases.yaml:3:12: images[0].image:")


@pytest.mark.parametrize("source", ["../outside.yaml", "/etc/passwd.yaml", "./../outside.yaml", "~/x.yaml"])
def test_no_policy_outside_of_the_root_is_named(repo: Repo, source: str) -> None:
    text = (
        f"policies: {{house: '{source}'}}\nimages: [{{image: images/red.png, expect: {{house: complies}}}}]\n"
    )
    assert refused(repo(text))[0].startswith("cases.yaml:1:19: policies.house")


def test_an_image_that_is_swapped_after_loading_is_not_followed_out(repo: Repo, tmp_path: Path) -> None:
    cases = load_cases(repo(GOOD))
    image = tmp_path / "repo" / "images" / "red.png"
    image.unlink()
    image.symlink_to("../../secret.png")
    with pytest.raises(PolicyError, match="leads out of the policy root"):
        run_cases(cases, backend=FakeBackend(by_red))


def test_a_root_may_be_named_and_the_file_must_lie_in_it(repo: Repo, tmp_path: Path) -> None:
    file = repo(HEAD + "images: [{image: ../secret.png, expect: {house: complies}}]\n")
    assert load_cases(file, root=tmp_path).content.images
    with pytest.raises(PolicyError, match="outside the root"):
        load_cases(file, root=tmp_path / "repo" / "images")
