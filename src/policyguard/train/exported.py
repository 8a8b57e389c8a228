"""The reward in an exported folder: what the files ``reward_*.py`` there call.

Covered: everything that ``reward.score`` covers, from the same code. Not covered: tokens. Those trainers
hand over text without control tokens, so an answer that was cut off just after a whole verdict passes; let
them mask such answers.
"""

from __future__ import annotations

import json
from pathlib import Path

from policyguard.assessment import Rating
from policyguard.dialects import get_dialect
from policyguard.errors import ConfigurationError
from policyguard.train.answers import AnswerFormat
from policyguard.train.policies import PolicyShelf
from policyguard.train.recipe import RewardSettings
from policyguard.train.reward import Expected, Scored, score

__all__ = ["SETTINGS", "ExportedReward"]

SETTINGS = "reward.json"


class ExportedReward:
    """Scores answers against expectations, as ``export`` wrote them into ``folder``."""

    def __init__(self, folder: Path) -> None:
        try:
            found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            self._settings = RewardSettings.model_validate(found["reward"])
            self._answer: AnswerFormat = found["answer"]
            self._dialect = get_dialect(found["dialect"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{folder / SETTINGS} is not what `policyguard train export` writes"
            ) from error
        self._shelf = PolicyShelf(folder)

    def score(self, text: str, expected: str) -> Scored:
        """``expected``: the JSON text beside each prompt, with policy, label and categories."""
        wanted = json.loads(expected)
        policy = self._shelf.get(f"#{wanted['policy']}")
        whole = Expected(policy, Rating(wanted["label"]), tuple(wanted["categories"]))
        return score(text, whole, self._dialect, self._settings, answer=self._answer)

    def __call__(self, text: str, expected: str) -> float:
        return self.score(text, expected).value
