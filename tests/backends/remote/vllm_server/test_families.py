"""Random-weight models of the real families behind a real server: scores of a JSON dialect, and its form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from backends.remote.support import policy
from backends.remote.vllm_server.conftest import CONSTRAIN, serving
from backends.remote.vllm_server.running import RealServer
from backends.remote.vllm_server.support import ask, safeguard
from policyguard.assessment import Assessment, Rating, Reading
from policyguard.backends.transformers import TransformersBackend
from policyguard.dialects import SafeguardDialect
from support.tiny_models import Family, build_tiny_model

FAMILIES: tuple[Family, ...] = ("qwen2_5_vl", "qwen3_vl")


def noise(side: int) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise((side, side), 90) for _ in range(3)])


@pytest.fixture(scope="module", params=FAMILIES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("family")
    model = build_tiny_model(folder / "model", request.param)
    flags = ("--structured-outputs-config", CONSTRAIN, "--max-model-len", "4096")
    with serving(RealServer(model, request.param, folder / "log", *flags)) as running:
        yield running


def test_scores_are_those_of_a_forward_pass_in_this_process(server: RealServer) -> None:
    """Wide random weights make bfloat16 coarse: log-odds of some 10 differ by up to 1."""
    under = policy().resolve()
    frames = [noise(side) for side in (112, 224, 448)]
    with (
        TransformersBackend(str(server.folder), dialect=SafeguardDialect(), dtype="bfloat16") as local,
        safeguard(server) as remote,
    ):
        for frame in frames:
            (here,), (there,) = local.assess([ask(frame, under)]), remote.assess([ask(frame, under)])
            assert isinstance(here, Assessment), here
            assert isinstance(there, Assessment), there
            assert here.p_unsafe is not None
            assert there.p_unsafe is not None
            odds = [math.log((1e-9 + x.p_unsafe) / (1e-9 + 1 - x.p_unsafe)) for x in (here, there)]
            assert odds[0] == pytest.approx(odds[1], abs=1.0)


def test_an_explanation_is_held_to_the_form_by_the_server(server: RealServer) -> None:
    """The model speaks noise; without the form, its answers could not be parsed."""
    explained = 0
    with safeguard(server) as remote:
        for side in (112, 140, 168, 196):
            (found,) = remote.assess([ask(noise(side), policy().resolve(), explain=True)])
            if isinstance(found, Assessment):
                assert found.reading is Reading.EXPLAIN
                explained += found.rationale is not None
            else:
                assert "cut off" in found.reason, found
    assert explained


def test_without_scores_the_rating_is_read_from_the_form(server: RealServer) -> None:
    """What the package does with servers that give no log-probabilities, asked of one that does."""
    from policyguard.backends.remote.chat import chat_messages
    from policyguard.backends.remote.forms import parse_verdict, response_format, verdict_schema
    from policyguard.backends.remote.frame_encoding import data_uri, grid_for

    under = policy().resolve()
    prompt = SafeguardDialect().render(under)[0]
    messages = chat_messages(prompt, data_uri(ask(noise(112), under), grid_for("safeguard", server.name)))
    fields = {
        "messages": messages,
        "max_tokens": 60,
        "response_format": response_format(verdict_schema(prompt, rationale=False)),
    }
    status, answer = server.post("/v1/chat/completions", {"model": server.name, "temperature": 0, **fields})
    assert status == 200, answer
    assert parse_verdict(answer["choices"][0]["message"]["content"], prompt, rationale=False).rating in Rating


def test_the_log_of_the_server_holds_no_picture(server: RealServer) -> None:
    log: Path = server.log
    assert "base64" not in log.read_text(errors="replace")
