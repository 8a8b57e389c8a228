"""The options of everything that guards HTTP traffic, in one place, and their check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.result import Direction, HttpResult
from policyguard.integrations.screen import FileLedger, Memo, Screen
from policyguard.integrations.screen.altered import REPLACEMENTS, PassOn, ReplaceWith

if TYPE_CHECKING:
    from collections.abc import Hashable

    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetcher
    from policyguard.verdict import Verdict

__all__ = ["Callback", "ClientOptions", "OnBlock", "OnBlockSetting", "Options", "Settings"]

OnBlock: TypeAlias = Literal["reject", "raise", "replace", "watch"]
OnBlockSetting: TypeAlias = OnBlock | Mapping[Direction, OnBlock]
Callback: TypeAlias = Callable[[HttpResult], object]
_MODES: tuple[str, ...] = get_args(OnBlock)
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class Options(TypedDict, total=False):
    """Keyword arguments of everything that guards; ``guarded_client`` explains them, ``Settings`` has their
    defaults."""

    on_block: OnBlockSetting
    when: Literal["before", "alongside"]
    replace_with: ReplaceWith
    urls: Literal["reject", "fetch"]
    links: Literal["pass", "block"]
    fetcher: Fetcher | None
    files: FileLedger | None
    max_images: int
    documents: Literal["block", "pass"]
    pass_on: PassOn
    max_body: int
    max_event: int
    on_flag: Callback | None
    on_result: Callback | None


class ClientOptions(Options, total=False):
    """``Options``, and what ``Client`` and ``AsyncClient`` of httpx and httpx2 take themselves."""

    auth: Any
    params: Any
    headers: Any
    cookies: Any
    verify: Any
    cert: Any
    trust_env: bool
    http1: bool
    http2: bool
    proxy: Any
    mounts: Any
    timeout: Any
    follow_redirects: bool
    limits: Any
    max_redirects: int
    event_hooks: Any
    base_url: Any
    transport: Any
    default_encoding: Any


class _JudgedMemo(Memo):
    """Verdicts on images that were judged. Failures, which end some time, are asked about again."""

    def put(self, key: Hashable, verdict: Verdict) -> None:
        if verdict.outcome.judged:
            super().put(key, verdict)


@dataclass(slots=True, kw_only=True)
class Settings:
    """What every transport of one client shares. Raises ConfigurationError for what cannot work."""

    guard: Guard
    on_block: OnBlockSetting = "reject"
    when: Literal["before", "alongside"] = "before"
    replace_with: ReplaceWith = "placeholder"
    urls: Literal["reject", "fetch"] = "reject"
    links: Literal["pass", "block"] = "pass"
    fetcher: Fetcher | None = None
    files: FileLedger | None = None
    max_images: int = 100
    documents: Literal["block", "pass"] = "block"
    pass_on: PassOn = "judged"
    max_body: int = 64 * 2**20
    max_event: int = 32 * 2**20
    on_flag: Callback | None = None
    on_result: Callback | None = None

    screen: Screen = field(init=False)
    ledger: FileLedger = field(init=False)
    memo: Memo = field(init=False, default_factory=_JudgedMemo)
    _modes: dict[Direction, OnBlock] = field(init=False)

    def __post_init__(self) -> None:
        setting = self.on_block
        modes = dict(setting) if isinstance(setting, Mapping) else dict.fromkeys(_DIRECTIONS, setting)
        unknown = [
            *(key for key in modes if key not in _DIRECTIONS),
            *(mode for mode in modes.values() if mode not in _MODES),
        ]
        if unknown:
            raise ConfigurationError(
                f"on_block does not know {unknown[0]!r}",
                hint="give 'reject', 'raise', 'replace' or 'watch', or one each for 'request' and 'response'",
            )
        self._modes = modes
        if self.replace_with not in REPLACEMENTS:
            raise ConfigurationError(
                f"replace_with is {self.replace_with!r}; it must be one of {', '.join(REPLACEMENTS)}"
            )
        if self.when not in ("before", "alongside"):
            raise ConfigurationError(f"when is {self.when!r}; it must be 'before' or 'alongside'")
        if self.when == "alongside" and (self.urls == "fetch" or self.mode("request") == "replace"):
            raise ConfigurationError(
                "when='alongside' sends requests as they are, and cannot put other images into them",
                hint="leave urls='fetch' and 'replace' for requests away, or when='alongside'",
            )
        if self.max_body < 1 or self.max_event < 1:
            raise ConfigurationError("max_body and max_event are numbers of bytes, and positive")
        self.ledger = FileLedger() if self.files is None else self.files
        self.screen = Screen(
            self.guard,
            urls=self.urls,
            links=self.links,
            fetcher=self.fetcher,
            files=self.ledger,
            max_images=self.max_images,
            documents=self.documents,
            pass_on=self.pass_on,
        )

    @property
    def watched(self) -> tuple[Direction, ...]:
        return tuple(direction for direction in _DIRECTIONS if self.mode(direction) == "watch")

    def mode(self, direction: Direction) -> OnBlock:
        return self._modes.get(direction, "reject")

    def held(self, direction: Direction) -> int:
        """Bytes of a body that are held at most; where nothing may be stopped, as many as come."""
        return sys.maxsize - 1 if self.mode(direction) == "watch" else self.max_body
