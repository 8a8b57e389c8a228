"""The fast reading: one forward pass, read where the rating and the category stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.dialects.base import Prompt
from policyguard.errors import ConfigurationError
from policyguard.policy import ResolvedPolicy
from support.tiny_models import FAMILIES, Family, build_tiny_model


def by_hand(family: Family, prompt_text: str, frame: object) -> torch.Tensor:
    """Log-probabilities after ``prompt_text``, by transformers alone. Shape (vocabulary,)."""
    runner = shared_backend(family)._load()
    inputs = runner.loaded.processor(text=[prompt_text], images=[[frame]], return_tensors="pt")
    with torch.inference_mode():
        return torch.log_softmax(runner.loaded.model(**inputs).logits[0, -1], -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_models_probabilities_after_the_prefill_and_after_unsafe(family: Family) -> None:
    backend, rules, frame = shared_backend(family), policy(), picture(3)
    [found] = assessments(backend.assess([AssessmentRequest(frame, rules)]))
    tokenizer = backend._load().loaded.processor.tokenizer
    messages = [
        {"role": "system", "content": [{"type": "text", "text": rules.text}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Judge this picture."}]},
    ]
    chat = backend._load().loaded.processor.apply_chat_template(messages, add_generation_prompt=True)
    at_rating = by_hand(family, chat + "rating:", frame)
    safe, unsafe, undecided = (
        float(at_rating[tokenizer.encode(label)[0]].exp()) for label in (" safe", " unsafe", " undecided")
    )
    assert found.p_unsafe == pytest.approx(unsafe / (safe + unsafe), abs=1e-5)
    assert found.label_mass == pytest.approx(safe + unsafe + undecided, abs=1e-5)
    assert found.p_undecided == pytest.approx(undecided / (safe + unsafe + undecided), abs=1e-5)
    assert found.rating is max((safe, Rating.SAFE), (unsafe, Rating.UNSAFE), (undecided, Rating.UNDECIDED))[1]

    at_category = by_hand(family, chat + "rating: unsafe category:", frame)
    shares = {
        rule: float(at_category[tokenizer.encode(f" {key}")[0]].exp()) for key, rule in rules.keys.items()
    }
    expected = {rule: share / sum(shares.values()) for rule, share in shares.items()}
    assert found.rule_scores == pytest.approx(expected, abs=1e-5)
    assert found.category_mass == pytest.approx(sum(shares.values()), abs=1e-5)
    assert sum((found.rule_scores or {}).values()) == pytest.approx(1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_one_size_take_one_forward_pass_and_are_answered_as_single_ones_are(
    family: Family,
) -> None:
    backend, rules = shared_backend(family), policy()
    asked = [AssessmentRequest(picture(seed, (84, 56)), rules) for seed in range(4)]
    singles = [assessments(backend.assess([request]))[0] for request in asked]
    passes: list[object] = []
    hook = backend._load().loaded.model.register_forward_pre_hook(lambda *call: passes.append(call))
    try:
        together = assessments(backend.assess(asked))
    finally:
        hook.remove()
    assert len(passes) == 1
    assert furthest(singles, together) < 1e-5
    assert distance(singles[0], singles[1]) > 1e-4  # the pictures matter


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_batches_stay_near_single_pictures(family: Family) -> None:
    backend = tiny_backend(family, PlainDialect(), dtype="bfloat16")
    asked = requests(4, policy())
    singles = [assessments(backend.assess([request]))[0] for request in asked]
    assert backend.model.dtype == "bfloat16"
    assert furthest(singles, assessments(backend.assess(asked))) < 0.03


def test_a_dialects_share_of_undecided_outweighs_another_rating() -> None:
    """Random weights give each of the three labels about a third."""

    class Doubtful(PlainDialect):
        def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
            return tuple(replace(prompt, undecided_at=0.01) for prompt in super().render(policy))

    asked = requests(8, policy())
    usual = assessments(tiny_backend("qwen3_vl").assess(asked))
    doubtful = assessments(tiny_backend("qwen3_vl", Doubtful()).assess(asked))
    assert {one.rating for one in usual} != {Rating.UNDECIDED}
    assert {one.rating for one in doubtful} == {Rating.UNDECIDED}
    assert [one.p_unsafe for one in doubtful] == pytest.approx([one.p_unsafe for one in usual])


def test_results_come_in_the_order_of_the_requests_whatever_their_policies() -> None:
    backend = shared_backend("qwen3_vl")
    mixed = [AssessmentRequest(picture(n), policy(f"p{n % 3}", rules=2 + n % 3)) for n in range(9)]
    together = assessments(backend.assess(mixed))
    for request, found in zip(mixed, together, strict=True):
        [alone] = assessments(backend.assess([request]))
        assert distance(alone, found) < 1e-5
    assert backend.assess([]) == []


def test_policies_change_the_answer() -> None:
    backend, frame = shared_backend("qwen2_5_vl"), picture(1)
    one, two = (
        assessments(backend.assess([AssessmentRequest(frame, policy(name))]))[0] for name in ("a", "another")
    )
    assert distance(one, two) > 1e-4


def test_a_single_rule_takes_all_of_the_category_and_no_rules_take_none() -> None:
    [found] = assessments(shared_backend("qwen3_vl").assess(requests(1, policy(rules=1))))
    assert found.rule_scores == {"rule-0": pytest.approx(1.0)}

    class WithoutCategories(PlainDialect):
        def render(self, policy):  # type: ignore[no-untyped-def]
            from dataclasses import replace

            return (replace(super().render(policy)[0], categories={}),)

    backend = tiny_backend("qwen3_vl", WithoutCategories())
    [found] = assessments(backend.assess(requests(1, policy())))
    assert found.rule_scores is None
    assert found.category is None


def test_the_category_of_an_unsafe_picture_is_the_best_scoring_rule() -> None:
    found = assessments(shared_backend("qwen3_vl").assess(requests(8, policy())))
    for one in found:
        best = max(one.rule_scores or {}, key=(one.rule_scores or {}).__getitem__)
        assert one.category == (best if one.rating is Rating.UNSAFE else None)


def test_labels_that_share_their_first_token_are_refused_by_name() -> None:
    dialect = PlainDialect(labels=(" safe", " unsafe one", " unsafe two"))
    backend = tiny_backend("qwen3_vl", dialect)
    with pytest.raises(
        ConfigurationError, match=r"' unsafe one' and ' unsafe two' begin with the same token"
    ):
        backend.assess(requests(1, policy()))
    dialect = PlainDialect(category_form=" rule {}")
    backend = tiny_backend("qwen3_vl", dialect)
    with pytest.raises(ConfigurationError, match=r"' rule A' and ' rule B' begin with the same token"):
        backend.assess(requests(1, policy()))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefill_that_ends_in_a_space_reads_the_token_that_holds_the_space(family: Family) -> None:
    """``"rating: "`` + ``"safe"`` is the tokens ``rating:`` and `` safe``: no lone space."""
    spaced = PlainDialect(
        prefill="rating: ",
        labels=("safe", "unsafe", "undecided"),
        category_prefill=" category: ",
        category_form="{}",
    )
    backend = tiny_backend(family, spaced)
    asked = requests(3, policy())
    expected = assessments(shared_backend(family).assess(asked))
    assert furthest(expected, assessments(backend.assess(asked))) < 1e-5


def test_labels_that_begin_at_different_tokens_are_refused() -> None:
    dialect = PlainDialect(prefill="rating: ", labels=("safe", "\nunsafe", "undecided"))
    backend = tiny_backend("qwen3_vl", dialect)
    with pytest.raises(ConfigurationError, match="do not begin at one place"):
        backend.assess(requests(1, policy()))


def test_scores_that_are_not_finite_are_an_error_of_that_picture_only() -> None:
    backend = tiny_backend("qwen3_vl", PlainDialect())
    backend.assess(requests(1, policy()))  # which also shows that the model sees
    for poison in (float("nan"), float("inf")):

        def spoil(module: object, call: object, output: object, poison: float = poison) -> None:
            output.logits[1, 0, 5] = poison  # type: ignore[attr-defined]

        hook = backend._load().loaded.model.register_forward_hook(spoil)
        try:
            results = backend.assess([AssessmentRequest(picture(n, (84, 56)), policy()) for n in range(3)])
        finally:
            hook.remove()
        assert isinstance(results[0], Assessment)
        assert results[1] == Failure(FailureKind.ERROR, "the model's scores are not finite numbers")
        assert isinstance(results[2], Assessment)


def test_a_precheck_decides_without_the_model() -> None:
    backend = tiny_backend("qwen3_vl", PlainDialect())
    [found] = backend.assess([AssessmentRequest(picture(size=(4, 64)), policy(), Reading.EXPLAIN)])
    assert found == Assessment(
        rating=Rating.UNDECIDED,
        p_undecided=1.0,
        reading=Reading.EXPLAIN,
        notes=("too narrow for this dialect",),
    )
    assert backend._runner is None  # nothing was loaded


def test_another_world_is_refused_before_anything_is_loaded() -> None:
    backend = tiny_backend("qwen3_vl", PlainDialect(world="pictosafe"))
    with pytest.raises(
        ConfigurationError, match=r"'world: pictosafe' and nothing else; policy 'house' is not one"
    ):
        backend.accept(policy())
    with pytest.raises(ConfigurationError, match="POLICYGUARD_MODEL"):
        backend.assess(requests(2, policy()))
    backend.accept(policy(world="pictosafe"))
    assert backend._runner is None


def test_control_tokens_in_a_policy_are_refused() -> None:
    """A policy that closes its own turn could speak as the user, or put a second picture into the prompt."""
    for token in ("<|im_end|>", "<|image_pad|>", "<|vision_start|>"):
        with pytest.raises(ConfigurationError, match="control token") as caught:
            shared_backend("qwen3_vl").assess(requests(1, policy(words=f"fine {token} really")))
        assert token in str(caught.value)
        assert "policy 'house'" in str(caught.value)


def test_a_chat_template_that_drops_the_picture_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model", "qwen3_vl")
    blind = "{%- for message in messages %}{{- message.role + ': ' }}{%- for part in message.content %}"
    blind += "{{- part.text or '' }}{%- endfor %}{%- endfor %}"
    (folder / "chat_template.jinja").write_text(blind)
    backend = tiny_backend(folder, PlainDialect())
    with pytest.raises(ConfigurationError, match="drops the image"):
        backend.assess(requests(1, policy()))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system turn') }}")
    backend = tiny_backend(folder, PlainDialect())
    with pytest.raises(ConfigurationError, match="policy 'house': no system turn"):
        backend.assess(requests(1, policy()))


def test_a_policy_longer_than_the_models_context_is_refused_with_its_name_and_the_counts(
    tmp_path: Path,
) -> None:
    folder = build_tiny_model(tmp_path / "model", "qwen3_vl", context=256)
    backend = tiny_backend(folder, PlainDialect())
    with pytest.raises(
        ConfigurationError, match=r"policy 'long' makes a prompt of \d{3} tokens .* takes 256"
    ):
        backend.assess(requests(2, policy("long", words="knife gun museum " * 60)))


def test_a_picture_that_does_not_fit_the_context_is_unscannable_and_the_others_are_judged(
    tmp_path: Path,
) -> None:
    folder = build_tiny_model(tmp_path / "model", "qwen2_5_vl", context=320)
    backend = tiny_backend(folder, PlainDialect())
    asked = requests(3, policy(rules=1))
    asked[1] = AssessmentRequest(picture(size=(560, 560)), policy(rules=1))
    results = backend.assess(asked)
    assert [type(result) for result in results] == [Assessment, Failure, Assessment]
    assert isinstance(results[1], Failure)
    assert results[1].kind is FailureKind.UNSCANNABLE
    assert "the model takes 320" in results[1].reason
    assert "max_pixels" in results[1].reason
    smaller = tiny_backend(folder, PlainDialect(), max_pixels=128 * 128)
    assert isinstance(smaller.assess(asked)[1], Assessment)


def test_a_picture_the_processor_does_not_take_is_unscannable() -> None:
    asked = requests(3, policy())
    asked[0] = AssessmentRequest(picture(size=(4000, 12)), policy())
    first, *others = shared_backend("qwen3_vl").assess(asked)
    assert isinstance(first, Failure)
    assert first.kind is FailureKind.UNSCANNABLE
    assert "aspect ratio" in first.reason
    assert len(assessments(others)) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_max_pixels_bounds_what_the_model_sees(family: Family) -> None:
    backend = tiny_backend(family, PlainDialect(), max_pixels=64 * 64)
    tokens: list[int] = []
    hook = backend._load().loaded.model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for size in ((64, 64), (64, 64), (640, 640)):
        backend.assess([AssessmentRequest(picture(size=size), policy())])
    hook.remove()
    assert tokens[1] == tokens[2]
