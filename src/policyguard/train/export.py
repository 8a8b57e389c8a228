"""Data and reward of a GRPO recipe for trainers that go further than TRL: verl, EasyR1 and ms-swift.

One folder holds the prompts in the layout of each (``verl.parquet``, ``easyr1.parquet``, ``swift.jsonl``),
the policies, and a small reward file for each, which calls this package's own reward; so the package has to
be installed where they run (without extras). Layouts follow verl's ``examples/data_preprocess/geo3k.py``,
EasyR1's ``verl/utils/dataset.py`` and ms-swift's ``examples/train/grpo/plugin``. Images go into the
parquet files as PNG, the way the runtime decodes them. The order of prompts is part of the data: turn
shuffling off.

Covered by the exported reward: everything that ``reward.score`` covers, from the same code. Not covered:
tokens. Those trainers hand over text without control tokens, so an answer that was cut off just after a
whole verdict passes; let them mask such answers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policyguard.assessment import Rating
from policyguard.dialects import Dialect, get_dialect
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.policy import ResolvedPolicy
from policyguard.strict.files import check_place, fresh_folder, write_json, write_lines, write_text
from policyguard.strict.jsontext import parse_json
from policyguard.train.answers import conversation, dialect_of, served_dialect
from policyguard.train.grpo import held_out_prompts, read_prompts
from policyguard.train.grpo_data import Prompt
from policyguard.train.policies import PolicyShelf, document_of, write_policies
from policyguard.train.preflight import reward_problem
from policyguard.train.recipe import GrpoRecipe, RewardSettings
from policyguard.train.reward import Expected, Scored, score
from policyguard.train.rows import check_images, listing, open_frame

__all__ = ["EXPORTED_REWARDS", "SETTINGS", "ExportedReward", "export", "write_reward"]

SETTINGS = "reward.json"
_PLACE = "<image>"


class ExportedReward:
    """Scores answers against expectations, as ``export`` wrote them into ``folder``."""

    def __init__(self, folder: Path) -> None:
        try:
            settings = parse_json((folder / SETTINGS).read_bytes())
            self._settings = RewardSettings.model_validate(settings["reward"])
            form = settings.get("answer", "rating-first")  # earlier versions wrote it beside the dialect
            self._dialect = get_dialect(served_dialect(settings["dialect"], form))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{folder / SETTINGS} is not what `policyguard train export` writes"
            ) from error
        self._shelf = PolicyShelf(folder)

    def score(self, text: str, expected: str) -> Scored:
        """``expected``: the JSON text beside each prompt, with policy, label and categories."""
        wanted = parse_json(expected)
        policy = self._shelf.get(f"#{wanted['policy']}")
        whole = Expected(policy, Rating(wanted["label"]), tuple(wanted["categories"]))
        return score(text, whole, self._dialect, self._settings)

    def __call__(self, text: str, expected: str) -> float:
        return self.score(text, expected).value


_SETUP = """
from pathlib import Path

from policyguard.train.export import ExportedReward

_reward = ExportedReward(Path(__file__).parent)
"""

_VERL = '''"""Reward for verl: custom_reward_function.path=THIS_FILE (name: compute_score)."""
{setup}

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    return _reward(solution_str, ground_truth)
'''

_EASYR1 = '''"""Reward for EasyR1: worker.reward.reward_function=THIS_FILE:compute_score."""
{setup}

def compute_score(reward_input, **_):
    if isinstance(reward_input, list):
        return [compute_score(item) for item in reward_input]
    scored = _reward.score(reward_input["response"], reward_input["ground_truth"])
    readable = float(scored.rating is not None)
    return {"overall": scored.value, "format": readable, "accuracy": float(scored.right)}
'''

_SWIFT = '''"""Reward for ms-swift: --external_plugins THIS_FILE --reward_funcs policyguard_verdict."""
{setup}
try:
    from swift.rewards import ORM, orms
except ImportError:  # before version 4
    from swift.plugin import ORM, orms


class PolicyGuardVerdict(ORM):
    def __call__(self, completions, expected, **_):
        return [_reward(*pair) for pair in zip(completions, expected, strict=True)]


orms["policyguard_verdict"] = PolicyGuardVerdict
'''


EXPORTED_REWARDS = {"verl": _VERL, "easyr1": _EASYR1, "swift": _SWIFT}
"""Trainer -> the reward file for it."""


def write_reward(
    folder: Path,
    policies: Mapping[str, ResolvedPolicy],
    *,
    dialect: str,
    settings: RewardSettings,
) -> None:
    """Write what ``ExportedReward`` reads, and a reward file per trainer. ``policies``: key -> policy."""
    write_policies(folder, {name: document_of(policy) for name, policy in policies.items()})
    reward = settings.model_dump(mode="json")
    write_json(folder / SETTINGS, {"dialect": dialect, "reward": reward})
    for name, code in EXPORTED_REWARDS.items():
        write_text(folder / f"reward_{name}.py", code.replace("{setup}", _SETUP))


def export(recipe: GrpoRecipe, out: Path) -> list[Path]:
    """Write the folder ``out``, which must not exist, in one step, and give its files.

    Raises ConfigurationError for rows that cannot be used.
    """
    if out.exists():
        raise ConfigurationError(f"{out} already exists", hint="name a new folder")
    check_place(out, name="FOLDER", folder=True)
    if problem := reward_problem(recipe.reward):
        raise ConfigurationError(problem)
    dialect = dialect_of(recipe)
    rows, units = read_prompts(recipe)
    items = [*rows.train, *rows.validation]
    if problems := check_images(items, look_into=len(items)):
        raise ConfigurationError(listing(problems), hint="nothing was written; fix these and try again")
    sides = {"train": units.prompts, "validation": held_out_prompts(rows.validation)}
    everything = [prompt for prompts in sides.values() for prompt in prompts]
    with fresh_folder(out) as folder:
        write_reward(
            folder,
            {prompt.policy_key: prompt.policy for prompt in everything},
            dialect=served_dialect(recipe.dialect, recipe.answer),
            settings=recipe.reward,
        )
        for side, prompts in sides.items():
            if not prompts:
                continue
            _write_parquet(folder / f"verl-{side}.parquet", [_verl(item, dialect) for item in prompts])
            _write_parquet(folder / f"easyr1-{side}.parquet", [_easyr1(item, dialect) for item in prompts])
            write_lines(
                folder / f"swift-{side}.jsonl",
                (json.dumps(_swift(item, dialect), ensure_ascii=False) for item in prompts),
            )
    return sorted(out.iterdir())


def _expected(prompt: Prompt) -> str:
    return json.dumps(
        {
            "policy": prompt.policy_key,
            "label": prompt.label,
            "categories": list(prompt.categories),
        }
    )


def _messages(prompt: Prompt, dialect: Dialect) -> list[dict[str, str]]:
    """The chat with one text per turn, and a placeholder for the image."""
    turns = conversation(dialect, prompt.policy)
    if any(_PLACE in part.get("text", "") for turn in turns for part in turn["content"]):
        raise ConfigurationError(f"policy '{prompt.policy.id}' holds {_PLACE!r}, which stands for the image")
    return [
        {
            "role": turn["role"],
            "content": "".join(
                _PLACE if part["type"] == "image" else part["text"] for part in turn["content"]
            ),
        }
        for turn in turns
    ]


def _verl(prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
    return {
        "data_source": "policyguard",
        "prompt": _messages(prompt, dialect),
        "images": [{"bytes": _png(prompt.path), "path": None}],
        "ability": "guard",
        "reward_model": {"style": "rule", "ground_truth": _expected(prompt)},
        "extra_info": {"label": prompt.label},
    }


def _easyr1(prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
    """EasyR1 takes one user turn; what the system turn says stands at its beginning."""
    texts = [message["content"] for message in _messages(prompt, dialect)]
    images = [{"bytes": _png(prompt.path), "path": None}]
    return {"problem": "\n\n".join(texts), "images": images, "answer": _expected(prompt)}


def _swift(prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
    images = [str(prompt.path.resolve())]
    return {"messages": _messages(prompt, dialect), "images": images, "expected": _expected(prompt)}


def _png(path: Path) -> bytes:
    data = io.BytesIO()
    open_frame(path).save(data, format="PNG")
    return data.getvalue()


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    try:
        from datasets import Dataset
    except ImportError:
        raise MissingExtraError("datasets", "train") from None
    Dataset.from_list(list(rows)).to_parquet(str(path))
