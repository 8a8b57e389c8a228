"""Drawn pictures from outside pico's world: cartoon faces, receipts, telephones' screens, posters, comics.

``TRAINING_DRAWINGS`` are trained on. ``HELD_OUT_DRAWINGS`` show the same kinds of thing by code of their own,
and are never trained on. All take a numpy ``Generator`` and return uint8 [96, 96, 3].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from families import SIDE, Picture, Rng, caption, colour, font, ground, write

Colour = tuple[int, int, int]


def _int(rng: Rng, low: float, high: float) -> int:
    return int(rng.integers(round(low), max(round(low) + 1, round(high))))


def _skin(rng: Rng) -> Colour:
    if rng.random() < 0.3:
        return colour(rng)
    light = rng.uniform(0.35, 1.0)
    return int(255 * light), int((170 + 60 * rng.random()) * light), int((90 + 110 * rng.random()) * light)


def _face(rng: Rng) -> Picture:
    """One to four cartoon heads: oval, hair, eyes, mouth."""
    image, _ = ground(rng)
    draw = ImageDraw.Draw(image)
    count = _int(rng, 1, 5)
    for i in range(count):
        size = _int(rng, 50, 92) if count == 1 else _int(rng, 22, 46)
        x = _int(rng, 0, SIDE - size + 1) if count == 1 else i % 2 * 48 + _int(rng, 0, 48 - size + 3)
        y = _int(rng, 0, SIDE - size + 1) if count == 1 else i // 2 * 48 + _int(rng, 0, 48 - size + 3)
        edge = (30, 30, 30) if rng.random() < 0.5 else None
        wide = size * rng.uniform(0.75, 1.0)
        box = (x, y, x + wide, y + size)
        if rng.random() < 0.7:  # hair behind
            draw.ellipse((x - 2, y - 3, x + wide + 2, y + size * rng.uniform(0.6, 1.0)), fill=colour(rng))
        draw.ellipse(box, fill=_skin(rng), outline=edge, width=max(1, size // 30))
        eye, iris = size * rng.uniform(0.05, 0.13), colour(rng)
        for side in (0.32, 0.68):
            cx, cy = x + wide * side, y + size * 0.42
            if rng.random() < 0.6:
                draw.ellipse((cx - eye, cy - eye, cx + eye, cy + eye), fill="white", outline=edge)
            draw.ellipse((cx - eye / 2, cy - eye / 2, cx + eye / 2, cy + eye / 2), fill=iris)
        low, high = (20, 160) if rng.random() < 0.7 else (200, 340)
        mouth = (x + wide * 0.3, y + size * 0.55, x + wide * 0.7, y + size * 0.85)
        if rng.random() < 0.4:
            draw.chord(mouth, low, high, fill=(160, 30, 40))
        else:
            draw.arc(mouth, low, high, fill=(60, 20, 20), width=max(1, size // 25))
        if rng.random() < 0.3:
            draw.line((x + wide / 2, y + size * 0.45, x + wide * 0.46, y + size * 0.6), fill=(90, 60, 40))
    if rng.random() < 0.2:
        caption(image, rng, dark=False)
    return np.asarray(image)


def _receipt(rng: Rng) -> Picture:
    """A strip of paper with lines of goods and prices."""
    image, _ = ground(rng)
    draw = ImageDraw.Draw(image)
    wide = _int(rng, 40, 97)
    left, top = _int(rng, 0, SIDE - wide + 1), _int(rng, -4, 14)
    paper = tuple(int(v) for v in rng.integers(225, 256, 3))
    draw.rectangle((left, top, left + wide, SIDE + 4), fill=paper)
    ink = tuple(int(v) for v in rng.integers(0, 110, 3))
    size = _int(rng, 4, 9)
    face = font(size, ("DejaVuSansMono.ttf", "DejaVuSans.ttf")[_int(rng, 0, 2)])
    y = top + 3
    while y < SIDE:
        kind = rng.random()
        if kind < 0.7:
            word = "".join(chr(c) for c in rng.integers(65, 91, _int(rng, 3, 8)))
            draw.text((left + 3, y), word, fill=ink, font=face)
            price = f"{rng.uniform(0.5, 99):.2f}"
            draw.text((left + wide - 2 - face.getlength(price), y), price, fill=ink, font=face)
        elif kind < 0.8:
            draw.line((left + 3, y + 3, left + wide - 3, y + 3), fill=ink)
        elif kind < 0.9:
            draw.text((left + wide * 0.25, y), "TOTAL", fill=ink, font=face)
        y += int(size * rng.uniform(1.1, 1.6)) + 1
    if rng.random() < 0.4:  # a bar code
        x = left + 5
        while x < left + wide - 5:
            bar = _int(rng, 1, 4)
            draw.rectangle((x, SIDE - 14, x + bar - 1, SIDE - 3), fill=(0, 0, 0))
            x += bar + _int(rng, 1, 4)
    turned = image.rotate(float(rng.uniform(-8, 8)), fillcolor=paper) if rng.random() < 0.3 else image
    return np.asarray(turned)


def _telephone(rng: Rng) -> Picture:
    """A home screen: coloured tiles in rows, each with a sign, names below, a bar at the foot."""
    image, dark = ground(rng)
    draw = ImageDraw.Draw(image)
    across, gap = _int(rng, 3, 6), _int(rng, 2, 8)
    side = SIDE // across - gap
    tile, rounded = colour(rng), _int(rng, 0, side // 2)
    same = rng.random() < 0.3
    for row in range(_int(rng, 2, across + 1)):
        for column in range(across):
            x, y = column * (SIDE // across) + gap // 2, row * (side + gap + 3) + 5
            fill = tile if same else colour(rng)
            draw.rounded_rectangle((x, y, x + side, y + side), rounded, fill=fill)
            inner = side // 4
            shape, sign = rng.integers(4), (255, 255, 255) if rng.random() < 0.6 else colour(rng)
            box = (x + inner, y + inner, x + side - inner, y + side - inner)
            if shape == 0:
                draw.ellipse(box, fill=sign)
            elif shape == 1:
                draw.rectangle(box, outline=sign, width=2)
            elif shape == 2:
                letter = chr(_int(rng, 65, 91))
                draw.text((x + inner, y + inner - 2), letter, fill=sign, font=font(max(6, side // 2)))
            else:
                draw.polygon((box[0], box[1], box[2], (box[1] + box[3]) // 2, box[0], box[3]), fill=sign)
            if side > 12 and rng.random() < 0.5:
                ink = (240, 240, 240) if dark else (40, 40, 40)
                draw.line((x + 2, y + side + 2, x + side - 2, y + side + 2), fill=ink)
    if rng.random() < 0.5:
        draw.rounded_rectangle((4, 80, 92, 94), 5, fill=colour(rng))
    return np.asarray(image)


def _mark(rng: Rng) -> Picture:
    """A made-up mark: two or three overlapping flat shapes, often with a word."""
    image, dark = ground(rng)
    draw = ImageDraw.Draw(image)
    size = _int(rng, 26, 84)
    x, y = _int(rng, 2, SIDE - size), _int(rng, 0, max(1, SIDE - size - 8))
    tones = [colour(rng) for _ in range(3)]
    for i in range(_int(rng, 1, 4)):
        shrink = size * rng.uniform(0, 0.3)
        box = (x + shrink, y + shrink, x + size - shrink * rng.random(), y + size - shrink * rng.random())
        kind = rng.integers(5)
        if kind == 0:
            draw.ellipse(box, fill=tones[i])
        elif kind == 1:
            draw.rounded_rectangle(box, size // 4, fill=tones[i])
        elif kind == 2:
            corners = _int(rng, 3, 9)
            draw.regular_polygon(
                (x + size / 2, y + size / 2, size / 2 - shrink / 2 + 1),
                corners,
                _int(rng, 0, 90),
                fill=tones[i],
            )
        elif kind == 3:
            draw.arc(box, _int(rng, 0, 360), _int(rng, 360, 700), fill=tones[i], width=max(2, size // 6))
        else:
            letter = chr(_int(rng, 65, 91))
            draw.text(
                (x + size * 0.2, y), letter, fill=tones[i], font=font(int(size * 0.8), "DejaVuSans-Bold.ttf")
            )
    if rng.random() < 0.5:
        caption(image, rng, dark=dark)
    return np.asarray(image)


def _poster(rng: Rng) -> Picture:
    """Bands of colour, big words, a circle or a block for the picture."""
    image, _ = ground(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(_int(rng, 1, 4)):
        y, high = _int(rng, 0, 90), _int(rng, 6, 50)
        draw.rectangle((0, y, SIDE, y + high), fill=colour(rng))
    if rng.random() < 0.6:
        r, x, y = _int(rng, 8, 30), _int(rng, 20, 76), _int(rng, 20, 76)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour(rng))
    for _ in range(_int(rng, 1, 4)):
        box = (_int(rng, 0, 30), _int(rng, 0, 80), SIDE, SIDE)
        write(draw, rng, (*box[:2], box[2], box[1] + _int(rng, 10, 30)), colour(rng), _int(rng, 7, 24))
    return np.asarray(image)


def _map(rng: Rng) -> Picture:
    """Streets over blocks, water, and a pin."""
    land = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in rng.integers(190, 250, 3)))
    draw = ImageDraw.Draw(land)
    for _ in range(_int(rng, 2, 8)):
        x, y = (int(v) for v in rng.integers(-10, 80, 2))
        fill = colour(rng)
        draw.polygon([(x + int(a), y + int(b)) for a, b in rng.integers(0, 50, (5, 2))], fill=fill)
    for _ in range(_int(rng, 3, 14)):
        a, b = rng.integers(-20, 116, (2, 2))
        width = _int(rng, 1, 6)
        draw.line([tuple(a.tolist()), tuple(b.tolist())], fill=(150, 150, 150), width=width + 2)
        draw.line([tuple(a.tolist()), tuple(b.tolist())], fill=(255, 250, 220), width=width)
    if rng.random() < 0.6:
        x, y, r = _int(rng, 15, 80), _int(rng, 15, 70), _int(rng, 4, 9)
        draw.polygon(((x - r, y), (x + r, y), (x, y + 3 * r)), fill=(210, 40, 40))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(210, 40, 40))
    return np.asarray(land)


def _figure(rng: Rng) -> Picture:
    """Stick or block people and simple houses, in lines or flat colours."""
    image, dark = ground(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(_int(rng, 1, 6)):
        high = _int(rng, 24, 80)
        x, y = _int(rng, 8, 80), _int(rng, 0, SIDE - high + 6)
        ink: Any = ((245, 245, 245) if dark else (25, 25, 25)) if rng.random() < 0.5 else colour(rng)
        if rng.random() < 0.25:  # a house
            draw.rectangle((x, y + high // 2, x + high // 2, y + high), fill=colour(rng), outline=ink)
            draw.polygon(
                ((x - 3, y + high // 2), (x + high // 2 + 3, y + high // 2), (x + high // 4, y)),
                fill=colour(rng),
            )
            continue
        r = high * rng.uniform(0.1, 0.2)
        draw.ellipse(
            (x - r, y, x + r, y + 2 * r), fill=_skin(rng) if rng.random() < 0.6 else None, outline=ink
        )
        hip, width = y + high * 0.65, _int(rng, 1, 4)
        if rng.random() < 0.5:
            draw.rounded_rectangle((x - 1.3 * r, y + 2 * r, x + 1.3 * r, hip), 3, fill=colour(rng))
        draw.line((x, y + 2 * r, x, hip), fill=ink, width=width)
        for side in (-1, 1):
            draw.line((x, hip, x + side * high * rng.uniform(0.05, 0.25), y + high), fill=ink, width=width)
            draw.line(
                (x, y + 2.5 * r, x + side * high * 0.25, y + high * rng.uniform(0.2, 0.7)),
                fill=ink,
                width=width,
            )
    return np.asarray(image)


# ---- never trained on: the same kinds by other code


def _portrait(rng: Rng) -> Picture:
    """A square-headed child's drawing of a face, thick lines, ears and a neck."""
    base = Image.new("RGB", (4 * SIDE, 4 * SIDE), tuple(int(v) for v in rng.integers(120, 256, 3)))
    draw = ImageDraw.Draw(base)
    w, h = rng.uniform(120, 300, 2)
    cx, cy = 192 + rng.uniform(-40, 40), 180 + rng.uniform(-30, 30)
    skin, line = _skin(rng), _int(rng, 2, 12)
    draw.rectangle((cx - w / 5, cy + h / 3, cx + w / 5, 384), fill=skin, outline=(40, 30, 30), width=line)
    draw.rounded_rectangle((cx - w, 384 - 40 * rng.random() - 20, cx + w, 420), 30, fill=colour(rng))
    for side in (-1, 1):
        ear = cx + side * w / 2
        draw.ellipse((ear - 18, cy - 25, ear + 18, cy + 25), fill=skin, outline=(40, 30, 30), width=line)
    draw.rounded_rectangle(
        (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2),
        rng.uniform(20, 100),
        fill=skin,
        outline=(40, 30, 30),
        width=line,
    )
    draw.pieslice((cx - w / 2 - 6, cy - h / 2 - 16, cx + w / 2 + 6, cy + h / 2), 180, 360, fill=colour(rng))
    for side in (-1, 1):
        ex, ey, r = cx + side * w / 5, cy - h / 20, rng.uniform(8, 26)
        draw.ellipse((ex - r, ey - r, ex + r, ey + r), fill=(255, 255, 255), outline=(20, 20, 20), width=4)
        draw.ellipse((ex - r / 2, ey - r / 3, ex + r / 3, ey + r / 2), fill=(20, 20, 60))
        draw.line((ex - r, ey - 2 * r, ex + r, ey - 2 * r + rng.uniform(-12, 12)), fill=(50, 30, 20), width=8)
    draw.polygon(((cx, cy), (cx - 14, cy + h / 6), (cx + 10, cy + h / 6)), outline=(80, 50, 40))
    draw.line(
        [(cx - w / 5, cy + h / 3), (cx, cy + h / 3 + rng.uniform(-25, 30)), (cx + w / 5, cy + h / 3)],
        fill=(150, 20, 40),
        width=10,
        joint="curve",
    )
    return np.asarray(base.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _bill(rng: Rng) -> Picture:
    """A photographed till slip: serif type, centred head, columns, a shadow, on a table."""
    table = rng.integers(40, 200, 3)
    base = Image.new("RGB", (3 * SIDE, 3 * SIDE), tuple(int(v) for v in table))
    draw = ImageDraw.Draw(base)
    for y in range(0, 288, _int(rng, 8, 30)):
        draw.line(
            (0, y, 288, y + _int(rng, -20, 20)), fill=tuple(int(v) for v in np.clip(table + 15, 0, 255))
        )
    slip = Image.new("RGBA", (_int(rng, 130, 230), 300), (*(int(v) for v in rng.integers(235, 256, 3)), 255))
    pen = ImageDraw.Draw(slip)
    pen.text(
        (slip.width // 4, 8),
        ("CAFE", "MARKET", "SHOP 24", "BISTRO")[_int(rng, 0, 4)],
        fill=(20, 20, 20),
        font=font(26, "DejaVuSerif.ttf"),
    )
    y = 46
    while y < 280:
        words = ("milk", "bread", "tea", "rice", "soap", "eggs", "oil", "salt", "paper", "tax", "sum", "cash")
        pen.text(
            (10, y),
            f"{_int(rng, 1, 9)} {words[_int(rng, 0, 12)]}",
            fill=(40, 40, 40),
            font=font(16, "STIXGeneral.ttf"),
        )
        pen.text(
            (slip.width - 56, y),
            f"{_int(rng, 0, 60)},{_int(rng, 10, 99)}",
            fill=(40, 40, 40),
            font=font(16, "STIXGeneral.ttf"),
        )
        y += _int(rng, 16, 26)
    turned = slip.rotate(float(rng.uniform(-14, 14)), Image.Resampling.BICUBIC, expand=True)
    base.paste(turned, (_int(rng, -20, 90), _int(rng, -30, 10)), turned)
    return np.asarray(base.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _chat(rng: Rng) -> Picture:
    """A conversation: bubbles left and right with text, round portraits."""
    night = rng.random() < 0.4
    image = Image.new(
        "RGB", (SIDE, SIDE), (24, 26, 32) if night else tuple(int(v) for v in rng.integers(225, 256, 3))
    )
    draw = ImageDraw.Draw(image)
    mine = colour(rng)
    draw.rectangle((0, 0, SIDE, 11), fill=colour(rng))
    y = 15
    while y < 90:
        wide, high, right = _int(rng, 28, 70), _int(rng, 9, 22), rng.random() < 0.5
        x = SIDE - wide - 4 if right else 14
        fill = mine if right else ((60, 62, 70) if night else (235, 235, 238))
        draw.rounded_rectangle((x, y, x + wide, y + high), 4, fill=fill)
        ink = (20, 20, 20) if sum(fill) > 380 else (245, 245, 245)
        for line in range(y + 2, y + high - 5, 7):
            draw.text((x + 3, line), "so then we went home again"[: wide // 4], fill=ink, font=font(6))
        if not right:
            draw.ellipse((2, y, 11, y + 9), fill=colour(rng))
        y += high + _int(rng, 3, 8)
    return np.asarray(image)


def _comic(rng: Rng) -> Picture:
    """Panels with figures of blobs and a speech balloon."""
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    across, down = _int(rng, 1, 3), _int(rng, 1, 4)
    for row in range(down):
        for column in range(across):
            x0, y0 = column * SIDE // across + 2, row * SIDE // down + 2
            x1, y1 = (column + 1) * SIDE // across - 2, (row + 1) * SIDE // down - 2
            draw.rectangle((x0, y0, x1, y1), fill=colour(rng), outline=(0, 0, 0), width=2)
            h = y1 - y0
            for place in rng.uniform(0.15, 0.8, _int(rng, 1, 3)):
                x, r = x0 + (x1 - x0) * place, h * 0.13
                draw.polygon(((x, y1 - h * 0.45), (x - r, y1 - 1), (x + 2 * r, y1 - 1)), fill=colour(rng))
                draw.ellipse((x - r, y1 - h * 0.62, x + r, y1 - h * 0.35), fill=_skin(rng), outline=(0, 0, 0))
            draw.ellipse(
                (x0 + 4, y0 + 3, x0 + (x1 - x0) * 0.7, y0 + h * 0.35), fill=(255, 255, 255), outline=(0, 0, 0)
            )
            draw.text(
                (x0 + 9, y0 + h * 0.1),
                ("no!", "yes", "hm?", "hi!")[_int(rng, 0, 4)],
                fill=(0, 0, 0),
                font=font(7),
            )
    return np.asarray(image)


def _badge(rng: Rng) -> Picture:
    """A made-up mark by other code: rings, stripes and rays cut from a disc or a shield, finely drawn."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] - 47.5
    radius, angle = np.hypot(x, y * rng.uniform(0.8, 1.2)), np.arctan2(y, x)
    out = np.broadcast_to(rng.integers(0, 256, 3), (SIDE, SIDE, 3)).astype(np.float32)
    size = rng.uniform(16, 44)
    for _ in range(_int(rng, 2, 5)):
        kind, tone = rng.integers(4), rng.uniform(0, 255, 3)
        if kind == 0:
            inside = np.abs(radius - size * rng.uniform(0.3, 1)) < size * rng.uniform(0.06, 0.3)
        elif kind == 1:
            inside = (radius < size) & (
                np.sin(angle * _int(rng, 2, 14) + rng.uniform(0, 6)) > rng.uniform(-0.5, 0.7)
            )
        elif kind == 2:
            turn = rng.uniform(0, np.pi)
            inside = (radius < size) & (
                np.sin((x * np.cos(turn) + y * np.sin(turn)) / size * rng.uniform(3, 9)) > 0
            )
        else:
            power = rng.uniform(1, 5)
            inside = (np.abs(x / size) ** power + np.abs(y / size) ** power) < rng.uniform(0.2, 1)
        out = np.where(inside[..., None], tone, out)
    return np.ascontiguousarray(np.clip(out, 0, 255).astype(np.uint8))


TRAINING_DRAWINGS: dict[str, Callable[[Rng], Picture]] = {
    "cartoon faces": _face,
    "receipts": _receipt,
    "telephones": _telephone,
    "marks": _mark,
    "posters": _poster,
    "maps": _map,
    "figures": _figure,
}
HELD_OUT_DRAWINGS: dict[str, Callable[[Rng], Picture]] = {
    "portraits": _portrait,
    "bills": _bill,
    "chats": _chat,
    "comics": _comic,
    "badges": _badge,
}
