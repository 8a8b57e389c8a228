"""Pages to read a sample: one HTML file each, which fetches nothing.

Covered: all texts are escaped, hidden characters are shown, a content policy in the page forbids requests
and all scripts but the page's own. Pictures are in it only where asked for: small, and blurred until
clicked. Not covered: a blurred picture is still in the file, so the page is as sensitive as its pictures.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from policyguard.strict.text import find_forbidden

__all__ = [
    "document",
    "text",
]


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
body { color: #1d2126; background: #fff }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem; border-bottom: 1px solid #d9dde2 }
.small { color: #5b6470; font-size: .85em; overflow-wrap: anywhere }
label.picture { display: inline-block; position: relative; overflow: hidden; line-height: 0 }
label.picture input { position: absolute; opacity: 0 }
label.picture img { filter: blur(14px); cursor: pointer }
label.picture input:checked + img { filter: none }
label.picture input:focus-visible + img { outline: 2px solid #1d4ed8 }
"""


def text(words: object) -> str:
    """``words`` for the page: escaped, with hidden characters as escapes."""
    shown = str(words)
    if find_forbidden(shown) is not None:
        shown = "".join(
            char if find_forbidden(char) is None else char.encode("unicode_escape", "surrogatepass").decode()
            for char in shown
        )
    return html.escape(shown, quote=True)


def document(title: str, body: Sequence[str], *, style: str = "", script: str = "") -> str:
    """The whole page. ``script`` is code of ours, never of anybody else's making."""
    allowed = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        allowed = f"; script-src 'sha256-{digest}'"
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
        + allowed
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{text(title)}</title><style>{_STYLE}{style}</style></head><body>",
            *body,
            *([f"<script>{script}</script>"] if script else []),
            "</body></html>",
            "",
        ]
    )
