"""The HTML report as a document: self-contained, and nobody's words in it are markup. What it looks like and
does in a browser is in tests/browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from policyguard.images import decode
from policyguard.images.written import thumbnail
from policyguard.runs.reports.html import embedded_json
from policyguard.runs.run import CheckedImage, ImageStatus, PolicyInfo, RunInfo
from runs.reports.support import ADS, HOUSE, SECRET, every_kind, finding, image, run_info, stopped, written

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--<script>",
    "' onmouseover='alert(1)",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "\u2028\u202egnp.exe\x00\x1b]0;x\x07",
    "]]>",
]


class Page(HTMLParser):
    """The elements of a page, with attributes, and the text of its JSON blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self.scripts: list[str] = []
        self.style = ""
        self._inside: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            return
        tag, attributes = self._inside
        if tag == "style":
            self.style += data
        elif attributes.get("type") == "application/json":
            self.data[attributes["id"] or ""] = json.loads(data)
        else:
            self.scripts.append(data)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Elements and the names of their attributes, which no text may change."""
        return [(tag, tuple(sorted(attributes))) for tag, attributes in self.elements]

    @property
    def rules(self) -> dict[str, str]:
        """The content policy."""
        (text,) = (a["content"] for _, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")
        parts = (part.strip().partition(" ") for part in (text or "").split(";"))
        return {name: value for name, _, value in parts}


def page(folder: Path, images: list[CheckedImage], **options: Any) -> Page:
    return Page(written(folder, "html", images, **options))


def hostile_run(words: str) -> tuple[list[CheckedImage], RunInfo, dict[str, Any]]:
    """A run in which everything that somebody else may say is ``words``."""
    bad = image(words, ImageStatus.FAILED, finding(title=words), rationale=words, reason=words)
    # A policy holds whole characters alone, and one line in each text.
    line = " ".join(words.encode("utf-8", "replace").decode().split()) or "x"
    titled = HOUSE.rules[0].model_copy(update={"title": line, "unsafe": (line,)})
    policy = replace(HOUSE, title=line, description=line, rules=(titled, *HOUSE.rules[1:]))
    policies = (PolicyInfo(policy, words, words), PolicyInfo(ADS, "team/ads"))
    info = run_info(policies=policies, command=("policyguard", words), version=words)
    ending = stopped() | {"problems": (words,)}
    ending["unchecked"] = (replace(ending["unchecked"][0], path=words, reason=words),)
    return [bad, image("plain.png", ImageStatus.UNJUDGED, reason=words)], info, ending


@pytest.mark.parametrize("words", HOSTILE)
def test_nothing_that_anybody_says_is_markup(words: str, tmp_path: Path) -> None:
    images, info, ending = hostile_run(words)
    plain_images, plain_info, plain_ending = hostile_run("plain")
    found = page(tmp_path, images, info=info, **ending)
    plain = page(tmp_path, plain_images, info=plain_info, **plain_ending)
    assert plain.shape == found.shape
    assert (plain.scripts, plain.rules) == (found.scripts, found.rules)


@given(st.text(st.characters(codec=None)))
def test_data_in_the_page_cannot_end_its_block_and_reads_back(words: str) -> None:
    text = embedded_json({"x": words})
    assert not set("<>&\u2028\u2029\n") & set(text)
    read = json.loads(text)["x"]
    text.encode()
    if not any("\ud800" <= char <= "\udfff" for char in words):
        assert words == read


def test_the_page_runs_its_own_script_and_nothing_else(tmp_path: Path) -> None:
    found = page(tmp_path, every_kind())
    (script,) = found.scripts
    for kind, text in (("script-src", script), ("style-src", found.style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" == found.rules[kind]
    assert "'none'" == found.rules["default-src"]
    assert "unsafe" not in html.unescape(str(found.rules))
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", script)


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    text = written(tmp_path, "html", every_kind(), **stopped())
    assert not re.search(r"https?://|url\(|@import|//cdn", text)
    asked = [
        a[name] for _, a in Page(text).elements for name in ("src", "href", "srcset", "data") if name in a
    ]
    assert all(address.startswith("#") for address in asked), asked


def test_rows_hold_what_was_found(tmp_path: Path) -> None:
    found = page(tmp_path, every_kind(), **stopped()).data
    rows = {row["path"]: row for row in found["rows"]}
    assert len(every_kind()) + 1 == len(rows)
    gun = rows["art/gun.png"]
    rule = found["rules"][gun["findings"][0][0]]
    assert ("failed", 0.91, "A gun lies on the table.") == (gun["status"], gun["score"], gun["rationale"])
    assert ["A. Weapons", "Must not show:", "- guns"] == rule["text"][:3]
    assert "accepted by Ann until 2027-06-30: museum piece" == rows["art/museum.png"]["accepted"]
    assert ("unchecked", "the run was out of time") == (
        rows["art/late.png"]["status"],
        rows["art/late.png"]["reason"],
    )


def test_the_plot_marks_each_threshold_and_tells_both_sides_apart(tmp_path: Path) -> None:
    under = [image(f"{n}.png", ImageStatus.PASSED, finding(score=0.1, violates=False)) for n in range(3)]
    over = image("x.png", ImageStatus.FAILED, finding(score=1.0))
    text = written(tmp_path, "html", [*under, over])
    first = re.findall(r"<svg.*?</svg>", text, re.DOTALL)[0]
    assert 'aria-label="4 scores, 1 break it, threshold 0.5"' in first
    assert ['class="under" x="30.5"', 'class="over" x="294.5"'] == re.findall(
        r'class="(?:over|under)" x="[\d.]+"', first
    )
    assert '<path class="mark" d="M150.0' in first


def test_a_rule_that_is_exempt_has_words_in_place_of_a_plot(tmp_path: Path) -> None:
    info = run_info(policies=(PolicyInfo(HOUSE, "house"),))
    text = written(tmp_path, "html", [image("a.png", ImageStatus.PASSED, score=0.1)], info=info)
    assert text.count("exempt: it forbids nothing") == 1
    assert text.count("<svg") == len(HOUSE.rules) - 1


def test_a_model_without_scores_gets_no_plots_and_no_column_of_scores(tmp_path: Path) -> None:
    passed = image("a.png", ImageStatus.PASSED)
    failed = image("b.png", ImageStatus.FAILED, finding(score=None))
    text = written(tmp_path, "html", [passed, failed])
    assert "<svg" not in text
    assert 'data-sort="score"' not in text.partition("<script")[0]
    assert "The model gives ratings without scores" in text
    assert "Scores per rule" not in text
    assert re.search(r'Weapons<div class="small">\S+</div></th><td class="number">1</td></tr>', text)
    mixed = written(
        tmp_path, "html", [passed, failed, image("c.png", ImageStatus.FAILED, finding("drugs", 0.8))]
    )
    assert "without scores" not in mixed
    assert mixed.count("rated without a score") == 1
    assert 'data-sort="score"' in mixed
    unjudged = written(tmp_path, "html", [image("d.png", ImageStatus.UNJUDGED)])
    assert "without scores" not in unjudged
    assert "No image has a score." in unjudged


def test_images_without_a_judgement_are_explained_where_there_are_any(tmp_path: Path) -> None:
    unjudged = image("a.png", ImageStatus.UNJUDGED, reason="broken")
    assert "<b>unjudged</b>: blocked" in written(tmp_path, "html", [unjudged])
    assert "<b>unjudged</b>: blocked" not in written(tmp_path, "html", [image("a.png", ImageStatus.PASSED)])


def picture(path: Path, size: tuple[int, int] = (640, 480)) -> str:
    """Write a picture with words in its metadata; its hash."""
    made = Pictures.new("RGB", size, (200, 30, 30))
    exif = Pictures.Exif()
    exif[0x010E] = SECRET
    made.save(path, "JPEG", exif=exif)
    return decode(path).sha256


def with_hash(item: CheckedImage, sha256: str) -> CheckedImage:
    evidence = replace(item.verdict.evidence, image_sha256=sha256)
    return replace(item, verdict=replace(item.verdict, evidence=evidence))


def test_no_picture_is_in_the_page_unless_it_was_asked_for(tmp_path: Path) -> None:
    failed = with_hash(image("a.jpg", ImageStatus.FAILED, finding()), picture(tmp_path / "a.jpg"))
    plain = written(tmp_path, "html", [failed], info=run_info(tmp_path))
    assert "data:image" not in plain
    asked = written(tmp_path, "html", [failed], info=run_info(tmp_path), option=":thumbnails")
    assert "data:image/jpeg;base64," in asked


def test_a_thumbnail_is_small_and_has_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    uri = thumbnail(path, picture(path))
    data = base64.b64decode(uri.partition(",")[2])
    assert (96, 72) == decode(data).frames[0].size
    assert SECRET.encode() in path.read_bytes()
    assert SECRET.encode() not in data
    assert b"Exif" not in data


def test_only_the_image_that_was_judged_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    sha256 = picture(path)
    picture(path, (10, 10))
    assert "" == thumbnail(path, sha256)
    assert "" == thumbnail(tmp_path / "none.jpg", sha256)
    assert "" == thumbnail(path, None)


def test_images_that_passed_are_not_shown(tmp_path: Path) -> None:
    passed = with_hash(image("a.jpg", ImageStatus.PASSED), picture(tmp_path / "a.jpg"))
    text = written(tmp_path, "html", [passed], info=run_info(tmp_path), option=":thumbnails")
    assert "data:image" not in text
