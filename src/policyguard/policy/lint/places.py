"""Where in which file the value stands that a remark is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.errors import PolicyError
from policyguard.policy.document import Document, Node
from policyguard.policy.encoding import Place
from policyguard.policy.lint.remark import Remark, Step
from policyguard.policy.load import locate, read_document

if TYPE_CHECKING:
    from policyguard.policy.schema import Policy

__all__ = ["Places"]


class Places:
    """Finds places in the file of a policy, and in the files that it extends.

    Raises PolicyError if the file has gone, or changed into something unreadable, since the policy was read.
    """

    def __init__(self, policy: Policy, source: str | Path) -> None:
        self._policy = policy
        self._main = read_document(locate(source))
        self._files: dict[str, Document | None] = {self._main.file: self._main}

    def find(self, remark: Remark) -> Remark:
        """``remark`` with file, line and column; of what is nearest, where the value itself has no place."""
        if self._composed:
            return self._from_origin(remark)
        place = self._main.root.locate(remark.path, key=_is_field(remark.path))
        return replace(remark, file=self._main.file, line=place.line, column=place.column)

    @property
    def _composed(self) -> bool:
        root = self._main.root.value
        return isinstance(root, dict) and "extends" in root

    def _from_origin(self, remark: Remark) -> Remark:
        # A rule's threshold comes from where it was set last; the nearest that has an origin says most.
        field = remark.field or ""
        while field and field not in self._policy.origins:
            field = field[: max(field.rfind("."), field.rfind("["))] if "." in field or "[" in field else ""
        if not field:
            place = self._main.root.place
            return replace(remark, file=self._main.file, line=place.line, column=place.column)
        origin = self._policy.origins[field]
        return replace(
            remark, file=origin.file, line=origin.line, column=self._column(origin.file, origin.line)
        )

    def _column(self, file: str, line: int | None) -> int | None:
        if file not in self._files:
            try:
                self._files[file] = read_document(Path(file))
            except PolicyError:
                self._files[file] = None
        document = self._files[file]
        if document is None or line is None:
            return None
        return min((place.column for place in _places(document.root) if place.line == line), default=None)


def _is_field(path: tuple[Step, ...]) -> bool:
    """Whether the key is the place to point at: of lists, the heading says more than the first item."""
    return path[-1:] in (("unsafe",), ("safe",))


def _places(node: Node) -> list[Place]:
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        found.append(node.place)
        if isinstance(node.value, dict):
            found.extend(node.keys.values())
            waiting.extend(node.value.values())
        elif isinstance(node.value, list):
            waiting.extend(node.value)
    return found
