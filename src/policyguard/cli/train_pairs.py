"""``policyguard train pairs`` and ``pairs-rows``: edited safe twins of unsafe images, and rows of them."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, warn_of
from policyguard.cli.options import BASE_URL, DIALECT, MODEL
from policyguard.cli.progress import progress_bar
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from policyguard.train.pairs import Decision, Editor

__all__ = ["pairs", "pairs_rows"]


class _Editor(StrEnum):
    GEMINI = "gemini"
    DIFFUSERS = "diffusers"
    PICTOSAFE = "pictosafe"


@command
def pairs(
    images: Annotated[Path, typer.Argument(help="A folder of images, or a .jsonl file of rows.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder for the pairs.")],
    policy: Annotated[str, typer.Option(help="The policy to edit for.")],
    editor: Annotated[_Editor, typer.Option(help="What edits.")],
    also: Annotated[
        list[str] | None, typer.Option(help="Label both images under this policy too; may be repeated.")
    ] = None,
    editor_model: Annotated[
        str | None, typer.Option(help="The editor's model: a Gemini model, a diffusers pipeline.")
    ] = None,
    scenes: Annotated[
        Path | None, typer.Option(help="For pictosafe: the folder of the scenes, or a .jsonl file.")
    ] = None,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    source: Annotated[str | None, typer.Option(help="For a folder: where the images come from.")] = None,
    licence: Annotated[str | None, typer.Option(help="For a folder: what they may be used for.")] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Edits to try per image.")] = 3,
    max_region: Annotated[float, typer.Option(help="Share of the image that an edit may touch.")] = 0.35,
    max_outside: Annotated[float, typer.Option(help="Mean difference outside it, in levels.")] = 4.0,
    workers: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 4,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Put thumbnails into the sheet, blurred until clicked.")
    ] = False,
) -> ExitCode:
    """Find what violates, edit it away, check the twin, and write a review sheet.

    Started again, it continues where it stopped. The exit code is 1 if an image gave no pair.
    """
    from policyguard.guard import Guard
    from policyguard.strict.files import check_place
    from policyguard.train.pairs import Limits, Report, make_pairs
    from policyguard.train.recaption.recipe import collect
    from policyguard.train.recipe import Images

    if images.is_dir() and (source is None or licence is None):
        raise UsageError(
            "say where the images come from and what they may be used for",
            hint="--source 'our own photos' --licence ours",
        )
    selection = (
        Images(folder=str(images), source=source, licence=licence)
        if images.is_dir()
        else Images(rows=[str(images)])
    )
    limits = Limits(max_region, max_outside)
    check_place(out, name="FOLDER", folder=True)
    tasks, problems = collect(selection)
    decisions = _decisions(out)
    first = Guard(policy, model=model, base_url=base_url, dialect=dialect)
    guards = {policy: first, **{name: first.with_policy(name) for name in also or []}}

    async def work() -> Report:
        chosen = _editor(editor, editor_model, scenes)
        try:
            with progress_bar(sys.stderr) as move:
                return await make_pairs(
                    tasks,
                    out,
                    guards=guards,
                    editor=chosen,
                    limits=limits,
                    attempts=attempts,
                    workers=workers,
                    progress=move,
                )
        finally:
            await chosen.close()

    try:
        report = asyncio.run(work())
    finally:
        first.close()
    for line in report.lines:
        print(one_line(line))
    problems = [*problems, *report.problems]
    warn_of(problems)
    _write_sheet(out, decisions, thumbnails)
    return ExitCode.BLOCKED if problems else ExitCode.OK


def _decisions(out: Path) -> list[Decision]:
    """The reviewers' decisions so far. Raises UsageError rather than lose a line of them."""
    from policyguard.train.pairs import read_candidates, read_review
    from policyguard.train.pairs.candidate import CANDIDATES
    from policyguard.train.pairs.review import REVIEW

    if not (out / CANDIDATES).exists() or not (out / REVIEW).exists():
        return []
    decisions, problems = read_review(out / REVIEW, read_candidates(out))
    if problems:
        raise UsageError("\n".join(map(str, problems)), hint="fix these lines first, or move the file away")
    return decisions


def _write_sheet(out: Path, decisions: Sequence[Decision], thumbnails: bool) -> None:
    """Write the sheet and the CSV, with the decisions so far in both."""
    from policyguard.strict.files import write_bytes, write_text
    from policyguard.train.pairs import read_candidates, review_csv, review_page
    from policyguard.train.pairs.candidate import CANDIDATES
    from policyguard.train.pairs.review import REVIEW

    if not (out / CANDIDATES).exists():
        return
    candidates = read_candidates(out)
    write_bytes(out / REVIEW, review_csv(candidates, decisions).encode())
    write_text(out / "review.html", review_page(candidates, decisions, out, images=thumbnails))
    print(f"open {out / 'review.html'}, decide, and save its CSV over {out / REVIEW}")
    print(f"then: policyguard train pairs-rows {out}")


def _editor(kind: _Editor, model: str | None, scenes: Path | None) -> Editor:
    if kind is _Editor.GEMINI:
        from policyguard.train.pairs.editors import GeminiEditor

        return GeminiEditor(model) if model else GeminiEditor()
    if kind is _Editor.DIFFUSERS:
        from policyguard.train.pairs.editors import DiffusersEditor

        if model is None:
            raise UsageError("name the pipeline", hint="--editor-model Qwen/Qwen-Image-Edit")
        return DiffusersEditor(model)
    from policyguard.train.pairs.editors import PictoEditor

    if scenes is None:
        raise UsageError(
            "PictoSafe's editor needs the scenes",
            hint="--scenes FOLDER, as `policyguard bench pictosafe make FOLDER` makes it",
        )
    return PictoEditor.from_path(scenes)


@command
def pairs_rows(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `train pairs` has filled.")],
    review: Annotated[Path | None, typer.Option(help="The CSV. Default: review.csv in the folder.")] = None,
) -> ExitCode:
    """Write rows.jsonl and safeedit.jsonl from the pairs that reviewers have accepted.

    The exit code is 1 if a line of the CSV is wrong.
    """
    from policyguard.train.pairs import export_pairs, read_candidates, read_review
    from policyguard.train.pairs.review import REVIEW

    decisions, problems = read_review(review or folder / REVIEW, read_candidates(folder))
    warn_of(problems)
    for line in export_pairs(folder, decisions).lines:
        print(one_line(line))
    return ExitCode.BLOCKED if problems else ExitCode.OK
