"""Tiny random-weight models of the architectures that published guards have, by their real classes.

``build(folder, family)`` writes what ``save_pretrained`` of the published classes writes: configuration,
safetensors, tokenizer, processor files, chat template. The templates have the published shape (which turns
they open, which arguments they take, where they put a policy); their makers' sentences are left out.
``differences`` says how far a backend's scores are from the softmax over the labels, worked out by hand.

The Qwen families and LLaVA-OneVision are in ``tiny_models``.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from policyguard.assessment import Assessment, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.transformers import TransformersBackend
from policyguard.backends.transformers.files import quiet
from policyguard.backends.transformers.loading import load_processor
from policyguard.dialects import Dialect, FrameSlot, Prompt, get_dialect
from policyguard.policy import ResolvedPolicy
from support.tiny_models import CHAT_TEMPLATE, Family, build_tiny_model, plain_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
SEES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
GRID = [[32, 64], [64, 32], [64, 64]]

NEEDS_TORCHVISION = frozenset({"llama4", "mistral3", "smolvlm"})
"""Their processors do not load without it (and SmolVLM's not without num2words)."""


def template(user: str, model: str, *, picture: str, end: str = "", before: str = "", text: str = "") -> str:
    """A chat template: ``before``, then each turn between ``user`` and ``end``, then ``model``.

    ``text`` stands before the parts of a user's turn; ROLE in ``user`` becomes the role's name.
    """
    user = user.replace("ROLE", "' + message.role + '")
    return (
        f"{before}{{%- for message in messages %}}{{{{- '{user}' }}}}{text}"
        "{%- for part in ([{'type': 'text', 'text': message.content}] if message.content is string "
        "else message.content) %}"
        f"{{{{- '{picture}' if part.type == 'image' else part.text }}}}{{%- endfor %}}{{{{- '{end}' }}}}"
        f"{{%- endfor %}}{{%- if add_generation_prompt %}}{{{{- '{model}' }}}}{{%- endif %}}"
    )


CODES = (
    "{{- 'TASK\\n\\n<BEGIN UNSAFE CONTENT CATEGORIES>\\n' }}"
    "{%- for key, name in (categories | default({})).items() %}"
    "{{- key + ': ' + name + '\\n' }}{%- endfor %}"
    "{{- '<END UNSAFE CONTENT CATEGORIES>\\n\\n<BEGIN CONVERSATION>\\n\\nUser: ' }}"
)
"""Llama Guard's list, in front of the conversation."""

VISION = "<|vision_start|><|image_pad|><|vision_end|>"
SINGGUARD = (
    "{{- '<|im_start|>system\\nTASK\\n\\n' + policy | default('### A. Default\\n  - everything') }}"
    "{%- if thinking_type | default('fast-slow') == 'fast' %}{{- '\\nFIRST THE WORD' }}"
    "{%- else %}{{- '\\nTHINK' }}{%- endif %}{{- '<|im_end|>\\n' }}"
) + CHAT_TEMPLATE.replace("PICTURE", VISION)
NEMOTRON = template(
    "<start_of_turn>user\\n",
    "<start_of_turn>model\\n",
    picture="<start_of_image>",
    end="<end_of_turn>\\n",
    before="{{- bos_token }}",
    text="{%- if request_categories is defined %}{{- request_categories + '\\n' }}{%- endif %}"
    "{%- if enable_thinking | default(true) %}{{- 'THINK\\n' }}{%- endif %}",
)
SHIELDGEMMA = (
    "{{ bos_token }}{%- for m in messages -%}{%- for p in m['content'] -%}{{ '<start_of_turn>user\\n' }}"
    "{%- if p['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif p['type'] == 'text' -%}"
    "{{ 'ROLE\\n\\n<BEGIN_SAFETY_POLICY>\\n' }}{{ p['text'] + '\\n' }}"
    "{{ '</END_SAFETY_POLICY>\\n\\nQUESTION<end_of_turn>\\n' }}{%- endif -%}{%- endfor -%}"
    "{{ '<start_of_turn>model\\n' }}{%- endfor -%}"
)
"""Each part opens a turn, and the model's turn always follows."""


def seeded(model_class: Any, config: Any) -> Any:
    """A model with wide weights from seed 0, so that images and positions show in its answers."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = model_class(config)
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.normal_(0.0, 0.12)
            elif "gate" in name and weight.ndim == 1:
                weight.fill_(0.5)  # Mllama's start at 0, which would hide the image
    return model.float().eval()


def image_part(name: str) -> Any:
    import transformers
    from transformers.utils import is_torchvision_available

    return getattr(transformers, name if is_torchvision_available() else f"{name}Pil")


def processor(name: str, image: Any, tokenizer: Any, *, video: str | None = None, **more: Any) -> Any:
    """The family's processor; its video part where torchvision is installed, else none."""
    import transformers
    from transformers.utils import is_torchvision_available

    kind = getattr(transformers, name)
    parts = {"image_processor": image, "tokenizer": tokenizer, "chat_template": tokenizer.chat_template}
    if video is not None and is_torchvision_available():
        parts["video_processor"] = getattr(transformers, video)()
    elif video is not None:
        bare = {"get_attributes": classmethod(lambda _: ["image_processor", "tokenizer"])}
        kind = type(name, (kind,), bare)
    return kind(**parts, **more)


def _tokenizer(chat: str | None, *special: str, places: Mapping[str, str] | None = None, **ends: str) -> Any:
    tokenizer = plain_tokenizer(special, places=dict(places) if places else None, **ends)  # type: ignore[arg-type]
    tokenizer.chat_template = chat
    return tokenizer


def _gemma(*, shield: bool) -> tuple[Any, Any]:
    import transformers as t

    places = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = _tokenizer(
        SHIELDGEMMA if shield else NEMOTRON,
        "<start_of_turn>",
        "<end_of_turn>",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        places=places,
    )
    token = tokenizer.convert_tokens_to_ids
    text = t.Gemma3TextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=512,
        bos_token_id=token("<bos>"),
        eos_token_id=token("<eos>"),
        pad_token_id=token("<pad>"),
    )
    fields = {
        "text_config": text,
        "vision_config": t.SiglipVisionConfig(**SEES, image_size=32, patch_size=8, vision_use_head=False),
        "boi_token_index": token("<start_of_image>"),
        "eoi_token_index": token("<end_of_image>"),
        "image_token_index": token("<image_soft_token>"),
        "mm_tokens_per_image": 16,
    }
    sizes = {"size": {"height": 32, "width": 32}, "do_pan_and_scan": False}
    image = image_part("Gemma3ImageProcessor")(**sizes, **HALF)
    if not shield:
        model = seeded(t.Gemma3ForConditionalGeneration, t.Gemma3Config(**fields))
        return model, processor("Gemma3Processor", image, tokenizer, image_seq_length=16)
    config = t.ShieldGemma2Config(**fields)
    config.yes_token_index = tokenizer.encode("Yes", add_special_tokens=False)[0]
    config.no_token_index = tokenizer.encode("No", add_special_tokens=False)[0]
    model = seeded(t.ShieldGemma2ForImageClassification, config)
    return model, processor("ShieldGemma2Processor", image, tokenizer, image_seq_length=16)


def _llava(*, tiles: bool) -> tuple[Any, Any]:
    import transformers as t

    chat = template("USER: ", "ASSISTANT:", picture="<image>\\n", end=" ")
    tokenizer = _tokenizer(chat, "<image>", bos="<s>", eos="</s>", pad="<pad>")
    fields = {
        "vision_config": t.CLIPVisionConfig(**SEES, image_size=32, patch_size=8, projection_dim=32),
        "text_config": _llama(tokenizer),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": 16,
        "vision_feature_layer": -1,
    }
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    more = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if tiles:
        image = image_part("LlavaNextImageProcessor")(image_grid_pinpoints=GRID, **sizes)
        config = t.LlavaNextConfig(image_grid_pinpoints=GRID, **fields)
        model = seeded(t.LlavaNextForConditionalGeneration, config)
        return model, processor("LlavaNextProcessor", image, tokenizer, **more)
    model = seeded(t.LlavaForConditionalGeneration, t.LlavaConfig(**fields))
    return model, processor("LlavaProcessor", image_part("CLIPImageProcessor")(**sizes), tokenizer, **more)


def _llama(tokenizer: Any) -> Any:
    import transformers as t

    token = tokenizer.convert_tokens_to_ids
    return t.LlamaConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        bos_token_id=token("<s>"),
        eos_token_id=token("</s>"),
        pad_token_id=token("<pad>"),
    )


def _mllama() -> tuple[Any, Any]:
    import transformers as t

    ends = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|finetune_right_pad_id|>"}
    begin, close = "<|start_header_id|>{}<|end_header_id|>\\n\\n", "\\n\\n<END CONVERSATION>LAST<|eot_id|>"
    chat = template(
        begin.format("user"),
        begin.format("assistant"),
        picture="<|image|>",
        end=close,
        before="{{- bos_token }}",
        text=CODES,
    )
    special = ("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|eot_id|>")
    tokenizer = _tokenizer(chat, *special, **ends)
    # As in the published one the placeholder is the last token, and has no row in the output layer.
    tokenizer.add_tokens([t.AddedToken("<|image|>", special=True, normalized=False)])
    token = tokenizer.convert_tokens_to_ids
    sees = t.MllamaVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        image_size=56,
        patch_size=14,
        intermediate_layers_indices=[0, 1],
        vision_output_dim=96,
    )
    text = t.MllamaTextConfig(
        **TEXT | {"num_hidden_layers": 4},
        vocab_size=len(tokenizer) - 1,
        cross_attention_layers=[1, 3],
        bos_token_id=token(ends["bos"]),
        eos_token_id=token(ends["eos"]),
        pad_token_id=token(ends["pad"]),
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    config = t.MllamaConfig(vision_config=sees, text_config=text, image_token_index=token("<|image|>"))
    image = image_part("MllamaImageProcessor")(size={"height": 56, "width": 56}, max_image_tiles=4)
    return seeded(t.MllamaForConditionalGeneration, config), processor("MllamaProcessor", image, tokenizer)


def _llama4() -> tuple[Any, Any]:
    import transformers as t

    ends = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|finetune_right_pad_id|>"}
    begin, close = "<|header_start|>{}<|header_end|>\\n\\n", "\\n\\n<END CONVERSATION>LAST<|eot|>"
    chat = template(
        begin.format("user"),
        begin.format("assistant"),
        picture="<|image|>",
        end=close,
        before="{{- bos_token }}",
        text=CODES,
    )
    places = ("<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>")
    tiles = ("<|tile_x_separator|>", "<|tile_y_separator|>")
    tokenizer = _tokenizer(chat, "<|header_start|>", "<|header_end|>", "<|eot|>", *places, *tiles, **ends)
    token = tokenizer.convert_tokens_to_ids
    sees = t.Llama4VisionConfig(
        **SEES | {"intermediate_size": 128},
        image_size=56,
        patch_size=14,
        pixel_shuffle_ratio=0.5,
        projector_input_dim=64,
        projector_output_dim=64,
        vision_output_dim=64,
    )
    text = t.Llama4TextConfig(  # dense, as Llama Guard 4 is
        **TEXT,
        vocab_size=len(tokenizer),
        head_dim=32,
        intermediate_size_mlp=128,
        moe_layers=[],
        interleave_moe_layer_step=0,
        num_local_experts=1,
        attention_chunk_size=8192,
        bos_token_id=token(ends["bos"]),
        eos_token_id=token(ends["eos"]),
        pad_token_id=token(ends["pad"]),
    )
    config = t.Llama4Config(
        vision_config=sees,
        text_config=text,
        image_token_index=token("<|patch|>"),
        boi_token_index=token("<|image_start|>"),
        eoi_token_index=token("<|image_end|>"),
    )
    size = {"size": {"height": 56, "width": 56}, "max_patches": 4, "resize_to_max_canvas": False}
    image = t.Llama4ImageProcessor(**size, **HALF)
    more = {"patch_size": 14, "pixel_shuffle_ratio": 0.5}
    return seeded(t.Llama4ForConditionalGeneration, config), processor(
        "Llama4Processor", image, tokenizer, **more
    )


def _mistral3() -> tuple[Any, Any]:
    import transformers as t

    chat = (
        "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}{{- '[SYSTEM_PROMPT]' + "
        "(m.content if m.content is string else m.content[0].text) + '[/SYSTEM_PROMPT]' }}"
        "{%- elif m.role == 'assistant' %}{{- m.content if m.content is string else m.content[0].text }}"
        "{%- else %}{{- '[INST]' }}{%- if m.content is string %}{{- m.content }}{%- else %}"
        "{%- for p in m.content %}{{- '[IMG]' if p.type == 'image' else p.text }}{%- endfor %}{%- endif %}"
        "{{- '[/INST]' }}{%- endif %}{%- endfor %}"
    )
    turns = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    tokenizer = _tokenizer(
        chat, *turns, "[IMG]", "[IMG_BREAK]", "[IMG_END]", bos="<s>", eos="</s>", pad="<pad>"
    )
    token = tokenizer.convert_tokens_to_ids
    text = t.Ministral3Config(
        **TEXT,
        vocab_size=len(tokenizer),
        head_dim=32,
        sliding_window=None,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 256,
            "llama_4_scaling_beta": 0.1,
        },
        bos_token_id=token("<s>"),
        eos_token_id=token("</s>"),
        pad_token_id=token("<pad>"),
    )
    config = t.Mistral3Config(
        vision_config=t.PixtralVisionConfig(**SEES, image_size=64, patch_size=8, head_dim=16),
        text_config=text,
        image_token_index=token("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    size = {"size": {"longest_edge": 64}, "patch_size": {"height": 16, "width": 16}}
    image = image_part("PixtralImageProcessor")(**size)
    made = processor("PixtralProcessor", image, tokenizer, patch_size=8, spatial_merge_size=2)
    return seeded(t.Mistral3ForConditionalGeneration, config), made


def _internvl() -> tuple[Any, Any]:
    import transformers as t

    places = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    chat = CHAT_TEMPLATE.replace("PICTURE", "<IMG_CONTEXT>\\n")
    tokenizer = _tokenizer(chat, "<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>", places=places)
    token = tokenizer.convert_tokens_to_ids
    config = t.InternVLConfig(
        vision_config=t.InternVLVisionConfig(**SEES, image_size=[64, 64], patch_size=[8, 8]),
        text_config=t.Qwen2Config(**TEXT, vocab_size=len(tokenizer), eos_token_id=token("<|im_end|>")),
        image_token_id=token("<IMG_CONTEXT>"),
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    image = image_part("GotOcr2ImageProcessor")(
        size={"height": 64, "width": 64}, crop_to_patches=True, min_patches=1, max_patches=2
    )
    video = "InternVLVideoProcessor"
    made = processor("InternVLProcessor", image, tokenizer, video=video, image_seq_length=16)
    return seeded(t.InternVLForConditionalGeneration, config), made


def _glm4v() -> tuple[Any, Any]:
    import transformers as t

    chat = template(
        "<|ROLE|>\\n",
        "<|assistant|>\\n",
        picture="<|begin_of_image|><|image|><|end_of_image|>",
        before="[gMASK]<sop>",
    )
    images = ("<|begin_of_image|>", "<|image|>", "<|end_of_image|>")
    videos = ("<|begin_of_video|>", "<|video|>", "<|end_of_video|>")
    turns = ("[gMASK]", "<sop>", "<|user|>", "<|system|>", "<|assistant|>")
    tokenizer = _tokenizer(chat, *turns, *images, *videos, eos="<|endoftext|>", pad="<|pad|>")
    begin, place, end = (tokenizer.convert_tokens_to_ids(token) for token in images)
    film_begin, film, film_end = (tokenizer.convert_tokens_to_ids(token) for token in videos)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    rope |= {"partial_rotary_factor": 0.5}
    pad = tokenizer.convert_tokens_to_ids("<|pad|>")
    config = t.Glm4vConfig(
        text_config=t.Glm4vTextConfig(
            **TEXT, vocab_size=len(tokenizer), pad_token_id=pad, rope_parameters=rope
        ),
        vision_config=t.Glm4vVisionConfig(
            depth=2,
            hidden_size=32,
            num_heads=2,
            image_size=56,
            patch_size=14,
            out_hidden_size=64,
            intermediate_size=64,
        ),
        image_token_id=place,
        video_token_id=film,
        image_start_token_id=begin,
        image_end_token_id=end,
        video_start_token_id=film_begin,
        video_end_token_id=film_end,
    )
    image = image_part("Glm4vImageProcessor")(
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 3136, "longest_edge": 50176},
    )
    made = processor("Glm4vProcessor", image, tokenizer, video="Glm4vVideoProcessor")
    return seeded(t.Glm4vForConditionalGeneration, config), made


def _idefics3(*, smol: bool) -> tuple[Any, Any]:
    import transformers as t

    kind = "SmolVLM" if smol else "Idefics3"
    chat = template(
        "' + message.role | capitalize + ': ",
        "Assistant:",
        picture="<image>",
        end="<end_of_utterance>\\n",
        before="<|im_start|>",
    )
    places = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    rows = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = _tokenizer(
        chat,
        "<|im_start|>",
        *places.values(),
        *rows,
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        places=places if smol else None,
    )
    token = tokenizer.convert_tokens_to_ids
    config = getattr(t, f"{kind}Config")(
        vision_config=SEES | {"image_size": 32, "patch_size": 8},
        text_config=_llama(tokenizer),
        image_token_id=token("<image>"),
        scale_factor=2,
        pad_token_id=token("<pad>"),
    )
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    image = image_part(f"{kind}ImageProcessor")(do_image_splitting=True, **sizes, **HALF)
    video = "SmolVLMVideoProcessor" if smol else None
    made = processor(f"{kind}Processor", image, tokenizer, video=video, image_seq_len=4)
    return seeded(getattr(t, f"{kind}ForConditionalGeneration"), config), made


def _qwen3_5() -> tuple[Any, Any]:
    import transformers as t

    turns = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    chat = CHAT_TEMPLATE.replace("PICTURE", VISION)
    tokenizer = _tokenizer(chat, *turns, eos="<|im_end|>", pad="<|endoftext|>")
    token = tokenizer.convert_tokens_to_ids
    text = TEXT | {
        "vocab_size": len(tokenizer),
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    sees = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64}
    config = t.Qwen3_5Config(
        text_config=text,
        vision_config=sees | {"patch_size": 16, "num_position_embeddings": 256},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    image = image_part("Qwen2VLImageProcessor")(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 4096, "longest_edge": 65536},
        **HALF,
    )
    made = processor("Qwen3VLProcessor", image, tokenizer, video="Qwen3VLVideoProcessor")
    return seeded(t.Qwen3_5ForConditionalGeneration, config), made


def _paligemma(*, own: bool) -> tuple[Any, Any]:
    """Published without a chat template; one is added here, to get as far as asking it.

    ``own``: with its own processor, which moves the text; else with LLaVA's, which leaves it where it is.
    """
    import transformers as t

    chat = template("", "answer: ", picture="<image>")
    tokenizer = _tokenizer(
        chat,
        "<image>",
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        places={"image_token": "<image>"},
    )
    image = image_part("SiglipImageProcessor")(size={"height": 32, "width": 32}, **HALF)
    image.image_seq_length = 16
    if own:
        made = processor("PaliGemmaProcessor", image, tokenizer)  # adds some 1,100 places as tokens
    else:
        more = {"patch_size": 8, "vision_feature_select_strategy": "full"}
        made = processor("LlavaProcessor", image, tokenizer, **more)
    token, words = made.tokenizer.convert_tokens_to_ids, len(made.tokenizer)
    text = t.GemmaConfig(
        **TEXT,
        vocab_size=words,
        head_dim=32,
        bos_token_id=token("<bos>"),
        eos_token_id=token("<eos>"),
        pad_token_id=token("<pad>"),
    )
    config = t.PaliGemmaConfig(
        text_config=text,
        vision_config=t.SiglipVisionConfig(
            **SEES, image_size=32, patch_size=8, projection_dim=64, vision_use_head=False
        ),
        image_token_index=token("<image>"),
        projection_dim=64,
        hidden_size=64,
        vocab_size=words,
    )
    return seeded(t.PaliGemmaForConditionalGeneration, config), made


def _instructblip() -> tuple[Any, Any]:
    import transformers as t
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = _tokenizer(None, "<image>", bos="<s>", eos="</s>", pad="<pad>")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "this", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: index for index, word in enumerate(words)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert = t.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = t.InstructBlipConfig(
        vision_config=SEES | {"image_size": 32, "patch_size": 8, "initializer_range": 0.02},
        qformer_config={
            "vocab_size": len(bert),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 32,
        },
        text_config=_llama(tokenizer).to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    made = t.InstructBlipProcessor(
        image_processor=image_part("BlipImageProcessor")(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        qformer_tokenizer=bert,
        num_query_tokens=4,
    )
    return seeded(t.InstructBlipForConditionalGeneration, config), made


def _clip() -> tuple[Any, Any]:
    """The body of Q16, LAION's detector, MultiHeaded and Stable Diffusion's safety checker."""
    import transformers as t

    tokenizer = _tokenizer(None, bos="<|startoftext|>", eos="<|endoftext|>", pad="<|pad|>")
    text = TEXT | {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "projection_dim": 32}
    sees = SEES | {"image_size": 32, "patch_size": 8, "projection_dim": 32}
    config = t.CLIPConfig(text_config=text, vision_config=sees, projection_dim=32)
    image = image_part("CLIPImageProcessor")(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return seeded(t.CLIPModel, config), t.CLIPProcessor(image, tokenizer)


def _vit() -> tuple[Any, Any]:
    """Falconsai and most small classifiers."""
    import transformers as t

    config = t.ViTConfig(**SEES, image_size=32, patch_size=8, id2label={0: "normal", 1: "nsfw"})
    image = image_part("ViTImageProcessor")(size={"height": 32, "width": 32}, **HALF)
    return seeded(t.ViTForImageClassification, config), image


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "clip": _clip,
    "gemma3": lambda: _gemma(shield=False),
    "glm4v": _glm4v,
    "idefics3": lambda: _idefics3(smol=False),
    "instructblip": _instructblip,
    "internvl": _internvl,
    "llama4": _llama4,
    "llava": lambda: _llava(tiles=False),
    "llava_next": lambda: _llava(tiles=True),
    "mistral3": _mistral3,
    "mllama": _mllama,
    "paligemma": lambda: _paligemma(own=True),
    "paligemma-with-llavas-processor": lambda: _paligemma(own=False),
    "qwen3_5": _qwen3_5,
    "shieldgemma2": lambda: _gemma(shield=True),
    "smolvlm": lambda: _idefics3(smol=True),
    "vit": _vit,
}


def torchvision_for(family: str) -> None:
    """Skip the test where the processor of ``family`` cannot be built here."""
    import pytest

    if family in NEEDS_TORCHVISION:
        pytest.importorskip("torchvision", reason="the processor of this family needs torchvision")


def build(folder: Path, family: str, *, chat: str | None = None) -> Path:
    """Write a checkpoint of ``family`` with the chat template ``chat`` (default: its own); its folder."""
    if family in get_args(Family):
        build_tiny_model(folder, family)  # type: ignore[arg-type]
    else:
        with quiet():
            for part in BUILDERS[family]():
                part.save_pretrained(folder)
    _finish(folder)
    if chat is not None:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    return folder


def _finish(folder: Path) -> None:
    """Name weights as published ones are, and keep the model from tokens that are no text.

    Published towers of CLIP and SigLIP lie a level deeper than transformers 5 saves them. Servers hand out
    control tokens and halves of characters in forms of their own; trained models say neither where they rate.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    weights = load_file(folder / "model.safetensors")
    if any("vision_tower.embeddings.patch_embedding." in name for name in weights):
        deeper = "vision_tower.vision_model."
        weights = {name.replace("vision_tower.", deeper): weight for name, weight in weights.items()}
    if (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        heads = [name for name in weights if name.endswith("lm_head.weight")]
        heads = heads or [name for name in weights if name.endswith("embed_tokens.weight")]
        for name in heads:
            for token, row in enumerate(weights[name]):
                text = tokenizer.decode([token])
                if token in tokenizer.all_special_ids or not text.isprintable() or "\ufffd" in text:
                    row.zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@cache
def guard_model(family: str, chat: str | None = None) -> Path:
    """The folder of a tiny model; made once, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"policyguard-{family}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build(folder, family, chat=chat)


@dataclass(frozen=True)
class Asked:
    """A family, asked in a guard's dialect; ``chat``: its template, where it is not the family's."""

    family: str
    dialect: str
    chat: str | None = None

    def __str__(self) -> str:
        return f"{self.family}-{self.dialect}"


GUARDS = (
    Asked("qwen2_5_vl", "safeguard-vl"),
    Asked("qwen2_5_vl", "safeguard-vl:think"),
    Asked("qwen2_5_vl", "llavaguard"),
    Asked("qwen2_5_vl", "guardreasoner"),
    Asked("qwen3_vl", "safeguard+per-rule"),
    Asked("qwen3_vl", "singguard", SINGGUARD),
    Asked("qwen3_vl", "singguard:slow", SINGGUARD),
    Asked("qwen3_5", "singguard", SINGGUARD),
    Asked("llava_onevision", "llavaguard"),
    Asked("llava", "llavaguard"),
    Asked("llava_next", "llavaguard+per-rule"),
    Asked("shieldgemma2", "shieldgemma"),
    Asked("gemma3", "nemotron"),
    Asked("mllama", "llama-guard"),
    Asked("llama4", "llama-guard"),
    Asked("mistral3", "shieldstral"),
    Asked("internvl", "instruct"),
    Asked("glm4v", "instruct"),
    Asked("gemma3", "instruct"),
    Asked("idefics3", "instruct"),
    Asked("smolvlm", "instruct"),
)
"""Which architecture the weights of each guard have, and how they are asked."""


class Thought(Dialect):
    """``inner``, with the thought already thought: models of noise never come to an end of theirs."""

    def __init__(self, inner: Dialect) -> None:
        self.inner, self.name, self.version = inner, inner.name, inner.version

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        return tuple(
            replace(prompt, prefill=f"a knife{prompt.thinks_until or ''}{prompt.prefill}", thinks_until=None)
            for prompt in self.inner.render(policy)
        )


def differences(guard: Asked, policy: ResolvedPolicy, frames: list[Any]) -> Iterator[float]:
    """How far each score of a batch of ``frames`` is from the one worked out from the model's own class."""
    import torch
    import transformers

    folder = guard_model(guard.family, guard.chat)
    dialect = get_dialect(guard.dialect)
    if any(prompt.thinks_until for prompt in dialect.render(policy)):
        dialect = Thought(dialect)
    config = transformers.AutoConfig.from_pretrained(folder)
    processor = load_processor(folder, config, name=guard.family)
    heads = "ImageClassification" if guard.family == "shieldgemma2" else "ImageTextToText"
    kind = getattr(transformers, f"AutoModelFor{heads}")
    with quiet():
        model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    model = model.model if guard.family == "shieldgemma2" else model
    with TransformersBackend(str(folder), device="cpu", dtype="float32", dialect=dialect) as backend:
        found = backend.assess([AssessmentRequest(frame, policy) for frame in frames])
    for frame, result in zip(frames, found, strict=True):
        assert isinstance(result, Assessment), result
        assert result.p_unsafe is not None
        by_rule: dict[str, float] = {}
        for prompt in dialect.render(policy):
            before = _head(processor, prompt) + prompt.prefill
            shares = _shares(model, processor, before, prompt.ratings, frame)
            unsafe = sum(share for label, share in shares.items() if prompt.ratings[label] is Rating.UNSAFE)
            if prompt.rule is None:
                yield abs(result.p_unsafe - unsafe)
                before += prompt.label(Rating.UNSAFE) + prompt.category_prefill
                categories = _shares(model, processor, before, prompt.categories, frame)
                by_rule |= {prompt.categories[label]: share for label, share in categories.items()}
            else:
                by_rule[prompt.rule] = unsafe
        if by_rule:
            assert result.rule_scores is not None
            yield from (abs(result.rule_scores[rule] - share) for rule, share in by_rule.items())


def _head(processor: Any, prompt: Prompt) -> str:
    def part(item: object) -> dict[str, object]:
        return {"type": "image"} if isinstance(item, FrameSlot) else {"type": "text", "text": item}

    messages = [{"role": turn.role, "content": list(map(part, turn.parts))} for turn in prompt.messages]
    speaker = processor if processor.chat_template else processor.tokenizer
    return str(
        speaker.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **prompt.template)
    )


def _shares(model: Any, processor: Any, before: str, labels: Iterable[str], frame: Any) -> dict[str, float]:
    """The softmax over ``labels`` behind ``before``, from a forward pass over that alone."""
    import torch

    begins = processor.tokenizer.bos_token
    plain = {"add_special_tokens": False} if begins and before.startswith(begins) else {}
    given = {
        label: processor(text=[before + label], images=[[frame]], return_tensors="pt", **plain)
        for label in labels
    }
    if not given:
        return {}
    rows = {label: inputs["input_ids"][0].tolist() for label, inputs in given.items()}
    columns = enumerate(zip(*rows.values(), strict=False))
    common = next(index for index, column in columns if len(set(column)) > 1)
    inputs = next(iter(given.values()))
    length = inputs["input_ids"].shape[1]
    cut = {
        name: value[:, :common] if value.ndim > 1 and value.shape[1] == length else value
        for name, value in inputs.items()
        if hasattr(value, "to")
    }
    cut = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in cut.items()}
    with torch.inference_mode():
        logits = model(**cut).logits[0, -1].double()
    shares = torch.softmax(logits[[row[common] for row in rows.values()]], -1)
    return dict(zip(rows, shares.tolist(), strict=True))


SERVED = tuple(
    guard
    for guard in GUARDS
    if guard.family not in ("gemma3", "mllama", "qwen3_5", "shieldgemma2")
    and guard.dialect not in ("guardreasoner", "safeguard-vl:think", "singguard:slow")
)
"""Those whose architecture is in vLLM's list, but for those who think first: models of noise never end.

Two more are left out: vLLM finds Gemma 3's images by runs of newlines as Gemma's own tokenizer makes them,
and its CPU build gives no finite numbers for a tiny Qwen3.5.
"""


def main(folder: str, name: str, count: str) -> None:
    """Build the model of one of ``GUARDS``; print its scores in bfloat16, and ``differences``, as JSON."""
    import json

    from backends.transformers.support import picture, policy

    guard = next(guard for guard in GUARDS if str(guard) == name)
    built = build(Path(folder), guard.family, chat=guard.chat)
    frames, under = [picture(number) for number in range(int(count))], policy(rules=3)
    dialect = get_dialect(guard.dialect)
    with TransformersBackend(str(built), device="cpu", dtype="bfloat16", dialect=dialect) as backend:
        found = [backend.assess([AssessmentRequest(frame, under)])[0] for frame in frames]
    scores = [(result.p_unsafe, result.rule_scores) for result in found if isinstance(result, Assessment)]
    assert len(scores) == len(frames), found
    print(json.dumps({"scores": scores, "furthest": max(differences(guard, under, frames))}))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
