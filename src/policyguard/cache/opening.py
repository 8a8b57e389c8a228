"""From what a caller names to a cache."""

from __future__ import annotations

import os
from pathlib import Path

from policyguard.cache.sqlite import SqliteCache
from policyguard.cache.store import MemoryCache, VerdictCache
from policyguard.errors import ConfigurationError

__all__ = ["default_path", "open_cache"]

_HINT = "give 'memory', the path of a file such as 'verdicts.sqlite', or a VerdictCache"


def open_cache(cache: str | os.PathLike[str] | VerdictCache) -> VerdictCache:
    """A MemoryCache for ``"memory"``, a SqliteCache for any other text or path; a VerdictCache as it is.

    Raises ConfigurationError for what cannot be one.
    """
    if isinstance(cache, VerdictCache):
        return cache
    if cache == "memory":
        return MemoryCache()
    if not isinstance(cache, str | os.PathLike):
        raise ConfigurationError(f"cache is of type {type(cache).__name__}, which names no cache", hint=_HINT)
    if not (path := os.fspath(cache)) or path.startswith(":") or "://" in path:
        raise ConfigurationError(f"{path!r} is not the path of a verdict cache", hint=_HINT)
    return SqliteCache(path)


def default_path() -> Path:
    """POLICYGUARD_CACHE, else ``policyguard/verdicts.sqlite`` in XDG_CACHE_HOME, else in ``~/.cache``."""
    if named := os.environ.get("POLICYGUARD_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.cache").expanduser()
    return base / "policyguard" / "verdicts.sqlite"
