"""The record of a run and the model card: data by hash, settings, figures. No images, no rows."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from policyguard._version import __version__
from policyguard.metrics import Figure
from policyguard.strict.files import write_json, write_text
from policyguard.strict.jsontext import parse_json
from policyguard.train.models import RUN, WORK

__all__ = ["figures", "write_card"]

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm")


def figures(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Name -> last value of each figure that the trainer logged, but for its summary at the end, which is of
    the last start of a run only.
    """
    last: dict[str, float] = {}
    for entry in history:
        if "train_runtime" in entry:
            continue
        last.update(
            {name: round(float(value), 6) for name, value in entry.items() if isinstance(value, (int, float))}
        )
    return dict(sorted(last.items()))


def write_card(
    out: Path,
    *,
    recipe: Any,
    base_revision: str,
    files: Mapping[str, str],
    counts: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    verdicts: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    ranks: Sequence[str] = (),
) -> None:
    """Write ``README.md`` and ``training/record.json`` into ``out``. What a later start of the run changed is
    among the notes. ``verdicts``: the figures of held-out rows, each with its interval. ``ranks``: the
    digest of the weights that each rank ended with.
    """
    notes = [*notes, *(f"changed by a later start of the run: {change}" for change in _changes(out))]
    if len(set(ranks)) > 1:
        notes.append("the ranks ended with different weights, and these are the first one's: do not use them")
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "base": {"model": recipe.model, "revision": base_revision},
        "data": dict(files),
        "counts": dict(counts),
        "figures": figures(history),
        "verdicts": None if verdicts is None else dict(verdicts),
        "history": [dict(entry) for entry in history],
        "notes": list(notes),
        "ranks": list(ranks),
        "versions": {"policyguard": __version__}
        | {name: number for name in _PACKAGES if (number := _version(name))},
        "platform": platform.platform(),
    }
    write_json(out / WORK / "record.json", _finite(record))
    lines = [
        f"# A guard model: stage {recipe.stage}",
        "",
        f"Trained from `{recipe.model}` (`{base_revision}`) with `policyguard train {recipe.stage}`.",
        f"Settings, versions and all logged figures are in `{WORK}/record.json`.",
        "",
        "| data | SHA-256 |",
        "|---|---|",
        *(f"| {name} | `{digest}` |" for name, digest in files.items()),
        "",
        "| count | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in counts.items()),
        "",
        *_verdict_lines(verdicts or {}),
        "| last logged figure | |",
        "|---|---|",
        *(f"| {name} | {value:g} |" for name, value in figures(history).items()),
        "",
        *(f"- {note}\n" for note in notes),
        "Figures on training and held-out rows of one data set do not say how good a guard is elsewhere:",
        "measure it on your own images and policies before it decides anything.",
    ]
    write_text(out / "README.md", "\n".join(lines))


def _verdict_lines(verdicts: Mapping[str, Any]) -> list[str]:
    if not verdicts:
        return []
    rows = f"{verdicts['rows']} rows"
    silent = sum(verdicts["silent"].values())
    return [
        f"| verdicts on {rows} held out, {silent} without an answer | value [95%] |",
        "|---|---|",
        *(
            f"| {name.replace('_', ' ')} | {Figure(*value)} |"
            for name, value in verdicts.items()
            if isinstance(value, (list, tuple))
        ),
        "",
    ]


def _changes(out: Path) -> list[str]:
    try:
        changes = parse_json((out / WORK / RUN).read_text(encoding="utf-8"))["changes"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(change) for change in changes]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; a log may."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
