"""Images by URL, fetched with care (see ``fetcher``). Nothing is fetched unless a caller asks for it."""

from policyguard.errors import FetchError
from policyguard.images.fetch.fetcher import Fetched, Fetcher

__all__ = ["FetchError", "Fetched", "Fetcher"]
