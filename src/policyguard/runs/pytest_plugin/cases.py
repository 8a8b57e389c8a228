"""Files of policy tests as pytest items: one for each image, or pair, and policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from policyguard.errors import UsageError

if TYPE_CHECKING:
    from policyguard.authoring.cases import CaseResult, Cases
    from policyguard.runs.pytest_plugin.suite import Suite

__all__ = ["CaseFile"]


class _CaseFailed(Exception):  # noqa: N818 (its text is what pytest shows)
    """A case is not as expected."""


class CaseFile(pytest.File):
    """A file in the format of ``policyguard policy test``."""

    suite: Suite

    def collect(self) -> Iterable[CaseItem]:
        from policyguard.authoring.cases import load_cases

        try:
            cases = load_cases(self.path)
        except UsageError as error:
            raise self.CollectError(str(error)) from None
        for index, case in enumerate(cases.content.images):
            for policy in case.expect:
                only = case.model_copy(update={"expect": {policy: case.expect[policy]}})
                line = cases.line("images", index, "expect", policy)
                yield self._item(case.image, policy, _part(cases, policy, images=(only,)), line)
        for index, pair in enumerate(cases.content.pairs):
            for policy in pair.policies or tuple(cases.policies):
                part = _part(cases, policy, pairs=(pair.model_copy(update={"policies": (policy,)}),))
                yield self._item(f"{pair.unsafe} / {pair.safe}", policy, part, cases.line("pairs", index))

    def _item(self, name: str, policy: str, cases: Cases, line: int) -> CaseItem:
        return CaseItem.from_parent(self, name=f"{name}[{policy}]", cases=cases, line=line)


class CaseItem(pytest.Item):
    """One image, or one pair, under one policy."""

    def __init__(self, *, cases: Cases, line: int, **options: Any) -> None:
        super().__init__(**options)
        self.cases = cases
        self.line = line

    def runtest(self) -> None:
        from policyguard.authoring.cases import Status, run_cases

        assert isinstance(self.parent, CaseFile)
        try:
            backend = self.parent.suite.backend(tuple(self.cases.policies.values()))
            (result,) = run_cases(self.cases, backend=backend).results
        except UsageError as error:
            raise _CaseFailed(str(error)) from None
        if result.status is Status.XFAILED:
            pytest.xfail(f"{result.xfail} ({'; '.join(result.failures)})")
        if not result.status.good:
            raise _CaseFailed("\n".join(_lines(result)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, _CaseFailed):
            return f"{self.path}:{self.line}: {self.name}\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int, str]:
        # In front of a bare name pytest would show dots as ``::``.
        return self.path, self.line - 1, f"case {self.name}"


def _part(cases: Cases, policy: str, *, images: Any = (), pairs: Any = ()) -> Cases:
    """The file with one case under one policy."""
    content = cases.content.model_copy(update={"images": images, "pairs": pairs})
    return replace(cases, content=content, policies={policy: cases.policies[policy]})


def _lines(result: CaseResult) -> Iterable[str]:
    from policyguard.strict.text import one_line

    yield from (f"  {one_line(message)}" for message in result.messages)
    if result.note:
        yield f"  note: {one_line(result.note)}"
    for verdict in result.verdicts:
        yield f"  {one_line(verdict.summary())}"
