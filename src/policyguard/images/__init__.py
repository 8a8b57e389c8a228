"""Images: the only place that opens image bytes (see ``decode``)."""

from policyguard.images.container import DECODE_VERSION, MAX_FRAMES, Image, Limits
from policyguard.images.decode import decode
from policyguard.images.sources import Snapshot, describe, is_settled, snapshot

__all__ = [
    "DECODE_VERSION",
    "MAX_FRAMES",
    "Image",
    "Limits",
    "Snapshot",
    "decode",
    "describe",
    "is_settled",
    "snapshot",
]
