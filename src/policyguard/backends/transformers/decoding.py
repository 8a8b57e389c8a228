"""The words of an explanation, decoded from where the verdict stood.

The forward pass that gave the scores has been over policy, frame and the beginning of the answer. ``go_on``
takes its KV cache back to the last token that scores and answer have in common, runs what the answer says
next (the rating, the category) and goes on from there, greedily: no prompt is read twice. The words are those
that decoding from the whole prompt gives, since the tokens and their positions are the same.

``continuations`` decodes from the whole prompt, for models whose cache cannot be taken back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.backends.transformers.prefix import cached, has_window

if TYPE_CHECKING:
    from policyguard.backends.transformers.loading import LoadedModel

__all__ = ["State", "begun_after", "continuations", "go_on", "recording", "text_after"]


@dataclass(frozen=True, slots=True)
class State:
    """Where a forward pass over rows of tokens stood at its end.

    Args:
        cache: the KV cache.
        mask: 1 for tokens, 0 for padding, shape (rows, all tokens, those of a shared prefix too).
        positions: of the tokens of the pass, shape (rows, tokens) or (3, rows, tokens).
        also: further inputs for each token after them, shape (rows, 1, ...).
    """

    cache: Any
    mask: Any
    positions: Any
    also: Mapping[str, Any]


def begun_after(
    scored: Sequence[int], answers: Sequence[Sequence[int]], *, at_most: int
) -> tuple[int, list[list[int]]] | None:
    """From the tokens of the pass that gave the scores to those of the answers that rows of it begin.

    How many tokens at the end of ``scored`` are no part of every answer, and how each goes on instead, by
    one token at least. ``None`` where they part further than ``at_most`` tokens from the end: there stands
    the frame.
    """
    common = min(_alike(scored, answer) for answer in answers)
    drop = len(scored) - common
    return (drop, [list(answer[common:]) for answer in answers]) if drop <= at_most else None


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with, the last of ``other`` left out: logits come from running one."""
    pairs = enumerate(zip(one, other[:-1], strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other) - 1))


def recording(cache: Any) -> Any:
    """``cache``, which remembers enough from here on to be taken back; ``None`` where it cannot."""
    for layer in cache.layers:
        if not getattr(layer, "is_croppable", False) or not hasattr(layer, "crop"):
            return None
        if getattr(layer, "is_sliding", False):
            if not hasattr(layer, "activate_past_recording"):
                return None
            layer.activate_past_recording()
    return cache


def go_on(
    loaded: LoadedModel,
    state: State,
    rows: Sequence[int],
    drop: int,
    begun: Sequence[Sequence[int]],
    max_new_tokens: int,
    **options: Any,
) -> list[list[int]]:
    """The tokens decoded in ``rows`` of ``state``, less its last ``drop`` tokens, after those in ``begun``.

    End tokens are left out. Where a layer has a window, rows are taken together that begin with as many
    tokens: padding would count in it. ``options`` go to every forward pass.
    """
    widths = {len(ids) for ids in begun}
    if len(widths) == 1 or not has_window(state.cache):
        return _go_on(loaded, state, rows, drop, begun, max_new_tokens, options)
    found: dict[int, list[int]] = {}
    for width in widths:
        places = [place for place, ids in enumerate(begun) if len(ids) == width]
        some, starts = [rows[place] for place in places], [begun[place] for place in places]
        answers = _go_on(loaded, state, some, drop, starts, max_new_tokens, options)
        found.update(zip(places, answers, strict=True))
    return [found[place] for place in range(len(rows))]


def _go_on(
    loaded: LoadedModel,
    state: State,
    rows: Sequence[int],
    drop: int,
    begun: Sequence[Sequence[int]],
    max_new_tokens: int,
    options: Mapping[str, Any],
) -> list[list[int]]:
    import torch

    width, length, device = max(map(len, begun)), state.mask.shape[1], state.mask.device
    picked = torch.tensor(rows, device=device)
    cache = copy.copy(state.cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    across = getattr(loaded.model.config.get_text_config(), "cross_attention_layers", None) or ()
    for index, layer in enumerate(cache.layers):
        if index not in across:  # those hold what the frame looks like, and no tokens
            layer.crop(-drop)
        layer.batch_select_indices(picked)

    pad = loaded.processor.tokenizer.pad_token_id or 0
    room = [width - len(ids) for ids in begun]
    ids = torch.tensor([[pad] * gap + list(one) for gap, one in zip(room, begun, strict=True)])
    real = torch.tensor([[0] * gap + [1] * len(one) for gap, one in zip(room, begun, strict=True)])
    steps = torch.tensor([[max(0, place - gap) for place in range(width)] for gap in room])
    ids, real, steps = ids.to(device), real.to(device), steps.to(device)
    mask = torch.cat([state.mask[picked, : length - drop], real.to(state.mask.dtype)], 1)
    positions = state.positions[..., picked, :][..., -drop - 1].unsqueeze(-1) + 1 + steps
    also = {name: value[picked] for name, value in state.also.items()}
    options = {**options, **cached(loaded.model, cache)}

    found: list[list[int]] = [[] for _ in rows]
    waiting = set(range(len(rows)))
    for _ in range(max_new_tokens):
        more = {name: value.expand(-1, ids.shape[1], *value.shape[2:]) for name, value in also.items()}
        output = loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            **more,
            **options,
        )
        chosen = output.logits[:, -1].float().argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row in waiting and token in loaded.ends:
                waiting.discard(row)
            elif row in waiting:
                found[row].append(token)
        if not waiting:
            break
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = positions[..., -1:] + 1
    return found


def continuations(
    loaded: LoadedModel, inputs: Any, max_new_tokens: int, *, stop: str | None = None
) -> list[str]:
    """What the model goes on to say, greedily, after each row of ``inputs``, up to an end token or the bound.

    ``stop``: a text behind which nothing more is decoded.

    Control tokens other than the end are left in the text, for the dialect's parser to refuse.
    """
    ids = inputs["input_ids"]
    tokenizer = loaded.processor.tokenizer
    options = {} if stop is None else {"stop_strings": [stop], "tokenizer": tokenizer}
    output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **options)
    texts = []
    for row in output.tolist():
        last, new = row[ids.shape[1] - 1], row[ids.shape[1] :]
        end = next((index for index, token in enumerate(new) if token in loaded.ends), len(new))
        texts.append(text_after(tokenizer, last, new[:end]))
    return texts


def text_after(tokenizer: Any, last: int, new: Sequence[int]) -> str:
    """The text of ``new`` after ``last``: some tokenizers drop the space in front of a text's first word."""
    whole = tokenizer.decode([last, *new], clean_up_tokenization_spaces=False)
    alone = tokenizer.decode([last], clean_up_tokenization_spaces=False)
    if not whole.startswith(alone):
        whole, alone = tokenizer.decode(list(new), clean_up_tokenization_spaces=False), ""
    return str(whole[len(alone) :])
