"""Ordinary files from the writers that are installed here, for a comparison with browsers.

    PYTHONPATH=src:tests python tests/images/writers.py FOLDER
    PYTHONPATH=src:tests python tests/images/viewers.py FOLDER

Photographs, a drawing, a page of text and a logo, as a camera, a site or an editor would write them: Pillow,
imageio, OpenCV (pip), libvips, ImageMagick, GraphicsMagick, ffmpeg, libjpeg-turbo (cjpeg, jpegtran),
jpegoptim, libwebp (cwebp, gif2webp, img2webp), gifsicle, pngcrush, optipng, pngquant, zopflipng, advpng,
netpbm, librsvg and the canvas of Chromium. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from PIL import Image as pil  # noqa: N813 (the module)
from PIL import ImageDraw
from PIL.Image import Image as PILImage

from images.support import exif, srgb_profile
from images.viewers import COMMANDS, opened

SIDE = 256


def pictures() -> Iterator[tuple[str, PILImage]]:
    """Name and image, RGB or RGBA."""
    from skimage import data

    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        picture = pil.fromarray(getattr(data, name)())
        picture.thumbnail((SIDE, SIDE))
        yield name, picture
    page = pil.new("RGB", (300, 180), (250, 250, 252))
    draw = ImageDraw.Draw(page)
    for line in range(11):
        draw.text((10, 8 + 15 * line), "a page of words, and more of them " * 2, fill=(30, 30, 40))
    yield "page", page
    logo = pil.new("RGBA", (256, 256))
    ImageDraw.Draw(logo).ellipse((20, 20, 236, 236), fill=(30, 90, 200, 255))
    ImageDraw.Draw(logo).polygon([(128, 60), (190, 190), (66, 190)], fill=(255, 220, 40, 255))
    yield "logo", logo.resize((128, 128), pil.Resampling.LANCZOS)


#: What each program makes of ``{png}`` (or ``{ppm}``, ``{jpg}``, ``{gif}``): the ending of the file, and how.
PROGRAMS: dict[str, list[tuple[str, str]]] = {
    "vips": [
        (".jpg", "vips copy {png} {out}[Q=85]"),
        (".jpg", "vips copy {png} {out}[Q=75,interlace,optimize-coding]"),
        (".png", "vips copy {png} {out}[compression=9]"),
        (".png", "vips copy {png} {out}[interlace]"),
        (".png", "vips copy {png} {out}[palette]"),
        (".webp", "vips copy {png} {out}[Q=80]"),
        (".webp", "vips copy {png} {out}[lossless]"),
        (".gif", "vips copy {png} {out}"),
    ],
    "convert": [
        (".jpg", "convert {png} -background white -flatten -quality 90 {out}"),
        (".jpg", "convert {png} -background white -flatten -interlace JPEG -sampling-factor 4:2:0 {out}"),
        (".jpg", "convert {png} -background white -flatten -colorspace Gray {out}"),
        (".png", "convert {png} {out}"),
        (".png", "convert {png} -depth 16 PNG48:{out}"),
        (".png", "convert {png} -colors 64 PNG8:{out}"),
        (".png", "convert {png} -resize 150% -unsharp 0 {out}"),
        (".png", "convert {png} -monochrome {out}"),
        (".gif", "convert {png} {out}"),
        (".webp", "convert {png} -quality 80 {out}"),
    ],
    "gm": [
        (".jpg", "gm convert {png} {out}"),
        (".png", "gm convert {png} {out}"),
        (".gif", "gm convert {png} {out}"),
    ],
    "ffmpeg": [
        (".jpg", "ffmpeg -loglevel error -y -i {png} -q:v 3 {out}"),
        (".png", "ffmpeg -loglevel error -y -i {png} {out}"),
        (".png", "ffmpeg -loglevel error -y -i {png} -pix_fmt pal8 {out}"),
        (".webp", "ffmpeg -loglevel error -y -i {png} {out}"),
        (".gif", "ffmpeg -loglevel error -y -i {png} {out}"),
        (".gif", "ffmpeg -loglevel error -y -loop 1 -t 0.6 -i {png} -vf rotate=t,fps=10 {out}"),
        (".png", "ffmpeg -loglevel error -y -loop 1 -t 0.6 -i {png} -vf rotate=t,fps=10 -f apng {out}"),
    ],
    "cjpeg": [
        (".jpg", "cjpeg -quality 80 -outfile {out} {ppm}"),
        (".jpg", "cjpeg -progressive -optimize -outfile {out} {ppm}"),
        (".jpg", "cjpeg -grayscale -outfile {out} {ppm}"),
        (".jpg", "cjpeg -quality 90 -sample 1x1 -restart 4 -outfile {out} {ppm}"),
    ],
    "jpegtran": [
        (".jpg", "jpegtran -copy all -progressive -optimize -outfile {out} {jpg}"),
        (".jpg", "jpegtran -copy none -rotate 90 -outfile {out} {jpg}"),
    ],
    "jpegoptim": [(".jpg", "jpegoptim -q --all-progressive --stdout {jpg}")],
    "cwebp": [
        (".webp", "cwebp -quiet -q 75 {png} -o {out}"),
        (".webp", "cwebp -quiet -lossless {png} -o {out}"),
        (".webp", "cwebp -quiet -near_lossless 60 {png} -o {out}"),
        (".webp", "cwebp -quiet -metadata all {jpg} -o {out}"),
    ],
    "gif2webp": [
        (".webp", "gif2webp -quiet {gif} -o {out}"),
        (".webp", "gif2webp -quiet -mixed {gif} -o {out}"),
    ],
    "img2webp": [(".webp", "img2webp -loop 0 -d 200 {png} -d 300 -lossy {jpg} -o {out}")],
    "gifsicle": [
        (".gif", "gifsicle -O3 {gif} -o {out}"),
        (".gif", "gifsicle --colors 16 --interlace {gif} -o {out}"),
    ],
    "pngcrush": [(".png", "pngcrush -q {png} {out}"), (".png", "pngcrush -q -rem alla {png} {out}")],
    "optipng": [
        (".png", "optipng -quiet {png} -out {out}"),
        (".png", "optipng -quiet -i1 -o1 {png} -out {out}"),
    ],
    "pngquant": [(".png", "pngquant 64 {png} -o {out}"), (".png", "pngquant 200 --nofs {png} -o {out}")],
    "zopflipng": [(".png", "zopflipng --iterations=1 {png} {out}")],
    "advpng": [(".png", "advpng -q -z -4 {out}")],
    "pnmtopng": [(".png", "pnmtopng {ppm}"), (".png", "pnmtopng -interlace -gamma 0.45455 {ppm}")],
    "rsvg-convert": [(".png", "rsvg-convert {svg} -o {out}")],
}
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 120" width="200" height="120">
<rect x="10" y="10" width="80" height="90" fill="#3060c0"/><circle cx="140" cy="60" r="40" fill="#e04040"
fill-opacity=".6"/><text x="20" y="60" font-size="20">words</text></svg>"""


def by_pillow(picture: PILImage) -> Iterator[tuple[str, bytes]]:
    def encoded(image: PILImage, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    flat = picture.convert("RGB")
    spins = [flat.rotate(90 * n).resize((160, 120)) for n in range(4)]
    moving: dict[str, Any] = {"save_all": True, "append_images": spins[1:], "duration": 200, "loop": 0}
    camera = b"Exif\0\0" + exif(6)
    for number, options in enumerate(
        (
            {},
            {"quality": 95, "subsampling": 0},
            {"progressive": True},
            {"exif": camera},
            {"icc_profile": srgb_profile()},
        )
    ):
        yield f"{number}.jpg", encoded(flat, "JPEG", **options)
    yield "grey.jpg", encoded(flat.convert("L"), "JPEG")
    yield "ink.jpg", encoded(flat.convert("CMYK"), "JPEG")
    yield "rgb.png", encoded(picture, "PNG")
    yield "grey.png", encoded(flat.convert("L"), "PNG")
    yield "palette.png", encoded(flat.quantize(100), "PNG")
    yield "few.png", encoded(flat.quantize(7), "PNG")
    yield "black.png", encoded(flat.convert("1"), "PNG")
    yield "clear.png", encoded(picture.convert("LA"), "PNG")
    yield "profile.png", encoded(flat, "PNG", icc_profile=srgb_profile(), optimize=True)
    yield "lossy.webp", encoded(picture, "WEBP")
    yield "exact.webp", encoded(picture, "WEBP", lossless=True)
    yield "one.gif", encoded(picture, "GIF")
    yield "moving.gif", encoded(spins[0], "GIF", **moving)
    yield "moving.png", encoded(spins[0], "PNG", **moving)
    yield "moving.webp", encoded(spins[0], "WEBP", **moving)


def by_imageio(picture: PILImage, folder: Path, name: str) -> None:
    import imageio.v3
    import numpy as np

    for ending in (".png", ".jpg", ".gif", ".webp"):
        flat = picture.convert("RGB") if ending in (".jpg", ".gif") else picture
        imageio.v3.imwrite(folder / f"imageio-{name}{ending}", np.asarray(flat))


def by_opencv(picture: PILImage, folder: Path, name: str) -> None:
    import cv2
    import numpy as np

    for ending in (".png", ".jpg", ".webp"):
        cv2.imwrite(str(folder / f"opencv-{name}{ending}"), np.asarray(picture.convert("RGB"))[..., ::-1])


CANVAS = """<!doctype html><script>(async () => {
for (let n = 0; n < %d; n++) {
  const image = new Image(); image.src = '/' + n; await image.decode();
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  canvas.getContext('2d').drawImage(image, 0, 0);
  const made = [['png'], ['jpeg', .92], ['jpeg', .5], ['webp', .8], ['webp', 1]].map(
    ([kind, quality]) => canvas.toDataURL('image/' + kind, quality));
  await fetch('/' + n, {method: 'POST', body: JSON.stringify(made)});
}
await fetch('/done', {method: 'POST', body: '[]'});
})();</script>"""


def by_canvas(sources: list[bytes]) -> dict[int, list[bytes]]:
    """What the canvas of Chromium makes of each PNG file: PNG, JPEG and WebP."""
    made: dict[int, list[bytes]] = {}
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/page":
                self.reply((CANVAS % len(sources)).encode(), "text/html")
            elif self.path[1:].isdecimal():
                self.reply(sources[int(self.path[1:])], "image/png")
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/done":
                done.set()
            else:
                made[int(self.path[1:])] = [base64.b64decode(url.partition(",")[2]) for url in body]
            self.reply(b"", "text/plain")

        def reply(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with opened("chromium", f"http://127.0.0.1:{server.server_port}/page"):
            done.wait()
        server.shutdown()
    return made


def write(folder: Path) -> None:
    """Fill the folder with one file for each program, form and picture."""
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    shown = dict(pictures())
    for name, picture in shown.items():
        places = {kind: sources / f"{name}.{kind}.source" for kind in ("png", "ppm", "jpg", "gif", "svg")}
        picture.save(places["png"], "PNG")
        picture.convert("RGB").save(places["ppm"], "PPM")
        picture.convert("RGB").save(places["jpg"], "JPEG", quality=95, exif=b"Exif\0\0" + exif(1))
        places["svg"].write_text(SVG)
        flat = picture.convert("RGB")
        flat.save(
            places["gif"], "GIF", save_all=True, append_images=[flat.rotate(9), flat.rotate(20)], duration=150
        )
        for ending, data in by_pillow(picture):
            (folder / f"pillow-{name}-{ending}").write_bytes(data)
        for more in (by_imageio, by_opencv):
            try:
                more(picture, folder, name)
            except ImportError as error:
                print(f"left out: {error.name}")
        for program, forms in PROGRAMS.items():
            for number, (ending, command) in enumerate(forms if shutil.which(program) else ()):
                out = folder / f"{program}-{name}-{number}{ending}"
                if "{out}" in command and "{p" not in command:
                    shutil.copy(places["png"], out)
                words = [word.format(out=out, **places) for word in command.split()]
                answer = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
                if "{out}" not in command:
                    out.write_bytes(answer.stdout)
                if answer.returncode or not out.exists() or not out.stat().st_size:
                    print(f"left out: {' '.join(words)}")
                    out.unlink(missing_ok=True)
    if shutil.which(COMMANDS["chromium"][0]):
        made = by_canvas([(sources / f"{name}.png.source").read_bytes() for name in shown])
        for number, name in enumerate(shown):
            for form, data in enumerate(made.get(number, ())):
                ending = ".png" if data[:2] == b"\x89P" else ".jpg" if data[:2] == b"\xff\xd8" else ".webp"
                (folder / f"canvas-{name}-{form}{ending}").write_bytes(data)
    shutil.rmtree(sources)
    files = sorted(path.name for path in folder.iterdir())
    writers = sorted({name.partition("-")[0] for name in files})
    print(f"{len(files)} files of {len(writers)} writers: {', '.join(writers)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
