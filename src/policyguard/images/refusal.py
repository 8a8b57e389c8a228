"""How the inside of this package says no, and the one place where that becomes an ``ImageError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from policyguard.errors import ImageError

__all__ = ["Refusal", "boundary", "damaged"]

RESAVE = "open it in an image editor and save it again as PNG or JPEG"


class Refusal(Exception):  # noqa: N818 (never leaves the package; a decision, not a fault)
    """This image is not judged; ``reason`` continues the sentence "NAME: ..."."""

    def __init__(self, reason: str, *, hint: str | None = RESAVE) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@contextmanager
def boundary(name: str) -> Iterator[None]:
    """Turn every exception of the decoders into an ``ImageError`` that names the image.

    Everything is caught, not a list of known classes: damaged files make Pillow raise struct.error,
    IndexError, SyntaxError and more, and an image bomb may raise MemoryError. KeyboardInterrupt and
    SystemExit pass.
    """
    try:
        yield
    except ImageError:
        raise
    except Refusal as refusal:
        raise ImageError(f"{name}: {refusal.reason}", hint=refusal.hint) from refusal.__cause__
    except MemoryError as error:
        raise ImageError(
            f"{name}: does not fit into memory", hint="make it smaller, or give the process more memory"
        ) from error
    except Exception as error:  # what it says is about the decoder's inside, and stays in the cause
        raise ImageError(
            f"{name}: cannot be decoded: its parts do not fit together", hint=f"if it looks fine, {RESAVE}"
        ) from error


@contextmanager
def damaged(reason: str) -> Iterator[None]:
    """Refuse with this reason whatever a decoder of Pillow cannot read."""
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except Exception as error:
        raise Refusal(reason) from error
