"""What pico is taught. All is read through the tied word vectors, also half-way up and per image token."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from batches import BACKGROUND, MAX_KEYS, OUTSIDE, Batch, Collator
from forward import Forward, Hidden
from model import GRID, TOKENS, WORD_SCALE
from policyguard.pictosafe.world import GROUP_NAMES, GROUP_OF, NAMES
from tokens import CONTEXT_WORDS, Vocabulary

ALIGN_SHARPNESS = 4.0
CELL_WEIGHT, OUTSIDE_WEIGHT = 0.15, 0.3  # of tokens without a pictogram, which are the many


@dataclass(frozen=True)
class Scrambled:
    """Names and groups replaced by fresh random vectors, in a row's policy and pictures alike."""

    which: Tensor  # [B, names + groups] bool
    vectors: Tensor  # [B, names + groups, hidden]


class Teacher:
    """Targets and losses over ``Forward``. Shapes as in ``Batch``; D is the hidden size."""

    def __init__(
        self,
        forward: Forward,
        vocabulary: Vocabulary,
        collator: Collator,
        *,
        grouped: Collection[str] = NAMES,
    ) -> None:
        """``grouped`` are the pictograms whose image tokens say their group too."""
        self.forward, self.collator = forward, collator
        self.grouped = torch.tensor([name in grouped for name in NAMES])
        self.words = forward.words
        self.names = torch.tensor(vocabulary.names)
        self.groups = torch.tensor(vocabulary.groups)
        self.labels = torch.tensor(vocabulary.labels)
        self.keys = torch.tensor(vocabulary.keys[:MAX_KEYS])
        self.background, self.outside = (vocabulary.id(w) for w in (" background", " outside"))
        self.contexts = torch.tensor([vocabulary.id(words[0]) for words in CONTEXT_WORDS.values()])
        # what a listed concept says of itself half-way up: forbidden or fine, anywhere or in one context
        words = vocabulary.language
        marks = [words.listed, *(w[0] for w in CONTEXT_WORDS.values())]
        marks += [words.excused, *(w[1] for w in CONTEXT_WORDS.values())]
        self.sections = torch.tensor([vocabulary.id(word) for word in marks])
        self.group_of = torch.tensor([GROUP_NAMES.index(GROUP_OF[name]) for name in NAMES])
        self.concepts = torch.cat((self.names, self.groups))
        self.concept_at = torch.full((len(self.words),), -1)
        self.concept_at[self.concepts] = torch.arange(len(self.concepts))

    # ---- image tokens

    def image_targets(self, shows: Tensor, context: Tensor, scrambled: Scrambled | None = None) -> Tensor:
        """[..., T] -> [..., T, D]: the word vectors of the pictogram, its group and its context, summed."""
        words = self.words.detach()
        on, name = shows >= 0, shows.clamp(min=0)
        group = len(NAMES) + self.group_of[name]
        table = words[self.concepts]
        named, grouped = table[name], table[group]
        if scrambled is not None:
            row = torch.arange(len(shows))[:, None, None].expand_as(name)
            renamed, regrouped = (scrambled.which[row, index][..., None] for index in (name, group))
            named = torch.where(renamed, scrambled.vectors[row, name], named)
            grouped = torch.where(regrouped, scrambled.vectors[row, group], grouped)
        vectors = named + grouped * self.grouped[name][..., None]
        rest = words[[self.outside, self.background]][shows.clamp(max=-1) + 2]  # OUTSIDE, BACKGROUND
        placed = torch.cat((torch.zeros_like(words[:1]), words[self.contexts]))
        return torch.where(on[..., None], vectors, rest) + placed[context]

    def scramble(self, batch: Batch, share: float) -> Scrambled:
        """In a ``share`` of rows, all names and groups become random vectors, or each does by even chance.

        It forces a general "is this the same vector?" instead of a memorised list of trained names; and where
        only some are random, nothing tells which of the two would do.
        """
        count = len(batch.rules)
        chance = torch.where(torch.rand(count, 1) < 0.5, 0.5, 1.0) * (torch.rand(count, 1) < share)
        which = torch.rand(count, len(self.concepts)) < chance
        vectors = WORD_SCALE * torch.randn(count, len(self.concepts), self.words.shape[1])
        return Scrambled(which, vectors)

    def rename(self, images: Tensor, batch: Batch, scrambled: Scrambled) -> Tensor:
        """[B, K, T, D] the tower's image tokens, moved by as much as their targets move in ``scrambled``."""
        new, old = (self.image_targets(batch.shows, batch.context, how) for how in (scrambled, None))
        return images + (new - old).to(images.dtype)

    def symbolic_images(self, batch: Batch, scrambled: Scrambled) -> Tensor:
        """[B, K, T, D]: the tower's targets with the tower's kinds of error, and no pixels."""
        clean = self.image_targets(batch.shows, batch.context, scrambled)
        background, outside = self.words[self.background].detach(), self.words[self.outside].detach()
        shape = batch.shows.shape
        on = (batch.shows >= 0)[..., None]
        # where pictograms touch, a token has something of its neighbour
        touched = (torch.rand(*shape, 1) < 0.15) & on
        clean = torch.where(touched, self._blend(clean, _beside(clean), shape, 0.4), clean)
        # pictogram tokens fade into the background, and some are missed
        fade = torch.where(on, torch.rand(*shape, 1) * 0.5 + 0.5, torch.ones(*shape, 1))
        x = fade * clean + (1 - fade) * background
        x = torch.where((torch.rand(*shape, 1) < 0.08) & on, background, x)
        # in a third of the scenes some background tokens look a bit like outside: the scene stays decided
        touched = (torch.rand(*shape[:2], 1, 1) < 0.33) & (torch.rand(*shape, 1) < 0.2)
        x = torch.where(
            touched & (batch.shows == BACKGROUND)[..., None], self._blend(background, outside, shape), x
        )
        # outside pictures are mostly outside; some tokens fade to background or hallucinate a pictogram
        out = (batch.shows == OUTSIDE)[..., None]
        level = torch.rand(*shape[:2], 1, 1)
        weak = out & (torch.rand(*shape, 1) < 0.7 * level)
        x = torch.where(weak, self._blend(outside, background, shape), x)
        context = torch.randint(1 + len(self.contexts), shape)
        wrong = self.image_targets(torch.randint(len(NAMES), shape), context, scrambled)
        ghosts = out & (torch.rand(*shape, 1) < 0.12 * torch.rand(*shape[:2], 1, 1))
        x = torch.where(ghosts, outside + torch.rand(*shape, 1) * (wrong - outside), x)
        return x + torch.randn_like(x) * torch.rand(*shape[:2], 1, 1) * 0.08

    @staticmethod
    def _blend(start: Tensor, end: Tensor, shape: torch.Size, most: float = 1.0) -> Tensor:
        return start + most * torch.rand(*shape, 1) * (end - start)

    # ---- the language model

    def embed(self, batch: Batch, images: Tensor, scrambled: Scrambled | None = None) -> Tensor:
        """[B, P + K*S, D] word vectors with the image tokens in place."""
        words = self.words.detach()
        policy = words[batch.policy_ids]
        if scrambled is not None:
            concept = self.concept_at[batch.policy_ids]
            row = torch.arange(len(concept))[:, None].expand_as(concept)
            replace = (concept >= 0) & scrambled.which[row, concept.clamp(min=0)]
            policy = torch.where(replace[..., None], scrambled.vectors[row, concept.clamp(min=0)], policy)
        rows, many = batch.verdict.shape
        fixed, first = words[batch.picture_ids], self.collator.first_image
        head = fixed[:first].expand(rows, many, -1, -1)
        tail = fixed[first + TOKENS : self.collator.ask + 1].expand(rows, many, -1, -1)
        answer = words[batch.answer[..., :-1].clamp(min=0)]
        pictures = torch.cat((head, images.to(words.dtype), tail, answer), 2).flatten(1, 2)
        return torch.cat((policy, pictures), 1)

    def read(self, batch: Batch, images: Tensor, scrambled: Scrambled | None = None) -> tuple[Hidden, Hidden]:
        """Hidden states of the policy [B, P, D] and of the pictures [B, K, S, D]."""
        many, size = batch.verdict.shape[1], batch.policy_ids.shape[1]
        x = self.embed(batch, images, scrambled)
        hidden = self.forward.text(x, self.forward.rope(batch.positions), batch.policy_pad, many)
        stages = (hidden.middle, hidden.late, hidden.last)
        pictures = (t[:, size:].unflatten(1, (many, -1)) for t in stages)
        return Hidden(*(t[:, :size] for t in stages)), Hidden(*pictures)

    def score(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits of the words ``ids`` (default: of all), in float32."""
        words = self.words if ids is None else self.words[ids]
        return (hidden @ words.T.to(hidden.dtype)).float()

    def verdict_logits(self, batch: Batch, images: Tensor) -> Tensor:
        """[B, K, vocabulary] at the position of the verdict."""
        _, pictures = self.read(batch, images)
        return self.score(pictures.last[:, :, self.collator.ask])

    def losses(self, batch: Batch, images: Tensor, scrambled: Scrambled | None = None) -> dict[str, Tensor]:
        """One scalar per thing taught; ``objective`` weighs them."""
        policy, pictures = self.read(batch, images, scrambled)
        ask, first = self.collator.ask, self.collator.first_image
        last, late = (t[:, :, first : first + TOKENS] for t in (pictures.last, pictures.late))
        verdict = self.score(pictures.last[:, :, ask], self.labels)
        out = {"verdict": F.cross_entropy(verdict.flatten(0, 1), batch.verdict.flatten())}
        # the answer's words: a random vector cannot be spelled out, so that an answer ends at the rule's key
        wanted = batch.answer
        if scrambled is not None:
            spelled = torch.arange(wanted.shape[-1]) >= 2
            wanted = torch.where(spelled & scrambled.which.any(1)[:, None, None], -100, wanted)
        spoken = self.score(pictures.last[:, :, ask:])
        each = F.cross_entropy(spoken.flatten(0, 2), wanted.flatten(), ignore_index=-100, reduction="none")
        size = wanted.shape[-1]
        each = each.view(-1, size)
        weight = torch.tensor([1.0, 1.0] + [0.3] * (size - 2)) * (wanted.view(-1, size) >= 0)
        out["answer"] = (each * weight).sum() / weight.sum()
        # every token that shows something says whether it is safe; which rules it breaks, one layer earlier
        on, away = batch.shows >= 0, batch.shows == OUTSIDE
        told = torch.where(away, 2, batch.breaks.any(-1).long())
        asked = on | away
        out["token"] = F.cross_entropy(self.score(last[asked], self.labels), told[asked])
        out["token_late"] = F.cross_entropy(self.score(late[asked], self.labels), told[asked])
        out["rule_late"] = self._rules(late[on], batch, on)
        # half-way up: a listed concept knows its section and its rule
        listed = batch.section >= 0
        out["section"] = F.cross_entropy(
            self.score(policy.middle[listed], self.sections), batch.section[listed]
        )
        out["key"] = F.cross_entropy(self.score(policy.middle[listed], self.keys), batch.key[listed])
        with torch.no_grad():
            out["accuracy"] = (verdict.argmax(-1) == batch.verdict).float().mean()
            said = self.score(last[on], self.labels).argmax(-1)
            bad = batch.breaks[on].any(-1)
            out["token_accuracy"] = ((said[bad] == 1).float().mean() + (said[~bad] == 0).float().mean()) / 2
        return out

    def _rules(self, late: Tensor, batch: Batch, on: Tensor) -> Tensor:
        """For each rule of the policy: does this token's pictogram break it? (key against " safe")"""
        odds = self.score(late, self.keys) - self.score(late, self.labels[:1])
        real = torch.arange(MAX_KEYS)[None] < batch.rules[:, None]
        real = real[:, None, None].expand(*on.shape, MAX_KEYS)[on]
        return F.binary_cross_entropy_with_logits(odds[real], batch.breaks[on][real].float())

    # ---- the tower

    def alignment(self, tokens: Tensor, shows: Tensor, context: Tensor) -> dict[str, Tensor]:
        """tokens [N, T, D] against the word vectors of what they show ([N, T]) in which context ([N, T])."""
        tokens, words = tokens.float(), self.words.detach()
        table = torch.cat((words[[self.outside, self.background]], words[self.names]))
        logits, target = ALIGN_SHARPNESS * (tokens @ table.T), shows + 2
        on = shows >= 0
        weight = torch.where(on, 1.0, torch.where(shows == OUTSIDE, OUTSIDE_WEIGHT, CELL_WEIGHT))
        entropy = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        grouped = on & self.grouped[shows.clamp(min=0)]
        group = F.cross_entropy(
            ALIGN_SHARPNESS * (tokens[grouped] @ words[self.groups].T), self.group_of[shows[grouped]]
        )
        lean = ALIGN_SHARPNESS * (tokens[on] @ words[self.contexts].T - 1.0)
        placed = context[on][:, None] == torch.arange(1, 1 + len(self.contexts))
        error = ((tokens - self.image_targets(shows, context)) ** 2).mean(-1) / WORD_SCALE**2
        right = logits.argmax(-1) == target
        return {
            "name": (entropy * weight.flatten()).sum() / weight.sum(),
            "group": group,
            "context": F.binary_cross_entropy_with_logits(lean, placed.float()),
            "distance": (error * weight).sum() / weight.sum(),
            "name_accuracy": right[on].float().mean().detach(),
            "rest_accuracy": right[~on].float().mean().detach(),
            "context_accuracy": ((lean > 0) == placed).all(-1).float().mean().detach(),
        }


def _beside(tokens: Tensor) -> Tensor:
    """[B, K, T, D]: what stands beside each image token, on one side or the other, above or below."""
    grid = tokens.unflatten(2, (GRID, GRID))
    step, axis = (1, -1)[int(torch.randint(2, ()))], (2, 3)[int(torch.randint(2, ()))]
    return grid.roll(step, axis).flatten(2, 3)


WEIGHTS = {
    "verdict": 1.0,
    "answer": 0.5,
    "token": 1.0,
    "token_late": 1.0,
    "rule_late": 2.0,
    "section": 0.5,
    "key": 0.5,
}
ALIGN_WEIGHTS = {"name": 1.0, "group": 0.3, "context": 0.7, "distance": 0.3}


def objective(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    return torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
