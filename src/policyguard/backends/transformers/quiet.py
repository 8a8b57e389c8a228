"""Keep the bars and warnings of transformers and of the hub off the user's terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from policyguard.errors import MissingExtraError

__all__ = ["quiet", "quiet_hub"]

_lock = RLock()
"""Verbosity belongs to the process: two threads must not restore each other's silence."""


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no warnings while a model loads; what the user had set is set again afterwards."""
    from transformers.utils import logging

    with _lock:
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """No bars and no warnings while small files are fetched. Weights may show a bar: they take minutes."""
    try:
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtraError("huggingface_hub", "transformers") from None
    hub: Any = huggingface_hub.utils

    with _lock:
        verbosity, bars = hub.logging.get_verbosity(), not hub.are_progress_bars_disabled()
        hub.logging.set_verbosity(hub.logging.ERROR)
        hub.disable_progress_bars()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            hub.logging.set_verbosity(verbosity)
            if bars:
                hub.enable_progress_bars()
