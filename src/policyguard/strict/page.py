"""HTML pages of one file each, which fetch nothing: Jinja2 templates that extend ``strict/page.html``.

Covered: whatever a template puts in is escaped, with hidden characters shown as escapes; a content policy in
the page forbids requests and all styles and scripts but the page's own, which it names by their hashes, and
forbids scripts to turn text into markup. Images are in a page only where asked for: small, and blurred until
clicked. Not covered: a blurred image is still in the file, so the page is as sensitive as its images.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.strict.text import revealed

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["asset", "render", "stream"]

_ROOT = Path(__file__).parents[1]


def render(template: str, *, style: str = "", script: str = "", **values: Any) -> str:
    """The page that ``template``, a file in the package, makes of ``values``.

    ``style`` is what it needs besides ``strict/page.css``. It and ``script`` are code of ours, never of
    anybody else's making.
    """
    return "".join(stream(template, style=style, script=script, **values))


def stream(template: str, *, style: str = "", script: str = "", **values: Any) -> Iterator[str]:
    """``render``, piece by piece, for long pages."""
    style = asset("strict/page.css") + style
    scripts = f"script-src '{_hash(script)}'; " if script else ""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; {scripts}img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )
    page = _environment().get_template(template)
    return page.generate(policy=policy, style=style, script=script, **values)


@cache
def asset(path: str) -> str:
    """The text of a file in the package, a style sheet or a script."""
    return (_ROOT / path).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode('ascii')}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        autoescape=True,
        loader=FileSystemLoader(_ROOT),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else revealed(str(value)),
    )
