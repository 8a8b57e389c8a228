"""Guard: whatever goes wrong with an image is its outcome, whatever is wrong with the set-up raises."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures

from policyguard import Action, ConfigurationError, Guard, Outcome, PolicyViolation, Verdict
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cache import MemoryCache
from policyguard.errors import BackendError, PolicyError
from policyguard.images import Limits
from policyguard.policy import parse_policy
from policyguard.testing import FakeBackend
from support.guards import Watched, policy
from support.waiting import until


def picture(shade: int = 0) -> Pictures.Image:
    return Pictures.new("RGB", (16, 16), (shade % 256, shade // 256 % 256, 7))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"POLICYGUARD_{name}", raising=False)


def test_a_low_score_is_allowed_and_a_high_one_blocked() -> None:
    backend = FakeBackend().enqueue(0.03, 0.97)
    guard = Guard(policy(), backend=backend)
    assert guard.check(picture()).allowed
    verdict = guard.check(picture())
    assert (Outcome.VIOLATES, Action.BLOCK, 0.97, "arms") == (
        verdict.outcome,
        verdict.action,
        verdict.score,
        verdict.findings[0].rule,
    )
    with pytest.raises(PolicyViolation, match="Arms") as caught:
        verdict.raise_for_block()
    assert caught.value.verdict is verdict


def test_a_verdict_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match="allowed"):
        bool(Guard(policy(), backend=FakeBackend()).check(picture()))


FAULTS = [
    RuntimeError("cuda is gone"),
    TimeoutError(),
    MemoryError(),
    KeyError("x"),
    BackendError("server down"),
    Failure(FailureKind.ERROR, "lost"),
    Failure(FailureKind.REFUSED, "no"),
    float("nan"),
    7.0,
    Assessment(Rating.UNDECIDED, 0.0, 1.0),
    Assessment(Rating.SAFE, 0.0, 0.01),
]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("way", ["check", "check_many", "acheck", "acheck_many"])
def test_no_fault_of_the_backend_lets_an_image_through(fault: Any, way: str) -> None:
    guard = Guard(policy(), backend=FakeBackend(fault))

    async def collect() -> list[Any]:
        return [verdict async for verdict in guard.acheck_many([picture()])]

    verdict = {
        "check": lambda: guard.check(picture()),
        "check_many": lambda: next(guard.check_many([picture()])),
        "acheck": lambda: asyncio.run(guard.acheck(picture())),
        "acheck_many": lambda: asyncio.run(collect())[0],
    }[way]()
    assert (False, False) == (verdict.allowed, verdict.outcome.judged)
    assert verdict.reason


def test_a_backend_that_loses_a_result_loses_the_whole_batch() -> None:
    class Forgetful(FakeBackend):
        def assess(self, requests: Any) -> Any:
            return super().assess(requests)[:-1]

    verdicts = list(Guard(policy(), backend=Forgetful()).check_many([picture(), picture()]))
    assert [Outcome.ERROR] * 2 == [verdict.outcome for verdict in verdicts]


def test_a_configuration_error_is_raised_and_never_covered_by_outcomes() -> None:
    lenient = policy(outcomes={"error": "allow", "unscannable": "allow"})
    guard = Guard(lenient, backend=FakeBackend(ConfigurationError("wrong key")))
    with pytest.raises(ConfigurationError, match="wrong key"):
        guard.check(picture())
    with pytest.raises(ConfigurationError, match="wrong key"):
        list(guard.check_many([picture()]))
    with pytest.raises(ConfigurationError, match="wrong key"):
        asyncio.run(guard.acheck(picture()))


def test_outcomes_may_let_a_broken_image_through_and_mark_it(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    verdict = Guard(policy(outcomes={"unscannable": "allow"}), backend=FakeBackend()).check(broken)
    assert (Outcome.UNSCANNABLE, True, True) == (verdict.outcome, verdict.allowed, verdict.degraded)


def test_a_missing_file_is_that_images_outcome_and_names_it(tmp_path: Path) -> None:
    verdict = Guard(policy(), backend=FakeBackend()).check(tmp_path / "gone.png")
    assert Outcome.UNSCANNABLE is verdict.outcome
    assert "gone.png" in verdict.source
    assert "gone.png" in (verdict.reason or "")


def test_an_image_that_cannot_be_opened_has_the_hash_of_its_bytes_by_every_way_in(tmp_path: Path) -> None:
    whole = io.BytesIO()
    picture().save(whole, "JPEG")
    cut = whole.getvalue()[:-60]
    path = tmp_path / "cut.jpg"
    path.write_bytes(cut)
    uri = f"data:image/jpeg;base64,{base64.b64encode(cut).decode()}"
    sources = [cut, bytearray(cut), memoryview(cut), path, str(path), uri]
    for cache in (None, MemoryCache()):
        guard = Guard(policy(), backend=FakeBackend(), cache=cache)
        verdicts = [guard.check(source) for source in [*sources, io.BytesIO(cut)]]
        verdicts += guard.check_many(sources)
        verdicts += [asyncio.run(guard.acheck(source)) for source in sources]
        verdicts += [guard.check(source, normalise=True) for source in sources]
        assert {verdict.outcome for verdict in verdicts} == {Outcome.UNSCANNABLE}
        assert {verdict.evidence.image_sha256 for verdict in verdicts} == {sha256(cut).hexdigest()}


def test_what_has_no_bytes_or_was_not_read_whole_has_no_hash(tmp_path: Path) -> None:
    large = b"\xff" * (Limits().max_bytes + 1)
    path = tmp_path / "large.png"
    path.write_bytes(large)
    guard = Guard(policy(), backend=FakeBackend())
    for source in (tmp_path / "gone.png", b"", path, io.BytesIO(large), "data:image/png;base64,=", 7):
        verdict = guard.check(source)
        assert (verdict.outcome, verdict.evidence.image_sha256) == (Outcome.UNSCANNABLE, None)
    assert guard.check(large).evidence.image_sha256 == sha256(large).hexdigest()


def test_a_thousand_files_with_ten_broken_ones_give_990_judged_and_10_reported(tmp_path: Path) -> None:
    paths = []
    for number in range(1000):
        paths.append(tmp_path / f"{number:04}.png")
        if number % 100 == 50:
            paths[-1].write_bytes(b"broken")
        else:
            picture(number).save(paths[-1])
    seen: list[tuple[int, int | None]] = []
    guard = Guard(policy(), backend=FakeBackend(0.1))
    verdicts = list(guard.check_many(paths, progress=lambda done, total: seen.append((done, total))))
    assert [str(path) for path in paths] == [verdict.source for verdict in verdicts]
    assert (990, 10) == (
        sum(verdict.outcome is Outcome.COMPLIES for verdict in verdicts),
        sum(verdict.outcome is Outcome.UNSCANNABLE for verdict in verdicts),
    )
    assert (1000, 1000) == seen[-1]


def test_the_worst_frame_of_an_animation_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    shades = [Pictures.new("RGB", (16, 16), (60 * n, 0, 0)) for n in range(4)]
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=500)  # too slow to run together
    backend = FakeBackend(lambda request: 0.9 if request.frame.getpixel((3, 3))[0] > 150 else 0.1)
    verdict = Guard(policy(), backend=backend).check(path)
    assert (Outcome.VIOLATES, 0.9, 4) == (verdict.outcome, verdict.score, verdict.evidence.frames)


def test_hidden_in_transparency_is_found() -> None:
    hidden = Pictures.new("RGBA", (16, 16), (255, 255, 255, 0))
    hidden.paste((255, 255, 255, 255), (4, 4, 12, 12))  # white on white, until a viewer's page is dark
    backend = FakeBackend(lambda request: 0.9 if request.frame.getpixel((0, 0)) == (0, 0, 0) else 0.1)
    assert not Guard(policy(), backend=backend).check(hidden).allowed


def test_several_policies_must_all_allow_and_findings_name_theirs() -> None:
    other = policy(id="q", rules=[{"id": "ads", "title": "Ads", "unsafe": ["adverts"], "action": "flag"}])
    backend = FakeBackend(lambda request: 0.9 if request.policy.id == "q" else 0.1)
    verdict = Guard([policy(), other], backend=backend).check(picture())
    assert (Action.FLAG, [("q", "ads")]) == (verdict.action, [(f.policy, f.rule) for f in verdict.findings])
    assert ["p", "q"] == [entry["id"] for entry in verdict.evidence.policies]


def test_a_mild_rule_does_not_hide_a_severe_one() -> None:
    """Of a picture that breaks both the model names the mild one, until asked about the severe one alone."""
    rules = [
        {"id": "ads", "title": "Ads", "unsafe": ["adverts"], "action": "allow"},
        {"id": "nudity", "title": "Nudity", "unsafe": ["nudity"], "action": "flag"},
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
    ]

    def names_the_first(request: AssessmentRequest) -> Assessment:
        first, *others = request.policy.rules
        shares = {first.id: 1.0} | {rule.id: 0.0 for rule in others}
        return Assessment(Rating.UNSAFE, 0.99, 1.0, rule_scores=shares)

    backend = FakeBackend(names_the_first)
    guard = Guard(policy(rules=rules), backend=backend)
    verdict = guard.check(picture())
    assert (Action.BLOCK, {"ads", "nudity", "arms"}) == (verdict.action, {f.rule for f in verdict.findings})
    assert len(backend.requests) == 3
    assert asyncio.run(guard.acheck(picture())).action is Action.BLOCK
    only_mild = FakeBackend(lambda request: 0.9 if request.policy.rules[0].id == "ads" else 0.1)
    assert Guard(policy(rules=rules), backend=only_mild).check(picture()).action is Action.ALLOW
    failing = FakeBackend().enqueue(0.9, RuntimeError("gone"))
    assert not Guard(policy(rules=rules), backend=failing).check(picture()).allowed


@pytest.mark.parametrize("kind", ["PIL", "bytearray"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_buffer_that_is_filled_anew_for_each_item_is_judged_as_it_was_drawn(kind: str, way: str) -> None:
    def frames() -> Iterator[Any]:
        image, buffer = picture(), bytearray()
        for number in range(12):
            image.paste((255 if number == 5 else 0, 200, 0), (0, 0, 16, 16))
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            buffer[:] = encoded.getvalue()
            yield image if kind == "PIL" else buffer

    guard = Guard(policy(), backend=FakeBackend(lambda request: request.frame.getpixel((0, 0))[0] / 255))

    async def collect() -> list[bool]:
        return [verdict.allowed async for verdict in guard.acheck_many(frames())]

    allowed = [v.allowed for v in guard.check_many(frames())] if way == "sync" else asyncio.run(collect())
    assert [number != 5 for number in range(12)] == allowed


def test_a_policy_that_samples_frames_does_not_speak_for_one_that_wants_all(tmp_path: Path) -> None:
    path = tmp_path / "long.gif"
    shades = [Pictures.new("RGB", (8, 8), (6 * n, 0, 0)) for n in range(40)]
    shades[0].save(path, save_all=True, append_images=shades[1:])
    sampling = policy(id="s", defaults={"frames": "sample"})
    whole = policy(id="w", outcomes={"unscannable": "allow"})
    verdict = Guard([whole, sampling], backend=FakeBackend(0.99)).check(path)
    assert (False, True) == (verdict.allowed, verdict.partial)
    verdict = Guard([policy(), sampling], backend=FakeBackend(0.01)).check(path)
    assert (Outcome.UNSCANNABLE, False) == (verdict.outcome, verdict.allowed)


@pytest.mark.parametrize(
    "answer", [None, 0.1, "safe", {}, object()], ids=lambda answer: type(answer).__name__
)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_is_no_answer_is_an_error(answer: Any, way: str) -> None:
    class Odd(FakeBackend):
        def assess(self, requests: Any) -> Any:
            return answer if answer is None else [answer] * len(requests)

    guard = Guard(policy(), backend=Odd())
    verdict = guard.check(picture()) if way == "sync" else asyncio.run(guard.acheck(picture()))
    assert (Outcome.ERROR, False) == (verdict.outcome, verdict.allowed)


def test_results_that_fail_when_they_are_read_are_an_error() -> None:
    class Lazy(FakeBackend):
        def assess(self, requests: Any) -> Any:
            return (1 / 0 for _ in requests)

    verdict = Guard(policy(), backend=Lazy()).check(picture())
    assert (Outcome.ERROR, False) == (verdict.outcome, verdict.allowed)


def test_half_a_character_in_a_rationale_does_not_break_the_json() -> None:
    said = Assessment(Rating.UNSAFE, 0.9, 1.0, rationale="broken \ud800")
    line = Guard(policy(), backend=FakeBackend(said)).check(picture()).to_json()
    assert "broken" in json.loads(line.encode())["rationale"]


@pytest.mark.parametrize("images", ["a.png", b"ab", Path("a.png"), None, 3], ids=repr)
def test_one_image_is_not_many(images: Any) -> None:
    with pytest.raises(ConfigurationError, match="iterable of images"):
        list(Guard(policy(), backend=FakeBackend()).check_many(images))


@pytest.mark.parametrize(
    "change", [{"threshold": 2.0}, {"threshold": float("nan")}, {"outcomes": {}}, {"rules": ()}]
)
def test_a_resolved_policy_cannot_be_bent(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        replace(policy().resolve(), **change)


def test_changing_the_policy_keeps_the_backend() -> None:
    backend = FakeBackend(0.3)
    guard = Guard(policy(), backend=backend)
    strict = guard.with_policy(policy(defaults={"threshold": 0.2}))
    assert (True, False) == (guard.check(picture()).allowed, strict.check(picture()).allowed)
    strict.close()
    assert not backend.closed


def test_check_many_reads_only_a_bounded_stretch_ahead() -> None:
    taken = 0

    def endless() -> Iterator[Pictures.Image]:
        nonlocal taken
        while True:
            taken += 1
            yield picture(taken)

    backend = FakeBackend(preferred_batch=2)
    verdicts = Guard(policy(), backend=backend).check_many(endless())
    for _ in range(5):
        next(verdicts)
    verdicts.close()  # type: ignore[attr-defined]
    assert taken <= 5 + 4 * backend.preferred_batch


def test_a_source_that_fails_midway_raises_its_own_error_after_what_came_before() -> None:
    def failing() -> Iterator[Pictures.Image]:
        yield picture()
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="disk"):
        list(Guard(policy(), backend=FakeBackend()).check_many(failing()))


def test_async_iterables_are_judged_in_order() -> None:
    async def source() -> AsyncIterator[Pictures.Image]:
        for number in range(9):
            await asyncio.sleep(0)
            yield picture(number)

    async def run() -> list[float | None]:
        backend = FakeBackend(lambda request: request.frame.getpixel((0, 0))[0] / 100)
        return [verdict.score async for verdict in Guard(policy(), backend=backend).acheck_many(source())]

    assert [number / 100 for number in range(9)] == asyncio.run(run())


def test_eight_threads_get_the_answers_of_one() -> None:
    backend = FakeBackend(lambda request: request.frame.getpixel((0, 0))[0] / 255)
    guard = Guard(policy(), backend=backend)
    wrong: list[int] = []

    def work(start: int) -> None:
        wrong.extend(n for n in range(start, 256, 8) if guard.check(picture(n)).score != n / 255)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_event_loop_runs_on_while_a_model_works() -> None:
    go_on = threading.Event()
    backend = Watched(lambda _: go_on.wait())

    async def run() -> Verdict:
        check = asyncio.create_task(Guard(policy(), backend=backend).acheck(picture()))
        await until(lambda: backend.running)
        go_on.set()
        return await check

    assert asyncio.run(run()).allowed


def test_to_dict_is_json_with_the_documented_fields() -> None:
    verdict = Guard(policy(), backend=FakeBackend(0.9)).check(picture())
    data = json.loads(verdict.to_json())
    assert data == json.loads(json.dumps(verdict.to_dict()))
    documented = (Path(__file__).parents[2] / "docs" / "verdict.md").read_text()
    for name in [*data, *data["evidence"], *data["findings"][0]]:
        assert f"`{name}`" in documented, name


def test_a_real_world_policy_without_a_model_names_real_models() -> None:
    with pytest.raises(ConfigurationError, match="Qwen/Qwen3-VL-4B-Instruct"):
        Guard("safeedit/l3")


def test_pico_refuses_a_real_world_policy_even_when_named() -> None:
    with pytest.raises(ConfigurationError, match="pictosafe"):
        Guard("safeedit/l3", model="pico")


def test_settings_come_from_the_environment_after_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLICYGUARD_MODEL", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="nowhere"):
        Guard("safeedit/l3").check(picture())
    assert Guard("pictosafe/l3", model="pico").backend.model.id == "pico"


def test_a_packaged_model_named_outright_runs_here_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLICYGUARD_BASE_URL", "http://127.0.0.1:9/v1")
    assert Guard("pictosafe/l3", model="pico").backend.model.backend == "transformers"
    assert Guard("pictosafe/l3", model="other").backend.model.backend == "openai-compatible"


def test_backend_and_model_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        Guard(policy(), backend=FakeBackend(), model="pico")


def test_timings_are_told() -> None:
    verdict = Guard(policy(), backend=FakeBackend(delay=0.05)).check(picture())
    assert 0.05 <= verdict.evidence.timings.model <= verdict.evidence.timings.total


def test_a_fake_names_a_rule_that_only_flags_though_others_block() -> None:
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
        {"id": "faces", "title": "Faces", "unsafe": ["a face"], "action": "flag"},
    ]
    house = parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": rules})
    found = [
        Guard(house, backend=FakeBackend(0.97, rules={rule: 1.0})).check(picture()).action
        for rule in ("faces", "arms")
    ]
    assert found == [Action.FLAG, Action.BLOCK]


def test_a_fake_that_is_given_no_answer_it_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="FakeBackend answers with a score"):
        FakeBackend("faces")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"wepons": 1.0}, "no rule 'wepons' in 'p'\n  hint: did you mean 'weapons'?"),
        ({"weapons": 0.9, "cats": 0.1}, "no rule 'cats' in 'p'\n  hint: there are weapons"),
    ],
)
def test_a_fake_that_names_a_rule_which_no_policy_has_is_refused(names: dict[str, float], said: str) -> None:
    """It answered 0 for a name that was mistyped, so that a test of a refusal passed without one."""
    house = policy(rules=[{"id": "weapons", "title": "Weapons", "unsafe": ["a weapon"]}])
    guard = Guard(house, backend=FakeBackend(0.97, rules=names))
    with pytest.raises(ConfigurationError) as error:
        guard.check(picture())
    assert str(error.value).endswith(said)


@pytest.mark.parametrize("names", [{}, ["faces"], "faces"])
def test_a_fake_whose_rules_have_no_shares_is_refused(names: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a share for each of some rules"):
        FakeBackend(0.97, rules=names)


def test_a_fake_may_name_rules_of_several_policies_and_exempt_ones() -> None:
    smoke = {"id": "smoke", "title": "Smoke", "unsafe": ["smoke"], "status": "exempt"}
    one, other = policy(), policy(id="q", rules=[smoke, smoke | {"id": "fire", "status": "active"}])
    backend = FakeBackend(0.97, rules={"arms": 0.5, "smoke": 0.5})
    first, second = Guard(one, backend=backend), Guard(other, backend=backend)
    outcomes = [
        guard.check(picture()).outcome for guard in (first, second, Guard([one, other], backend=backend))
    ]
    assert outcomes == [Outcome.VIOLATES, Outcome.COMPLIES, Outcome.VIOLATES]


def test_a_fake_keeps_the_last_requests_and_no_more_of_their_pixels_than_it_says() -> None:
    backend = FakeBackend()
    guard = Guard(policy(), backend=backend, timeout=None)
    for count in range(12):
        guard.check(Pictures.new("RGB", (2000, 1000 + count)))
    kept = [request.frame.height for request in backend.requests]
    assert kept == list(range(1001, 1012))  # of 6 MB each, 64 MiB hold 11
    assert 1100 == len(list(guard.check_many([picture(shade) for shade in range(1100)])))
    assert len(backend.requests) == 1000
    assert {16} == {request.frame.height for request in backend.requests}


def test_a_fake_keeps_its_last_request_however_large() -> None:
    backend = FakeBackend()
    guard = Guard(policy(), backend=backend, timeout=None)
    for height in (5000, 5001):
        guard.check(Pictures.new("RGB", (5000, height)))
    assert [5001] == [request.frame.height for request in backend.requests]
    backend.requests.clear()
    guard.check(picture())
    assert [16] == [request.frame.height for request in backend.requests]
