"""Whatever is computed once and used again changes no number: held against the plain full prefill.

The reference is the family's own class, loaded apart, on one picture and the whole prompt at a time, with
nothing of ours around it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from backends.transformers.support import PlainDialect, picture, policy, tiny_backend
from policyguard.assessment import Failure, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.transformers import TransformersBackend
from policyguard.backends.transformers.features import Frame
from policyguard.backends.transformers.files import quiet
from policyguard.backends.transformers.loading import load_processor
from policyguard.backends.transformers.plan import Plan
from policyguard.backends.transformers.prefix import why_not
from policyguard.policy import ResolvedPolicy
from support.guard_families import guard_model, torchvision_for

FULLY = ("mllama", "qwen3_5")
"""Families whose prefix is not shared."""

FAMILIES = (
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_onevision",
    "gemma3",
    "glm4v",
    "idefics3",
    "internvl",
    "llama4",
    "llava",
    "llava_next",
    "mistral3",
    "mllama",
    "qwen3_5",
    "shieldgemma2",
    "smolvlm",
)
CLOSE = 1e-5

pytestmark = [
    pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning"),  # inside transformers
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # inside transformers
]


def words(name: str, count: int) -> ResolvedPolicy:
    return policy(name, words=f"weapons {name} knife gun museum exhibits. " * count)


LONG = words("long", 40)


@cache
def stock(family: str) -> tuple[Any, Any]:
    """The family's own model and processor, loaded apart."""
    import transformers

    folder = guard_model(family)
    config = transformers.AutoConfig.from_pretrained(folder)
    heads = "ImageClassification" if family == "shieldgemma2" else "ImageTextToText"
    with quiet():
        kind = getattr(transformers, f"AutoModelFor{heads}")
        model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    return model.model if family == "shieldgemma2" else model, load_processor(folder, config, name=family)


def stock_inputs(family: str, text: str, seed: int) -> Any:
    _, processor = stock(family)
    begins = processor.tokenizer.bos_token
    plain = {"add_special_tokens": False} if begins and text.startswith(begins) else {}
    inputs = processor(text=[text], images=[[picture(seed)]], return_tensors="pt", **plain)
    return {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}


def stock_logits(family: str, text: str, seed: int, keep: int) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = stock(family)[0](**stock_inputs(family, text, seed)).logits[0, -keep:]
    return found


def backend_of(family: str, **options: Any) -> TransformersBackend:
    torchvision_for(family)
    return tiny_backend(guard_model(family), PlainDialect(), **options)


def furthest(family: str, backend: TransformersBackend, under: ResolvedPolicy, seeds: list[int]) -> float:
    """How far the logits of one batch of pictures are from the reference, at most."""
    runner = backend._load()
    (plan,) = backend._plans_of(runner, under)
    found, _ = runner._forward(plan, [Frame.of(picture(seed)) for seed in seeds])
    expected = torch.stack([stock_logits(family, plan.text, seed, plan.keep) for seed in seeds])
    assert expected.std() > 0.05
    return float((found - expected).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_give_the_logits_of_single_full_passes(family: str) -> None:
    """With a shared prefix, with features of other batches, with both, and again."""
    backend = backend_of(family)
    runner = backend._load()
    for seeds in ([0], [1, 2, 3], [3, 0, 4, 1], [1], [4, 4, 5]):
        assert furthest(family, backend, LONG, seeds) <= CLOSE, seeds
    (plan,) = backend._plans_of(runner, LONG)
    assert (plan.prefix is not None) is (family not in FULLY), why_not(runner.loaded.model)
    assert len(runner.prefixes) == (family not in FULLY)
    assert (backend.stats().looks, backend.stats().looks_reused) == (6, 6)
    assert furthest(family, backend, words("other", 44), [0, 5]) <= CLOSE
    assert backend.stats().looks == 6
    assert bool(backend.stats().in_full) is (family in FULLY)


def said_by_the_stock_model(family: str, text: str, seed: int, count: int, ends: frozenset[int]) -> list[int]:
    """The tokens that the family's own class decodes greedily after ``text``, each from a full pass."""
    inputs = dict(stock_inputs(family, text, seed))
    found: list[int] = []
    while len(found) < count:
        with torch.inference_mode():
            token = int(stock(family)[0](**inputs).logits[0, -1].argmax())
        if token in ends:
            break
        found.append(token)
        length = inputs["input_ids"].shape[1]
        for name, value in inputs.items():
            if name == "input_ids":
                inputs[name] = torch.cat([value, torch.tensor([[token]])], 1)
            elif name in ("attention_mask", "cross_attention_mask"):
                inputs[name] = torch.cat([value, value[:, -1:]], 1)
            elif value.ndim == 2 and value.shape[1] == length:
                inputs[name] = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_words_decoded_from_where_the_verdict_stood_are_those_decoded_from_the_start(family: str) -> None:
    """Alone and in batches whose answers begin differently, behind a prefix and with known features."""
    torchvision_for(family)
    dialect = PlainDialect(max_new_tokens=5)
    backend = tiny_backend(guard_model(family), dialect)
    runner = backend._load()
    for seeds in ([0], [0, 1, 2, 3]):
        dialect.read.clear()
        asked = [AssessmentRequest(picture(seed), LONG, Reading.EXPLAIN) for seed in seeds]
        assert not any(isinstance(result, Failure) for result in backend.assess(asked))
        (plan,) = backend._plans_of(runner, LONG)
        for seed, text in zip(seeds, dialect.read, strict=True):
            begun = begun_in(plan, text)
            expected = said_by_the_stock_model(family, plan.head + begun, seed, 5, runner.loaded.ends)
            assert text == begun + runner.loaded.processor.tokenizer.decode(expected)
    stats = backend.stats()
    if family == "qwen3_5":
        assert stats.explained_there == 0
        assert "explanations read the whole prompt again: sharing is not proven" in " ".join(stats.in_full)
    else:
        assert (stats.explained_there, stats.explained_in_full) == (5, 0)


def begun_in(plan: Plan, text: str) -> str:
    """What of the answer ``text`` the scores gave."""
    labels = [label for label in plan.prompt.ratings if text.startswith(plan.prompt.prefill + label)]
    rating = plan.prompt.ratings[labels[0]]
    if rating is not Rating.UNSAFE:
        return plan.answered(rating, None)
    begun = [plan.answered(rating, category) for category in plan.prompt.categories]
    return next(one for one in begun if text.startswith(one))


@pytest.mark.parametrize("family", ["gemma3", "shieldgemma2"])
def test_a_policy_longer_than_the_window_of_some_layers_is_shared_exactly(family: str) -> None:
    backend = backend_of(family)
    far = words("far", 90)
    for seeds in ([0], [1, 2, 3]):
        assert furthest(family, backend, far, seeds) <= CLOSE
    (plan,) = backend._plans_of(backend._load(), far)
    assert plan.prefix is not None
    assert plan.prefix.ids.shape[1] > backend._load().loaded.model.config.get_text_config().sliding_window
