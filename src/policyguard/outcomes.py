"""What can be found of an image, and what a policy says to do about it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Action", "Outcome"]


class Action(StrEnum):
    """What the policy says to do: ``ALLOW`` < ``FLAG`` < ``BLOCK``."""

    ALLOW = "allow"
    FLAG = "flag"
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """0 for allow, 1 for flag, 2 for block."""
        return list(Action).index(self)


class Outcome(StrEnum):
    """What was found, from best to worst."""

    COMPLIES = "complies"
    UNDECIDED = "undecided"
    REFUSED = "refused"
    UNSCANNABLE = "unscannable"
    ERROR = "error"
    VIOLATES = "violates"

    @property
    def judged(self) -> bool:
        """Whether the image was judged: it complies or it violates."""
        return self in (Outcome.COMPLIES, Outcome.VIOLATES)
