"""How an image is written down inline in the shapes that name it by address or by file id."""

from __future__ import annotations

import base64
import io
from typing import Any

from policyguard.errors import ImageError
from policyguard.integrations.extract.keys import plain
from policyguard.integrations.extract.magic import sniff
from policyguard.integrations.extract.site import Occurrence, Replacement, SiteKind

__all__ = ["data_uri", "follow", "rewrite", "written"]

_MEDIA_TYPE_KEYS = ("mime_type", "mimeType", "media_type", "mediaType", "content_type", "contentType")
_ENCODED_KEYS = (
    "data",
    "base64",
    "b64",
    "b64json",
    "bytes",
    "blob",
    "result",
    "partialimageb64",
    "imagebytes",
)


def data_uri(image: Replacement) -> str:
    return f"data:{image.media_type};base64,{_base64(image)}"


def _base64(image: Replacement) -> str:
    return base64.b64encode(image.data).decode("ascii")


def written(value: Any, occurrence: Occurrence, image: Replacement) -> Any:
    """What takes the place of ``value``, the whole of which is an image."""
    if occurrence.codec in ("data-uri", "address") and isinstance(value, str):
        return data_uri(image)
    if occurrence.codec == "base64":
        return _base64(image)
    if occurrence.codec == "base64url":
        return base64.urlsafe_b64encode(image.data).decode("ascii")
    if occurrence.codec == "bytes" and not isinstance(value, str):
        return io.BytesIO(image.data) if isinstance(value, io.BytesIO) else image.data
    if occurrence.codec == "ints":
        return list(image.data)
    raise ImageError(f"the image at {occurrence.where!r} cannot be replaced in its place")


def rewrite(fields: dict[Any, Any], key: str, occurrence: Occurrence, image: Replacement) -> None:
    """Put ``image`` into a dict that names one under ``key``, in the form that its shape has for that."""
    camel = "mimeType" in fields or key == "fileUri"
    if occurrence.kind is SiteKind.INLINE or occurrence.kind is SiteKind.UNREADABLE:
        if (
            occurrence.codec == "data-uri"
            and occurrence.kind is SiteKind.UNREADABLE
            and plain(key) in _ENCODED_KEYS
        ):
            fields[key] = _base64(image)
        else:
            fields[key] = written(fields[key], occurrence, image)
        _declare(fields, image)
        return
    kind = fields.get("type")
    if kind in ("url", "file") and key in ("url", "file_id") and len(fields) <= 3:  # an Anthropic source
        del fields[key]
        fields.update(type="base64", media_type=image.media_type, data=_base64(image))
    elif fields.get("source_type") in ("url", "id"):  # a LangChain v0 block
        del fields[key]
        fields.update(source_type="base64", mime_type=image.media_type, data=_base64(image))
    elif key in ("file_uri", "fileUri"):  # a Gemini part that LangChain passes on
        del fields[key]
        fields.update({"mimeType" if camel else "mime_type": image.media_type, "data": _base64(image)})
    elif occurrence.kind is SiteKind.URL:
        fields[key] = data_uri(image)
        _declare(fields, image)
    elif key == "file_id" and kind in ("input_image", "computer_screenshot", "image_url"):
        del fields[key]
        fields["image_url"] = data_uri(image)
    elif key == "file_id" and kind in ("image", "file"):  # a LangChain v1 block
        del fields[key]
        fields.update(base64=_base64(image), mime_type=image.media_type)
    else:
        raise ImageError(f"the image at {occurrence.where!r} is named in a way that has no inline form")


def _declare(fields: dict[Any, Any], image: Replacement) -> None:
    for key in _MEDIA_TYPE_KEYS:
        if isinstance(fields.get(key), str):
            fields[key] = image.media_type


_MADE = ("data", "result", "b64_json", "partial_image_b64")
"""Where models put what they make, next to the name of its format."""
_NAMES = ("filename", "file_name", "fileName")


def follow(fields: dict[Any, Any], key: str, occurrence: Occurrence, image: Replacement) -> None:
    """Let what stands beside ``key``, under which an image was replaced, name the new image's format.

    It may stand one level above the image, as in Bedrock's ``{"format": ..., "source": {"bytes": ...}}``.
    """
    old, new = sniff(occurrence.data or b""), image.media_type
    if old is None or old == new:
        return
    spellings = {old: new, old.removeprefix("image/"): new.removeprefix("image/")}
    if old == "image/jpeg":
        spellings["jpg"] = spellings["jpeg"]
    beside = key == "source" or isinstance(fields.get(key), str | bytes)
    for name in ("format",) * beside + ("output_format",) * (key in _MADE):
        if isinstance(fields.get(name), str) and fields[name].lower() in spellings:
            fields[name] = spellings[fields[name].lower()]
    for name in _NAMES:
        stem, dot, ending = str(fields.get(name, "")).rpartition(".")
        if dot and ending.lower() in spellings:
            fields[name] = f"{stem}.{spellings[ending.lower()]}"
