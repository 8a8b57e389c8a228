"""What can be found of an image, and what a policy says to do about it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Action", "Outcome"]


class _Ordered(StrEnum):
    """Ordered as listed. Comparing with a plain text, which would go by the alphabet, raises TypeError."""

    @property
    def severity(self) -> int:
        """The place in the order, from 0."""
        return list(type(self)).index(self)

    def __lt__(self, other: object) -> bool:
        return self.severity < self._severity_of(other)

    def __le__(self, other: object) -> bool:
        return self.severity <= self._severity_of(other)

    def __gt__(self, other: object) -> bool:
        return self.severity > self._severity_of(other)

    def __ge__(self, other: object) -> bool:
        return self.severity >= self._severity_of(other)

    def _severity_of(self, other: object) -> int:
        if not isinstance(other, type(self)):
            name = type(self).__name__
            raise TypeError(f"{name}.{self.name} cannot be compared with {other!r}: use {name}({other!r})")
        return other.severity


class Action(_Ordered):
    """What the policy says to do: ``ALLOW`` < ``FLAG`` < ``BLOCK``."""

    ALLOW = "allow"
    FLAG = "flag"
    BLOCK = "block"


class Outcome(_Ordered):
    """What was found, from best to worst: ``COMPLIES`` is the least."""

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
