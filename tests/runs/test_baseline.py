"""The baseline accepts what somebody has looked at, by content and by rule, until a day, and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from runs.support import POLICY, check, git, pictures
from cli.support import picture
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cli import main
from policyguard.runs.baseline import BASELINE_FILE, BaselineEntry, read_baseline, write_baseline
from policyguard.runs.exits import ExitCode
from policyguard.testing import FakeBackend

TODAY = datetime.now(UTC).date()
EXAMPLES = Path(__file__).parents[2] / "examples" / "images"


def entry(**changes: object) -> BaselineEntry:
    made = BaselineEntry(
        path="bad.png",
        policy="house",
        sha256=sha256(picture(255)).hexdigest(),
        rules=("arms",),
        until=TODAY,
        by="Ann",
        reason="a museum piece",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def bad(project: Path) -> Path:
    """A project with one image that violates and one that does not."""
    pictures(project, "bad.png", score=255)
    pictures(project, "good.png")
    return project


def accept(*entries: BaselineEntry) -> None:
    write_baseline(Path(BASELINE_FILE), entries)


def test_an_accepted_violation_passes_and_says_so(bad: Path) -> None:
    assert ExitCode.BLOCKED == check().code
    accept(entry())
    found = check()
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
    assert ExitCode.BLOCKED == check().code


def test_a_moved_image_stays_accepted(bad: Path) -> None:
    accept(entry())
    (bad / "bad.png").rename(bad / "elsewhere.png")
    assert ExitCode.OK == check().code


def test_expired_entries_are_named(bad: Path) -> None:
    accept(entry(until=TODAY - timedelta(days=1)))
    assert f"bad.png: was accepted until {TODAY - timedelta(days=1)} by Ann" in check().err


@pytest.mark.parametrize("kind", FailureKind)
def test_an_image_that_cannot_be_judged_is_never_hidden(bad: Path, kind: FailureKind) -> None:
    accept(entry())
    found = check(backend=FakeBackend(Failure(kind, "it will not")))
    assert ExitCode.UNJUDGED == found.code
    assert not any(verdict.get("accepted") for verdict in found.verdicts)


def by_policy(answers: dict[str, object]) -> FakeBackend:
    return FakeBackend(lambda request: answers[request.policy.id])  # type: ignore[arg-type,return-value]


def test_a_policy_that_could_not_be_judged_is_not_hidden_by_another_s_accepted_violation(bad: Path) -> None:
    (bad / "second.yaml").write_text(POLICY.format(id="second"))
    (bad / "policyguard.toml").write_text('policy = ["./house.yaml", "./second.yaml"]\n')
    accept(entry())
    down = Failure(FailureKind.ERROR, "the server is down")
    assert ExitCode.OK == check("bad.png", backend=by_policy({"house": 1.0, "second": 0.0})).code
    found = check("bad.png", backend=by_policy({"house": 1.0, "second": down}))
    assert ExitCode.BLOCKED == found.code
    assert "accepted" not in found.verdicts[0]
    assert ["the server is down"] == found.verdicts[0]["evidence"]["unexplained"]


def test_every_policy_that_blocks_needs_an_entry(bad: Path) -> None:
    (bad / "second.yaml").write_text(POLICY.format(id="second"))
    (bad / "policyguard.toml").write_text('policy = ["./house.yaml", "./second.yaml"]\n')
    accept(entry())
    assert ExitCode.BLOCKED == check("bad.png").code
    accept(entry(), entry(policy="second"))
    assert ExitCode.OK == check("bad.png").code


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

    assert ExitCode.OK == check("two.gif", backend=FakeBackend(1.0)).code
    assert ExitCode.BLOCKED == check("two.gif", backend=FakeBackend(answer)).code


def test_a_violation_that_is_put_down_to_no_rule_cannot_be_accepted(bad: Path) -> None:
    accept(entry())
    bare = Assessment(Rating.UNSAFE, p_unsafe=None, rule_scores=None)
    assert ExitCode.BLOCKED == check("bad.png", backend=FakeBackend(bare)).code


NONSENSE = [
    ("{", "it is not JSON"),
    ("[1]", "it is not a JSON object"),
    ("<<<<<<< HEAD", "left over from a merge"),
    ("nonsense", "it is not JSON"),
    ('{"path": "a", "path": "b"}', "it holds the key 'path' twice"),
    ('{"path": NaN}', "it holds NaN, which is not JSON"),
    ("[" * 100_000, "it is nested too deeply"),
]


def line(**changes: object) -> str:
    data = entry().to_dict() | changes
    return json.dumps({key: value for key, value in data.items() if value is not None})


NONSENSE += [
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


@pytest.mark.parametrize(("text", "said"), NONSENSE, ids=range(len(NONSENSE)))
def test_a_line_of_nonsense_accepts_nothing_is_named_and_the_rest_holds(
    bad: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad / BASELINE_FILE).write_text(f"{text}\n{line()}\n")
    found = check()
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
    found = check()
    assert (ExitCode.USAGE, 2) == (found.code, len(found.verdicts))


def test_a_baseline_that_is_named_and_not_there_ends_in_2_and_every_image_is_checked(bad: Path) -> None:
    found = check(baseline="nowhere.jsonl")
    assert (ExitCode.USAGE, 2) == (found.code, len(found.verdicts))


def test_stale_entries_are_said_when_the_whole_project_was_checked(bad: Path) -> None:
    accept(entry(), entry(path="gone.png", sha256="0" * 64))
    assert "1 baseline entry accepts nothing any more (gone.png)" in check().err
    assert "nothing any more" not in check("bad.png").err
    accept(entry(path="good.png", sha256=sha256(picture(0)).hexdigest()))
    assert "(good.png)" in check("good.png").err


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


@pytest.fixture
def pictograms(project: Path) -> Path:
    """A project that pico judges: one scene that violates, one that does not, one that cannot be judged."""
    (project / "policyguard.toml").write_text('policy = "pictosafe/l3"\n')
    for name in ("armoury.png", "picnic.png"):
        (project / name).write_bytes((EXAMPLES / name).read_bytes())
    return project


def test_update_accepts_what_check_blocks_and_check_is_green(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitCode.BLOCKED == main(["check"])
    update = ["baseline", "update", "--reason", "museum", "--until", str(TODAY), "--by", "Ann"]
    assert ExitCode.OK == main(update)
    assert ExitCode.OK == main(["check"])
    (kept,) = read_baseline(pictograms / BASELINE_FILE, today=TODAY).entries
    digest = sha256((EXAMPLES / "armoury.png").read_bytes()).hexdigest()
    assert ("armoury.png", digest, "Ann", "museum") == (kept.path, kept.sha256, kept.by, kept.reason)
    capsys.readouterr()
    assert ExitCode.OK == main(["baseline", "list"])
    assert f"of pictosafe/l3, until {TODAY}, by Ann: museum" in capsys.readouterr().out
    before = (pictograms / BASELINE_FILE).read_bytes()
    assert ExitCode.OK == main(update)
    assert before == (pictograms / BASELINE_FILE).read_bytes()


def test_update_does_not_accept_what_could_not_be_judged(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictograms / "broken.png").write_bytes(b"\x89PNG")
    code = main(["baseline", "update", "--reason", "x", "--until", str(TODAY), "--by", "Ann"])
    assert ExitCode.UNJUDGED == code
    assert "broken.png: could not be judged" in capsys.readouterr().err
    assert ExitCode.UNJUDGED == main(["check"])


def test_update_takes_the_name_from_git_or_asks_for_one(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update = ["baseline", "update", "--reason", "x", "--until", str(TODAY)]
    assert ExitCode.USAGE == main(update)
    assert "--by NAME" in capsys.readouterr().err
    git(pictograms, "init", "-q")
    git(pictograms, "config", "user.name", "Béa")
    assert ExitCode.OK == main(update)
    assert "Béa" == read_baseline(pictograms / BASELINE_FILE, today=TODAY).entries[0].by


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reason", "x", "--until", "soon"], "is not a date"),
        (["--reason", "x", "--until", str(date(2020, 1, 1))], "has passed already"),
        (["--reason", " ", "--until", str(TODAY)], "--reason is empty"),
    ],
)
def test_update_needs_a_reason_and_a_day_to_come(
    bad: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitCode.USAGE == main(["baseline", "update", *options, "--by", "Ann"])
    assert said in capsys.readouterr().err


def test_update_and_prune_do_not_write_over_a_file_they_cannot_read(
    pictograms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictograms / BASELINE_FILE).write_text("nonsense\n")
    update = ["baseline", "update", "--reason", "x", "--until", str(TODAY), "--by", "Ann"]
    for command in (update, ["baseline", "prune"], ["baseline", "list"]):
        assert ExitCode.USAGE == main(command)
        assert f"{BASELINE_FILE}:1: this line is not used" in capsys.readouterr().err
    assert "nonsense\n" == (pictograms / BASELINE_FILE).read_text()


def test_prune_drops_what_has_expired_and_what_is_gone(bad: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sha256(picture(0)).hexdigest()
    accept(
        entry(),
        entry(path="gone.png", sha256="0" * 64),
        entry(path="good.png", sha256=good, until=TODAY - timedelta(days=1)),
    )
    assert ExitCode.OK == main(["baseline", "prune", "--dry-run"])
    assert 3 == len(read_baseline(bad / BASELINE_FILE, today=TODAY).entries)
    assert ExitCode.OK == main(["baseline", "prune"])
    assert (entry(),) == read_baseline(bad / BASELINE_FILE, today=TODAY).entries
    assert "dropped  gone.png" in capsys.readouterr().out
