"""``policyguard bench``: how good a guard is, in PictoSafe, on the field's benchmarks, and at other tasks."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, warn, warn_of
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, REPLICAS, SUBSET, group
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import is_terminal, one_line

if TYPE_CHECKING:
    from policyguard.authoring.bench import BenchReport, Compared
    from policyguard.dialects import Dialect

__all__ = ["app"]

# The defaults of ``Sizes``, which is not imported for the help.
SCENES, PAIRS, HELD_OUT = 300, 100, 300
MOSTLY = 0.5
PATIENCE = 60.0
"""Seconds of an outage for which a row waits, as in `policyguard check`."""

app = group("Measure guards.")
pictosafe = group("PictoSafe: harmless pictogram scenes with exact labels.")
app.add_typer(pictosafe, name="pictosafe")

_Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same images.")]
_Scenes = Annotated[int, typer.Option("--scenes", min=2, help="How many scenes.")]
_Pairs = Annotated[int, typer.Option("--pairs", min=0, help="How many edit pairs.")]
_HeldOut = Annotated[int, typer.Option("--held-out", min=0, help="How many held-out policies.")]
_Scale = Annotated[int, typer.Option("--scale", min=1, help="Images are 96 pixels a side, times this.")]
_Page = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page of the figures and mistakes too."),
]
_Thumbnails = Annotated[
    bool,
    typer.Option("--thumbnails", help="Put thumbnails of mistakes into the page, blurred until clicked."),
]


@pictosafe.command("make")
@command
def make(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the data set.")],
    seed: _Seed = 0,
    scenes: _Scenes = SCENES,
    pairs: _Pairs = PAIRS,
    held_out: _HeldOut = HELD_OUT,
    scale: _Scale = 1,
) -> ExitCode:
    """Write a data set: images, scenes and labels as JSON lines, and a manifest with hashes."""
    from policyguard.cli.progress import progress_bar
    from policyguard.pictosafe import Sizes, make

    with progress_bar(sys.stderr) as move:
        manifest = make(
            out,
            seed=seed,
            sizes=Sizes(scenes, pairs, held_out),
            scale=scale,
            progress=lambda done, total: move(done, total, "images"),
        )
    print(manifest)
    return ExitCode.OK


@pictosafe.command("run")
@command
def run(
    context: typer.Context,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    replicas: REPLICAS = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="A data set that `make` wrote. Default: drawn in memory."
        ),
    ] = None,
    seed: _Seed = 0,
    scenes: _Scenes = SCENES,
    pairs: _Pairs = PAIRS,
    held_out: _HeldOut = HELD_OUT,
    scale: _Scale = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures and mistakes as JSON.")] = False,
    page: _Page = None,
    thumbnails: _Thumbnails = False,
) -> ExitCode:
    """Run a guard over PictoSafe and print how good it is, beside guards that look at no image.

    pico takes two to three minutes on two cores, and a quarter of a minute with --scenes 20 --pairs 5
    --held-out 5.

    With --data, the folder determines seed, numbers and scale, and none of them can be set.
    """
    from policyguard.cli.output import require_page, write_page
    from policyguard.cli.progress import progress_bar
    from policyguard.guard import Guard
    from policyguard.pictosafe import Sizes, run

    require_page(page, thumbnails=thumbnails)
    if data is not None:
        _refuse_options(context, "seed", "scenes", "pairs", "held_out", "scale")
    with (
        Guard(
            "pictosafe/l3",
            model=model,
            base_url=base_url,
            dialect=dialect,
            replicas=replicas or 1,
        ) as guard,
        progress_bar(sys.stderr) as move,
    ):
        report = run(
            guard,
            data=data,
            seed=seed,
            sizes=Sizes(scenes, pairs, held_out),
            scale=scale,
            progress=lambda done, total: move(done, total, "judged"),
        )
        identity = guard.backend.model
    if as_json:
        print(json.dumps({"model": identity.to_dict()} | report.to_dict(), indent=2))
    else:
        print(f"guard: {identity.id}\n{report.to_text()}")
    if page is not None:
        write_page(page, report.to_html(identity.id, thumbnails=thumbnails))
    return ExitCode.OK


def _refuse_options(context: typer.Context, *names: str) -> None:
    used = []
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            used.append(f"--{name.replace('_', '-')}")
    if used:
        raise UsageError(
            f"--data determines the seed, the numbers and the scale: leave out {', '.join(used)}",
            hint="use them with `policyguard bench pictosafe make`, which writes such a folder",
        )


def _dialect_with(wording: Path, model: str | None, base_url: str | None, dialect: str | None) -> Dialect:
    """The dialect of the model, or the one called ``dialect``, with the sentences in ``wording``."""
    from policyguard.backends.registry import resolve_model, resolve_served
    from policyguard.dialects import get_dialect

    name = model or os.environ.get("POLICYGUARD_MODEL")
    if not (dialect or name):
        raise UsageError("--wording goes with --model or --dialect")
    served = base_url or os.environ.get("POLICYGUARD_BASE_URL")
    known = (resolve_served if served else resolve_model)(name or "")
    return get_dialect(dialect or known.dialect, wording=str(wording))


def _field(benchmark: str, says: str) -> None:
    """Add the command of one of the field's benchmarks."""

    def run(
        folder: Annotated[
            Path,
            typer.Argument(metavar="DIR", help="The data set as you obtained it: a folder, or one table."),
        ],
        model: MODEL = None,
        base_url: BASE_URL = None,
        dialect: DIALECT = None,
        replicas: REPLICAS = None,
        wording: Annotated[
            Path | None,
            typer.Option(
                "--wording",
                metavar="FILE",
                help="The sentences that the model was trained on, from your own copy (docs/guards.md).",
            ),
        ] = None,
        subset: SUBSET = None,
        split: Annotated[str, typer.Option("--split", help="train, validation, test or all.")] = "test",
        images: Annotated[
            Path | None,
            typer.Option(
                "--images", metavar="FOLDER", help="What image paths are relative to. Default: DIR."
            ),
        ] = None,
        policy: Annotated[
            str | None,
            typer.Option(
                "--policy",
                "-p",
                metavar="POLICY",
                help="Judge by this policy, not by the benchmark's own. safeedit: {level} in its name is "
                "l1 to l5. llavaguard: what a row declares of O1 to O9 holds for rules titled so.",
            ),
        ] = None,
        own_category: Annotated[
            bool,
            typer.Option("--own-category", help="unsafebench: ask about the row's category alone."),
        ] = False,
        only: Annotated[
            list[str] | None,
            typer.Option("--only", metavar="GROUP", help="Only rows of this level or category; repeatable."),
        ] = None,
        limit: Annotated[
            int | None,
            typer.Option("--limit", min=1, metavar="N", help="Only N rows, spread evenly over the split."),
        ] = None,
        cache: Annotated[
            str | None,
            typer.Option(
                "--cache",
                metavar="FILE",
                help="Keep the model's scores here: a run that was stopped goes on.",
            ),
        ] = None,
        published: Annotated[
            str | None,
            typer.Option(
                "--published",
                metavar="SYSTEM",
                help="The published system to set beside. Default: the one that the model is, if any; "
                "else the main figure of all.",
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
        page: _Page = None,
        thumbnails: _Thumbnails = False,
    ) -> ExitCode:
        from policyguard.authoring.bench import compare, load_rows, run_rows
        from policyguard.cli.output import require_page, write_page
        from policyguard.cli.progress import progress_bar
        from policyguard.guard import Guard

        if own_category and benchmark != "unsafebench":
            raise UsageError("--own-category goes with unsafebench, whose paper asks so")
        require_page(page, thumbnails=thumbnails)
        loaded = load_rows(
            benchmark,
            folder,
            split=split,
            images=images,
            policy=policy,
            own_category=own_category,
            only=only or (),
            limit=limit,
        )
        policies = list(dict.fromkeys(row.policy for row in loaded.rows))
        guard = Guard(
            policies,
            model=model,
            base_url=base_url,
            dialect=dialect if wording is None else _dialect_with(wording, model, base_url, dialect),
            subset=bool(subset),
            cache=cache,
            patience=PATIENCE,
            replicas=replicas or 1,
        )
        with guard, progress_bar(sys.stderr) as move:
            identity = guard.backend.model.id
            compare(benchmark, {}, model=identity, system=published)  # a wrong name costs no run
            report = run_rows(
                benchmark,
                loaded,
                backend=guard.backend,
                progress=lambda done, total: move(done, total, "judged"),
            )
        figures = {line.key: line.papers for line in report.lines}
        groups = {row.group for row in loaded.rows} if only else ()
        beside = compare(benchmark, figures, model=identity, system=published, groups=groups)
        if as_json:
            print(
                json.dumps(
                    report.to_dict() | {"published": [item.to_dict() for item in beside]},
                    indent=2,
                    allow_nan=False,
                )
            )
        else:
            _print_report(report, beside)
        if page is not None:
            from policyguard.authoring.bench.page import bench_page

            write_page(page, bench_page(report, beside, thumbnails=thumbnails))
        for note in loaded.notes:
            warn(note)
        if "wording=own" in report.model.settings:
            warn("the model was asked in sentences of ours: --wording gives it those it was trained on")
        warn_of([*loaded.problems, *report.unused])
        return ExitCode.OK if report.complete else ExitCode.UNJUDGED

    run.__doc__ = f"""{says}

    Exit code: 0 all rows are in the figures; 3 some are not, and are named; 2 the set-up is wrong.
    """
    app.command(benchmark)(command(run))


_field("safeedit", "SafeEditBench: edit pairs under five policies, by the paper's scorer and by ours.")
_field("unsafebench", "UnsafeBench: eleven categories, two sources, by two papers' scorers and by ours.")
_field("llavaguard", "LlavaGuardBench: nine categories, varying policies, by the paper's scorer and by ours.")


@app.command("general")
@command
def general(
    model: MODEL = None,
    base_url: BASE_URL = None,
    python: Annotated[
        str,
        typer.Option("--python", metavar="PATH", help="The Python of the environment that has lmms-eval."),
    ] = "python",
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where lmms-eval writes its results.")
    ] = Path("lmms-eval"),
    lmms_model: Annotated[
        str | None,
        typer.Option("--lmms-model", metavar="NAME", help="lmms-eval's class. Default: by the model's type."),
    ] = None,
    model_args: Annotated[
        list[str] | None,
        typer.Option("--model-arg", metavar="NAME=VALUE", help="One more argument for it; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Only N questions of each task.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="PATH", help="Run nothing: read these results of lmms-eval."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option("--published", metavar="SYSTEM", help="The published system to set beside."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> ExitCode:
    """MMMU, RealWorldQA, BLINK and MMT-Bench by lmms-eval: what else a model can do.

    Exit code: 0 measured; 3 requests failed, and stand in the figures as answers; 2 the set-up is wrong.
    """
    from policyguard.authoring.bench import compare
    from policyguard.authoring.bench.run import percent
    from policyguard.train.general import command as command_for
    from policyguard.train.general import read, run

    name = model or os.environ.get("POLICYGUARD_MODEL") or ""
    compare("general", {}, model=name, system=published)
    if results is not None:
        found = read(results)
    else:
        if not name:
            raise UsageError("which model?", hint="--model NAME, with --base-url as the server calls it")
        address = base_url or os.environ.get("POLICYGUARD_BASE_URL") or None
        asked = command_for(
            name,
            out=out,
            python=python,
            base_url=address,
            lmms_model=lmms_model,
            model_args=model_args or (),
            limit=limit,
        )
        if dry_run:
            print(shlex.join(asked))
            return ExitCode.OK
        found = run(asked, out=out, api_key=os.environ.get("POLICYGUARD_API_KEY") or None)
    told = found.to_dict()
    here = {task: {"safeguard-vl": value} for task, value in told["figures"].items()}
    beside = compare("general", here, model=name, system=published)
    if as_json:
        print(
            json.dumps(told | {"published": [item.to_dict() for item in beside]}, indent=2, allow_nan=False)
        )
    else:
        for task, value in told["figures"].items():
            asked_of = f" of {told['samples'][task]:,}" if told["samples"].get(task) else ""
            print(f"{task:<12} {percent(value):>6}%{asked_of}")
        print()
        _print_compared(beside)
    if found.failed:
        warn(f"{found.failed:,} requests failed, and lmms-eval takes each for an answer: run it again")
    return ExitCode.UNJUDGED if found.failed else ExitCode.OK


def _print_report(report: BenchReport, beside: Sequence[Compared]) -> None:
    from policyguard.authoring.bench.run import interval, percent
    from policyguard.cli.output import print_table

    told = report.to_dict()
    rows, scorers = told["rows"], report.scorers
    print(f"{told['title']}: {rows['judged']:,} of {rows['split']:,} rows, {rows['unsafe']:,} of them unsafe")
    dialect = f" in dialect {report.model.dialect}" if report.model.dialect else ""
    print(f"guard: {report.model.id}{dialect}, under {told['policies']:,} policies")
    silent = ", ".join(f"{number:,} {name}" for name, number in report.silent.items()) or "none"
    print(f"without an answer: {percent(report.silence)}% ({silent})")
    for reason, number in report.reasons.most_common(3):
        print(f"  {number:,}: {one_line(reason)}")
    print(f"not counted: {len(rows['bad']):,} bad rows, {len(report.unused):,} images or calls that failed")
    if not report.judged:
        return
    if not told["scores"]:
        print("the guard gives no scores: these are figures of its ratings alone")
    if report.silence > MOSTLY:
        print("most rows have no answer: the figures say how silence counts, and little of the guard")
    print()
    heads = ["group", "figure", "rows", "unsafe", "silent", *scorers, "ours [95%]"]
    body = [
        [
            *(line.group, line.metric, str(line.rows), str(line.unsafe), str(line.silent)),
            *(percent(line.papers.get(name)) for name in scorers),
            interval(line.ours),
        ]
        for line in report.lines
    ]
    print_table(heads, body if is_terminal(sys.stdout) else [heads, *body], sys.stdout)
    print()
    for name, says in told["scorers"].items():
        print(f"{name}: {says}")
    if beside:
        print()
        _print_compared(beside)


def _print_compared(beside: Sequence[Compared]) -> None:
    from policyguard.authoring.bench.run import percent
    from policyguard.cli.output import print_table

    heads = ["system", "figure", "here", "published", "difference", "source"]
    rows = [
        [
            *(item.system, item.figure, percent(item.here), percent(item.published)),
            "–" if item.difference is None else f"{100 * item.difference:+.2f}",
            item.source,
        ]
        for item in beside
    ]
    print_table(heads, rows if is_terminal(sys.stdout) else [heads, *rows], sys.stdout)
