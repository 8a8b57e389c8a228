"""Published guards by their real classes: scores are the softmax over their labels, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.transformers.support import assessments, policy, requests
from policyguard.backends.transformers import TransformersBackend
from policyguard.dialects import get_dialect
from policyguard.errors import ConfigurationError, ModelLoadError
from support.shieldgemma import build_shieldgemma
from support.tiny_models import tiny_model


@pytest.fixture(scope="module")
def shieldgemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shieldgemma(tmp_path_factory.mktemp("hub") / "shieldgemma-2-4b-it")


def backend(folder: Path, **options: Any) -> TransformersBackend:
    return TransformersBackend(str(folder), device="cpu", dtype="float32", **options)


def by_hand(folder: Path, frame: Any, text: str) -> float:
    """P(violates) as the published class and its own processor give it for one custom policy."""
    import torch
    from transformers import AutoModelForImageClassification, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(images=[frame], custom_policies={"ours": text}, policies=["ours"], return_tensors="pt")
    with torch.inference_mode():
        return float(model(**inputs).probabilities[0, 0])


def test_shieldgemma_is_recognised_loads_and_scores_as_its_own_class_does(shieldgemma: Path) -> None:
    under = policy(rules=2)
    guard = backend(shieldgemma)
    assert guard.dialect.name == "shieldgemma"
    asked = requests(1, under)
    [found] = assessments(guard.assess(asked))
    prompts = get_dialect("shieldgemma").render(under)
    for prompt in prompts:
        expected = by_hand(shieldgemma, asked[0].frame, str(prompt.messages[0].parts[1]))
        assert found.rule_scores is not None
        assert found.rule_scores[prompt.rule or ""] == pytest.approx(expected, abs=1e-5)
    assert found.p_unsafe == max((found.rule_scores or {}).values())


def test_a_copy_under_another_name_is_known_by_its_chat_template(shieldgemma: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(shieldgemma, tmp_path / "our-guard")
    with pytest.raises(ConfigurationError, match="question of its own") as caught:
        backend(copy).warm()
    assert "dialect='shieldgemma'" in str(caught.value)
    backend(copy, dialect=get_dialect("shieldgemma")).warm()
    backend(copy, dialect=get_dialect("safeguard")).warm()  # by name, and so on the caller's word


def test_ordinary_models_keep_the_default_dialect() -> None:
    guard = backend(tiny_model("qwen3_vl"))
    assert guard.dialect.name == "safeguard"
    guard.warm()


def test_a_classifier_is_refused_with_what_would_work(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        backend(tmp_path).warm()
    assert "reads no policy" in str(caught.value)
