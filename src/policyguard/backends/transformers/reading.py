"""What the logits say at the places of the rating and the category; and, for explain, the decoded rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.backends.transformers.loading import LoadedModel
    from policyguard.backends.transformers.plan import Plan
    from policyguard.dialects.base import Dialect

__all__ = ["Scores", "continuations", "explained", "read_scores"]


@dataclass(frozen=True, slots=True)
class Scores:
    """The fast reading of one picture; ``category`` is the label text of the best-scoring category."""

    rating: Rating
    p_unsafe: float
    label_mass: float
    p_undecided: float
    rule_scores: dict[str, float] | None
    category: str | None

    def assessment(self, plan: Plan) -> Assessment:
        """As the answer to a fast request."""
        unsafe = self.rating is Rating.UNSAFE and self.category is not None
        return Assessment(
            rating=self.rating,
            p_unsafe=self.p_unsafe,
            label_mass=self.label_mass,
            p_undecided=self.p_undecided,
            rule_scores=self.rule_scores,
            category=plan.prompt.categories[self.category] if unsafe and self.category else None,
        )


def read_scores(plan: Plan, logits: Any) -> list[Scores | None]:
    """One reading per row of ``logits``, shape (rows, positions, vocabulary); ``None`` if not finite.

    A label's probability is that of its first token, out of the whole vocabulary. ``label_mass`` is their
    sum; p_unsafe = unsafe / (safe + unsafe) and p_undecided = undecided / label_mass; categories are
    normalised over the categories. All from logarithms, so that nothing underflows.
    """
    import torch

    at_rating = logits[:, plan.rating_at].float()
    sound = at_rating.isfinite().all(-1)
    labels = (at_rating[:, list(plan.ratings)] - at_rating.logsumexp(-1, keepdim=True)).cpu().double()
    categories = torch.zeros(len(labels), 0)
    if plan.categories:
        at_category = logits[:, plan.category_at].float()
        sound = sound & at_category.isfinite().all(-1)
        categories = torch.softmax(at_category[:, list(plan.categories)], -1)

    ratings = list(plan.ratings.values())
    undecided = torch.tensor([rating is Rating.UNDECIDED for rating in ratings])
    unsafe = torch.tensor([rating is Rating.UNSAFE for rating in ratings])
    shares = torch.softmax(labels, -1)
    p_unsafe = torch.softmax(labels.masked_fill(undecided, -torch.inf), -1)[:, unsafe].sum(-1)
    mass = labels.exp().sum(-1).clamp(max=1.0)
    columns = (sound, shares, categories, p_unsafe, mass, shares[:, undecided].sum(-1))
    return [
        _scores(plan, *numbers) if ok else None
        for ok, *numbers in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _scores(
    plan: Plan, shares: list[float], categories: list[float], p_unsafe: float, mass: float, undecided: float
) -> Scores:
    by_rating: dict[Rating, float] = {}
    for rating, share in zip(plan.ratings.values(), shares, strict=True):
        by_rating[rating] = by_rating.get(rating, 0.0) + share
    best = max(by_rating, key=lambda rating: (by_rating[rating], rating is Rating.UNSAFE))
    rule_scores: dict[str, float] | None = None
    category = None
    if categories:
        labels = list(plan.categories.values())
        rule_scores = {}
        for label, share in zip(labels, categories, strict=True):
            rule = plan.prompt.categories[label]
            rule_scores[rule] = rule_scores.get(rule, 0.0) + share
        category = labels[categories.index(max(categories))]
    return Scores(best, p_unsafe, mass, undecided, rule_scores, category)


def continuations(loaded: LoadedModel, inputs: Any, max_new_tokens: int) -> list[str]:
    """What the model goes on to say, greedily, after each row of ``inputs``, up to an end token or the bound.

    Control tokens other than the end are left in the text, for the dialect's parser to refuse.
    """
    ids = inputs["input_ids"]
    tokenizer = loaded.processor.tokenizer
    output = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    texts = []
    for row in output.tolist():
        last, new = row[ids.shape[1] - 1], row[ids.shape[1] :]
        end = next((index for index, token in enumerate(new) if token in loaded.ends), len(new))
        texts.append(_after(tokenizer, last, new[:end]))
    return texts


def _after(tokenizer: Any, last: int, new: Sequence[int]) -> str:
    """The text of ``new`` after ``last``: some tokenizers drop the space in front of a text's first word."""
    whole = tokenizer.decode([last, *new], clean_up_tokenization_spaces=False)
    alone = tokenizer.decode([last], clean_up_tokenization_spaces=False)
    if not whole.startswith(alone):
        whole, alone = tokenizer.decode(list(new), clean_up_tokenization_spaces=False), ""
    return str(whole[len(alone) :])


def explained(plan: Plan, dialect: Dialect, scores: Scores, text: str) -> Assessment | Failure:
    """``scores``, with category and rationale as the dialect's strict parser reads them from ``text``."""
    try:
        answer = dialect.parse(text, plan.policy)
    except AnswerError as error:
        return Failure(FailureKind.ERROR, str(error))
    if answer.rating is not scores.rating:
        return Failure(
            FailureKind.ERROR, f"the answer reads '{answer.rating}' where the scores say '{scores.rating}'"
        )
    return Assessment(
        rating=scores.rating,
        p_unsafe=scores.p_unsafe,
        label_mass=scores.label_mass,
        p_undecided=scores.p_undecided,
        rule_scores=scores.rule_scores,
        reading=Reading.EXPLAIN,
        category=answer.category,
        rationale=answer.rationale,
    )
