"""Build the sprite archive of ``policyguard.pictosafe`` from three packages of emoji art.

Only needed to add pictograms or styles: the archive is part of the repository, and neither the package nor
its tests need what this script reads. It wants resvg-py and Pillow, and these three files::

    apt-get download fonts-noto-color-emoji     # Noto Color Emoji, SIL OFL 1.1
    npm pack @twemoji/svg@15.0.0                # Twemoji, CC-BY 4.0
    npm pack fluentui-emoji@1.3.0               # Fluent Emoji (flat), MIT

    python train/pico/build_sprites.py --noto fonts-noto-color-emoji_*.deb \
        --twemoji twemoji-svg-15.0.0.tgz --fluent fluentui-emoji-1.3.0.tgz

Each style becomes one lossless WebP atlas with a cell per pictogram, in the order of ``world.NAMES``: the
drawing cropped to what is visible, scaled so that its longer side fills the cell, and centred.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import resvg_py
from PIL import Image, ImageDraw, ImageFont

from policyguard.pictosafe.world import GROUPS, NAMES

CELL = 96
COLUMNS = 13
ASSETS = Path(__file__).parents[2] / "src/policyguard/pictosafe/assets"
CODES = {name: code for members in GROUPS.values() for name, code in members.items()}

# Fluent's files carry words instead of code points; these are the ones that are not the pictogram's own name.
FLUENT = dict(
    line.split()
    for line in """
    pistol water-pistol
    knife kitchen-knife
    swords crossed-swords
    bow bow-and-arrow
    trident trident-emblem
    explosion collision
    flame fire
    beer beer-mug
    wine wine-glass
    champagne bottle-with-popping-cork
    cocktail cocktail-glass
    daiquiri tropical-drink
    whisky tumbler-glass
    nosmoking no-smoking
    bandage adhesive-bandage
    blood drop-of-blood
    testtube test-tube
    slotmachine slot-machine
    dice game-die
    hanafuda flower-playing-cards
    mahjong mahjong-red-dragon
    spade spade-suit
    club club-suit
    banknote dollar-banknote
    moneybag money-bag
    gem gem-stone
    creditcard credit-card
    heart red-heart
    kiss kiss-mark
    cupid heart-with-arrow
    loveletter love-letter
    heartbreak broken-heart
    teddy teddy-bear
    urn funeral-urn
    tombstone headstone
    crossbones skull-and-crossbones
    temple hindu-temple
    shrine shinto-shrine
    cross latin-cross
    rosary prayer-beads
    redflag triangular-flag
    blackflag black-flag
    fist raised-fist-default
    ballotbox ballot-box-with-ballot
    swimsuit one-piece-swimsuit
    snorkel diving-mask
    sandal thong-sandal
    burger hamburger
    apple red-apple
    cake birthday-cake
    cheese cheese-wedge
    icecream soft-ice-cream
    car automobile
    train locomotive
    saw carpentry-saw
    camcorder video-camera
    projector film-projector
    moviecamera movie-camera
    filmstrip film-frames
    clapperboard clapper-board
    football soccer-ball
    boxing boxing-glove
    piano musical-keyboard
    book closed-book
    tree deciduous-tree
    moon crescent-moon
    palm palm-tree
    calendar tear-off-calendar
    leaf maple-leaf
    voltage high-voltage
    """.strip().splitlines()
)


Draw = Callable[[str], Image.Image | None]  # a pictogram's drawing, or None if the style lacks it


def noto(package: Path) -> Draw:
    """Draws from the font inside a Debian package; its bitmaps are 109 pixels high."""
    folder = Path(tempfile.mkdtemp(prefix="noto-"))
    subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    font = ImageFont.truetype(str(next(folder.rglob("NotoColorEmoji.ttf"))), 109)

    def draw(name: str) -> Image.Image:
        canvas = Image.new("RGBA", (176, 176), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((16, 16), chr(int(CODES[name], 16)), font=font, embedded_color=True)
        return canvas

    return draw


def vector(package: Path, *members: Callable[[str], str]) -> Draw:
    """Draws from the SVG files inside an npm package; of several names for a file the first that is there."""
    svgs = {}
    wanted = {member(name) for member in members for name in NAMES}
    with tarfile.open(package) as archive:
        for entry in archive:
            if entry.name in wanted:
                stream = archive.extractfile(entry)
                assert stream is not None
                svgs[entry.name] = stream.read().decode()

    def draw(name: str) -> Image.Image | None:
        svg = next((svgs[member(name)] for member in members if member(name) in svgs), None)
        if svg is None:
            return None
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * CELL, height=4 * CELL))
        return Image.open(io.BytesIO(png)).convert("RGBA")  # noqa: TID251 (our own rendering)

    return draw


def cell(drawing: Image.Image) -> Image.Image:
    """``drawing`` cropped to what is visible, its longer side scaled to ``CELL``, centred in a square."""
    visible = drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    assert visible, "an empty drawing"
    cropped = drawing.crop(visible)
    side = max(cropped.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(cropped, ((side - cropped.width) // 2, (side - cropped.height) // 2))
    return square.resize((CELL, CELL), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noto", type=Path, required=True, help="fonts-noto-color-emoji_*.deb")
    parser.add_argument("--twemoji", type=Path, required=True, help="npm package @twemoji/svg")
    parser.add_argument("--fluent", type=Path, required=True, help="npm package fluentui-emoji")
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    styles = {
        "noto": noto(arguments.noto),
        "twemoji": vector(arguments.twemoji, lambda name: f"package/{CODES[name].lower()}.svg"),
        "fluent": vector(arguments.fluent, lambda name: f"package/icons/flat/{FLUENT.get(name, name)}.svg"),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    index: dict[str, object] = {"cell": CELL, "columns": COLUMNS, "names": list(NAMES)}
    atlases = {}
    for style, draw in styles.items():
        rows = -(-len(NAMES) // COLUMNS)
        atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL), (0, 0, 0, 0))
        for place, name in enumerate(NAMES):
            drawing = draw(name)
            if drawing is None:
                raise SystemExit(f"{style} has no {name}")
            atlas.paste(cell(drawing), (place % COLUMNS * CELL, place // COLUMNS * CELL))
        file = arguments.out / f"{style}.webp"
        atlas.save(file, lossless=True, quality=100, method=6)
        source = getattr(arguments, style).name
        atlases[style] = {"source": source, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        print(f"{file}: {len(NAMES)} pictograms, {file.stat().st_size:,} bytes")
    index["styles"] = atlases
    (arguments.out / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
