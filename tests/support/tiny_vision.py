"""Tiny random-weight image classifiers and CLIPs: their real classes, saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def build_classifier(folder: Path, *labels: str, family: str = "ViT", **settings: Any) -> Path:
    """Write a checkpoint as the makers of such heads publish it, and return ``folder``."""
    import torch
    import transformers

    names = dict(enumerate(labels))
    config = getattr(transformers, f"{family}Config")(
        **({"vision_config": SIZES, "text_config": None} if family == "Siglip" else SIZES),
        id2label=names,
        label2id={label: place for place, label in names.items()},
        **settings,
    )
    torch.manual_seed(7)
    model = getattr(transformers, f"{family}ForImageClassification")(config)
    for parameter in model.parameters():  # spread out, so that answers differ
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    _processor(f"{family}ImageProcessor", size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def build_clip(folder: Path) -> Path:
    """Write the image half of a CLIP with embeddings of 24, and return ``folder``."""
    import torch
    import transformers

    torch.manual_seed(11)
    model = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**SIZES, projection_dim=24)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    _processor(
        "CLIPImageProcessor", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def _processor(name: str, **settings: Any) -> Any:
    import transformers

    pil: Any = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return pil(**settings)
