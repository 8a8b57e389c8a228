"""docs/cli.md and docs/cli/, a page per command: their help and links are what the program has.

Run ``python tests/cli/help_docs.py`` to write them anew. What people wrote around the marked blocks stays.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from unittest.mock import patch

import typer

from policyguard.cli import main
from policyguard.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
FOLDER = PAGE.with_suffix("")
_BLOCK = re.compile(r"(<!-- (help|commands) of: ([a-z -]+) -->\n).*?(<!-- end of \2 -->\n)", re.DOTALL)


def tree() -> dict[str, list[str]]:
    """Every command as it is typed, groups included, with the commands below it in help's order."""
    found: dict[str, list[str]] = {}

    def walk(command: object, name: str) -> None:
        subs = getattr(command, "commands", {})
        named = [inner for section in getattr(command, "sections", {}).values() for inner in section]
        names = [*named, *(inner for inner in subs if inner not in named)]
        found[name] = [f"{name} {inner}" for inner in names]
        for inner in names:
            walk(subs[inner], f"{name} {inner}")

    walk(typer.main.get_command(app), "policyguard")
    return found


def page_of(command: str) -> Path:
    words = command.split()[1:]
    return FOLDER / f"{'-'.join(words)}.md" if words else PAGE


def help_of(command: str) -> str:
    """What ``command --help`` prints in a terminal of 80 columns."""
    printed = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "80"}), contextlib.redirect_stdout(printed):
        assert main([*command.split()[1:], "--help"]) == 0
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def links_of(command: str, commands: dict[str, list[str]]) -> str:
    folder = page_of(command).parent
    subs = ((sub.split()[-1], page_of(sub).relative_to(folder).as_posix()) for sub in commands[command])
    return f"A page for each: {' · '.join(f'[{name}]({page})' for name, page in subs)}"


def pages() -> dict[Path, str]:
    """Each page as it should be: today's help and lists, in the text that is there."""
    commands, made = tree(), {}

    def block(found: re.Match[str]) -> str:
        begin, kind, command, end = found.groups()
        now = f"```text\n{help_of(command)}\n```" if kind == "help" else links_of(command, commands)
        return f"{begin}{now}\n{end}"

    for command in commands:
        page = page_of(command)
        text = (
            page.read_text(encoding="utf-8") if page.exists() else f"# {command}\n\n{_marks(command, 'help')}"
        )
        if commands[command] and f"<!-- commands of: {command} -->" not in text:
            text += f"\n{_marks(command, 'commands')}"
        if not page.exists():
            text += "\nExit codes, output and settings that hold for all: [the command line](../cli.md).\n"
        made[page] = _BLOCK.sub(block, text)
    return made


def _marks(command: str, kind: str) -> str:
    return f"<!-- {kind} of: {command} -->\n<!-- end of {kind} -->\n"


def shown(page: str) -> set[str]:
    """The commands whose help is on the page."""
    return {command for _, kind, command, _ in _BLOCK.findall(page) if kind == "help"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
