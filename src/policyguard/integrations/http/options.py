"""The settings as keyword arguments, for signatures that hand them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from policyguard.images.fetch import Fetcher
    from policyguard.integrations.screen import FileLedger

    from .altered import ReplaceWith
    from .settings import Callback, OnBlockSetting

__all__ = ["Options"]


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
