"""A comparison of guards as one HTML page with plots: self-contained, without scripts, fetching nothing.

Covered and not covered as in ``policyguard.authoring.diff.page``. Plots are pictures (SVG in ``img``, where
no script runs), and names in them are drawn as they are, never read as formulas.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from policyguard.errors import MissingExtraError
from policyguard.metrics import Judgement, ranks, reliability, require_metrics
from policyguard.strict.page import render
from policyguard.strict.text import one_line
from policyguard.verdict import violated

if TYPE_CHECKING:
    from policyguard.authoring.compare import Comparison, GuardResult
    from policyguard.verdict import Verdict

__all__ = ["Plot", "comparison_page", "reliability_plot", "require_plots"]

_STYLE = """
.wrong { background: var(--wrong) }
img.plot { max-width: 100%; background: #fff; border-radius: 6px }
"""
LIMIT = 500
"""Disagreements on the page; the JSON has all of them."""

Plot = tuple[str, str]
"""What it shows in a sentence, and the picture as a data URI."""


def comparison_page(comparison: Comparison, *, thumbnails: Callable[[int], object] | None = None) -> str:
    """The page. ``thumbnails`` gives the image of a place in ``comparison.images``; default: none are shown.

    Raises MissingExtraError without matplotlib where there are labels, and so plots.
    """
    from policyguard.images.written import thumbnail

    def preview(place: int) -> str:
        if thumbnails is None:
            return ""
        return thumbnail(thumbnails(place), comparison.guards[0].verdicts[place].evidence.image_sha256)

    rows = [
        (
            comparison.images[place],
            preview(place),
            comparison.labels[place] if comparison.labels else None,
            [guard.verdicts[place] for guard in comparison.guards],
        )
        for place in comparison.disagreements[:LIMIT]
    ]
    return render(
        "authoring/compare.html",
        style=_STYLE,
        comparison=comparison,
        plots=list(_plots(comparison)) if any(comparison.labels) else [],
        rows=rows,
        scored=any(verdict.score is not None for guard in comparison.guards for verdict in guard.verdicts),
        broken=lambda verdict: ", ".join(violated(verdict)),
        wrong=_wrong,
    )


def _wrong(label: Any, verdict: Verdict) -> bool:
    from policyguard.authoring.compare import answer_of

    return label is not None and not Judgement(label.unsafe, answer_of(verdict)).right


def require_plots() -> Any:
    """``matplotlib``. Raises MissingExtraError where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingExtraError("matplotlib", "compare") from None
    return mpl


@contextmanager
def _drawn(width: float, height: float, columns: int) -> Iterator[tuple[Any, list[str], Any]]:
    """A figure of ``columns`` axes; what it becomes is appended to the list at the end."""
    mpl = require_plots()
    from matplotlib.figure import Figure

    settings = {"text.parse_math": False, "svg.hashsalt": "policyguard", "font.size": 9}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that its font lacks
        figure = Figure(figsize=(width, height), layout="constrained")
        made: list[str] = []
        yield figure.subplots(1, columns, squeeze=False)[0], made, figure
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
        made.append(f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}")


def _plots(comparison: Comparison) -> Iterator[Plot]:
    known = [(place, label.unsafe) for place, label in enumerate(comparison.labels) if label is not None]
    unsafe = [label for _, label in known]
    scored = [g for g in comparison.guards if any(v.score is not None for v in g.verdicts)]
    if scored and 0 < sum(unsafe) < len(unsafe):
        yield _curves(scored, known)
    rated: list[tuple[str, list[bool], list[float]]] = []
    for guard in scored:
        pairs = [(u, s) for p, u in known if (s := guard.verdicts[p].score) is not None]
        if pairs:
            rated.append((guard.name, [u for u, _ in pairs], [s for _, s in pairs]))
    if rated:
        yield reliability_plot(rated)
    for guard in comparison.guards:
        if guard.rules:
            yield _confusion(guard)


def _curves(guards: Sequence[GuardResult], known: Sequence[tuple[int, bool]]) -> Plot:
    from policyguard.authoring.compare import answer_of

    metrics, unsafe = require_metrics(), [label for _, label in known]
    with _drawn(9, 4, 2) as ((left, right), made, _figure):
        for guard in guards:
            judgements = [Judgement(label, answer_of(guard.verdicts[place])) for place, label in known]
            scores = ranks(judgements, [guard.verdicts[place].score for place, _ in known])
            precision, recall, _ = metrics.precision_recall_curve(unsafe, scores)
            left.step(recall, precision, where="post", label=_name(guard.name))
            false, true, _ = metrics.roc_curve(unsafe, scores)
            (line,) = right.plot(false, true, label=_name(guard.name))
            assert guard.figures is not None
            decided = guard.figures
            if decided.recall.value is not None and decided.specificity.value is not None:
                right.plot(1 - decided.specificity.value, decided.recall.value, "o", color=line.get_color())
        for axes, titles in ((left, ("recall", "precision")), (right, ("false alarms", "recall"))):
            axes.set(xlabel=titles[0], ylabel=titles[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.grid(alpha=0.3)
        right.plot([0, 1], [0, 1], ":", color="0.6")
        left.legend(loc="lower left")
    words = "Precision over recall, and recall over false alarms (ROC); dots: what the policy decides now."
    return words, made[0]


def reliability_plot(scored: Sequence[tuple[str, Sequence[bool], Sequence[float]]]) -> Plot:
    """For each name: the share of unsafe images over the mean score, by stretches of scores."""
    with _drawn(4.5, 4, 1) as ((axes,), made, _figure):
        axes.plot([0, 1], [0, 1], ":", color="0.6")
        for name, unsafe, scores in scored:
            bins = reliability(unsafe, scores)
            axes.plot([b.score for b in bins], [b.unsafe for b in bins], "o-", label=_name(name))
        axes.set(xlabel="score", ylabel="share of unsafe images", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    return "Reliability: a score of 0.8 should mean that 8 of 10 such images are unsafe.", made[0]


def _confusion(guard: GuardResult) -> Plot:
    counts = guard.confusion or {}
    labels = list(dict.fromkeys(label for label, _ in sorted(counts, key=lambda pair: pair[0] == "complies")))
    others = [found for _, found in counts if found not in labels]
    found = [*labels, *dict.fromkeys(others)]
    table = [[counts.get((label, other), 0) for other in found] for label in labels]
    with _drawn(1.8 + 0.55 * len(found), 1.6 + 0.4 * len(labels), 1) as ((axes,), made, _figure):
        whole = [[count / max(1, sum(row)) for count in row] for row in table]
        axes.imshow(whole, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(found)), [_name(name) for name in found], rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), [_name(name) for name in labels])
        axes.set(xlabel="found", ylabel="label")
        for y, row in enumerate(table):
            for x, count in enumerate(row):
                if count:
                    axes.text(x, y, str(count), ha="center", va="center", color="wk"[whole[y][x] < 0.6])
    return f"Confusion by rule, {one_line(guard.name)}: rows are labels, columns what it found first.", made[
        0
    ]


def _name(name: str) -> str:
    shown = one_line(name)
    shown = shown if len(shown) <= 40 else f"{shown[:18]}…{shown[-20:]}"
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib hides names that begin with it
