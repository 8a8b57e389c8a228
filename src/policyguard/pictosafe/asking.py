"""Asking a guard about the benchmark: every question once, grouped by policy so that prompts are shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self

from policyguard.metrics import Answer, Judgement
from policyguard.pictosafe.benchmark import Benchmark, Shot
from policyguard.pictosafe.render import Style
from policyguard.pictosafe.rules import LEVELS, is_unsafe, load_level, symbolic_level, violating

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["Asked", "CanJudge", "Judgements", "Progress", "judge"]

Progress = Callable[[int, int | None], None]


class EvidenceLike(Protocol):
    """What is read of a verdict's evidence."""

    @property
    def image_sha256(self) -> str | None: ...


class VerdictLike(Protocol):
    """What is read of a verdict."""

    @property
    def outcome(self) -> str: ...

    @property
    def score(self) -> float | None: ...

    @property
    def evidence(self) -> EvidenceLike: ...


class CanJudge(Protocol):
    """A ``Guard``, or anything shaped like one."""

    def with_policy(self, policy: Any, /) -> CanJudge: ...

    def check_many(self, images: Iterable[object], /) -> Iterator[VerdictLike]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A judgement, and what it was asked about: an image, under the policy of that id.

    ``exempt``: the rule that was exempted. ``score``: P(unsafe), if the guard gives it. ``sha256``: of the
    image that was judged.
    """

    judgement: Judgement
    shot: Shot
    policy: str
    exempt: str | None = None
    score: float | None = None
    sha256: str | None = None

    @property
    def style(self) -> Style:
        return self.shot.style

    def answered(self, answer: Answer) -> Asked:
        return replace(self, judgement=replace(self.judgement, answer=answer))

    def to_dict(self) -> dict[str, Any]:
        return {
            "image": self.shot.id,
            "pictograms": list(self.shot.scene.names),
            "policy": self.policy,
            "exempt": self.exempt,
            "label": "unsafe" if self.judgement.unsafe else "safe",
            "answer": self.judgement.answer.value,
            "score": self.score,
        }


@dataclass(frozen=True, slots=True)
class Judgements:
    """All answers of one guard, kept by what they are asked for."""

    levels: dict[str, tuple[Asked, ...]]
    """Level -> every scene, in the benchmark's order."""
    pairs: tuple[tuple[Asked, Asked], ...]
    """(before, after), for each edit pair under each level that it flips."""
    flips: tuple[tuple[Asked, Asked], ...]
    """One image, with the rule that it breaks active and exempted."""
    held_out: tuple[Asked, ...]
    held_out_shuffled: tuple[Asked, ...]
    """The label of each held-out sample, beside what the guard says of another sample's image."""

    @property
    def mistakes(self) -> tuple[Asked, ...]:
        """What was answered wrongly or not at all. Shuffled images have no right answer and are left out."""
        asked = [
            *chain.from_iterable(self.levels.values()),
            *chain.from_iterable(self.pairs),
            *(exempted for _, exempted in self.flips),
            *self.held_out,
        ]
        return tuple(one for one in asked if not one.judgement.right)

    def constant(self, answer: Answer) -> Self:
        """The same questions, all answered with ``answer``."""

        def all_of(items: Iterable[Asked]) -> tuple[Asked, ...]:
            return tuple(one.answered(answer) for one in items)

        return type(self)(
            {level: all_of(items) for level, items in self.levels.items()},
            tuple((one.answered(answer), other.answered(answer)) for one, other in self.pairs),
            tuple((one.answered(answer), other.answered(answer)) for one, other in self.flips),
            all_of(self.held_out),
            all_of(self.held_out_shuffled),
        )


def judge(guard: CanJudge, benchmark: Benchmark, *, progress: Progress | None = None) -> Judgements:
    """Ask ``guard`` everything. ``progress`` is called after each image with (done, in all)."""
    flips = {name: _flips(name, benchmark) for name in LEVELS}
    pairs = {name: [pair for pair in benchmark.pairs if name in pair.policies] for name in LEVELS}
    total = len(LEVELS) * len(benchmark.shots) + 2 * len(benchmark.held_out)
    total += sum(len(places) for rules in flips.values() for places in rules.values())
    total += 2 * sum(map(len, pairs.values()))
    ask = _Asking(guard, benchmark.scale, total, progress)

    levels: dict[str, tuple[Asked, ...]] = {}
    flipped: list[tuple[Asked, Asked]] = []
    paired: list[tuple[Asked, Asked]] = []
    for name in LEVELS:
        policy = load_level(name)
        levels[name] = ask(policy, benchmark.shots, [_unsafe(name, shot) for shot in benchmark.shots])
        shots = [shot for pair in pairs[name] for shot in (pair.before, pair.after)]
        answers = ask(policy, shots, [_unsafe(name, shot) for shot in shots])
        paired += zip(answers[::2], answers[1::2], strict=True)
        for rule, places in flips[name].items():
            exempting = policy.with_rule_status(rule, _exempt())
            answers = ask(
                exempting, [benchmark.shots[place] for place in places], [False] * len(places), exempt=rule
            )
            flipped += zip([levels[name][place] for place in places], answers, strict=True)

    held_out: list[Asked] = []
    shuffled: list[Asked] = []
    for index, sample in enumerate(benchmark.held_out):
        other = benchmark.held_out[index - 1].shot
        truth = is_unsafe(sample.symbols, sample.shot.scene)
        own, others = ask(sample.policy.resolve(), [sample.shot, other], [truth, truth])
        held_out.append(own)
        shuffled.append(others)
    return Judgements(levels, tuple(paired), tuple(flipped), tuple(held_out), tuple(shuffled))


def _flips(level: str, benchmark: Benchmark) -> dict[str, list[int]]:
    """Rule -> places of scenes that break it and no other rule of the level; ``sizes.flips`` at most."""
    places: dict[str, list[int]] = defaultdict(list)
    left = benchmark.sizes.flips
    for place, shot in enumerate(benchmark.shots):
        broken = {rule for rule, _ in violating(symbolic_level(level), shot.scene)}
        if left and len(broken) == 1:
            places[broken.pop()].append(place)
            left -= 1
    return dict(places)


def _unsafe(level: str, shot: Shot) -> bool:
    return is_unsafe(symbolic_level(level), shot.scene)


def _exempt() -> Any:
    from policyguard.policy import Status

    return Status.EXEMPT


class _Asking:
    """Puts images to a guard and counts them."""

    def __init__(self, guard: CanJudge, scale: int, total: int, progress: Progress | None) -> None:
        self._guard, self._scale, self._total, self._progress = guard, scale, total, progress
        self._done = 0

    def __call__(
        self,
        policy: ResolvedPolicy,
        shots: Sequence[Shot],
        truths: Sequence[bool],
        *,
        exempt: str | None = None,
    ) -> tuple[Asked, ...]:
        if not shots:
            return ()
        verdicts = self._guard.with_policy(policy).check_many(
            shot.source(scale=self._scale) for shot in shots
        )
        items = []
        for shot, truth, verdict in zip(shots, truths, verdicts, strict=True):
            judgement = Judgement(truth, Answer.of(verdict.outcome))
            sha256 = verdict.evidence.image_sha256
            items.append(Asked(judgement, shot, policy.id, exempt, verdict.score, sha256))
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
        return tuple(items)
