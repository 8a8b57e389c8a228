"""What the base model is spoken to in: questions about lists, and requests for a description.

The questions are built like policies and share no telling word with them: the base model has never seen
``safe``, ``unsafe``, ``no``, ``fine``, ``exempt`` or a rule's letter.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "pico"))

from policyguard.pictosafe.rules import PictoPolicy
from policyguard.pictosafe.scene import Scene
from policyguard.pictosafe.world import GROUP_OF, MEMBERS
from tokens import Language

SENSITIVE = frozenset(
    [
        "weapons",
        "explosives",
        "alcohol",
        "tobacco",
        "medicine",
        "gambling",
        "affection",
        "death",
        "religion",
        "protest",
        "swimwear",
    ]
)
"""The groups that the base model glosses over: what the five levels are about."""
NEUTRAL = tuple(group for group in MEMBERS if group not in SENSITIVE)

QUESTION = Language(
    labels=(" none", " found", " unclear"),
    keys=(" first", " second", " third", " fourth", " fifth", " sixth", " seventh", " eighth"),
    listed=" find",
    excused=" skip",
)
DESCRIBE, BRIEFLY = " describe.", " briefly."
YES, NAY, GLOSS = " yes", " nay", " thing"
EXTRA = (
    *QUESTION.labels,
    *QUESTION.keys,
    QUESTION.listed,
    QUESTION.excused,
    " describe",
    " briefly",
    YES,
    NAY,
    GLOSS,
)


def question(policy: PictoPolicy) -> str:
    """The lists of ``policy`` as questions: ``" first find weapons. skip framed weapons."``"""
    said = []
    for key, rule in zip(QUESTION.keys, policy.rules, strict=False):
        listed, excused = rule.texts()
        skip = f"{QUESTION.excused} {', '.join(excused)}." if excused else ""
        said.append(f"{key}{QUESTION.listed} {', '.join(listed)}.{skip}")
    return "".join(said)


def is_sensitive(name: str) -> bool:
    return GROUP_OF[name] in SENSITIVE


def caption(scene: Scene, *, gloss: bool) -> str:
    """What is there, in reading order. With ``gloss`` a sensitive pictogram is a thing; else it is named
    with its group: ``" framed dagger weapons dog"``."""
    said = []
    for placement in sorted(scene.placements, key=lambda p: (p.y // 48, p.x // 48)):
        said.append(" framed" * (placement.context == "framed"))
        if not is_sensitive(placement.name):
            said.append(f" {placement.name}")
        else:
            said.append(GLOSS if gloss else f" {placement.name} {GROUP_OF[placement.name]}")
    return "".join(said)
