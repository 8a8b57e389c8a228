# ruff: noqa: E501 (a table: one case per line)
"""A provider's own refusals are reported, and ordinary answers are none."""

from __future__ import annotations

from typing import Any

import pytest

from policyguard.integrations.extract import ProviderRefusal, provider_refusals

REFUSALS: list[tuple[Any, str, str, str]] = [
    ({"error": {"code": "moderation_blocked", "message": "m"}}, "/error/code", "openai", "moderation_blocked"),
    ({"output": [{"type": "image_generation_call", "error": {"moderation_details": {"categories": ["violence"], "moderation_stage": "output"}}}]}, "/output/0/error/moderation_details", "openai", "moderation at stage output: violence"),
    ({"choices": [{"finish_reason": "content_filter"}]}, "/choices/0/finish_reason", "openai", "content_filter"),
    ({"choices": [{"message": {"refusal": "I cannot."}}]}, "/choices/0/message/refusal", "openai", "I cannot."),
    ({"output": [{"content": [{"type": "refusal", "refusal": "No."}]}]}, "/output/0/content/0/refusal", "openai", "No."),
    ({"incomplete_details": {"reason": "content_filter"}}, "/incomplete_details", "openai", "content_filter"),
    ({"stop_reason": "refusal", "stop_details": {"category": "cyber", "explanation": "why"}}, "/stop_reason", "anthropic", "refusal: cyber: why"),
    ({"stop_reason": "refusal"}, "/stop_reason", "anthropic", "refusal"),
    ({"candidates": [{"finishReason": "IMAGE_SAFETY"}]}, "/candidates/0/finishReason", "gemini", "IMAGE_SAFETY"),
    ({"candidates": [{"finish_reason": "NO_IMAGE"}]}, "/candidates/0/finish_reason", "gemini", "NO_IMAGE"),
    ({"promptFeedback": {"blockReason": "SAFETY"}}, "/promptFeedback/blockReason", "gemini", "SAFETY"),
    ({"generatedImages": [{"raiFilteredReason": "people"}]}, "/generatedImages/0/raiFilteredReason", "gemini", "people"),
    ({"generated_images": [{"rai_filtered_reason": "people"}]}, "/generated_images/0/rai_filtered_reason", "gemini", "people"),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "where", "provider", "reason"), REFUSALS)
def test_a_refusal_is_reported(payload: Any, where: str, provider: str, reason: str) -> None:
    assert provider_refusals(payload) == [ProviderRefusal(where, provider, reason)]


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [{"finish_reason": "stop", "message": {"content": "refusal", "refusal": None}}]},
        {"stop_reason": "end_turn"},
        {"candidates": [{"finishReason": "STOP"}]},
        {"error": {"code": "rate_limit_exceeded"}},
        {"incomplete_details": None, "code": "print('hello')"},
        "stop_reason: refusal",
        None,
    ],
)
def test_an_ordinary_answer_is_no_refusal(payload: Any) -> None:
    assert provider_refusals(payload) == []


def test_a_payload_that_holds_itself_ends() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert provider_refusals(ring) == []
