"""Ways of running a model that are transformers' own: off unless asked for, and named."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from backends.transformers.support import assessments, furthest, policy, requests, tiny_backend
from policyguard import Guard
from policyguard.errors import ConfigurationError
from policyguard.testing import FakeBackend


def test_ways_stand_in_the_identity_of_the_model_so_that_a_cache_tells_them_apart() -> None:
    assert tiny_backend("qwen3_vl").model.settings == ""
    assert tiny_backend("qwen3_vl", attention="eager").model.settings == "attention=eager"
    every = tiny_backend("qwen3_vl", device=None, compiled=True, device_map="auto", max_pixels=65536)
    assert every.model.settings == "max_pixels=65536 compiled device_map=auto"
    assert every.model.quantisation is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attention": "quick"}, "attention='quick' is unknown"),
        ({"quantise": "int3"}, "quantise='int3' is unknown"),
        ({"device_map": "cuda:0", "device": None}, "device_map='cuda:0' is unknown"),
        ({"device_map": "auto"}, "device='cpu' names one"),
        ({"compiled": "yes"}, "compiled"),
    ],
)
def test_a_way_that_there_is_not_is_refused_when_the_backend_is_built(
    options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        tiny_backend("qwen3_vl", **options)


@pytest.mark.parametrize(
    ("package", "install", "options"),
    [
        ("torchao", "torchao", {"quantise": "int8"}),
        ("bitsandbytes", "bitsandbytes", {"quantise": "int4"}),
        ("flash_attn", "flash-attn", {"attention": "flash_attention_2"}),
    ],
)
def test_a_way_without_its_package_names_what_to_install(
    package: str, install: str, options: dict[str, Any]
) -> None:
    """Of an attention kernel it must be so: transformers would fetch one from the hub, which is code."""
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ConfigurationError, match=f"needs the package {package}") as caught:
        tiny_backend("qwen3_vl", **options)
    assert caught.value.hint == f"pip install {install}"


@pytest.mark.parametrize("options", [{"attention": "eager"}, {"device_map": "auto", "device": None}])
def test_attention_and_spreading_give_the_usual_scores(options: dict[str, Any]) -> None:
    asked = requests(4, policy(words="knife gun museum " * 30))
    usual = assessments(tiny_backend("qwen3_vl").assess(asked))
    if torch.cuda.is_available() and "device_map" in options:
        pytest.skip("numbers of a GPU are not those of a CPU")
    assert furthest(usual, assessments(tiny_backend("qwen3_vl", **options).assess(asked))) < 1e-5


def test_where_compiling_fails_the_model_runs_as_usual_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    backend = tiny_backend("qwen3_vl", compiled=True)
    asked = requests(3, policy())
    usual = assessments(tiny_backend("qwen3_vl").assess(asked))
    for _ in range(2):
        assert furthest(usual, assessments(backend.assess(asked))) < 1e-6
    [fallback] = backend.stats().fallbacks
    assert "torch.compile failed" in fallback
    assert "no compiler here" in fallback
    assert caplog.text.count("torch.compile failed") == 1


def test_a_guard_takes_ways_by_name() -> None:
    guard = Guard("pictosafe/l3", local={"attention": "eager", "dtype": "float32"})
    assert guard.backend.model.settings == "attention=eager"
    assert guard.backend.model.dtype == "float32"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"local": {"quantize": "int8"}}, "local holds 'quantize'"),
        ({"local": ["int8"]}, "local is of type list"),
        ({"local": {"dtype": "float32"}, "base_url": "http://127.0.0.1:1", "model": "m"}, "runs on a server"),
        ({"local": {"dtype": "float32"}, "model": "falconsai-nsfw"}, "is a sensor"),
        ({"local": {"dtype": "float32"}, "backend": FakeBackend(0.1)}, "not both"),
    ],
)
def test_ways_that_nothing_takes_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        Guard("pictosafe/l3", **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_model_gives_the_usual_scores() -> None:
    asked = requests(3, policy(words="knife gun museum " * 30))
    backend = tiny_backend("qwen3_vl", compiled=True)
    usual = assessments(tiny_backend("qwen3_vl").assess(asked))
    assert furthest(usual, assessments(backend.assess(asked))) < 1e-5
    assert backend.stats().fallbacks == ()


@pytest.mark.parametrize(("quantise", "package"), [("int8", "torchao"), ("fp8", "torchao")])
def test_weights_in_fewer_bits_are_named_and_move_scores_little(quantise: str, package: str) -> None:
    pytest.importorskip(package)
    asked = requests(3, policy(words="knife gun museum " * 30))
    backend = tiny_backend("qwen3_vl", quantise=quantise)
    assert (backend.model.quantisation or "").startswith(f"{quantise} {package} ")
    usual = assessments(tiny_backend("qwen3_vl").assess(asked))
    assert 0 < furthest(usual, assessments(backend.assess(asked))) < 0.2
