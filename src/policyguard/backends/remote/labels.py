"""How probable each label is at one place of the answer, and the scores that follow from it.

``LabelReader`` asks the server; the rest are pure functions. Covered: a label that the server does not list
is never taken for impossible where it could still decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from policyguard.assessment import Assessment, Rating
from policyguard.backends.remote.answers import NoLogprobsError, TokenProbabilities, read_probabilities
from policyguard.backends.remote.chat import NoScoresError
from policyguard.backends.remote.errors import CallError
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.remote.chat import Chat, Conversation
    from policyguard.dialects import Prompt
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "LabelReader",
    "LabelScores",
    "rate",
    "with_rules",
    "without_rules",
]

TOP, FEW = 20, 5
"""How many of the most likely tokens to request: OpenAI's limit, and that of the strictest servers."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Label -> probability over the whole vocabulary, for the labels that the server listed.

    ``ceiling`` is the most that an unlisted label can have; 0 when exactly these labels were requested.
    ``listed`` is the number of tokens in the server's list.
    """

    probabilities: Mapping[str, float]
    ceiling: float = 0.0
    listed: int = TOP


def rate(prompt: Prompt, policy: ResolvedPolicy, scores: LabelScores) -> Assessment:
    """The assessment that the rating position gives; rules are not read yet.

    UNDECIDED without a score when neither safe nor unsafe has any probability, and when unsafe is not
    listed and could still have enough for a violation, or the list is too short to leave it out.
    """
    share = dict.fromkeys(Rating, 0.0)
    for label, rating in prompt.ratings.items():
        share[rating] += scores.probabilities.get(label, 0.0)
    total = sum(share.values())
    mass, undecided = min(1.0, total), share[Rating.UNDECIDED] / total if total > 0.0 else 0.0
    judged = share[Rating.SAFE] + share[Rating.UNSAFE]
    if judged <= 0.0:
        reason = "answers that it cannot decide" if total > 0.0 else "gives its labels no probability"
        return Assessment(Rating.UNDECIDED, None, mass, undecided, notes=(f"the model {reason}",))
    notes: tuple[str, ...] = ()
    most = 0.0
    if prompt.label(Rating.UNSAFE) not in scores.probabilities:
        most = scores.ceiling / (judged + scores.ceiling)
        if most >= policy.decisive_score or scores.listed < FEW:
            note = f"the server lists too few tokens to exclude a score of {most:.2f}"
            return Assessment(Rating.UNDECIDED, None, mass, undecided, notes=(note,))
        notes = (f"the server does not list the label unsafe: it counts as 0 and is at most {most:.3f}",)
    return Assessment(
        prompt.rating_of(share),
        share[Rating.UNSAFE] / judged,
        mass,
        undecided,
        notes=notes,
        blind_below=most,
    )


def without_rules(assessment: Assessment, policy: ResolvedPolicy, reason: str) -> Assessment:
    """For when rules were not read because they cannot change the decision.

    Rules with thresholds of their own need scores to decide. A joint score is at most p_unsafe, so zeros
    decide as the real ones would.
    """
    if assessment.p_unsafe is None or all(rule.threshold is None for rule in policy.rules):
        return assessment
    zeros = dict.fromkeys((rule.id for rule in policy.rules), 0.0)
    return replace(_noted(assessment, f"rule scores were not read: {reason}"), rule_scores=zeros)


def with_rules(
    assessment: Assessment, prompt: Prompt, policy: ResolvedPolicy, scores: LabelScores
) -> Assessment:
    """Adds P(rule | unsafe), normalised over the policy's rules, and the category of an unsafe frame.

    Rule scores stay None, which decides as an ERROR where rules have thresholds of their own, when no rule
    has any probability, and when an unlisted one could reach its threshold. Otherwise every rule has a score.
    """
    by_rule: dict[str, float] = {}
    for label, probability in scores.probabilities.items():
        rule = prompt.categories[label]
        by_rule[rule] = by_rule.get(rule, 0.0) + probability
    total, p_unsafe = sum(by_rule.values()), assessment.p_unsafe
    assessment = replace(assessment, category_mass=min(1.0, total))
    if total <= 0.0 or p_unsafe is None:
        return _noted(assessment, "the model names no rule of the policy")
    if assessment.rating is Rating.UNSAFE:
        assessment = replace(assessment, category=max(by_rule, key=lambda rule: by_rule[rule]))
    most = scores.ceiling / (total + scores.ceiling)
    unlisted = [rule for rule in policy.rules if rule.id not in by_rule and rule.status != "exempt"]
    reach = policy.calibrated(p_unsafe) * most
    if any(rule.threshold is not None and reach >= rule.threshold for rule in unlisted):
        return _noted(assessment, "the server lists too few tokens to read all rules")
    # Shares err on the side of the violation: listed active rules get the most that they can have, exempt
    # ones, which lower the score, the least, and unlisted ones what is left.
    exempt = {rule.id for rule in policy.rules if rule.status == "exempt"}
    whole = total + len(unlisted) * scores.ceiling
    shares = {rule: p / (whole if rule in exempt else total) for rule, p in by_rule.items()}
    left = max(0.0, 1.0 - sum(shares.values()))
    others = {rule.id: min(most, left / len(unlisted)) for rule in unlisted}
    blind = max(assessment.blind_below, p_unsafe * most if unlisted else 0.0)
    return replace(assessment, rule_scores=dict.fromkeys(exempt, 0.0) | others | shares, blind_below=blind)


def _noted(assessment: Assessment, note: str) -> Assessment:
    return replace(assessment, notes=(*assessment.notes, note))


class LabelReader:
    """Reads labels in the best way that the server supports, which is found by trying and then kept:

    1. the probabilities of exactly the labels' tokens, by id (``logprob_token_ids``);
    2. those among the most likely tokens, by id (``return_tokens_as_token_ids``);
    3. those among the most likely tokens, by text, where the server does not give token ids.

    Raises NoScoresError for a server that has never given a log-probability of a label, and gives none now.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._ids_lock = asyncio.Lock()
        self._ids: dict[tuple[str, tuple[str, ...]], dict[str, int]] = {}
        self._exact = True
        self._top = TOP
        self._seen = False
        self._placed = False
        """Whether labels were once where they are read: some services begin a new answer instead."""

    @property
    def mode(self) -> Literal["exact", "likeliest"] | None:
        """How labels are read; None before the first one was."""
        return ("exact" if self._exact else "likeliest") if self._placed else None

    async def read(self, conversation: Conversation, prefill: str, labels: tuple[str, ...]) -> LabelScores:
        """P(label) right after ``prefill``: that of the label's first token, out of the whole vocabulary."""
        ids = await self._label_ids(prefill, labels)
        read = partial(self._probabilities, conversation, prefill, labels, ids)
        if ids is not None and self._exact:
            exact = {"logprob_token_ids": list(ids.values()), "return_tokens_as_token_ids": True}
            tokens = await read(exact, optional="logprob_token_ids")
            scores = None if tokens is None else tokens.of_ids(ids)
            if scores is not None and len(scores) == len(labels):
                self._placed = True
                return LabelScores(scores)
        fields: dict[str, Any] = {"top_logprobs": self._top}
        if ids is not None:
            fields["return_tokens_as_token_ids"] = True
        optional = "top_logprobs" if self._top > FEW else None
        tokens = await read(fields, optional=optional)
        if tokens is None:
            self._top = FEW
            tokens = await read(fields | {"top_logprobs": FEW})
        if tokens is None:
            raise CallError("the answer holds no log-probabilities")
        # The server has refused or ignored the exact way, and has just shown that it supports this one.
        self._exact = False
        scores = None if ids is None else tokens.of_ids(ids)
        if scores is None:
            ratings = conversation.prompt.ratings
            safe = [label for label in labels if ratings.get(label) is Rating.SAFE]
            scores = tokens.of_texts(labels, safe=safe)
        if ids is None and not scores and not self._placed and conversation.prompt.schema is not None:
            raise NoScoresError(
                f"the labels are not among the likeliest tokens of '{self._chat.model}': "
                "the answer was not continued where it was begun",
                hint="serve the model with vLLM; docs/remote.md says what works with other servers",
            )
        self._placed |= bool(scores)
        return LabelScores(scores, tokens.ceiling, listed=len(tokens.by_text))

    async def _probabilities(
        self,
        conversation: Conversation,
        prefill: str,
        labels: tuple[str, ...],
        ids: Mapping[str, int] | None,
        fields: dict[str, Any],
        *,
        optional: str | None = None,
    ) -> TokenProbabilities | None:
        """Those of the token after ``prefill``; None if the server refuses the field ``optional``."""
        fields = {"max_tokens": 1, "logprobs": True, **fields}
        reply = await self._chat.continue_answer(conversation, prefill, fields, optional=optional)
        if reply.status != 200:
            return None
        try:
            tokens = read_probabilities(reply.data, prefill=prefill, labels=labels, ids=ids)
            if tokens.only_sampled and "top_logprobs" in fields:
                raise NoLogprobsError
            if "top_logprobs" in fields and tokens.leaves_out:
                raise CallError("the answer's list of likely tokens leaves out likelier ones")
        except NoLogprobsError:
            if self._seen:  # it can give them, so this is one bad answer
                raise CallError("the answer holds no log-probabilities", retryable=True) from None
            raise NoScoresError(
                f"{reply.endpoint.host} gives no log-probabilities, and without them there is no score",
                hint="serve the model with vLLM; docs/remote.md says what works with other servers",
            ) from None
        self._seen |= not tokens.only_sampled
        return tokens

    async def _label_ids(self, prefill: str, labels: tuple[str, ...]) -> dict[str, int] | None:
        """Label -> its first token after ``prefill``; None if the server gives no ids. Requested once."""
        async with self._ids_lock:
            if (prefill, labels) in self._ids:
                return self._ids[prefill, labels]
            before = await self._chat.tokenize(prefill) if prefill else ([], None)
            ids: dict[str, int] = {}
            for label in labels:
                after = await self._chat.tokenize(prefill + label)
                if before is None or after is None:
                    return None
                start = len(before[0])
                if after[0][:start] != before[0] or len(after[0]) == start:
                    # The label would merge with the text before it, and the model would not be asked there.
                    raise ConfigurationError(
                        f"the tokenizer of '{self._chat.model}' joins {label!r} with the text before it",
                        hint="choose another dialect for this model",
                    )
                ids[label] = after[0][start]
            if len(set(ids.values())) < len(ids):
                raise ConfigurationError(
                    f"labels of the dialect begin with the same token for '{self._chat.model}': "
                    f"{', '.join(labels)}",
                    hint="choose another dialect for this model",
                )
            self._ids[prefill, labels] = ids
            return ids
