"""A benchmark's figures as one HTML page: self-contained, without scripts, fetching nothing.

Covered and not covered as in ``policyguard.authoring.diff.page``.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyguard.authoring.bench.run import BenchReport, Compared, interval, percent
from policyguard.metrics import Judgement
from policyguard.strict.page import render

__all__ = ["bench_page"]

LIMIT = 500
"""Mistakes on the page."""


def bench_page(report: BenchReport, beside: Sequence[Compared] = (), *, thumbnails: bool = False) -> str:
    """The page. ``beside``: published figures; ``thumbnails``: put the images of mistakes in, small."""
    from policyguard.images.written import thumbnail

    wrong = [item for item in report.judged if not Judgement(item.row.unsafe, item.answer).right]
    mistakes = [
        (item, thumbnail(item.row.image, item.image_sha256) if thumbnails else "") for item in wrong[:LIMIT]
    ]
    return render(
        "authoring/bench/page.html",
        report=report,
        told=report.to_dict(),
        beside=beside,
        wrong=len(wrong),
        mistakes=mistakes,
        limit=LIMIT,
        percent=percent,
        interval=interval,
    )
