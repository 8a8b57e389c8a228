"""What breaks costs the pictures it concerns, and none of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backends.transformers.support import (
    PlainDialect,
    assessments,
    furthest,
    picture,
    policy,
    requests,
    tiny_backend,
)
from policyguard.assessment import Assessment, Failure, FailureKind
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import ConfigurationError


class Breaking:
    """A hook on the real model that raises where ``when`` says so about the batch."""

    def __init__(self, error: Exception, when: Any) -> None:
        self.error, self.when, self.calls = error, when, 0

    def __call__(self, module: object, args: object, kwargs: dict[str, Any]) -> None:
        self.calls += 1
        if self.when(kwargs["input_ids"]):
            raise self.error


def broken_backend(breaking: Breaking) -> Any:
    backend = tiny_backend("qwen3_vl")
    backend.assess(requests(1, policy()))  # which also shows that the model sees
    backend._load().loaded.model.register_forward_pre_hook(breaking, with_kwargs=True)
    return backend


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate")],
)
def test_a_batch_that_does_not_fit_is_judged_in_halves(error: Exception) -> None:
    breaking = Breaking(error, lambda ids: len(ids) > 1)
    found = assessments(broken_backend(breaking).assess(requests(4, policy())))
    assert breaking.calls <= 1 + 2 + 4
    assert furthest(found, assessments(tiny_backend("qwen3_vl").assess(requests(4, policy())))) < 1e-5


def test_a_picture_that_does_not_fit_alone_is_an_error_that_says_what_to_lower() -> None:
    widest = picture(3).size

    def too_large(ids: Any) -> bool:
        return bool(ids.shape[1] > 90)

    results = broken_backend(Breaking(torch.OutOfMemoryError("CUDA out of memory"), too_large)).assess(
        [AssessmentRequest(picture(n, (400, 400) if n == 2 else (64, 64)), policy()) for n in range(4)]
    )
    assert [type(result) for result in results] == [Assessment, Assessment, Failure, Assessment]
    assert results[2] == Failure(
        FailureKind.ERROR, "out of memory on an image of 400 x 400; lower max_pixels or max_batch"
    )
    assert widest  # the pictures differ in size


def test_a_model_that_always_fails_loses_no_request() -> None:
    breaking = Breaking(RuntimeError("a kernel\nis broken"), lambda ids: True)
    results = broken_backend(breaking).assess(requests(5, policy()))
    expected = Failure(FailureKind.ERROR, "the model failed: RuntimeError: a kernel is broken")
    assert results == [expected] * 5


def test_the_next_batch_is_judged_after_a_failed_one() -> None:
    breaking = Breaking(RuntimeError("once"), lambda ids: breaking.calls <= 2)
    backend = broken_backend(breaking)
    assert all(isinstance(result, Failure) for result in backend.assess(requests(2, policy())))
    assessments(backend.assess(requests(2, policy())))


def test_a_wrong_set_up_raises_even_in_a_batch() -> None:
    class Unreadable(PlainDialect):
        def render(self, policy: Any) -> Any:
            if policy.id == "second":
                raise ConfigurationError("this dialect cannot read policy 'second'")
            return super().render(policy)

    backend = tiny_backend("qwen3_vl", Unreadable())
    asked = [*requests(2, policy("first")), *requests(1, policy("second"))]
    with pytest.raises(ConfigurationError, match="cannot read policy 'second'"):
        backend.assess(asked)


def test_an_interrupt_is_not_turned_into_an_answer() -> None:
    with pytest.raises(KeyboardInterrupt):
        broken_backend(Breaking(KeyboardInterrupt(), lambda ids: True)).assess(requests(2, policy()))  # type: ignore[arg-type]


def test_a_closed_backend_says_so() -> None:
    backend = tiny_backend("qwen3_vl")
    with backend:
        assessments(backend.assess(requests(1, policy())))
    assert backend._runner is None
    for use in (lambda: backend.assess(requests(1, policy())), backend.warm):
        with pytest.raises(ConfigurationError, match="is closed"):
            use()
    backend.close()  # twice is fine
