"""What it costs to pass on what was judged, as ratios of one run.

    PYTHONPATH=src:tests python benchmarks/pass_on.py

Pictures like a camera's and a screen's, of two megapixels, in the kinds of file that people send. For each:
the time of a check with ``normalise=True`` over that of one without, the model left out (a fake that answers
at once); the size of what is passed on over that of the file; and, for a chat request over loopback, guarded
with ``pass_on="judged"`` over ``"original"``, the image new or seen before.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from images.support import exif
from integrations.http.calling import chat
from integrations.http.pictures import data_uri
from integrations.http.upstream import Upstream
from policyguard import Guard
from policyguard.integrations.http import guarded_client
from policyguard.testing import FakeBackend

SIZE = (1632, 1224)
RUNS = 7


def camera() -> Image.Image:
    """Smooth light, edges, and the grain of a sensor."""
    width, height = SIZE
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    light = np.stack([120 + 90 * np.sin(x + y), 110 + 80 * np.cos(x * 1.3), 130 + 70 * np.sin(y * 1.7)], -1)
    image = Image.fromarray(light.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    rng = np.random.default_rng(1)
    for left, top, side in rng.integers(0, 1000, (60, 3)):
        draw.ellipse((left, top, left + side // 6, top + side // 6), fill=tuple(rng.integers(0, 255, 3)))
    grain = rng.normal(0, 4, (height, width, 3))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), float)
    return Image.fromarray((blurred + grain).clip(0, 255).astype(np.uint8))


def screen() -> Image.Image:
    image = Image.new("RGB", SIZE, (248, 248, 250))
    draw = ImageDraw.Draw(image)
    for line in range(40):
        draw.text((40, 28 * line + 20), "words on a screen, " * 12, fill=(30, 30, 34))
    draw.rectangle((1000, 300, 1500, 800), fill=(40, 90, 200))
    return image


def files() -> Iterator[tuple[str, bytes]]:
    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    photo, page = camera(), screen()
    clear = page.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(SIZE))
    yield "JPEG, upright", encoded(photo, "JPEG", quality=85)
    yield "JPEG, turned", encoded(photo, "JPEG", quality=85, exif=b"Exif\0\0" + exif(6))
    yield "JPEG, four inks", encoded(photo.convert("CMYK"), "JPEG", quality=85)
    yield "WebP, turned", encoded(photo, "WEBP", quality=80, exif=exif(6))
    yield "PNG, of a screen", encoded(page, "PNG")
    yield "PNG, turned", encoded(page, "PNG", exif=exif(6))
    yield "PNG, hides colours", encoded(clear, "PNG")


def median(*calls: Callable[[], object]) -> list[float]:
    """CPU seconds of each call; they take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(RUNS):
        for spent, call in zip(times, calls, strict=True):
            started = process_time()
            call()
            spent.append(process_time() - started)
    return [statistics.median(spent) for spent in times]


def main() -> None:
    guard = Guard("pictosafe/l3", backend=FakeBackend(0.01))
    with Upstream() as upstream:
        print(f"{'':20} {'check':>8} {'size':>6} {'new':>6} {'seen':>6}")
        for name, data in files():
            print(f"{name:20} {row(guard, upstream.url + '/v1/chat/completions', data)}")


def row(guard: Guard, url: str, data: bytes) -> str:
    alone, normalised = median(lambda: guard.check(data), lambda: guard.check(data, normalise=True))
    made = guard.check(data, normalise=True).normalised or b""
    body = chat(data_uri(data))

    def first(pass_on: Any) -> None:
        with guarded_client(guard, family="httpx", pass_on=pass_on) as client:
            client.post(url, json=body)

    judged, original = median(lambda: first("judged"), lambda: first("original"))
    with (
        guarded_client(guard, family="httpx", pass_on="judged") as one,
        guarded_client(guard, family="httpx", pass_on="original") as other,
    ):
        for client in (one, other):
            client.post(url, json=body)
        again, originals = median(lambda: one.post(url, json=body), lambda: other.post(url, json=body))
    ratios = (len(made) / len(data), judged / original, again / originals)
    return f"{normalised / alone:8.2f}" + "".join(f"{ratio:7.2f}" for ratio in ratios)


if __name__ == "__main__":
    main()
