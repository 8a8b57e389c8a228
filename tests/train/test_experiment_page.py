"""docs/experiments.md says what the committed results say."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from bisect import bisect_left
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "train" / "experiments" / "cross_policy"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cross_policy_tables", FOLDER / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_tables_of_the_results(tables: ModuleType) -> None:
    """Every table on the page is what tables.py makes of results/ now, and each of its tables is there."""
    page = tables.PAGE.read_text(encoding="utf-8")
    found = re.findall(r"<!-- table: (\S+) -->\n\n(.*?)\n\n<!-- end -->", page, flags=re.DOTALL)
    assert dict(found) == tables.tables(tables.read())


def test_an_interval_covers_about_95_of_100_draws(tables: ModuleType) -> None:
    """Wilson's interval of a share holds the true one about as often as it says, also near the ends."""
    from random import Random

    draw = Random(7)
    for truth in (0.5, 0.9, 0.98):
        inside = 0
        for _ in range(1000):
            part = sum(draw.random() < truth for _ in range(100)) / 100
            _, low, high = tables.share(part, 100)
            inside += low <= truth <= high
        assert 920 <= inside <= 985


def test_balanced_accuracy_of_one_label_is_its_recall(tables: ModuleType) -> None:
    """Under L1 all scenes are safe: the interval is that of the recall that there is."""
    found = {
        "n": 150,
        "unsafe": 0,
        "recall_unsafe": None,
        "recall_safe": 0.9,
        "balanced_accuracy": 0.9,
    }
    middle, low, high = tables.balanced("l1")({"safety": {"l1": found}})
    assert (middle, low, high) == pytest.approx(tables.share(0.9, 150))


def test_the_interval_of_an_auc_covers_about_95_of_100_draws(tables: ModuleType) -> None:
    """Of two normal distributions a deviation apart, whose area is known."""
    from random import Random
    from statistics import NormalDist

    draw, truth, inside = Random(8), NormalDist().cdf(0.5**0.5), 0
    for _ in range(400):
        above, below = [[draw.gauss(mean, 1) for _ in range(40)] for mean in (1, 0)]
        area = sum(a > b for a in above for b in below) / 1600
        _, low, high = tables.auc({"safety": {"random": {"n": 80, "unsafe": 40, "auc": area}}})
        inside += low <= truth <= high
    assert 364 <= inside <= 394


@pytest.mark.parametrize("figure", ["balanced_accuracy", "auc"])
def test_the_interval_of_a_gain_covers_about_95_of_100_draws(tables: ModuleType, figure: str) -> None:
    """Two models judge the same 120 samples, the second with less noise; the true gain is that of many."""
    from random import Random

    draw = Random(9)

    def pair(many: int) -> list[dict[str, Any]]:
        noise = [draw.gauss(0, 1) for _ in range(2 * many)]
        judged = []
        for weight in (1.0, 0.7):
            means = [0.4] * many + [-0.4] * many
            odds = [m + weight * n + draw.gauss(0, 0.4) for m, n in zip(means, noise, strict=True)]
            shares = [1 / (1 + math.exp(-value)) for value in odds]
            above, below = shares[:many], shares[many:]
            ranked = sorted(below)
            right = sum(p >= 0.5 for p in above) + sum(p < 0.5 for p in below)
            found = {
                "p_unsafe": {"unsafe": " ".join(map(str, above)), "safe": " ".join(map(str, below))},
                "balanced_accuracy": right / (2 * many),
                "auc": sum(bisect_left(ranked, p) for p in above) / many**2,
            }
            judged.append({"safety": {"random": found}})
        return judged

    truth, _ = tables.gain(figure, *pair(20000))
    inside = 0
    for _ in range(400):
        value, half = tables.gain(figure, *pair(60))
        inside += abs(value - truth) <= half
    assert 364 <= inside <= 394
