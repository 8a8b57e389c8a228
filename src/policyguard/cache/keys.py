"""Under which key an assessment is stored.

Two requests share a key only if a model would be asked the same: the same pixels, the same words of the
policy, the same dialect, weights and settings, the same reading. Thresholds and actions are no part of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields

from policyguard.assessment import AssessmentRequest, ModelIdentity

__all__ = ["FORMAT", "assessment_key", "digest"]

FORMAT = "policyguard verdict cache 1"


def digest(*parts: str) -> str:
    """SHA-256, in hex, over the parts with their number and lengths in front: no two lists look alike."""
    hashed = hashlib.sha256(len(parts).to_bytes(8, "big"))
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.hexdigest()


def assessment_key(model: ModelIdentity, request: AssessmentRequest) -> str | None:
    """The key for ``request`` to ``model``; ``None`` where it is not known which pixels these are.

    The policy's fingerprint is derived anew from its rules whenever they change, so that the stricter rules
    of a second round have a key of their own.
    """
    if not request.frame_key:
        return None
    from policyguard import __version__

    parts = [FORMAT, __version__, request.frame_key, request.policy.fingerprint, request.reading.value]
    for field in fields(ModelIdentity):
        value = getattr(model, field.name)
        parts += [field.name, "none" if value is None else f"={value}"]
    return digest(*parts)
