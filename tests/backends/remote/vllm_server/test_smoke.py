"""What continuous integration asks of a real vLLM server: one server, at most four minutes in all."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.remote.vllm_server.running import RealServer
from backends.remote.vllm_server.support import ask, level, long_policy, pico, safeguard, scenes
from policyguard import Guard
from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.backends.remote.chat import chat_messages
from policyguard.backends.remote.frame_encoding import data_uri, grid_for
from policyguard.backends.transformers import TransformersBackend
from policyguard.backends.transformers.loading import prepare
from policyguard.backends.transformers.plan import _chat_text
from policyguard.dialects import Dialect, PicoDialect, SafeguardDialect
from policyguard.errors import ConfigurationError
from policyguard.outcomes import Outcome

EXAMPLES = Path(__file__).parents[4] / "examples" / "images"
NATS = 0.25
"""By how much two runs of one bfloat16 model may differ: its logits are in steps of 1/16."""


def raw(
    server: RealServer, frame: Image.Image, policy: Any, dialect: Dialect | None = None, **fields: Any
) -> dict[str, Any]:
    """A request as the package makes it, sent without it."""
    picture = data_uri(ask(frame, policy), grid_for("pico", server.name))
    messages = chat_messages((dialect or PicoDialect()).render(policy)[0], picture)
    body = {"model": server.name, "messages": messages, "max_tokens": 1, "temperature": 0, **fields}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200, answer
    return answer


def test_fast_readings_judge_the_example_pictures_as_the_model_in_this_process_does(
    pico_server: RealServer,
) -> None:
    local = Guard("pictosafe/l3")
    with pico(pico_server) as backend:
        remote = Guard("pictosafe/l3", backend=backend)
        for path in sorted(EXAMPLES.glob("*.png")):
            here, there = local.check(path), remote.check(path)
            assert there.outcome is here.outcome, path.name
            assert there.score == pytest.approx(here.score, abs=0.1), path.name


def test_an_explain_reading_gives_the_words_that_the_model_in_this_process_gives(
    pico_server: RealServer,
) -> None:
    local = Guard("pictosafe/l3", explain=True)
    with pico(pico_server) as backend:
        remote = Guard("pictosafe/l3", backend=backend, explain=True)
        here, there = local.check(EXAMPLES / "armoury.png"), remote.check(EXAMPLES / "armoury.png")
    assert there.outcome is Outcome.VIOLATES
    assert there.rationale == here.rationale
    assert [finding.rule for finding in there.findings] == [finding.rule for finding in here.findings]


def test_the_score_is_the_softmax_of_the_label_s_logits_of_a_forward_pass_made_here(
    pico_server: RealServer,
) -> None:
    policy = level(3)
    prompt = PicoDialect().render(policy)[0]
    loaded = TransformersBackend("pico", dtype="bfloat16")._load().loaded
    import torch

    text = _chat_text(loaded.processor, prompt, policy)
    ids = [loaded.processor.tokenizer.encode(f" {rating}")[0] for rating in Rating]
    with pico(pico_server) as backend:
        for frame in scenes(12):
            with torch.inference_mode():
                inputs = prepare(loaded.processor, [text], [frame], special=False)
                logits = loaded.model(**inputs).logits[0, -1].float().log_softmax(-1)
            answer = raw(
                pico_server,
                frame,
                policy,
                logprobs=True,
                logprob_token_ids=ids,
                return_tokens_as_token_ids=True,
            )
            assert answer["usage"]["prompt_tokens"] == inputs["input_ids"].shape[1]
            listed = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            told = {int(entry["token"].removeprefix("token_id:")): entry["logprob"] for entry in listed}
            for token in ids:
                bound = NATS + 0.05 * abs(float(logits[token]))
                assert told[token] == pytest.approx(float(logits[token]), abs=bound)
            (found,) = backend.assess([ask(frame, policy)])
            assert isinstance(found, Assessment)
            assert found.p_unsafe is not None
            safe, unsafe = (math.exp(told[token]) for token in ids[:2])
            assert found.p_unsafe == pytest.approx(unsafe / (safe + unsafe), abs=1e-6)
            assert found.label_mass == pytest.approx(sum(math.exp(told[token]) for token in ids), abs=1e-4)


def test_the_policy_is_served_from_the_prefix_cache_from_the_second_picture_on(
    pico_server: RealServer,
) -> None:
    """pico does not know the dialect, and its own lists are too short for this: its answer is noise."""
    policy = long_policy(24).resolve()
    system = SafeguardDialect().render(policy)[0].messages[0]
    head = [{"role": system.role, "content": system.parts[0]}]
    body = {"model": pico_server.name, "messages": head, "add_generation_prompt": False}
    _, told = pico_server.post("/tokenize", body)
    cached = []
    for frame in scenes(4, seed=7):
        usage = raw(pico_server, frame, policy, SafeguardDialect())["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    assert told["count"] >= 512  # four blocks of the CPU build
    assert cached[0] == 0
    assert min(cached[1:]) >= 0.9 * told["count"], f"{cached} of {told['count']}"


def test_a_cache_salt_keeps_the_prefix_to_itself(pico_server: RealServer) -> None:
    policy = long_policy(26).resolve()
    frames = scenes(3, seed=8)
    for frame in frames[:2]:
        raw(pico_server, frame, policy, SafeguardDialect())
    answer = raw(pico_server, frames[2], policy, SafeguardDialect(), cache_salt="another tenant")
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_answer_is_held_to_the_dialect_s_form(pico_server: RealServer) -> None:
    """pico has never seen this dialect: what it says in it is noise, and must still be in the form."""
    from backends.remote.support import policy

    with safeguard(pico_server) as backend:
        (found,) = backend.assess([ask(scenes(1)[0], policy().resolve(), explain=True)])
    assert isinstance(found, Assessment), found
    assert found.reading is Reading.EXPLAIN
    assert found.rationale or "the explanation could not be read" in found.notes[-1]


def test_the_servers_own_form_for_answers_without_scores_is_held(pico_server: RealServer) -> None:
    from backends.remote.support import policy
    from policyguard.backends.remote.forms import parse_verdict, response_format, verdict_schema

    prompt = SafeguardDialect().render(policy().resolve())[0]
    picture = data_uri(ask(scenes(1)[0], level(3)), grid_for("pico", ""))
    body = {"model": pico_server.name, "messages": chat_messages(prompt, picture), "temperature": 0}
    fields = {"max_tokens": 100, "response_format": response_format(verdict_schema(prompt, rationale=False))}
    status, answer = pico_server.post("/v1/chat/completions", body | fields)
    assert status == 200, answer
    assert parse_verdict(answer["choices"][0]["message"]["content"], prompt, rationale=False).rating in Rating


def test_a_wrong_model_name_is_a_configuration_error(pico_server: RealServer) -> None:
    with pico(pico_server, model="pica") as backend:
        with pytest.raises(ConfigurationError, match="it serves: pico"):
            backend.warm()
        with pytest.raises(ConfigurationError, match="does not serve the model 'pica'"):
            backend.assess([ask(scenes(1)[0], level(3))])


def test_a_policy_that_is_too_long_for_the_model_is_a_configuration_error(pico_server: RealServer) -> None:
    too_long = pytest.raises(ConfigurationError, match="policy 'long' is too long")
    with safeguard(pico_server) as backend, too_long:
        backend.assess([ask(scenes(1)[0], long_policy(110).resolve())])


def test_a_broken_picture_is_refused_by_the_server_and_unscannable(pico_server: RealServer) -> None:
    """The package decodes pictures first, so this one is broken on the way."""
    broken = ask(scenes(1)[0], level(3))
    object.__setattr__(broken, "encoded", b"\x89PNG\r\n\x1a\nnothing")
    with pico(pico_server) as backend:
        (found,) = backend.assess([broken])
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.UNSCANNABLE


def test_a_jpeg_sent_as_it_is_gives_the_score_of_its_pixels(pico_server: RealServer, tmp_path: Path) -> None:
    path = tmp_path / "scene.jpg"
    scenes(1)[0].save(path, quality=95)
    from policyguard.images import decode

    image = decode(path)
    assert image.plain is not None
    with pico(pico_server) as backend:
        pixels = ask(image.frames[0], level(3))
        (plain,) = backend.assess([pixels])
        object.__setattr__(pixels, "encoded", image.plain)
        assert data_uri(pixels, grid_for("pico", "")).startswith(b"data:image/jpeg")
        (sent,) = backend.assess([pixels])
    assert sent == plain


def test_sixty_four_callers_at_once_each_get_their_own_picture_s_answer(pico_server: RealServer) -> None:
    frames = scenes(64, seed=9)
    with pico(pico_server, concurrency=64, timeout=120.0) as backend:
        guard = Guard("pictosafe/l3", backend=backend)
        with ThreadPoolExecutor(64) as threads:
            together = list(threads.map(guard.check, frames))
        alone = [guard.check(frame) for frame in frames[::8]]

        async def at_once() -> list[Any]:
            return await asyncio.gather(*(guard.acheck(frame) for frame in frames))

        asynchronous = asyncio.run(at_once())
    assert all(verdict.outcome is not Outcome.ERROR for verdict in [*together, *asynchronous])
    for one, other in [*zip(together[::8], alone, strict=True), *zip(together, asynchronous, strict=True)]:
        assert one.score == pytest.approx(other.score, abs=0.15)
