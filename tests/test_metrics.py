"""Figures and their intervals, held against scikit-learn, hand-worked rows and samples of known truth."""

from __future__ import annotations

import math
from random import Random

import pytest

from policyguard.metrics import (
    Answer,
    Judgement,
    calibration_error,
    holm,
    mcnemar,
    measure,
    proportion,
    proportion_of_units,
    reliability,
)
from policyguard.metrics import _drawn_areas as drawn_areas

pytest.importorskip("sklearn")


def answers(*counts: int) -> list[Judgement]:
    """True positives, false negatives, false positives, true negatives."""
    kinds = ((True, Answer.UNSAFE), (True, Answer.SAFE), (False, Answer.UNSAFE), (False, Answer.SAFE))
    return [Judgement(*kind) for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]


def test_figures_are_those_worked_out_by_hand() -> None:
    figures = measure(answers(8, 2, 4, 6))
    assert figures.recall.value == pytest.approx(0.8)
    assert figures.precision.value == pytest.approx(8 / 12)
    assert figures.specificity.value == pytest.approx(0.6)
    assert figures.f1.value == pytest.approx(16 / 22)
    assert figures.balanced_accuracy.value == pytest.approx(0.7)
    assert figures.accuracy.value == pytest.approx(0.7)
    assert figures.auc.value is None


def test_silence_is_a_miss_on_an_unsafe_image_and_a_false_alarm_on_a_safe_one() -> None:
    silent = [Judgement(True, Answer.UNDECIDED), Judgement(False, Answer.UNPARSED)]
    figures = measure([*answers(1, 0, 0, 1), *silent], [0.9, 0.1, None, None])
    assert (figures.silent, figures.recall.value, figures.specificity.value) == (2, 0.5, 0.5)
    assert figures.auc.value == pytest.approx(0.25)  # of four pairs, the one with both scores is in order


@pytest.mark.parametrize("side", [True, False])
def test_figures_that_need_both_classes_are_empty_without_one(side: bool) -> None:
    figures = measure([Judgement(side, Answer.SAFE)] * 3, [0.1, 0.2, 0.3])
    assert figures.auc == figures.average_precision == figures.balanced_accuracy == (None, None, None)
    assert (figures.recall.value is None) is not side
    assert figures.precision.value is None


def test_nothing_to_measure_gives_no_figure() -> None:
    assert measure([]).to_dict()["f1"] == {"value": None, "low": None, "high": None}


def test_a_share_has_the_interval_that_clopper_and_pearson_give() -> None:
    assert proportion(40, 40) == pytest.approx((1.0, 0.025 ** (1 / 40), 1.0))
    assert proportion(0, 10)[1:] == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))


def test_a_perfect_guard_on_few_images_keeps_a_wide_interval() -> None:
    figures = measure(answers(5, 0, 0, 5))
    assert figures.f1.value == figures.f1.high == 1.0
    assert figures.f1.low is not None
    assert figures.f1.low < 0.85


def test_areas_of_resamples_are_those_that_scikit_learn_gives() -> None:
    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = Random(3)
    unsafe = np.array([rng.random() < 0.4 for _ in range(60)])
    scores = np.array([round(rng.random() * 0.6 + 0.3 * label, 1) for label in unsafe])  # many ties
    ((aucs, averages),) = drawn_areas(unsafe, scores, 20, seed=5)
    again = np.random.default_rng(5)
    order = np.argsort(-scores, kind="stable")
    label, score = unsafe[order], scores[order]
    sides = [np.flatnonzero(label == side) for side in (True, False)]
    weights = np.zeros((20, 60))
    for places in sides:
        weights[:, places] = again.multinomial(len(places), np.full(len(places), 1 / len(places)), 20)
    for weight, auc, average in zip(weights, aucs, averages, strict=True):
        assert auc == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
        assert average == pytest.approx(average_precision_score(label, score, sample_weight=weight))


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    rng, held = Random(1), {"f1": 0, "balanced_accuracy": 0, "auc": 0}
    truth = {"f1": 0.8 * 2 / (1 + 0.8 + 0.1), "balanced_accuracy": 0.85, "auc": 0.85}
    for run in range(60):
        judgements, scores = [], []
        for index in range(120):
            unsafe = index % 2 == 0
            called = rng.random() < (0.8 if unsafe else 0.1)
            judgements.append(Judgement(unsafe, Answer.UNSAFE if called else Answer.SAFE))
            scores.append(float(called))
        figures = measure(judgements, scores, resamples=300, seed=run)
        for name in held:
            figure = getattr(figures, name)
            held[name] += figure.low <= truth[name] <= figure.high
    assert all(52 <= count for count in held.values()), held


def test_equal_input_gives_equal_intervals() -> None:
    judged = answers(8, 2, 4, 6)
    scores = [i / 20 for i in range(20)]
    assert measure(judged, scores) == measure(judged, scores)


def test_two_guards_that_differ_by_chance_alone_are_told_from_two_that_do_not() -> None:
    right, wrong = Judgement(True, Answer.UNSAFE), Judgement(True, Answer.SAFE)
    assert mcnemar([right] * 10, [right] * 10) == (0, 0, 1.0)
    assert mcnemar([right] * 9 + [wrong], [wrong] * 9 + [right]) == (9, 1, pytest.approx(22 / 1024))


def test_several_tests_are_read_as_one() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_the_calibration_error_is_the_one_worked_out_by_hand() -> None:
    unsafe, scores = [True, False, True, True], [0.15, 0.15, 0.95, 1.0]
    assert [tuple(one) for one in reliability(unsafe, scores)] == [
        (2, 0.15, 0.5),
        (2, pytest.approx(0.975), 1.0),
    ]
    assert calibration_error(unsafe, scores) == pytest.approx((0.35 + 0.025) / 2)
    assert math.isnan(calibration_error([], []))


def test_flags_of_one_unit_count_once_for_the_interval() -> None:
    alone = proportion_of_units([(str(number), number < 8) for number in range(10)])
    assert alone == pytest.approx(proportion(8, 10))
    many = proportion_of_units([(str(number % 10), number % 10 < 8) for number in range(100)])
    assert many == pytest.approx(alone)
    assert proportion_of_units([("a", True)] * 5) == (1.0, pytest.approx(0.025), 1.0)
    assert proportion_of_units([("a", False)] * 5) == (0.0, 0.0, pytest.approx(0.975))
    assert proportion_of_units([]) == (None, None, None)
