"""SARIF 2.1.0, as code scanning services read it.

One rule per policy rule, one result per rule that an image breaks. Images that could not be judged are
notifications of the invocation: they are no findings, and code scanning has no place for them.

Covered: GitHub refuses a file with more than 25,000 results or 10 MB after compression; results beyond that
are left out, the least severe first, and a notification says how many. A model's words cannot become a link.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from policyguard.outcomes import Action
from policyguard.runs.reports.text import (
    Repository,
    RunRule,
    accepted_by,
    clip,
    json_line,
    number_rules,
    reason_line,
    run_rules,
    violations,
    visible_line,
)
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary
from policyguard.strict.files import Spool, write_report
from policyguard.verdict import Finding

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["SarifReport"]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Action.BLOCK: "error", Action.FLAG: "warning", Action.ALLOW: "note"}
_MAX_RESULTS = 25_000
_MAX_COMPRESSED = 9 * 1024 * 1024
"""Bytes; the limit is 10 MB, and some of it is for everything around the results."""
_MAX_NOTIFICATIONS = 1_000
_LONGEST = 1000
_REGION = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
"""An image has no lines; code scanning shows no result without one."""


class SarifReport:
    """See the module's description."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results = {level: Spool() for level in ("error", "warning", "note")}
        self._notifications = Spool()
        self._omitted_notifications = 0
        self._unjudged = 0
        self._run: RunInfo
        self._rules: tuple[RunRule, ...] = ()

    def begin(self, run: RunInfo) -> None:
        self._run = run
        self._repository = Repository(run.root)
        self._rules = run_rules(run.policies)
        self._numbers = number_rules(self._rules)
        self._policies = list({info.policy.id: info.policy for info in run.policies}.values())

    def add(self, image: CheckedImage) -> None:
        verdict = image.verdict
        if image.status is ImageStatus.UNJUDGED or verdict.degraded:
            self._unjudged += image.status is ImageStatus.UNJUDGED
            level = "error" if image.status is ImageStatus.UNJUDGED else "warning"
            self._notify(level, reason_line(image), path=image.path)
        if image.status is ImageStatus.PASSED or image.status is ImageStatus.UNJUDGED:
            return
        findings = violations(image)
        for finding in findings:
            number = self._numbers[finding.policy, finding.rule]
            self._add(image, f"{finding.policy}/{finding.rule}", number, finding)
        if not findings and not verdict.degraded:
            place = [policy.id for policy in self._policies].index(image.policies[0])
            self._add(image, f"{image.policies[0]}/*", len(self._rules) + place, None)

    def finish(self, summary: RunSummary) -> None:
        for unchecked in summary.unchecked:
            self._notify("error", f"not checked: {unchecked.reason}", path=unchecked.path)
        try:
            write_report(self._path, self._document(summary))
        finally:
            for spool in (*self._results.values(), self._notifications):
                spool.close()

    def _add(self, image: CheckedImage, rule: str, number: int, finding: Finding | None) -> None:
        action = image.verdict.action if finding is None or not finding.attributed else finding.action
        spool = self._results[_LEVELS[action]]
        if spool.count > _MAX_RESULTS:  # one more than can be used, so that some are known to be left out
            spool.count += 1
            return
        result: dict[str, Any] = {
            "ruleId": rule,
            "ruleIndex": number,
            "level": _LEVELS[action],
            "message": {"text": _plain(_message(image, finding))},
            "locations": [self._location(image.path)],
            "partialFingerprints": {"primaryLocationLineHash": _fingerprint(image, rule)},
        }
        if finding is not None and finding.score is not None:
            result["rank"] = round(min(1.0, finding.score) * 100, 2)
        if image.status is ImageStatus.ACCEPTED:
            reason = accepted_by(image.baseline)
            result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
        spool.append(json_line(result))

    def _location(self, path: str) -> dict[str, Any]:
        path = self._repository.path(path)
        uri = quote(_encoded(path))
        place = {"uri": f"file://{uri}"} if path.startswith("/") else {"uri": uri, "uriBaseId": "%SRCROOT%"}
        return {"physicalLocation": {"artifactLocation": place, "region": _REGION}}

    def _notify(self, level: str, text: str, *, path: str) -> None:
        if self._notifications.count >= _MAX_NOTIFICATIONS:
            self._omitted_notifications += 1
            return
        item = {
            "level": level,
            "message": {"text": _plain(visible_line(text))},
            "locations": [self._location(path)],
        }
        self._notifications.append(json_line(item))

    def _document(self, summary: RunSummary) -> Iterator[str]:
        used = self._fitting()
        left_out = sum(spool.count for spool in self._results.values()) - sum(used.values())
        run = {
            "tool": {"driver": self._driver()},
            "columnKind": "unicodeCodePoints",
            "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The root of the repository"}}},
            "properties": {"model": summary.model.to_dict()},
        }
        head = json_line({"$schema": _SCHEMA, "version": "2.1.0", "runs": []})
        yield f"{head[:-2]}\n{json_line(run)[:-1]},\n"
        yield from self._invocation(summary, left_out)
        yield '"results":[\n'
        lead = ""
        for level, spool in self._results.items():
            for line, _ in zip(spool, range(used[level]), strict=False):
                yield f"{lead}{line[:-1]}"
                lead = ",\n"
        yield "\n]}]}\n"

    def _invocation(self, summary: RunSummary, left_out: int) -> Iterator[str]:
        notes = [
            {"level": "error", "message": {"text": _plain(visible_line(problem))}}
            for problem in summary.problems
        ]
        if left_out:
            message = f"{left_out:,} results are left out: code scanning takes {_MAX_RESULTS:,}, or 10 MB"
            notes.append({"level": "warning", "message": {"text": message}})
        if self._omitted_notifications:
            message = f"{self._omitted_notifications:,} more images could not be judged, or were not checked"
            notes.append({"level": "error", "message": {"text": message}})
        complete = not (summary.stopped or summary.unchecked or summary.problems or self._unjudged)
        ended = self._run.started + timedelta(seconds=summary.seconds)
        invocation: dict[str, Any] = {
            "commandLine": visible_line(" ".join(self._run.command)),
            "executionSuccessful": complete,
            "exitCode": int(summary.exit_code),
            "startTimeUtc": _utc(self._run.started.isoformat()),
            "endTimeUtc": _utc(ended.isoformat()),
            "toolConfigurationNotifications": notes,
        }
        yield f'"invocations":[{json_line(invocation)[:-1]},"toolExecutionNotifications":[\n'
        yield from self._notifications.joined(",\n")
        yield "]}],\n"

    def _fitting(self) -> dict[str, int]:
        """How many results of each level fit, the most severe first."""
        squeeze = zlib.compressobj(6)
        size, left, used = 0, _MAX_RESULTS, {}
        for level, spool in self._results.items():
            used[level] = 0
            for line in spool:
                if not left or size > _MAX_COMPRESSED:
                    break
                size += len(squeeze.compress(line.encode()))
                left -= 1
                used[level] += 1
        return used

    def _driver(self) -> dict[str, Any]:
        return {
            "name": "PolicyGuard",
            "version": visible_line(self._run.version),
            "rules": [*map(_descriptor, self._rules), *map(_unattributed, self._policies)],
        }


def _descriptor(rule: RunRule) -> dict[str, Any]:
    policy = rule.policy
    head = f"{rule.rule.title} ({policy.title}, {policy.id} {policy.version})"
    configuration: dict[str, Any] = {"level": _LEVELS[rule.action]}
    if rule.rule.status == "exempt":
        configuration["enabled"] = False
    text = _plain("\n".join(visible_line(line) for line in rule.text.splitlines()))
    return {
        "id": rule.name,
        "name": clip(visible_line(rule.rule.title), 255),
        "shortDescription": {"text": _plain(visible_line(head, _LONGEST))},
        "fullDescription": {"text": _plain(visible_line(rule.rule.description or head, _LONGEST))},
        "help": {"text": text, "markdown": _preformatted(text)},
        "defaultConfiguration": configuration,
        "properties": {"tags": ["policyguard", policy.id], "threshold": rule.threshold},
    }


def _unattributed(policy: ResolvedPolicy) -> dict[str, Any]:
    """The rule for images that break the policy where the model names no rule."""
    head = _plain(
        visible_line(f"{policy.title} ({policy.id} {policy.version}), attributed to no rule", _LONGEST)
    )
    return {
        "id": f"{policy.id}/*",
        "shortDescription": {"text": head},
        "fullDescription": {"text": head},
        "help": {"text": head},
        "defaultConfiguration": {"level": _LEVELS[policy.action]},
        "properties": {"tags": ["policyguard", policy.id]},
    }


def _message(image: CheckedImage, finding: Finding | None) -> str:
    verdict = image.verdict
    if finding is None:
        message = reason_line(image)
    else:
        score = "" if finding.score is None else f", with score {finding.score:.2f}"
        closest = "" if finding.attributed else ", the closest rule"
        message = f"This image breaks '{finding.title}' of {finding.policy}{closest}{score}."
    return visible_line(f"{message} {verdict.rationale or ''}", _LONGEST)


def _fingerprint(image: CheckedImage, rule: str) -> str:
    """Of the rule and the image's content, and not of its name, so that a moved image stays the same alert.

    An alert is dismissed for exactly these bytes: another image in its place is a new alert.
    """
    content = image.verdict.evidence.image_sha256 or f"path:{image.path}"
    identity = f"policyguard/1\n{rule}\n{content}".encode("utf-8", "surrogatepass")
    return f"{hashlib.sha256(identity).hexdigest()[:32]}:1"


def _encoded(path: str) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:  # no valid file name on this system
        return path.encode("utf-8", "surrogatepass")


def _plain(text: str) -> str:
    """``text`` in which a viewer finds neither a link nor a placeholder."""
    return re.sub(r"\](?=\()", "] ", text).replace("{", "(").replace("}", ")")


def _preformatted(text: str) -> str:
    """``text`` as a block of Markdown that shows it as it is."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _utc(moment: str) -> str:
    return re.sub(r"(\.\d+)?\+00:00$", "Z", moment)
