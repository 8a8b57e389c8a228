"""What /openapi.json says holds for requests made up from it: no 5xx, and no answer of another shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from server.support import Service, serving

CHECKS = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS = (
    "POST /v1/check",
    "POST /v1/moderations",
    "POST /beta/litellm_basic_guardrail_api",
    "GET /v1/policies",
    "POST /v1/policies/{name}/reload",
    "GET /healthz",
    "GET /readyz",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("policies")) as running:
        yield running


@pytest.fixture(scope="module")
def operations(service: Service) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    return {found.ok().label: found.ok() for found in schema.get_all_operations()}


def test_every_endpoint_is_looked_at(operations: dict[str, Any]) -> None:
    assert set(OPERATIONS) == set(operations)


CASES = [
    *((label, GenerationMode.POSITIVE) for label in OPERATIONS),
    *((label, GenerationMode.NEGATIVE) for label in OPERATIONS[:3]),  # the others have nothing to get wrong
]


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_answers_are_as_the_schema_says(operations: dict[str, Any], label: str, mode: Any) -> None:
    ask(operations[label], mode, examples=12)


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CASES)
def test_answers_are_as_the_schema_says_however_one_asks(
    operations: dict[str, Any], label: str, mode: Any
) -> None:
    ask(operations[label], mode, examples=400)


def ask(operation: Any, mode: Any, *, examples: int) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    run()
