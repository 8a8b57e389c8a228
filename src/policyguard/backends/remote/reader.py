"""The conversation about a picture: rating, rules where they can matter, words where they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.remote.answers import (
    read_rated,
    read_text,
    read_thought,
    response_format,
    rest_pattern,
    verdict_form,
)
from policyguard.backends.remote.chat import Chat, NoScoresError, Topic, chat_messages
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.frame_encoding import data_uri, grid_for, is_light
from policyguard.backends.remote.labels import LabelReader, LabelScores, rate, with_rules, without_rules
from policyguard.dialects.base import render_for
from policyguard.dialects.rule_by_rule import merge
from policyguard.errors import AnswerError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.remote.errors import Reply
    from policyguard.backends.remote.servers import Servers
    from policyguard.dialects import Dialect

__all__ = ["Reader"]


class Reader:
    """Assesses pictures through one ``Servers``. All of its state belongs to the servers's event loop."""

    def __init__(
        self,
        servers: Servers,
        *,
        model: str,
        dialect: Dialect,
        cache_salt: str | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.chat = Chat(servers, model, cache_salt=cache_salt)
        self._servers = servers
        self._labels = LabelReader(self.chat)
        self._dialect = dialect
        self._grid = grid_for(dialect.name, model, max_pixels)
        self._rating_only = False
        self._constrains = True

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
        try:
            async with self._servers.turn(request.deadline):
                result = await self._converse(request)
            return result if isinstance(result, Failure) else replace(result, reading=request.reading)
        except CallError as error:
            return error.failure
        except AnswerError as error:
            return CallError(self.chat.quote(error.message)).failure
        except UsageError:
            raise
        except Exception as error:
            # Whatever else goes wrong with one picture stays with it.
            return CallError(self.chat.quote(f"{type(error).__name__}: {error}")).failure

    async def _converse(self, request: AssessmentRequest) -> Assessment | Failure:
        policy = request.policy
        prompts = render_for(self._dialect, policy)
        if is_light(request, self._grid):
            reason, picture = self._prepare(request)
        else:
            in_thread = asyncio.get_running_loop().run_in_executor
            reason, picture = await in_thread(None, self._prepare, request)
        if reason is not None:
            return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(reason,))
        explaining = request.reading is Reading.EXPLAIN
        topics = [Topic(policy, prompt, chat_messages(prompt, picture)) for prompt in prompts]
        if len(topics) == 1:
            return await self._ask(topics[0], explaining=explaining)
        first = await self._attempt(topics[0], explaining=explaining)
        rest = await asyncio.gather(*(self._attempt(topic, explaining=explaining) for topic in topics[1:]))
        return merge(policy, list(zip(prompts, (first, *rest), strict=True)))

    async def _attempt(self, topic: Topic, *, explaining: bool) -> Assessment | Failure:
        """``_ask``, with what goes wrong with this one prompt as its result."""
        try:
            return await self._ask(topic, explaining=explaining)
        except CallError as error:
            return error.failure
        except AnswerError as error:
            return CallError(self.chat.quote(error.message)).failure

    async def _ask(self, topic: Topic, *, explaining: bool) -> Assessment:
        prompt, policy = topic.prompt, topic.policy
        if prompt.thinks_until is not None:
            thought = await self._think(topic, prompt.thinks_until)
            if thought is None:
                note = f"the model was still thinking after {prompt.max_thought_tokens} tokens"
                return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(note,))
            prompt = replace(prompt, prefill=thought + prompt.prefill, thinks_until=None)
            topic = replace(topic, prompt=prompt, thought=thought)
        scores = await self._scores(topic)
        if scores is None:
            rated = await self._rated(topic, explaining=explaining)
            if self._labels.mode is None:
                # From here on nothing else is asked of this server, unless an answer under way has scores.
                self._rating_only = True
                return rated
            # Meanwhile another picture's answer has shown that the server gives scores.
            scores = await self._labels.read(topic, prompt.prefill, tuple(prompt.ratings))
        rated = rate(prompt, policy, scores)
        if topic.thought and self._dialect.contradicts(topic.thought, rated.rating):
            raise AnswerError("the model's thought states another rating than its answer")
        return await self._scored(topic, rated, explaining=explaining)

    async def _think(self, topic: Topic, end: str) -> str | None:
        """What the model says up to ``end``, with it; ``None`` if it does not come to it in time."""
        fields = {"max_tokens": topic.prompt.max_thought_tokens, "stop": [end]}
        reply = await self.chat.go_on(topic, "", fields)
        thought = read_thought(reply.data, end)
        return None if thought is None else thought + end

    async def _scores(self, topic: Topic) -> LabelScores | None:
        """Those of the rating; None from a server that has never given any, and not when asked twice."""
        prompt = topic.prompt
        if self._rating_only and self._labels.mode is None and prompt.schema is not None:
            return None
        for last in (False, True):
            try:
                return await self._labels.read(topic, prompt.prefill, tuple(prompt.ratings))
            except NoScoresError:
                if last and (prompt.schema is None or self._labels.mode is not None):
                    raise
        return None

    def _prepare(self, request: AssessmentRequest) -> tuple[str | None, str]:
        """A reason not to ask about the picture, and the picture as it is sent if there is none."""
        reason = self._dialect.precheck(request.frame)
        return reason, "" if reason is not None else data_uri(request, self._grid)

    async def _scored(self, topic: Topic, found: Assessment, *, explaining: bool) -> Assessment:
        """What follows from the rating's scores: the rules where they can matter, and words if wanted."""
        prompt, policy = topic.prompt, topic.policy
        if found.p_unsafe is None or found.rating is Rating.UNDECIDED:
            return without_rules(found, policy, "the picture is undecided")
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
            reply = await self._words(topic, head)
            answer = self._dialect.parse(head + read_text(reply.data), topic.policy, topic.prompt)
            if answer.rating is not found.rating:
                raise CallError(f"the answer reads '{answer.rating}' where the scores say '{found.rating}'")
        except (AnswerError, CallError) as error:
            if found.rating is Rating.UNDECIDED or (found.p_unsafe or 0.0) < topic.policy.threshold:
                raise
            why = self.chat.quote(str(error))
            return replace(found, notes=(*found.notes, f"the explanation could not be read: {why}"))
        return replace(found, category=answer.category, rationale=answer.rationale)

    async def _words(self, topic: Topic, head: str) -> Reply:
        """The answer decoded on from ``head``; held to the dialect's form by servers that can do so."""
        fields: dict[str, Any] = {"max_tokens": topic.prompt.max_new_tokens}
        schema = topic.prompt.schema
        pattern = None if schema is None or not self._constrains else rest_pattern(schema, head)
        if pattern is not None:
            held = fields | {"structured_outputs": {"regex": pattern}}
            reply = await self.chat.go_on(topic, head, held, optional="structured_outputs")
            if reply.status == 200:
                return reply
            self._constrains = False
        return await self.chat.go_on(topic, head, fields)

    async def _rated(self, topic: Topic, *, explaining: bool) -> Assessment:
        """For servers that give no scores: the rating alone, from an answer held to a form."""
        form = verdict_form(topic.prompt, words=explaining)
        fields = {"max_tokens": topic.prompt.max_new_tokens, "response_format": response_format(form)}
        reply = await self.chat.answer(topic, fields)
        answer = read_rated(read_text(reply.data), topic.prompt, words=explaining)
        return Assessment(
            answer.rating,
            category=answer.category,
            rationale=answer.rationale,
            notes=("the server gives no scores: the model's rating alone decides",),
        )
