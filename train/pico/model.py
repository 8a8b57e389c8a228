"""pico's shape: a small Qwen3-VL, and how it is initialised.

Three choices decide whether such a small model learns to *match* rather than to memorise: heads of 64
dimensions, a large RoPE base (with the usual 1e4 half of the dimensions have turned away within 100 tokens),
and a sharp start of the QK norm. The word vectors are random, frozen and tied to the LM head: they are the
meeting point of two trainings that never talk to each other (see ``stages.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

SIDE, PATCH, MERGE = 96, 8, 2
GRID = SIDE // (PATCH * MERGE)  # merged tokens per side
TOKENS = GRID * GRID
WORD_SCALE = 0.1


@dataclass(frozen=True)
class Shape:
    hidden: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 5e6
    qk_norm: float = 1.3
    vision_hidden: int = 160
    vision_layers: int = 4


def build_config(tokenizer: Any, shape: Shape) -> Any:
    from transformers import Qwen3VLConfig

    token = tokenizer.convert_tokens_to_ids
    rope = {
        "rope_type": "default",
        "rope_theta": shape.rope_theta,
        "mrope_section": [shape.head_dim // 4, shape.head_dim // 8, shape.head_dim // 8],
        "mrope_interleaved": True,
    }
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.hidden * 3,
        "num_hidden_layers": shape.layers,
        "head_dim": shape.head_dim,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 2048,
        "initializer_range": 0.05,
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        "tie_word_embeddings": True,
        "rope_parameters": rope,
    }
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_hidden * 3,
        "num_heads": shape.vision_hidden // 32,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "out_hidden_size": shape.hidden,
        "num_position_embeddings": (SIDE // PATCH) ** 2,
        "deepstack_visual_indexes": [],
        "initializer_range": 0.05,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )


def build_model(tokenizer: Any, shape: Shape, *, seed: int) -> Any:
    """A fresh ``Qwen3VLForConditionalGeneration`` in float32; the word vectors depend on ``seed`` alone."""
    from transformers import Qwen3VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(build_config(tokenizer, shape))
    table = model.model.language_model.embed_tokens.weight
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed + 1)
        table.copy_(WORD_SCALE * torch.randn(table.shape, generator=generator))
        for layer in model.model.language_model.layers:
            layer.self_attn.q_norm.weight.fill_(shape.qk_norm)
            layer.self_attn.k_norm.weight.fill_(shape.qk_norm)
        # start near the scale of the word vectors, or minutes go into shrinking the tower's output
        model.model.visual.merger.linear_fc2.weight.mul_(0.15)
    model.tie_weights()
    table.requires_grad_(False)
    return model
