"""A tiny random-weight ShieldGemma 2: its real configuration, model, processor and shape of chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny_models import plain_tokenizer

TEMPLATE = (
    "{{ bos_token }}{%- for m in messages -%}{%- for p in m['content'] -%}{{ '<start_of_turn>user\\n' }}"
    "{%- if p['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif p['type'] == 'text' -%}"
    "{{ 'ROLE\\n\\n<BEGIN_SAFETY_POLICY>\\n' }}{{ p['text'] + '\\n' }}"
    "{{ '</END_SAFETY_POLICY>\\n\\nQUESTION<end_of_turn>\\n' }}{%- endif -%}{%- endfor -%}"
    "{{ '<start_of_turn>model\\n' }}{%- endfor -%}"
)
"""As published, each part opens a turn and the model's turn always follows; its sentences are left out."""

SPECIAL = ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>")
PLACES = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}


def build_shieldgemma(folder: Path) -> Path:
    """Write a checkpoint as ``save_pretrained`` of the published classes does, and return ``folder``."""
    import torch
    import transformers
    from transformers.utils import is_torchvision_available

    tokenizer = plain_tokenizer(SPECIAL, bos="<bos>", eos="<eos>", pad="<pad>", places=PLACES)
    tokenizer.chat_template = TEMPLATE
    token = tokenizer.convert_tokens_to_ids
    text = transformers.Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=512,
        max_position_embeddings=4096,
        bos_token_id=token("<bos>"),
        eos_token_id=token("<eos>"),
        pad_token_id=token("<pad>"),
    )
    vision = transformers.SiglipVisionConfig(
        image_size=32,
        patch_size=8,
        vision_use_head=False,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    config = transformers.ShieldGemma2Config(
        text_config=text,
        vision_config=vision,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image_soft_token>"),
        mm_tokens_per_image=4,
    )
    config.yes_token_index = tokenizer.encode("Yes", add_special_tokens=False)[0]
    config.no_token_index = tokenizer.encode("No", add_special_tokens=False)[0]
    torch.manual_seed(0)
    model = transformers.ShieldGemma2ForImageClassification(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.normal_(0.0, 0.12)
    model.float().eval().save_pretrained(folder)
    kind = "Gemma3ImageProcessor" if is_torchvision_available() else "Gemma3ImageProcessorPil"
    image: Any = getattr(transformers, kind)(
        size={"height": 32, "width": 32},
        do_pan_and_scan=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    transformers.ShieldGemma2Processor(
        image_processor=image, tokenizer=tokenizer, chat_template=TEMPLATE, image_seq_length=4
    ).save_pretrained(folder)
    return folder
