"""The pytest plugin: guards and assertions on images for test suites, with or without a model at hand.

Only this module is imported, and no file is read, until a test or an option needs more.

Covered: an image that could not be judged, or has no recorded answer, fails its test. Images that pass
with a remark (flagged, accepted by the baseline, let through unjudged) are listed at the end of the run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from policyguard.errors import UsageError

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.runs.pytest_plugin.cases import CaseFile
    from policyguard.runs.pytest_plugin.suite import Suite
    from policyguard.verdict import Verdict

__all__ = ["AssertImageAllowed"]

_SUITE = pytest.StashKey["Suite"]()
_PARTS = pytest.StashKey[list[dict[str, Any]]]()
_CASES = pytest.StashKey[frozenset[Path]]()
_LINES = pytest.StashKey[list[str]]()
_NOTE = "policyguard"
_MARKER = (
    "policyguard(policy=..., explain=...): settings of the fixtures `guard` and `assert_image_allowed` in "
    "this test: a policy or a list of them (default: the suite's), and whether to ask for reasons"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("policyguard", "image guardrails")
    group.addoption(
        "--policyguard-model", metavar="MODEL", help="the guard model: an alias, a hub id or a folder"
    )
    group.addoption(
        "--policyguard-record",
        metavar="FILE",
        help="ask the model, and add its answers to FILE, to be replayed later; no image is kept",
    )
    group.addoption(
        "--policyguard-replay", metavar="FILE", help="ask no model: take the answers recorded in FILE"
    )
    parser.addini("policyguard_policy", "policies for every image: packaged names, or files", type="args")
    parser.addini("policyguard_model", "the guard model")
    parser.addini("policyguard_base_url", "a server that runs the guard model")
    parser.addini("policyguard_dialect", "how to speak to the guard model")
    parser.addini("policyguard_replay", "a recording to take answers from instead of asking a model")
    parser.addini("policyguard_cases", "files of policy tests to collect: paths or patterns", type="args")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if config.getoption("policyguard_record") and config.getoption("policyguard_replay"):
        raise pytest.UsageError("--policyguard-record and --policyguard-replay exclude each other")
    config.stash[_CASES] = _case_files(config.rootpath, config.getini("policyguard_cases"))


def pytest_report_header(config: pytest.Config) -> str | None:
    record, replay = _recordings(config)
    if record is not None:
        return f"policyguard: recording answers in {record}"
    return None if replay is None else f"policyguard: answers from {replay}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CaseFile | None:
    if file_path not in parent.config.stash[_CASES]:
        return None
    from policyguard.runs.pytest_plugin.cases import CaseFile

    file: CaseFile = CaseFile.from_parent(parent, path=file_path)
    file.suite = _suite(parent.config)
    return file


@pytest.fixture
def guard(request: pytest.FixtureRequest) -> Guard:
    """A policyguard.Guard, on a backend that the whole session shares."""
    try:
        policies, explain = _marker_settings(request.node)
        return _suite(request.config).guard(policies, explain=explain)
    except UsageError as error:
        pytest.fail(str(error), pytrace=False)


@dataclass(frozen=True, slots=True)
class AssertImageAllowed:
    """The value of the fixture ``assert_image_allowed``."""

    suite: Suite
    item: pytest.Item

    def __call__(
        self,
        image: object,
        *,
        policy: Any = None,
        explain: bool | None = None,
        degraded: Literal["fail", "allow"] = "fail",
    ) -> Verdict:
        """Fail the test unless ``image`` is allowed, or accepted by the baseline. Return the verdict.

        Args:
            image: in any form that ``Guard.check`` takes.
            policy: a policy or a list of them; default: the marker's, else the suite's for this image.
            explain: ask for the model's reasons too; default: the marker's, else the project's.
            degraded: what to do with an image that the policy lets through although it was not judged.

        Raises UsageError if the set-up is wrong, or a recording holds no answer.
        """
        __tracebackhide__ = True
        if degraded not in ("fail", "allow"):
            raise UsageError(f'degraded must be "fail" or "allow", not {degraded!r}')
        try:
            return self._check(image, policy, explain, degraded)
        except (AssertionError, UsageError) as error:
            raise error.with_traceback(None) from None

    def _check(self, image: object, policy: Any, explain: bool | None, degraded: str) -> Verdict:
        from policyguard.outcomes import Action
        from policyguard.runs.baseline import accepting
        from policyguard.runs.pytest_plugin.failing import ImageNotAllowedError, failure_message

        marked, marked_explain = _marker_settings(self.item)
        policies = _as_list(policy) if policy is not None else marked
        guard = self.suite.guard_for(image) if policies is None else self.suite.guard(policies)
        verdict = guard.check(image, explain=marked_explain if explain is None else explain)
        baseline = self.suite.baseline
        label = verdict.summary()
        if verdict.allowed and (degraded == "allow" or not verdict.degraded):
            if verdict.degraded:
                self._note(f"let through unjudged: {label}")
            elif verdict.action is Action.FLAG:
                self._note(f"flagged: {label}")
            return verdict
        known = baseline.by_key()
        if not verdict.allowed and (entries := accepting(known, verdict, baseline.today)):
            self._note(f"accepted by {entries[0].by} until {entries[0].until}: {label}")
            return verdict
        is_path = isinstance(image, str | os.PathLike) and not str(image).lower().startswith("data:")
        sha256 = verdict.evidence.image_sha256
        raise ImageNotAllowedError(
            failure_message(
                verdict,
                guard.policies,
                path=os.fsdecode(image) if is_path else None,  # type: ignore[arg-type]
                expired=[e for e in baseline.entries if e.sha256 == sha256 and baseline.expired(e)],
                problems=[str(problem) for problem in baseline.problems],
            ),
            verdict,
        )

    def _note(self, text: str) -> None:
        from policyguard.strict.text import one_line

        self.item.user_properties.append((_NOTE, one_line(text)))


@pytest.fixture
def assert_image_allowed(request: pytest.FixtureRequest) -> AssertImageAllowed:
    """Call it with an image: the test fails unless the image is allowed."""
    return AssertImageAllowed(_suite(request.config), request.node)


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    suite = config.stash.get(_SUITE, None)
    recorder = suite.recorder if suite is not None else None
    part = None
    if recorder is not None and recorder.entries:
        part = {"model": recorder.model.to_dict(), "entries": recorder.entries}
    if hasattr(config, "workeroutput"):
        config.workeroutput["policyguard"] = part
        return
    record, _ = _recordings(config)
    if record is None:
        return
    parts = config.stash.get(_PARTS, []) + ([part] if part else [])
    lines = config.stash.setdefault(_LINES, [])
    try:
        lines.append(_write(record, parts))
    except UsageError as error:
        lines.append(f"error: {error}")
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of xdist has ended: take over its recorded answers."""
    part = getattr(node, "workeroutput", {}).get("policyguard")
    if part:
        node.config.stash.setdefault(_PARTS, []).append(part)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = chain.from_iterable(terminalreporter.stats.values())
    calls = (report for report in reports if getattr(report, "when", None) == "call")
    notes = [
        f"{report.nodeid}: {text}"
        for report in calls
        for name, text in getattr(report, "user_properties", ())
        if name == _NOTE
    ]
    if lines := [*config.stash.get(_LINES, []), *notes]:
        terminalreporter.section("policyguard")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    suite = config.stash.get(_SUITE, None)
    if suite is not None:
        suite.close()


def _suite(config: pytest.Config) -> Suite:
    if _SUITE not in config.stash:
        from policyguard.runs.pytest_plugin.suite import Suite, SuiteOptions

        record, replay = _recordings(config)
        config.stash[_SUITE] = Suite(
            SuiteOptions(
                root=config.rootpath,
                policy=tuple(config.getini("policyguard_policy")),
                model=config.getoption("policyguard_model") or config.getini("policyguard_model") or None,
                base_url=config.getini("policyguard_base_url") or None,
                dialect=config.getini("policyguard_dialect") or None,
                record=record,
                replay=replay,
            )
        )
    return config.stash[_SUITE]


def _recordings(config: pytest.Config) -> tuple[Path | None, Path | None]:
    """The files to record to and to replay from: one of them, or neither."""
    folder = config.invocation_params.dir
    if record := config.getoption("policyguard_record"):
        return folder / record, None
    if replay := config.getoption("policyguard_replay"):
        return None, folder / replay
    replay = config.getini("policyguard_replay")
    return None, config.rootpath / replay if replay else None


def _marker_settings(item: pytest.Item) -> tuple[list[Any] | None, bool | None]:
    """Policies and ``explain`` of the nearest marker. Raises UsageError for other arguments."""
    marker = item.get_closest_marker("policyguard")
    if marker is None:
        return None, None
    if marker.args or set(marker.kwargs) - {"policy", "explain"}:
        raise UsageError("pytest.mark.policyguard takes policy= and explain=, and nothing else")
    policy = marker.kwargs.get("policy")
    return None if policy is None else _as_list(policy), marker.kwargs.get("explain")


def _as_list(policy: Any) -> list[Any]:
    policies = list(policy) if isinstance(policy, list | tuple) else [policy]
    if not policies:
        raise UsageError("policy= is an empty list: name at least one")
    return policies


def _case_files(root: Path, patterns: list[str]) -> frozenset[Path]:
    """The files that match ``patterns``. Raises pytest's UsageError for a pattern without a file."""
    files: set[Path] = set()
    for pattern in patterns:
        if set(pattern) & set("*?[") and not Path(pattern).is_absolute():
            matches = {path for path in root.glob(pattern) if path.is_file()}
        else:
            path = Path(os.path.normpath(root / pattern))
            matches = {path} if path.is_file() else set()
        if not matches:
            raise pytest.UsageError(f"policyguard_cases: there is no file {pattern!r} below {root}")
        files |= matches
    return frozenset(files)


def _write(file: Path, parts: list[dict[str, Any]]) -> str:
    from policyguard.assessment import ModelIdentity
    from policyguard.cache.recording import Recording, read_recording, write_recording

    if not parts:
        return f"nothing was asked, so nothing is recorded in {file}"
    model = ModelIdentity(**parts[0]["model"])
    if any(part["model"] != parts[0]["model"] for part in parts):
        raise UsageError("the workers asked different models: nothing is recorded")
    known = read_recording(file) if file.exists() else Recording(model)
    kept = known.entries if known.model == model else ()
    recording = Recording(model, kept)
    for part in parts:
        for entry in part["entries"]:
            recording.add(entry)
    write_recording(file, recording)
    return f"{len(recording.entries)} recorded answers of {model.id} in {file}"
