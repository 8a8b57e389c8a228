"""``policyguard compare`` and ``calibrate``: which guard is best on one's own images, and its thresholds."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.options import (
    BASE_URL,
    DIALECT,
    MODEL,
    PARAMETERS,
    ROOT,
    STYLE,
    SUBSET,
    TextOrJson,
    load_policy_with,
    parse_parameters,
)
from policyguard.cli.policy_diff import JUDGED, kept_scores
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

if TYPE_CHECKING:
    from policyguard.authoring.calibrate import CalibrationReport
    from policyguard.authoring.compare import Comparison
    from policyguard.authoring.labels import Labels
    from policyguard.backends import Stage
    from policyguard.backends.base import Backend
    from policyguard.cache import VerdictCache
    from policyguard.guard import Guard
    from policyguard.policy import Policy

__all__ = ["calibrate", "compare"]

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
RANDOM = f"{LABELS_HELP} A random sample: a biased one gives a biased threshold."


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
            "--price", metavar="MODEL=PRICE", help="What one request to a model or stage costs; repeatable."
        ),
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            "--key-variable",
            metavar="MODEL=VARIABLE",
            help="Which environment variable holds the key of this model's server; repeatable. "
            "POLICYGUARD_API_KEY goes to a single server only.",
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
    from policyguard.cli.output import print_unjudged, require_page, write_page
    from policyguard.cli.progress import progress_bar

    require_page(page, thumbnails=thumbnails)
    specs = _keyed(_models(models, base_url), keys)
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
    if failed := comparison.unjudged:
        print_unjudged(failed, len(failed), sys.stderr)
    if style is TextOrJson.JSON:
        print(json.dumps(comparison.to_dict(), indent=2, allow_nan=False))
    else:
        _print(comparison)
    if page is not None:
        from policyguard.authoring.compare_page import comparison_page

        write_page(page, comparison_page(comparison, thumbnails=sources.__getitem__ if thumbnails else None))
    return ExitCode.OK


class Scaling(StrEnum):
    """How scores become shares of unsafe images."""

    PLATT = "platt"
    TEMPERATURE = "temperature"
    NONE = "none"


@command
def calibrate(
    policy: ONE_POLICY,
    labels: Annotated[Path, typer.Option("--labels", metavar="FILE", help=RANDOM)],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="recall=0.98, precision=0.9, or cost=fn:10,fp:1 for what a miss and a false alarm cost.",
            show_default=False,
        ),
    ] = None,
    paths: IMAGES = None,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write a policy that extends this one, thresholds set."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
    review: Annotated[
        float | None,
        typer.Option(
            "--review",
            metavar="SHARE",
            help="Leave this share of images undecided, such as 0.05, for people to look at.",
        ),
    ] = None,
    scaling: Annotated[
        Scaling, typer.Option("--scaling", help="How scores become shares of unsafe images.")
    ] = Scaling.PLATT,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", metavar="N", min=2, help="Cross-validate: choose on all images, report each unseen."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", metavar="SHARE", help="How sure the promise is.")
    ] = 0.95,
    band: Annotated[
        Path | None,
        typer.Option(
            "--band",
            metavar="FILE",
            help="Measure where this guard may decide as the first of several, and write it for [[stages]].",
        ),
    ] = None,
    misses: Annotated[
        float,
        typer.Option(
            "--misses",
            metavar="SHARE",
            help="For --band: the share of unsafe images that it may call safe; 0: it calls none safe.",
        ),
    ] = 0.005,
    false_alarms: Annotated[
        float,
        typer.Option(
            "--false-alarms",
            metavar="SHARE",
            help="For --band: the share of safe images that it may call violating; 0: it calls none so.",
        ),
    ] = 0.01,
    seed: Annotated[int, typer.Option("--seed", help="Which image is on which side.")] = 0,
    style: STYLE = TextOrJson.TEXT,
    judged: JUDGED = None,
    subset: SUBSET = None,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Choose thresholds for one guard on labelled images: on one half, reported on the other. Or its --band.

    Exit code: 0 chosen; 1 the other half does not bear the target out, and nothing is written; 2 the labels
    are too few to promise it, or the set-up is wrong.
    """
    import policyguard.authoring.calibrate as choosing
    from policyguard.authoring.thresholds import Target
    from policyguard.cli.output import print_unjudged
    from policyguard.cli.progress import load_model, progress_bar
    from policyguard.guard import Guard
    from policyguard.policy.files import is_path
    from policyguard.policy.merge import rebuilt

    if target is None and (band is None or out is not None):
        raise UsageError("there is no --target", hint="such as --target recall=0.98; or --band FILE alone")
    wanted = None if target is None else Target.parse(target)
    if out is not None and out.exists() and not force:
        raise UsageError(f"{out} is there already", hint="name another file, or replace it with --force")
    if out is not None and out.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"--out writes a policy, and {out} does not end in .yaml")
    loaded = load_policy_with(policy, root=root, parameters=values)
    known, _, _ = find_images(paths, labels, loaded, root)
    assert known is not None
    bare = rebuilt(loaded, defaults=loaded.defaults.model_copy(update={"calibration": None}))
    with (
        kept_scores(judged) as cache,
        Guard(
            bare, model=model, base_url=base_url, dialect=dialect, cache=cache, subset=bool(subset)
        ) as guard,
    ):
        load_model(guard, sys.stderr)
        if band is not None:
            _measure_band(guard, known, band, misses, false_alarms, confidence)
        if wanted is None:
            return ExitCode.OK
        with progress_bar(sys.stderr) as move:
            report = choosing.calibrate_guard(
                loaded,
                known,
                wanted,
                backend=guard.backend,
                scaling=scaling.value,
                review=review,
                folds=folds,
                confidence=confidence,
                seed=seed,
                progress=lambda done, total: move(done, total, "judging"),
            )
    if style is TextOrJson.JSON:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(_report_lines(report)))
    if failed := report.unjudged:
        print_unjudged(failed, len(failed), sys.stderr)
    if not report.kept:
        warn(f"the interval of the other images does not reach {wanted}: nothing is written")
        return ExitCode.BLOCKED
    if out is not None:
        parameters = parse_parameters(values)
        extends = policy if not is_path(policy) else Path(os.path.relpath(policy, out.parent)).as_posix()
        choosing.write_overlay(report, out, base=loaded, extends=extends, parameters=parameters, root=root)
        print(f"wrote {out}", file=sys.stderr)
    return ExitCode.OK


def _measure_band(
    guard: Guard, labels: Labels, file: Path, misses: float, false_alarms: float, confidence: float
) -> None:
    from policyguard.authoring.bands import measure_band
    from policyguard.cli.progress import progress_bar

    with progress_bar(sys.stderr) as move:
        found = measure_band(
            guard,
            [label.image for label in labels.all],
            [label.unsafe for label in labels.all],
            misses=misses or None,
            false_alarms=false_alarms or None,
            confidence=confidence,
            progress=lambda done, total: move(done, total, "judging"),
        )
    try:
        found.save(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
    safe = f"safe below {found.low:.4g} (at most {found.miss:.3%} of what is unsafe)" if found.low else ""
    violates = "" if found.high is None else f"violating from {found.high:.4g}"
    means = ", ".join(filter(None, (safe, violates))) or "nothing by itself"
    line = f"wrote {file}: it decides {means}; measured on {found.unsafe} unsafe and {found.safe} safe images"
    print(line, file=sys.stderr)


def _report_lines(report: CalibrationReport) -> Iterator[str]:
    policy, after, before = report.policy, report.after, report.before
    measured = f"measured on {report.reported} that had no part in it"
    if report.folds:
        measured = f"each measured under thresholds chosen without it ({report.folds} folds)"
    sure = f"{report.target}, sure to {report.confidence:.0%}"
    yield f"{policy.id} {policy.version} with {one_line(report.model)}: {sure}"
    yield f"chosen on {report.fitted} labelled images, {measured}"
    yield ""
    yield f"threshold          {policy.threshold:g} (was {report.base.threshold:g})"
    for rule in policy.rules:
        was = report.base.rule(rule.id).threshold
        if rule.threshold is not None and rule.threshold != was:
            own = "the policy's" if was is None else f"{was:g}"
            yield f"  {rule.id:<16} {rule.threshold:g} (was {own})"
    if policy.undecided_band is not None:
        low, high = policy.undecided_band
        yield f"undecided          scores from {low:g} to {high:g}: {report.reviewed} of all images"
    if policy.calibration is not None:
        yield f"scores             {policy.calibration}"
    yield f"calibration error  {report.errors[0]:.3f} -> {report.errors[1]:.3f}"
    for name, title in list(_FIGURES.items())[:4]:
        yield f"{title:<18} {getattr(before, name)} -> {getattr(after, name)}"
    yield f"{'caught or held':<18} {report.caught} of unsafe images"
    if report.cost is not None:
        yield f"{'cost per image':<18} {report.cost[0]:.4f} -> {report.cost[1]:.4f}"
    for rule_id, figures in report.rules.items():
        yield f"rule {rule_id}: recall {figures.recall}, precision {figures.precision}"
    for note in report.unmeasured:
        yield f"not chosen for {note}"


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
    from policyguard.runs.search import collect_existing

    sources, skipped = collect_existing(paths)
    if note := str(skipped):
        warn(f"skipped {note}")
    if known is not None:
        known.of([source.image for source in sources])  # before any model is loaded
    return known, [source.image for source in sources], [source.name for source in sources]


class _Asked(NamedTuple):
    model: str
    url: str | None
    key: str = ""


def _models(texts: Sequence[str], base_url: str | None) -> dict[str, _Asked]:
    """By name, without keys."""
    from policyguard.backends import runs_here

    base_url = base_url or os.environ.get("POLICYGUARD_BASE_URL") or None
    specs: dict[str, _Asked] = {}
    for name in (part.strip() for text in texts for part in text.split(",")):
        model, at, url = name.partition("@http")
        if not model:
            raise UsageError("--models holds an empty name", hint="such as --models pico,other")
        if name in specs:
            raise UsageError(f"--models names {name!r} twice")
        if name == _STAGES:
            _stages()  # that there are any, before minutes of judging
        server = f"http{url}" if at else None if runs_here(model) else base_url
        specs[name] = _Asked(model, server)
    return specs


def _keyed(specs: Mapping[str, _Asked], texts: Sequence[str] | None) -> dict[str, _Asked]:
    """``specs`` with the key of each server. One that is named for all goes to none of several."""
    common = os.environ.get("POLICYGUARD_API_KEY", "")
    servers = {asked.url for asked in specs.values()} - {None}
    keyed = {name: asked._replace(key=common if len(servers) == 1 else "") for name, asked in specs.items()}
    own = set()
    for text in texts or ():
        name, equals, variable = text.rpartition("=")
        if not equals or not variable:
            raise UsageError(f"--key-variable takes MODEL=VARIABLE, not {text!r}")
        _require_named("--key-variable", name, specs)
        if not (key := os.environ.get(variable)):
            raise UsageError(f"{variable}, where --key-variable says the key of {name!r} is, is not set")
        keyed[name] = keyed[name]._replace(key=key)
        own.add(name)
    if common and len(servers) > 1 and (bare := [n for n, a in specs.items() if a.url and n not in own]):
        warn(
            f"POLICYGUARD_API_KEY is sent to none of several servers: {', '.join(bare)} "
            f"{'is' if len(bare) == 1 else 'are'} asked without a key (--key-variable names one)"
        )
    return keyed


def _require_named(option: str, name: str, names: Mapping[str, object]) -> None:
    if name not in names:
        raise UsageError(
            f"{option} names {name!r}, which --models does not",
            hint=f"write it as --models does: {', '.join(names)}",
        )


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
        if _STAGES not in names:
            _require_named("--price", name, names)
        prices[name] = value
    return prices


def _backends(
    policy: Policy,
    specs: Mapping[str, _Asked],
    cache: VerdictCache | None,
    *,
    subset: bool,
) -> Iterator[tuple[str, Backend]]:
    """Each guard's backend, open until the next one is wanted."""
    from policyguard.cli.progress import load_model
    from policyguard.guard import Guard

    for name, (model, url, key) in specs.items():
        stages = _stages() if name == _STAGES else None
        if stages is not None:
            opened = Guard(policy, stages=stages, cache=cache)
        else:
            opened = Guard(policy, model=model, base_url=url, api_key=key, cache=cache, subset=subset)
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
    print(
        f"{comparison.policy}: {total:,} image{'' if total == 1 else 's'}"
        + (f", {labelled:,} with a label" if labelled else "")
    )
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
        if (sent := guard.sent) is not None:
            tokens = f", {sent.tokens_in:,} tokens in and {sent.tokens_out:,} out" if sent.tokens_in else ""
            print(f"{one_line(guard.name)}: its server got {_calls(sent.requests)}{tokens}")
    for pair in comparison.pairs:
        line = f"{one_line(pair.first)} and {one_line(pair.second)}: {pair.agreement:.1%} alike"
        rules = sum(not image.changed for image in pair.differing)
        line += f", {len(pair.differing) - rules} images differ" + (
            f", {rules} in rules only" if rules else ""
        )
        if any(pair.let_pass):
            line += "; they let pass {} and {} that the other stops".format(*pair.let_pass)
        if pair.paired is not None and pair.p is not None:
            line += f"; right alone {pair.paired.first} and {pair.paired.second} times, p {pair.p:.3g}"
        print(f"\n{line}" if pair is comparison.pairs[0] else line)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """With its heads where nobody watches too, unlike other tables: without them it says little."""
    from policyguard.cli.output import print_table
    from policyguard.strict.text import is_terminal

    print_table(heads, rows if is_terminal(sys.stdout) else [heads, *rows], sys.stdout)


def _calls(number: int) -> str:
    return f"{number:,} call{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
