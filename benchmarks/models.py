"""Random-weight models of real geometry, and policies of a wanted length, for the benchmarks."""

from __future__ import annotations

from pathlib import Path

from policyguard.policy import Policy, parse_policy
from support.tiny_models import build_tiny_model

ITEM = "weapons knife gun museum exhibits policy picture rule safe unsafe"


def build_100m(folder: Path) -> Path:
    """A Qwen3-VL of about 100 M parameters; language model to tower about 10:1, as in a 7B model."""
    text = {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 6,
        "head_dim": 64,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [12, 10, 10],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "depth": 12,
        "num_heads": 4,
        "out_hidden_size": 768,
        "deepstack_visual_indexes": [3, 6, 9],
    }
    return build_tiny_model(folder, "qwen3_vl", context=8192, text=text, vision=vision)


def policy(words: int, name: str = "benchmark") -> Policy:
    """A policy called ``name`` whose rules hold about ``words`` words in all."""
    rules = [
        {
            "id": f"rule-{number}",
            "title": f"Rule {number}",
            "unsafe": [ITEM for _ in range(words // 80)],
        }
        for number in range(8)
    ]
    return parse_policy({"id": name, "version": "1.0.0", "title": name.capitalize(), "rules": rules})
