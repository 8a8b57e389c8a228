"""The gate hands out only what the guard allows, tells the generator why, and knows when to stop."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pictures

from cli.support import house_rules, picture, red
from images.support import exif
from integrations.http.pictures import data_uri
from policyguard import Guard, Outcome, PolicyViolation
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import BackendError, ConfigurationError
from policyguard.images import decode
from policyguard.integrations.gate import Attempt, GateResult, agate, gate
from policyguard.testing import FakeBackend

GOOD, BAD = picture(0), picture(255)
DOWN = Failure(FailureKind.ERROR, "the server is down", retryable=True)
UNSURE = Assessment(Rating.UNDECIDED)


def guard(backend: FakeBackend | None = None, **policy: Any) -> Guard:
    return Guard(house_rules(**policy), backend=backend or FakeBackend(red))


class Made:
    """A generator that makes the given images one after the other, and remembers what it was told."""

    def __init__(self, *images: object) -> None:
        self.images = images
        self.told: list[tuple[str | None, int]] = []

    def __call__(self, hint: str | None, attempt: int) -> object:
        self.told.append((hint, attempt))
        return self.images[min(attempt, len(self.images)) - 1]


class Awaited(Made):
    async def __call__(self, hint: str | None, attempt: int) -> object:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().__call__(hint, attempt)


def run_sync(generate: Made, *args: Any, **options: Any) -> GateResult:
    return gate(generate, *args, **options)


def run_async(generate: Made, *args: Any, **options: Any) -> GateResult:
    return asyncio.run(agate(Awaited(*generate.images), *args, **options))


def run_async_with_a_plain_function(generate: Made, *args: Any, **options: Any) -> GateResult:
    return asyncio.run(agate(generate, *args, **options))


@pytest.fixture(params=[run_sync, run_async, run_async_with_a_plain_function])
def run(request: pytest.FixtureRequest) -> Callable[..., GateResult]:
    chosen: Callable[..., GateResult] = request.param
    return chosen


def test_an_allowed_image_comes_out_as_it_went_in_after_one_attempt(run: Callable[..., GateResult]) -> None:
    result = run(Made(GOOD), guard())
    assert result.accepted
    assert result.image is GOOD
    assert (1, ()) == (len(result.attempts), result.attempts[0].discarded)


def test_a_blocked_image_is_never_returned_and_the_next_one_is(run: Callable[..., GateResult]) -> None:
    result = run(Made(BAD, GOOD), guard())
    assert (GOOD,) == result.images
    assert "breaks Arms" in result.attempts[0].discarded[0]


def test_it_gives_up_with_the_last_verdict_and_no_image(run: Callable[..., GateResult]) -> None:
    result = run(Made(BAD), guard(), attempts=2)
    assert (None, False, 2) == (result.image, result.accepted, len(result.attempts))
    assert result.verdict is not None
    assert Outcome.VIOLATES is result.verdict.outcome


def test_giving_up_raises_where_that_is_asked_for(run: Callable[..., GateResult]) -> None:
    with pytest.raises(PolicyViolation) as caught:
        run(Made(BAD), guard(), raise_=True)
    assert Outcome.VIOLATES is caught.value.verdict.outcome


def test_an_allowed_image_raises_nothing(run: Callable[..., GateResult]) -> None:
    assert run(Made(GOOD), guard(), raise_=True).accepted


def test_the_hint_names_the_broken_rules_in_the_policy_s_words_and_the_first_call_gets_none() -> None:
    generate = Made(BAD, GOOD)
    gate(
        generate,
        guard(
            rules=[{"id": "arms", "title": "Arms", "description": "Nothing that shoots.", "unsafe": ["guns"]}]
        ),
    )
    (first, _), (second, number) = generate.told
    assert (None, 2) == (first, number)
    assert second is not None
    assert "Arms: Nothing that shoots." in second


def test_a_hint_of_one_s_own_sees_all_attempts_and_reaches_the_next_call() -> None:
    seen: list[int] = []

    def hint(attempts: Sequence[Attempt]) -> str:
        seen.append(len(attempts))
        return f"not {attempts[-1].findings[0].title}"

    generate = Made(BAD, BAD, GOOD)
    gate(generate, guard(), hint=hint)
    assert [None, "not Arms", "not Arms"] == [told for told, _ in generate.told]
    assert [1, 2] == seen


def test_without_hints_none_are_given() -> None:
    generate = Made(BAD)
    gate(generate, guard(), hint=None)
    assert [(None, 1), (None, 2), (None, 3)] == generate.told


def test_a_hint_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="hint must give a text or None, not a int"):
        gate(Made(BAD), guard(), hint=len)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [UNSURE, Failure(FailureKind.REFUSED, "I would rather not")])
def test_an_image_that_could_not_be_judged_counts_as_an_attempt_and_gives_no_hint(
    run: Callable[..., GateResult], answer: Assessment | Failure
) -> None:
    generate = Made(GOOD)
    result = run(generate, guard(FakeBackend(answer)), attempts=4)
    assert (False, 4) == (result.accepted, len(result.attempts))
    assert {None} == {attempt.hint for attempt in result.attempts}
    assert "could not be judged" in result.attempts[0].discarded[0]


def test_bytes_that_are_no_image_are_discarded(run: Callable[..., GateResult]) -> None:
    result = run(Made(b"no image", GOOD), guard())
    assert (GOOD,) == result.images
    assert "unscannable" in result.attempts[0].discarded[0]


def test_an_outage_of_the_guard_ends_it_early(run: Callable[..., GateResult]) -> None:
    result = run(Made(GOOD), guard(FakeBackend(DOWN)), attempts=50)
    assert (False, 2) == (result.accepted, len(result.attempts))
    assert "the guard model failed 2 times in a row" == result.stopped


def test_one_failure_of_the_guard_does_not_end_it(run: Callable[..., GateResult]) -> None:
    result = run(Made(GOOD), guard(FakeBackend(0.0).enqueue(DOWN)))
    assert (True, 2) == (result.accepted, len(result.attempts))


def test_a_hint_outlives_an_attempt_that_nothing_was_learnt_from() -> None:
    generate = Made(BAD, GOOD)
    gate(generate, guard(FakeBackend(0.0).enqueue(0.9, UNSURE)))
    hints = [hint for hint, _ in generate.told]
    assert hints[1] is not None
    assert hints[1] == hints[2]


def test_one_blocked_image_of_several_discards_them_all(run: Callable[..., GateResult]) -> None:
    result = run(Made([GOOD, BAD], [GOOD, GOOD]), guard())
    assert (GOOD, GOOD) == result.images
    assert ["image 1 of 2: allowed, and discarded with the others", "image 2 of 2: block"] == [
        line.partition(" (")[0] for line in result.attempts[0].discarded
    ]


def test_only_the_allowed_ones_of_several_are_kept_where_that_is_asked_for(
    run: Callable[..., GateResult],
) -> None:
    result = run(Made((GOOD, BAD)), guard(), keep="allowed")
    assert ((GOOD,), True, 1) == (result.images, result.accepted, len(result.attempts))
    assert 1 == len(result.attempts[0].discarded)


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_no_image_is_a_failed_attempt_and_never_a_success(
    run: Callable[..., GateResult], nothing: object
) -> None:
    for keep in ("all", "allowed"):
        result = run(Made(nothing), guard(), keep=keep)
        assert (False, None, 3) == (result.accepted, result.verdict, len(result.attempts))
        assert ("no image was generated",) == result.attempts[0].discarded
    with pytest.raises(BackendError, match="no image was generated in 3 attempts"):
        run(Made(nothing), guard(), raise_=True)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), StopIteration(3)])
def test_what_the_generator_raises_is_raised_on_untouched(error: BaseException) -> None:
    def generate(hint: str | None, attempt: int) -> object:
        raise error

    with pytest.raises(type(error)) as caught:
        gate(generate, guard())
    assert error is caught.value


def test_what_an_asynchronous_generator_raises_is_raised_on_untouched() -> None:
    error = RuntimeError("out of memory")

    async def generate(hint: str | None, attempt: int) -> object:
        raise error

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(agate(generate, guard()))
    assert error is caught.value


def test_a_blocking_generator_does_not_block_the_event_loop() -> None:
    ticked = threading.Event()

    def generate(hint: str | None, attempt: int) -> object:
        ticked.wait()
        return GOOD

    async def main() -> GateResult:
        asyncio.get_running_loop().call_later(0.01, ticked.set)
        return await agate(generate, guard())

    assert asyncio.run(main()).accepted


def test_an_asynchronous_generator_in_the_synchronous_gate_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="generate is asynchronous"):
        gate(Awaited(GOOD), guard())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts must be a whole number from 1, not 0"),
        ({"attempts": True}, "attempts must be"),
        ({"attempts": 1.5}, "attempts must be"),
        ({"hint": "words"}, 'hint must be "rules", a function or None'),
        ({"keep": "some"}, 'keep must be "all" or "allowed"'),
    ],
)
def test_settings_that_cannot_work_are_refused_before_an_image_is_made(
    options: dict[str, Any], message: str
) -> None:
    generate = Made(GOOD)
    with pytest.raises(ConfigurationError, match=message):
        gate(generate, guard(), **options)
    assert not generate.told


def test_a_mistake_in_the_set_up_is_raised_and_not_retried() -> None:
    generate = Made(GOOD)
    with pytest.raises(ConfigurationError, match="wrong key"):
        gate(generate, guard(FakeBackend(ConfigurationError("wrong key"))))
    assert 1 == len(generate.told)


def test_an_image_let_through_unjudged_is_marked() -> None:
    result = gate(Made(GOOD), guard(FakeBackend(UNSURE), outcomes={"undecided": "allow"}))
    assert (True, True) == (result.accepted, result.degraded)


def test_the_report_says_what_was_thrown_away_and_why_and_holds_no_picture() -> None:
    result = gate(Made(BAD, b"no image", GOOD), guard())
    said = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [1, 1, 0] == [len(attempt["discarded"]) for attempt in said["attempts"]]
    assert (True, 1) == (said["accepted"], said["images"])
    assert said["attempts"][1]["hint"] == said["attempts"][2]["hint"] != said["attempts"][0]["hint"]
    assert base64.b64encode(BAD).decode()[:40] not in json.dumps(said)


def test_a_result_is_no_condition() -> None:
    with pytest.raises(TypeError, match=r"ask for result\.accepted"):
        bool(gate(Made(BAD), guard()))


def test_discarded_pictures_are_let_go() -> None:
    import gc
    import weakref

    alive: list[weakref.ref[Pictures.Image]] = []

    def generate(hint: str | None, attempt: int) -> object:
        image = Pictures.new("RGB", (8, 8), (255, 0, 0))
        alive.append(weakref.ref(image))
        return image

    backend = FakeBackend(red)
    result = gate(generate, guard(backend))
    backend.requests.clear()
    gc.collect()
    assert [None, None, None] == [reference() for reference in alive]
    assert not result.accepted


def test_the_gate_judges_with_the_packaged_model() -> None:
    images = {1: "examples/images/armoury.png", 2: "examples/images/picnic.png"}
    with Guard("pictosafe/l3", model="pico") as real:
        result = gate(lambda _, attempt: images[attempt], real)
    assert "examples/images/picnic.png" == result.image
    assert {"weapons"} == {finding.rule for finding in result.attempts[0].findings}


def test_the_pictures_of_pipelines_and_of_image_services_pass_through() -> None:
    """Shapes as of diffusers (``output.images``) and OpenAI's images endpoint (``data[].b64_json``)."""

    def red_only(request: AssessmentRequest) -> float:
        return red(request)

    pil = Pictures.open(io.BytesIO(GOOD))  # noqa: TID251 (a picture as a pipeline makes it)
    assert gate(lambda *_: [pil], guard(FakeBackend(red_only))).image is pil
    answer = json.loads(json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(GOOD).decode()}]}))
    result = gate(
        lambda *_: [base64.b64decode(item["b64_json"]) for item in answer["data"]],
        guard(FakeBackend(red_only)),
    )
    assert GOOD == result.image


@pytest.mark.parametrize("run", [run_sync, run_async])
def test_of_an_open_file_only_what_was_judged_is_handed_out(run: Callable[..., GateResult]) -> None:
    stream = io.BytesIO(BAD + GOOD)
    stream.seek(len(BAD))
    handed = run(Made(stream), guard()).image
    handed.seek(0)
    assert GOOD == handed.read()
    whole = run(Made(io.BytesIO(GOOD)), guard()).image
    assert GOOD == whole.read()  # and it stands at the beginning
    assert not run(Made(io.BytesIO(BAD)), guard(), attempts=1).accepted
    assert not run(Made(io.StringIO("text")), guard(), attempts=1).accepted


# --- What is handed out is what was judged -----------------------------------------------------------


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (12, 8), (0, 90, 7)).save(buffer, kind, **options)
    return buffer.getvalue()


TURNED, UPRIGHT = encoded("JPEG", exif=b"Exif\0\0" + exif(6)), encoded("JPEG", exif=b"Exif\0\0" + exif(1))
FORMS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "bytes": (bytes, bytes),
    "bytearray": (bytearray, bytes),
    "file": (io.BytesIO, lambda image: image.read()),
    "data URI": (data_uri, lambda image: base64.b64decode(image.partition(",")[2])),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["gate", "agate"])
def test_a_file_that_viewers_may_turn_is_handed_out_upright(form: str, way: str) -> None:
    make, read = FORMS[form]

    def result(data: bytes, **options: Any) -> Any:
        made = Made(make(data))
        if way == "gate":
            return gate(made, guard(), **options).image
        return asyncio.run(agate(made, guard(), **options)).image

    image = decode(read(result(TURNED)))
    assert ((8, 12), True, "JPEG") == (image.size, image.is_plain, image.format)
    assert TURNED == read(result(TURNED, pass_on="original"))
    assert UPRIGHT == read(result(UPRIGHT))


def test_paths_and_pixels_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(TURNED)
    pixels = Pictures.new("RGBA", (9, 9), (0, 80, 0, 255))
    for image in (path, str(path), pixels):
        assert gate(Made(image), guard()).image is image


def test_what_may_pass_unjudged_is_handed_out_as_it_is() -> None:
    result = gate(Made(b"no image"), guard(outcomes={"unscannable": "allow"}))
    assert (b"no image", True) == (result.image, result.degraded)


def test_a_word_that_pass_on_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pass_on is 'upright'"):
        gate(Made(GOOD), guard(), pass_on="upright")  # type: ignore[arg-type]
