"""Whatever is computed once and used again changes no number: held against the plain full prefill.

The reference is the family's own class, loaded apart, on one picture and the whole prompt at a time, with
nothing of ours around it.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from itertools import cycle
from random import Random
from typing import Any

import pytest
import torch

from backends.transformers.support import (
    PlainDialect,
    assessments,
    distance,
    in_turn,
    picture,
    policy,
    tiny_backend,
)
from policyguard import Guard, Verdict
from policyguard.assessment import Assessment, Failure, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.transformers import TransformersBackend, ways
from policyguard.backends.transformers import runner as runners
from policyguard.backends.transformers.features import Frame
from policyguard.backends.transformers.files import quiet
from policyguard.backends.transformers.loading import load_processor, prepare
from policyguard.backends.transformers.plan import Plan
from policyguard.backends.transformers.prefix import why_not, with_positions
from policyguard.outcomes import Outcome
from policyguard.pictosafe import Renderer
from policyguard.pictosafe.render import styles
from policyguard.pictosafe.scene import draw_scene
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
    # Where some layers have a window, padded batches are read in full besides (Llama 4).
    never = [reason for reason in backend.stats().in_full if "a window" not in reason]
    assert bool(never) is (family in FULLY)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_by_products_gives_the_logits_of_single_full_passes(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, in padded batches, behind a prefix, behind one longer than a window, and in the vision tower."""
    monkeypatch.setattr(ways, "LONG", 1)
    backend = backend_of(family, attention="matmul")
    assert backend.model.settings == "attention=matmul"
    scored: list[int] = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda *given: scored.append(1) or softmax(*given))
    for under in (LONG, words("far", 90)):
        for seeds in ([0], [1, 2, 3]):
            assert furthest(family, backend, under, seeds) <= CLOSE, seeds
    assert bool(scored) is (family != "mllama")  # its masks are numbers to add, and are left to torch's own


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


@pytest.mark.parametrize(
    ("family", "attention"),
    [*((family, None) for family in FAMILIES), ("qwen3_vl", "matmul"), ("gemma3", "matmul")],
)
def test_words_decoded_from_where_the_verdict_stood_are_those_decoded_from_the_start(
    family: str, attention: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and in batches whose answers begin differently, behind a prefix and with known features."""
    monkeypatch.setattr(ways, "LONG", 1)
    torchvision_for(family)
    dialect = PlainDialect(max_new_tokens=5)
    backend = tiny_backend(guard_model(family), dialect, attention=attention)
    runner = backend._load()
    for seeds in ([0], [0, 1, 2, 3]):
        dialect.read.clear()
        asked = [AssessmentRequest(picture(seed), LONG, Reading.EXPLAIN) for seed in seeds]
        assert not any(isinstance(result, Failure) for result in backend.assess(asked))
        (plan,) = backend._plans_of(runner, LONG)
        for place, text in zip(in_turn(backend, asked), dialect.read, strict=True):
            seed = seeds[place]
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


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision"])
def test_a_wrong_scheme_of_positions_fails_this_check(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that start again behind the prefix, and positions that count padding as text."""
    backend = backend_of(family)
    assert furthest(family, backend, LONG, [1, 2, 3]) <= CLOSE

    def restarting(model: Any, inputs: Any, prefix_ids: Any) -> Any:
        right = with_positions(model, inputs, prefix_ids)
        return right | {"position_ids": right["position_ids"] - right["position_ids"][..., :1]}

    def counting_places(model: Any, inputs: Any, prefix_ids: Any) -> Any:
        right = with_positions(model, inputs, prefix_ids)
        padding = (inputs["attention_mask"] == 0).sum(-1, keepdim=True)
        return right | {"position_ids": right["position_ids"] + padding}

    for wrong in (restarting, counting_places):
        monkeypatch.setattr(runners, "with_positions", wrong)
        assert furthest(family, backend, LONG, [1, 2, 3]) > 100 * CLOSE


def test_eight_threads_with_five_policies_get_what_one_gets_without_any_sharing() -> None:
    policies = [words(name, 8) for name in ("one", "two", "three", "four", "five")]
    readings = [Reading.FAST, Reading.FAST, Reading.EXPLAIN]
    asked = [
        AssessmentRequest(picture(seed), under, readings[(seed + number) % 3])
        for seed in range(4)
        for number, under in enumerate(policies)
    ]
    alone = {"prefix_cache_bytes": 0, "feature_cache_bytes": 0, "max_batch": 1}
    expected = assessments(tiny_backend("qwen3_vl", **alone).assess(asked))
    backend = tiny_backend("qwen3_vl", prefix_cache_bytes=1 << 18, feature_cache_bytes=1 << 14)
    found: dict[int, list[Assessment]] = {}

    def ask(thread: int) -> None:
        order = [(place * 7 + thread * 5) % len(asked) for place in range(len(asked))]
        results: dict[int, Assessment] = {}
        for start in range(0, len(order), 5):
            some = order[start : start + 5]
            answers = assessments(backend.assess([asked[place] for place in some]))
            results |= zip(some, answers, strict=True)
        found[thread] = [results[place] for place in range(len(asked))]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for results in found.values():
        for one, other in zip(expected, results, strict=True):
            assert distance(one, other) <= CLOSE
            assert (one.rating, one.category, one.rationale) == (
                other.rating,
                other.category,
                other.rationale,
            )
    runner = backend._load()
    assert runner.prefixes.weight <= 1 << 18
    assert runner.looks.kept.weight <= 1 << 14


def test_several_policies_and_another_round_look_at_a_picture_once() -> None:
    backend = tiny_backend("qwen3_vl")
    guard = Guard([words(name, 8) for name in ("one", "two", "three")], backend=backend)
    guard.check(picture(1))
    assert (backend.stats().looks, backend.stats().looks_reused) == (1, 2)
    stricter = replace(guard.policies[0], rules=guard.policies[0].rules[:2])
    backend.assess([AssessmentRequest(picture(1), stricter)])
    guard.with_policy(words("four", 8)).check(picture(1))
    assert (backend.stats().looks, backend.stats().looks_reused) == (1, 4)
    guard.check(picture(2))
    assert backend.stats().looks == 2


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "llava_next", "mllama"])
def test_what_is_tokenised_once_is_what_the_processor_makes_of_each_picture(family: str) -> None:
    """Pictures of equal size share their tokens, and no pixels; what one caller writes to is its own."""
    runner = backend_of(family)._load()
    texts = [f"{runner.loaded.processor.image_token} Judge this picture."] * 2
    for seeds in ((1, 3), (9, 11), (9, 11), (1, 2)):  # sizes repeat from the eighth on
        frames = [Frame.of(picture(seed)) for seed in seeds]
        found = runner._prepare(texts, frames, True, 0)
        pixels = [frame.pixels for frame in frames]
        expected = prepare(runner.loaded.processor, texts, pixels, special=True)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in found)
        found["input_ids"].zero_()
    assert len(runner.images._tokens) == 2


def test_a_picture_under_the_key_of_another_is_looked_at_for_itself() -> None:
    """Features are told apart by pixels: else whoever names a picture could give it another one's verdict."""
    backend = tiny_backend("qwen3_vl")
    asked = [AssessmentRequest(picture(seed), LONG, frame_key="same") for seed in (1, 2)]
    found = [assessments(backend.assess([one]))[0] for one in asked]
    alone = [assessments(tiny_backend("qwen3_vl").assess([one]))[0] for one in asked]
    assert backend.stats().looks == 2
    assert all(distance(one, other) <= CLOSE for one, other in zip(found, alone, strict=True))
    assert distance(*found) > 100 * CLOSE


OFF: tuple[dict[str, int], ...] = (
    {"prefix_cache_bytes": 0},
    {"feature_cache_bytes": 0},
    {"max_batch": 1},
    {"prefix_cache_bytes": 0, "feature_cache_bytes": 0, "max_batch": 1},
)


def same_outcomes(count: int) -> None:
    """pico on ``count`` scenes under two policies at once, with everything shared and with each part off."""
    rng = Random(11)
    renderers = cycle([Renderer(style) for style in styles()])
    scenes = [next(renderers).draw(draw_scene(rng)) for _ in range(count)]
    policies = ["pictosafe/l3", "pictosafe/l5"]

    def verdicts(options: dict[str, int]) -> list[Verdict]:
        settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", **options}
        with TransformersBackend("pico", **settings) as backend:
            return list(Guard(policies, backend=backend).check_many(scenes))

    shared = verdicts({})
    assert {verdict.outcome for verdict in shared} >= {Outcome.VIOLATES, Outcome.COMPLIES}
    for options in OFF:
        for one, other in zip(shared, verdicts(options), strict=True):
            assert one.outcome is other.outcome
            assert one.action is other.action
            assert abs((one.score or 0.0) - (other.score or 0.0)) <= CLOSE


def test_sharing_changes_no_outcome_of_pico() -> None:
    same_outcomes(16)


@pytest.mark.slow
def test_sharing_changes_no_outcome_of_pico_on_a_thousand_scenes() -> None:
    same_outcomes(1000)
