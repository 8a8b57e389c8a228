"""The screening engine under every integration: image sites in, one verdict for each out."""

from .engine import Screen
from .ledger import FileLedger
from .memo import Memo
from .result import Screened, ScreenResult

__all__ = ["FileLedger", "Memo", "Screen", "ScreenResult", "Screened"]
