"""TRL on CUDA at real geometry with random weights: a few steps of each stage, memory and speed recorded.

Run with ``pytest -m gpu tests/train/test_grpo_gpu.py``; it needs no network. It writes one JSON line per
case to the file that ``POLICYGUARD_GPU_RESULTS`` names, if it is set. A 7B case takes about 35 GB of disk
below ``tmp_path``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_models import tiny_model
from support.training import caption_rows, label_rows, recipe, record, train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]

# As published. Text: width, layers, heads, key-value heads, inner width; vision: width, layers, inner width.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-3b": {"family": "qwen2_5_vl", "text": (2048, 36, 16, 2, 11008), "vision": (1280, 32, 3420)},
    "qwen2.5-vl-7b": {"family": "qwen2_5_vl", "text": (3584, 28, 28, 4, 18944), "vision": (1280, 32, 3420)},
    "qwen3-vl-4b": {"family": "qwen3_vl", "text": (2560, 36, 32, 8, 9728), "vision": (1024, 24, 4096)},
}
VOCABULARY = 151_936


def build(folder: Path, name: str) -> Path:
    """A random bfloat16 model of this geometry, with the tiny model's tokenizer and processor."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    geometry = GEOMETRIES[name]
    tiny = tiny_model(geometry["family"])
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    config = AutoConfig.from_pretrained(tiny)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.num_hidden_layers, text.num_attention_heads, heads, inner = geometry["text"]
    text.num_key_value_heads, text.intermediate_size, text.vocab_size = heads, inner, VOCABULARY
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision.hidden_size, vision.depth, vision.intermediate_size = geometry["vision"]
    vision.num_heads, vision.out_hidden_size = 16, text.hidden_size
    if geometry["family"] == "qwen3_vl":
        text.head_dim = 128
        text.rope_parameters |= {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_theta": 5e6}
        vision.num_position_embeddings, vision.deepstack_visual_indexes = 2304, [5, 11, 17]
    else:
        vision.window_size, vision.fullatt_block_indexes = 112, [7, 15, 23, 31]
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_a_few_steps_run_on_cuda_within_memory(name: str, stage: str, mode: str, tmp_path: Path) -> None:
    base = build(tmp_path / "base", name)
    rows = caption_rows(tmp_path / "data") if stage == "sft" else label_rows(tmp_path / "data")
    values = recipe(stage, base, rows, tmp_path / "out", tune={"mode": mode, "rank": 32, "alpha": 64})
    values["optim"] |= {"batch": 4, "lr": 1e-5, "max_steps": 3}
    values["run"] |= {
        "device": "auto",
        "precision": "bf16",
        "gradient_checkpointing": True,
        "save_every": 100,
    }
    values["data"]["held_out"] = 0.0
    if stage == "grpo":
        values |= {"rollout": {"group": 4, "max_tokens": 32}, "grpo": {"beta": 0.01}}
        values |= {"watch": {"stop": False}}
        values["optim"]["batch"] = 8
    torch.cuda.reset_peak_memory_stats()
    out = train(stage, tmp_path, values)
    history = record(out)["history"]
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    if stage == "grpo":
        assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    summary = next(entry for entry in history if "train_runtime" in entry)
    result = {
        "model": name,
        "stage": stage,
        "mode": mode,
        "device": torch.cuda.get_device_name(),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "tokens_per_second": round(steps[-1]["num_tokens"] / summary["train_runtime"], 1),
        "seconds": round(summary["train_runtime"], 1),
    }
    print(json.dumps(result))
    if path := os.environ.get("POLICYGUARD_GPU_RESULTS"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
