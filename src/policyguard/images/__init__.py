"""Images: the only place that opens image bytes (see ``decode``)."""

from policyguard.images.container import DECODE_VERSION, MAX_FRAMES, Image, Limits
from policyguard.images.decode import decode
from policyguard.images.sources import Drawn, describe, draw, is_settled

__all__ = [
    "DECODE_VERSION",
    "MAX_FRAMES",
    "Drawn",
    "Image",
    "Limits",
    "decode",
    "describe",
    "draw",
    "is_settled",
]
