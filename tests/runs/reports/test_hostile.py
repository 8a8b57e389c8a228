"""Every format reads back, whatever names, answers and policies say. Each format's own tests say more."""

from __future__ import annotations

import json
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyguard.runs.baseline import BaselineEntry
from policyguard.runs.run import ImageStatus
from runs.reports.support import FILES, finding, image, stopped, written
from runs.reports.test_html import hostile_run

WORDS = st.text(st.characters(codec=None), min_size=1)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=60, deadline=None)
@given(words=WORDS)
@example(words="\ud800\udcff\x00\x1b[2J\u202e")
@example(words="</script>]]>&<>\"'`|%0A::error::")
def test_any_words_give_a_report_that_reads_back(kind: str, words: str) -> None:
    images, info, ending = hostile_run(words)
    accepted = image("b.png", ImageStatus.ACCEPTED, finding())
    (entry,) = accepted.baseline
    entry = BaselineEntry(words, "house", entry.sha256, ("arms",), entry.until, words, words)
    images.append(type(accepted)(words, accepted.verdict, accepted.status, accepted.policies, (entry,)))
    with tempfile.TemporaryDirectory() as folder:
        text = written(Path(folder), kind, images, info=info, **ending | {"stale": (entry,)})
    text.encode("utf-8")
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "\u202e" not in text or kind in ("json", "gitlab")  # data keeps its characters
    if kind == "junit":
        ET.fromstring(text)
    elif kind not in ("html", "markdown"):
        json.loads(text)


@pytest.mark.parametrize("kind", FILES)
def test_a_text_without_end_is_cut(kind: str, tmp_path: Path) -> None:
    long = "word " * 100_000
    images = [image(f"{n}.png", ImageStatus.FAILED, finding(), rationale=long) for n in range(3)]
    text = written(tmp_path, kind, images, **stopped())
    assert len(text) < 60_000 or kind == "json"  # the verdict itself is whole
