"""A guard over the rows of a benchmark: counts, figures, and the published ones beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, ModelIdentity, Rating, Result
from policyguard.authoring.bench.rows import BENCHMARKS, BenchRow, Loaded
from policyguard.authoring.bench.scoring import SCORERS, Judged, Line, score
from policyguard.backends.base import AssessmentRequest, Backend, WrappingBackend
from policyguard.errors import ConfigurationError, Problem
from policyguard.guard import Guard
from policyguard.metrics import Answer, Figure
from policyguard.outcomes import Outcome
from policyguard.strict.explain import nearest

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy
    from policyguard.verdict import Verdict

__all__ = ["BenchReport", "Compared", "compare", "published_tables", "run_rows"]

Progress = Callable[[int, int | None], None]
_MAIN = {
    "safeedit": "all/f1",
    "unsafebench": "all/f1",
    "llavaguard": "all/balanced_accuracy",
    "general": "average",
}
"""The figure that stands for a benchmark where published systems are listed."""


@dataclass(frozen=True, slots=True)
class BenchReport:
    """``silent``: judged rows without an answer, by the outcome; ``reasons``: why. ``unused``: rows that no
    figure counts, since their image cannot be judged or the model could not be asked. ``lines``: the figures.
    """

    benchmark: str
    model: ModelIdentity
    loaded: Loaded
    judged: tuple[Judged, ...]
    unused: tuple[Problem, ...]
    silent: Counter[str]
    reasons: Counter[str]
    lines: tuple[Line, ...]

    @property
    def complete(self) -> bool:
        """Whether every row is in the figures."""
        return not self.unused and not self.loaded.problems

    @property
    def silence(self) -> float:
        """Share of the judged rows without an answer: the parse-failure rate."""
        return self.silent.total() / len(self.judged) if self.judged else 0.0

    @property
    def scorers(self) -> dict[str, str]:
        """The papers' scorers in ``lines``, and what each does with a row without an answer."""
        names = dict.fromkeys(name for line in self.lines for name in line.papers)
        return {name: SCORERS[name]().says for name in names}

    def to_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "title": BENCHMARKS[self.benchmark].title,
            "model": self.model.to_dict(),
            "files": [str(path) for path in self.loaded.files],
            "rows": {
                "split": self.loaded.total,
                "judged": len(self.judged),
                "unsafe": sum(item.row.unsafe for item in self.judged),
                "without_answer": dict(self.silent),
                "parse_failure_rate": self.silence,
                "reasons": dict(self.reasons.most_common(20)),
                "bad": [str(problem) for problem in self.loaded.problems],
                "unused": [str(problem) for problem in self.unused],
            },
            "policies": len({item.row.policy.fingerprint for item in self.judged}),
            "scores": any(item.score is not None for item in self.judged),
            "scorers": self.scorers | {"ours": "no answer is wrong"},
            "notes": list(self.loaded.notes),
            "figures": [line.to_dict() for line in self.lines],
        }


class _Ratings(WrappingBackend):
    """Keeps what the model itself rates each image, by image and policy, before anything is decided."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.unsafe: dict[tuple[str, str], bool] = {}

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return self._kept(requests, self.inner.assess(requests))

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return self._kept(requests, await self.inner.aassess(requests))

    def _kept(self, requests: Sequence[AssessmentRequest], results: list[Result]) -> list[Result]:
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, Assessment):
                key = request.frame_key.partition(" ")[0], request.policy.fingerprint
                self.unsafe[key] = self.unsafe.get(key, False) or result.rating is Rating.UNSAFE
        return results


def run_rows(
    benchmark: str, loaded: Loaded, *, backend: Backend, progress: Progress | None = None
) -> BenchReport:
    """Judge every row under its policy, and score the answers by the papers' scorers and by ours.

    ``backend``: with a cache in front of it, a run that was stopped goes on where it was. Raises UsageError
    when the set-up is wrong.
    """
    ratings = _Ratings(backend)
    by_policy: dict[ResolvedPolicy, list[BenchRow]] = {}
    for row in loaded.rows:
        by_policy.setdefault(row.policy, []).append(row)
    guards = {policy: Guard(policy, backend=ratings) for policy in by_policy}
    verdicts: dict[str, Verdict] = {}
    for policy, rows in by_policy.items():
        checks = guards[policy].check_many(row.image for row in rows)
        for row, verdict in zip(rows, checks, strict=True):
            verdicts[row.place] = verdict
            if progress is not None:
                progress(len(verdicts), len(loaded.rows))
    judged, unused = [], []
    silent, reasons = Counter[str](), Counter[str]()
    for row in loaded.rows:
        verdict = verdicts[row.place]
        reason = (verdict.reason or str(verdict.outcome)).removeprefix(f"{verdict.source}: ")
        if why := _unused(verdict):
            file, _, line = row.place.rpartition(":")
            unused.append(Problem(f"{why}: {reason}", file, int(line), field=row.name))
            continue
        answer = Answer.of(verdict.outcome)
        key = verdict.evidence.image_sha256 or "", row.policy.fingerprint
        known: bool | None = ratings.unsafe.get(key, answer is Answer.UNSAFE)
        if not verdict.outcome.judged:
            silent[verdict.outcome.value] += 1
            reasons[reason] += 1
            known = None
        judged.append(Judged(row, answer, known, verdict.score, verdict.evidence.image_sha256))
    return BenchReport(
        benchmark,
        backend.model,
        loaded,
        tuple(judged),
        tuple(unused),
        silent,
        reasons,
        tuple(score(benchmark, judged)) if judged else (),
    )


def _unused(verdict: Verdict) -> str | None:
    """Why a row cannot be counted. An answer that cannot be read can: it is the model's."""
    if verdict.outcome is Outcome.UNSCANNABLE:
        return "the image cannot be judged"
    return "the model could not be asked" if verdict.outcome is Outcome.ERROR and verdict.retryable else None


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure here, by the scorer that the paper used, and as published; both in [0, 1]."""

    system: str
    source: str
    figure: str
    here: float | None
    published: float

    @property
    def difference(self) -> float | None:
        return None if self.here is None else self.here - self.published

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"difference": self.difference}


@cache
def published_tables() -> dict[str, Any]:
    """The packaged figures of the papers' tables, in per cent, with where each table stands."""
    text = (files("policyguard.authoring.bench") / "published.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def compare(
    benchmark: str,
    figures: Mapping[str, Mapping[str, float]],
    *,
    model: str,
    system: str | None = None,
    groups: Collection[str] = (),
) -> list[Compared]:
    """``figures`` (by figure, then scorer; in [0, 1]) beside the published ones of one system.

    ``system``: as the tables call it; default: the published system that ``model`` is. Where it is none, the
    one main figure of all systems. ``groups``: the figures of these levels or
    categories and no others. Raises ConfigurationError for a system that has no figure.
    """
    tables = published_tables()
    known = list(dict.fromkeys(name for table in tables["tables"] for name in _columns(table, benchmark)[1]))
    if system is None:
        model = model.partition("@")[0]  # a served model's id names its server
        own = (name for name, ids in tables["models"].items() if model in ids and name in known)
        system = next(own, None)
    elif system not in known:
        meant = nearest(system, known)
        raise ConfigurationError(
            f"no table has figures of {system!r} on {benchmark}"
            + (f": did you mean {meant!r}?" if meant else ""),
            hint=f"published: {', '.join(known)}",
        )
    return list(_compared(benchmark, figures, tables["tables"], system, groups))


def _columns(table: dict[str, Any], benchmark: str) -> tuple[dict[int, str], dict[str, list[float | None]]]:
    """The columns of a table that are about ``benchmark``, and the systems that have a figure there."""
    columns = {
        place: key.partition(":")[2]
        for place, key in enumerate(table["figures"])
        if key.partition(":")[0] == benchmark
    }
    systems = {
        name: values
        for name, values in table["systems"].items()
        if any(values[place] is not None for place in columns)
    }
    return columns, systems


def _compared(
    benchmark: str,
    figures: Mapping[str, Mapping[str, float]],
    tables: list[dict[str, Any]],
    system: str | None,
    groups: Collection[str],
) -> Iterator[Compared]:
    for table in tables:
        columns, systems = _columns(table, benchmark)
        for name, values in systems.items():
            if system is not None and name != system:
                continue
            for place, key in columns.items():
                value = values[place]
                if groups:
                    shown = key.partition("/")[0] in groups
                else:
                    shown = system is not None or key == _MAIN[benchmark]
                if value is None or not shown:
                    continue
                here = figures.get(key, {}).get(table["scorer"])
                yield Compared(name, table["source"], key, here, value / 100)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def interval(figure: Figure) -> str:
    """A figure in per cent, with its interval where it has one."""
    if figure.value is None or figure.low is None or figure.high is None:
        return percent(figure.value)
    return f"{percent(figure.value)} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"
