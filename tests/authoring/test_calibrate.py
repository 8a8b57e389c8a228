"""Thresholds: promises that hold on fresh draws, refusals that name a number, and what is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cli.support import picture, red
from policyguard import Guard, Policy
from policyguard.assessment import Assessment, Rating, Reading
from policyguard.authoring.calibrate import calibrate_guard, write_overlay
from policyguard.authoring.labels import load_labels
from policyguard.authoring.thresholds import Target, choose_threshold, fit_scaling, review_band
from policyguard.backends.cascade import Stage, model_digest
from policyguard.cache.keys import holds_enough
from policyguard.cli import main
from policyguard.errors import ConfigurationError, PolicyError, UsageError
from policyguard.outcomes import Action, Outcome
from policyguard.policy import load_policy
from policyguard.policy.schema import Calibration
from policyguard.testing import FakeBackend

pytest.importorskip("sklearn")
Captured = pytest.CaptureFixture[str]
HOUSE = """\
id: house
version: 1.0.0
title: House
rules:
  - {id: arms, title: Arms, unsafe: [weapons]}
  - {id: gore, title: Gore, unsafe: [blood]}
"""
RECALL = Target("recall", 0.9)


def drawn(rng: Random, number: int) -> list[tuple[float | None, bool]]:
    """Scores as a fair guard gives them: unsafe images mostly high, safe ones mostly low, some alike."""
    rows = []
    for index in range(number):
        unsafe = index % 2 == 0
        rows.append((rng.betavariate(4, 1.5) if unsafe else rng.betavariate(1.2, 5), unsafe))
    return rows


# What a promise is worth.


@pytest.mark.parametrize("target", [Target("recall", 0.98), Target("precision", 0.9)])
def test_a_promise_holds_on_fresh_images_in_19_of_20_samples(target: Target) -> None:
    fresh, kept = drawn(Random(-1), 40_000), 0
    for seed in range(60):
        threshold = choose_threshold(drawn(Random(seed), 600), target)
        called = [unsafe for score, unsafe in fresh if score is not None and score >= threshold]
        share = sum(called) / (20_000 if target.kind == "recall" else len(called))
        kept += share >= target.value
    assert kept >= 54, "95 % of 60 are 57"


def test_a_threshold_gives_nothing_away_that_the_promise_leaves() -> None:
    shares = []
    fresh = sorted(score for score, unsafe in drawn(Random(-1), 40_000) if unsafe and score is not None)
    for seed in range(20):
        threshold = choose_threshold(drawn(Random(seed), 2000), Target("recall", 0.9))
        shares.append(sum(score >= threshold for score in fresh) / len(fresh))
    assert 0.9 < sum(shares) / len(shares) < 0.93


@pytest.mark.parametrize(("number", "more"), [(40, 109), (148, 1)])
def test_a_recall_that_the_sample_cannot_carry_is_refused_with_how_many_to_label(
    number: int, more: int
) -> None:
    pairs = [(0.9, True)] * number + [(0.1, False)] * 500
    with pytest.raises(ConfigurationError) as caught:
        choose_threshold(pairs, Target("recall", 0.98))
    assert re.match(rf"recall 0.98 ± 0.0\d is all that {number} unsafe images can show", caught.value.message)
    assert caught.value.hint == f"label about {more} more unsafe images"
    enough = [(0.9, True)] * (number + more) + [(0.1, False)] * 500
    assert choose_threshold(enough, Target("recall", 0.98)) == 0.9


def test_a_precision_that_no_threshold_reaches_is_told_from_one_that_needs_more_labels() -> None:
    mixed = [(0.9, index % 2 == 0) for index in range(200)]
    with pytest.raises(
        ConfigurationError, match=r"no threshold reaches precision 0\.9: the best finds 0\.50"
    ):
        choose_threshold(mixed, Target("precision", 0.9))
    few = [(0.9, True)] * 20 + [(0.1, False)] * 20
    with pytest.raises(ConfigurationError) as caught:
        choose_threshold(few, Target("precision", 0.9))
    assert caught.value.hint is not None
    more = int(re.findall(r"label about (\d+) more images", caught.value.hint)[0])
    scale = (40 + more) / 40
    grown = [(0.9, True)] * round(20 * scale) + [(0.1, False)] * round(20 * scale)
    assert 0.1 < choose_threshold(grown, Target("precision", 0.9)) <= 0.9


def test_images_without_an_answer_are_found_by_no_threshold() -> None:
    pairs: list[tuple[float | None, bool]] = [(0.9, True)] * 100 + [(None, True)] * 20 + [(0.1, False)] * 9
    with pytest.raises(ConfigurationError, match=r"no threshold reaches recall 0\.9: 20 of 120 unsafe"):
        choose_threshold(pairs, RECALL)


def test_the_least_cost_is_the_one_worked_out_by_hand() -> None:
    pairs = [(0.2, True), (0.3, False), (0.6, True), (0.7, False), (0.8, True)]
    assert choose_threshold(pairs, Target("cost", miss=10, alarm=1)) == 0.2
    assert choose_threshold(pairs, Target("cost", miss=1, alarm=10)) == 0.8


def test_the_band_takes_in_the_mistakes_around_the_threshold_and_no_more_than_its_share() -> None:
    pairs = [(score / 100, score >= 50) for score in range(1, 100)]
    pairs[44], pairs[54] = (0.45, True), (0.55, False)
    band = review_band(pairs, 0.5, 0.2)
    assert band is not None
    assert band[0] <= 0.45
    assert band[1] >= 0.55
    assert sum(band[0] <= score <= band[1] for score, _ in pairs) <= 0.2 * len(pairs)
    assert review_band(pairs, 0.5, 0.001) is None
    assert review_band([(0.5, True)] * 50, 0.5, 0.1) is None, "equal scores cannot be parted"


def test_scaling_finds_the_odds_that_scores_were_bent_by() -> None:
    import math

    rng, rows = Random(5), []
    for _ in range(4000):
        odds = rng.gauss(0, 2)
        unsafe = rng.random() < 1 / (1 + math.exp(-odds))
        rows.append((1 / (1 + math.exp(-(odds - 1) / 0.5)), unsafe))  # slope 0.5, intercept 1 mends it
    slope, intercept = fit_scaling(rows, intercept=True)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert intercept == pytest.approx(1.0, abs=0.15)
    assert fit_scaling(rows, intercept=False)[1] == 0.0


@pytest.mark.parametrize(
    "text", ["recall", "recall=2", "recall=x", "cost=fn:1", "cost=fn:-1,fp:1", "f1=0.9", "recall=nan"]
)
def test_a_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Target.parse(text)


def test_targets_read_as_they_are_written() -> None:
    for text in ("recall=0.98", "precision=0.9", "cost=fn:10,fp:1"):
        assert str(Target.parse(text)) == text


# On images.


def pictures(folder: Path, shades: list[tuple[int, bool]]) -> None:
    """Each shade once, and what it is; a side of its own makes each file another picture."""
    import io

    from PIL import Image

    rows = ["image,label,rule"]
    for number, (shade, unsafe) in enumerate(shades):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8 + number), (shade, 0, 0)).save(buffer, "PNG")
        (folder / f"{number:03}.png").write_bytes(buffer.getvalue())
        rows.append(f"{number:03}.png,{'unsafe,arms' if unsafe else 'safe,'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    (folder / "house.yaml").write_text(HOUSE)


@pytest.fixture
def house(tmp_path: Path) -> Policy:
    """A policy, and labelled pictures: unsafe ones from red 60 on, safe ones up to 130."""
    rng = Random(3)
    shades = [(rng.randint(60, 250), True) for _ in range(80)] + [
        (rng.randint(1, 130), False) for _ in range(80)
    ]
    pictures(tmp_path, shades)
    return load_policy(tmp_path / "house.yaml")


def measured(folder: Path, policy: Policy, target: Target = RECALL, **options: Any) -> Any:
    labels = load_labels(folder / "labels.csv", policy.resolve())
    backend = options.pop("backend", None) or FakeBackend(red, rules={"arms": 0.9, "gore": 0.1})
    return calibrate_guard(policy, labels, target, backend=backend, **options)


def test_thresholds_are_chosen_on_one_half_and_measured_on_the_other(tmp_path: Path, house: Policy) -> None:
    backend = FakeBackend(red, rules={"arms": 0.9, "gore": 0.1})
    report = measured(tmp_path, house, backend=backend)
    assert (report.fitted, report.reported) == (80, 80)
    assert report.before.recall.value < 0.8 < 0.87 < report.after.recall.value
    assert report.kept
    assert list(report.rules) == ["arms"]
    assert report.policy.rule("gore").threshold is None
    assert report.unmeasured == ("gore: no image is labelled with it",)
    assert report.errors[1] < report.errors[0]
    assert len(backend.requests) == 160, "each image is put to the model once"
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["kept"] is True


def test_the_same_images_and_seed_give_the_same_thresholds_in_any_order(
    tmp_path: Path, house: Policy
) -> None:
    report = measured(tmp_path, house)
    head, *rows = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join([head, *reversed(rows)]))
    again = measured(tmp_path, house)
    assert (again.policy, again.data) == (report.policy, report.data)
    assert measured(tmp_path, house, seed=1).policy != report.policy


def test_folds_choose_on_all_images(tmp_path: Path, house: Policy) -> None:
    report = measured(tmp_path, house, folds=4)
    assert (report.fitted, report.reported, report.folds) == (160, 160, 4)
    assert report.kept


def test_a_band_leaves_about_the_stated_share_to_people_and_misses_less(
    tmp_path: Path, house: Policy
) -> None:
    report = measured(tmp_path, house, review=0.15)
    assert report.policy.undecided_band is not None
    assert report.reviewed.low <= 0.15
    assert report.reviewed.value > 0.03
    assert report.caught.value >= report.after.recall.value
    assert report.promised == report.caught


def test_precision_and_cost_are_targets_too(tmp_path: Path, house: Policy) -> None:
    report = measured(tmp_path, house, Target("precision", 0.6), folds=2)
    assert report.after.precision.value > 0.6
    cheap = measured(tmp_path, house, Target("cost", miss=1, alarm=5))
    assert cheap.cost[1] <= cheap.cost[0] * 1.2
    assert cheap.policy.threshold > report.policy.threshold
    assert cheap.policy.rule("arms").threshold >= cheap.policy.threshold, "a rule calls no more images unsafe"


@pytest.mark.parametrize("folds", [None, 5])
def test_a_cost_sets_the_threshold_of_a_rule_on_no_fewer_labels_than_a_recall_of_09(
    tmp_path: Path, house: Policy, folds: int | None
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("unsafe,arms", "unsafe,gore", 4))
    report = measured(tmp_path, house, Target("cost", miss=10, alarm=1), folds=folds)
    assert report.policy.rule("gore").threshold is None
    assert list(report.rules) == ["arms"]
    held = "half of the sample holds 2; label about 54 more, or use --folds"
    held = held if folds is None else "the sample holds 4; label about 25 more"
    wanted = f"gore: it takes 29 images that break it to weigh costs, and {held}"
    assert report.unmeasured == (wanted,)
    few = measured(tmp_path, house, Target("recall", 0.9), folds=folds)
    assert few.policy.rule("gore").threshold is None


def test_copies_of_one_picture_are_on_one_side(tmp_path: Path, house: Policy) -> None:
    from policyguard.authoring.calibrate import _Case, _parts
    from policyguard.authoring.labels import Label

    cases = [_Case(Label(Path(f"{i}"), i % 3 == 0, None, i), f"{i // 5}", 0.5, None) for i in range(200)]
    one, other = _parts(cases, 2, 0)
    assert not {case.key for case in one} & {case.key for case in other}
    assert len(one) + len(other) == 200


def rated(_: object) -> Assessment:
    return Assessment(Rating.SAFE)


def test_what_cannot_be_calibrated_is_refused_with_the_reason(tmp_path: Path, house: Policy) -> None:
    with pytest.raises(ConfigurationError, match="fake gives no scores, so that no threshold can be chosen"):
        measured(tmp_path, house, backend=FakeBackend(rated))
    with pytest.raises(
        ConfigurationError, match=r"recall 0\.98 ± 0\.\d\d is all that 40 unsafe images in half"
    ):
        measured(tmp_path, house, Target("recall", 0.98))
    lenient = house.model_copy(update={"outcomes": {Outcome.UNDECIDED: Action.ALLOW}})
    with pytest.raises(ConfigurationError, match="lets undecided images pass"):
        measured(tmp_path, lenient, review=0.1)
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(row for row in rows if not row.endswith("safe,")))
    with pytest.raises(ConfigurationError, match=r"labels\.csv has no safe image"):
        measured(tmp_path, house)


def test_two_labels_for_one_picture_are_refused(tmp_path: Path, house: Policy) -> None:
    (tmp_path / "copy.png").write_bytes((tmp_path / "000.png").read_bytes())
    with (tmp_path / "labels.csv").open("a") as stream:
        stream.write("\ncopy.png,safe,")
    with pytest.raises(PolicyError, match=r"copy\.png is the same picture as .*000\.png on line 2"):
        measured(tmp_path, house)


# The sheet of an audit.


def filled(folder: Path, *, design: str = "u160s0", images: bool = False) -> Path:
    """The labels of ``house`` as the sheet that an audit draws, filled in; keys start at ``folder``."""
    import csv
    import hashlib

    with (folder / "labels.csv").open(newline="") as stream:
        known = list(csv.DictReader(stream))
    (folder / "sheets").mkdir()
    head = ["place", "key", "sha256", "label", "note", "sample", *(["image"] if images else [])]
    with (folder / "sheets" / "sheet.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(head)
        for number, one in enumerate(known):
            digest = hashlib.sha256((folder / one["image"]).read_bytes()).hexdigest()
            line = [f"p0r{number}", one["image"], digest, one["label"], "", design]
            table.writerow([*line, f"../{one['image']}"] if images else line)
    return folder / "sheets" / "sheet.csv"


@pytest.mark.parametrize("images", [False, True])
def test_the_filled_sheet_of_an_audit_gives_the_labels_that_are_sure(
    tmp_path: Path, house: Policy, monkeypatch: pytest.MonkeyPatch, images: bool
) -> None:
    sheet = filled(tmp_path, images=images)
    if not images:
        monkeypatch.chdir(tmp_path)
    lines = sheet.read_text().splitlines()
    lines[1] = lines[1].replace(",unsafe,", ",unsure,")
    lines[2] = lines[2].replace(",unsafe,", ",,")
    sheet.write_text("\n".join(lines))
    found = load_labels(sheet, house.resolve()).all
    assert len(found) == 158
    assert [label.image.resolve() for label in found][:2] == [tmp_path / "002.png", tmp_path / "003.png"]
    assert {(label.unsafe, label.rules) for label in found} == {(True, None), (False, ())}


def test_a_sheet_with_more_of_what_violates_is_refused(tmp_path: Path, house: Policy) -> None:
    with pytest.raises(ConfigurationError, match="sample with more of what violates") as wrong:
        load_labels(filled(tmp_path, design="n160s0", images=True), house.resolve())
    assert "--sample N --uniform --labels" in str(wrong.value.hint)


def test_an_image_that_is_not_the_one_that_was_drawn_has_no_label(tmp_path: Path, house: Policy) -> None:
    sheet = filled(tmp_path, images=True)
    (tmp_path / "000.png").write_bytes((tmp_path / "001.png").read_bytes())
    (tmp_path / "002.png").unlink()
    with pytest.raises(PolicyError) as wrong:
        load_labels(sheet, house.resolve())
    assert "000.png is not the image that was drawn: its bytes differ" in str(wrong.value)
    assert "there is no image " in str(wrong.value)
    sheet.write_text(sheet.read_text().replace("u160s0", "by hand"))
    with pytest.raises(PolicyError, match="'by hand' is not what the sheet held"):
        load_labels(sheet, house.resolve())


# What is written.


def test_the_overlay_decides_as_measured_and_says_why_it_is_weaker(tmp_path: Path, house: Policy) -> None:
    report = measured(tmp_path, house, Target("cost", miss=1, alarm=20))
    out = tmp_path / "over.yaml"
    write_overlay(report, out, base=house, extends="house.yaml")
    written = load_policy(out)
    assert written.resolve().decision_fingerprint == report.policy.decision_fingerprint
    assert written.resolve().fingerprint == house.resolve().fingerprint
    (weakening, *_) = written.weakenings
    assert report.data in weakening.reason
    assert "cost=fn:1,fp:20" in weakening.reason
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["house.yaml", "over.yaml"]
    assert not list(tmp_path.glob(".*"))


def test_the_reason_for_a_weaker_rule_is_a_figure_of_that_rule(tmp_path: Path, house: Policy) -> None:
    report = measured(tmp_path, house, Target("cost", miss=1, alarm=20))
    write_overlay(report, tmp_path / "over.yaml", base=house, extends="house.yaml")
    reasons = {one.change.split(".")[0]: one.reason for one in load_policy(tmp_path / "over.yaml").weakenings}
    arms = report.rules["arms"]
    own = f": recall {arms.recall}, precision {arms.precision} of this rule alone"
    assert f"{own}, broken by {arms.unsafe} images;" in reasons["rules"]
    assert f": caught or held {report.caught} of unsafe images;" in reasons["defaults"]
    precise = measured(tmp_path, house, Target("precision", 0.7), folds=2)
    write_overlay(precise, tmp_path / "over.yaml", base=house, extends="house.yaml")
    assert f": precision {precise.after.precision};" in (tmp_path / "over.yaml").read_text()


def test_an_overlay_that_cannot_reach_its_base_is_not_written(tmp_path: Path, house: Policy) -> None:
    report = measured(tmp_path, house)
    with pytest.raises(PolicyError, match=r"over\.yaml"):
        write_overlay(report, tmp_path / "over.yaml", base=house, extends="gone.yaml")
    assert not list(tmp_path.glob("*over*"))


def calibration(policy: Policy, backend: FakeBackend, **changes: Any) -> Calibration:
    values = {
        "model": model_digest(backend.model),
        "policy": policy.resolve().fingerprint,
        "slope": 0.5,
        "intercept": -0.5,
        "name": backend.model.id,
        "data": "0" * 64,
        "images": 100,
    }
    return Calibration(**values | changes)


def with_calibration(policy: Policy, found: Calibration) -> Policy:
    return policy.model_copy(update={"defaults": policy.defaults.model_copy(update={"calibration": found})})


def test_a_calibrated_score_decides_and_is_part_of_the_evidence(house: Policy) -> None:
    backend = FakeBackend(0.6)
    verdict = Guard(with_calibration(house, calibration(house, backend)), backend=backend).check(picture(1))
    assert verdict.score == pytest.approx(0.42620, abs=1e-4)  # logistic(0.5 * ln 1.5 - 0.5)
    assert verdict.outcome is Outcome.COMPLIES
    assert verdict.evidence.policies[0]["calibration"]["slope"] == 0.5
    json.dumps(verdict.to_dict(), allow_nan=False)
    assert Guard(house, backend=backend).check(picture(1)).outcome is Outcome.VIOLATES


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_certain_scores_stay_certain(house: Policy, score: float) -> None:
    backend = FakeBackend(score)
    guard = Guard(with_calibration(house, calibration(house, backend)), backend=backend)
    assert guard.check(picture(1)).score == score


def test_a_calibration_of_another_model_is_refused(house: Policy) -> None:
    backend = FakeBackend(0.6)
    other = with_calibration(house, calibration(house, backend, model="1" * 64, name="other"))
    with pytest.raises(ConfigurationError, match="calibration is that of other under policy 'house'"):
        Guard(other, backend=backend)


def test_a_calibration_of_another_text_is_refused_when_the_policy_is_resolved(house: Policy) -> None:
    backend = FakeBackend(0.6)
    found = calibration(house, backend)
    changed = with_calibration(house.model_copy(update={"title": "Another"}), found)
    with pytest.raises(PolicyError, match="was measured on another text of this policy"):
        changed.resolve()
    resolved = with_calibration(house, found).resolve().with_rule_status("gore", "exempt")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="another text"):
        Guard(resolved, backend=backend)


def test_a_cascade_takes_no_calibration_of_one_model(tmp_path: Path, house: Policy) -> None:
    backend = FakeBackend(0.6)
    calibrated = with_calibration(house, calibration(house, backend))
    with pytest.raises(ConfigurationError, match="calibration is that of fake"):
        Guard(calibrated, stages=[Stage(backend=backend, band=(0, 0.9)), FakeBackend(0.7)])
    with (
        Guard(house, stages=[Stage(backend=backend, band=(0, 0.9)), FakeBackend(0.7)]) as row,
        pytest.raises(ConfigurationError, match="one model"),
    ):
        measured(tmp_path, house, backend=row.backend)


def test_a_calibration_that_a_base_lacks_needs_a_reason(tmp_path: Path, house: Policy) -> None:
    report = measured(tmp_path, house)
    out = tmp_path / "over.yaml"
    write_overlay(report, out, base=house, extends="house.yaml")
    out.write_text(re.sub(r"^weakens:.*\n", "", out.read_text(), flags=re.MULTILINE))
    with pytest.raises(PolicyError, match="reads scores in another way"):
        load_policy(out)


def test_calibrating_a_calibrated_policy_again_changes_nothing(tmp_path: Path, house: Policy) -> None:
    first = measured(tmp_path, house)
    again = with_calibration(house, first.policy.calibration)
    rules = tuple(
        rule.model_copy(update={"threshold": first.policy.rule(rule.id).threshold}) for rule in again.rules
    )
    again = again.model_copy(update={"rules": rules})
    second = measured(tmp_path, again)
    assert second.policy.threshold == pytest.approx(first.policy.threshold, rel=1e-5)
    assert second.policy.calibration == first.policy.calibration


@pytest.mark.parametrize(("slope", "intercept"), [(0.3, 2.0), (1.0, 0.0), (7.0, -3.0)])
def test_undoing_a_calibration_gives_the_score_back(house: Policy, slope: float, intercept: float) -> None:
    found = calibration(house, FakeBackend(0.6), slope=slope, intercept=intercept)
    marks = [index / 50 for index in range(51)]
    assert [found.undo(found.apply(mark)) for mark in marks] == pytest.approx(marks)
    assert sorted(map(found.apply, marks)) == list(map(found.apply, marks))


def test_a_strict_calibrated_policy_is_known_to_need_scores(house: Policy) -> None:
    resolved = with_calibration(house, calibration(house, FakeBackend(0.6))).resolve()
    assert resolved.decisive_score == pytest.approx(0.73106, abs=1e-4)  # 0.5 on the calibrated scale
    assert not resolved.needs_scores
    assert replace(resolved, threshold=0.3).needs_scores


def test_per_rule_scores_are_calibrated_one_by_one(house: Policy) -> None:
    def each(_: object) -> Assessment:
        return Assessment(Rating.UNSAFE, 0.6, rule_scores={"arms": 0.6, "gore": 0.2}, scoring="per_rule")

    backend = FakeBackend(each)
    found = with_calibration(house, calibration(house, backend, intercept=0.5))
    verdict = Guard(found, backend=backend).check(picture(1))
    assert verdict.outcome is Outcome.VIOLATES
    assert verdict.findings[0].score == verdict.score


def test_a_stored_answer_that_hides_low_scores_serves_a_calibrated_policy_that_they_cannot_reach(
    house: Policy,
) -> None:
    stored = Assessment(Rating.SAFE, 0.2, rule_scores={"arms": 1.0, "gore": 0.0}, blind_below=0.01)
    found = calibration(house, FakeBackend(0.6), slope=1.0, intercept=2.0)  # 0.2 counts as 0.65, 0.01 as 0.07
    resolved = with_calibration(house, found).resolve()
    assert holds_enough(stored, resolved, Reading.FAST)
    assert not holds_enough(stored, replace(resolved, threshold=0.06), Reading.FAST)
    assert not holds_enough(replace(stored, blind_below=0.16), resolved, Reading.FAST), (
        "0.8 of 0.65 is over 0.5"
    )


# The command.


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    backend = FakeBackend(red, rules={"arms": 0.9, "gore": 0.1})
    monkeypatch.setattr("policyguard.backends.build_backend", lambda *_, **__: backend)
    return backend


def test_the_command_writes_a_policy_that_a_check_then_uses(
    tmp_path: Path, house: Policy, served: FakeBackend, capsys: Captured
) -> None:
    out, base = tmp_path / "sub" / "over.yaml", str(tmp_path / "house.yaml")
    out.parent.mkdir()
    (tmp_path / "policyguard.toml").write_text("")
    arguments = ["calibrate", "-p", base, "--labels", str(tmp_path / "labels.csv"), "--target", "recall=0.9"]
    assert main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^threshold +0\.\d+ \(was 0\.5\)$", printed, re.MULTILINE)
    assert "chosen on 80 labelled images, measured on 80 that had no part in it\n" in printed
    assert 'extends: "../house.yaml"' in out.read_text()
    served.closed = False
    assert main([*arguments, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*arguments, "--out", str(out), "--force", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] is True
    served.closed = False
    assert main([*arguments, "--out", str(out), "--force", "--folds", "4"]) == 0
    each = "chosen on 160 labelled images, each measured under thresholds chosen without it (4 folds)\n"
    assert each in capsys.readouterr().out
    served.closed = False
    assert main(["policy", "diff", base, str(out), "--on", str(tmp_path / "079.png")]) == 0


def test_the_command_names_what_could_not_be_judged(
    tmp_path: Path, house: Policy, served: FakeBackend, capsys: Captured
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with (tmp_path / "labels.csv").open("a") as stream:
        stream.write("\nbroken.png,safe,")
    arguments = ["calibrate", "-p", str(tmp_path / "house.yaml"), "--labels", str(tmp_path / "labels.csv")]
    assert main([*arguments, "--target", "recall=0.9"]) == 0
    assert re.search(r"could not be judged:\n  .*broken\.png: is ", capsys.readouterr().err)


def test_the_command_refuses_a_promise_that_the_sample_cannot_carry(
    tmp_path: Path, house: Policy, served: FakeBackend, capsys: Captured
) -> None:
    out, base = tmp_path / "over.yaml", str(tmp_path / "house.yaml")
    arguments = ["calibrate", "-p", base, "--labels", str(tmp_path / "labels.csv"), "--target", "recall=0.98"]
    assert main([*arguments, "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    assert "is all that 40 unsafe images in half of the sample can show" in printed
    assert "label about 218 more unsafe images, or use --folds" in printed
    assert not out.exists()
