"""Whose sentences a guard is asked with.

A guard that was trained on its makers' exact sentences judges best when it reads them. They are its makers'
text, so none of them is in this package: they come from the user's copy, a file that names one text per slot
(docs/guards.md says where each maker publishes them), or from the model's own chat template. Without a file,
sentences of ours stand in, which the model was not trained on; every verdict's evidence says which it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policyguard.errors import ConfigurationError, PolicyError

__all__ = ["Wording"]

_LARGEST = 1 << 17


@dataclass(frozen=True, slots=True)
class Wording:
    """Texts by slot. ``source``: ``"own"``, or ``"file:"`` and the first 12 hex digits of its SHA-256."""

    texts: Mapping[str, str]
    source: str = "own"

    def __getitem__(self, slot: str) -> str:
        return self.texts[slot]

    @classmethod
    def choose(cls, own: Mapping[str, str], file: str | Path | None, *, dialect: str) -> Self:
        """``own``, or the texts of a YAML ``file`` with exactly the same slots.

        Raises ConfigurationError for a file that cannot be read, or lacks a slot, or has another one.
        """
        if file is None:
            return cls(own)
        from policyguard.strict.documents import parse, plain

        path = Path(file).expanduser()
        slots = ", ".join(own)
        hint = f"a YAML file with the keys {slots}; docs/guards.md says where the texts are published"

        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"the wording file {path} cannot be read: {error.strerror or error}", hint=hint
            ) from error
        if len(data) > _LARGEST:
            raise ConfigurationError(f"the wording file {path} is larger than {_LARGEST:,} bytes", hint=hint)
        try:
            document = parse(data, str(path))
        except PolicyError as error:
            raise ConfigurationError(str(error), hint=hint) from None
        texts = plain(document.root)
        if document.problems:
            raise ConfigurationError("\n".join(map(str, document.problems)), hint=hint)
        if not isinstance(texts, dict) or set(texts) != set(own):
            keys = ", ".join(map(str, texts)) if isinstance(texts, dict) else "no keys"
            raise ConfigurationError(
                f"{path}: the dialect '{dialect}' needs the texts {slots}; the file has {keys}", hint=hint
            )
        for slot, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise ConfigurationError(f"{path}: {slot} is not a text", hint=hint)
        return cls(texts, f"file:{hashlib.sha256(data).hexdigest()[:12]}")
