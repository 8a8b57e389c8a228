"""Image-classification heads: tiny ones of the real classes, saved to disk and loaded by their folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyguard import ConfigurationError, Guard, Outcome
from policyguard.backends import build_backend
from policyguard.backends.sensors import SensorBackend, get_sensor
from policyguard.errors import ModelLoadError, UsageError
from support.guards import picture

pytest.importorskip("torch")
import numpy as np
import torch
import transformers

from backends.sensors.test_sensor_backend import policy
from support.tiny_vision import build_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_classifier(tmp_path_factory.mktemp("models") / "vit", "normal", "nsfw")


def rule(*signals: str) -> dict[str, object]:
    return {"id": "r", "title": "R", "unsafe": ["r"], "signals": list(signals)}


def by_hand(folder: Path, shade: int) -> np.ndarray:
    """Softmax over the logits of the real class on pixels scaled as its processor's settings say."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    frame = picture(shade).resize((32, 32), settings["resample"])
    pixels = (np.asarray(frame, dtype=np.float32) / 255 - settings["image_mean"]) / settings["image_std"]
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]).logits[0].double()
    exponents = np.exp(logits.numpy() - logits.numpy().max())
    return exponents / exponents.sum()


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_the_score_is_the_softmax_of_the_label_of_that_name(folder: Path, shade: int) -> None:
    expected = by_hand(folder, shade)
    for place, label in enumerate(("normal", "nsfw")):
        verdict = Guard(policy(rule(f"classifier/{label}")), model=str(folder)).check(picture(shade))
        assert verdict.score == pytest.approx(float(expected[place]), abs=1e-5)


def test_the_shares_of_several_labels_of_one_rule_add_up(folder: Path) -> None:
    verdict = Guard(policy(rule("classifier/nsfw", "classifier/normal")), model=str(folder)).check(picture(9))
    assert verdict.score == pytest.approx(1.0, abs=1e-6)
    assert verdict.evidence.notes == ("r: nsfw + normal 1.000",)


def test_labels_in_another_order_give_their_own_scores(folder: Path, tmp_path: Path) -> None:
    turned = build_classifier(tmp_path / "turned", "nsfw", "normal")
    scores = []
    for place in (folder, turned):
        sensor = get_sensor("classifier", model=str(place))
        (sensed,) = sensor.sense([picture(90)])
        assert sum(sensed.values()) == pytest.approx(1.0)
        scores.append(sensed)
    assert scores[0]["nsfw"] == pytest.approx(scores[1]["normal"], abs=1e-6)


def test_a_head_that_rates_each_label_by_itself_is_read_so(tmp_path: Path) -> None:
    place = build_classifier(tmp_path / "m", "gore", "nudity", problem_type="multi_label_classification")
    (sensed,) = get_sensor("classifier", model=str(place)).sense([picture(90)])
    assert abs(sum(sensed.values()) - 1.0) > 1e-3


def test_siglip_heads_work_too_and_labels_may_hold_spaces(tmp_path: Path) -> None:
    place = build_classifier(tmp_path / "s", "Anime Picture", "Enticing or Sensual", family="Siglip")
    asked = policy(rule("classifier/Enticing or Sensual"))
    assert 0.0 < (Guard(asked, model=str(place)).check(picture(3)).score or 0.0) < 1.0


def test_many_at_once_score_as_one_by_one(folder: Path) -> None:
    guard = Guard(policy(rule("classifier/nsfw")), model=str(folder))
    alone = [guard.check(picture(shade)).score for shade in range(0, 250, 50)]
    together = [v.score for v in guard.check_many(picture(shade) for shade in range(0, 250, 50))]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_copy_of_a_known_head_keeps_its_name(tmp_path: Path) -> None:
    place = build_classifier(tmp_path / "vit-base-nsfw-detector", "sfw", "nsfw")
    backend = build_backend(str(place))
    assert isinstance(backend, SensorBackend)
    assert backend.sensor.name == "adamcodd-nsfw"
    verdict = Guard("modules/sexual", model=str(place), subset=True).check(picture(3))
    assert verdict.outcome in (Outcome.COMPLIES, Outcome.VIOLATES)
    assert (verdict.evidence.model.revision or "").startswith("sha256:")


def test_a_label_that_the_head_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no signal 'nfsw'(.|\n)*'nsfw'"):
        Guard(policy(rule("classifier/nfsw")), model=str(folder))


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("0", "1"), ("nsfw", "nsfw")])
def test_labels_that_do_not_say_what_they_mean_are_refused(labels: tuple[str, str], tmp_path: Path) -> None:
    place = build_classifier(tmp_path / "m", "a", "b")
    config = json.loads((place / "config.json").read_text())
    config["id2label"] = {"0": labels[0], "1": labels[1]}
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="label"):
        Guard(policy(rule("classifier/a")), model=str(place))


def test_a_head_whose_weights_are_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    place = build_classifier(tmp_path / "m", "normal", "nsfw")
    tensors = __import__("safetensors.torch", fromlist=["x"])
    weights = tensors.load_file(place / "model.safetensors")
    del weights["classifier.weight"]
    tensors.save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lack 1 tensors, the first is classifier\.weight"):
        Guard(policy(rule("classifier/nsfw")), model=str(place)).warm()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    place = build_classifier(tmp_path / "m", "normal", "nsfw")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors"):
        Guard(policy(rule("classifier/nsfw")), model=str(place))
