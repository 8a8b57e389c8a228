"""Which of a payload's images need the model, which need the network, and which are answered already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from policyguard.assessment import Failure, FailureKind
from policyguard.errors import ImageError
from policyguard.integrations.extract import ImageSite, Replacement, SiteKind
from policyguard.integrations.extract.magic import sniff
from policyguard.integrations.screen.result import Screened, ScreenResult

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetched, FetchError
    from policyguard.integrations.screen.altered import PlainFiles
    from policyguard.integrations.screen.memo import FileLedger, Memo
    from policyguard.verdict import Verdict

__all__ = ["Plan"]


@dataclass(slots=True)
class Plan:
    """Fills in ``verdicts``, one per site, in steps: ``read``, ``fetched`` per URL, ``judged`` per image.

    ``waiting`` maps distinct images to the sites they stand at, and ``urls`` distinct addresses likewise.
    """

    guard: Guard
    sites: Sequence[ImageSite]
    memo: Memo
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    waiting: dict[bytes, tuple[bytes, list[int]]] = field(default_factory=dict)
    urls: dict[str, list[int]] = field(default_factory=dict)
    downloads: dict[int, Fetched] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)

    @property
    def downloaded(self) -> int:
        """Bytes fetched so far."""
        return sum(len(result.data) for result in {id(d): d for d in self.downloads.values()}.values())

    def read(self, *, fetch: bool, files: FileLedger | None, max_images: int) -> None:
        """Sort the sites into what is answered, what has to be fetched and what has to be judged."""
        for index, site in enumerate(self.sites):
            if site.kind is SiteKind.INLINE and site.data is not None:
                self._wait([index], site.data)
            elif site.kind is SiteKind.URL and site.url is not None:
                if fetch:
                    self.urls.setdefault(site.url, []).append(index)
                else:
                    self._fail([index], "is given by URL, and none is fetched here (urls='fetch' does)")
            elif site.kind is SiteKind.LINK:
                self._fail([index], "is an image that a text links to (links='pass' lets it through)")
            elif site.kind is SiteKind.FILE or site.file_id is not None:
                self._look_up(index, site, files)
            else:
                self._fail([index], site.problem or "cannot be read")
        for url in list(self.urls):
            if (known := self.memo.get((self.guard, "url", url))) is not None:
                self.verdicts.update(dict.fromkeys(self.urls.pop(url), known))
        self._limit(max_images)

    def _limit(self, max_images: int) -> None:
        """No more than ``max_images`` that are not known yet; none at all where the others block anyway."""
        new = [indices for _, indices in self.waiting.values()] + list(self.urls.values())
        if len(new) <= max_images:
            return
        reason = f"is one of {len(new)} new images in one payload, and max_images is {max_images}"
        kept = max_images if self._fail(new[-1], reason).allowed else 0
        for indices in new[kept:]:
            self._fail(indices, reason)
        self.waiting = dict(list(self.waiting.items())[:kept])
        self.urls = dict(list(self.urls.items())[: max(0, kept - len(self.waiting))])

    def fetched(self, url: str, result: Fetched | FetchError) -> None:
        """Note what ``url`` gave."""
        indices = self.urls[url]
        if isinstance(result, Exception):
            verdict = self._fail(indices, f"cannot be fetched: {result.message}")
            self.memo.put((self.guard, "url", url), verdict)
            return
        for index in indices:
            self.downloads[index] = result
        self._wait(indices, result.data)

    def judged(self, digest: bytes, verdict: Verdict, files: PlainFiles | None = None) -> None:
        """Note the verdict on the image of that hash, and in ``files`` what is passed on in its place."""
        if files is not None and verdict.allowed:
            files.note(digest, verdict.normalised)
        verdict = replace(verdict, normalised=None)  # verdicts are kept for longer than images
        self.memo.put((self.guard, digest), verdict)
        for index in self.waiting[digest][1]:
            self.verdicts[index] = verdict

    def failed(self, digests: Sequence[bytes], error: Exception) -> None:
        """The guard broke down over these images: each gets an ERROR, so that none passes by accident."""
        reason = f"the guard failed: {type(error).__name__}: {error}"
        for digest in digests:
            failure = Failure(FailureKind.ERROR, reason, retryable=getattr(error, "retryable", False))
            self.judged(digest, self.guard.judge_failure("<bytes>", failure, sha256=digest.hex()))

    def result(self, files: PlainFiles | None, *, watched: bool = False) -> ScreenResult:
        """One item per site. A site without a verdict is a KeyError here, never a pass.

        ``files`` makes what is passed on for images that are not plain, unless all is only ``watched``.
        """
        items = []
        for index, site in enumerate(self.sites):
            verdict, passed, download = self.verdicts[index], None, self.downloads.get(index)
            data, media_type = site.data, None
            if download is not None:
                data, media_type = download.data, sniff(download.data) or download.media_type
                passed = Replacement(data, media_type or "image/png")
            if verdict.allowed and files and not watched and data is not None and index in self.digests:
                try:
                    passed = files.of(self.digests[index], data) or passed
                except ImageError as error:
                    if not verdict.degraded:  # what could not be judged passes as it is, if it may pass
                        verdict = self._fail([index], f"cannot be written anew to pass on: {error.message}")
            if not verdict.allowed:
                passed = None
            fetched = None if download is None else data
            items.append(Screened(site, _at(verdict, site.where), fetched, media_type, passed))
        return ScreenResult(tuple(items), watched=watched)

    def _wait(self, indices: Sequence[int], data: bytes) -> None:
        digest = hashlib.sha256(data).digest()
        self.digests.update(dict.fromkeys(indices, digest))
        if (known := self.memo.get((self.guard, digest))) is not None:
            self.verdicts.update(dict.fromkeys(indices, known))
        else:
            self.waiting.setdefault(digest, (data, []))[1].extend(indices)

    def _look_up(self, index: int, site: ImageSite, files: FileLedger | None) -> None:
        verdict = None if files is None or site.file_id is None else files.lookup(site.file_id)
        if verdict is None:
            self._fail(
                [index], site.problem or "is a file held by the provider, and its upload was not judged here"
            )
        elif _fingerprints(verdict) != [policy.fingerprint for policy in self.guard.policies]:
            self._fail([index], "is a file held by the provider, and was judged under other policies")
        else:
            self.verdicts[index] = verdict

    def _fail(self, indices: Sequence[int], reason: str) -> Verdict:
        failure, digest = Failure(FailureKind.UNSCANNABLE, reason), self.digests.get(indices[0])
        verdict = self.guard.judge_failure("<image>", failure, sha256=digest.hex() if digest else None)
        self.verdicts.update(dict.fromkeys(indices, verdict))
        return verdict


def _fingerprints(verdict: Verdict) -> list[object]:
    return [policy["fingerprint"] for policy in verdict.evidence.policies]


def _at(verdict: Verdict, where: str) -> Verdict:
    """``verdict`` under the name of the place where the image stands."""
    from policyguard.images import describe

    reason = verdict.reason and verdict.reason.removeprefix(f"{verdict.source}: ")
    return replace(verdict, source=describe(where) or "<payload>", reason=reason)
