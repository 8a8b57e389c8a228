"""Loading real files: device and dtype, no code, no chatter, and clear words for what cannot be loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.transformers.support import (
    PlainDialect,
    assessments,
    furthest,
    policy,
    requests,
    shared_backend,
    tiny_backend,
)
from policyguard.backends.transformers import TransformersBackend, loading
from policyguard.backends.transformers.placement import choose_device, choose_dtype
from policyguard.errors import ConfigurationError, MissingExtraError, ModelLoadError
from support.tiny_models import FAMILIES, Family, build_tiny_model, tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build_tiny_model(tmp_path / "model", "qwen3_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_identity_says_which_model_answers(family: Family) -> None:
    backend = tiny_backend(family)
    identity = backend.model
    assert identity.id == str(tiny_model(family))
    assert identity.revision is not None
    assert identity.revision.startswith("sha256:")
    assert (identity.dialect, identity.dialect_version, identity.layout) == ("plain", "1", "policy-first")
    assert (identity.dtype, identity.backend, identity.world) == ("float32", "transformers", None)
    assert backend._runner is None  # asking loads no weights


def test_the_revision_is_that_of_the_weights_in_memory_whatever_happens_to_the_files(
    model: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    backend = tiny_backend(copy)
    before = backend.model.revision
    (copy / "generation_config.json").write_text("{}")
    changed = backend.model.revision
    backend.warm()
    (copy / "model.safetensors").write_bytes(b"something else")
    assert before != changed == backend.model.revision


def test_a_model_whose_files_change_while_it_loads_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    honest = loading.load

    def swapping(*args: Any, **options: Any) -> Any:
        loaded = honest(*args, **options)
        (copy / "model.safetensors").write_bytes(b"something else")
        return loaded

    monkeypatch.setattr(loading, "load", swapping)
    with pytest.raises(ModelLoadError, match="changed while they were loaded"):
        tiny_backend(copy).warm()


FORKED = """
import os, sys, warnings
from backends.transformers.support import policy, requests, tiny_backend
from policyguard.errors import ConfigurationError
from pathlib import Path
backend = tiny_backend(Path(sys.argv[1]))
backend.warm()
warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads, which is the point
if os.fork() == 0:
    try:
        backend.assess(requests(1, policy()))
    except ConfigurationError as error:
        print(error, error.hint, flush=True)
    os._exit(0)
os.wait()
print(type(backend.assess(requests(1, policy()))[0]).__name__)
"""


def test_a_forked_child_is_told_to_build_its_own_guard_and_the_parent_goes_on(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(model)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    child, parent = done.stdout.strip().rsplit("\n", 1)
    assert "before this process was forked" in child
    assert "'spawn'" in child
    assert parent == "Assessment"


def test_weights_load_once_on_first_use() -> None:
    backend = tiny_backend("qwen3_vl")
    assert backend._runner is None
    backend.warm()
    runner = backend._runner
    backend.assess(requests(1, policy()))
    assert backend._runner is runner


def test_dtype_and_device_are_chosen_by_the_hardware() -> None:
    cpu = torch.device("cpu")
    has_bf16 = any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    assert choose_dtype(None, cpu) is (torch.bfloat16 if has_bf16 else torch.float32)
    assert choose_dtype("float16", cpu) is torch.float16
    assert choose_device("cpu") == cpu
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert choose_device(None) == cpu


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "meta:x"])
def test_a_device_that_is_not_there_is_a_configuration_error(device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device='{device}' cannot be used here"):
        tiny_backend("qwen3_vl", device=device).warm()


@pytest.mark.parametrize(("option", "value"), [("dtype", "int4"), ("max_batch", 0), ("max_pixels", 0)])
def test_options_out_of_range_are_configuration_errors(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        tiny_backend("qwen3_vl", **{option: value}).warm()


def test_a_folder_that_cannot_be_a_model_is_refused_at_once() -> None:
    with pytest.raises(ModelLoadError, match=r"'\./nowhere'"):
        TransformersBackend("./nowhere")


def test_code_beside_a_model_is_never_run(model: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = f"open({str(canary)!r}, 'w').close()\n"
    for name in ("modeling_qwen3_vl.py", "processing_qwen3_vl.py", "sitecustomize.py", "__init__.py"):
        (model / name).write_text(evil)
    assessments(tiny_backend(model).assess(requests(1, policy())))
    config = json.loads((model / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_qwen3_vl.C", "AutoModelForImageTextToText": "modeling_qwen3_vl.M"}
    (model / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    with pytest.raises(ModelLoadError, match="code from models is never run"):
        tiny_backend(model).warm()
    assert not canary.exists()


def test_an_attention_kernel_named_in_the_config_is_not_fetched(model: Path) -> None:
    """transformers takes ``owner/name`` there for a hub repository with code in it."""
    config = json.loads((model / "config.json").read_text())
    for place in (config, config["text_config"], config["vision_config"]):
        place["_attn_implementation"] = place["attn_implementation"] = "someone/kernel"
    (model / "config.json").write_text(json.dumps(config))
    backend = tiny_backend(model)
    backend.warm()
    assert backend._load().loaded.model.config._attn_implementation == "sdpa"


def test_weights_that_lack_tensors_are_refused_and_never_filled_with_noise(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    dropped = next(name for name in weights if "mlp" in name)
    del weights[dropped]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="lack 1 tensors"):
        tiny_backend(model).warm()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded|no fast tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), "preprocessor_config.json"),
    ],
    ids=["weights", "no tokenizer", "tokenizer", "processor"],
)
def test_broken_files_are_model_load_errors_that_name_the_folder(model: Path, break_it, says: str) -> None:  # type: ignore[no-untyped-def]
    break_it(model)
    with pytest.raises(ModelLoadError, match=says) as caught:
        tiny_backend(model).warm()
    assert str(model) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("architecture", ["qwen2", "no_such_architecture"])
def test_a_model_that_sees_no_pictures_is_refused(model: Path, architecture: str) -> None:
    config = {
        "model_type": architecture,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "processor_config.json").unlink()
    with pytest.raises(ModelLoadError) as caught:
        tiny_backend(model).warm()
    assert str(model) in str(caught.value)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is needed(.|\n)*\[transformers\]"):
        tiny_backend("qwen3_vl").warm()


def test_building_a_backend_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from policyguard.backends.transformers import TransformersBackend\n"
        f"TransformersBackend({str(tiny_model('qwen3_vl'))!r})\n"
        "names = 'torch transformers numpy PIL huggingface_hub tokenizers'.split()\n"
        "heavy = set(names) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_written_to_the_terminal_and_logging_is_left_as_it_was() -> None:
    code = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import torch\n"
        "from transformers.utils import logging\n"
        "before = logging.get_verbosity(), logging.is_progress_bar_enabled()\n"
        "from backends.transformers.support import *\n"
        "for reading in Reading:\n"
        f"    tiny_backend(Path({str(tiny_model('qwen3_vl'))!r})).assess(requests(2, policy(), reading))\n"
        "assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_token_ids_are_the_same_with_and_without_torchvision(family: Family) -> None:
    """Runs where torchvision is installed; elsewhere there is one way only."""
    pytest.importorskip("torchvision")
    from transformers import AutoConfig

    from policyguard.backends.transformers import loading as processors

    folder = tiny_model(family)
    config = AutoConfig.from_pretrained(folder)
    whole = processors.load_processor(folder, config, name=family)
    parts = processors._without_video(processors._family(folder, config)).from_pretrained(folder)
    parts.tokenizer.padding_side = "left"
    place = whole.image_token
    frames = [request.frame for request in requests(4, policy())]
    texts = [f"no knife {place} rating:", f"{place} rating:"] * 2
    one, two = (processors.prepare(processor, texts, frames, special=True) for processor in (whole, parts))
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert torch.equal(one["attention_mask"], two["attention_mask"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_processor_keeps_the_familys_own_text_and_padding(family: Family) -> None:
    """Without torchvision the processor has no video part, and is otherwise the family's own class."""
    from transformers.utils import is_torchvision_available

    processor = shared_backend(family)._load().loaded.processor
    assert ("video_processor" in processor.get_attributes()) is is_torchvision_available()
    assert (
        type(processor)
        .__mro__[1 if not is_torchvision_available() else 0]
        .__module__.startswith("transformers.")
    )
    place = processor.image_token
    found = processor(text=[f"a {place} b"], images=[[requests(1, policy())[0].frame]], return_tensors="pt")
    ids = found["input_ids"][0].tolist()
    pictures = ids.count(processor.tokenizer.convert_tokens_to_ids(place))
    if "image_grid_thw" in found:
        assert pictures == int(found["image_grid_thw"].prod()) // 4
    assert pictures > 1
    assert processor.tokenizer.padding_side == "left"


def test_a_copy_of_a_model_in_bfloat16_weights_answers_alike(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    asked = requests(2, policy())
    before = assessments(tiny_backend(model).assess(asked))
    weights = {name: tensor.bfloat16() for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert furthest(before, assessments(tiny_backend(model, PlainDialect()).assess(asked))) < 0.05
