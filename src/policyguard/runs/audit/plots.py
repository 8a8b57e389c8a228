"""The report's plots as PNG files, for slides and papers; the page draws its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from policyguard.strict.text import revealed, shortened

__all__ = ["categories", "scores"]

_RED, _GREY, _DARK = "#b91c1c", "#9aa3ae", "#1d2126"
_MOST = 40


def categories(figures: Mapping[str, Any], stream: IO[bytes]) -> None:
    """Per rule, the images attributed to it and those that violate it: figure 4a of the LlavaGuard paper."""
    found = sorted(figures["categories"], key=lambda rule: (rule["attributed"], rule["violating"]))[-_MOST:]
    figure, axes = _axes(7, 1.2 + 0.34 * max(len(found), 1))
    for place, rule in enumerate(found):
        axes.barh(place, rule["attributed"], color=_GREY, height=0.72)
        axes.barh(place, rule["violating"], color=_RED, height=0.72)
        share = rule["violating_of_attributed"]
        words = f" {rule['violating']:,} of {rule['attributed']:,}"
        axes.text(rule["attributed"], place, words + ("" if share is None else f" ({share['value']:.1%})"),
                  va="center", fontsize=8, color=_DARK)  # fmt: skip
    axes.set_yticks(range(len(found)), [_name(rule["rule"]) for rule in found], fontsize=9)
    axes.set_xlabel("images attributed to the rule (grey), and of these violating it (red)")
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    _save(figure, stream)


def scores(figures: Mapping[str, Any], stream: IO[bytes]) -> None:
    """How the scores lie around the threshold, complying images grey and violating ones red."""
    import numpy as np

    counted = figures["scores"]
    edges = np.linspace(0, 1, counted["bins"] + 1)
    below, above = np.array(counted["complies"]), np.array(counted["violates"])
    figure, axes = _axes(7, 3)
    axes.stairs(below + above, edges, fill=True, color=_RED, label="violates")
    axes.stairs(below, edges, fill=True, color=_GREY, label="complies")
    thresholds = {rule["threshold"] for rule in figures["categories"] if rule["threshold"] is not None}
    for threshold in thresholds - {counted["threshold"]}:
        axes.axvline(threshold, color=_DARK, linewidth=0.6, linestyle=":")
    if counted["threshold"] is not None:
        axes.axvline(counted["threshold"], color=_DARK, linewidth=1, linestyle="--", label="threshold")
    axes.set_yscale("symlog")
    axes.set_xlim(0, 1)
    axes.set_xlabel("score; dotted: thresholds that rules set for their own scores")
    axes.set_ylabel("images")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, stream)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _name(rule: str) -> str:
    return shortened(revealed(rule), 40).replace("$", r"\$")  # matplotlib reads $...$ as mathematics


def _save(figure: Any, stream: IO[bytes]) -> None:
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
