"""Shows a folder of images in headless Chromium and Firefox, and compares that with what is judged.

    python tests/images/viewers.py FOLDER [--browser chromium] [--keep DIR] [--all]

Every file is loaded as a page would, and painted on white and on black; of animations, every frame is (by the
browser's ImageDecoder, or, where it has none, as they play). A file differs if something that a browser
shows is not among the frames that are judged: the mean over all channels is more than 8 levels off, or some
block of 8 x 8 pixels more than 48. What is refused cannot differ, and neither can what no browser shows.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil  # noqa: N813 (the module)
from PIL.Image import Image as PILImage
from PIL.Image import Resampling

from policyguard.errors import ImageError
from policyguard.images import decode

MEAN, BLOCK, SIDE = 8.0, 48.0, 8
#: Larger images are compared at this size: a canvas of any size takes memory in the browser and on the way.
LARGEST = 2048
COMMANDS: Mapping[str, Sequence[str]] = {
    "chromium": (
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--force-color-profile=srgb",
        "--user-data-dir={profile}",
        "{url}",
    ),
    "firefox": ("firefox-esr", "--headless", "--no-remote", "--profile", "{profile}", "{url}"),
}
#: Colours as a page on a common screen has them; no first-run pages.
PREFERENCES = """
user_pref("gfx.color_management.mode", 1);
user_pref("gfx.color_management.force_srgb", true);
user_pref("dom.media.webcodecs.enabled", true);
user_pref("dom.media.webcodecs.image-decoder.enabled", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("privacy.resistFingerprinting", false);
"""
PAGE = """<!doctype html><meta charset=utf-8><body><script>
const MOST = 64, types = %s;
function paint(source, width, height, colour) {
  const canvas = document.createElement('canvas'), scale = Math.min(1, %d / Math.max(width, height));
  width = Math.max(1, Math.round(width * scale)); height = Math.max(1, Math.round(height * scale));
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.fillStyle = colour; context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return canvas.toDataURL('image/png');
}
const both = (source, width, height) => ['white', 'black'].map(c => paint(source, width, height, c));
const sleep = ms => new Promise(done => setTimeout(done, ms));
function load(number) {
  return new Promise(done => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(image.naturalWidth ? image : null);
    image.src = '/file/' + number;
    document.body.replaceChildren(image);
  });
}
async function moving(number, image) {
  const shown = [];
  if (!types[number]) return shown;
  try {
    const data = await (await fetch('/file/' + number)).arrayBuffer();
    const decoder = new ImageDecoder({data, type: types[number]});
    await decoder.tracks.ready;
    await decoder.completed;
    const count = decoder.tracks.selectedTrack.frameCount;
    for (let n = 0; n < Math.min(count, MOST); n++) {
      const {image: frame} = await decoder.decode({frameIndex: n});
      shown.push(...both(frame, frame.displayWidth, frame.displayHeight));
      frame.close();
    }
  } catch (error) {
    for (let n = 0; n < 12; n++) {
      await sleep(60);
      shown.push(...both(image, image.naturalWidth, image.naturalHeight));
    }
  }
  return shown;
}
(async () => {
  for (let number = 0; number < types.length; number++) {
    let shown = [];
    const image = await load(number);
    try {
      if (image) {
        shown = both(image, image.naturalWidth, image.naturalHeight);
        shown.push(...await moving(number, image));
      }
    } catch (error) { }
    await fetch('/seen/' + number, {method: 'POST', body: JSON.stringify([...new Set(shown)])});
  }
  await fetch('/done', {method: 'POST', body: ''});
})();
</script>"""


def is_animated(data: bytes) -> str:
    """The media type for a file that may move, else nothing."""
    if data[:4] == b"GIF8":
        return "image/gif"
    if data[:4] == b"\x89PNG" and b"acTL" in data[:4096]:
        return "image/png"
    if data[8:16] == b"WEBPVP8X" and data[20:21] and data[20] & 2:
        return "image/webp"
    return ""


def media_type(data: bytes) -> str:
    kinds = {b"\x89P": "image/png", b"GI": "image/gif", b"RI": "image/webp"}
    return kinds.get(data[:2], "image/jpeg")


@contextmanager
def opened(browser: str, url: str) -> Iterator[None]:
    """A headless browser of its own that shows a page, until the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (Path(profile) / "user.js").write_text(PREFERENCES)
        command = [part.format(profile=profile, url=url) for part in COMMANDS[browser]]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def seen(files: Sequence[bytes], browser: str) -> list[list[PILImage]]:
    """What ``browser`` shows of each file, on white and on black; nothing where it shows nothing."""
    answers: dict[int, list[PILImage]] = {}
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if self.path.startswith("/file/"):
                self.reply(files[int(name)], media_type(files[int(name)]))
            elif self.path == "/":
                self.reply(
                    (PAGE % (json.dumps([is_animated(data) for data in files]), LARGEST)).encode(),
                    "text/html",
                )
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/done":
                done.set()
            else:
                answers[int(self.path.rpartition("/")[2])] = [_unpacked(url) for url in json.loads(body)]
            self.reply(b"", "text/plain")

        def reply(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with opened(browser, f"http://127.0.0.1:{server.server_port}/"):
            done.wait()
    finally:
        server.shutdown()
        server.server_close()
    return [answers[number] for number in range(len(files))]


def _unpacked(url: str) -> PILImage:
    image = pil.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))  # noqa: TID251
    return image.convert("RGB")


def apart(one: PILImage, other: PILImage) -> tuple[float, float]:
    """(mean, largest mean of a block) of the differences in levels; of another shape: 999."""
    if one.size != other.size:
        if abs(one.width * other.height - one.height * other.width) > 2 * max(*one.size, *other.size):
            return 999.0, 999.0
        small = min(one, other, key=lambda image: image.width).size
        one, other = (image.resize(small, Resampling.BOX) for image in (one, other))
    gap = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean(axis=2)
    high, wide = (-(-side // SIDE) * SIDE for side in gap.shape)
    padded = np.zeros((high, wide))
    padded[: gap.shape[0], : gap.shape[1]] = gap
    blocks = padded.reshape(high // SIDE, SIDE, wide // SIDE, SIDE).mean(axis=(1, 3))
    return float(gap.mean()), float(blocks.max())


def differs(shown: Iterable[PILImage], judged: Sequence[PILImage]) -> tuple[float, float]:
    """The worst of what is shown, each against the judged frame that is closest; (0, 0) if all is judged."""
    worst = (0.0, 0.0)
    for image in shown:
        closest = min(
            (apart(image, frame) for frame in judged), key=lambda gap: max(gap[0] / MEAN, gap[1] / BLOCK)
        )
        worst = max(worst, closest, key=lambda gap: max(gap[0] / MEAN, gap[1] / BLOCK))
    return worst


@dataclass(frozen=True, slots=True)
class Line:
    """What came out for one file: the reason if it was refused, else how far each browser is off."""

    name: str
    refused: str = ""
    gaps: tuple[tuple[str, float, float], ...] = ()
    frames: int = 0

    @property
    def wrong(self) -> bool:
        return any(mean > MEAN or block > BLOCK for _, mean, block in self.gaps)

    def __str__(self) -> str:
        if self.refused:
            return f"refused  {self.name}: {self.refused}"
        gaps = ", ".join(f"{browser} {mean:.1f} / {block:.1f}" for browser, mean, block in self.gaps)
        return f"{'DIFFERS' if self.wrong else 'same':8} {self.name}: {self.frames} frames; {gaps}"


def compare(files: Mapping[str, bytes], browsers: Iterable[str], *, keep: Path | None = None) -> list[Line]:
    """A line for each file, in order."""
    lines: dict[str, Line] = {}
    judged: dict[str, Sequence[PILImage]] = {}
    for name, data in files.items():
        try:
            judged[name] = decode(data).frames
            lines[name] = Line(name, frames=len(judged[name]))
        except ImageError as error:
            lines[name] = Line(name, refused=str(error).splitlines()[0].removeprefix("<bytes>: "))
    for browser in browsers:
        shown = seen([files[name] for name in judged], browser) if judged else []
        for (name, images), pictures in zip(judged.items(), shown, strict=True):
            mean, block = differs(pictures, images)
            line = lines[name]
            lines[name] = Line(name, gaps=(*line.gaps, (browser, mean, block)), frames=line.frames)
            if keep and lines[name].wrong:
                for number, picture in enumerate(pictures[:8]):
                    picture.save(keep / f"{name}.{browser}.{number}.png")
                for number, picture in enumerate(images[:8]):
                    picture.save(keep / f"{name}.judged.{number}.png")
    return list(lines.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--browser", action="append", choices=COMMANDS, help="default: all that are installed"
    )
    parser.add_argument("--keep", type=Path, help="a folder for what differs")
    parser.add_argument("--all", action="store_true", help="print every file, not only those that differ")
    parser.add_argument("--batch", type=int, default=200)
    options = parser.parse_args()
    browsers = options.browser or [name for name, command in COMMANDS.items() if shutil.which(command[0])]
    if not browsers:
        sys.exit("no browser is installed; on Debian: apt install chromium firefox-esr")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    paths = sorted(
        p for p in options.folder.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg", ".gif", ".webp")
    )
    refused = wrong = 0
    for start in range(0, len(paths), options.batch):
        batch = {
            str(path.relative_to(options.folder)).replace("/", "_"): path.read_bytes()
            for path in paths[start : start + options.batch]
        }
        for line in compare(batch, browsers, keep=options.keep):
            refused += bool(line.refused)
            wrong += line.wrong
            if options.all or line.wrong:
                print(line)
    print(f"{len(paths)} files, {refused} refused, {wrong} differ in {' or '.join(browsers)}")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
