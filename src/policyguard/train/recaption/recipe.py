"""From a recaption recipe to a job: images, chats, bounds, checked before the first model is loaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policyguard.backends.remote.endpoint import Endpoint
from policyguard.errors import ConfigurationError, Problem
from policyguard.strict.files import check_place
from policyguard.train.data import CaptionRow, LabelRow, read_rows
from policyguard.train.importers.images import find_images
from policyguard.train.recaption.chat import Chat, OpenAIChat
from policyguard.train.recaption.job import Report, Task, recaption
from policyguard.train.recaption.local_chat import LocalChat
from policyguard.train.recaption.prompts import REQUEST
from policyguard.train.recipe import ChatModel, Images, RecaptionRecipe

__all__ = ["collect", "inspect", "run"]


def collect(images: Images) -> tuple[list[Task], list[Problem]]:
    """The images a recipe names, each once and all of them there, and what is left out.

    Raises ConfigurationError.
    """
    tasks: list[Task] = []
    problems: list[Problem] = []
    if bool(images.rows) == bool(images.folder):
        raise ConfigurationError(
            "images: name either `rows` or a `folder`", hint="images: {rows: data/rows.jsonl}"
        )
    if images.folder is not None:
        if images.source is None or images.licence is None:
            raise ConfigurationError(
                "images.folder: say where the images come from and what they may be used for",
                hint="images: {folder: photos, source: our own, licence: ours}",
            )
        root = Path(images.folder).expanduser()
        paths, problems = find_images(root)
        tasks += [Task(path, images.source, images.licence) for path in paths]
    seen: set[str] = set()
    for name in images.rows:
        read = _rows(Path(name).expanduser())
        problems += read.problems
        for row in read.rows:
            if row.sha256 not in seen:
                seen.add(row.sha256)
                path = read.folder / row.image
                tasks.append(Task(path, row.source, row.licence, row.sha256, row.split))
    if not tasks:
        raise ConfigurationError("there are no images to caption", hint="check `images` in the recipe")
    there = {task: _is_file(task.path) for task in tasks}
    problems += [Problem("there is no such image", str(task.path)[:500]) for task in tasks if not there[task]]
    return [task for task in tasks if there[task]], problems


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def inspect(recipe: RecaptionRecipe) -> tuple[list[Task], list[str], list[Problem]]:
    """Check everything that costs nothing: images, request, servers' addresses, the file to write.

    Gives the images, notes, and what is left out.

    Raises ConfigurationError.
    """
    tasks, problems = collect(recipe.images)
    request = recipe.request or REQUEST
    try:
        CaptionRow(
            image="x", sha256="0" * 64, source="x", licence="x", prompt=request, caption="a plain picture"
        )
    except ValueError:
        raise ConfigurationError(
            "request: it asks for a judgement, and captions hold none",
            hint=f"leave it out for the default: {REQUEST!r}",
        ) from None
    if recipe.checks.min_growth > recipe.checks.max_growth:
        raise ConfigurationError("checks: min_growth is over max_growth")
    out = Path(recipe.out).expanduser()
    check_place(out, name="out", folder=False)
    if any(out.resolve() == Path(name).expanduser().resolve() for name in recipe.images.rows):
        raise ConfigurationError(f"out: {out} is the file of images.rows", hint="name another file")
    notes = [f"{len(tasks):,} images, edited in mode '{recipe.mode}'"]
    places = [f"{key}: {_place(getattr(recipe, key), key)}" for key in ("captioner", "editor")]
    notes.append("; ".join(places))
    return tasks, notes, problems


def run(
    recipe: RecaptionRecipe,
    *,
    progress: Callable[[int, int | None, str], None] = lambda done, total, words: None,
    chats: tuple[Chat, Chat] | None = None,
) -> Report:
    """Do the job. ``chats``: captioner and editor to use in place of the recipe's.

    Raises ConfigurationError. Finished rows are on the disk whatever happens.
    """
    tasks, _, problems = inspect(recipe)
    out = Path(recipe.out).expanduser()

    async def work() -> Report:
        captioner, editor = chats or (_chat(recipe.captioner, recipe), _chat(recipe.editor, recipe))
        try:
            report = await recaption(
                tasks,
                out,
                captioner=captioner,
                editor=editor,
                mode=recipe.mode,
                request=recipe.request or REQUEST,
                checks=recipe.checks,
                workers=recipe.workers,
                seed=recipe.seed,
                progress=progress,
            )
            report.problems[:0] = problems
            return report
        finally:
            await captioner.close()
            await editor.close()

    return asyncio.run(work())


def _chat(settings: ChatModel, recipe: RecaptionRecipe) -> Chat:
    sampling: dict[str, Any] = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
    }
    if settings.base_url is None:
        return LocalChat(settings.model, device=settings.device, max_pixels=settings.max_pixels, **sampling)
    return OpenAIChat(
        settings.model,
        settings.base_url,
        api_key=os.environ.get(settings.api_key_env) or None,
        timeout=settings.timeout,
        attempts=settings.attempts,
        connections=recipe.workers,
        **sampling,
    )


def _place(settings: ChatModel, key: str) -> str:
    if settings.base_url is None:
        return f"{settings.model} in this process"
    try:
        return f"{settings.model} on {Endpoint.parse(settings.base_url).host}"
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{key}.{error.message}",
            hint=f"{error.hint}; for a model in this process, {key}.base_url=null",
        ) from None


def _rows(path: Path) -> Any:
    """Label rows, else caption rows, whichever the file holds more of."""
    labels = read_rows(path, LabelRow)
    if not labels.problems:
        return labels
    captions = read_rows(path, CaptionRow)
    return captions if len(captions.rows) > len(labels.rows) else labels
