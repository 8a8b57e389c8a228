"""Adds one case to a file of policy tests, and leaves every other line of it as it is.

Lines are put in by their place in the YAML tree; the result is read again, and must say what the file said
and the new case besides. A file that is written in another way than line by line is refused, never garbled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from policyguard.authoring.cases.load import CaseFile, Expectation, ImageCase, PolicyUnderTest, validated
from policyguard.errors import ConfigurationError, PolicyError
from policyguard.outcomes import Action, Outcome
from policyguard.strict.documents import Document, parse

__all__ = ["NewCase", "find_case_file", "with_case"]


@dataclass(frozen=True, slots=True)
class NewCase:
    """What one policy should say of one image.

    ``policy`` is the name to call it by where the file has none for it yet, ``source`` its file and ``image``
    that of the image, both relative to the file of cases. ``findings``: ``None`` to leave them open.
    """

    policy: str
    source: str
    image: str
    outcome: Outcome
    action: Action | None = None
    findings: tuple[str, ...] | None = None
    note: str | None = None

    def expectation(self) -> Expectation:
        return Expectation(outcome=self.outcome, action=self.action, findings=self.findings)

    def line(self, name: str) -> str:
        """The expectation as YAML, on one line."""
        parts = [f"outcome: {self.outcome}"]
        if self.action is not None:
            parts.append(f"action: {self.action}")
        if self.findings is not None:
            parts.append(f"findings: [{', '.join(self.findings)}]")
        return f"{name}: {{{', '.join(parts)}}}"

    def lines(self, name: str) -> list[str]:
        """The whole case as YAML, without indentation."""
        note = [] if self.note is None else [f"  note: {json.dumps(self.note)}"]
        return [f"- image: {json.dumps(self.image)}", *note, "  expect:", f"    {self.line(name)}"]


def find_case_file(policy: Path, root: str) -> Path:
    """The ``cases.yaml`` beside ``policy``, or the nearest one above, within ``root``; it may not exist."""
    top = Path(root)
    for folder in policy.parents:
        if (folder / "cases.yaml").is_file():
            return folder / "cases.yaml"
        if folder == top or top not in folder.parents:
            break
    return policy.parent / "cases.yaml"


def with_case(text: str | None, case: NewCase, *, file: str = "cases.yaml") -> str:
    """``text``, the content of a file of cases (``None``: there is none), and ``case`` in it.

    Raises PolicyError for a file that is wrong, ConfigurationError for one that has the case already or that
    lines cannot be put into.
    """
    wanted = _wanted(case)
    if text is None:
        head = ["# What the policies are meant to say of known images: policyguard policy test cases.yaml"]
        head += ["policies:", f"  {case.policy}: {json.dumps(case.source)}", "", "images:"]
        lines = [*head, *(f"  {line}" for line in case.lines(case.policy))]
        name, policies = case.policy, {case.policy: PolicyUnderTest(source=case.source)}
        expected = CaseFile(policies=policies, images=(wanted,))
    else:
        document = parse(text.encode(), file)
        before = validated(document)
        if document.problems:
            raise PolicyError(document.problems)
        name, expected = _expected(before, case, wanted, document)
        lines = text.splitlines()
        for at, new in sorted(_edits(document, lines, before, case, name), key=lambda edit: -edit[0]):
            lines[at:at] = new
    result = "\n".join(lines) + "\n"
    try:
        after = validated(parse(result.encode(), file))
    except PolicyError:
        after = None
    if after != expected:
        raise ConfigurationError(
            f"{file} is not written line by line, so that nothing can be put into it",
            hint="add this by hand:\n" + "\n".join(case.lines(name)),
        )
    return result


def _wanted(case: NewCase) -> ImageCase:
    try:
        return ImageCase(image=case.image, note=case.note, expect={case.policy: case.expectation()})
    except ValidationError as error:
        where = error.errors()[0]["loc"][0]
        raise ConfigurationError(f"the {where} cannot be written: {error.errors()[0]['msg']}") from None


def _expected(before: CaseFile, case: NewCase, wanted: ImageCase, document: Document) -> tuple[str, CaseFile]:
    """What the policy is called in the file, and what the file should say."""
    policies = dict(before.policies)
    plainly = (
        name for name, each in policies.items() if not each.parameters and _same(each.source, case.source)
    )
    name = next(plainly, None)
    if name is None:
        name = case.policy
        while name in policies:
            name += "-2"
        policies[name] = PolicyUnderTest(source=case.source)
    images: list[Any] = list(before.images)
    place = next((n for n, each in enumerate(images) if _same(each.image, case.image)), None)
    if place is None:
        images.append(wanted.model_copy(update={"expect": {name: case.expectation()}}))
    else:
        known = images[place]
        if name in known.expect:
            line = document.root.locate(("images", place, "expect", name), key=True).line
            raise ConfigurationError(
                f"{document.file}:{line} says already what '{name}' should say of this image",
                hint="change that line",
            )
        images[place] = known.model_copy(update={"expect": {**known.expect, name: case.expectation()}})
    return name, before.model_copy(update={"policies": policies, "images": tuple(images)})


def _same(one: str, other: str) -> bool:
    return PurePosixPath(one) == PurePosixPath(other)


def _edits(
    document: Document, lines: list[str], before: CaseFile, case: NewCase, name: str
) -> Iterable[tuple[int, list[str]]]:
    """Which lines to put in, and before which line, counted from 0."""
    root = document.root
    if name not in before.policies:
        column = root.locate(("policies", next(iter(before.policies))), key=True).column
        yield _end(document, lines, "policies"), [f"{' ' * (column - 1)}{name}: {json.dumps(case.source)}"]
    place = next((n for n, each in enumerate(before.images) if _same(each.image, case.image)), None)
    if place is not None:
        first = root.locate(("images", place, "expect", next(iter(before.images[place].expect))), key=True)
        yield first.line - 1, [" " * (first.column - 1) + case.line(name)]
    elif before.images:
        opening = lines[root.locate(("images", 0)).line - 1]
        lead = opening[: len(opening) - len(opening.lstrip())]
        yield _end(document, lines, "images"), [f"{lead}{line}" for line in case.lines(name)]
    else:
        yield len(lines), ["", "images:", *(f"  {line}" for line in case.lines(name))]


def _end(document: Document, lines: list[str], key: str) -> int:
    """Behind the last line of a top-level key, without the blank lines and comments before the next one."""
    begin = document.root.keys[key].line
    end = min(
        (place.line - 1 for place in document.root.keys.values() if place.line > begin), default=len(lines)
    )
    while end > begin and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end
