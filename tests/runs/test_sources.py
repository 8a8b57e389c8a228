"""Names beyond the first thousands are kept on disk, and come back as they were."""

from __future__ import annotations

import os
from itertools import zip_longest

import pytest

from policyguard.runs.sources import Source, Sources


@pytest.mark.parametrize("number", [0, 1, 1999, 2000, 2001, 9000])
def test_what_is_appended_comes_back_in_order_as_often_as_it_is_asked_for(number: int) -> None:
    names = [f"folder {n}/ünïcode\n{n:0{n % 40}}.png" for n in range(number)]
    sources = Sources(Source(name) for name in names)
    assert number == len(sources)
    assert [names, names] == [[source.name for source in sources] for _ in range(2)]
    assert all(one == other for one, other in zip_longest(sources, sources)), "two at once"


def test_undecodable_names_and_images_that_are_no_files_survive() -> None:
    odd = Source(os.fsdecode(b"caf\xe9.png"))
    stdin, url = (
        Source("<stdin>", b"\x89PNG"),
        Source("https://example.org/a.png", "https://example.org/a.png"),
    )
    sources = Sources([*(Source(str(n)) for n in range(3000)), odd, stdin, url])
    assert [odd, stdin, url] == list(sources)[3000:]


def test_the_file_goes_away_with_the_run() -> None:
    with Sources(Source(str(n)) for n in range(3000)) as sources:
        assert 3000 == len(sources)
    with pytest.raises(ValueError, match="closed"):
        list(sources)
