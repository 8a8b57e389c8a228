"""Published guards by their real classes: scores are the softmax over their labels, worked out by hand.

Each architecture is saved and loaded from disk. Three need torchvision, which the suite's own environment has
not; they run where it is installed, and with the vLLM suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.transformers.support import assessments, policy, requests
from policyguard.backends.transformers import TransformersBackend
from policyguard.dialects import get_dialect
from policyguard.errors import ConfigurationError, ModelLoadError
from support.guard_families import GUARDS, Asked, differences, guard_model, torchvision_for
from support.tiny_models import tiny_model


def backend(folder: Path, **options: Any) -> TransformersBackend:
    return TransformersBackend(str(folder), device="cpu", dtype="float32", **options)


@pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")  # inside transformers
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside transformers
@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_scores_are_the_softmax_over_the_labels_worked_out_by_hand(guard: Asked) -> None:
    """Alone and in a batch of images of other sizes, by rule too; the dialect is the one of the registry."""
    torchvision_for(guard.family)
    frames = [request.frame for request in requests(3, policy(rules=2))]
    assert max(differences(guard, policy(rules=3), frames)) < 1e-5


@pytest.mark.parametrize("family", ["clip", "instructblip", "paligemma", "vit"])
def test_what_cannot_read_a_policy_is_refused_with_what_would_work(family: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        backend(guard_model(family)).warm()
    assert {
        "clip": "compares images with captions",
        "instructblip": "no chat template",
        "paligemma": "moves the text",
        "vit": "labels of its own",
    }[family] in str(caught.value)
    assert "Qwen/Qwen3-VL-4B-Instruct" in str(caught.value)


def test_a_model_whose_earlier_tokens_see_later_ones_is_refused_before_it_judges_anything() -> None:
    with pytest.raises(ModelLoadError, match=r"earlier tokens .* see later ones"):
        backend(guard_model("paligemma-with-llavas-processor")).warm()


OWN_QUESTION = [
    guard for guard in GUARDS if guard.dialect in ("llama-guard", "nemotron", "shieldgemma", "singguard")
]


@pytest.mark.parametrize("guard", OWN_QUESTION, ids=str)
def test_a_copy_under_another_name_is_known_by_its_chat_template(guard: Asked) -> None:
    torchvision_for(guard.family)
    name = guard.dialect
    folder = guard_model(guard.family, guard.chat)
    with pytest.raises(ConfigurationError, match="question of its own") as caught:
        backend(folder).warm()
    assert f"dialect='{name}'" in str(caught.value)
    backend(folder, dialect=get_dialect(name)).warm()
    backend(folder, dialect=get_dialect("safeguard")).warm()  # by name, and so on the caller's word


@pytest.mark.parametrize(
    ("name", "family", "dialect"),
    [
        ("shieldgemma-2-4b-it", "shieldgemma2", "shieldgemma"),
        ("Nemotron-3-Content-Safety", "gemma3", "nemotron"),
        ("QwenGuard-v1.2-7B", "qwen2_5_vl", "llavaguard"),
        ("GuardReasoner-VL-3B-AWQ", "qwen2_5_vl", "guardreasoner"),
        ("SafeGuard-VL-RL", "qwen2_5_vl", "safeguard-vl"),
    ],
)
def test_a_copy_under_its_makers_name_speaks_its_own_dialect(
    name: str, family: str, dialect: str, tmp_path: Path
) -> None:
    guard = backend(shutil.copytree(guard_model(family), tmp_path / name))
    assert guard.dialect.name == dialect
    guard.warm()


def test_ordinary_models_keep_the_default_dialect() -> None:
    guard = backend(tiny_model("qwen3_vl"))
    assert guard.dialect.name == "safeguard"
    guard.warm()


def test_shieldgemma_scores_as_its_own_class_and_processor_do() -> None:
    import torch
    from transformers import AutoModelForImageClassification, AutoProcessor

    folder, under = guard_model("shieldgemma2"), policy(rules=2)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    asked = requests(1, under)
    [found] = assessments(backend(folder, dialect=get_dialect("shieldgemma")).assess(asked))
    assert found.rule_scores is not None
    for prompt in get_dialect("shieldgemma").render(under):
        own = {"custom_policies": {"ours": str(prompt.messages[0].parts[1])}, "policies": ["ours"]}
        inputs = processor(images=[asked[0].frame], return_tensors="pt", **own)
        with torch.inference_mode():
            expected = float(model(**inputs).probabilities[0, 0])
        assert found.rule_scores[prompt.rule or ""] == pytest.approx(expected, abs=1e-5)
    assert found.p_unsafe == max(found.rule_scores.values())


LOOKING = ("visual", "vision_tower", "vision_model")


def looks_and_passes(guard: TransformersBackend) -> tuple[list[int], list[int], list[int]]:
    """Lists that grow by one for each image prepared, look of the vision tower, and pass of the model."""
    runner = guard._load()
    prepared: list[int] = []
    looked: list[int] = []
    passed: list[int] = []

    class Counted:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            prepared.append(1)
            return self.inner(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    model, images = runner.loaded.model, runner.images
    images.inner = Counted(images.inner)
    tower = next(getattr(model.model, name) for name in LOOKING if hasattr(model.model, name))
    tower.register_forward_pre_hook(lambda *_: looked.append(1))
    model.register_forward_pre_hook(lambda *_: passed.append(1))
    return prepared, looked, passed


@pytest.mark.parametrize(
    ("family", "dialect"),
    [
        ("gemma3", "nemotron+per-rule"),
        ("idefics3", "instruct+per-rule"),
        ("llava_onevision", "llavaguard+per-rule"),
        ("mistral3", "shieldstral"),
        ("qwen2_5_vl", "safeguard-vl+per-rule"),
        ("qwen3_vl", "safeguard+per-rule"),
        ("shieldgemma2", "shieldgemma"),
    ],
)
def test_twenty_rules_are_twenty_passes_over_one_look_at_the_image(family: str, dialect: str) -> None:
    torchvision_for(family)
    guard = backend(guard_model(family), dialect=get_dialect(dialect))
    prepared, looked, passed = looks_and_passes(guard)
    under = policy(rules=20)
    guard.assess(requests(2, under)[1:])  # makes the plans, which prepare an image of their own
    for counted in (prepared, looked, passed):
        counted.clear()
    [found] = assessments(guard.assess(requests(1, under)))
    assert (len(prepared), len(looked), len(passed)) == (1, 1, 20)
    assert len(found.rule_scores or {}) == 20
    guard.assess([replace(request, frame=request.frame.rotate(90)) for request in requests(1, under)])
    assert (len(prepared), len(looked), len(passed)) == (2, 2, 40)


def test_a_processor_in_use_can_be_printed_and_saved(tmp_path: Path) -> None:
    guard = backend(guard_model("gemma3"), dialect=get_dialect("nemotron"))
    processor = guard._load().loaded.processor
    assert "Gemma3" in repr(processor)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize("guard", [guard for guard in OWN_QUESTION if guard.dialect != "nemotron"], ids=str)
def test_a_template_that_lost_its_question_is_refused(guard: Asked, tmp_path: Path) -> None:
    """A policy would be read out to the model, and nothing asked about it."""
    torchvision_for(guard.family)
    folder = shutil.copytree(guard_model(guard.family, guard.chat), tmp_path / "copy")
    template = (folder / "chat_template.jinja").read_text()
    for mark in ("BEGIN_SAFETY_POLICY", "BEGIN UNSAFE CONTENT CATEGORIES", "thinking_type"):
        template = template.replace(mark, "changed")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigurationError, match="not the one that was published"):
        backend(folder, dialect=get_dialect(guard.dialect)).warm()


@pytest.mark.parametrize("dialect", ["llama-guard", "singguard"])
def test_a_template_that_leaves_out_the_policy_is_refused(dialect: str, tmp_path: Path) -> None:
    """It has the marks and takes the arguments, and says nothing of them."""
    guard = next(guard for guard in OWN_QUESTION if guard.dialect == dialect)
    chat = (guard.chat or (guard_model(guard.family) / "chat_template.jinja").read_text()).replace(
        "(categories | default({}))", "{}"
    )
    folder = guard_model(guard.family, chat.replace("policy | default", "'' | default"))
    with pytest.raises(ConfigurationError, match="drops part of the prompt"):
        backend(folder, dialect=get_dialect(dialect)).assess(requests(1, policy()))


GATED = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this model is restricted.")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    do_HEAD = do_GET
    def log_message(self, *args): pass

hub = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
import os
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
from policyguard import Guard
from policyguard.errors import ModelLoadError
try:
    Guard("safeedit/l3", model="shieldgemma-2").warm()
except ModelLoadError as error:
    print(error)
"""


def test_a_gated_model_without_a_token_says_where_to_ask_for_access(tmp_path: Path) -> None:
    """A hub of ours answers as theirs does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", GATED],
        env=kept | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "gated and this machine has no access" in done.stdout
    assert "https://huggingface.co/google/shieldgemma-2-4b-it" in done.stdout
    assert "hf auth login" in done.stdout
