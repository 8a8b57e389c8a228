"""Judges the images of one payload.

Covered: every site gets a verdict. What cannot be read, fetched or found is UNSCANNABLE, what the guard fails
on is ERROR, and the policies' ``outcomes`` decide on both (default: block). Equal images are judged once.
Not covered: where images stand (``extract``) and what becomes of a blocked payload (the integrations).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from policyguard.checking.telemetry import watching
from policyguard.errors import ConfigurationError, FetchError, UsageError
from policyguard.integrations.extract import SiteKind
from policyguard.integrations.screen.memo import Memo
from policyguard.integrations.screen.plan import Plan
from policyguard.integrations.screen.result import ScreenResult
from policyguard.strict.arguments import InOneProcess

if TYPE_CHECKING:
    from policyguard.checking.checker import Normalise
    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetched, Fetcher
    from policyguard.integrations.extract import ImageSite
    from policyguard.integrations.screen.altered import PassOn
    from policyguard.integrations.screen.memo import FileLedger

__all__ = ["Screen"]

_AT_ONCE = 8
_MAX_FETCHED = 64 * 2**20
_HEAVY = 2**18  # bytes from which hashing is no work for an event loop


def require_guard(guard: object) -> None:
    """Raises ConfigurationError unless ``guard`` is a Guard."""
    from policyguard.guard import Guard

    if isinstance(guard, Guard):
        return
    what = f"the class {guard.__name__}" if isinstance(guard, type) else f"a {type(guard).__name__}"
    policy = repr(guard) if isinstance(guard, str) and guard else "'pictosafe/l3'"
    raise ConfigurationError(f"a Guard is expected, not {what}", hint=f"make one: Guard(policy={policy})")


def require_fetcher(fetcher: object) -> None:
    """Raises ConfigurationError unless ``fetcher`` can be asked for images."""
    if isinstance(fetcher, type) or not callable(getattr(fetcher, "fetch", None)):
        what = getattr(fetcher, "__name__", None) or f"a {type(fetcher).__name__}"
        raise ConfigurationError(
            "a fetcher is an object with a method fetch(url) that gives a Fetched (for event loops "
            f"also async afetch(url), if that shall take no thread), and {what} is none",
            hint="policyguard.images.fetch.Fetcher(...) is one; docs/coverage.md shows one for tests",
        )


def _checked(fetched: object) -> Fetched | FetchError:
    """What a fetcher gave, if it is what it should be: a mistake in it never passes for an image."""
    from policyguard.images.fetch import Fetched

    if not isinstance(fetched, Fetched) or not isinstance(fetched.data, bytes):
        what = type(fetched.data if isinstance(fetched, Fetched) else fetched).__name__
        return FetchError(f"the fetcher gave {what}, and no Fetched(data, media_type, final_url) of bytes")
    return fetched


class Screen(InOneProcess):
    """Judges the images that ``find_images`` found in one payload.

    Args:
        guard: judges; also decides, through its policies' ``outcomes``, what happens to what it cannot judge.
        urls: ``"reject"`` (an image by URL is UNSCANNABLE) or ``"fetch"``.
        links: images that words link to: ``"pass"`` (not counted, and never fetched) or ``"block"``
            (UNSCANNABLE).
        fetcher: fetches them; default: ``Fetcher()``, which takes public https addresses only. At most
            64 MiB are fetched for one payload; images beyond are UNSCANNABLE.
        files: file ids whose upload was judged; all others are UNSCANNABLE.
        max_images: images of one payload that are judged; the rest is UNSCANNABLE.
        pass_on: what is forwarded of an image that may pass: ``"judged"`` (where viewers may show its file
            otherwise than it was judged, a plain PNG or JPEG of what was judged) or ``"original"``.
        documents: ``"block"`` (PDF, office files and films are UNSCANNABLE) or ``"pass"``: they are not
            looked at, and what they show reaches the model unjudged.
        watch: the caller stops nothing: results and telemetry are marked so.

    Thread-safe. Raises ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        urls: Literal["reject", "fetch"] = "reject",
        links: Literal["pass", "block"] = "pass",
        fetcher: Fetcher | None = None,
        files: FileLedger | None = None,
        max_images: int = 100,
        documents: Literal["block", "pass"] = "block",
        watch: bool = False,
        pass_on: PassOn = "judged",
    ) -> None:
        require_guard(guard)
        if documents not in ("block", "pass"):
            raise ConfigurationError(f"documents is {documents!r}; it must be 'block' or 'pass'")
        if links not in ("pass", "block"):
            raise ConfigurationError(f"links is {links!r}; it must be 'pass' or 'block'")
        if urls not in ("reject", "fetch"):
            raise ConfigurationError(f"urls is {urls!r}; it must be 'reject' or 'fetch'")
        if fetcher is not None and urls != "fetch":
            raise ConfigurationError("a fetcher is given, and nothing is fetched", hint="add urls='fetch'")
        if fetcher is not None:
            require_fetcher(fetcher)
        if urls == "fetch" and fetcher is None:
            from policyguard.images.fetch import Fetcher

            fetcher = Fetcher()
        self.guard, self.files, self.max_images = guard, files, max_images
        self._fetcher, self._watch = fetcher, watch
        from policyguard.integrations.screen.altered import plain_files  # loads PIL

        self._plain_files = plain_files(
            pass_on, sample=any(policy.frames == "sample" for policy in guard.policies)
        )
        self._passing = {
            *((SiteKind.DOCUMENT,) if documents == "pass" else ()),
            *((SiteKind.LINK,) if links == "pass" else ()),
        }

    def screen(
        self, sites: Sequence[ImageSite], *, memo: Memo | None = None, watched: bool | None = None
    ) -> ScreenResult:
        """One verdict per site, in order. ``memo`` spans the payloads of one run; ``watched`` overrides
        ``watch``. Raises UsageError only.

        Documents and links that may pass have no verdict, and are not counted.
        """
        sites, watched = self.judged(sites), self._watch if watched is None else watched
        if not sites:
            return ScreenResult(watched=watched)
        plan = self._plan(sites, memo)
        if plan.urls:
            self._fetch(plan)
        left = list(plan.waiting)
        images = [data for data, _ in plan.waiting.values()]
        try:
            with watching(watched):
                files = None if watched else self._plain_files
                normalise: Normalise = "unless plain" if files else False
                # One image needs none of the threads that read ahead for many.
                for verdict in (
                    [self.guard.check(image, normalise=normalise) for image in images]
                    if len(images) < 2
                    else self.guard.check_many(images, normalise=normalise)
                ):
                    plan.judged(left.pop(0), verdict, files)
        except Exception as error:
            if isinstance(error, UsageError) and not watched:
                raise
            plan.failed(left, error)
        else:
            plan.failed(left, RuntimeError("it gave no verdict"))
        return plan.result(self._plain_files, watched=watched)

    def known(self, sites: Sequence[ImageSite], *, memo: Memo) -> ScreenResult | None:
        """The result, if neither the model nor the network is needed for it."""
        sites = self.judged(sites)
        plan = self._plan(sites, memo)
        return None if plan.waiting or plan.urls else plan.result(self._plain_files)

    def judged(self, sites: Sequence[ImageSite]) -> Sequence[ImageSite]:
        """The sites without the documents and links that may pass, and files known to hold no image."""
        return [
            site
            for site in sites
            if site.kind not in self._passing
            and not (site.file_id and self.files is not None and self.files.holds_no_image(site.file_id))
        ]

    async def ascreen(
        self, sites: Sequence[ImageSite], *, memo: Memo | None = None, watched: bool | None = None
    ) -> ScreenResult:
        """``screen``, without blocking the event loop."""
        sites, watched = self.judged(sites), self._watch if watched is None else watched
        if not sites:
            return ScreenResult(watched=watched)
        if sum(len(site.data or b"") for site in sites) > _HEAVY:
            plan = await asyncio.to_thread(self._plan, sites, memo)
        else:
            plan = self._plan(sites, memo)
        if plan.urls:
            await self._afetch(plan)
        left = list(plan.waiting)
        images = [data for data, _ in plan.waiting.values()]
        try:
            with watching(watched):
                files = None if watched else self._plain_files
                normalise: Normalise = "unless plain" if files else False
                async for verdict in self.guard.acheck_many(images, normalise=normalise):
                    plan.judged(left.pop(0), verdict, files)
        except Exception as error:
            if isinstance(error, UsageError) and not watched:
                raise
            plan.failed(left, error)
        else:
            plan.failed(left, RuntimeError("it gave no verdict"))
        if self._plain_files is None or watched:
            return plan.result(None, watched=watched)
        return await asyncio.to_thread(plan.result, self._plain_files)

    def _plan(self, sites: Sequence[ImageSite], memo: Memo | None) -> Plan:
        plan = Plan(self.guard, sites, Memo() if memo is None else memo)
        plan.read(fetch=self._fetcher is not None, files=self.files, max_images=self.max_images)
        return plan

    def _fetch(self, plan: Plan) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="policyguard-fetch") as pool:
            for wave in _waves(plan):
                for url, result in zip(wave, pool.map(self._fetched, wave), strict=True):
                    plan.fetched(url, result)

    async def _afetch(self, plan: Plan) -> None:
        for wave in _waves(plan):
            results = await asyncio.gather(*(self._afetched(url) for url in wave))
            for url, result in zip(wave, results, strict=True):
                plan.fetched(url, result)

    def _fetched(self, url: str) -> Fetched | FetchError:
        assert self._fetcher is not None
        try:
            return _checked(self._fetcher.fetch(url))
        except FetchError as error:
            return error
        except UsageError:
            raise
        except Exception as error:  # a fetcher of the caller's own
            return FetchError(f"{type(error).__name__}: {error}")

    async def _afetched(self, url: str) -> Fetched | FetchError:
        assert self._fetcher is not None
        try:
            if hasattr(self._fetcher, "afetch"):
                return _checked(await self._fetcher.afetch(url))
            return _checked(await asyncio.to_thread(self._fetcher.fetch, url))
        except FetchError as error:
            return error
        except UsageError:
            raise
        except Exception as error:
            return FetchError(f"{type(error).__name__}: {error}")


def _waves(plan: Plan) -> Iterator[list[str]]:
    """The addresses in groups that are fetched at once, until what came back is too much to hold."""
    urls = list(plan.urls)
    for start in range(0, len(urls), _AT_ONCE):
        wave = urls[start : start + _AT_ONCE]
        if plan.downloaded > _MAX_FETCHED:
            for url in wave:
                plan.fetched(
                    url, FetchError(f"more than {_MAX_FETCHED >> 20} MiB were fetched for one payload")
                )
        else:
            yield wave
