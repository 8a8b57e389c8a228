"""The formats by name. A new one is a line in ``_FILES`` and a module with a class."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TextIO, cast

from policyguard.runs.reports.base import Report, ReportSpec
from policyguard.strict.files import prepare
from policyguard.errors import UsageError
from policyguard.strict.explain import nearest

__all__ = ["FORMATS", "open_report", "parse_report"]

_FILES = {
    "junit": "junit:JUnitReport",
    "sarif": "sarif:SarifReport",
    "gitlab": "gitlab:GitLabReport",
    "html": "html:HtmlReport",
    "markdown": "markdown:MarkdownReport",
    "json": "data:JsonReport",
}
_OPTIONS = {"html": ("thumbnails",)}
FORMATS = (*_FILES, "github")


def parse_report(text: str) -> ReportSpec:
    """Read ``FORMAT=FILE``, ``FORMAT:OPTION=FILE`` or ``github``. Raises UsageError."""
    left, equals, path = text.partition("=")
    name, *options = left.split(":")
    if name not in FORMATS:
        meant = nearest(name, list(FORMATS))
        guess = f"did you mean {meant!r}?" if meant else f"known are {', '.join(FORMATS)}"
        raise UsageError(f"there is no report {name!r}: {guess}")
    known = _OPTIONS.get(name, ())
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"the report {name!r} has no option {option!r}: {has}")
    if name == "github":
        if equals:
            raise UsageError(
                "the report 'github' goes to the log and to the job summary", hint="give --report github"
            )
        return ReportSpec(name)
    if not path:
        raise UsageError(f"the report {name!r} needs a file", hint=f"give --report {left}=FILE")
    if "\0" in path:
        raise UsageError(f"the report {name!r} cannot go to a file with a NUL in its name")
    return ReportSpec(name, Path(path), frozenset(options))


def open_report(spec: ReportSpec, *, log: TextIO) -> Report:
    """The report that ``spec`` asks for; Without a file, it goes to ``log``. Raises OSError."""
    if spec.path is None:
        from policyguard.runs.reports.github import GitHubReport

        return GitHubReport(log)
    prepare(spec.path)
    module, _, name = _FILES[spec.format].partition(":")
    made = getattr(import_module(f"policyguard.runs.reports.{module}"), name)
    return cast("Report", made(spec.path, **dict.fromkeys(spec.options, True)))
