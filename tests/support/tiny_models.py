"""Tiny random-weight guard models of real architectures, made here: no download, a second each.

``build_tiny_model(folder, "qwen3_vl")`` writes what ``save_pretrained`` of a real model writes: config,
safetensors, tokenizer with chat template, standard processor files. ``tiny_model(family)`` keeps one per
family and process. Their answers are noise, but noise that depends on all of the input.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

Family = Literal["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
QWEN: tuple[Family, ...] = ("qwen2_5_vl", "qwen3_vl")
FAMILIES: tuple[Family, ...] = (*QWEN, "llava_onevision")

PROCESSORS = {  # family -> processor, image processor, video processor
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen3VLVideoProcessor"),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionVideoProcessor",
    ),
}

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- 'PICTURE' }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TRAINING_TEXT = (
    "safe unsafe undecided rating category rationale policy picture judge this must not show may show rule "
    '{"rating": "unsafe", "category": "A", "rationale": "a picture of a knife"} weapons knife gun museum '
    "exhibits A B C D E F G H no any fine exempt You review pictures for one policy. "
    "It is safe if no rule forbids it, and unsafe if one does. "
)
PRE_TOKENS = (  # the pre-tokeniser of the Qwen families
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def tiny_model(family: Family) -> Path:
    """The folder of a tiny float32 model of ``family``; made once, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"policyguard-{family}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_tiny_model(folder, family)


def build_tiny_model(
    folder: Path,
    family: Family,
    *,
    seed: int = 0,
    context: int = 4096,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint of about 0.2 M parameters, in float32, and return ``folder``.

    Weights are drawn six times wider than usual, so that attention and positions matter to the logits.
    ``text`` and ``vision`` change fields of the two configs, for models that are not tiny.
    """
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = _tokenizer()
        tokenizer.chat_template = _chat_template(family)
        tokenizer.save_pretrained(folder)
        model = _model(family, tokenizer, seed, context, text or {}, vision or {})
        # What real Qwen2.5-VL checkpoints ask for, and a guard must not do.
        model.generation_config.update(do_sample=True, temperature=0.7, repetition_penalty=1.05, top_k=20)
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(
            ["<|im_end|>", "<|endoftext|>"]
        )
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    _write_processor(folder, family)
    return folder


def _tokenizer() -> Any:
    special = (*SPECIAL[1:2], *SPECIAL[3:])
    return plain_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>")


def plain_tokenizer(
    special: Sequence[str],
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    places: dict[str, str] | None = None,
) -> Any:
    """A byte-level BPE tokenizer of some 600 tokens; ``places`` become attributes (``image_token``)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TRAINING_TEXT] * 4,
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False),
    )
    options = {} if places is None else {"extra_special_tokens": places}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=[token for token in special if token not in (bos, eos, pad)],
        model_max_length=4096,
        **options,
    )
    tokens = (*special, *(places or {}).values())
    if missing := [token for token in tokens if token not in tokenizer.get_vocab()]:
        tokenizer.add_special_tokens({"additional_special_tokens": missing})
    return tokenizer


def _chat_template(family: Family) -> str:
    place = "<image>" if family == "llava_onevision" else "<|vision_start|><|image_pad|><|vision_end|>"
    return CHAT_TEMPLATE.replace("PICTURE", place)


def _model(
    family: Family,
    tokenizer: Any,
    seed: int,
    context: int,
    text_changes: dict[str, Any],
    vision_changes: dict[str, Any],
) -> Any:
    import transformers

    token = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": context,
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    vision: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
    if family == "llava_onevision":
        vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
        config = transformers.LlavaOnevisionConfig(
            text_config=transformers.Qwen2Config(**text | text_changes),
            vision_config=transformers.SiglipVisionConfig(**vision | vision_changes, vision_use_head=False),
            image_grid_pinpoints=[[32, 32], [32, 64], [64, 32], [64, 64]],
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            tie_word_embeddings=True,
        )
        return _seeded(transformers.LlavaOnevisionForConditionalGeneration, config, seed)
    vision |= {"depth": 2, "num_heads": 2, "out_hidden_size": 64}
    places = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    if family == "qwen3_vl":
        text |= {
            "head_dim": 32,
            "rope_parameters": rope | {"mrope_section": [8, 4, 4], "mrope_interleaved": True},
        }
        vision |= {"patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]}
        config = transformers.Qwen3VLConfig(
            text_config=text | text_changes, vision_config=vision | vision_changes, **places
        )
        return _seeded(transformers.Qwen3VLForConditionalGeneration, config, seed)
    text |= {"rope_parameters": rope | {"mrope_section": [4, 6, 6]}}
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text | text_changes, vision_config=vision | vision_changes, **places
    )
    return _seeded(transformers.Qwen2_5_VLForConditionalGeneration, config, seed)


def _seeded(model_class: Any, config: Any, seed: int) -> Any:
    """A model with weights from ``seed``, six times wider than usual; global random state stays."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = model_class(config)
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(6.0)
    return model


def _write_processor(folder: Path, family: Family) -> None:
    name, image, video = PROCESSORS[family]
    shared: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": name,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    processor: dict[str, Any] = {"processor_class": name}
    if family == "llava_onevision":
        shared |= {"size": {"height": 32, "width": 32}, "do_pad": True}
        shared |= {"image_grid_pinpoints": [[32, 32], [32, 64], [64, 32], [64, 64]]}
        processor |= {
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
            "image_token": "<image>",
        }
    else:
        patch = 16 if family == "qwen3_vl" else 14
        cell = (2 * patch) ** 2
        shared |= {"merge_size": 2, "patch_size": patch, "temporal_patch_size": 2}
        shared |= {"size": {"shortest_edge": 4 * cell, "longest_edge": 256 * cell}}
    files = {
        "preprocessor_config.json": shared | {"image_processor_type": image},
        "video_preprocessor_config.json": shared | {"video_processor_type": video},
        "processor_config.json": processor,
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_chat_template(family), encoding="utf-8")
