"""Every image gets a verdict, and what could not be judged blocks."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from typing import Any

import pytest
from PIL import Image as pil  # noqa: N813 (the module)

from policyguard import Action, ConfigurationError, Guard, Outcome
from policyguard.assessment import Failure, FailureKind
from policyguard.images.fetch import Fetched, FetchError
from policyguard.integrations.extract import ImageSite, ProviderRefusal, SiteKind, find_images
from policyguard.integrations.screen import FileLedger, Memo, Screen, ScreenResult
from policyguard.testing import FakeBackend

POLICY = """
id: house
version: 1.0.0
title: House
rules:
  - id: red
    title: Red
    description: Things that are red.
    unsafe: [red things]
"""


def png(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    pil.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def inline(*images: bytes) -> list[ImageSite]:
    return [ImageSite(f"/{n}", SiteKind.INLINE, data=data) for n, data in enumerate(images)]


def guard_of(backend: Any, policy: Any = "safeedit/l3") -> Guard:
    return Guard(policy=policy, backend=backend)


def run(screen: Screen, sites: list[ImageSite], how: str, memo: Memo | None = None) -> ScreenResult:
    if how == "sync":
        return screen.screen(sites, memo=memo)
    return asyncio.run(screen.ascreen(sites, memo=memo))


both = pytest.mark.parametrize("how", ["sync", "async"])


class Pictures:
    """A fetcher whose answers a test sets; it counts what it is asked for."""

    def __init__(self, answers: dict[str, bytes | Exception]) -> None:
        self.answers, self.asked = answers, list[str]()

    def fetch(self, url: str) -> Fetched:
        self.asked.append(url)
        answer = self.answers[url]
        if isinstance(answer, Exception):
            raise answer
        return Fetched(answer, "text/plain", url)

    async def afetch(self, url: str) -> Fetched:
        return self.fetch(url)


def by_url(*urls: str) -> list[ImageSite]:
    return [ImageSite(f"/{n}", SiteKind.URL, url=url) for n, url in enumerate(urls)]


@both
def test_each_image_gets_its_own_verdict_in_order(how: str) -> None:
    backend = FakeBackend(lambda request: 0.9 if request.frame.getpixel((0, 0))[0] == 1 else 0.1)
    result = run(Screen(guard_of(backend)), inline(png(0), png(1), png(2)), how)
    assert [item.verdict.outcome for item in result.items] == [
        Outcome.COMPLIES,
        Outcome.VIOLATES,
        Outcome.COMPLIES,
    ]
    assert [item.verdict.source for item in result.items] == ["/0", "/1", "/2"]
    assert (result.images_seen, result.images_checked) == (3, 3)
    assert result.action is Action.BLOCK
    assert [item.site.where for item in result.blocked] == ["/1"]


@both
def test_a_payload_without_images_is_allowed_and_asks_nothing(how: str) -> None:
    backend = FakeBackend()
    result = run(Screen(guard_of(backend)), [], how)
    assert result.allowed
    assert (result.images_seen, result.images_checked, backend.calls) == (0, 0, 0)


@both
@pytest.mark.parametrize(
    "site",
    [
        ImageSite("/x", SiteKind.UNREADABLE, problem="is broken"),
        ImageSite("/x", SiteKind.URL, url="https://e.example/x"),
        ImageSite("/x", SiteKind.FILE, file_id="file-1"),
        ImageSite("/x", SiteKind.INLINE, data=b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ImageSite("/x", SiteKind.INLINE, data=png()[:40]),
        ImageSite("/x", SiteKind.INLINE),
        ImageSite("/x", SiteKind.URL),
    ],
    ids=lambda site: str(site.kind),
)
def test_what_cannot_be_read_blocks_and_does_not_count_as_checked(site: ImageSite, how: str) -> None:
    backend = FakeBackend()
    result = run(Screen(guard_of(backend)), [*inline(png()), site], how)
    assert result.items[1].verdict.outcome is Outcome.UNSCANNABLE
    assert result.items[1].verdict.reason
    assert not result.allowed
    assert (result.images_seen, result.images_checked) == (2, 1)


@both
def test_the_policy_decides_what_happens_to_what_cannot_be_read(how: str, tmp_path: Any) -> None:
    path = tmp_path / "house.yaml"
    path.write_text(POLICY + "outcomes: {unscannable: flag}\n")
    guard = guard_of(FakeBackend(), path)
    result = run(Screen(guard), [ImageSite("/x", SiteKind.UNREADABLE, problem="is broken")], how)
    assert result.action is Action.FLAG
    assert result.items[0].verdict.degraded


@both
@pytest.mark.parametrize(
    "answer", [Failure(FailureKind.ERROR, "down"), RuntimeError("boom"), Failure(FailureKind.REFUSED, "no")]
)
def test_a_guard_that_is_down_blocks(answer: Any, how: str) -> None:
    result = run(Screen(guard_of(FakeBackend(answer))), inline(png(0), png(1)), how)
    assert result.action is Action.BLOCK
    assert result.images_checked == 0
    assert len(result.blocked) == 2


@both
def test_a_guard_that_breaks_down_midway_blocks_what_is_left(how: str) -> None:
    class Broken(Guard):
        def check_many(self, images: Any, **options: Any) -> Any:
            yield self.check(images[0])
            raise OSError("disk")

        async def acheck_many(self, images: Any, **options: Any) -> Any:
            yield await self.acheck(images[0])
            raise OSError("disk")

    result = run(Screen(Broken("safeedit/l3", backend=FakeBackend())), inline(png(0), png(1), png(2)), how)
    assert [item.verdict.outcome for item in result.items] == [Outcome.COMPLIES, Outcome.ERROR, Outcome.ERROR]


@both
def test_a_guard_that_gives_too_few_verdicts_blocks_the_rest(how: str) -> None:
    class Short(Guard):
        def check_many(self, images: Any, **options: Any) -> Any:
            yield self.check(images[0])

        async def acheck_many(self, images: Any, **options: Any) -> Any:
            yield await self.acheck(images[0])

    result = run(Screen(Short("safeedit/l3", backend=FakeBackend())), inline(png(0), png(1)), how)
    assert [item.verdict.outcome for item in result.items] == [Outcome.COMPLIES, Outcome.ERROR]


@both
def test_a_wrong_set_up_raises(how: str) -> None:
    screen = Screen(guard_of(FakeBackend(ConfigurationError("no such model"))))
    with pytest.raises(ConfigurationError, match="no such model"):
        run(screen, inline(png()), how)


@pytest.mark.parametrize("options", [{"urls": "maybe"}, {"fetcher": Pictures({})}])
def test_settings_that_cannot_work_raise(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Screen(guard_of(FakeBackend()), **options)


@both
def test_equal_images_are_judged_once(how: str) -> None:
    backend = FakeBackend(preferred_batch=1)
    result = run(Screen(guard_of(backend)), inline(png(0), png(1), png(0), png(0)), how)
    assert backend.calls == 2
    assert (result.images_seen, result.images_checked) == (4, 4)


@both
def test_images_beyond_the_bound_block_and_are_not_judged(how: str) -> None:
    backend = FakeBackend(preferred_batch=1)
    result = run(Screen(guard_of(backend), max_images=3), inline(*map(png, range(5))), how)
    assert backend.calls == 0  # nothing is judged for a block that is certain
    assert [item.verdict.outcome for item in result.items] == [Outcome.UNSCANNABLE] * 5
    assert "max_images is 3" in str(result.items[0].verdict.reason)


@both
def test_a_memo_spans_a_run_and_remembers_an_outage(how: str) -> None:
    backend = FakeBackend().enqueue(Failure(FailureKind.ERROR, "down"))
    screen, memo = Screen(guard_of(backend)), Memo()
    for _ in range(3):
        result = run(screen, inline(png()), how, memo)
        assert result.items[0].verdict.outcome is Outcome.ERROR
    assert backend.calls == 1
    assert run(screen, inline(png()), how, Memo()).allowed
    assert run(screen, inline(png()), how).allowed


def test_a_memo_is_not_shared_between_guards() -> None:
    memo, strict, mild = Memo(), FakeBackend(0.9), FakeBackend(0.1)
    assert Screen(guard_of(mild)).screen(inline(png()), memo=memo).allowed
    assert not Screen(guard_of(strict)).screen(inline(png()), memo=memo).allowed


def test_a_memo_forgets_what_was_used_longest_ago() -> None:
    backend, memo = FakeBackend(), Memo(max_entries=2)
    screen = Screen(guard_of(backend))
    for number in (0, 1, 0, 2, 0, 1):
        screen.screen(inline(png(number)), memo=memo)
    assert (backend.calls, len(memo)) == (4, 2)


@both
def test_a_file_whose_upload_was_judged_gets_that_verdict(how: str) -> None:
    guard, files = guard_of(FakeBackend(0.9)), FileLedger()
    files.remember("file-1", guard.check(png()))
    files.remember("file-2", guard_of(FakeBackend(0.1)).check(png()))
    sites = [ImageSite(f"/{n}", SiteKind.FILE, file_id=f"file-{n}") for n in (1, 2, 3)]
    result = run(Screen(guard, files=files), sites, how)
    outcomes = [item.verdict.outcome for item in result.items]
    assert outcomes == [Outcome.VIOLATES, Outcome.COMPLIES, Outcome.UNSCANNABLE]
    assert result.images_checked == 2


def test_a_file_that_was_judged_under_another_policy_blocks() -> None:
    files = FileLedger()
    files.remember("file-1", guard_of(FakeBackend(0.1), "safeedit/l1").check(png()))
    result = Screen(guard_of(FakeBackend()), files=files).screen(
        [ImageSite("/f", SiteKind.FILE, file_id="file-1")]
    )
    assert result.items[0].verdict.outcome is Outcome.UNSCANNABLE


def test_the_ledger_forgets_what_was_used_longest_ago_and_takes_many_threads() -> None:
    verdict, files = guard_of(FakeBackend()).check(png()), FileLedger(max_entries=50)

    def work(base: int) -> None:
        for number in range(200):
            files.remember(f"{base}-{number}", verdict)
            files.lookup(f"{base}-{number // 2}")

    threads = [threading.Thread(target=work, args=(base,)) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files) == 50
    assert files.lookup("0-0") is None


@both
def test_fetched_bytes_are_judged_and_handed_back(how: str) -> None:
    fetcher = Pictures({"https://e.example/a": png(1), "https://e.example/b": FetchError("not public")})
    backend = FakeBackend(0.1)
    screen = Screen(guard_of(backend), urls="fetch", fetcher=fetcher)  # type: ignore[arg-type]
    result = run(screen, by_url("https://e.example/a", "https://e.example/b", "https://e.example/a"), how)
    first, second, third = result.items
    assert first.verdict.outcome is third.verdict.outcome is Outcome.COMPLIES
    assert (first.fetched, first.fetched_type) == (third.fetched, third.fetched_type) == (png(1), "image/png")
    assert (second.verdict.outcome, second.fetched) == (Outcome.UNSCANNABLE, None)
    assert "not public" in str(second.verdict.reason)
    assert len(fetcher.asked) == 2
    assert backend.calls == 1


@both
@pytest.mark.parametrize("wrong", [FetchError("late"), OSError("x"), KeyError("y")])
def test_whatever_goes_wrong_while_fetching_blocks(wrong: Exception, how: str) -> None:
    screen = Screen(guard_of(FakeBackend()), urls="fetch", fetcher=Pictures({"https://e.example/a": wrong}))  # type: ignore[arg-type]
    assert not run(screen, by_url("https://e.example/a"), how).allowed


class Odd(Pictures):
    """Gives what is no Fetched."""

    def __init__(self, answer: Any) -> None:
        super().__init__({})
        self.answer = answer

    def fetch(self, url: str) -> Any:
        return self.answer

    async def afetch(self, url: str) -> Any:
        return self.answer


class Plain:
    """A fetcher for blocking calls only."""

    def fetch(self, url: str) -> Fetched:
        return Fetched(png(1), "image/png", url)


@both
def test_a_fetcher_needs_no_method_for_event_loops(how: str) -> None:
    screen = Screen(guard_of(FakeBackend(0.1)), urls="fetch", fetcher=Plain())  # type: ignore[arg-type]
    assert run(screen, by_url("https://e.example/a"), how).images_checked == 1


@both
@pytest.mark.parametrize("answer", [png(1), None, "text", Fetched(None, "image/png", "x")])  # type: ignore[arg-type]
def test_what_a_fetcher_gives_wrongly_blocks(answer: Any, how: str) -> None:
    screen = Screen(guard_of(FakeBackend()), urls="fetch", fetcher=Odd(answer))  # type: ignore[arg-type]
    (item,) = run(screen, by_url("https://e.example/a"), how).items
    assert (item.verdict.outcome, item.verdict.action) == (Outcome.UNSCANNABLE, Action.BLOCK)
    assert "Fetched" in str(item.verdict.reason)


@pytest.mark.parametrize(
    "fetcher", [lambda url: png(1), Pictures, object(), "https", type("F", (), {"fetch": 1})()]
)
def test_what_is_no_fetcher_is_refused_at_once(fetcher: Any) -> None:
    with pytest.raises(ConfigurationError, match="fetch") as caught:
        Screen(guard_of(FakeBackend()), urls="fetch", fetcher=fetcher)
    assert "afetch" in str(caught.value)


@both
def test_a_failed_fetch_is_not_tried_again_in_one_run_and_a_good_one_is_fetched_anew(how: str) -> None:
    fetcher = Pictures({"https://e.example/a": png(1), "https://e.example/b": FetchError("late")})
    backend, memo = FakeBackend(0.1), Memo()
    screen = Screen(guard_of(backend), urls="fetch", fetcher=fetcher)  # type: ignore[arg-type]
    for _ in range(3):
        run(screen, by_url("https://e.example/a", "https://e.example/b"), how, memo)
    assert fetcher.asked.count("https://e.example/a") == 3
    assert fetcher.asked.count("https://e.example/b") == 1
    assert backend.calls == 1


@both
def test_no_more_is_fetched_for_one_payload_than_fits_in_memory(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policyguard.integrations.screen.engine._MAX_FETCHED", 100)
    answers: dict[str, bytes | Exception] = {f"https://e.example/{n}": png(n) for n in range(20)}
    fetcher = Pictures(answers)
    screen = Screen(guard_of(FakeBackend()), urls="fetch", fetcher=fetcher)  # type: ignore[arg-type]
    result = run(screen, by_url(*answers), how)
    assert len(fetcher.asked) == 8
    assert len(result.blocked) == 12


def test_reports_are_json_and_hold_no_picture() -> None:
    payload = {"content": [{"type": "image", "data": list(png())}, {"image_url": "ü" * 50}]}
    result = Screen(guard_of(FakeBackend(0.9))).screen(find_images(payload))
    report = json.dumps(result.to_dict())
    assert json.loads(report)["images_seen"] == 2
    assert len(report) < 10_000


def test_the_header_is_one_short_line_of_ascii() -> None:
    sites = [ImageSite("/ü\r\n" * 99, SiteKind.UNREADABLE, problem="x") for _ in range(99)]
    result = Screen(guard_of(FakeBackend(0.9))).screen([*inline(png()), *sites])
    header = result.with_refusals([ProviderRefusal("/a", "openai", "b")]).header()
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 1000
    said = json.loads(header)
    assert (said["action"], said["images_seen"], said["images_checked"]) == ("block", 100, 1)
    assert said["provider_refused"] == 1


def test_the_header_names_the_rules_that_are_broken() -> None:
    said = json.loads(Screen(guard_of(FakeBackend(0.9))).screen(inline(png())).header())
    assert said["items"][0]["where"] == "/0"
    assert said["items"][0]["rules"]


def test_many_payloads_at_once_miss_no_image() -> None:
    backend = FakeBackend(lambda request: 0.9 if request.frame.getpixel((0, 0))[0] % 3 == 0 else 0.1)
    screen, memo = Screen(guard_of(backend)), Memo()

    async def all_of_them() -> list[ScreenResult]:
        return await asyncio.gather(
            *(screen.ascreen(inline(png(n), png(n + 1)), memo=memo) for n in range(60))
        )

    for number, result in enumerate(asyncio.run(all_of_them())):
        assert [item.verdict.allowed for item in result.items] == [number % 3 != 0, (number + 1) % 3 != 0]
