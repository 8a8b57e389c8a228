"""Write a trained pico as a standard checkpoint, and prove that the stock classes read it the same way.

The processor files are written as JSON: building a ``Qwen3VLProcessor`` needs torchvision, reading pictures
with its image processor does not.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from batches import Collator, text_of
from forward import Forward
from losses import Teacher
from model import MERGE, PATCH, TOKENS
from pixels import Studio
from rows import draw_rows
from tokens import END, IMAGE, PAD, Vocabulary

SIZE = {"shortest_edge": 9000, "longest_edge": 9500}
"""Areas around 96 x 96: with exactly 9216 twice, rounding sends some square sizes to 80 or 112 pixels."""
LIMIT = 12 * 2**20


def _processor_files() -> dict[str, dict[str, Any]]:
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "size": SIZE,
    }
    video = {k: v for k, v in image.items() if k != "image_processor_type"}
    return {
        "preprocessor_config.json": image,
        "video_preprocessor_config.json": video | {"video_processor_type": "Qwen3VLVideoProcessor"},
        "processor_config.json": {"processor_class": "Qwen3VLProcessor"},
    }


def export(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write ``model`` in bfloat16 with tokenizer, chat template, processor files. ValueError if too big."""
    folder.mkdir(parents=True, exist_ok=True)
    half = type(model)(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.tie_weights()
    half.config.dtype = torch.bfloat16
    half.config.policyguard = {"dialect": "pico"}  # so that its folder is spoken to as the alias is
    half.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(END)
    half.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(PAD)
    half.generation_config.do_sample = False
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template)
    for name, content in _processor_files().items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT:
        raise ValueError(f"{folder} has {size} bytes; the limit is {LIMIT}")


def load(folder: Path) -> tuple[Any, Vocabulary]:
    """The exported model (float32) and its vocabulary, through the stock classes."""
    from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Vocabulary(AutoTokenizer.from_pretrained(folder))


def chat(policy_text: str) -> list[dict[str, Any]]:
    """The messages pico was trained on: the policy as the system, one picture as the user."""
    return [
        {"role": "system", "content": [{"type": "text", "text": policy_text}]},
        {"role": "user", "content": [{"type": "image"}]},
    ]


def image_processor(folder: Path) -> Any:
    """The stock image processor, without torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil.from_pretrained(folder)


@torch.no_grad()
def verify(folder: Path, *, rows: int = 4, seed: int = 5) -> float:
    """Compare ids and logits of our forward pass with the stock one; returns the largest difference.

    Raises ValueError when the chat template gives other token ids than training did.
    """
    model, vocabulary = load(folder)
    tokenizer, collate = vocabulary.tokenizer, Collator(vocabulary)
    forward = Forward(model, compile=False)
    drawn = draw_rows(Random(seed), rows, 2)
    studio, processor = Studio(glyphs=False), image_processor(folder)
    pixels, _ = studio.pictures([s for row in drawn for s in row.pictures], Random(seed), changed=False)
    batch = collate(drawn)
    tower = forward.tower(pixels).view(rows, 2, TOKENS, -1)
    ours = Teacher(forward, vocabulary, collate).verdict_logits(batch, tower)
    worst = 0.0
    for r, row in enumerate(drawn):
        text = tokenizer.apply_chat_template(
            chat(text_of(row.policy)), tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text.replace(IMAGE, IMAGE * TOKENS), add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        used = torch.cat((batch.policy_ids[r][~batch.policy_pad[r]], batch.picture_ids[: collate.ask + 1]))
        if ids[0].tolist() != used.tolist():
            raise ValueError(f"the chat template and training disagree on {text!r}")
        for k in range(2):
            image = _unpatch(pixels[2 * r + k].numpy())
            given = processor(images=[image], return_tensors="pt")
            theirs = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=given["pixel_values"],
                image_grid_thw=given["image_grid_thw"],
                mm_token_type_ids=(ids == vocabulary.id(IMAGE)).int(),
            ).logits[0, -1]
            worst = max(worst, float((theirs - ours[r, k]).abs().max()))
    return worst


def _unpatch(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The inverse of ``forward.patches`` for one picture: uint8 [96, 96, 3]."""
    grid = int((len(rows) / MERGE**2) ** 0.5)
    x = rows.reshape(grid, grid, MERGE, MERGE, 3, PATCH, PATCH).transpose(0, 2, 5, 1, 3, 6, 4)
    side = grid * MERGE * PATCH
    return np.round((x.reshape(side, side, 3) + 1) * 127.5).astype(np.uint8)
