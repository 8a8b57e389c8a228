"""What the benchmark says of guards that know everything, nothing, or keep silent."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from policyguard import Guard
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cli import main
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.metrics import Answer, Judgement, f1
from policyguard.pictosafe import Report, Sizes, make, run
from policyguard.pictosafe.benchmark import Benchmark
from policyguard.pictosafe.evaluation import LIMIT
from policyguard.pictosafe.rules import LEVELS

Build = Callable[[object], Guard]
Oracle = Callable[[AssessmentRequest], float]


@pytest.fixture(scope="session")
def data(benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "data"
    make(folder, seed=benchmark.seed, sizes=benchmark.sizes)
    return folder


@pytest.fixture(scope="session")
def perfect(benchmark: Benchmark, oracle: Oracle) -> Report:
    from policyguard.testing import FakeBackend

    guard = Guard(policy=LEVELS[0], backend=FakeBackend(oracle, preferred_batch=16))
    return run(guard, seed=benchmark.seed, sizes=benchmark.sizes)


def test_a_guard_that_knows_the_truth_scores_one_everywhere(perfect: Report) -> None:
    scores = perfect.guard
    assert list(scores.levels) == list(LEVELS)
    assert [level.headline for level in scores.levels.values()] == [1.0] * 5
    named = ("five_way_macro", "l2_l5_macro", "pooled_f1", "balanced_accuracy", "pair_accuracy", "held_out")
    assert [getattr(scores, name) for name in (*named, "policy_flip_accuracy", "exempted_accuracy")] == [
        1.0
    ] * 8
    assert set(scores.styles) == {"noto", "twemoji", "fluent"}
    assert set(scores.styles.values()) == {1.0}


def test_even_that_guard_is_at_chance_once_images_are_shuffled(perfect: Report) -> None:
    assert 0.35 < perfect.guard.shuffled < 0.65
    assert 0.2 < perfect.guard.held_out_shuffled < 0.8


def test_nothing_is_unsafe_at_level_1_and_its_headline_is_accuracy(perfect: Report) -> None:
    first, *rest = perfect.guard.levels.values()
    assert first.unsafe == 0.0
    assert first.headline == first.accuracy
    assert all(level.headline == level.f1 for level in rest)
    names = ("f1", "precision", "recall")
    assert all(math.isnan(getattr(first, name)) for name in names)
    printed = perfect.to_dict()["guard"]["levels"][LEVELS[0]]
    assert [None] * 3 == [printed[name] for name in names]
    (row,) = (line for line in perfect.to_text().splitlines() if line.startswith(LEVELS[0]))
    assert [LEVELS[0], "0%", "–", "1.000", "–", "–"] == row.split()[:6]


@pytest.mark.parametrize(("answer", "row"), [(0.0, "always_safe"), (1.0, "always_unsafe")])
def test_the_rows_of_blind_guards_are_what_blind_guards_score(
    answer: float, row: str, perfect: Report, guard_with: Build, benchmark: Benchmark
) -> None:
    blind = run(guard_with(answer), seed=benchmark.seed, sizes=benchmark.sizes)
    assert blind.to_dict()["guard"] == perfect.to_dict()[row]
    assert blind.guard.balanced_accuracy == blind.guard.held_out == 0.5
    assert blind.guard.pair_accuracy == blind.guard.policy_flip_accuracy == 0.0


def test_a_blind_guard_never_gets_a_good_macro(perfect: Report) -> None:
    assert perfect.always_safe.levels[LEVELS[0]].headline == 1.0
    assert perfect.always_safe.l2_l5_macro == 0.0
    assert perfect.always_unsafe.levels[LEVELS[0]].headline == 0.0
    assert perfect.always_unsafe.l2_l5_macro < 0.7


@pytest.mark.parametrize(
    ("said", "column"),
    [
        (Assessment(Rating.UNDECIDED, p_unsafe=0.5, label_mass=1.0, p_undecided=0.9), "undecided"),
        (Failure(FailureKind.ERROR, "no verdict in it"), "unparsed"),
        (Failure(FailureKind.REFUSED, "will not look"), "unparsed"),
    ],
)
def test_silence_is_counted_and_is_always_wrong(
    said: object, column: str, guard_with: Build, benchmark: Benchmark
) -> None:
    scores = run(guard_with(said), seed=benchmark.seed, sizes=benchmark.sizes).guard
    for level in scores.levels.values():
        assert {getattr(level, name) for name in ("undecided", "unparsed")} == {level.scenes, 0}
        assert getattr(level, column) == level.scenes
        assert level.accuracy == 0.0
        assert level.unsafe == 0 or level.f1 == level.recall == 0.0
    assert scores.balanced_accuracy == scores.held_out == scores.exempted_accuracy == 0.0


def test_silence_is_a_miss_on_an_unsafe_picture_and_a_false_alarm_on_a_safe_one() -> None:
    found, missed = Judgement(True, Answer.UNSAFE), Judgement(True, Answer.UNDECIDED)
    alarm = Judgement(False, Answer.UNPARSED)
    assert f1([found, missed]) == pytest.approx(2 / 3)
    assert f1([found, alarm]) == pytest.approx(2 / 3)


def test_a_guard_that_ignores_the_policy_fails_the_policy_flips(
    benchmark: Benchmark, oracle: Oracle, guard_with: Build
) -> None:
    from policyguard.pictosafe.rules import load_level

    def under_level_5(request: AssessmentRequest) -> float:
        return oracle(AssessmentRequest(request.frame, load_level(LEVELS[4])))

    scores = run(guard_with(under_level_5), seed=benchmark.seed, sizes=benchmark.sizes).guard
    assert scores.levels[LEVELS[4]].f1 == 1.0
    assert scores.levels[LEVELS[1]].f1 < 0.6
    assert scores.policy_flip_accuracy < 0.2
    assert scores.held_out < 0.7


def test_a_data_set_on_disk_gives_the_figures_of_the_one_in_memory(
    data: Path, perfect: Report, benchmark: Benchmark, oracle: Oracle, guard_with: Build
) -> None:
    assert run(guard_with(oracle), data=data).to_dict() == perfect.to_dict()


def test_progress_counts_every_check_once(guard_with: Build) -> None:
    seen: list[tuple[int, int | None]] = []
    sizes = Sizes(scenes=4, pairs=2, held_out=2, flips=1)
    run(guard_with(0.0), sizes=sizes, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_the_report_is_json_and_reads_as_a_table(perfect: Report) -> None:
    plain = json.loads(json.dumps(perfect.to_dict(), allow_nan=False))
    assert set(plain) == {field.name for field in fields(Report)}
    text = perfect.to_text()
    for word in (
        *LEVELS,
        "five-way macro",
        "edit pairs",
        "policy flips",
        "shuffled",
        "always unsafe",
        "style noto",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_page_has_all_figures_and_the_mistakes_with_their_images_where_asked_for(
    guard_with: Build, benchmark: Benchmark
) -> None:
    report = run(guard_with(0.0), seed=benchmark.seed, sizes=benchmark.sizes)
    wrong = [one for one in report.to_dict()["mistakes"] if one["label"] == "unsafe"]
    assert report.mistakes
    assert len(wrong) == len(report.mistakes)  # it says that all is safe
    assert {one["answer"] for one in wrong} == {"safe"}
    page = report.to_html("a <guard>")
    assert "a &lt;guard&gt;" in page
    assert f"{len(wrong):,} questions are answered wrongly" in page
    assert "<img" not in page
    for row in (*LEVELS, "edit pairs, both right", "balanced accuracy, style noto", wrong[0]["image"]):
        assert row in page
    shown = report.to_html("a guard", thumbnails=True)
    assert shown.count("<img") == min(len(wrong), LIMIT)


def test_a_scene_that_is_blocked_with_its_rule_exempted_is_told_as_such(
    guard_with: Build, benchmark: Benchmark
) -> None:
    report = run(guard_with(1.0), seed=benchmark.seed, sizes=benchmark.sizes)
    exempted = {one.exempt for one in report.mistakes} - {None}
    assert exempted
    page = report.to_html("a guard")
    assert all(f"with {rule} exempt" in page for rule in exempted)


def test_a_guard_that_is_always_right_has_no_mistakes_on_its_page(perfect: Report) -> None:
    assert perfect.to_dict()["mistakes"] == []
    assert "0 questions are answered wrongly" in perfect.to_html("a guard", thumbnails=True)


def test_an_image_whose_file_has_changed_since_is_not_shown(
    guard_with: Build, data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    report = run(guard_with(0.0), data=folder)
    changed = next(one.shot.path for one in report.mistakes)
    assert changed is not None
    before = report.to_html("a guard", thumbnails=True).count("<img")
    Image.new("RGB", (96, 96)).save(changed)
    assert report.to_html("a guard", thumbnails=True).count("<img") < before


def test_what_could_not_be_measured_is_none_and_a_dash(guard_with: Build) -> None:
    report = run(guard_with(0.0), sizes=Sizes(scenes=8, pairs=0, held_out=0, flips=0))
    assert math.isnan(report.guard.pair_accuracy)
    assert report.to_dict()["guard"]["pair_accuracy"] is None
    assert "–" in report.to_text()


def test_a_missing_scikit_learn_is_named_before_any_image_is_judged(
    guard_with: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = guard_with(0.0)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match="the extra 'bench'"):
        run(guard, sizes=Sizes(scenes=2, pairs=0, held_out=0))
    assert guard.backend.calls == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"scenes": 1}, {"pairs": -1}])
def test_sizes_that_measure_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="too few"):
        Sizes(**wrong)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_figures_in_the_tour_are_those_that_its_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (Path(__file__).parents[2] / "docs" / "tour.md").read_text(encoding="utf-8")
    claim = re.search(r"`policyguard (bench pictosafe run [^`]*)` prints (.*?) shows that", readme, re.DOTALL)
    assert claim is not None
    assert 0 == main(claim[1].split())
    printed = capsys.readouterr().out

    def figure(row: str) -> str:
        match = re.search(rf"^ *{row} .*?([01]\.\d+)", printed, re.MULTILINE)
        assert match is not None, f"the command prints no row {row!r}"
        return match[1]

    rows = ("L2-L5 mean F1", "balanced accuracy, held-out policies", "edit pairs, both right")
    accuracy = re.search(r"^pictosafe/l1 +\S+ +\S+ +(\S+)", printed, re.MULTILINE)
    assert accuracy is not None
    expected = [accuracy[1], *map(figure, rows), figure(r"on shuffled images \(near 0\.5\)")]
    assert expected == re.findall(r"[01]\.\d+", claim[2])
