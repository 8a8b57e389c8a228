"""Build the documentation site: ``make docs``, or ``python docs/build.py``. It is left in build/site.

Pages are plain Markdown that reads well on a Git host too. For the site,

- they are copied to build/pages as they lie here, with each Markdown page outside of docs/ that one of them
  links to, so that links hold on both; a link to what is no part of the site becomes its bare text;
- each row of public-api.md gets a page, which mkdocstrings fills from the docstrings;
- the navigation is read from README.md, the index (``## Part``, then ``- [title](page)``), that of commands
  and modules from cli.md and public-api.md. A page of docs/ that it does not name is an error.

Zensical, the successor of Material for MkDocs, builds it, and stops at a broken link or anchor. Nothing is
fetched, neither here nor by a reader's browser: a page that would load something from elsewhere is an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LOADS = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>|<link\b[^>]*>")
HARMLESS = re.compile(r"rel=[\"']?(?:canonical|next|prev)\b|href=[\"']?(?!(?:https?:)?//)")


def links(text: str) -> list[re.Match[str]]:
    """The links to files, those in code left out."""
    code = [found.span() for found in CODE.finditer(text)]
    return [link for link in LINK.finditer(text) if not any(a <= link.start() < b for a, b in code)]


def page_at(target: Path) -> Path | None:
    """The Markdown page that a link to this file or folder leads to."""
    target = target / "README.md" if target.is_dir() else target
    return target if target.suffix == ".md" and target.is_file() else None


def reachable() -> set[Path]:
    """Every page in docs/, and every page that one leads to."""
    todo, found = [ROOT / "README.md", *DOCS.rglob("*.md")], set[Path]()
    while todo:
        page = todo.pop()
        if page not in found:
            found.add(page)
            leads = (page_at((page.parent / link[2]).resolve()) for link in links(page.read_text("utf-8")))
            todo.extend(lead for lead in leads if lead)
    return found


def for_site(page: Path) -> str:
    """The page's text, its links made to hold on the site."""
    text = page.read_text(encoding="utf-8")
    for link in reversed(links(text)):
        words, path, anchor = link.groups()
        target = (page.parent / path).resolve()
        lead = page_at(target)
        if lead:
            to = f"[{words}]({Path(os.path.relpath(lead, page.parent)).as_posix()}{anchor or ''})"
        elif target.exists() and target.parent != DOCS:
            to = words
        else:
            to = link[0]  # one that leads nowhere is left for Zensical to name
        text = text[: link.start()] + to + text[link.end() :]
    return text


def write_api(pages: Path) -> list[dict[str, str]]:
    """A page per public module, and links to them in the table; their entries of the navigation."""
    table = pages / "docs" / "public-api.md"
    text = table.read_text(encoding="utf-8")
    (pages / "docs" / "api").mkdir()
    entries = []
    for name, use, names in re.findall(r"^\| `(policyguard[\w.]*)` \| (.*) \| (.*) \|$", text, re.MULTILINE):
        members = "".join(f"        - {member}\n" for member in re.findall(r"`(\w+)`", names))
        page = f"# {name}\n\nFor: {use}.\n\n::: {name}\n    options:\n      members:\n{members}"
        (pages / "docs" / "api" / f"{name}.md").write_text(page, encoding="utf-8")
        text = text.replace(f"| `{name}` |", f"| [`{name}`](api/{name}.md) |")
        entries.append({name: f"docs/api/{name}.md"})
    table.write_text(text, encoding="utf-8")
    return entries


def commands(page: Path) -> list[Any]:
    """The entries of the commands that the page of a group links to."""
    marked = re.search(r"<!-- commands of: .*? -->\n(.*?)<!-- end", page.read_text("utf-8"), re.DOTALL)
    entries: list[Any] = []
    for link in links(marked[1]) if marked else ():
        sub = (page.parent / link[2]).resolve()
        path, below = sub.relative_to(ROOT).as_posix(), commands(sub)
        entries.append({link[1]: [path, *below] if below else path})
    return entries


def navigation(api: list[dict[str, str]]) -> list[Any]:
    """The index's parts and lists of links, with what lies below the command line and the modules."""
    below: dict[str, list[Any]] = {"cli.md": commands(DOCS / "cli.md"), "public-api.md": api}
    nav: list[Any] = [{"Home": "README.md"}, {"All pages": "docs/README.md"}]
    for part in (DOCS / "README.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        entries: list[Any] = []
        for name, page in re.findall(r"^- \[([^\]]+)\]\(([^)]+)\)", part, re.MULTILINE):
            path = (DOCS / page).resolve().relative_to(ROOT).as_posix()
            entries.append({name: [path, *below[page]] if page in below else path})
        nav.append({part.partition("\n")[0]: entries})
    return nav


def main() -> int:
    pages, site = BUILD / "pages", BUILD / "site"
    for old in (pages, site):
        shutil.rmtree(old, ignore_errors=True)
    for page in reachable():
        to = pages / page.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(for_site(page), encoding="utf-8")
    for other in DOCS.iterdir():
        if other.suffix in (".png", ".json"):
            shutil.copy(other, pages / "docs")
    nav = json.dumps(navigation(write_api(pages)))
    settings = tomllib.loads((DOCS / "site.toml").read_text(encoding="utf-8"))
    (BUILD / "mkdocs.yml").write_text(json.dumps(settings)[:-1] + f', "nav": {nav}}}', encoding="utf-8")

    wrong = [
        f"{page.relative_to(pages)}: not in the lists of docs/README.md"
        for page in (pages / "docs").rglob("*.md")
        if f'"{page.relative_to(pages).as_posix()}"' not in nav
    ]
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if subprocess.run(command, cwd=BUILD, check=False).returncode:
        wrong.append("zensical: see above")
    wrong += [
        f"{page.relative_to(site)}: loads from elsewhere: {tag}"
        for page in site.rglob("*.html")
        for tag in LOADS.findall(page.read_text(encoding="utf-8"))
        if not (tag.startswith("<link") and HARMLESS.search(tag))
    ]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
