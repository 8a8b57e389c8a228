#!/usr/bin/env python
"""What random policies give away to whom does not look:  python train/pico/shortcuts.py [--count 12000]

For each family: the share of unsafe samples; how often the label of a scene agrees with that of another scene
under the same policy; and the accuracy (five folds) of a linear classifier on the words of the policy, of one
on the pictograms of the scene, and of boosted trees on the policy's form and on how much it forbids. All but
the first are 0.5 where there is nothing to be learnt but reading and looking.
"""

from __future__ import annotations

import argparse
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from batches import text_of
from policyguard.pictosafe.randompolicies import draw_sample
from policyguard.pictosafe.rules import PictoPolicy, is_unsafe
from policyguard.pictosafe.scene import CONTEXT_SHARES
from policyguard.pictosafe.world import CONTEXTS, NAMES

SHARES = {None: 1 - sum(CONTEXT_SHARES.values()), **CONTEXT_SHARES}


def form(policy: PictoPolicy, pictograms: int) -> list[float]:
    """Numbers about a policy that name no concept, how much of the world it forbids, and the scene's size."""
    rules = policy.rules
    items = [item for rule in rules for item in rule.unsafe + rule.safe]
    forbidden = sum(
        SHARES[context] * any(rule.is_broken_by(name, context=context) for rule in rules)
        for name in NAMES
        for context in (None, *CONTEXTS)
    )
    return [
        len(rules),
        sum(len(rule.unsafe) for rule in rules),
        sum(len(rule.safe) for rule in rules),
        sum(rule.status == "exempt" for rule in rules),
        sum(rule.status == "sensitive" for rule in rules),
        sum(item.context is not None for item in items),
        sum(item.concept in NAMES for item in items),
        forbidden / len(NAMES),
        pictograms,
    ]


def accuracy(model: Any, features: Any, labels: NDArray[np.bool_]) -> float:
    return float(cross_val_score(model, features, labels, cv=5).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for family, held in (("training", False), ("held-out", True)):
        rng = Random(f"shortcuts {family} {arguments.seed}")
        samples = [draw_sample(rng, held=held) for _ in range(arguments.count)]
        labels = np.array([is_unsafe(policy, scene) for scene, policy in samples])
        others = [is_unsafe(policy, samples[i - 1][0]) for i, (_, policy) in enumerate(samples)]
        words = CountVectorizer(token_pattern=r"\S+").fit_transform([text_of(p) for _, p in samples])
        seen = CountVectorizer().fit_transform([" ".join(scene.names) for scene, _ in samples])
        forms = np.array([form(policy, len(scene.placements)) for scene, policy in samples])
        linear = LogisticRegression(C=0.1, max_iter=500)
        found = {
            "unsafe": labels.mean(),
            "another scene's label": np.mean(labels == others),
            "words of the policy": accuracy(linear, words, labels),
            "pictograms of the scene": accuracy(linear, seen, labels),
            "form of the policy": accuracy(HistGradientBoostingClassifier(), forms, labels),
        }
        print(f"{family}: " + ", ".join(f"{name} {share:.3f}" for name, share in found.items()), flush=True)


if __name__ == "__main__":
    main()
