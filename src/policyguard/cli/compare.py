"""``policyguard compare``: which guard is best on one's own images."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.options import (
    BASE_URL,
    PARAMETERS,
    ROOT,
    STYLE,
    SUBSET,
    TextOrJson,
    load_policy_with,
)
from policyguard.cli.policy_diff import JUDGED, kept_scores
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

if TYPE_CHECKING:
    from policyguard.authoring.compare import Comparison
    from policyguard.authoring.labels import Labels
    from policyguard.backends import Stage
    from policyguard.backends.base import Backend
    from policyguard.cache import VerdictCache
    from policyguard.policy import Policy

__all__ = ["compare"]

_STAGES = "stages"
_FIGURES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "average_precision": "average precision",
}
IMAGES = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGES",
        help="Images, folders or patterns. Default: those that --labels names.",
        show_default=False,
    ),
]
ONE_POLICY = Annotated[
    str,
    typer.Option(
        "--policy", "-p", metavar="POLICY", help="A packaged policy such as pictosafe/l3, or a YAML file."
    ),
]
LABELS_HELP = (
    "What the images are: CSV with the columns image, label (safe or unsafe) and, if wanted, rule; or a YAML "
    "file of policy tests."
)


@command
def compare(
    policy: ONE_POLICY,
    models: Annotated[
        list[str],
        typer.Option(
            "--models",
            metavar="A,B,...",
            help="The guards, separated by commas: whatever --model takes elsewhere, MODEL@URL for one on a "
            "server of its own, or `stages` for those of the project file in a row. Repeatable.",
        ),
    ],
    paths: IMAGES = None,
    labels: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help=LABELS_HELP)] = None,
    style: STYLE = TextOrJson.TEXT,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a report with plots too.")
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails", help="Put thumbnails of disagreements into the report, blurred until clicked."
        ),
    ] = False,
    prices: Annotated[
        list[str] | None,
        typer.Option(
            "--price", metavar="MODEL=PRICE", help="What one request to this model costs; repeatable."
        ),
    ] = None,
    judged: JUDGED = None,
    base_url: BASE_URL = None,
    subset: SUBSET = None,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Compare guards on your own images: where they differ, what they cost, and (--labels) how good they are.

    Models are loaded one after the other. Exit code: 0 compared; 2 a policy, labels or the set-up is wrong.
    """
    from policyguard.authoring.compare import compare_guards
    from policyguard.cli.progress import progress_bar

    if thumbnails and page is None:
        raise UsageError("--thumbnails goes with --html", hint="name the report with --html FILE")
    specs = _models(models, base_url)
    loaded = load_policy_with(policy, root=root, parameters=values)
    priced = _prices(prices, specs)
    known, sources, names = find_images(paths, labels, loaded, root)
    if page is not None and known is not None:
        from policyguard.authoring.compare_page import require_plots

        require_plots()  # before minutes of judging
    with kept_scores(judged) as cache, progress_bar(sys.stderr) as move:
        comparison = compare_guards(
            loaded,
            sources,
            _backends(loaded, specs, cache, subset=bool(subset)),
            names=names,
            labels=known,
            prices=priced,
            progress=lambda done, total: move(done, total, "judging"),
        )
    for note in comparison.notes:
        warn(note)
    if style is TextOrJson.JSON:
        print(json.dumps(comparison.to_dict(), indent=2, allow_nan=False))
    else:
        _print(comparison)
    if page is not None:
        from policyguard.authoring.compare_page import comparison_page
        from policyguard.strict.files import write_report

        text = comparison_page(comparison, thumbnails=sources.__getitem__ if thumbnails else None)
        write_report(page, [text])
        print(f"wrote {page}", file=sys.stderr)
    return ExitCode.OK


def find_images(
    paths: Sequence[str] | None, labels: Path | None, policy: Policy, root: str | None
) -> tuple[Labels | None, list[object], list[str]]:
    """The labels, the images to judge, and what they are called."""
    known = None
    if labels is not None:
        from policyguard.authoring.labels import load_labels

        known = load_labels(labels, policy.resolve(), root=root)
    if not paths:
        if known is None:
            raise UsageError("there are no images", hint="name images or folders, or --labels FILE")
        return known, [label.image for label in known.all], [str(label.image) for label in known.all]
    from policyguard.runs.search import collect

    sources, skipped = collect(paths)
    if note := str(skipped):
        warn(f"skipped {note}")
    if known is not None:
        known.of([source.image for source in sources])  # before any model is loaded
    return known, [source.image for source in sources], [source.name for source in sources]


def _models(texts: Sequence[str], base_url: str | None) -> dict[str, tuple[str, str | None]]:
    """Name -> model and server."""
    from policyguard.backends import runs_here

    specs: dict[str, tuple[str, str | None]] = {}
    for name in (part.strip() for text in texts for part in text.split(",")):
        model, at, url = name.partition("@http")
        if not model:
            raise UsageError("--models holds an empty name", hint="such as --models pico,other")
        if name in specs:
            raise UsageError(f"--models names {name!r} twice")
        if name == _STAGES:
            _stages()  # that there are any, before minutes of judging
        server = f"http{url}" if at else None if runs_here(model) else base_url
        specs[name] = model, server
    return specs


def _prices(texts: Sequence[str] | None, names: Mapping[str, object]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for text in texts or ():
        name, equals, price = text.rpartition("=")
        try:
            value = float(price)
        except ValueError:
            value = -1.0
        if not equals or not 0.0 <= value < float("inf"):
            raise UsageError(f"--price takes MODEL=PRICE, not {text!r}", hint="such as --price pico=0.0001")
        if name not in names:
            raise UsageError(f"--price names {name!r}, which --models does not")
        prices[name] = value
    return prices


def _backends(
    policy: Policy,
    specs: Mapping[str, tuple[str, str | None]],
    cache: VerdictCache | None,
    *,
    subset: bool,
) -> Iterator[tuple[str, Backend]]:
    """Each guard's backend, open until the next one is wanted."""
    from policyguard.cli.progress import load_model
    from policyguard.guard import Guard

    for name, (model, url) in specs.items():
        stages = _stages() if name == _STAGES else None
        if stages is not None:
            opened = Guard(policy, stages=stages, cache=cache)
        else:
            opened = Guard(policy, model=model, base_url=url, cache=cache, subset=subset)
        with opened as guard:
            load_model(guard, sys.stderr)
            yield name, guard.backend


def _stages() -> list[Stage]:
    from policyguard.runs.project import find_project

    if (stages := find_project().stages()) is None:
        raise UsageError(
            "--models names the stages of the project file, and it has none",
            hint="write [[stages]] into policyguard.toml; see docs/stages.md",
        )
    return stages


def _print(comparison: Comparison) -> None:
    total = len(comparison.images)
    labelled = sum(label is not None for label in comparison.labels)
    print(f"{comparison.policy}: {total:,} images" + (f", {labelled:,} with a label" if labelled else ""))
    columns = [["", *_FIGURES.values()] if labelled else [""]]
    columns[0] += ["calibration error", "silent"] if labelled else []
    columns[0] += ["outcomes", "requests per image", "seconds per image", "cost per image"]
    for guard in comparison.ranking:
        cells = [guard.name]
        if (found := guard.figures) is not None:
            cells += [str(getattr(found, name)) for name in _FIGURES]
            cells += [_number(guard.calibration_error), str(found.silent)]
        outcomes = Counter(str(verdict.outcome) for verdict in guard.verdicts)
        cells.append(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
        cells += [f"{guard.asked / total:.2f}", _number(guard.seconds)]
        cells.append("–" if guard.cost is None else f"{guard.cost / total:.6g}")
        columns.append(cells)
    heads, *rows = map(list, zip(*columns, strict=True))
    _table(heads, rows)
    ruled = [guard for guard in comparison.ranking if guard.rules]
    if ruled:
        print("\neach rule against all images")
        rows = [
            [rule, guard.name, f"{figures.unsafe} of {figures.images}"]
            + [str(getattr(figures, name)) for name in ("precision", "recall", "auc")]
            for rule in ruled[0].rules or ()
            for guard in ruled
            for figures in [(guard.rules or {})[rule]]
        ]
        _table(["rule", "guard", "images", "precision", "recall", "AUC"], rows)
    for guard in comparison.ranking:
        for stage, asked in (guard.stages or {}).items():
            print(f"{one_line(guard.name)}: {one_line(stage)} was asked {asked / total:.2f} times an image")
    for pair in comparison.pairs:
        line = f"{one_line(pair.first)} and {one_line(pair.second)}: {pair.agreement:.1%} alike"
        rules = sum(not image.changed for image in pair.differing)
        line += f", {len(pair.differing) - rules} images differ" + (
            f", {rules} in rules only" if rules else ""
        )
        if pair.paired is not None and pair.p is not None:
            line += f"; right alone {pair.paired.first} and {pair.paired.second} times, p {pair.p:.3g}"
        print(f"\n{line}" if pair is comparison.pairs[0] else line)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """With its heads where nobody watches too, unlike other tables: without them it says little."""
    from policyguard.cli.output import print_table
    from policyguard.strict.text import is_terminal

    print_table(heads, rows if is_terminal(sys.stdout) else [heads, *rows], sys.stdout)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
