"""Published systems that judge images: whether they work here, and their figures in papers and cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["MEASURES", "SYSTEMS", "System"]

WORKS: Final = "works"
WORDING: Final = "works with your wording"
NOT: Final = "not possible"

MEASURES = {
    "UB-SG": "UnsafeBench, F1 of unsafe in %: SafeGuard-VL paper, table 2 and supplement",
    "UB-SI": "UnsafeBench, F1 of unsafe in %: SingGuard report, arXiv 2606.22873",
    "UB-MI": "UnsafeBench, F1 of unsafe in %: Mistral's cookbook for Shieldstral, as quoted by a third party",
    "LG": "LlavaGuard's held-out test set, balanced accuracy in %: LlavaGuard paper, tables 2, 3 and 6",
    "LG-SG": "LlavaGuard's test set, balanced accuracy in %: SafeGuard-VL paper, table 4",
    "SE": "SafeEditBench, the overall in % that is printed (it mixes metrics): SafeGuard-VL paper, table 6",
}
"""Short name of a published figure: what it is, and where it stands."""


@dataclass(frozen=True, slots=True)
class System:
    """A published system. ``how``: the model to name, the dialect, or why it is not possible.

    ``figures`` maps the short names of ``MEASURES`` to what is published there. Figures of different sources
    were measured in different ways: compare those of one source only. None was measured by this project.
    """

    name: str
    state: Literal["works", "works with your wording", "not possible"]
    how: str
    figures: Mapping[str, float] = field(default_factory=dict)


def _figures(**values: float) -> dict[str, float]:
    return {name.replace("_", "-"): value for name, value in values.items()}


_INSTRUCT = "as any instruct model"
_OTHER_CODE = "needs Python code from the hub, which is never run"
_CONVERTED = "a sensor, once its makers' file is converted"

SYSTEMS = (
    # Every system that the papers on SafeGuard-VL and LlavaGuard name, and later guards.
    # Guards that read a policy.
    System("SafeGuard-VL-RL", WORDING, "safeguard-vl", _figures(UB_SG=62.39, UB_SI=69.1, LG_SG=71.78)),
    System("SafeGuard-VL-SFT", NOT, "the weights are not released", _figures(UB_SG=66.96)),
    System("SafeGuard-VL-Full", NOT, "the weights are not released", _figures(UB_SG=72.2)),
    System("LlavaGuard-v1.2-0.5B", WORDING, "llavaguard-0.5b", _figures(SE=30.52)),
    System("LlavaGuard-v1.2-7B", WORDING, "llavaguard-7b", _figures(UB_SI=57.8, UB_MI=63.9, SE=44.16)),
    System(
        "LlavaGuard-7B (v1.0)",
        WORDING,
        "its hub id with dialect='llavaguard'; 4,096 tokens",
        _figures(LG=89.46),
    ),
    System("LlavaGuard-13B", WORDING, "its hub id with dialect='llavaguard'", _figures(LG=89.77)),
    System("LlavaGuard-34B", WORDING, "its hub id with dialect='llavaguard'", _figures(LG=90.74)),
    System("QwenGuard-3B", WORDING, "qwenguard-3b", _figures(SE=5.19)),
    System("QwenGuard-7B", WORDING, "qwenguard-7b", _figures(UB_SG=43.56, LG_SG=84.57, SE=32.76)),
    System("ShieldGemma 2", WORKS, "shieldgemma-2", _figures(UB_SG=47.3, UB_SI=53.2, UB_MI=54.9, SE=27.5)),
    System("Llama Guard 3 Vision", WORKS, "llama-guard-3-vision", _figures(UB_SI=43.2)),
    System("Llama Guard 4", WORKS, "llama-guard-4", _figures(UB_SI=48.5)),
    System(
        "Llama Guard, as the SafeGuard-VL paper has it",
        WORKS,
        "llama-guard-3-vision or llama-guard-4; the paper does not say which",
        _figures(UB_SG=22.7, SE=22.73),
    ),
    System("Llama Guard 1 and 2", NOT, "they read text and no images"),
    System("Shieldstral", WORDING, "shieldstral", _figures(UB_MI=81.8)),
    System("SingGuard-2B", WORKS, "singguard-2b", _figures(UB_SI=77.8)),
    System("SingGuard-4B", WORKS, "singguard-4b", _figures(UB_SI=80.0)),
    System("SingGuard-8B", WORKS, "singguard-8b", _figures(UB_SI=78.8)),
    System("Nemotron-3 and 3.5 Content Safety", WORDING, "nemotron-3-content-safety", _figures(UB_MI=67.7)),
    System(
        "GuardReasoner-VL", WORDING, "guardreasoner-vl-7b; it may have seen the test", _figures(UB_SI=84.2)
    ),
    System("LLaVAShield", NOT, "published in a training format that nothing loads", _figures(UB_SI=60.9)),
    System("SafeWatch", NOT, "the repository names a data set and holds no weights"),
    # General models.
    System("Qwen2.5-VL-7B", WORKS, "qwen2.5-vl-7b", _figures(UB_SG=41.71, LG_SG=57.08, SE=48.68)),
    System("Qwen2-VL-7B", WORKS, f"its hub id, {_INSTRUCT}", _figures(SE=36.65)),
    System("Qwen3-VL-8B", WORKS, "qwen3-vl-8b", _figures(UB_SI=48.0)),
    System("LLaVA-v1.6-7B", WORKS, f"its hub id ending in -hf, {_INSTRUCT}", _figures(UB_SG=52.0)),
    System("LLaVA-7B of the LlavaGuard paper", WORKS, f"llava-hf's copies, {_INSTRUCT}", _figures(LG=69.3)),
    System("LLaVA-13B of the LlavaGuard paper", WORKS, f"llava-hf's copies, {_INSTRUCT}", _figures(LG=56.47)),
    System("LLaVA-34B of the LlavaGuard paper", WORKS, f"llava-hf's copies, {_INSTRUCT}", _figures(LG=73.89)),
    System("Idefics2-8B", WORKS, f"its hub id, {_INSTRUCT}", _figures(LG=59.73)),
    System("GPT-4", WORKS, "any vision model of OpenAI by base_url", _figures(LG=71.57)),
    System("GPT-5.1", WORKS, "by base_url", _figures(UB_SI=54.3)),
    System("Gemini 3 Pro", WORKS, "by base_url, its compatible endpoint", _figures(UB_SI=49.6)),
    System("GLM-4V-9B", NOT, f"{_OTHER_CODE}; glm-4.1v-9b works", _figures(UB_SG=56.5, SE=41.16)),
    System("InstructBLIP", NOT, "no chat template, and prompts too short for a policy", _figures(UB_SG=55.9)),
    System("CogVLM", NOT, _OTHER_CODE),
    System("Moondream2", NOT, _OTHER_CODE),
    System("MiniGPT-4", NOT, "no format that transformers loads"),
    # What reads no policy.
    System("OpenAI moderation", WORKS, "omni-moderation, a sensor"),
    System("NudeNet", WORKS, "nudenet, a sensor; figure of category sexual", _figures(UB_SG=62.4)),
    System("NSFW classifiers of the LlavaGuard paper", WORKS, "falconsai-nsfw, a sensor of their kind"),
    System("Q16", WORKS, f"q16, {_CONVERTED}", _figures(LG=69.7)),
    System("MultiHeaded", WORKS, f"multiheaded, {_CONVERTED}"),
    System(
        "LAION's NSFW detector",
        WORKS,
        f"laion-nsfw, {_CONVERTED}; figure of category sexual",
        _figures(UB_SG=73.8),
    ),
    System(
        "SD_Filter, Stable Diffusion's safety checker",
        WORKS,
        f"sd-safety-checker, {_CONVERTED}; figure of category sexual",
        _figures(UB_SG=78.5),
    ),
    System("AIR-Bench", NOT, "a benchmark for text, no guard"),
)
