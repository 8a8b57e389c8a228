"""Whether a policy about a world of its own says it in that world's words. Only PictoSafe has such words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from policyguard.policy.lint.remark import Level, Remark, Step
from policyguard.policy.messages import nearest
from policyguard.policy.schema import Status

if TYPE_CHECKING:
    from policyguard.policy.schema import Policy

__all__ = ["worlds"]

_KNOWN: Final = ("pictosafe",)


def worlds(policy: Policy) -> Iterator[Remark]:
    """A world that nobody knows, and whatever the models of PictoSafe do not read."""
    if policy.world == "pictosafe":
        yield from _pictosafe(policy)
    elif policy.world is not None:
        close = nearest(policy.world, _KNOWN)
        said = f"did you mean {close}?" if close else f"known is {', '.join(_KNOWN)}"
        yield _remark("unknown-world", f"unknown world '{policy.world}': {said}", "world")


def _pictosafe(policy: Policy) -> Iterator[Remark]:
    from policyguard.bench.pictosafe.language import parse_item
    from policyguard.dialects.pico import MAX_RULES

    if len(policy.rules) > MAX_RULES:
        message = f"rule {MAX_RULES + 1} of {len(policy.rules)}: pico reads at most {MAX_RULES} rules"
        yield _remark("too-many-rules", message, "rules", MAX_RULES)
    for index, rule in enumerate(policy.rules):
        if rule.status is not Status.EXEMPT and not rule.unsafe:
            message = "pico reads no descriptions: list under `unsafe:` what the rule forbids"
            yield _remark("only-described", message, "rules", index, "description")
        for name, items in (("unsafe", rule.unsafe), ("safe", rule.safe)):
            for place, item in enumerate(items):
                try:
                    parse_item(item)
                except ValueError as error:
                    yield _remark("unknown-word", str(error), "rules", index, name, place)


def _remark(code: str, message: str, *path: Step) -> Remark:
    return Remark(Level.WARNING, code, message, path)
