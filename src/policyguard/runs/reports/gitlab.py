"""GitLab's code quality report: a list of findings, which merge requests show as new, fixed or unchanged.

What the baseline accepts is left out: GitLab has no such state. Images that could not be judged, and those
that were not checked, are findings of their own, so that a merge request does not look clean because of them.
"""

from __future__ import annotations

import hashlib
from itertools import chain
from pathlib import Path

from policyguard.outcomes import Action
from policyguard.runs.reports.text import (
    Repository,
    describe,
    json_line,
    reason_line,
    violations,
    visible_line,
)
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary
from policyguard.strict.files import Spool, write_report

__all__ = ["GitLabReport"]

_SEVERITIES = {Action.BLOCK: "critical", Action.FLAG: "minor", Action.ALLOW: "info"}


class GitLabReport:
    """See the module's description."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = Spool()

    def begin(self, run: RunInfo) -> None:
        self._repository = Repository(run.root)

    def add(self, image: CheckedImage) -> None:
        verdict = image.verdict
        content = verdict.evidence.image_sha256 or ""
        if image.status is ImageStatus.UNJUDGED:
            self._add("major", "unjudged", f"could not be judged: {reason_line(image)}", image.path, content)
        elif verdict.degraded:
            self._add("minor", "unjudged", reason_line(image), image.path, content)
        elif image.status in (ImageStatus.FAILED, ImageStatus.FLAGGED):
            for finding in violations(image):
                action = finding.action if finding.attributed else verdict.action
                description = f"{describe(finding, several=True)} {verdict.rationale or ''}".strip()
                rule = f"{finding.policy}/{finding.rule}"
                self._add(_SEVERITIES[action], rule, description, image.path, content)
            if not violations(image):
                rule = f"{image.policies[0]}/*"
                self._add(_SEVERITIES[verdict.action], rule, reason_line(image), image.path, content)

    def finish(self, summary: RunSummary) -> None:
        for unchecked in summary.unchecked:
            self._add("major", "not-checked", f"not checked: {unchecked.reason}", unchecked.path)
        for problem in summary.problems:
            self._add("major", "set-up", problem, ".", problem)
        try:
            write_report(self._path, chain(["[\n"], self._items.joined(",\n"), ["]\n"]))
        finally:
            self._items.close()

    def _add(self, severity: str, check: str, description: str, path: str, content: str = "") -> None:
        path = path if path == "." else self._repository.path(path)
        identity = "\n".join(("policyguard/1", check, path, content)).encode("utf-8", "surrogatepass")
        item = {
            "description": visible_line(description),
            "check_name": check,
            "fingerprint": hashlib.sha256(identity).hexdigest()[:40],
            "severity": severity,
            "location": {"path": path, "lines": {"begin": 1}},
        }
        self._items.append(json_line(item))
