"""Files of policy tests: what they hold, and how they are read, as the same safe YAML as policies.

Covered: every mistake is reported at once, each with its place. Images and policies are named relative to the
file and stay inside its policy root, links included; see ``policyguard.strict.inside``. Images are read
through it too, when they are judged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from policyguard.errors import PolicyError, Problem
from policyguard.outcomes import Action, Outcome
from policyguard.policy.fields import SLUG, Band, Line, Lines, Share, listed, schema_error
from policyguard.policy.files import is_path
from policyguard.policy.hints import number_meant
from policyguard.policy.load import load_policy, read_document
from policyguard.policy.resolved import ResolvedPolicy
from policyguard.strict.documents import Document, plain
from policyguard.strict.explain import (
    FieldPath,
    Hints,
    capped,
    explain,
    nearest,
    nearest_file,
    problem_at,
    seen,
)
from policyguard.strict.inside import OutsideError, find_root, include_parts, read_inside
from policyguard.strict.text import quoted, visible

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "CaseFile",
    "Cases",
    "Expectation",
    "Folder",
    "ImageCase",
    "PairCase",
    "PathRefused",
    "PolicyUnderTest",
    "load_cases",
]


class PathRefused(Exception):  # noqa: N818 (it never leaves this package; its text becomes a Problem)
    """What is wrong with a path, in one sentence."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a file, inside a root. ``steps`` lead from ``root`` to it."""

    root: str
    steps: tuple[str, ...]

    @classmethod
    def of(cls, file: Path, root: str | Path | None) -> Self:
        """The folder of ``file``. Raises PolicyError if it lies outside ``root``."""
        folder = os.path.realpath(file.parent)
        top = find_root(folder) if root is None else os.path.realpath(root)
        try:
            return cls(top, Path(folder).relative_to(top).parts)
        except ValueError:
            raise PolicyError([Problem(f"this file lies outside the root {top}", str(file))]) from None

    def find(self, name: str) -> Path:
        """The file that ``name`` means. Raises PathRefused if it is not a file inside the root."""
        _, steps = self._read(name, 0)
        return Path(self.root, *steps)

    def read(self, name: str, limit: int) -> bytes:
        """At most ``limit + 1`` of its bytes. Raises PathRefused."""
        return self._read(name, limit)[0]

    def _read(self, name: str, limit: int) -> tuple[bytes, tuple[str, ...]]:
        parts = include_parts(name)
        if isinstance(parts, str):
            raise PathRefused(parts)
        try:
            return read_inside(self.root, [*self.steps, *parts], limit=limit)
        except OutsideError as error:
            raise PathRefused(f"{error.strerror}: {self.root}") from None
        except FileNotFoundError:
            raise PathRefused(self._missing(name)) from None
        except IsADirectoryError:
            raise PathRefused("this is a folder") from None
        except (OSError, ValueError) as error:
            raise PathRefused(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None

    def _missing(self, name: str) -> str:
        """What to say of a file that is not there. Names of files outside the root are told to nobody."""
        folder, slash, file = name.rpartition("/")
        place = os.path.realpath(Path(self.root, *self.steps, folder))
        message = f"there is no file {quoted(name)}"
        try:
            known = sorted(os.listdir(place)) if Path(place).is_relative_to(self.root) else []  # noqa: PTH208
        except FileNotFoundError:
            known, message = [], f"{message}, and no folder {quoted(folder)}"
        except OSError:
            known = []
        if close := nearest_file(file, known):
            return f"{message}: did you mean {visible(f'{folder}{slash}{close}')}?"
        return f"{message}: a path starts at the folder of this file"


MAX_CASES = 5000
Parameter = str | int | float | bool


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _source(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


def _outcome(value: object) -> object:
    return {"outcome": value} if isinstance(value, str) else value


class PolicyUnderTest(_Model):
    """A policy: ``source`` is a file, from the cases' folder, or a packaged name. A lone text is a source."""

    source: Line
    parameters: Mapping[str, Parameter | None] = Field(default_factory=dict)


class Expectation(_Model):
    """What one policy should say of one image. What is left out is not looked at.

    ``findings``: the ids of exactly the rules that it breaks, in any order. ``score``: P(unsafe), give or
    take ``tolerance`` (default: the file's). ``between``: the least and the highest score, both included.
    ``xfail``: why it is known not to hold; it fails once it does. A lone text is an outcome.
    """

    outcome: Outcome | None = None
    action: Action | None = None
    findings: Lines | None = None
    score: Share | None = None
    tolerance: Share | None = None
    between: Band | None = None
    xfail: Line | None = None

    @model_validator(mode="after")
    def _expects_something(self) -> Self:
        if all(getattr(self, name) is None for name in ("outcome", "action", "findings", "score", "between")):
            raise schema_error(
                "expects_nothing", "expects nothing: give outcome, action, findings, score or between"
            )
        if self.tolerance is not None and self.score is None:
            raise schema_error("tolerance", "tolerance goes with `score:`, and there is none")
        return self


class ImageCase(_Model):
    """One image, and what each policy should say of it, by the policy's short name."""

    image: Line
    note: Line | None = None
    expect: Annotated[dict[str, Annotated[Expectation, BeforeValidator(_outcome)]], Field(min_length=1)]


class PairCase(_Model):
    """An edit pair: two images that differ in one place, of which one violates and the other complies.

    ``policies``: short names (default: all). ``rule``: what the unsafe one breaks. ``margin``: by how much
    its score must be higher.
    """

    unsafe: Line
    safe: Line
    note: Line | None = None
    policies: Lines | None = None
    rule: Line | None = None
    margin: Share = 0.0
    xfail: Line | None = None


class CaseFile(_Model):
    """Policies under short names, images with expectations, and edit pairs."""

    policies: Annotated[
        dict[
            Annotated[str, Field(strict=True, pattern=f"^{SLUG}$")],
            Annotated[PolicyUnderTest, BeforeValidator(_source)],
        ],
        Field(min_length=1),
    ]
    tolerance: Share = 0.05
    images: Annotated[tuple[ImageCase, ...], BeforeValidator(listed), Field(max_length=MAX_CASES)] = ()
    pairs: Annotated[tuple[PairCase, ...], BeforeValidator(listed), Field(max_length=MAX_CASES)] = ()

    @model_validator(mode="after")
    def _holds_cases(self) -> Self:
        if not self.images and not self.pairs:
            raise schema_error("no_cases", "nothing to test: list images under `images:` or `pairs:`")
        return self


@dataclass(frozen=True, slots=True)
class Cases:
    """A file of policy tests, ready to run. Its images are read, through ``folder``, when they are judged."""

    file: Path
    content: CaseFile
    policies: Mapping[str, ResolvedPolicy]
    folder: Folder
    document: Document

    def line(self, *path: str | int) -> int:
        """The line on which the value at ``path`` begins."""
        return self.document.root.locate(path, key=isinstance(path[-1], str)).line


def load_cases(file: str | Path, *, root: str | Path | None = None) -> Cases:
    """The cases in ``file``, with their policies loaded and their images found (but not opened).

    ``root``: the folder that images and policies must lie in; default: the policy root of ``file``.
    Raises PolicyError with everything that is wrong, of the policies too.
    """
    path = Path(file)
    document = _read(path)
    content = validated(document)
    finder = _Finder(document, content, Folder.of(path, root))
    problems = [*document.problems, *finder.problems()]
    if problems:
        raise PolicyError(_sorted(problems, str(path)))
    return Cases(path, content, finder.policies, finder.folder, document)


def _read(path: Path) -> Document:
    try:
        return read_document(path)
    except PolicyError as error:  # the reader speaks of policies
        rewordings = (("a policy is a mapping", "a file of cases is a mapping"), ("no policy:", "no cases:"))
        problems = list(error.problems)
        for old, new in rewordings:
            if any(old in problem.message for problem in problems):
                problems = [replace(p, message=p.message.replace(old, new)) for p in problems]
                hint = "start with `policies:` and `images:` at the left margin"
                raise PolicyError(problems, hint=hint) from None
        raise


def _message(item: ErrorDetails) -> str | None:
    number = number_meant(item["type"], item["input"])
    return number and f"expected a number from 0 to 1, found {seen(item['input'])}: write {number}"


_HINTS = Hints(message=_message)


def validated(document: Document) -> CaseFile:
    """What the file says. Raises PolicyError."""
    try:
        return CaseFile.model_validate(plain(document.root))
    except ValidationError as error:
        problems = explain(error, CaseFile, document.file, hints=_HINTS, locate=document.root.locate)
        raise PolicyError(_sorted([*document.problems, *problems], document.file)) from None


def _sorted(problems: list[Problem], file: str) -> list[Problem]:
    """Those of ``file`` first, in its order."""
    return capped(sorted(problems, key=lambda p: (p.file != file, p.line or 0, p.column or 0)))


class _Finder:
    """Finds what the cases name, and collects what cannot be found."""

    def __init__(self, document: Document, content: CaseFile, folder: Folder) -> None:
        self.policies: dict[str, ResolvedPolicy] = {}
        self.folder = folder
        self._document, self._content = document, content

    def problems(self) -> list[Problem]:
        return [*self._load_policies(), *self._image_cases(), *self._pair_cases()]

    def _load_policies(self) -> Iterator[Problem]:
        for name, under_test in self._content.policies.items():
            source, parameters = under_test.source, under_test.parameters
            try:
                if is_path(source):
                    policy = load_policy(
                        self.folder.find(source), root=self.folder.root, parameters=parameters
                    )
                else:
                    policy = load_policy(source, parameters=parameters)
            except PathRefused as refused:
                yield self._wrong(("policies", name), str(refused))
            except PolicyError as error:
                yield self._wrong(("policies", name), "this policy cannot be used:")
                yield from error.problems
            else:
                self.policies[name] = policy.resolve()

    def _image_cases(self) -> Iterator[Problem]:
        seen: dict[str, int] = {}
        for index, case in enumerate(self._content.images):
            yield from self._find(("images", index, "image"), case.image)
            earlier = seen.setdefault(case.image, index)
            if earlier != index:
                message = f"this image is case {earlier + 1} already: put its expectations together"
                yield self._wrong(("images", index, "image"), message)
            for name, expected in case.expect.items():
                path: FieldPath = ("images", index, "expect", name)
                if name not in self._content.policies:
                    yield self._unknown(path, name, list(self._content.policies), "policy", key=True)
                    continue
                for place, rule in enumerate(expected.findings or ()):
                    yield from self._rule((*path, "findings", place), rule, name)

    def _pair_cases(self) -> Iterator[Problem]:
        for index, pair in enumerate(self._content.pairs):
            path: FieldPath = ("pairs", index)
            yield from self._find((*path, "unsafe"), pair.unsafe)
            yield from self._find((*path, "safe"), pair.safe)
            for place, name in enumerate(pair.policies or ()):
                if name not in self._content.policies:
                    known = list(self._content.policies)
                    yield self._unknown((*path, "policies", place), name, known, "policy")
                elif pair.rule is not None:
                    yield from self._rule((*path, "rule"), pair.rule, name)
            if pair.rule is not None and pair.policies is None:
                for name in self._content.policies:
                    yield from self._rule((*path, "rule"), pair.rule, name)

    def _find(self, path: FieldPath, name: str) -> Iterator[Problem]:
        try:
            self.folder.find(name)
        except PathRefused as refused:
            yield self._wrong(path, str(refused))

    def _rule(self, path: FieldPath, rule: str, policy: str) -> Iterator[Problem]:
        if policy in self.policies:
            known = [known.id for known in self.policies[policy].rules]
            if rule not in known:
                yield self._unknown(path, rule, known, f"rule in policy '{policy}'")

    def _unknown(
        self, path: FieldPath, name: str, known: list[str], what: str, *, key: bool = False
    ) -> Problem:
        close = nearest(name, known)
        guess = f"did you mean {close!r}?" if close else f"there are {', '.join(known[:12])}"
        return self._wrong(path, f"there is no {what} called {name[:64]!r}: {guess}", key=key)

    def _wrong(self, path: FieldPath, message: str, *, key: bool = False) -> Problem:
        return problem_at(path, message, self._document.file, self._document.root.locate, key=key)
