"""What becomes of a value, or of messages one by one, once its images are judged: it passes, passes changed,
or PolicyViolation.

Covered: images fetched by URL go on as the bytes that were judged, and those that viewers may show otherwise
as plain files of what was judged; paths stay paths. A blocked image is replaced by one that
shows nothing of it; where its shape has no place for another image, a message loses its whole content, and
any other value is refused.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from policyguard.errors import ConfigurationError, ImageError
from policyguard.integrations.extract import Replacement, SiteKind, find_images, replace_images
from policyguard.integrations.langchain.sites import is_alone, is_path
from policyguard.integrations.screen import Screened, ScreenResult
from policyguard.integrations.screen.altered import REPLACEMENTS, ReplaceWith, altered
from policyguard.outcomes import Outcome
from policyguard.verdict import PolicyViolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import BaseMessage

__all__ = [
    "blocked_note",
    "check_replace_with",
    "cleared",
    "parted",
    "settle",
    "settled_messages",
    "violation",
]


Made: TypeAlias = "Callable[[bytes], object]"


def _unnoted(_new: bytes) -> None:
    """For those to whom it is all one."""


def check_replace_with(replace_with: str) -> None:
    """Raise ConfigurationError for a kind of replacement that is not there."""
    if replace_with not in REPLACEMENTS:
        known = ", ".join(REPLACEMENTS)
        raise ConfigurationError(f"replace_with is {replace_with!r}; it must be one of {known}")


def violation(result: ScreenResult) -> PolicyViolation:
    """The error for a result with blocked images: the first one's.

    Inside of an agent it is of a kind that no middleware and no tool node catches, tries again or swallows.
    """
    kind = _agent_violation() if "langgraph.errors" in sys.modules else PolicyViolation
    return kind(result.blocked[0].verdict)


@cache
def _agent_violation() -> type[PolicyViolation]:
    from langgraph.errors import GraphBubbleUp

    class AgentViolation(PolicyViolation, GraphBubbleUp):
        """A block that ends the run of an agent, whatever the order of its middleware."""

    return AgentViolation


def blocked_note(result: ScreenResult) -> str:
    """A sentence for people and models: how many images were blocked, and why the first one was; one that
    breaks the policy comes first.

    It says nothing of the guard: no address, no words of a server.
    """
    violating = [item for item in result.blocked if item.verdict.outcome is Outcome.VIOLATES]
    first = (violating or result.blocked)[0]
    titles = ", ".join(finding.title for finding in first.verdict.findings if finding.violates)
    why = f"it breaks the policy ({titles})" if violating else f"it could not be judged{_why(first)}"
    return f"[{len(result.blocked)} image(s) blocked by PolicyGuard: {why}]"


def _why(item: Screened) -> str:
    if item.verdict.outcome is Outcome.ERROR:
        return ": the guard is out of reach or failed, try again later"
    if item.verdict.outcome is not Outcome.UNSCANNABLE:
        return ": the guard gave no clear answer"
    return {
        SiteKind.DOCUMENT: ": it is a document",
        SiteKind.URL: ": it is given by its address",
        SiteKind.FILE: ": it is a file held elsewhere",
    }.get(item.site.kind, ": it cannot be read")


def settle(value: Any, result: ScreenResult, replace_with: ReplaceWith | None, made: Made = _unnoted) -> Any:
    """``value`` as it may pass; the same object where nothing is changed.

    ``replace_with`` None refuses a blocked image; ``made`` is told each file that is put in one's place.
    Raises PolicyViolation.
    """
    if result.watched:
        return value
    if result.blocked and replace_with is None:
        raise violation(result)
    if all(item.verdict.allowed and item.passed is None for item in result.items):
        return value
    if isinstance(value, list | tuple) and any(is_alone(item) for item in value):
        return type(value)(_settled_each(value, result, replace_with, made))
    changes: dict[str, Replacement] = {}
    replaced = []
    for item in result.items:
        if not item.verdict.allowed:
            assert replace_with is not None
            new = _stand_in(item, replace_with)
            if new.data == item.site.data:  # its own replacement, which shows nothing
                continue
            made(new.data)
            replaced.append(item)
            changes[item.site.where] = new
        elif item.passed is not None:
            changes[item.site.where] = item.passed
    if not changes or (not result.blocked and is_path(value)):
        return value
    try:
        changed = _alone(value, changes) if "" in changes else replace_images(value, changes)
    except ImageError as error:
        if not result.blocked:
            hint = "pass it as a PNG or JPEG without metadata, or set pass_on='original'"
            raise ImageError(f"what was judged cannot be passed on: {error.message}", hint=hint) from error
        return _cleared_all(value, result)
    return _cleared_all(value, result) if _remains(changed, replaced) else changed


def cleared(message: BaseMessage, note: str) -> BaseMessage:
    """``message`` with ``note`` for its content, and without all else that may hold an image."""
    empty: dict[str, Any] = {"additional_kwargs": {}, "artifact": None, "tool_calls": []}
    empty |= {"invalid_tool_calls": [], "usage_metadata": None}
    empty |= {"tool_call_chunks": [], "response_metadata": {}}
    fields = type(message).model_fields
    known = {key: value for key, value in empty.items() if key in fields}
    extra = dict.fromkeys(message.__pydantic_extra__ or {})
    return message.model_copy(update={**known, **extra, "content": note})


def _alone(value: Any, changes: dict[str, Replacement]) -> Any:
    """Another image for a value that is one; PathLike objects and others have no such form."""
    image = changes[""]
    if isinstance(value, str):
        return replace_images(value, changes)
    if isinstance(value, bytes | bytearray | memoryview):
        return image.data
    if isinstance(value, io.BytesIO):
        return io.BytesIO(image.data)
    if type(value).__module__.partition(".")[0] == "PIL":
        from policyguard.images import decode

        return decode(image.data).frames[0]
    raise ImageError(f"a {type(value).__name__} cannot be replaced")


def _stand_in(item: Screened, how: ReplaceWith) -> Replacement:
    data = item.site.data if item.fetched is None else item.fetched
    if data is not None and item.site.kind is not SiteKind.UNREADABLE:
        try:
            return altered(data, how)
        except ImageError:
            pass
    return _grey()


def _grey() -> Replacement:
    from PIL import Image as pil  # noqa: N813 (the module)

    buffer = io.BytesIO()
    pil.new("RGB", (64, 64), (128, 128, 128)).save(buffer, "PNG")
    return Replacement(buffer.getvalue(), "image/png")


def _remains(changed: Any, blocked: Sequence[Screened]) -> bool:
    """Whether a blocked image still stands somewhere: then replacing did not do what it should."""
    if isinstance(changed, bytes | bytearray | memoryview | io.BytesIO):
        return False
    places = {item.site.where for item in blocked}
    gone = {item.site.data or item.site.url or item.site.file_id for item in blocked} - {None}
    return any(
        (site.data or site.url or site.file_id) in gone
        or (site.where in places and site.kind is not SiteKind.INLINE)
        for site in find_images(changed)
    )


def _cleared_all(value: Any, result: ScreenResult) -> Any:
    """A message, or messages, without the content of those that hold blocked images."""
    from langchain_core.messages import BaseMessage

    note = blocked_note(result)
    if isinstance(value, BaseMessage):
        new: Any = cleared(value, note)
    elif isinstance(value, list) and all(isinstance(item, BaseMessage) for item in value):
        marked = {item.site.where.split("/")[1] for item in result.blocked}
        new = [cleared(item, note) if str(at) in marked else item for at, item in enumerate(value)]
    else:
        raise violation(result)
    if _remains(new, result.blocked):  # in a name, or a field of an app's own
        raise violation(result)
    return new


def settled_messages(
    messages: list[BaseMessage],
    result: ScreenResult,
    replace_with: ReplaceWith | None,
    made: Made = _unnoted,
) -> list[BaseMessage]:
    """The messages as they may pass; those that nothing is changed in are the same objects.

    ``result`` is that of the whole list. Raises PolicyViolation where a blocked image is not replaced.
    """
    if result.watched:
        return messages
    if result.blocked and replace_with is None:
        raise violation(result)
    return _settled_each(messages, result, replace_with, made)


def _settled_each(
    values: Sequence[Any], result: ScreenResult, replace_with: ReplaceWith | None, made: Made
) -> list[Any]:
    """Each of several values as it may pass. ``result`` is that of all of them."""
    parts = parted(result)
    return [
        settle(value, parts[number], replace_with, made) if number in parts else value
        for number, value in enumerate(values)
    ]


def parted(result: ScreenResult) -> dict[int, ScreenResult]:
    """The result of a list as those of its items, by their places."""
    parts: dict[int, list[Screened]] = {}
    for item in result.items:
        number, slash, rest = item.site.where[1:].partition("/")
        where = f"/{rest}" if slash else ""
        parts.setdefault(int(number), []).append(replace(item, site=replace(item.site, where=where)))
    return {number: ScreenResult(tuple(items)) for number, items in parts.items()}
