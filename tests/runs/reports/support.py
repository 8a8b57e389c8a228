"""A run that never happened: policies, images of every kind, and reports on it. Everything in it is fixed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from policyguard.assessment import ModelIdentity, Reading, Timings
from policyguard.outcomes import Action, Outcome
from policyguard.policy import parse_policy
from policyguard.runs.baseline import BaselineEntry
from policyguard.runs.reports import open_report, parse_report
from policyguard.runs.run import CheckedImage, ImageStatus, PolicyInfo, RunInfo, RunSummary, Stop, Unchecked
from policyguard.verdict import Evidence, Finding, Verdict

MODEL = ModelIdentity("tiny/guard", revision="sha256:" + "0" * 64, dialect="instruct", backend="fake")
STARTED = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)
FILES = ("junit", "sarif", "gitlab", "html", "markdown", "json")
SECRET = "the lady in the blue house"

HOUSE = parse_policy(
    {
        "id": "house",
        "version": "1.2.0",
        "title": "House rules",
        "description": "What our pages do not show.",
        "rules": [
            {"id": "arms", "title": "Weapons", "unsafe": ["guns", "knives as weapons"], "safe": ["kitchens"]},
            {"id": "drugs", "title": "Drugs", "unsafe": ["pills"], "threshold": 0.7, "action": "flag"},
            {"id": "art", "title": "Art", "unsafe": ["statues"], "status": "exempt"},
        ],
    }
).resolve()
ADS = parse_policy(
    {
        "id": "team/ads",
        "version": "0.1.0",
        "title": "Ads",
        "rules": [{"id": "smoke", "title": "Smoking", "unsafe": ["cigarettes"]}],
    }
).resolve()


def finding(rule: str = "arms", score: float | None = 0.91, **changes: Any) -> Finding:
    policy = ADS if rule == "smoke" else HOUSE
    known = policy.rule(rule)
    values: dict[str, Any] = {
        "rule": rule,
        "title": known.title,
        "violates": True,
        "score": score,
        "action": known.action or policy.action,
        "policy": policy.id,
    }
    return Finding(**values | changes)


def image(
    path: str = "art/a.png",
    status: ImageStatus = ImageStatus.PASSED,
    *findings: Finding,
    content: str | None = None,
    policies: tuple[str, ...] = ("house",),
    **changes: Any,
) -> CheckedImage:
    """An image with a verdict that fits its status."""
    outcome, action = {
        ImageStatus.PASSED: (Outcome.COMPLIES, Action.ALLOW),
        ImageStatus.FLAGGED: (Outcome.VIOLATES, Action.FLAG),
        ImageStatus.FAILED: (Outcome.VIOLATES, Action.BLOCK),
        ImageStatus.ACCEPTED: (Outcome.VIOLATES, Action.BLOCK),
        ImageStatus.UNJUDGED: (Outcome.UNSCANNABLE, Action.BLOCK),
    }[status]
    seen = (path if content is None else content).encode("utf-8", "surrogatepass")
    sha256 = hashlib.sha256(seen).hexdigest()
    evidence = Evidence(
        ({"id": "house", "version": "1.2.0", "fingerprint": HOUSE.fingerprint},),
        MODEL,
        Reading.FAST,
        image_sha256=sha256,
        size=(64, 48),
        frames=1,
        timings=Timings(0.001, 0.05, 0.051),
    )
    values: dict[str, Any] = {
        "source": path,
        "outcome": outcome,
        "action": action,
        "score": max((f.score for f in findings if f.score is not None), default=None),
        "findings": findings,
        "rationale": None,
        "reason": "the file is not an image" if status is ImageStatus.UNJUDGED else None,
        "evidence": evidence,
    }
    entries = ()
    if status is ImageStatus.ACCEPTED:
        entry = BaselineEntry(path, "house", sha256, ("arms",), date(2027, 6, 30), "Ann", "museum piece")
        entries = (entry,)
    return CheckedImage(path, Verdict(**values | changes), status, policies, entries)


def every_kind() -> list[CheckedImage]:
    """One image of each kind that reports treat in their own way."""
    closest = finding(score=0.2, violates=False, attributed=False)
    return [
        image("art/fine.png", ImageStatus.PASSED, closest),
        image("art/gun.png", ImageStatus.FAILED, finding(), rationale="A gun lies on the table."),
        image("art/two.png", ImageStatus.FAILED, finding(), finding("drugs", 0.75)),
        image("art/pills.png", ImageStatus.FLAGGED, finding("drugs", 0.8)),
        image("art/museum.png", ImageStatus.ACCEPTED, finding(score=0.88)),
        image("art/broken.png", ImageStatus.UNJUDGED),
        image(
            "art/let-through.png",
            ImageStatus.PASSED,
            outcome=Outcome.ERROR,
            degraded=True,
            reason="the server is down",
        ),
        image("art/nameless.png", ImageStatus.FAILED, score=0.9),
        image(
            "ads/smoke.png",
            ImageStatus.FAILED,
            finding("smoke", 0.6),
            finding(),
            policies=("house", "team/ads"),
        ),
        image("ads/clip.gif", ImageStatus.PASSED, policies=("house", "team/ads"), partial=True),
    ]


def run_info(root: Path = Path("/project"), **changes: Any) -> RunInfo:
    infos = (PolicyInfo(HOUSE, "./house.yaml", "house.yaml"), PolicyInfo(ADS, "team/ads"))
    info = RunInfo(root, infos, MODEL, ("policyguard", "check", "art"), "1.0.0", STARTED, 10)
    return replace(info, **changes)


def summary_of(images: Iterable[CheckedImage], **changes: Any) -> RunSummary:
    found = Counter(item.status for item in images)
    counts = {status: found[status] for status in ImageStatus}
    code = 1 if counts[ImageStatus.FAILED] else 3 if counts[ImageStatus.UNJUDGED] else 0
    return replace(RunSummary(counts, 12.5, MODEL, (HOUSE, ADS), code), **changes)


def stopped() -> dict[str, Any]:
    """A run that did not get to its end, and whose set-up is not right either."""
    return {
        "stopped": Stop.TIMEOUT,
        "unchecked": (Unchecked("art/late.png", "the run was out of time"),),
        "problems": ("house.jsonl:3: this line is not used: it is not JSON",),
        "exit_code": 2,
    }


def written(
    folder: Path,
    kind: str,
    images: Iterable[CheckedImage],
    *,
    info: RunInfo | None = None,
    option: str = "",
    **summary: Any,
) -> str:
    """The text of a report."""
    path = folder / f"report-{kind}"
    kept = list(images)
    report = open_report(parse_report(f"{kind}{option}={path}"), log=StringIO())
    report.begin(info or run_info())
    for item in kept:
        report.add(item)
    report.finish(summary_of(kept, **summary))
    return path.read_text(encoding="utf-8")


def logged(images: Iterable[CheckedImage], *, log: StringIO | None = None, **summary: Any) -> list[str]:
    """The lines of the github report."""
    log = log or StringIO()
    kept = list(images)
    report = open_report(parse_report("github"), log=log)
    report.begin(run_info())
    for item in kept:
        report.add(item)
    report.finish(summary_of(kept, **summary))
    return log.getvalue().splitlines()


def many(number: int) -> Iterator[CheckedImage]:
    """Images of every kind, over and over, as they come."""
    kinds = every_kind()
    for place in range(number):
        kind = kinds[place % len(kinds)]
        sha256 = hashlib.sha256(str(place).encode()).hexdigest()
        evidence = replace(kind.verdict.evidence, image_sha256=sha256)
        yield replace(kind, path=f"art/{place:06}.png", verdict=replace(kind.verdict, evidence=evidence))


ROOT_ALONE = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone may give files away"
)


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that other users can reach, as pytest's are not."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def as_user(user: int, groups: Sequence[int], work: Callable[[], object]) -> None:
    """Do ``work`` in a process of another user, which must end well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            work()
            status = 0
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
