"""The verdict cache: scores are remembered, decisions are made afresh (docs/cache.md).

Covered: one model call per question however many ask at once; answers of other pixels, policies, models,
dialects or readings are never served; damaged files and rows yield misses, and no problem of a store stops a
check.
Not covered: whoever can write a store can forge verdicts. Checksums find damage, they are no signatures.
"""

from policyguard.cache.backend import CachedBackend
from policyguard.cache.sqlite import SqliteCache, default_path, open_cache
from policyguard.cache.store import TTL, CacheInfo, MemoryCache, VerdictCache

__all__ = [
    "TTL",
    "CacheInfo",
    "CachedBackend",
    "MemoryCache",
    "SqliteCache",
    "VerdictCache",
    "default_path",
    "open_cache",
]
