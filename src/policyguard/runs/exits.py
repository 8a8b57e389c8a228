"""Exit codes, and how the verdicts of a run add up to one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from policyguard.outcomes import Action
from policyguard.verdict import Verdict

__all__ = ["ExitCode", "FailOn", "Tally"]


class FailOn(StrEnum):
    """The mildest action that makes a run fail."""

    BLOCK = "block"
    FLAG = "flag"
    NEVER = "never"


class ExitCode(IntEnum):
    """The exit code of the process: of several that apply, ``USAGE``, then ``BLOCKED``, then ``UNJUDGED``."""

    OK = 0
    BLOCKED = 1
    USAGE = 2
    UNJUDGED = 3
    INTERRUPTED = 130
    BROKEN_PIPE = 141  # as a shell reports a process that died of SIGPIPE


@dataclass(slots=True)
class Tally:
    """Counts of a run: images per action, and of those the ones that could not be judged.

    Images that the baseline accepts are counted separately.
    """

    actions: Counter[Action] = field(default_factory=Counter)
    unjudged: Counter[Action] = field(default_factory=Counter)
    accepted: int = 0

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        if accepted:
            self.accepted += 1
            return
        self.actions[verdict.action] += 1
        if not verdict.outcome.judged:
            self.unjudged[verdict.action] += 1

    @property
    def total(self) -> int:
        return self.actions.total() + self.accepted

    def failures(self, fail_on: FailOn) -> int:
        """How many images make the run fail."""
        if fail_on is FailOn.NEVER:
            return 0
        return self.actions[Action.BLOCK] + (self.actions[Action.FLAG] if fail_on is FailOn.FLAG else 0)

    def exit_code(self, fail_on: FailOn) -> ExitCode:
        """The code of a run that was not stopped: see docs/cli.md for the truth table."""
        if fail_on is FailOn.NEVER:
            return ExitCode.OK
        if self.actions[Action.BLOCK] > self.unjudged[Action.BLOCK]:
            return ExitCode.BLOCKED
        if fail_on is FailOn.FLAG and self.actions[Action.FLAG]:
            return ExitCode.BLOCKED
        return ExitCode.UNJUDGED if self.unjudged[Action.BLOCK] else ExitCode.OK
