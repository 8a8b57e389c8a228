"""The screening engine under every integration: image sites in, one verdict for each out."""

from policyguard.integrations.screen.engine import Screen
from policyguard.integrations.screen.memo import FileLedger, Memo
from policyguard.integrations.screen.result import Screened, ScreenResult

__all__ = ["FileLedger", "Memo", "Screen", "ScreenResult", "Screened"]
