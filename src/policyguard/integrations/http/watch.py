"""Images that are written piece by piece, over the events of a stream.

Covered: data URIs, base64 of image files, and images by URL in Markdown and HTML, that grow at one place of
the events. Not covered: images in any other encoding that no single event shows to be one, and images whose
pieces stand at different places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from policyguard.integrations.extract import ImageSite, SiteKind
from policyguard.integrations.extract.magic import sniff_base64
from policyguard.strict.lru import LruDict

__all__ = ["Watch"]

#: The beginning of an image in text: a data URI; a link in Markdown or HTML.
_BEGINNING = re.compile(
    r"data:image\\?/(?![^,\s\"')]{0,100};\s*base64,)[^,\s\"')]{0,100},[^\s\"')]{16}"
    r"|data:image\\?/[^,\s\"')]{0,100};\s*base64,[A-Za-z0-9+/_%\\=-]{16}",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"!\[[^\]]{0,200}\]\(\s*<?https?://|<img\b[^>]{0,200}?\bsrc\s*=\s*\\?[\"']?\s*(?:https?:)?//",
    re.IGNORECASE,
)
_CODE = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{32}")


class Watch:
    """Joins the text at each place of the events (``choices/0/delta/content``) and looks at what grows there.

    An image whose beginning has passed must not get its rest through.
    """

    _KEPT = 300  # characters per place: more than such a beginning
    _SEARCHED = 4096  # of each text: what begins further on stands in the text alone, or at its end
    _PLACES = 4096

    def __init__(self, *, links: bool) -> None:
        self._links = links
        self._tails: LruDict[str, tuple[str, int]] = LruDict(self._PLACES)

    def over(self, payloads: Iterable[Any], *, judged: bool) -> ImageSite | None:
        """An unreadable site if the texts of an event complete the beginning of an image.

        ``judged``: the images that stand in this event alone are judged.
        """
        site = None
        tails: dict[str, tuple[str, int]] = {}
        for payload in payloads:
            for place, text in _texts(payload):
                tail, start = tails.get(place) or self._tails.get(place) or ("", 0)
                joined = tail + text[: self._SEARCHED]
                begins = list(self._beginnings(joined, start))
                if site is None and any(at < len(tail) or not judged for at in begins):
                    problem = "an image is written piece by piece, and cannot be judged before it passes"
                    site = ImageSite(f"{place}#pieces", SiteKind.UNREADABLE, problem=problem)
                if len(text) > self._SEARCHED:
                    joined, start = text[-self._KEPT :], 1
                    begins = list(self._beginnings(joined, start))
                cut = max(0, len(joined) - self._KEPT)
                # What stands at the cut may be a piece of something longer.
                start = max(1 if cut else 0, *(at + 1 - cut for at in (start - 1, *begins)))
                tails[place] = (joined[cut:], start)
        for place, ending in tails.items():
            self._tails.put(place, ending)
        return site

    def _beginnings(self, text: str, start: int) -> Iterator[int]:
        """Where images begin in ``text``, from ``start`` on."""
        for pattern in (_BEGINNING, _LINK) if self._links else (_BEGINNING,):
            yield from (match.start() for match in pattern.finditer(text, start))
        for code in _CODE.finditer(text, start):
            if sniff_base64(code[0]) is not None:
                yield code.start()


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, str):
            if item:
                yield place, item
        elif isinstance(item, dict):
            stack.extend((f"{place}/{key}", inner) for key, inner in item.items())
        elif isinstance(item, list):
            stack.extend((f"{place}/{number}", inner) for number, inner in enumerate(item))
