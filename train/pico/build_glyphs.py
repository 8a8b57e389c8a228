#!/usr/bin/env python
"""Fetch and draw the glyphs from outside pico's world:  python train/pico/build_glyphs.py --out runs/glyphs

Emoji that are none of the world's pictograms, icons, logos and flags. Training sees some packages and the
evaluation others (``glyphs.py`` says which), so that nobody's drawing is in both. They are fetched from npm
and Debian (``npm`` and ``apt-get`` must be there, and ``pip install resvg-py``) and drawn once; nothing of
them is part of the repository or of a model's folder. Licences: EmojiOne 2 and Twemoji CC-BY 4.0, OpenMoji
CC BY-SA 4.0, Noto Color Emoji OFL 1.1, Symbola free for any use, simple-icons CC0, Remix Icon Apache-2.0,
Lucide ISC, the others MIT. Flags and logos may be marks of their owners.

Each package becomes ``NAME.npz``: ``drawings`` uint8 [N, 96, 96, 4] and ``names``. Left out is what shows a
pictogram of the world, and close relatives of one: a blue heart is neither the world's heart nor surely
something else.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import resvg_py
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from build_sprites import CELL, CODES, FLUENT, cell
from policyguard.pictosafe.world import NAMES

MOST = 1100
"""Glyphs of a package at most, picked at random."""
NPM = {
    "twemoji": ("@twemoji/svg@15.0.0", r"package/([0-9a-f-]+)\.svg"),
    "emojione": ("emojione@2.2.7", r"package/assets/svg/([0-9a-f-]+)\.svg"),
    "openmoji": ("openmoji@17.0.0", r"package/color/svg/([0-9A-F-]+)\.svg"),
    "lucide": ("lucide-static@1.62.0", r"package/icons/([a-z0-9-]+)\.svg"),
    "bootstrap": ("bootstrap-icons@1.13.2", r"package/icons/([a-z0-9-]+)\.svg"),
    "simple": ("simple-icons@16.37.0", r"package/icons/([a-z0-9-]+)\.svg"),
    "remix": ("remixicon@4.9.1", r"package/icons/[^/]+/([a-z0-9-]+)\.svg"),
    "devicon": ("devicon@2.17.0", r"package/icons/[^/]+/([a-z0-9-]+-original)\.svg"),
    "flag-icons": ("flag-icons@7.5.0", r"package/flags/4x3/([a-z-]+)\.svg"),
    "country-flags": ("country-flag-icons@1.6.20", r"package/3x2/([A-Z-]+)\.svg"),
    "fluent": ("fluentui-emoji@1.3.0", r"package/icons/flat/([a-z0-9-]+)\.svg"),
}
DEBIAN = {
    "noto": ("fonts-noto-color-emoji", "NotoColorEmoji.ttf", 109),
    "symbola": ("fonts-symbola", "Symbola*.ttf", 3 * CELL),
}
_EMOJI = {"twemoji", "emojione", "openmoji", "noto", "symbola"}
_NEVER_WORDS = {"simple", "devicon", "flag-icons", "country-flags"}  # marks and flags: names mean nothing
_RELATIVES = """
    1F493-1F49F 1F5A4 1F90D-1F90F 1F9E1 1FA75-1FA77 2763-2765 2660-2667 1F4D3-1F4DA 1F4B4-1F4B8
    1F37A-1F37F 1F942 1F3C1 1F3F3-1F3F5 1F38C 1F4DD 1F58A-1F58D 270E-2710 1F4F8 1F4DE 1F4DF 1F4E7-1F4E9
    2706 1F311-1F31F 1F332-1F335 1F384 1F34F 1F33F-1F343 1F695-1F699 1F68D-1F690 1F683-1F68B 1F69D-1F69F
    1F6E9-1F6EC 1F6F3 1F6E5 26F4 1F6E0-1F6E1 1F9AE 1F429 1F431 1F436 1F434 1F3C7 1F420 1F421 1F988 1F370
    1F367 1F368 2626 1F3C8 1F3C9 2692 26CF 1F5A5 1F4C6 1F5D3 1F587 1F387 26D4 1F6AB-1F6B3 1F4F5 1F51E
    1F6C7 1F940 1F44A 1F91B 1F91C 1F45F-1F462 1F52D 1F479-1F47D 1F5A8 1F394-1F395 1F398 1F3F1-1F3F6
    1F546-1F548 1F568-1F571 1F57B-1F589 1F5A9-1F5B6 1F5B7 1F5E2 1F5F1-1F5F4 1F322 1F6E6-1F6E8
    1F6F1-1F6F2 1F3B5-1F3B6 1F39C-1F39D 1F4CC-1F4CD 1F58F 1F56E 1F4A2 1F4A7 1F6E9 1F4C7-1F4C8 2620-2623
    26A0-26A1 2694-2699 2744-2748 2600-2604 1F31E 1F5E1 1F9B7 1F9BE 1FA78 1F4F0 1F97B
"""
_WORDS_TEXT = """
    airplane alert ambulance anger apple attachment automobile axe badge ban banana bandage banknote
    baseball basketball beer bicycle bike bikini biohazard bird blood boat bolt bomb bone book boomerang
    bottle bow briefcase briefs brush burger bus cake calendar camcorder camera capsule car card carrot
    cash cat cherry church cigarette citrus clapper clapperboard club cocktail cog coin coins collision
    cream credit cross crown cube diamond dice dog drill drink droplet drum edit envelope explosion
    eyeglasses film fire firework fish flag flame flower football forbid forbidden gear gem ghost glass
    goblet grape guitar hammer heart hearts helicopter horse horse-face ice icecream joker kaaba kiss
    knife knives ladder laptop leaf letter lightning locomotive magnet mahjong mail martini megaphone
    microscope money moon mosque movie mug mushroom music off oncoming paperclip pen pencil phone piano
    pill pizza plane police printer prohibited projector racehorse radiation radioactive railway rainbow
    rocket rose sandal saw scissors settings shield ship shorts skate ski skull slash smoking snorkel
    snow snowflake spade speaker stadium stethoscope suit sun suspension swimsuit sword swords synagogue
    syringe tag taxi telephone television temple test-tube testtube thermometer tool tools tractor train
    tram tree trolleybus trophy truck turtle tv utensils video volleyball voltage vote wallet warning
    wheel wine wrench zap
    """
_WORDS = frozenset(_WORDS_TEXT.split())
_SKIN = re.compile(r"1f3f[b-f]|-(medium|light|dark)(-|$)", re.IGNORECASE)


def _codes(text: str) -> set[int]:
    out: set[int] = set()
    for part in text.split():
        low, _, high = part.partition("-")
        out |= set(range(int(low, 16), int(high or low, 16) + 1))
    return out


KNOWN = {int(code, 16) for code in CODES.values()} | _codes(_RELATIVES)


def is_known(package: str, name: str) -> bool:
    """Whether a glyph shows a pictogram of the world, or a close relative of one."""
    if package in _EMOJI:
        return bool({int(code, 16) for code in name.split("-")} & KNOWN)
    if package in _NEVER_WORDS:
        return False
    if package == "fluent" and name in FLUENT.values():
        return True
    return bool(set(name.split("-")) & (_WORDS | set(NAMES)))


def npm(package: str, folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, drawing) of the glyphs in an npm package's SVG files; black where they leave the colour open."""
    wanted, pattern = NPM[package]
    stem = wanted.lstrip("@").rpartition("@")[0].replace("/", "-")
    file = next(folder.glob(f"{stem}-*.tgz"), None)
    if file is None:
        subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True)
        file = next(folder.glob(f"{stem}-*.tgz"))
    found: dict[str, bytes] = {}
    with tarfile.open(file) as archive:
        for entry in archive:
            match = re.fullmatch(pattern, entry.name)
            # of people of every complexion one will do
            taken = match and not _SKIN.search(match[1]) and not is_known(package, match[1])
            stream = archive.extractfile(entry) if taken else None
            if match and stream is not None:
                found[match[1]] = stream.read()
    for name in sorted(Random(package).sample(sorted(found), min(MOST, len(found)))):
        svg = found[name].decode().replace("currentColor", "#000000")
        try:
            png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * CELL))
        except Exception as error:  # a few files of so many are not drawn
            print(f"{package}: {name} is left out: {error}")
            continue
        yield name, Image.open(io.BytesIO(png)).convert("RGBA")  # noqa: TID251 - our own rendering


def debian(package: str, folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """(code point, drawing) of a font's pictures beyond the Basic Multilingual Plane's letters."""
    wanted, pattern, size = DEBIAN[package]
    file = next(folder.glob(f"{wanted}_*.deb"), None)
    if file is None:
        subprocess.run(["apt-get", "download", "-q", wanted], cwd=folder, check=True)
        file = next(folder.glob(f"{wanted}_*.deb"))
    with tempfile.TemporaryDirectory(prefix="glyphs-") as place:
        subprocess.run(["dpkg", "-x", str(file), place], check=True)
        path = next(Path(place).rglob(pattern))
        codes = sorted(TTFont(path, lazy=True).getBestCmap())
        face = ImageFont.truetype(str(path), size)
        pictures = [c for c in codes if 0x1F300 <= c <= 0x1FAFF and not 0x1F3FB <= c <= 0x1F3FF]
        pictures = [c for c in pictures if not is_known(package, f"{c:X}") and not 0x1F650 <= c <= 0x1F67F]
        pictures = [c for c in pictures if not 0x1F700 <= c <= 0x1F8FF]
        for code in sorted(Random(package).sample(pictures, min(MOST, len(pictures)))):
            canvas = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
            ImageDraw.Draw(canvas).text(
                (size // 4, size // 4), chr(code), font=face, fill=(0, 0, 0, 255), embedded_color=True
            )
            yield f"{code:X}", canvas


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/glyphs"))
    arguments = parser.parse_args()
    downloads = arguments.out / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for package in (*NPM, *DEBIAN):
        file = arguments.out / f"{package}.npz"
        if file.exists():
            continue
        names, drawings = [], []
        for name, drawing in (npm if package in NPM else debian)(package, downloads):
            if drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox():
                names.append(name)
                drawings.append(np.asarray(cell(drawing)))
        np.savez(file, names=np.array(names), drawings=np.stack(drawings))
        print(f"{file}: {len(names)} glyphs", flush=True)


if __name__ == "__main__":
    main()
