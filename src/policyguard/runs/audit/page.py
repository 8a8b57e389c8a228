"""The report as a page: figures in words, bars and small plots, without a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from policyguard.runs.reports.html import histogram
from policyguard.strict.page import asset, stream
from policyguard.strict.text import shortened

__all__ = ["count", "report_page", "share"]

_SHOWN = 15
"""Rows of a table before the fold."""
_UNCERTAIN = (
    "Closest to the other decision. They show what the policy's wording leaves open. To choose a threshold, "
    "label a random sample instead: labels of these images alone give a threshold for images like these."
)


def report_page(
    figures: Mapping[str, Any], *, thumbnail: Callable[[Mapping[str, Any]], str] | None = None
) -> Iterator[str]:
    """The page, in pieces. ``thumbnail`` gives the data URI of an example's image; default: no images."""
    policies = figures["audit"]["policies"]
    titles = {
        (f"{policy['id']}:{rule['id']}" if len(policies) > 1 else rule["id"]): rule.get("title") or rule["id"]
        for policy in policies
        for rule in policy["rules"]
    }
    categories = sorted(figures["categories"], key=lambda rule: (-rule["violating"], -rule["attributed"]))
    return stream(
        "runs/audit/report.html",
        style=asset("runs/reports/report.css") + asset("runs/audit/report.css"),
        figures=figures,
        titles=titles,
        categories=categories,
        most=max((rule["attributed"] for rule in categories), default=0) or 1,
        scored=any(figures["scores"]["complies"]) or any(figures["scores"]["violates"]),
        plot=lambda scores, threshold: histogram(scores["complies"], scores["violates"], threshold),
        thumbnail=thumbnail,
        share=share,
        number=number,
        count=count,
        signed=signed,
        shown=_SHOWN,
        short=lambda text: shortened(str(text), 300),
        examples=list(_examples(figures["examples"], titles)),
    )


def _examples(
    examples: Mapping[str, Any], titles: Mapping[str, str]
) -> Iterator[tuple[str, str, Sequence[Mapping[str, Any]]]]:
    """Heading, explanation and rows of each list of examples."""
    yield (
        "To look at first",
        "Of all images that violate the policy: those that are blocked, then by score.",
        examples["worst"],
    )
    yield (
        "Least certain",
        _UNCERTAIN,
        examples["least_certain"],
    )
    for rule, rows in sorted(examples["worst_of_rule"].items()):
        yield f"Highest scores: {titles.get(rule, rule)}", "", rows


def number(value: float | None) -> str:
    """A count, or a dash."""
    return "–" if value is None else f"{value:,}"


def count(value: Mapping[str, Any]) -> str:
    """``1,230 (940 to 1,610)``; the number alone where it is certain."""
    if value["low"] == value["high"]:
        return number(value["value"])
    return f"{number(value['value'])} ({number(value['low'])} to {number(value['high'])})"


def share(value: Mapping[str, Any] | None) -> str:
    """``1.29% (1.27 to 1.31)``, with as many digits as the interval is worth."""
    if value is None:
        return "–"
    width = 100 * (value["high"] - value["low"])
    if not width:  # all rows were labelled
        return f"{100 * value['value']:.4g}%"
    places = 0 if width >= 10 else 1 if width >= 1 else 2 if width >= 0.1 else 3
    middle, low, high = (f"{100 * value[name]:.{places}f}" for name in ("value", "low", "high"))
    return f"{middle}% ({low} to {high})"


def signed(value: Mapping[str, Any] | None) -> str:
    """A difference of shares, in percentage points."""
    if value is None:
        return "–"
    middle, low, high = (f"{100 * value[name]:+.2f}" for name in ("value", "low", "high"))
    return f"{middle} points ({low} to {high})"
