"""Build the drawing styles in ``train/pico/styles``, of which no benchmark scene is drawn.

Only needed to add pictograms or styles: the atlases are part of the repository. It wants resvg-py, Pillow,
fontTools and these files::

    npm pack fluentui-emoji@1.3.0               # Fluent Emoji (modern, high contrast), MIT
    npm pack @fontsource/noto-emoji@5.3.2       # Noto Emoji (one colour), SIL OFL 1.1
    npm pack openmoji@17.0.0                    # OpenMoji, CC BY-SA 4.0
    npm pack emojione@2.2.7                     # EmojiOne 2, CC-BY 4.0

    python train/pico/build_styles.py --fluent fluentui-emoji-1.3.0.tgz --openmoji openmoji-17.0.0.tgz \
        --noto fontsource-noto-emoji-5.3.2.tgz --emojione emojione-2.2.7.tgz

Each style becomes one lossy WebP atlas with a cell per pictogram, in the order of ``world.NAMES``, made as in
``build_sprites``. The cell of a pictogram that a style lacks is left transparent, and ``index.json`` names it
under ``missing``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from build_sprites import CELL, CODES, COLUMNS, FLUENT, Draw, cell, vector
from policyguard.pictosafe.world import NAMES

QUALITY = 80
STYLES = Path(__file__).parent / "styles"


def font(package: Path, weight: int) -> Draw:
    """Draws black glyphs from the numbered subsets of a font inside a Fontsource package."""
    faces: dict[int, ImageFont.FreeTypeFont] = {}
    with tarfile.open(package) as archive:
        for entry in archive:
            if not entry.name.endswith(f"-{weight}-normal.woff"):
                continue
            stream = archive.extractfile(entry)
            assert stream is not None
            subset = TTFont(stream)
            subset.flavor = None
            plain = io.BytesIO()
            subset.save(plain)
            face = ImageFont.truetype(io.BytesIO(plain.getvalue()), 3 * CELL)
            faces |= dict.fromkeys(subset.getBestCmap(), face)

    def draw(name: str) -> Image.Image | None:
        code = int(CODES[name], 16)
        if code not in faces:
            return None
        canvas = Image.new("RGBA", (6 * CELL, 6 * CELL), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((CELL, CELL), chr(code), font=faces[code], fill=(0, 0, 0, 255))
        return canvas

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fluent", type=Path, required=True, help="npm package fluentui-emoji")
    parser.add_argument("--noto", type=Path, required=True, help="npm package @fontsource/noto-emoji")
    parser.add_argument("--openmoji", type=Path, required=True, help="npm package openmoji")
    parser.add_argument("--emojione", type=Path, required=True, help="npm package emojione, version 2")
    parser.add_argument("--out", type=Path, default=STYLES)
    arguments = parser.parse_args()

    def fluent(folder: str) -> Draw:
        return vector(arguments.fluent, lambda name: f"package/icons/{folder}/{FLUENT.get(name, name)}.svg")

    styles: dict[str, tuple[str, str, Draw]] = {
        "fluent-modern": ("fluent", "MIT", fluent("modern")),
        "fluent-contrast": ("fluent", "MIT", fluent("high-contrast")),
        "noto-mono": ("noto", "OFL-1.1", font(arguments.noto, 400)),
        "openmoji": (
            "openmoji",
            "CC-BY-SA-4.0",
            vector(
                arguments.openmoji,
                lambda name: f"package/color/svg/{CODES[name]}.svg",
                lambda name: f"package/color/svg/{CODES[name]}-FE0F.svg",
            ),
        ),
        "emojione": (
            "emojione",
            "CC-BY-4.0",
            vector(
                arguments.emojione,
                lambda name: f"package/assets/svg/{CODES[name].lower()}.svg",
                lambda name: f"package/assets/svg/{CODES[name].lower()}-fe0f.svg",
            ),
        ),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    index: dict[str, object] = {"cell": CELL, "columns": COLUMNS, "names": list(NAMES)}
    atlases = {}
    for style, (package, licence, draw) in styles.items():
        rows = -(-len(NAMES) // COLUMNS)
        atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL), (0, 0, 0, 0))
        missing = []
        for place, name in enumerate(NAMES):
            drawing = draw(name)
            if drawing is None:
                missing.append(name)
            else:
                atlas.paste(cell(drawing), (place % COLUMNS * CELL, place // COLUMNS * CELL))
        file = arguments.out / f"{style}.webp"
        atlas.save(file, quality=QUALITY, method=6)
        atlases[style] = {
            "source": getattr(arguments, package).name,
            "licence": licence,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "missing": missing,
        }
        print(f"{file}: {len(NAMES) - len(missing)} pictograms, {file.stat().st_size:,} bytes")
    index["styles"] = atlases
    (arguments.out / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
