"""The policy's KV prefix: shared by all pictures, exact, never written to, bounded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from backends.transformers.support import (
    PlainDialect,
    assessments,
    distance,
    furthest,
    picture,
    policy,
    requests,
    shared_backend,
    tiny_backend,
)
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.transformers import TransformersBackend
from policyguard.backends.transformers.features import Frame
from policyguard.backends.transformers.loading import prepare
from policyguard.backends.transformers.prefix import PrefixCache, cached, compute_prefix, fork_prefix
from policyguard.backends.transformers.runner import Runner
from support.guard_families import guard_model
from support.tiny_models import QWEN, Family

LONG = policy("long", rules=6, words="weapons knife gun museum exhibits. " * 40)


def logits(runner: Runner, *, share: bool, count: int = 4) -> torch.Tensor:
    """The logits at the end of ``count`` prompts of different lengths, with or without a shared prefix."""
    from dataclasses import replace

    from policyguard.backends.transformers.plan import make_plan

    plan = make_plan(runner.loaded, PlainDialect().render(LONG)[0], LONG, share_prefix=True)
    assert plan.prefix is not None
    if not share:
        plan = replace(plan, prefix=None)
    found: torch.Tensor = runner._forward(plan, [Frame.of(picture(seed)) for seed in range(count)])[0]
    return found


@pytest.mark.parametrize("family", QWEN)
def test_a_shared_prefix_gives_the_logits_of_the_full_forward_pass(family: Family) -> None:
    runner = shared_backend(family)._load()
    for count in (1, 4):
        shared, full = logits(runner, share=True, count=count), logits(runner, share=False, count=count)
        assert full.std() > 0.1
        assert (shared - full).abs().max() <= 1e-5


@pytest.mark.parametrize("family", QWEN)
def test_without_explicit_positions_the_logits_would_be_silently_wrong(family: Family) -> None:
    """Why ``with_positions`` exists: positions left to the model are off, and no error says so."""
    runner = shared_backend(family)._load()
    model, processor = runner.loaded.model, runner.loaded.processor
    (plan,) = shared_backend(family)._plans_of(runner, LONG)
    assert plan.prefix is not None
    right = logits(runner, share=True, count=1)[0, -1]
    inputs = dict(prepare(processor, [plan.prefix.rest], [picture(0)], special=False))
    del inputs["attention_mask"]
    with torch.inference_mode():
        cache = compute_prefix(model, plan.prefix.ids)
        model.model.rope_deltas = None
        naive = model(**inputs, **cached(model, fork_prefix(cache, 1))).logits[0, -1]
        model(**prepare(processor, [plan.text], [picture(3)], special=True))  # any other request in between
        stale = model(**inputs, **cached(model, fork_prefix(cache, 1))).logits[0, -1]
    assert (naive - right).abs().max() > 0.1
    assert (stale - right).abs().max() > 0.02


@pytest.mark.parametrize("family", QWEN)
def test_bfloat16_moves_no_score_far(family: Family) -> None:
    shared, full = (
        tiny_backend(family, dtype="bfloat16", prefix_cache_bytes=bound) for bound in (1 << 30, 0)
    )
    asked = requests(4, LONG)
    assert furthest(assessments(shared.assess(asked)), assessments(full.assess(asked))) < 0.03


@pytest.mark.parametrize("family", QWEN)
def test_a_prefix_is_computed_once_and_never_written_to(family: Family) -> None:
    backend = tiny_backend(family)
    backend.assess(requests(2, LONG))
    runner = backend._load()
    [cache] = runner.prefixes.values()
    before = [(layer.keys, layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    lengths: list[int] = []
    hook = runner.loaded.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for _ in range(3):
        backend.assess(requests(4, LONG))
    hook.remove()
    assert list(runner.prefixes.values()) == [cache]
    for layer, (keys, old_keys, old_values) in zip(cache.layers, before, strict=True):
        assert layer.keys is keys
        assert torch.equal(layer.keys, old_keys)
        assert torch.equal(layer.values, old_values)
    assert max(lengths) < cache.get_seq_length() / 2  # only what follows the policy runs through the model


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("past_key_values", lambda input_ids=None, past_key_values=None, use_cache=None: None),
        ("cache", lambda input_ids=None, cache=None, use_cache=None: None),
    ],
)
def test_a_cache_is_passed_under_the_name_that_this_transformers_has(name: str, forward: object) -> None:
    """From 5.24 on the old name is a FutureWarning, and it goes in 5.40."""
    assert cached(SimpleNamespace(forward=forward), "kept") == {name: "kept", "use_cache": True}


def test_a_fork_shares_the_tensors_of_the_prefix() -> None:
    model = shared_backend("qwen3_vl")._load().loaded.model
    with torch.inference_mode():
        cache = compute_prefix(model, torch.arange(50).view(1, -1))
        forked = fork_prefix(cache, 8)
        assert all(
            new.keys.data_ptr() == old.keys.data_ptr() and new.values.data_ptr() == old.values.data_ptr()
            for new, old in zip(forked.layers, cache.layers, strict=True)
        )
        assert forked.layers[0].keys.shape[0] == 8
        model.model(
            input_ids=torch.ones(8, 3, dtype=torch.long),
            position_ids=torch.arange(50, 53).expand(3, 8, -1),
            **cached(model.model, forked),
        )
    assert forked.get_seq_length() == 53
    assert cache.get_seq_length() == 50


def test_prefixes_are_bounded_by_bytes_and_the_least_used_goes_first() -> None:
    model = shared_backend("qwen3_vl")._load().loaded.model

    def make() -> object:
        with torch.inference_mode():
            return compute_prefix(model, torch.arange(40).view(1, -1))

    one = PrefixCache(1 << 30)
    one.get_or_make("a", make)
    held = PrefixCache(2 * one.weight)
    first = held.get_or_make("a", make)
    held.get_or_make("b", make)
    assert held.get_or_make("a", make) is first
    held.get_or_make("c", make)
    assert list(held._entries) == ["a", "c"]
    assert held.weight <= held.limit
    tiny = PrefixCache(1)
    tiny.get_or_make("a", make)
    tiny.get_or_make("b", make)
    assert len(tiny) == 1  # the one in use stays, however large


def test_many_policies_leave_memory_bounded_and_answers_as_they_were() -> None:
    backend = tiny_backend("qwen2_5_vl", prefix_cache_bytes=1 << 20)
    policies = [policy(f"p{n}", words="knife gun museum " * 40) for n in range(12)]
    before = [assessments(backend.assess([AssessmentRequest(picture(1), one)]))[0] for one in policies]
    runner = backend._load()
    assert runner.prefixes.weight <= 1 << 20
    assert len(runner.prefixes) < len(policies)
    after = [assessments(backend.assess([AssessmentRequest(picture(1), one)]))[0] for one in policies]
    assert furthest(before, after) < 1e-6


@pytest.mark.filterwarnings("ignore:`hidden_state` is deprecated:FutureWarning")  # inside transformers
def test_where_a_prefix_cannot_be_shared_the_full_forward_pass_runs() -> None:
    for backend in (
        tiny_backend(guard_model("mllama")),
        tiny_backend("qwen3_vl", prefix_cache_bytes=0),
        tiny_backend("qwen3_vl", ImageFirst()),
    ):
        assessments(backend.assess(requests(2, LONG)))
        assert len(backend._load().prefixes) == 0


class ImageFirst(PlainDialect):
    """The picture stands before the policy: there is no text to share."""

    layout = "image-first"

    def render(self, policy):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        from policyguard.dialects.base import FRAME, Message

        return (replace(super().render(policy)[0], messages=(Message("user", (FRAME, policy.text)),)),)


@pytest.mark.parametrize("family", QWEN)
def test_two_policies_of_one_length_do_not_share_a_prefix(family: Family) -> None:
    backend = tiny_backend(family)
    one, two = (policy("same", words=f"no {word} here " * 20) for word in ("knife", "rule "))
    first = assessments(backend.assess(requests(2, one)))
    second = assessments(backend.assess(requests(2, two)))
    alone = assessments(tiny_backend(family).assess(requests(2, two)))
    assert furthest(second, alone) < 1e-6
    assert distance(first[0], second[0]) > 1e-5


@pytest.mark.parametrize("family", QWEN)
def test_a_shared_prefix_takes_most_tokens_from_the_forward_pass(family: Family) -> None:
    wordy = policy("wordy", words="weapons knife gun museum exhibits. " * 220)
    shared, full = (tiny_backend(family, prefix_cache_bytes=bound) for bound in (1 << 30, 0))
    asked = [AssessmentRequest(picture(n, (64, 64)), wordy) for n in range(4)]

    def tokens(backend: TransformersBackend) -> int:
        """How many tokens run through the model once the prefix is there."""
        backend.assess(asked)
        sizes: list[int] = []
        hook = backend._load().loaded.model.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        backend.assess(asked)
        hook.remove()
        return sum(sizes)

    assert 0 < tokens(shared) * 4 < tokens(full)
