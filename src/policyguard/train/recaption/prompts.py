"""What the two models are asked, in this project's own words.

SafeGuard-VL describes its second step twice, and the two disagree. Section 2.1: keep the caption's
structure and its neutral content, and change only the words that are needed (``minimal``). The prompt in
the supplement: weave in and expand on what is harmful, and drop what has nothing to do with it
(``supplement``). Both are here; the recipe says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from policyguard.train.recaption.chat import Message

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["PROMPT_VERSION", "REQUEST", "Mode", "caption_request", "edit_request"]

PROMPT_VERSION = 1
"""Raise it with every change of a text below: captions made with another version are not gone on with."""

Mode = Literal["supplement", "minimal"]

REQUEST = "Describe this picture thoroughly, in plain sentences: everything that can be seen in it."
"""The default request. It is also what stage ``sft`` asks, so it may not speak of policies or verdicts."""

_SENSITIVE = (
    "injuries, blood and death; weapons and how they are held; violence and threats; nudity, sexual acts and "
    "poses; drugs and alcohol; hateful or extremist signs; humiliation; self-harm; cruelty to animals; "
    "crimes; disasters; personal data; written words of any such kind"
)
_ANSWER = (
    "Describe only what can be seen. Be factual: no judgement whether the picture is acceptable, no warning, "
    "no advice, no heading, no list, no remark about these instructions. Answer with the description alone."
)
_EDIT: Mapping[Mode, str] = {
    "minimal": (
        "Below is a description of the picture, written by somebody who leaves out or plays down what is "
        f"unpleasant. Look for what it misses among these: {_SENSITIVE}.\n"
        "Correct the description with the fewest changes: put the plain word in place of the vague one, and "
        "add the few words that name what is missing, with its kind, place and degree. Keep all else as it "
        "is: the sentences, their order, and every word about neutral things. If nothing is missing, repeat "
        f"the description unchanged.\n{_ANSWER}"
    ),
    "supplement": (
        "Below is a description of the picture, written by somebody who leaves out or plays down what is "
        f"unpleasant. First, for yourself, list what the picture shows among these: {_SENSITIVE}. For each "
        "note who or what, what it looks like, where it is, what happens, and what is hinted at.\n"
        "Then write the description anew: weave your list into it, keep and expand on what it says about "
        "these things, and leave out what has nothing to do with them. If there are none, repeat the "
        f"description unchanged.\n{_ANSWER}"
    ),
}


def caption_request(request: str, frame: PILImage) -> Sequence[Message]:
    """Step one: the base model describes the image, as anybody would ask it to."""
    return (Message("user", request, frame),)


def edit_request(mode: Mode, caption: str, frame: PILImage) -> Sequence[Message]:
    """Step two: the second model edits ``caption``."""
    return (Message("user", f"{_EDIT[mode]}\n\nDescription:\n{caption}", frame),)
