"""The whole run as one JSON document, for programs; docs/report.schema.json says its form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policyguard.runs.reports.text import json_line
from policyguard.runs.run import CheckedImage, RunInfo, RunSummary
from policyguard.strict.files import Spool, write_report

__all__ = ["FORMAT_VERSION", "JsonReport"]

FORMAT_VERSION = 1
"""Raised when a field goes away or changes its meaning; new fields may come at any time."""


class JsonReport:
    """``run``, then ``images`` (one per line, in the order of the run), then ``summary``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images = Spool()
        self._head = ""

    def begin(self, run: RunInfo) -> None:
        self._head = json_line(
            {
                "version": run.version,
                "command": list(run.command),
                "started": run.started.isoformat(),
                "images": run.images,
                "policies": [
                    {
                        "id": info.policy.id,
                        "version": info.policy.version,
                        "title": info.policy.title,
                        "fingerprint": info.policy.fingerprint,
                        "decision_fingerprint": info.policy.decision_fingerprint,
                        "name": info.name,
                        "file": info.file,
                    }
                    for info in run.policies
                ],
            }
        )

    def add(self, image: CheckedImage) -> None:
        item = {
            "path": image.path,
            "status": image.status,
            "policies": list(image.policies),
            "baseline": [entry.to_dict() for entry in image.baseline],
            "verdict": image.verdict.to_dict(),
        }
        self._images.append(json_line(item))

    def finish(self, summary: RunSummary) -> None:
        try:
            write_report(self._path, self._document(summary))
        finally:
            self._images.close()

    def _document(self, summary: RunSummary) -> Iterator[str]:
        yield f'{{"format":"policyguard-report","format_version":{FORMAT_VERSION},\n'
        yield f'"run":{self._head},\n"images":[\n'
        yield from self._images.joined(",\n")
        yield "],\n"
        yield f'"summary":{json_line(_summary(summary))[:-1]},"unchecked":['
        lead = "\n"
        for item in summary.unchecked:
            yield f"{lead}{json_line({'path': item.path, 'reason': item.reason})}"
            lead = ",\n"
        yield "]}}\n"


def _summary(summary: RunSummary) -> dict[str, Any]:
    return {
        "exit_code": int(summary.exit_code),
        "stopped": summary.stopped,
        "seconds": round(summary.seconds, 3),
        "counts": dict(summary.counts),
        "cached": summary.cached,
        "ignored": summary.ignored,
        "model": summary.model.to_dict(),
        "problems": list(summary.problems),
        "stale": [entry.to_dict() for entry in summary.stale],
    }
