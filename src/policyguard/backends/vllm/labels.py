"""How probable each label is at one place of the answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends.vllm.answers import Listing, NoLogprobsError, read_listing
from policyguard.backends.vllm.chat import NoScoresError
from policyguard.backends.vllm.faults import CallError
from policyguard.backends.vllm.scores import LabelScores
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.vllm.chat import Chat, Topic

__all__ = ["LabelReader"]

TOP, FEW = 20, 5
"""As many likeliest tokens as the OpenAI API gives at most, and as the tightest of servers do."""

_MISSING = "gives no log-probabilities, and without them there is no score to judge by"


class LabelReader:
    """Reads labels in the best way that the server offers, found out by use and then kept:

    1. the probabilities of exactly the labels' tokens, by id (``logprob_token_ids``);
    2. those among the likeliest tokens, by id (``return_tokens_as_token_ids``);
    3. those among the likeliest tokens, by text, where the server does not tell token ids.

    Raises NoScoresError for a server that has never given a log-probability, and gives none now.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._asking = asyncio.Lock()
        self._ids: dict[tuple[str, tuple[str, ...]], dict[str, int]] = {}
        self._exact = True
        self._top = TOP
        self._seen = False

    @property
    def mode(self) -> Literal["exact", "likeliest"] | None:
        """How labels are read; None before the first one was."""
        return ("exact" if self._exact else "likeliest") if self._seen else None

    async def read(self, topic: Topic, said: str, labels: tuple[str, ...]) -> LabelScores:
        """P(label) right after ``said``: that of the label's first token, out of the whole vocabulary."""
        ids = await self._label_ids(said, labels)
        if ids is not None and self._exact:
            exact = {"logprob_token_ids": list(ids.values()), "return_tokens_as_token_ids": True}
            listing = await self._listing(topic, said, exact, optional="logprob_token_ids")
            scores = None if listing is None else listing.of_ids(ids)
            if scores is not None and len(scores) == len(labels):
                return LabelScores(scores)
        fields: dict[str, Any] = {"top_logprobs": self._top}
        if ids is not None:
            fields["return_tokens_as_token_ids"] = True
        listing = await self._listing(
            topic, said, fields, optional="top_logprobs" if self._top > FEW else None
        )
        if listing is None:
            self._top = FEW
            listing = await self._listing(topic, said, fields | {"top_logprobs": FEW})
        if listing is None:
            raise CallError("the answer holds no log-probabilities")
        # The server has refused or ignored the exact way, and has just shown that it knows this one.
        self._exact = False
        scores = None if ids is None else listing.of_ids(ids)
        return LabelScores(listing.of_texts(labels) if scores is None else scores, listing.ceiling)

    async def _listing(
        self, topic: Topic, said: str, fields: dict[str, Any], *, optional: str | None = None
    ) -> Listing | None:
        """What the server lists of the token after ``said``; None if it refuses the field ``optional``."""
        asked = {"max_tokens": 1, "logprobs": True, **fields}
        reply = await self._chat.go_on(topic, said, asked, optional=optional)
        if reply.status != 200:
            return None
        try:
            listing = read_listing(reply.data)
        except NoLogprobsError:
            if self._seen:  # it can, so this is one bad answer
                raise CallError("the answer holds no log-probabilities", retryable=True) from None
            raise NoScoresError(
                f"{reply.endpoint.host} {_MISSING}",
                hint="serve the model with vLLM; docs/remote.md says what is read from other servers",
            ) from None
        self._seen = True
        return listing

    async def _label_ids(self, said: str, labels: tuple[str, ...]) -> dict[str, int] | None:
        """Label -> the token it begins with after ``said``; None if the server does not tell. Asked once."""
        async with self._asking:
            if (said, labels) in self._ids:
                return self._ids[said, labels]
            before = await self._chat.tokenize(said) if said else ([], None)
            ids: dict[str, int] = {}
            for label in labels:
                after = await self._chat.tokenize(said + label)
                if before is None or after is None:
                    return None
                start = len(before[0])
                if after[0][:start] != before[0] or len(after[0]) == start:
                    # The label would melt into the text before it, where the model is not asked.
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
            self._ids[said, labels] = ids
            return ids
