"""Turn a published head on CLIP into a folder that PolicyGuard loads, once: safetensors, not a pickle.

    python examples/sensors/convert_clip_head.py q16 prompts.p
    python examples/sensors/convert_clip_head.py multiheaded FOLDER         # sexual.pt, violent.pt, ...
    python examples/sensors/convert_clip_head.py laion-nsfw clip_ViT-L-14_openai_binary_nsfw_head.pth
    python examples/sensors/convert_clip_head.py sd-safety-checker FOLDER   # the makers' checkpoint

Then ``Guard(policy, model="q16")`` finds it. Only numbers are read from the pickles, never code: whatever
else is in them is refused. Where the makers keep them: ml-research/Q16 (data/ViT-L-14/prompts.p),
YitingQu/unsafe-diffusion, LAION-AI/CLIP-based-NSFW-Detector (models/), and on the hub
CompVis/stable-diffusion-safety-checker.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle  # noqa: TID251 (read with every class but those of arrays refused)
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ENCODER = "openai/clip-vit-large-patch14"
HEADS = ("sexual", "violent", "disturbing", "hateful", "political")
ARRAYS = {
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Numbers(pickle.Unpickler):
    """Reads arrays and lists of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise SystemExit(f"refused: the pickle wants {module}.{name}, and only arrays are read")
        return super().find_class(module, name)


def tensors_in(path: Path) -> dict[str, torch.Tensor]:
    """A state dict, from safetensors or from torch's pickle read without code."""
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    return dict(loaded)


def folded(
    weight: torch.Tensor, bias: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> list[torch.Tensor]:
    """The linear layer that does to x what this one does to ``x * scale + shift``."""
    weight, bias, scale, shift = (value.double() for value in (weight, bias, scale, shift))
    return [(weight * scale).float(), (bias + weight @ shift).float()]


def layers(signal: str, *pairs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        f"{signal}.{place}.{name}": value.contiguous()
        for place, pair in enumerate(pairs)
        for name, value in zip(("weight", "bias"), pair, strict=True)
    }


def q16(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    prompts = torch.tensor(Numbers(io.BytesIO(source.read_bytes())).load(), dtype=torch.float32)
    signals = {"appropriate": "nothing to object to", "inappropriate": "offensive, violent, lewd or hateful"}
    return {"prompts": prompts}, {"kind": "cosines", "signals": signals, "normalised": True}


def multiheaded(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    head: dict[str, torch.Tensor] = {}
    for signal in HEADS:
        state = tensors_in(source / f"{signal}.pt")
        # Linear, ReLU, dropout, batch norm, linear: the norm goes into the layer behind it.
        scale = state["3.weight"] / (state["3.running_var"] + 1e-5).sqrt()
        shift = state["3.bias"] - state["3.running_mean"] * scale
        last = folded(state["4.weight"], state["4.bias"], scale, shift)
        head |= layers(signal, [state["0.weight"], state["0.bias"]], last)
    signals = {signal: f"{signal} images" for signal in HEADS}
    return head, {"kind": "layers", "signals": signals, "normalised": False}


def laion(source: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    state = tensors_in(source)
    scale = 1.0 / state["norm.variance"].sqrt()
    first = folded(state["linear_1.weight"], state["linear_1.bias"], scale, -state["norm.mean"] * scale)
    others = [
        [state[f"linear_{n}.weight"], state[f"linear_{n}.bias"]]
        for n in range(2, 9)
        if f"linear_{n}.weight" in state
    ]
    signals = {"nsfw": "nudity and pornography"}
    return layers("nsfw", first, *others), {"kind": "layers", "signals": signals, "normalised": True}


def safety_checker(source: Path, target: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionModelWithProjection

    files = [
        source / name for name in ("model.safetensors", "pytorch_model.bin") if (source / name).is_file()
    ]
    state = tensors_in(files[0])
    config = CLIPConfig.from_pretrained(source)
    vision = config.vision_config
    vision.projection_dim = config.projection_dim
    encoder = CLIPVisionModelWithProjection(vision)
    own = {
        name.removeprefix("vision_model."): value
        for name, value in state.items()
        if name.startswith("vision_model.")
    }
    own["visual_projection.weight"] = state["visual_projection.weight"]
    missing, _ = encoder.load_state_dict(own, strict=False)
    if lacking := [name for name in missing if "position_ids" not in name]:
        raise SystemExit(f"{files[0]} has no {lacking[0]}")
    encoder.save_pretrained(target / "encoder")
    CLIPImageProcessor.from_pretrained(source).save_pretrained(target / "encoder")
    head = {
        "concepts": state["concept_embeds"],
        "concept_marks": state["concept_embeds_weights"],
        "special": state["special_care_embeds"],
        "special_marks": state["special_care_embeds_weights"],
    }
    signals = {"nsfw": "one of the seventeen concepts, which their makers keep to themselves"}
    return head, {"kind": "margins", "signals": signals, "normalised": True, "encoder": "."}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", choices=("q16", "multiheaded", "laion-nsfw", "sd-safety-checker"))
    parser.add_argument("source", type=Path, help="the makers' file or folder")
    home = os.environ.get("POLICYGUARD_SENSORS") or "~/.cache/policyguard/sensors"
    parser.add_argument("--to", type=Path, help=f"folder to write; default: {home}/HEAD")
    parser.add_argument("--encoder", default=ENCODER, help="the CLIP that it was trained on")
    options = parser.parse_args(arguments)
    target = options.to or Path(home).expanduser() / options.head
    target.mkdir(parents=True, exist_ok=True)
    if options.head == "sd-safety-checker":
        head, settings = safety_checker(options.source, target)
    else:
        head, settings = {"q16": q16, "multiheaded": multiheaded, "laion-nsfw": laion}[options.head](
            options.source
        )
    settings = {"sensor": "clip", "name": options.head, "encoder": options.encoder} | settings
    save_file({name: value.float().contiguous() for name, value in head.items()}, target / "head.safetensors")
    (target / "config.json").write_text(json.dumps({"policyguard": settings}, indent=2) + "\n")
    print(f"{target}: {', '.join(settings['signals'])}")


if __name__ == "__main__":
    main()
