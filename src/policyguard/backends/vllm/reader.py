"""The conversation about a picture: rating, rules where they can matter, words where they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.assessment import Assessment, AssessmentRequest, Failure, Rating, Reading
from policyguard.backends.vllm.answers import read_text
from policyguard.backends.vllm.chat import Chat, Topic
from policyguard.backends.vllm.faults import CallError
from policyguard.backends.vllm.labels import LabelReader
from policyguard.backends.vllm.messages import chat_messages, data_uri, render
from policyguard.backends.vllm.scores import rate, with_rules, without_rules
from policyguard.errors import AnswerError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.vllm.client import Client
    from policyguard.dialects import Dialect

__all__ = ["Reader"]


class Reader:
    """Assesses pictures through one ``Client``. All of its state belongs to the client's event loop."""

    def __init__(self, client: Client, *, model: str, dialect: Dialect, concurrency: int) -> None:
        self.chat = Chat(client, model)
        self._labels = LabelReader(self.chat)
        self._dialect = dialect
        self._slots = asyncio.Semaphore(concurrency)

    async def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        """One result per request, in order; a UsageError of any of them ends the others and is raised."""
        tasks = [asyncio.ensure_future(self._assess_one(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _assess_one(self, request: AssessmentRequest) -> Assessment | Failure:
        async with self._slots:
            try:
                return replace(await self._converse(request), reading=request.reading)
            except CallError as error:
                return error.failure
            except AnswerError as error:
                return CallError(self.chat.endpoint.quote(error.message)).failure
            except UsageError:
                raise
            except Exception as error:
                # Whatever else goes wrong with one picture stays with it.
                return CallError(self.chat.endpoint.quote(f"{type(error).__name__}: {error}")).failure

    async def _converse(self, request: AssessmentRequest) -> Assessment:
        policy = request.policy
        prompt = render(self._dialect, policy)
        in_thread = asyncio.get_running_loop().run_in_executor
        if (reason := await in_thread(None, self._dialect.precheck, request.frame)) is not None:
            return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(reason,))
        topic = Topic(policy, prompt, chat_messages(prompt, await in_thread(None, data_uri, request.frame)))

        found = rate(prompt, policy, await self._labels.read(topic, prompt.prefill, tuple(prompt.ratings)))
        if found.p_unsafe is None or found.rating is Rating.UNDECIDED:
            return without_rules(found, policy, "the picture is undecided")
        explaining = request.reading is Reading.EXPLAIN
        head = prompt.prefill + prompt.label(found.rating)
        if found.p_unsafe < policy.decisive_score and not (explaining and found.rating is Rating.UNSAFE):
            found = without_rules(found, policy, "none can reach its threshold")
        elif prompt.categories:
            unsafe = prompt.prefill + prompt.label(Rating.UNSAFE) + prompt.category_prefill
            scores = await self._labels.read(topic, unsafe, tuple(prompt.categories))
            found = with_rules(found, prompt, policy, scores)
            if found.category is not None:
                head = unsafe + next(key for key, rule in prompt.categories.items() if rule == found.category)
        return await self._explained(topic, found, head) if explaining else found

    async def _explained(self, topic: Topic, found: Assessment, head: str) -> Assessment:
        """Decode on from the rating, and rule, that the scores gave: the words cannot contradict them.

        Scores that violate stand where the words cannot be had: a broken explanation takes no violation
        back. For any other picture CallError or AnswerError is raised.
        """
        try:
            reply = await self.chat.go_on(topic, head, {"max_tokens": topic.prompt.max_new_tokens})
            answer = self._dialect.parse(head + read_text(reply.data), topic.policy)
            if answer.rating is not found.rating:
                raise CallError(f"the answer reads '{answer.rating}' where the scores say '{found.rating}'")
        except (AnswerError, CallError) as error:
            if found.rating is Rating.UNDECIDED or (found.p_unsafe or 0.0) < topic.policy.threshold:
                raise
            why = self.chat.endpoint.quote(str(error))
            return replace(found, notes=(*found.notes, f"the explanation could not be read: {why}"))
        return replace(found, category=answer.category, rationale=answer.rationale)
