"""The benchmark as files: images, one JSON line for each, and a manifest that can be checked.

A folder holds ``images/*.png``; ``scenes.jsonl`` (scene, and labels under the five levels), ``pairs.jsonl``
and ``held_out.jsonl`` (scene, policy, label); ``NOTICE.md`` with the licences of the art; and
``manifest.json`` with the seed, the sizes, the levels' fingerprints and the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from policyguard.errors import ConfigurationError
from policyguard.pictosafe.benchmark import (
    DEFAULT_SIZES,
    Benchmark,
    HeldOut,
    Pair,
    Shot,
    Sizes,
    draw_benchmark,
)
from policyguard.pictosafe.render import STYLES, Style
from policyguard.pictosafe.rules import LEVELS, PictoPolicy, load_level, symbolic_level, violating
from policyguard.pictosafe.scene import Scene
from policyguard.policy import parse_policy
from policyguard.strict.files import fresh_folder, sha256_of, write_lines
from policyguard.strict.jsontext import parse_json

__all__ = ["FORMAT", "load", "make"]

FORMAT: Final = 2

Progress = Callable[[int, int], None]


def make(
    out_dir: Path | str,
    *,
    seed: int = 0,
    sizes: Sizes = DEFAULT_SIZES,
    styles: tuple[Style, ...] = STYLES,
    scale: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Write the benchmark of ``seed`` into the new folder ``out_dir``; returns the manifest's path.

    The folder appears whole or not at all. ``progress`` is called with (images written, images in all).
    Raises ConfigurationError if something is at ``out_dir`` already, or for settings that cannot work.
    """
    target = Path(out_dir)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigurationError(
            f"{target} is there already", hint="name a new folder, or remove that one first"
        )
    benchmark = draw_benchmark(seed, sizes=sizes, styles=styles, scale=scale)
    with fresh_folder(target) as folder:
        _write(benchmark, folder, progress)
    return target / "manifest.json"


def _write(benchmark: Benchmark, folder: Path, progress: Progress | None) -> None:
    (folder / "images").mkdir()
    shots = list(benchmark.all_shots())
    pixels = hashlib.sha256()
    for done, shot in enumerate(shots, start=1):
        drawing = shot.source(scale=benchmark.scale)
        assert not isinstance(drawing, Path)
        pixels.update(drawing.tobytes())
        drawing.save(folder / _image(shot))
        if progress is not None:
            progress(done, len(shots))
    write_lines(folder / "scenes.jsonl", (json.dumps(_scene_row(shot)) for shot in benchmark.shots))
    write_lines(folder / "pairs.jsonl", (json.dumps(_pair_row(pair)) for pair in benchmark.pairs))
    write_lines(folder / "held_out.jsonl", (json.dumps(_held_out_row(row)) for row in benchmark.held_out))
    shutil.copyfile(str(files("policyguard.pictosafe") / "assets" / "NOTICE.md"), folder / "NOTICE.md")
    manifest = {
        "format": FORMAT,
        "seed": benchmark.seed,
        "scale": benchmark.scale,
        "sizes": asdict(benchmark.sizes),
        "levels": {name: load_level(name).fingerprint for name in LEVELS},
        "pixels_sha256": pixels.hexdigest(),
        "files": {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def load(folder: Path | str) -> Benchmark:
    """Read a folder that ``make`` wrote.

    Raises ConfigurationError if it is none, if a file is not what the manifest says, or if the packaged
    levels have changed since (their labels would be wrong).
    """
    folder = Path(folder)
    try:
        manifest = parse_json((folder / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
        _verify(folder, manifest)
        return Benchmark(
            manifest["seed"],
            manifest["scale"],
            Sizes(**manifest["sizes"]),
            tuple(_shot(folder, row) for row in _rows(folder / "scenes.jsonl")),
            tuple(_pair(folder, row) for row in _rows(folder / "pairs.jsonl")),
            tuple(_held_out(folder, row) for row in _rows(folder / "held_out.jsonl")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{folder} is not a PictoSafe data set: {error}",
            hint="write one with: policyguard bench pictosafe make FOLDER",
        ) from error


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    for name, expected in manifest["files"].items():
        if sha256_of(folder / name) != expected:
            raise ValueError(f"{name} has changed since the data set was made")
    for name in LEVELS:
        if manifest["levels"].get(name) != load_level(name).fingerprint:
            raise ValueError(f"it was labelled by another version of policy {name}")


def _image(shot: Shot) -> str:
    return f"images/{shot.id}.png"


def _shot_row(shot: Shot) -> dict[str, Any]:
    return {"id": shot.id, "image": _image(shot), "style": shot.style, "scene": shot.scene.to_dict()}


def _scene_row(shot: Shot) -> dict[str, Any]:
    return _shot_row(shot) | {"labels": {name: _label(symbolic_level(name), shot.scene) for name in LEVELS}}


def _pair_row(pair: Pair) -> dict[str, Any]:
    shots = {"before": _scene_row(pair.before), "after": _scene_row(pair.after)}
    return {"place": pair.place, "policies": list(pair.policies)} | shots


def _held_out_row(sample: HeldOut) -> dict[str, Any]:
    policy = sample.policy.model_dump(mode="json", exclude_defaults=True)
    return _shot_row(sample.shot) | {"policy": policy, "label": _label(sample.symbols, sample.shot.scene)}


def _label(policy: PictoPolicy, scene: Scene) -> dict[str, Any]:
    broken = violating(policy, scene)
    return {"unsafe": bool(broken), "violations": [{"rule": rule, "place": place} for rule, place in broken]}


def _shot(folder: Path, row: dict[str, Any]) -> Shot:
    return Shot(row["id"], Scene.from_dict(row["scene"]), row["style"], folder / row["image"])


def _pair(folder: Path, row: dict[str, Any]) -> Pair:
    before, after = _shot(folder, row["before"]), _shot(folder, row["after"])
    return Pair(before, after, row["place"], tuple(row["policies"]))


def _held_out(folder: Path, row: dict[str, Any]) -> HeldOut:

    return HeldOut(_shot(folder, row), parse_policy(row["policy"]))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
