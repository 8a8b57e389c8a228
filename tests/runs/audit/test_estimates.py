"""Figures and their intervals: worked out by hand, and held against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from policyguard.runs.audit.estimates import Share, Stratum, corrected, difference, mean_of, wilson, worst_of


def test_a_share_has_wilson_s_interval() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    table = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (part, of), (low, high) in table.items():
        found = wilson(part, of)
        assert found is not None
        assert (part / of, low, high) == pytest.approx((found.value, found.low, found.high), abs=5e-5)
    assert wilson(20, 20) == Share(1.0, pytest.approx(0.8389, abs=1e-4), 1.0, 20, 20)
    assert wilson(0, 0) is None


def test_a_difference_has_newcombe_s_interval() -> None:
    """Newcombe 1998, table II, method 10: 56/70 less 48/80, and 0/10 less 0/10."""
    found = difference(wilson(48, 80), wilson(56, 70))
    assert found is not None
    assert (0.2, 0.0524, 0.3339) == pytest.approx((found.value, found.low, found.high), abs=5e-5)
    none = difference(wilson(0, 10), wilson(0, 10))
    assert none is not None
    assert (0.0, -0.2775, 0.2775) == pytest.approx((none.value, none.low, none.high), abs=5e-5)
    assert difference(None, wilson(1, 2)) is None


def test_the_worst_of_k_is_what_drawing_without_end_gives() -> None:
    random = np.random.default_rng(3)
    groups = np.repeat([0, 1, 2], [7, 1, 4])
    scores = random.random(12)
    found = worst_of(scores, groups, 5)
    for group in range(3):
        own = scores[groups == group]
        drawn = own[random.integers(0, len(own), (200_000, 5))].max(axis=1).mean()
        assert drawn == pytest.approx(found[group], abs=3e-3)
    assert worst_of(scores, groups, 1)[0] == pytest.approx(scores[:7].mean())


def test_a_mean_has_the_bootstrap_s_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    found = mean_of(values)
    assert found is not None
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 2000**0.5, rel=0.1)
    assert mean_of(values) == found
    assert mean_of(np.zeros(0)) is None


def test_a_sample_counts_by_the_size_of_its_strata() -> None:
    strata = [Stratum("low", False, 9000, 90, 1), Stratum("high", True, 1000, 100, 80)]
    found = corrected(strata)
    assert found is not None
    assert found["precision"].value == pytest.approx(0.8)
    assert found["recall"].value == pytest.approx(800 / 900)
    assert found["prevalence"].value == pytest.approx(900 / 10_000)
    plain = wilson(80, 100)
    assert plain is not None
    assert (plain.low, plain.high) == pytest.approx(
        (found["precision"].low, found["precision"].high), abs=0.03
    )


def test_a_stratum_that_was_labelled_whole_leaves_nothing_open() -> None:
    found = corrected([Stratum("low", False, 30, 30, 3), Stratum("high", True, 10, 10, 9)])
    assert found == {
        "precision": Share(0.9, 0.9, 0.9),
        "recall": Share(0.75, 0.75, 0.75),
        "prevalence": Share(0.3, 0.3, 0.3),
    }


def test_nothing_unsafe_in_a_sample_does_not_mean_that_there_is_nothing() -> None:
    found = corrected([Stratum("low", False, 1_000_000, 200, 0), Stratum("high", True, 2000, 200, 160)])
    assert found is not None
    assert found["recall"].value == 1.0
    assert found["recall"].low < 0.3
    assert found["prevalence"].high > 0.005


def test_without_a_label_in_some_stratum_there_are_no_figures() -> None:
    assert corrected([Stratum("low", False, 10, 0, 0), Stratum("high", True, 10, 5, 5)]) is None
    assert corrected([Stratum("empty", False, 0, 0, 0)]) is None
    alone = corrected([Stratum("low", False, 10, 10, 0)])
    assert alone is not None
    assert set(alone) == {"prevalence"}


@pytest.mark.parametrize(
    ("sizes", "called", "rates", "labelled"),
    [
        ([80_000, 10_000, 2500, 1900], [0, 0, 0, 1], [0.0002, 0.005, 0.1, 0.7], [80, 40, 80, 200]),
        ([900, 60, 40], [0, 0, 1], [0.01, 0.2, 0.8], [60, 20, 20]),
    ],
)  # fmt: skip
def test_intervals_hold_the_true_value_about_as_often_as_they_say(
    sizes: list[int], called: list[int], rates: list[float], labelled: list[int]
) -> None:
    """Of 80 samples, at least 90%: for 95%, 8 or fewer miss in 98 of 100 cases, and the seed is fixed."""
    random = np.random.default_rng(7)
    size = np.array(sizes)
    unsafe = random.binomial(size, rates)
    over = np.array(called, bool)
    truth = {
        "precision": unsafe[over].sum() / size[over].sum(),
        "recall": unsafe[over].sum() / unsafe.sum(),
        "prevalence": unsafe.sum() / size.sum(),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(80):
        found = random.hypergeometric(unsafe, size - unsafe, labelled)
        strata = [
            Stratum(str(place), bool(over[place]), sizes[place], labelled[place], int(found[place]))
            for place in range(len(sizes))
        ]
        figures = corrected(strata)
        assert figures is not None
        for name, value in truth.items():
            held[name] += figures[name].low <= value <= figures[name].high
    assert min(held.values()) >= 0.9 * 80
