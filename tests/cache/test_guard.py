"""Guard with a cache: what is shared, what never is, what is never stored, and when pixels are looked at."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures
from PIL import ImageFile

from backends.remote.server import ToyServer
from cache.support import assessment, picture, policy
from policyguard import Guard, Outcome, Verdict
from policyguard.assessment import Failure, FailureKind, ModelIdentity, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cache import CachedBackend, CacheInfo, MemoryCache, VerdictCache
from policyguard.errors import BackendError, ConfigurationError
from policyguard.images import decode
from policyguard.testing import FakeBackend


class Named(FakeBackend):
    """A fake model with an identity of its own."""

    def __init__(self, answer: Any = 0.1, **identity: Any) -> None:
        super().__init__(answer)
        self.identity = identity

    @property
    def model(self) -> ModelIdentity:
        return replace(super().model, **self.identity)


@pytest.mark.parametrize(
    "identity",
    [
        {"id": "other"},
        {"revision": "1"},
        {"revision": None},
        {"dialect": "other"},
        {"dialect_version": "2"},
        {"layout": "image-first"},
        {"dtype": "bfloat16"},
        {"quantisation": "fp8"},
        {"adapter": "a"},
        {"backend": "vllm"},
        {"backend_version": "2"},
        {"settings": "max_pixels=1000"},
    ],
)
def test_models_that_differ_in_anything_never_share_an_answer(identity: dict[str, Any]) -> None:
    cache = MemoryCache()
    assert Guard(policy(), backend=Named(0.1), cache=cache).check(picture()).allowed
    verdict = Guard(policy(), backend=Named(0.9, **identity), cache=cache).check(picture())
    assert (Outcome.VIOLATES, False) == (verdict.outcome, verdict.cached)


def test_policies_of_different_words_never_share_an_answer() -> None:
    cache = MemoryCache()
    Guard(policy(), backend=FakeBackend(0.1), cache=cache).check(picture())
    other = policy(description="All of it, and more.")
    assert not Guard(other, backend=FakeBackend(0.9), cache=cache).check(picture()).allowed


@pytest.mark.parametrize(
    "answer",
    [
        *(Failure(kind, "no") for kind in FailureKind),
        BackendError("gone"),
        RuntimeError("gone"),
        assessment(float("nan")),
        assessment(2.0),
        assessment(0.9, rating=Rating.SAFE),
        assessment(0.2, rule_scores={"arms": 1.0}),
        assessment(0.2, rule_scores={"arms": 0.9, "gore": 0.9}),
        "an answer of another kind",
    ],
)
def test_what_could_not_be_judged_is_asked_again(answer: Any) -> None:
    backend = FakeBackend(lambda _: answer)
    if answer == "an answer of another kind":
        backend._result = lambda request, answer: answer  # type: ignore[method-assign, assignment, return-value]
    guard = Guard(policy(), backend=backend, cache="memory")
    assert not {guard.check(picture()).outcome for _ in range(2)} & {Outcome.COMPLIES, Outcome.VIOLATES}
    assert 2 == backend.calls


def test_a_verdict_is_cached_only_if_all_its_frames_were(tmp_path: Path) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.1), cache="memory")
    frames = [Pictures.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 90, 180)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    first, second = guard.check(path), guard.check(path)
    assert [(3, False), (3, True)] == [(v.evidence.frames, v.evidence.cached) for v in (first, second)]
    several = Guard([policy(), policy(title="Q")], backend=guard.backend)
    assert [False, True] == [several.check(path).cached for _ in range(2)]


def test_a_cached_verdict_differs_from_the_first_in_nothing_else(tmp_path: Path) -> None:
    for source in (picture(), picture(mode="RGBA"), Pictures.new("RGB", (9, 5)), save(tmp_path, picture(3))):
        guard = Guard(policy(), backend=FakeBackend(0.7), cache=tmp_path / "verdicts.sqlite")
        first, second = (guard.check(source).to_dict() for _ in range(2))
        for verdict, cached in ((first, False), (second, True)):
            assert cached is verdict.pop("cached") is verdict["evidence"].pop("cached")
            del verdict["evidence"]["timings"]
        assert first == second


def save(folder: Path, data: bytes) -> str:
    path = folder / "scene.png"
    path.write_bytes(data)
    return str(path)


def test_an_image_whose_scores_are_known_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.9), cache="memory")
    data = picture(1, side=64)
    first = guard.check(data)
    monkeypatch.setattr("policyguard.images.decode", refuse_to_decode)
    second = asyncio.run(guard.acheck(data))
    assert (second.cached, second.score, second.evidence.size) == (True, first.score, (64, 64))
    assert second.evidence.image_sha256 == first.evidence.image_sha256


def refuse_to_decode(*_: object, **__: object) -> None:
    raise AssertionError("it was decoded")


def test_pixels_that_a_model_needs_after_all_are_those_of_the_bytes() -> None:
    def red(request: AssessmentRequest) -> float:
        pixel = request.frame.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return float(pixel[0]) / 255

    backend = FakeBackend(red)
    cached = CachedBackend(backend, MemoryCache())
    data = picture(255, mode="RGBA")
    Guard(policy(), backend=cached).check(data)
    verdict = Guard([policy(), policy(title="Q")], backend=cached).check(data)
    assert (Outcome.VIOLATES, False, 1.0) == (verdict.outcome, verdict.cached, verdict.score)
    assert 2 * len(decode(data).frames) == len(backend.requests)
    assert 1 < len({request.frame.getpixel((0, 0)) for request in backend.requests})


@pytest.mark.parametrize("cut", [0, 20, 40])
def test_bytes_that_cannot_be_judged_stay_so_beside_equal_beginnings(cut: int) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.1), cache="memory")
    data = picture(5, side=64)
    assert guard.check(data).allowed
    assert [Outcome.UNSCANNABLE] * 2 == [guard.check(data[:cut]).outcome for _ in range(2)]


def test_too_many_frames_stay_unscannable_after_a_policy_that_samples_them() -> None:
    buffer = io.BytesIO()
    frames = [Pictures.new("RGB", (8, 8), (5 * number, 0, 0)) for number in range(40)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    cached = CachedBackend(FakeBackend(0.1), MemoryCache())
    sampling = Guard(replace(policy(), frames="sample"), backend=cached)
    assert [True, True] == [sampling.check(buffer.getvalue()).partial for _ in range(2)]
    whole = Guard(policy(), backend=cached)
    assert Outcome.UNSCANNABLE is whole.check(buffer.getvalue()).outcome
    both = Guard([policy(), replace(policy(), frames="sample")], backend=cached)
    assert Outcome.UNSCANNABLE is both.check(buffer.getvalue()).outcome


def test_a_setting_that_lets_cut_off_files_through_still_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.1), cache="memory")
    guard.check(picture())
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigurationError, match="LOAD_TRUNCATED"):
        guard.check(picture())


def test_another_process_s_scores_serve_a_model_that_has_not_been_loaded(tmp_path: Path) -> None:
    """The identity, with the hash of the weights, is the same before and after loading."""
    scene = next((Path(__file__).parents[2] / "examples" / "images").glob("*.png"))
    found = []
    for _ in range(2):
        with Guard("pictosafe/l3", cache=tmp_path / "verdicts.sqlite") as guard:
            found.append(guard.check(scene))
            loaded = guard.backend.inner._runner is not None  # type: ignore[attr-defined]
            assert loaded is not found[-1].cached
    assert [False, True] == [verdict.cached for verdict in found]
    assert found[0].score == found[1].score


class Broken(VerdictCache):
    """A store that keeps none of its promises."""

    def get(self, key: str) -> str | None:
        raise OSError("no get")

    def put(self, key: str, value: str) -> None:
        raise OSError("no put")

    def discard(self, key: str) -> None:
        raise OSError("no discard")

    def clear(self) -> int:
        return 0

    def info(self) -> CacheInfo:
        return CacheInfo(0, 0, "nowhere")

    def close(self) -> None:
        pass


class Rubbish(Broken):
    """A store that answers, whatever it is asked, with something else."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get(self, key: str) -> str | None:
        return self.answer  # type: ignore[no-any-return]


RUBBISH: Sequence[Any] = [
    "",
    "{}",
    "[]",
    "null",
    "NaN",
    "[" * 100_000,
    json.dumps({"rating": "safe"}),
    b"{}",
    7,
]


@pytest.mark.parametrize("cache", [Broken(), *map(Rubbish, RUBBISH)])
def test_a_store_that_fails_or_lies_about_its_type_never_gives_a_verdict(
    cache: VerdictCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    backend = FakeBackend(0.9)
    guard = Guard(policy(), backend=backend, cache=cache)
    found = [guard.check(picture()), asyncio.run(guard.acheck(picture()))]
    assert [(Outcome.VIOLATES, False)] * 2 == [(verdict.outcome, verdict.cached) for verdict in found]
    assert 2 == backend.calls


def test_memory_keeps_what_was_used_last() -> None:
    cache = MemoryCache(max_entries=2)
    cache.put("a", "1")
    cache.put("b", "2")
    assert "1" == cache.get("a")
    cache.put("c", "3")
    assert ["1", None, "3"] == [cache.get(key) for key in "abc"]
    assert (2, 2) == (cache.info().entries, cache.info().bytes)
    assert 2 == cache.clear()


def test_memory_serves_entries_for_their_time() -> None:
    cache = MemoryCache(ttl=1e-6)
    cache.put("a", "1")
    assert cache.get("a") is None
    for wrong in ({"ttl": 0.0}, {"ttl": float("nan")}, {"max_entries": 0}):
        with pytest.raises(ConfigurationError):
            MemoryCache(**wrong)  # type: ignore[arg-type]


def test_scores_are_kept_apart_by_api_key_which_is_shown_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    with ToyServer() as server:

        def answered(key: str | None, unsafe: float) -> Verdict:
            server.default.unsafe = unsafe
            with Guard(policy(), base_url=server.url, model=server.model, api_key=key, cache=path) as guard:
                return guard.check(picture())

        found = [answered("sk-lenient", 0.1), answered("sk-strict", 0.9), answered(None, 0.8)]
        again = answered("sk-lenient", 0.5)
    assert [True, False, False] == [verdict.allowed for verdict in found]
    assert not any(verdict.cached for verdict in found)
    assert (again.cached, again.score) == (True, found[0].score)
    assert found[0].evidence.model == found[1].evidence.model
    assert b"lenient" not in path.read_bytes()
