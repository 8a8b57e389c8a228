"""Rows of one policy and K pictures, as the tensors the losses need. Symbols only: no pixels here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import GRID, TOKENS
from policyguard.dialects.pico import render_rules
from policyguard.pictosafe.rules import PictoPolicy
from policyguard.pictosafe.scene import SIDE, Scene
from policyguard.pictosafe.world import CONTEXTS, NAMES
from tokens import CONTEXT_WORDS, END, IMAGE, Vocabulary

IGNORE = -100
MAX_NAMES = 6  # violating pictograms spelled out after the verdict
ANSWER = 3 + MAX_NAMES  # verdict, rule key, names, end
MAX_KEYS = 8
POLICY_LENGTHS = (40, 64, 96, 160)  # few shapes: each costs a compilation
BACKGROUND, OUTSIDE = -1, -2  # what an image token shows when it is no pictogram
COVER = 0.3  # least share of a token that a pictogram must fill to be named by it
FREE = 0  # context of an image token; the others count on in the order of CONTEXTS
INDEX = {name: i for i, name in enumerate(NAMES)}
_CONTEXT = {context: i for i, context in enumerate((None, *CONTEXTS))}
_CELL = SIDE // GRID


def text_of(policy: PictoPolicy) -> str:
    """What pico reads of ``policy``."""
    return render_rules((rule.status, *rule.texts()) for rule in policy.rules)


@dataclass(frozen=True)
class Row:
    """A policy and the pictures judged under it; ``None`` stands for a picture from outside the world."""

    policy: PictoPolicy
    pictures: tuple[Scene | None, ...]


@dataclass
class Batch:
    """B rows of K pictures; P policy positions (right padded), S per picture, T = 36 image tokens."""

    policy_ids: Tensor  # [B, P]
    policy_pad: Tensor  # [B, P] bool
    section: Tensor  # [B, P] of a listed concept: 3 * (fine?) + its context, else IGNORE
    key: Tensor  # [B, P] of a listed concept: its rule, else IGNORE
    picture_ids: Tensor  # [S] the same for all, but for the answer
    answer: Tensor  # [B, K, ANSWER] token ids, IGNORE after the end
    rules: Tensor  # [B] number of rules
    verdict: Tensor  # [B, K] 0 safe, 1 unsafe, 2 undecided
    shows: Tensor  # [B, K, T] pictogram index, BACKGROUND or OUTSIDE
    context: Tensor  # [B, K, T] FREE, or 1 + the place in CONTEXTS
    breaks: Tensor  # [B, K, T, MAX_KEYS] bool: this token's pictogram breaks that rule
    positions: Tensor  # [3, B, P + K*S]


def token_targets(scene: Scene | None) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Per image token: what it shows, in which context, and the index of the placement (or -1).

    It is the pictogram that most of the token's pixels belong to; what later ones cover does not count. A
    small pictogram is named where half of it is.
    """
    context, who = np.full(TOKENS, FREE), np.full(TOKENS, -1)
    if scene is None:
        return np.full(TOKENS, OUTSIDE), context, who
    shows = np.full(TOKENS, BACKGROUND)
    if not scene.placements:
        return shows, context, who
    owner = np.full((SIDE, SIDE), -1, np.int8)
    for i, p in enumerate(scene.placements):
        left, top, right, bottom = p.box
        if p.context == "framed":
            owner[top:bottom, left:right] = -1
        owner[p.y : p.y + p.size, p.x : p.x + p.size] = i
    parts = owner.reshape(GRID, _CELL, GRID, _CELL).swapaxes(1, 2).reshape(TOKENS, -1)
    shares = (parts == np.arange(len(scene.placements), dtype=np.int8)[:, None, None]).mean(-1)
    best = shares.argmax(0)
    least = np.array([min(COVER, (p.size / _CELL) ** 2 / 2) for p in scene.placements])
    for token in np.flatnonzero(shares.max(0) >= least[best]):
        i = int(best[token])
        placement = scene.placements[i]
        shows[token], context[token], who[token] = INDEX[placement.name], _CONTEXT[placement.context], i
    return shows, context, who


class Collator:
    """Rows -> Batch. Keeps the token ids that it needs at hand.

    ``say`` puts a policy into words; ``answer`` is the room for an answer's tokens.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, say: Callable[[PictoPolicy], str] = text_of, answer: int = ANSWER
    ) -> None:
        self.vocabulary, self.say, self.longest = vocabulary, say, answer
        tokenizer = vocabulary.tokenizer
        self.end = vocabulary.id(END)
        self.pad = tokenizer.pad_token_id
        self.picture = (*vocabulary.before, *[vocabulary.id(IMAGE)] * TOKENS, *vocabulary.after)
        self.first_image = len(vocabulary.before)
        self.ask = len(self.picture) - 1  # the position whose logits are the verdict
        self.span = len(self.picture) + answer - 1
        self._concept = {*vocabulary.names, *vocabulary.groups}
        self._sections = {
            vocabulary.id(vocabulary.language.listed): 0,
            vocabulary.id(vocabulary.language.excused): len(_CONTEXT),
        }
        self._contexts = {vocabulary.id(w): _CONTEXT[c] for c, words in CONTEXT_WORDS.items() for w in words}
        self._stop, self._comma = vocabulary.id("."), vocabulary.id(",")
        self._keys = {t: i for i, t in enumerate(vocabulary.keys)}

    def __call__(self, rows: Sequence[Row]) -> Batch:
        texts = self.vocabulary.tokenizer([self.say(r.policy) for r in rows], add_special_tokens=False)[
            "input_ids"
        ]
        policies = [(*self.vocabulary.prefix, *ids) for ids in texts]
        longest = max(map(len, policies))
        size = next((n for n in POLICY_LENGTHS if n >= longest), longest)
        batch, many = len(rows), len(rows[0].pictures)
        ids = np.full((batch, size), self.pad)
        section, key = np.full((batch, size), IGNORE), np.full((batch, size), IGNORE)
        answer = np.full((batch, many, self.longest), IGNORE)
        verdict = np.zeros((batch, many), np.int64)
        shows, context = (np.zeros((batch, many, TOKENS), np.int64) for _ in range(2))
        breaks = np.zeros((batch, many, TOKENS, MAX_KEYS), bool)
        for b, (row, tokens) in enumerate(zip(rows, policies, strict=True)):
            ids[b, : len(tokens)] = tokens
            self._mark_policy(tokens, section[b], key[b])
            for k, scene in enumerate(row.pictures):
                shows[b, k], context[b, k], who = token_targets(scene)
                broken = _broken(row.policy, scene)
                if scene is not None and len(scene.placements):
                    breaks[b, k] = broken[who] & (who >= 0)[:, None]
                words = self._answer(scene, broken, who)
                answer[b, k, : len(words)] = words
                verdict[b, k] = self.vocabulary.labels.index(words[0])
        lengths = torch.tensor([len(p) for p in policies])
        return Batch(
            policy_ids=torch.from_numpy(ids),
            policy_pad=torch.arange(size)[None] >= lengths[:, None],
            section=torch.from_numpy(section),
            key=torch.from_numpy(key),
            picture_ids=torch.tensor([*self.picture, *[self.pad] * (self.longest - 1)]),
            answer=torch.from_numpy(answer),
            rules=torch.tensor([len(r.policy.rules) for r in rows]),
            verdict=torch.from_numpy(verdict),
            shows=torch.from_numpy(shows),
            context=torch.from_numpy(context),
            breaks=torch.from_numpy(breaks),
            positions=self.positions(lengths, size, many),
        )

    def _mark_policy(
        self,
        tokens: Sequence[int],
        section: NDArray[np.int64],
        key: NDArray[np.int64],
    ) -> None:
        """Note for every listed concept its section, its context and its rule, reading left to right."""
        rule, part, context, fresh = -1, 0, FREE, True
        for i, token in enumerate(tokens):
            if i < len(self.vocabulary.prefix):
                continue
            if token in self._keys and fresh:
                rule = self._keys[token]
            elif token in self._sections:
                part, context = self._sections[token], FREE
            elif token == self._comma:
                context = FREE
            elif token in self._contexts:
                context = self._contexts[token]
            elif token in self._concept:
                section[i], key[i] = part + context, rule
            fresh = token == self._stop

    def _answer(self, scene: Scene | None, broken: NDArray[np.bool_], who: NDArray[np.int64]) -> list[int]:
        """The verdict; if unsafe, the first rule broken and what breaks it, in the order of the tokens."""
        safe, unsafe, undecided = self.vocabulary.labels
        if scene is None or not scene.placements:
            return [undecided, self.end]
        if not broken.any():
            return [safe, self.end]
        rule = int(broken.any(0).argmax())
        seen = dict.fromkeys(int(i) for i in who if i >= 0)
        guilty = [i for i in seen if broken[i, rule]]
        names = [self.vocabulary.names[INDEX[scene.placements[i].name]] for i in guilty[:MAX_NAMES]]
        return [unsafe, self.vocabulary.keys[rule], *names, self.end]

    def positions(self, lengths: Tensor, size: int, many: int) -> Tensor:
        """M-RoPE positions [3, B, P + K*S]: each picture goes on where its own policy (unpadded) stopped."""
        j = torch.arange(self.span) - self.first_image
        inside, after = (j >= 0) & (j < TOKENS), j >= TOKENS
        time = torch.where(after, j - TOKENS + GRID, torch.where(inside, 0, j)) + self.first_image
        row = torch.where(inside, time + j.clamp(0, TOKENS - 1) // GRID, time)
        column = torch.where(inside, time + j.clamp(0, TOKENS - 1) % GRID, time)
        picture = torch.stack((time, row, column))[:, None] + lengths[None, :, None]
        policy = torch.arange(size).expand(3, len(lengths), size)
        return torch.cat((policy, picture.repeat(1, 1, many)), -1).float()


def _broken(policy: PictoPolicy, scene: Scene | None) -> NDArray[np.bool_]:
    """[placements, MAX_KEYS]: which pictogram breaks which rule."""
    placements = () if scene is None else scene.placements
    broken = np.zeros((len(placements), MAX_KEYS), bool)
    for k, rule in enumerate(policy.rules):
        if rule.status != "exempt":
            for i, p in enumerate(placements):
                broken[i, k] = rule.is_broken_by(p.name, context=p.context)
    return broken
