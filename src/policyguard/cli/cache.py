"""``policyguard cache``: inspect the verdict cache, empty it, check it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import STYLE, TextOrJson, group
from policyguard.errors import ConfigurationError
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import printable

if TYPE_CHECKING:
    from policyguard.cache.upkeep import Contents

__all__ = ["app"]

app = group("Inspect the verdict cache, empty it, or check it.")

PATH = Annotated[
    str | None,
    typer.Argument(
        metavar="PATH",
        help="The cache file. Default: POLICYGUARD_CACHE, else policyguard/verdicts.sqlite in XDG_CACHE_HOME "
        "or ~/.cache.",
        show_default=False,
    ),
]
SAME = Annotated[str | None, typer.Option("--cache", hidden=True)]
"""As ``policyguard check`` calls it."""


@app.command("info")
@command
def info(path: PATH = None, cache_file: SAME = None, style: STYLE = TextOrJson.TEXT) -> ExitCode:
    """Show how much the cache holds, and since when."""
    from policyguard.cache.upkeep import inspect

    contents = inspect(_path(path or cache_file), thorough=False)
    _print(contents, style, ("path", "bytes", "entries", "oldest", "newest", "problem"))
    return ExitCode.OK if contents.problem is None else ExitCode.BLOCKED


@app.command("clear")
@command
def clear(path: PATH = None, cache_file: SAME = None, style: STYLE = TextOrJson.TEXT) -> ExitCode:
    """Delete all entries. Processes that use the file can go on using it.

    A damaged file is left as it is: a guard that uses it sets it aside and starts a new one.
    """
    from policyguard.cache import SqliteCache
    from policyguard.cache.upkeep import inspect

    where = _path(path or cache_file)
    before = inspect(where, thorough=False)
    if before.problem is not None:
        raise ConfigurationError(f"{where} cannot be read: {before.problem}", hint="delete the file")
    cache = SqliteCache(where, busy_timeout=10.0)
    removed = cache.clear()
    cache.close()
    left = inspect(where, thorough=False)
    if before.entries and not removed and left.entries:
        raise ConfigurationError(
            f"{where} could not be emptied", hint="is another process writing to it? try again"
        )
    if style is TextOrJson.JSON:
        print(json.dumps({"path": str(where), "removed": removed, "entries": left.entries}))
    else:
        print(f"{printable(str(where))}: {removed} entries deleted")
    return ExitCode.OK


@app.command("verify")
@command
def verify(path: PATH = None, cache_file: SAME = None, style: STYLE = TextOrJson.TEXT) -> ExitCode:
    """Read the whole cache and check the file, every entry and its checksum. Changes nothing.

    Exit code: 0 no damage; 1 something is damaged (a guard that uses the cache ignores it); 2 there is no
    cache. Checksums detect damage, but not entries forged by somebody with access to the file.
    """
    from policyguard.cache.upkeep import inspect

    contents = inspect(_path(path or cache_file), thorough=True)
    _print(contents, style, ("path", "bytes", "entries", "damaged", "problem"))
    return ExitCode.BLOCKED if contents.damaged or contents.problem is not None else ExitCode.OK


def _path(path: str | None) -> Path:
    from policyguard.cache import default_path

    return Path(path).expanduser() if path else default_path()


def _print(contents: Contents, style: TextOrJson, fields: tuple[str, ...]) -> None:
    values = {name: getattr(contents, name) for name in fields}
    if style is TextOrJson.JSON:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if value is not None:
            text = _time(value) if name in ("oldest", "newest") else str(value)
            print(f"{name + ':':<9}{printable(text)}")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
