"""What the logits say at the places of the rating and the category; for explain, what the words say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.backends.transformers.plan import Plan
    from policyguard.dialects.base import Dialect

__all__ = ["Scores", "explained", "read_scores"]


@dataclass(frozen=True, slots=True)
class Scores:
    """The fast reading of one frame; ``category`` is the label text of the best-scoring category."""

    rating: Rating
    p_unsafe: float
    label_mass: float
    p_undecided: float
    rule_scores: dict[str, float] | None
    category: str | None
    category_mass: float | None

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
            category_mass=self.category_mass,
        )


def read_scores(plan: Plan, logits: Any) -> list[Scores | None]:
    """One reading per row of ``logits``, shape (rows, positions, vocabulary); ``None`` if not finite.

    A label's probability is that of its first token, out of the whole vocabulary. ``label_mass`` is their
    sum, ``category_mass`` that of the categories; p_unsafe = unsafe / (safe + unsafe) and p_undecided =
    undecided / label_mass; categories are normalised over the categories. All from logarithms, so that
    nothing underflows.
    """
    import torch

    at_rating = logits[:, plan.rating_at].float()
    sound = at_rating.isfinite().all(-1)
    labels = _logs(at_rating, plan.ratings)
    categories = torch.zeros(len(labels), 0)
    if plan.categories:
        at_category = logits[:, plan.category_at].float()
        sound = sound & at_category.isfinite().all(-1)
        categories = _logs(at_category, plan.categories)

    ratings = list(plan.ratings.values())
    undecided = torch.tensor([rating is Rating.UNDECIDED for rating in ratings])
    unsafe = torch.tensor([rating is Rating.UNSAFE for rating in ratings])
    shares = torch.softmax(labels, -1)
    p_unsafe = torch.softmax(labels.masked_fill(undecided, -torch.inf), -1)[:, unsafe].sum(-1)
    columns = (
        sound,
        shares,
        torch.softmax(categories, -1),
        p_unsafe,
        _mass(labels),
        shares[:, undecided].sum(-1),
        _mass(categories),
    )
    return [
        _scores(plan, *numbers) if ok else None
        for ok, *numbers in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _logs(logits: Any, tokens: Iterable[int]) -> Any:
    """Log-probabilities of ``tokens`` over the whole vocabulary, shape (rows, tokens)."""
    return (logits[:, list(tokens)] - logits.logsumexp(-1, keepdim=True)).cpu().double()


def _mass(logs: Any) -> Any:
    return logs.exp().sum(-1).clamp(max=1.0)


def _scores(
    plan: Plan,
    shares: list[float],
    categories: list[float],
    p_unsafe: float,
    mass: float,
    undecided: float,
    category_mass: float,
) -> Scores:
    by_rating: dict[Rating, float] = {}
    for rating, share in zip(plan.ratings.values(), shares, strict=True):
        by_rating[rating] = by_rating.get(rating, 0.0) + share
    rule_scores: dict[str, float] | None = None
    category = None
    if categories:
        labels = list(plan.categories.values())
        rule_scores = {}
        for label, share in zip(labels, categories, strict=True):
            rule = plan.prompt.categories[label]
            rule_scores[rule] = rule_scores.get(rule, 0.0) + share
        category = labels[categories.index(max(categories))]
    covered = category_mass if categories else None
    best = plan.prompt.rating_of(by_rating)
    return Scores(best, p_unsafe, mass, undecided, rule_scores, category, covered)


def explained(plan: Plan, dialect: Dialect, scores: Scores, text: str) -> Assessment | Failure:
    """``scores``, with category and rationale as the dialect's strict parser reads them from ``text``.

    Where it cannot, scores that violate stand without words: a broken explanation takes no violation
    back. Any other frame is a Failure.
    """
    scored = replace(scores.assessment(plan), reading=Reading.EXPLAIN)
    try:
        answer = dialect.parse(text, plan.policy, plan.prompt)
        if answer.rating is not scores.rating:
            raise AnswerError(f"the answer reads '{answer.rating}' where the scores say '{scores.rating}'")
    except AnswerError as error:
        if scores.rating is Rating.UNDECIDED or scores.p_unsafe < plan.policy.raw(plan.policy.threshold):
            return Failure(FailureKind.ERROR, str(error))
        return replace(scored, notes=(f"the explanation could not be read: {error}",))
    return replace(scored, category=answer.category, rationale=answer.rationale)
