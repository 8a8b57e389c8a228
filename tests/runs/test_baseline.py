"""The baseline accepts what somebody has reviewed, by content and by rule, until a day, and nothing else."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from cli.support import picture
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.runs.baseline import BASELINE_FILE, read_baseline
from policyguard.runs.exits import ExitCode
from policyguard.testing import FakeBackend
from runs.support import POLICY, TODAY, accept, check_project, entry


def by_policy(answers: dict[str, object]) -> FakeBackend:
    return FakeBackend(lambda request: answers[request.policy.id])  # type: ignore[arg-type,return-value]


def line(**changes: object) -> str:
    data = entry().to_dict() | changes
    return json.dumps({key: value for key, value in data.items() if value is not None})


NONSENSE = [
    ("{", "it is not JSON"),
    ("[1]", "it is not a JSON object"),
    ("<<<<<<< HEAD", "left over from a merge"),
    ("nonsense", "it is not JSON"),
    ('{"path": "a", "path": "b"}', "it holds the key 'path' twice"),
    ('{"path": NaN}', "it holds NaN, which is not JSON"),
    ("[" * 100_000, "it is nested too deeply"),
    (line(reason=None), "'reason' is missing"),
    (line(by=" "), "'by' must be text, and not empty"),
    (line(until="tomorrow"), "'until' must be a date"),
    (line(until="2027-02-30"), "there is no such day: 2027-02-30"),
    (line(until=20270101), "'until' must be text"),
    (line(rules=[]), "'rules' must be a list"),
    (line(rules="arms"), "'rules' must be a list"),
    (line(sha256="A" * 64), "'sha256' must be 64 digits"),
    (line(extra=1), "'extra' is not known"),
]


def test_an_accepted_violation_passes_and_says_so(bad: Path) -> None:
    assert ExitCode.BLOCKED == check_project().code
    accept(entry())
    found = check_project()
    assert ExitCode.OK == found.code
    assert "1 accepted by the baseline" in found.err
    assert [True, None] == [verdict.get("accepted") for verdict in found.verdicts]
    assert [False, True] == [verdict["allowed"] for verdict in found.verdicts]


@pytest.mark.parametrize(
    "changes",
    [
        {"until": TODAY - timedelta(days=1)},
        {"policy": "other"},
        {"rules": ("fakes",)},
        {"sha256": sha256(picture(254)).hexdigest()},
    ],
    ids=["expired", "another policy", "another rule", "changed content"],
)
def test_an_entry_holds_for_these_bytes_this_policy_these_rules_and_until_its_day(
    bad: Path, changes: dict[str, object]
) -> None:
    accept(entry(**changes))
    assert ExitCode.BLOCKED == check_project().code


def test_a_moved_image_stays_accepted(bad: Path) -> None:
    accept(entry())
    (bad / "bad.png").rename(bad / "elsewhere.png")
    assert ExitCode.OK == check_project().code


@pytest.mark.parametrize("kind", FailureKind)
def test_an_image_that_cannot_be_judged_is_never_hidden(bad: Path, kind: FailureKind) -> None:
    accept(entry())
    found = check_project(backend=FakeBackend(Failure(kind, "it will not")))
    assert ExitCode.UNJUDGED == found.code
    assert not any(verdict.get("accepted") for verdict in found.verdicts)


def test_an_image_that_cannot_be_opened_is_never_hidden_though_its_hash_is_known(bad: Path) -> None:
    broken = picture(0)[:-40]
    (bad / "bad.png").write_bytes(broken)
    accept(entry(sha256=sha256(broken).hexdigest()))
    found = check_project()
    assert ExitCode.UNJUDGED == found.code
    assert not any(verdict.get("accepted") for verdict in found.verdicts)


@pytest.mark.parametrize("unscannable", ["block", "allow"])
def test_an_image_on_a_list_that_cannot_be_opened_is_not_hidden_either(bad: Path, unscannable: str) -> None:
    broken = picture(0)[:-40]
    (bad / "bad.png").write_bytes(broken)
    (bad / "known.txt").write_text(f"# sha256\n{sha256(broken).hexdigest()}\n")
    (bad / "house.yaml").write_text(f"{POLICY.format(id='house')}outcomes: {{unscannable: {unscannable}}}\n")
    with (bad / "policyguard.toml").open("a") as project:
        project.write('[[lists]]\nfile = "known.txt"\nkind = "sha256"\ndeny = "arms"\n')
    accept(entry(sha256=sha256(broken).hexdigest()))
    found = check_project("bad.png")
    assert ExitCode.BLOCKED == found.code
    (verdict,) = found.verdicts
    assert (verdict["outcome"], verdict.get("accepted")) == ("violates", None)
    assert bool(verdict["evidence"]["unexplained"]) == (unscannable == "block")


def test_a_policy_that_could_not_be_judged_is_not_hidden_by_another_s_accepted_violation(bad: Path) -> None:
    (bad / "second.yaml").write_text(POLICY.format(id="second"))
    (bad / "policyguard.toml").write_text('policy = ["./house.yaml", "./second.yaml"]\n')
    accept(entry())
    down = Failure(FailureKind.ERROR, "the server is down")
    assert ExitCode.OK == check_project("bad.png", backend=by_policy({"house": 1.0, "second": 0.0})).code
    found = check_project("bad.png", backend=by_policy({"house": 1.0, "second": down}))
    assert ExitCode.BLOCKED == found.code
    assert "accepted" not in found.verdicts[0]
    assert ["the server is down"] == found.verdicts[0]["evidence"]["unexplained"]


def test_every_policy_that_blocks_needs_an_entry(bad: Path) -> None:
    (bad / "second.yaml").write_text(POLICY.format(id="second"))
    (bad / "policyguard.toml").write_text('policy = ["./house.yaml", "./second.yaml"]\n')
    accept(entry())
    assert ExitCode.BLOCKED == check_project("bad.png").code
    accept(entry(), entry(policy="second"))
    assert ExitCode.OK == check_project("bad.png").code


def test_a_frame_that_could_not_be_judged_is_not_hidden_by_another_frame_s_accepted_violation(
    bad: Path,
) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "black")]
    frames[0].save(bad / "two.gif", save_all=True, append_images=frames[1:])
    accept(entry(sha256=sha256((bad / "two.gif").read_bytes()).hexdigest()))

    def answer(request: AssessmentRequest) -> float | Failure:
        pixel = request.frame.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return 1.0 if pixel[0] > 100 else Failure(FailureKind.REFUSED, "it declines")

    assert ExitCode.OK == check_project("two.gif", backend=FakeBackend(1.0)).code
    assert ExitCode.BLOCKED == check_project("two.gif", backend=FakeBackend(answer)).code


def test_a_violation_that_is_put_down_to_no_rule_cannot_be_accepted(bad: Path) -> None:
    accept(entry())
    bare = Assessment(Rating.UNSAFE, p_unsafe=None, rule_scores=None)
    assert ExitCode.BLOCKED == check_project("bad.png", backend=FakeBackend(bare)).code


def test_an_entry_for_the_closest_rule_holds_while_no_other_rule_is_closer_or_broken(bad: Path) -> None:
    (bad / "house.yaml").write_text(
        POLICY.format(id="house") + "  - id: fakes\n    title: Fakes\n    unsafe: [counterfeits]\n"
    )
    accept(entry())

    def found(arms: float, fakes: float) -> ExitCode:
        shares = {"arms": arms, "fakes": fakes}
        answer = Assessment(Rating.UNSAFE, p_unsafe=0.9, label_mass=1.0, rule_scores=shares)
        return check_project("bad.png", backend=FakeBackend(answer)).code

    assert ExitCode.OK == found(arms=0.5, fakes=0.4), "neither reaches its threshold; arms is the closest"
    assert ExitCode.OK == found(arms=0.9, fakes=0.1), "arms is broken"
    assert ExitCode.BLOCKED == found(arms=0.4, fakes=0.5), "fakes is the closest"
    assert ExitCode.BLOCKED == found(arms=0.1, fakes=0.9), "fakes is broken"


@pytest.mark.parametrize(("text", "said"), NONSENSE, ids=range(len(NONSENSE)))
def test_a_line_of_nonsense_accepts_nothing_is_named_and_the_rest_holds(
    bad: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad / BASELINE_FILE).write_text(f"{text}\n{line()}\n")
    found = check_project()
    assert (ExitCode.USAGE, 2) == (found.code, len(found.verdicts))
    assert found.verdicts[0]["accepted"]
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{BASELINE_FILE}:1: this line is not used: " in told
    assert said in told


def test_two_entries_for_one_image_and_policy_are_said(bad: Path) -> None:
    (bad / BASELINE_FILE).write_text(f"{line()}\n{line(reason='other')}\n")
    (problem,) = read_baseline(bad / BASELINE_FILE, today=TODAY).problems
    assert "line 1 already has an entry for this image and policy" in problem.message


def test_a_binary_file_is_no_baseline_and_every_image_is_checked(bad: Path) -> None:
    (bad / BASELINE_FILE).write_bytes(bytes(range(256)) * 10)
    found = check_project()
    assert (ExitCode.USAGE, 2) == (found.code, len(found.verdicts))


def test_a_baseline_that_is_named_and_not_there_ends_in_2_and_every_image_is_checked(bad: Path) -> None:
    found = check_project(baseline="nowhere.jsonl")
    assert (ExitCode.USAGE, 2) == (found.code, len(found.verdicts))


def test_the_file_is_sorted_and_written_back_the_same(bad: Path) -> None:
    entries = [entry(path=path, sha256=f"{number:064x}") for number, path in enumerate(("b", "ä\n", "a"))]
    accept(*entries)
    first = (bad / BASELINE_FILE).read_bytes()
    known = read_baseline(bad / BASELINE_FILE, today=TODAY)
    assert (sorted(entries), ()) == (list(known.entries), known.problems)
    accept(*reversed(known.entries))
    assert first == (bad / BASELINE_FILE).read_bytes()
    assert 3 == first.count(b"\n")
    assert first.isascii()


def test_a_write_that_fails_leaves_the_file_as_it_was(bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(entry())
    before = (bad / BASELINE_FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        accept(entry(reason="other"))
    assert before == (bad / BASELINE_FILE).read_bytes()
    assert not list(bad.glob(f".{BASELINE_FILE}*"))
