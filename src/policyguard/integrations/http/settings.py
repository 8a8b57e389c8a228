"""The settings of a guarded client, checked once.

The settings as keyword arguments, for signatures that hand them on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, get_args

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.result import Direction, HttpResult
from policyguard.integrations.screen import FileLedger, Memo, Screen
from policyguard.integrations.screen.altered import REPLACEMENTS, ReplaceWith

if TYPE_CHECKING:
    from collections.abc import Hashable

    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetcher
    from policyguard.verdict import Verdict

__all__ = [
    "Callback",
    "OnBlock",
    "OnBlockSetting",
    "Options",
    "Settings",
]


class Options(TypedDict, total=False):
    """Keyword arguments of everything that guards; ``guarded_client`` explains them."""

    on_block: OnBlockSetting
    replace_with: ReplaceWith
    urls: Literal["reject", "fetch"]
    fetcher: Fetcher | None
    files: FileLedger | None
    max_images: int
    documents: Literal["block", "pass"]
    max_body: int
    max_event: int
    on_flag: Callback | None
    on_result: Callback | None


OnBlock: TypeAlias = Literal["reject", "raise", "replace"]
OnBlockSetting: TypeAlias = OnBlock | Mapping[Direction, OnBlock]
Callback: TypeAlias = Callable[[HttpResult], object]
_MODES: tuple[str, ...] = get_args(OnBlock)
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class _Judged(Memo):
    """Verdicts on images that were judged. Failures, which end some time, are asked about again."""

    def put(self, key: Hashable, verdict: Verdict) -> None:
        if verdict.outcome.judged:
            super().put(key, verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every transport of one client shares; see ``guarded_client`` for the meaning of each."""

    screen: Screen
    files: FileLedger
    memo: Memo
    request_mode: OnBlock
    response_mode: OnBlock
    replace_with: ReplaceWith
    on_flag: Callback | None
    on_result: Callback | None
    max_body: int
    max_event: int

    def mode(self, direction: Direction) -> OnBlock:
        return self.request_mode if direction == "request" else self.response_mode


def settings(
    guard: Guard,
    *,
    on_block: OnBlockSetting = "reject",
    replace_with: ReplaceWith = "placeholder",
    urls: Literal["reject", "fetch"] = "reject",
    fetcher: Fetcher | None = None,
    files: FileLedger | None = None,
    max_images: int = 100,
    documents: Literal["block", "pass"] = "block",
    max_body: int = 64 * 2**20,
    max_event: int = 32 * 2**20,
    on_flag: Callback | None = None,
    on_result: Callback | None = None,
) -> Settings:
    """Check and collect. Raises ConfigurationError."""
    from policyguard.guard import Guard

    if not isinstance(guard, Guard):
        raise ConfigurationError(
            f"a Guard is expected, not a {type(guard).__name__}",
            hint="make one: Guard(policy='pictosafe/l3')",
        )
    modes = dict(on_block) if isinstance(on_block, Mapping) else dict.fromkeys(_DIRECTIONS, on_block)
    wrong = [key for key in modes if key not in _DIRECTIONS] + [
        mode for mode in modes.values() if mode not in _MODES
    ]
    if wrong:
        raise ConfigurationError(
            f"on_block does not know {wrong[0]!r}",
            hint="give 'reject', 'raise' or 'replace', or one for each of 'request' and 'response'",
        )
    if replace_with not in REPLACEMENTS:
        raise ConfigurationError(
            f"replace_with is {replace_with!r}; it must be one of {', '.join(REPLACEMENTS)}"
        )
    if max_body < 1 or max_event < 1:
        raise ConfigurationError("max_body and max_event are counts of bytes, and positive")
    ledger = FileLedger() if files is None else files
    return Settings(
        screen=Screen(
            guard, urls=urls, fetcher=fetcher, files=ledger, max_images=max_images, documents=documents
        ),
        files=ledger,
        memo=_Judged(),
        request_mode=modes.get("request", "reject"),
        response_mode=modes.get("response", "reject"),
        replace_with=replace_with,
        on_flag=on_flag,
        on_result=on_result,
        max_body=max_body,
        max_event=max_event,
    )
