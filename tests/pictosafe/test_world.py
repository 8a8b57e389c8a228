"""The world: its words, its pictures, and whose they are."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from policyguard.pictosafe.language import CONTEXT_WORDS, DETERMINERS
from policyguard.pictosafe.render import STYLES, sprites
from policyguard.pictosafe.world import (
    BENCHMARK_NAMES,
    GROUP_NAMES,
    GROUP_OF,
    GROUPS,
    NAMES,
    RESERVED_GROUP,
    RESERVED_NAMES,
    names_of,
)

ASSETS = files("policyguard.pictosafe") / "assets"


def test_the_world_has_150_benchmark_pictograms_in_18_groups_and_4_reserved_ones() -> None:
    assert len(BENCHMARK_NAMES) >= 150
    assert len(GROUP_NAMES) - 1 >= 18
    assert len(RESERVED_NAMES) == 4
    assert set(names_of(RESERVED_GROUP)) == set(RESERVED_NAMES) == set(NAMES) - set(BENCHMARK_NAMES)


def test_every_concept_is_one_lower_case_word_and_means_one_thing() -> None:
    concepts = [*NAMES, *GROUP_NAMES]
    wording = {word for phrase in (*DETERMINERS, *chain(*CONTEXT_WORDS.values())) for word in phrase.split()}
    answers = {"safe", "unsafe", "undecided", "no", "fine", "exempt", "an"}
    assert len(set(concepts)) == len(concepts)
    assert all(re.fullmatch("[a-z]+", concept) for concept in concepts)
    assert not set(concepts) & (wording | answers)


def test_every_pictogram_is_in_one_group_under_its_own_code_point() -> None:
    codes = [code for members in GROUPS.values() for code in members.values()]
    assert len(set(codes)) == len(codes) == len(NAMES) == len(GROUP_OF)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_draws_every_pictogram_and_no_two_alike(style: str) -> None:
    drawn = sprites(style)  # type: ignore[arg-type]
    assert tuple(drawn) == NAMES
    for name, sprite in drawn.items():
        assert (sprite.mode, sprite.size) == ("RGBA", (96, 96)), name
        left, top, right, bottom = sprite.getbbox() or (0, 0, 0, 0)
        assert max(right - left, bottom - top) >= 92, f"{name} does not fill its cell"
    small = np.stack([_on_grey(sprite.resize((12, 12))) for sprite in drawn.values()])
    distance = np.abs(small[:, None] - small[None]).mean(axis=(2, 3, 4)) + 255 * np.eye(len(NAMES))
    assert distance.min() > 2.0


def test_the_archive_is_small_whole_and_carries_its_makers_licences() -> None:
    atlases = [ASSETS / f"{style}.webp" for style in STYLES]
    assert sum(len(atlas.read_bytes()) for atlas in atlases) < 4 * 2**20
    index = json.loads((ASSETS / "index.json").read_text())
    for style, atlas in zip(STYLES, atlases, strict=True):
        assert index["styles"][style]["sha256"] == hashlib.sha256(atlas.read_bytes()).hexdigest()
    notice = (ASSETS / "NOTICE.md").read_text()
    for word in (
        "SIL Open Font License 1.1",
        "CC-BY 4.0",
        "MIT",
        "https://creativecommons.org/licenses/by/4.0/",
    ):
        assert word in notice
    assert "SIL OPEN FONT LICENSE Version 1.1" in (ASSETS / "LICENCE-noto-OFL-1.1.txt").read_text()
    assert "Microsoft Corporation" in (ASSETS / "LICENCE-fluent-MIT.txt").read_text()


def _on_grey(sprite: Image.Image) -> np.ndarray:
    ground = Image.new("RGBA", sprite.size, (128, 128, 128, 255))
    ground.alpha_composite(sprite)
    return np.asarray(ground.convert("RGB"), np.float32)
