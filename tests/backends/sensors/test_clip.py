"""Heads on CLIP: made as their makers publish them, converted by the script, and held to the makers' sums."""

from __future__ import annotations

import json
import pickle  # noqa: TID251 (what makers publish)
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policyguard import Guard, Outcome
from policyguard.backends.sensors import get_sensor
from policyguard.errors import ModelLoadError
from support.guards import picture

pytest.importorskip("torch")
import torch
import transformers
from PIL import Image as Pictures
from torch import nn
from torch.nn.functional import normalize

from backends.sensors.test_sensor_backend import policy
from policyguard.backends.sensors.clip import squares
from support.tiny_vision import SIZES, build_clip

SCRIPT = Path(__file__).parents[3] / "examples" / "sensors" / "convert_clip_head.py"
main = runpy.run_path(str(SCRIPT))["main"]
SIZE = 24
HEADS = ("sexual", "violent", "disturbing", "hateful", "political")


def convert(*arguments: object) -> None:
    main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("models") / "clip")


def embedded(encoder: Path, frame: Pictures.Image) -> torch.Tensor:
    """The embedding, by the real classes alone."""
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(encoder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(encoder)
    with torch.inference_mode():
        return model(**processor(images=frame, return_tensors="pt")).image_embeds


def multiheaded_modules() -> dict[str, nn.Sequential]:
    torch.manual_seed(3)
    modules = {}
    for name in HEADS:
        module = nn.Sequential(
            nn.Linear(SIZE, 12), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 1)
        )
        norm: Any = module[3]
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
        modules[name] = module.eval()
    return modules


def sensed(folder: Path, frame: Pictures.Image) -> dict[str, float]:
    (answer,) = get_sensor("clip", model=str(folder)).sense([frame])
    assert isinstance(answer, dict)
    return answer


def test_q16_gives_the_softmax_of_a_hundred_cosines(encoder: Path, tmp_path: Path) -> None:
    prompts = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(1)).numpy()
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(prompts))
    convert("q16", tmp_path / "prompts.p", "--to", tmp_path / "head", "--encoder", encoder)
    features = normalize(embedded(encoder, picture(90)), dim=-1)
    expected = (100.0 * features @ normalize(torch.tensor(prompts), dim=-1).T).softmax(-1)[0].tolist()
    assert sensed(tmp_path / "head", picture(90)) == pytest.approx(
        {"appropriate": expected[0], "inappropriate": expected[1]}, abs=1e-5
    )


def test_multiheaded_gives_each_head_s_sigmoid_on_the_embedding_as_it_is(
    encoder: Path, tmp_path: Path
) -> None:
    modules = multiheaded_modules()
    for name, module in modules.items():
        torch.save(module.state_dict(), tmp_path / f"{name}.pt")
    convert("multiheaded", tmp_path, "--to", tmp_path / "head", "--encoder", encoder)
    with torch.inference_mode():
        features = embedded(encoder, picture(90))
        expected = {name: module(features).sigmoid().item() for name, module in modules.items()}
    assert sensed(tmp_path / "head", picture(90)) == pytest.approx(expected, abs=1e-5)


def test_laion_s_detector_scales_its_input_and_looks_at_the_normalised_embedding(
    encoder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    mean, variance = torch.randn(SIZE) * 0.1, torch.rand(SIZE) + 0.1
    linears = [nn.Linear(SIZE, 8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 1)]
    state = {"norm.mean": mean, "norm.variance": variance}
    for place, linear in enumerate(linears, 1):
        state |= {f"linear_{place}.{name}": value for name, value in linear.state_dict().items()}
    torch.save(state, tmp_path / "nsfw.pth")
    convert("laion-nsfw", tmp_path / "nsfw.pth", "--to", tmp_path / "head", "--encoder", encoder)
    with torch.inference_mode():
        values = (normalize(embedded(encoder, picture(90)), dim=-1) - mean) / variance.sqrt()
        for linear in linears[:-1]:
            values = linear(values).relu()
        expected = linears[-1](values).sigmoid().item()
    assert sensed(tmp_path / "head", picture(90)) == pytest.approx({"nsfw": expected}, abs=1e-5)


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_stable_diffusion_s_checker_hits_where_a_rounded_margin_is_above_0(
    encoder: Path, tmp_path: Path, above: bool, special: bool
) -> None:
    """Concept 3 is 0.005 below its mark, or above; special care moves all marks by 0.01."""
    features = normalize(embedded(encoder, picture(90)), dim=-1)
    concepts = torch.randn(17, SIZE, generator=torch.Generator().manual_seed(2))
    cosines = (features @ normalize(concepts, dim=-1).T)[0]
    marks = cosines + 0.5
    marks[3] = cosines[3] + (-0.005 if above else 0.005)
    care = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(4))
    care_marks = (features @ normalize(care, dim=-1).T)[0] + (-0.1 if special else 0.1)
    published = tmp_path / "published"
    published.mkdir()
    state = transformers.CLIPVisionModelWithProjection.from_pretrained(encoder).state_dict()
    own = {f"vision_model.{name}": v for name, v in state.items() if name.startswith("vision_model.")}
    own["visual_projection.weight"] = state["visual_projection.weight"]
    own |= {"concept_embeds": concepts, "concept_embeds_weights": marks}
    own |= {"special_care_embeds": care, "special_care_embeds_weights": care_marks}
    torch.save(own, published / "pytorch_model.bin")
    vision = transformers.CLIPVisionConfig(**SIZES, projection_dim=SIZE)
    config = transformers.CLIPConfig(vision_config=vision.to_dict(), projection_dim=SIZE)
    config.save_pretrained(published)
    (published / "preprocessor_config.json").write_text((encoder / "preprocessor_config.json").read_text())
    convert("sd-safety-checker", published, "--to", tmp_path / "head")
    margin = round((cosines[3] - marks[3]).item(), 3) + (0.01 if special else 0.0)
    score = sensed(tmp_path / "head", picture(90))["nsfw"]
    assert (score >= 0.5) == (margin > 0) == (above or special)


def test_a_converted_head_is_found_by_name_and_by_folder(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYGUARD_SENSORS", str(tmp_path))
    asked = policy({"id": "r", "title": "R", "unsafe": ["r"], "signals": ["q16/inappropriate"]})
    with pytest.raises(ModelLoadError, match=r"no converted head 'q16'(.|\n)*convert_clip_head\.py q16"):
        Guard(asked, model="q16")
    prompts = torch.randn(2, SIZE).tolist()
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(prompts))
    convert("q16", tmp_path / "prompts.p", "--encoder", encoder)
    verdicts = [Guard(asked, model=model).check(picture(9)) for model in ("q16", str(tmp_path / "q16"))]
    assert verdicts[0].score == verdicts[1].score
    assert verdicts[0].evidence.model.id == "q16"
    assert "encoder=" in verdicts[0].evidence.model.settings


def test_the_script_refuses_a_pickle_that_holds_more_than_numbers(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "prompts.p").write_bytes(pickle.dumps(Evil()))
    command = [
        sys.executable,
        str(SCRIPT),
        "q16",
        str(tmp_path / "prompts.p"),
        "--to",
        str(tmp_path / "head"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "refused" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_head_for_another_clip_is_refused(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.p").write_bytes(pickle.dumps([[0.1] * 5] * 2))
    convert("q16", tmp_path / "prompts.p", "--to", tmp_path / "h", "--encoder", encoder)
    with pytest.raises(ModelLoadError, match="embeddings of 5"):
        get_sensor("clip", model=str(tmp_path / "h")).warm()


@pytest.mark.parametrize("field", ["name", "kind", "signals", "encoder", "normalised"])
def test_a_folder_that_does_not_say_what_the_head_is_is_refused(
    field: str, encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.p").write_bytes(pickle.dumps([[0.1] * SIZE] * 2))
    convert("q16", tmp_path / "prompts.p", "--to", tmp_path / "h", "--encoder", encoder)
    config = json.loads((tmp_path / "h" / "config.json").read_text())
    config["policyguard"][field] = None
    (tmp_path / "h" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="does not say what the head is"):
        get_sensor("clip", model=str(tmp_path / "h"))


@pytest.mark.parametrize(("size", "number"), [((64, 64), 1), ((65, 64), 3), ((200, 64), 5), ((64, 192), 3)])
def test_squares_cover_all_of_an_image_and_hold_the_middle(size: tuple[int, int], number: int) -> None:
    frame = Pictures.new("RGB", size)
    for x in range(size[0]):
        for y in range(size[1]):
            frame.putpixel((x, y), (x, y, 0))
    crops = squares(frame)
    assert len(crops) == number
    assert all(crop.size == (64, 64) for crop in crops)
    seen = {crop.getpixel(corner) for crop in crops for corner in ((0, 0), (63, 63))}
    assert (0, 0, 0) in seen
    assert (size[0] - 1, size[1] - 1, 0) in seen
    middle = ((size[0] - 64) // 2, (size[1] - 64) // 2, 0)
    assert any(abs(a - m) <= 1 and abs(b - n) <= 1 for a, b, _ in seen for m, n, _ in [middle])


def test_what_stands_at_the_edge_of_a_wide_image_is_seen(encoder: Path, tmp_path: Path) -> None:
    modules = multiheaded_modules()
    for name, module in modules.items():
        torch.save(module.state_dict(), tmp_path / f"{name}.pt")
    convert("multiheaded", tmp_path, "--to", tmp_path / "h", "--encoder", encoder)
    plain, marked = Pictures.new("RGB", (90, 30), "gray"), Pictures.new("RGB", (90, 30), "gray")
    marked.paste(picture(255, 20), (0, 5))
    assert sensed(tmp_path / "h", plain) != sensed(tmp_path / "h", marked)
    asked = policy({"id": "r", "title": "R", "unsafe": ["r"], "signals": ["multiheaded/violent"]})
    verdict = Guard(asked, model=str(tmp_path / "h")).check(Pictures.new("RGB", (500, 50)))
    assert verdict.outcome is Outcome.UNSCANNABLE
