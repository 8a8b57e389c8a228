"""Images by URL, fetched with care (see ``fetcher``). Nothing fetches unless it is told to."""

from policyguard.errors import FetchError
from policyguard.images.fetch.fetcher import Fetched, Fetcher

__all__ = ["FetchError", "Fetched", "Fetcher"]
