"""Every exception that leaves the package.

The tree::

    PolicyGuardError
    ├── UsageError                  the caller or the set-up is wrong; raised at first sight, once
    │   ├── ConfigurationError      settings that cannot work together
    │   │   ├── MissingExtraError   an optional dependency is not installed
    │   │   └── ModelLoadError      the guard model cannot be loaded
    │   └── PolicyError             a policy file is wrong; carries every problem found
    ├── ImageError                  one image cannot be judged as a whole; becomes UNSCANNABLE
    │   └── FetchError              its address may not be fetched from, or gave no image
    ├── BackendError                the model or its server failed; becomes ERROR
    │   ├── AnswerError             the model answered, but not by the dialect's one strict rule
    │   └── UnavailableError        nobody answered this time; retryable
    └── PolicyViolation             raised by ``Verdict.raise_for_block``; carries the verdict

Usage errors are never covered by a policy's ``outcomes``; the others concern one image and turn into
an outcome of that image inside ``Guard``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from policyguard._version import DISTRIBUTION

__all__ = [
    "AnswerError",
    "BackendError",
    "ConfigurationError",
    "FetchError",
    "ImageError",
    "MissingExtraError",
    "ModelLoadError",
    "PolicyError",
    "PolicyGuardError",
    "Problem",
    "UnavailableError",
    "UsageError",
]

MAX_PROBLEMS = 50
"""No error lists more problems than this: whoever has to fix fifty runs it again anyway."""


class PolicyGuardError(Exception):
    """Base of all errors of this package.

    ``retryable`` says whether the same call may succeed later; ``hint`` says what to do about it.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with ``args``, and most of these take other arguments.
        return _rebuilt, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def _rebuilt(cls: type[PolicyGuardError], args: tuple[Any, ...]) -> PolicyGuardError:
    return cls.__new__(cls, *args)


class UsageError(PolicyGuardError):
    """The caller, or the set-up, is wrong."""


class ConfigurationError(UsageError):
    """Settings that cannot work, such as a policy about photographs without a model to judge them."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is needed for this and is not installed",
            hint=f"install the extra '{extra}': pip install '{_from_where(extra)}'",
        )


def _from_where(extra: str) -> str:
    """What pip takes to add ``extra``, from where the package came (PEP 610): a folder, a file, the index."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        return f"{checkout}[{extra}]"
    try:
        origin = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    folder = Path(url2pathname(urlsplit(origin.get("url", "")).path))
    if "dir_info" in origin and (folder / "pyproject.toml").is_file():
        return f"{folder}[{extra}]"
    return f"{DISTRIBUTION}[{extra}]" + (f" @ {origin['url']}" if "archive_info" in origin else "")


class ModelLoadError(ConfigurationError):
    """The guard model cannot be found, or its files are not what this package loads."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a policy, and where. ``line`` and ``column`` count from 1."""

    message: str
    file: str = "<policy>"
    line: int | None = None
    column: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{place}: {f'{self.field}: ' if self.field else ''}{self.message}"


class PolicyError(UsageError):
    """A policy cannot be used. ``problems`` holds everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), hint=hint)


class ImageError(PolicyGuardError):
    """One image cannot be opened, or cannot be judged as a whole. ``sha256``: of its bytes, where known."""

    sha256: str | None = None


class FetchError(ImageError):
    """An image's address may not be fetched from, or fetching it failed."""


class BackendError(PolicyGuardError):
    """The model, or the server that runs it, failed on this request."""


class AnswerError(BackendError):
    """The model's answer does not hold exactly one verdict in its place."""


class UnavailableError(BackendError):
    """The server, or the model, could not be reached this time; the same call may succeed later."""

    retryable: ClassVar[bool] = True
