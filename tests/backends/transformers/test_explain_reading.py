"""The explain reading: the fast rating, then what the model goes on to say, read by the dialect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from backends.transformers.support import (
    PlainDialect,
    assessments,
    distance,
    furthest,
    in_turn,
    picture,
    policy,
    requests,
    tiny_backend,
)
from policyguard.assessment import Failure, FailureKind, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.transformers import TransformersBackend
from policyguard.dialects import SafeguardDialect
from policyguard.dialects.base import Answer, Dialect
from support.tiny_models import FAMILIES, Family


@pytest.mark.parametrize("family", FAMILIES)
def test_an_explained_rating_is_the_fast_rating(family: Family) -> None:
    """The answer is decoded from the fast rating on, so the two cannot disagree."""
    dialect = PlainDialect()
    backend = tiny_backend(family, dialect)
    fast = assessments(backend.assess(requests(8, policy())))
    asked = requests(8, policy(), Reading.EXPLAIN)
    slow = assessments(backend.assess(asked))
    assert furthest(fast, slow) < 1e-5
    for place, text in zip(in_turn(backend, asked), dialect.read, strict=True):
        one, other = fast[place], slow[place]
        assert one.rating is other.rating
        assert other.reading is Reading.EXPLAIN
        assert text.startswith(f"rating: {one.rating}")
        assert other.rationale
        if one.rating is Rating.UNSAFE:
            assert one.category == other.category


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_decoded_greedily_whatever_the_checkpoint_asks_for(family: Family) -> None:
    """The tiny checkpoints ask for sampling, top-k and a repetition penalty, as real ones do."""
    dialect = PlainDialect(max_new_tokens=5)
    backend = tiny_backend(family, dialect)
    [found] = assessments(backend.assess([AssessmentRequest(picture(2), policy(), Reading.EXPLAIN)]))
    loaded = backend._load().loaded
    (plan,) = next(iter(backend._plans.values()))
    key = next((label for label, rule in plan.prompt.categories.items() if rule == found.category), None)
    text = plan.head + plan.answered(found.rating, key if found.rating is Rating.UNSAFE else None)
    said = ""
    inputs = dict(loaded.processor(text=[text], images=[[picture(2)]], return_tensors="pt"))
    for _ in range(5):
        with torch.inference_mode():
            token = int(loaded.model(**inputs).logits[0, -1].argmax())
        if token in loaded.ends:
            break
        said += loaded.processor.tokenizer.decode([token])
        for name, value in inputs.items():
            if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
                new = {"input_ids": token, "attention_mask": 1, "mm_token_type_ids": 0}[name]
                inputs[name] = torch.cat([value, torch.tensor([[new]], dtype=value.dtype)], 1)
    assert dialect.read == [text.removeprefix(plan.head) + said]


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_explain_as_single_pictures_do(family: Family) -> None:
    together, alone = PlainDialect(max_new_tokens=8), PlainDialect(max_new_tokens=8)
    asked = requests(4, policy(), Reading.EXPLAIN)
    tiny_backend(family, together, max_batch=4).assess(asked)
    tiny_backend(family, alone, max_batch=1).assess(asked)
    assert together.read == alone.read


def test_fast_and_explain_requests_mix_in_one_batch() -> None:
    backend = tiny_backend("qwen3_vl")
    readings = [Reading.FAST, Reading.EXPLAIN, Reading.EXPLAIN, Reading.FAST]
    asked = [AssessmentRequest(picture(n), policy(), reading) for n, reading in enumerate(readings)]
    found = assessments(backend.assess(asked))
    assert [one.reading for one in found] == readings
    assert [one.rationale is not None for one in found] == [False, True, True, False]
    [alone] = assessments(backend.assess([asked[2]]))
    assert distance(alone, found[2]) < 1e-5
    assert alone.rationale == found[2].rationale


def leaning(dialect: Dialect, to: Rating) -> TransformersBackend:
    """A tiny model that rates every picture ``to``; what it says afterwards is its own."""
    backend = tiny_backend("qwen3_vl", dialect)
    backend.assess(requests(1, policy()))
    (plan,) = next(iter(backend._plans.values()))
    token = next(token for token, rating in plan.ratings.items() if rating is to)

    def lean(module: object, call: object, output: Any) -> None:
        if output.logits.shape[1] >= plan.keep:
            output.logits[:, plan.rating_at, token] = 1e4

    backend._load().loaded.model.register_forward_hook(lean)
    return backend


@pytest.mark.parametrize("rating", [Rating.SAFE, Rating.UNDECIDED])
def test_an_answer_the_parser_refuses_is_an_error_with_its_reason(rating: Rating) -> None:
    backend = leaning(PlainDialect(refuses="the answer names two ratings"), rating)
    results = backend.assess(requests(2, policy(), Reading.EXPLAIN))
    assert results == [Failure(FailureKind.ERROR, "the answer names two ratings")] * 2


def test_a_broken_explanation_takes_no_violation_back() -> None:
    """Else a policy with ``outcomes: {error: allow}`` would let through what the scores had found."""
    backend = leaning(PlainDialect(refuses="the answer names two ratings"), Rating.UNSAFE)
    fast = assessments(backend.assess(requests(2, policy())))
    slow = assessments(backend.assess(requests(2, policy(), Reading.EXPLAIN)))
    assert furthest(fast, slow) < 1e-5
    for one, other in zip(fast, slow, strict=True):
        assert (other.rating, other.category, other.rationale) == (Rating.UNSAFE, one.category, None)
        assert other.notes == ("the explanation could not be read: the answer names two ratings",)


def test_a_broken_explanation_is_weighed_by_the_threshold_of_the_policy_that_asks() -> None:
    """Not by that of a policy of the same words that was asked about before, or beside it."""
    backend = tiny_backend("qwen3_vl", PlainDialect(refuses="the answer names two ratings"))
    [fast] = assessments(backend.assess(requests(1, policy())))
    assert fast.p_unsafe is not None
    thresholds = (fast.p_unsafe / 2, (1.0 + fast.p_unsafe) / 2)
    asked = [
        AssessmentRequest(picture(0), replace(policy(), threshold=threshold), Reading.EXPLAIN)
        for threshold in thresholds
    ]
    assert [False, True] == [isinstance(result, Failure) for result in backend.assess(asked)]
    assert [False, True] == [isinstance(backend.assess([one])[0], Failure) for one in asked]


def test_a_cut_off_answer_goes_to_the_parser_as_it_is() -> None:
    """A random model hardly ever ends its answer: the JSON stays open, and the strict parser refuses it."""
    backend = leaning(SafeguardDialect(), Rating.SAFE)
    for result in backend.assess(requests(2, policy(), Reading.EXPLAIN)):
        assert isinstance(result, Failure)
        assert result.kind is FailureKind.ERROR
        assert "not one JSON object" in result.reason


def test_an_end_token_ends_the_answer_and_is_not_part_of_it() -> None:
    dialect = PlainDialect()
    backend = tiny_backend("qwen3_vl", dialect)
    loaded = backend._load().loaded
    end = loaded.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    steps: list[int] = []

    def end_on_third(module: object, call: object, output: object) -> None:
        steps.append(1)
        if len(steps) == 4:  # one fast pass, then the third step of decoding
            output.logits[:, -1, end] = 1e4  # type: ignore[attr-defined]

    hook = loaded.model.register_forward_hook(end_on_third)
    backend.assess(requests(1, policy(), Reading.EXPLAIN))
    hook.remove()
    assert len(steps) == 4
    assert "<|im_end|>" not in dialect.read[0]


def test_control_tokens_inside_an_answer_are_shown_to_the_parser() -> None:
    """Dropping them would let an answer that breaks its own form pass as a clean one."""
    dialect = PlainDialect(max_new_tokens=2)
    backend = tiny_backend("qwen3_vl", dialect)
    loaded = backend._load().loaded
    start = loaded.processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    calls: list[int] = []

    def speak_as_another(module: object, call: object, output: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            output.logits[:, -1, start] = 1e4  # type: ignore[attr-defined]

    hook = loaded.model.register_forward_hook(speak_as_another)
    backend.assess(requests(1, policy(), Reading.EXPLAIN))
    hook.remove()
    assert dialect.read[0].endswith("<|im_start|><|im_start|>")


def test_a_parser_that_reads_another_rating_is_an_error_and_never_a_verdict() -> None:
    class Contrary(PlainDialect):
        def parse(self, text, policy, prompt):  # type: ignore[no-untyped-def]
            said = super().parse(text, policy, prompt)
            return Answer(Rating.SAFE if said.rating is Rating.UNSAFE else Rating.UNSAFE, None, "no")

    for result in leaning(Contrary(), Rating.SAFE).assess(requests(3, policy(), Reading.EXPLAIN)):
        assert isinstance(result, Failure)
        assert "where the scores say" in result.reason
