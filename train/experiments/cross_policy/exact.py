#!/usr/bin/env python
"""What GRPO would do without one of its parts:  python train/experiments/cross_policy/exact.py RECIPE FORM

A guard's answer is decided by two tokens, rating and rule. So the chance p that an answer is right, its
expected reward, can be read off one forward pass; nothing needs to be sampled. Prompts, their order, the
reward and the optimiser are those of the GRPO recipe. ``FORM`` is what each prompt adds to the objective:

- a number N: N answers are drawn, and weighed by their rewards less the group's mean, over its deviation:
  GRPO (Shao et al. 2024, section 4.1), of which only the kind of wrong answer is averaged out. ``N-again``
  draws others, to see what is luck.
- ``scaled``: 2 arcsin(sqrt(p)), whose gradient is GRPO's with infinitely many answers: no luck in drawing.
- ``expected``: p, the same without the division by the deviation.
- ``log``: log p, which pays for every step towards the right answer, the most where it is unlikely. With
  the same gradient as supervised training on the right answers' rating and rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from policyguard.assessment import Rating
from policyguard.dialects import get_dialect, render_one
from policyguard.train.answers import conversation
from policyguard.train.grpo import read_prompts
from policyguard.train.grpo_data import Prompt
from policyguard.train.models import finish, load_weights, model_folder, processor_of, select_trained
from policyguard.train.recipe import GrpoRecipe, load_recipe
from policyguard.train.reward import Expected, score
from policyguard.train.rows import open_frame

EPSILON = 1e-4
"""What TRL adds to a group's deviation."""


def objective(p: Tensor, form: str, drawn: torch.Generator) -> Tensor:
    """[prompts] chances of a right answer -> [prompts] what is to grow."""
    p = p.clamp(1e-6, 1 - 1e-6)
    if form == "log":
        return p.log()
    if form == "expected":
        return p
    if form == "scaled":
        return 2 * p.sqrt().asin()
    many = int(form.removesuffix("-again"))
    right = torch.bernoulli(p.detach().expand(many, -1), generator=drawn)
    worth = (right - right.mean(0)) / (right.std(0) + EPSILON)
    return (worth * torch.where(right > 0, p.log(), (1 - p).log())).mean(0)


class Chances:
    """The chance that each prompt is answered rightly."""

    def __init__(self, recipe: GrpoRecipe, model: Any, processor: Any) -> None:
        self._recipe, self._model, self._processor = recipe, model, processor
        self._dialect = get_dialect(recipe.dialect)

    def _token(self, text: str) -> int:
        (token,) = self._processor.tokenizer.encode(text, add_special_tokens=False)
        return int(token)

    @cache  # noqa: B019 - one object per run
    def right(self, prompt: Prompt) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The rating that the reward pays alone, and the rules that it pays behind "unsafe"."""
        said = render_one(self._dialect, prompt.policy)
        expected = Expected(prompt.policy, Rating(prompt.label), prompt.categories)

        def pays(text: str) -> bool:
            return score(text, expected, self._dialect, self._recipe.reward).right

        unsafe = said.label(Rating.UNSAFE)
        alone = tuple(label for label in said.ratings if pays(label))
        return alone, tuple(key for key in said.categories if pays(unsafe + key))

    def __call__(self, prompts: Sequence[Prompt]) -> Tensor:
        turns = [conversation(self._dialect, prompt.policy) for prompt in prompts]
        texts = [
            self._processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) + " unsafe"
            for turn in turns
        ]
        inputs = self._processor(
            text=texts,
            images=[[open_frame(prompt.path)] for prompt in prompts],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        )
        unsafe = self._token(" unsafe")
        assert bool((inputs["input_ids"][:, -1] == unsafe).all())
        shares = self._model(**inputs, logits_to_keep=2).logits.float().softmax(-1)
        found = []
        for prompt, (rating, rule) in zip(prompts, shares, strict=True):
            alone, keys = (list(map(self._token, said)) for said in self.right(prompt))
            found.append(rating[alone].sum() + rating[unsafe] * rule[keys].sum())
        return torch.stack(found)


def train(recipe: GrpoRecipe, form: str) -> None:
    base, out = model_folder(recipe.model), Path(recipe.out)
    _, units = read_prompts(recipe)
    model = load_weights(base, recipe.tune, precision="fp32").train()
    select_trained(model, recipe.tune)
    chances = Chances(recipe, model, processor_of(base, max_pixels=recipe.run.max_pixels))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.optim.lr, weight_decay=0.0)
    prompts = cycle(units.prompts)
    many, updates = recipe.optim.batch // recipe.rollout.group, recipe.optim.max_steps
    assert updates is not None
    drawn = torch.Generator().manual_seed(recipe.seed + (1000 if form.endswith("-again") else 0))
    for number in range(updates):
        p = chances(list(islice(prompts, many)))
        optimiser.zero_grad()
        (-objective(p, form, drawn).mean()).backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.optim.max_grad_norm)
        optimiser.step()
        print(number, f"{p.mean().item():.3f}", flush=True)
    alone = SimpleNamespace(
        is_main_process=True,
        get_state_dict=lambda model: model.state_dict(),
        unwrap_model=lambda model: model,
        wait_for_everyone=lambda: None,
    )
    finish(
        SimpleNamespace(accelerator=alone, model=model, is_deepspeed_enabled=False, is_fsdp_enabled=False),
        base,
        out,
        precision="fp32",
        dialect=recipe.dialect,
        card=lambda: None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("form", help="scaled, expected, log, or a number of answers")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, stage="grpo")
    assert isinstance(recipe, GrpoRecipe)
    train(recipe, arguments.form)


if __name__ == "__main__":
    main()
