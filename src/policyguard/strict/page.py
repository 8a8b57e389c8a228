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

__all__ = ["BLURRED", "STYLE", "render", "stream"]

BLURRED = """
label.blurred { display: inline-block; position: relative; overflow: hidden; line-height: 0 }
label.blurred input { position: absolute; opacity: 0 }
label.blurred img { filter: blur(14px); cursor: pointer }
label.blurred input:checked + img { filter: none }
label.blurred input:focus-visible + img { outline: 2px solid #1d4ed8 }
"""
"""For images that are blurred until clicked: ``strict/blurred.html``."""

STYLE = (
    BLURRED
    + """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
body { color: #1d2126; background: #fff }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem; border-bottom: 1px solid #d9dde2 }
.small { color: #5b6470; font-size: .85em; overflow-wrap: anywhere }
"""
)
"""For simple pages: readable text, tables, and images that are blurred until clicked."""


def render(template: str, *, style: str = STYLE, script: str = "", **values: Any) -> str:
    """The page that ``template``, a file in the package, makes of ``values``.

    ``style`` and ``script`` are code of ours, never of anybody else's making.
    """
    return "".join(stream(template, style=style, script=script, **values))


def stream(template: str, *, style: str = STYLE, script: str = "", **values: Any) -> Iterator[str]:
    """``render``, piece by piece, for long pages."""
    scripts = f"script-src '{_hash(script)}'; " if script else ""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; {scripts}img-src data:; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )
    page = _environment().get_template(template)
    return page.generate(policy=policy, style=style, script=script, **values)


def _hash(code: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode('ascii')}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parents[1]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else revealed(str(value)),
    )
