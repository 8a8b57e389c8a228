"""Assesses one frame: the rating, the rules where they can matter, the rationale where it is requested."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.remote.answers import read_continuation, read_text, read_thought
from policyguard.backends.remote.chat import Chat, Conversation, NoScoresError
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.forms import (
    continuation_pattern,
    parse_verdict,
    response_format,
    verdict_schema,
)
from policyguard.backends.remote.frame_encoding import data_uri, grid_for, is_light
from policyguard.backends.remote.labels import LabelReader, LabelScores, rate, with_rules, without_rules
from policyguard.backends.remote.recognition import require_own_dialect
from policyguard.dialects.base import render_for
from policyguard.dialects.rule_by_rule import merge, only_rule
from policyguard.errors import AnswerError, ConfigurationError, UsageError
from policyguard.policy.resolved import EVEN

if TYPE_CHECKING:
    from policyguard.backends.remote.errors import Reply
    from policyguard.backends.remote.servers import Servers
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = ["Reader"]


class Reader:
    """Assesses frames through ``servers``, to whose event loop all of its state belongs."""

    def __init__(
        self,
        servers: Servers,
        *,
        model: str,
        dialect: Dialect,
        by_hand: bool = True,
        cache_salt: str | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.chat = Chat(servers, model, cache_salt=cache_salt)
        self._servers = servers
        self._labels = LabelReader(self.chat)
        self._dialect = dialect
        self._grid = grid_for(dialect.name, model, max_pixels)
        self._recognised = by_hand
        self._recognising = asyncio.Lock()
        self._rating_only = False
        self._constrains_text = True

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises ConfigurationError if the server is known to give no scores, and ``policy`` needs them."""
        if self._rating_only and self._labels.mode is None:
            self._require_no_scores(policy)

    def _require_no_scores(self, policy: ResolvedPolicy) -> None:
        if policy.needs_scores:
            rules = ", ".join(policy.strict_rules)
            raise ConfigurationError(
                f"policy '{policy.id}' decides from a score of {policy.decisive_score:g}"
                + (f" (rules: {rules})" if rules else "")
                + f", and '{self.chat.model}' gives ratings without scores here",
                hint="serve the model with vLLM, or let ratings stand in for scores: "
                "`without_scores: ratings` under `defaults:` of the policy, with the reason in `weakens:` "
                "if it extends others",
            )

    async def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        """One result per request, in order; a UsageError of any of them ends the others and is raised."""
        tasks = [asyncio.ensure_future(self._assess_one(request)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def warm(self) -> None:
        """Raises ConfigurationError if a server does not run the model, or it speaks another dialect."""
        await self.chat.find_model()
        await self._recognise()

    async def _recognise(self) -> None:
        """Once, unless the dialect was given by hand: hold it against what the servers tell of the model."""
        async with self._recognising:
            if not self._recognised:
                self._recognised = await require_own_dialect(self._servers, self.chat.model, self._dialect)

    async def _assess_one(self, request: AssessmentRequest) -> Assessment | Failure:
        try:
            async with self._servers.turn(request.deadline):
                if not self._recognised:
                    await self._recognise()
                result = await self._assess_frame(request)
            if isinstance(result, Failure):
                return result
            notes = (*result.notes, *self.chat.sight.notes)
            return replace(result, reading=request.reading, notes=notes)
        except CallError as error:
            failure = error.failure
            if failure.kind is FailureKind.REFUSED:  # in the words of the model or its provider
                failure = replace(failure, reason=self.chat.quote(failure.reason))
            return failure
        except AnswerError as error:
            return CallError(self.chat.quote(error.message)).failure
        except UsageError:
            raise
        except Exception as error:
            # Whatever else goes wrong with one image does not touch the others.
            return CallError(self.chat.quote(f"{type(error).__name__}: {error}")).failure

    async def _assess_frame(self, request: AssessmentRequest) -> Assessment | Failure:
        policy = request.policy
        prompts = render_for(self._dialect, policy)
        if is_light(request, self._grid):
            reason, uri = self._prepare(request)
        else:
            in_thread = asyncio.get_running_loop().run_in_executor
            reason, uri = await in_thread(None, self._prepare, request)
        if reason is not None:
            return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(reason,))
        self.chat.sight.frames += 1
        explaining = request.reading is Reading.EXPLAIN
        size = self._grid.fit(request.frame.size)
        conversations = [Conversation(policy, prompt, uri, size) for prompt in prompts]
        if len(conversations) == 1:
            return await self._ask(conversations[0], explaining=explaining)
        # The first goes alone: it shows what the server supports, and fills its prefix cache for the others.
        first = await self._attempt(conversations[0], explaining=explaining)
        others = [self._attempt(conversation, explaining=explaining) for conversation in conversations[1:]]
        rest = await asyncio.gather(*others)
        return merge(policy, list(zip(prompts, (first, *rest), strict=True)))

    async def _attempt(self, conversation: Conversation, *, explaining: bool) -> Assessment | Failure:
        """``_ask``, but what goes wrong with this one prompt is returned."""
        try:
            return await self._ask(conversation, explaining=explaining)
        except CallError as error:
            return error.failure
        except AnswerError as error:
            return CallError(self.chat.quote(error.message)).failure

    async def _ask(self, conversation: Conversation, *, explaining: bool) -> Assessment:
        prompt, policy = conversation.prompt, conversation.policy
        if prompt.thinks_until is not None:
            thought = await self._think(conversation, prompt.thinks_until)
            if thought is None:
                note = f"the model was still thinking after {prompt.max_thought_tokens} tokens"
                return Assessment(Rating.UNDECIDED, p_undecided=1.0, notes=(note,))
            prompt = replace(prompt, prefill=thought + prompt.prefill, thinks_until=None)
            conversation = replace(conversation, prompt=prompt, thought=thought)
        scores = await self._scores(conversation)
        if scores is None:
            if self._labels.mode is None:
                self._require_no_scores(policy)
            assessment = await self._rating_alone(conversation, explaining=explaining)
            if self._labels.mode is None:
                # From here on this server is asked for nothing else, unless an answer in flight has scores.
                self._rating_only = True
                return assessment
            # Meanwhile another frame's answer has shown that the server gives scores.
            scores = await self._labels.read(conversation, prompt.prefill, tuple(prompt.ratings))
        rated = rate(prompt, policy, scores)
        if conversation.thought and self._dialect.contradicts(conversation.thought, rated.rating):
            raise AnswerError("the model's thought states another rating than its answer")
        return await self._scored(conversation, rated, explaining=explaining)

    async def _think(self, conversation: Conversation, end: str) -> str | None:
        """What the model writes up to and including ``end``; ``None`` if it does not come to it in time."""
        fields = {"max_tokens": conversation.prompt.max_thought_tokens, "stop": [end]}
        reply = await self.chat.continue_answer(conversation, "", fields)
        thought = read_thought(reply.data, end)
        return None if thought is None else thought + end

    async def _scores(self, conversation: Conversation) -> LabelScores | None:
        """The rating's; None from a server that has never given any, also when it is asked twice."""
        prompt = conversation.prompt
        if self._rating_only and self._labels.mode is None and prompt.schema is not None:
            return None
        for is_last in (False, True):
            try:
                return await self._labels.read(conversation, prompt.prefill, tuple(prompt.ratings))
            except NoScoresError:
                if is_last and (prompt.schema is None or self._labels.mode is not None):
                    raise
        return None

    def _prepare(self, request: AssessmentRequest) -> tuple[str | None, bytes]:
        """A reason not to ask about the frame, or None and the frame as it is sent."""
        reason = self._dialect.precheck(request.frame)
        return reason, b"" if reason is not None else data_uri(request, self._grid)

    async def _scored(
        self, conversation: Conversation, assessment: Assessment, *, explaining: bool
    ) -> Assessment:
        """Adds to the rating's scores the rules, where they can matter, and the rationale, if explaining."""
        prompt, policy = conversation.prompt, conversation.policy
        if assessment.p_unsafe is None or assessment.rating is Rating.UNDECIDED:
            return without_rules(assessment, policy, "the image is undecided")
        head = prompt.prefill + prompt.label(assessment.rating)
        if assessment.p_unsafe < policy.decisive_score and not (
            explaining and assessment.rating is Rating.UNSAFE
        ):
            assessment = without_rules(assessment, policy, "none can reach its threshold")
        elif prompt.categories:
            unsafe = prompt.prefill + prompt.label(Rating.UNSAFE) + prompt.category_prefill
            scores = await self._labels.read(conversation, unsafe, tuple(prompt.categories))
            assessment = with_rules(assessment, prompt, policy, scores)
            if assessment.category is not None:
                head = unsafe + next(
                    key for key, rule in prompt.categories.items() if rule == assessment.category
                )
        return await self._explained(conversation, assessment, head) if explaining else assessment

    async def _explained(self, conversation: Conversation, assessment: Assessment, head: str) -> Assessment:
        """Decode from the rating, and rule, that the scores gave, so that the text cannot contradict them.

        Scores that violate stand even if the explanation cannot be read: a broken one takes no violation
        back. For any other frame CallError or AnswerError is raised.
        """
        try:
            reply = await self._rest_of_answer(conversation, head)
            answer = self._dialect.parse(
                head + read_continuation(reply.data, head), conversation.policy, conversation.prompt
            )
            if answer.rating is not assessment.rating:
                raise CallError(
                    f"the answer reads '{answer.rating}' where the scores say '{assessment.rating}'"
                )
        except (AnswerError, CallError) as error:
            p_unsafe = assessment.p_unsafe or 0.0
            if assessment.rating is Rating.UNDECIDED or p_unsafe < conversation.policy.raw(
                conversation.policy.threshold
            ):
                raise
            note = f"the explanation could not be read: {self.chat.quote(str(error))}"
            return replace(assessment, notes=(*assessment.notes, note))
        return replace(assessment, category=answer.category, rationale=answer.rationale)

    async def _rest_of_answer(self, conversation: Conversation, head: str) -> Reply:
        """The answer decoded after ``head``, held to the dialect's form where the server supports it."""
        fields: dict[str, Any] = {"max_tokens": conversation.prompt.max_new_tokens}
        schema = conversation.prompt.schema
        pattern = None if schema is None or not self._constrains_text else continuation_pattern(schema, head)
        if pattern is not None:
            constrained = fields | {"structured_outputs": {"regex": pattern}}
            reply = await self.chat.continue_answer(
                conversation, head, constrained, optional="structured_outputs"
            )
            if reply.status == 200:
                return reply
            self._constrains_text = False
        return await self.chat.continue_answer(conversation, head, fields)

    async def _rating_alone(self, conversation: Conversation, *, explaining: bool) -> Assessment:
        """For servers without scores: ratings of answers in a fixed JSON form.

        A rating of safe says only that the score is below 0.5, so each rule with a threshold of its own below
        that is asked about once more, by itself.
        """
        policy = conversation.policy
        rated = await self._rating(conversation, explaining=explaining)
        if rated.rating is not Rating.SAFE or conversation.prompt.rule is not None or len(policy.rules) < 2:
            return rated
        for rule in policy.strict_rules:
            under = only_rule(policy, rule)
            (prompt,) = render_for(self._dialect, under)
            by_itself = replace(conversation, policy=under, prompt=prompt)
            result = await self._rating(by_itself, explaining=explaining)
            if result.rating is not Rating.SAFE:
                return replace(result, category=rule)
        if policy.decisive_score < EVEN:
            note = f"the policy decides from a score of {policy.decisive_score:g}: ratings stand in for it"
            rated = replace(rated, notes=(*rated.notes, note))
        return rated

    async def _rating(self, conversation: Conversation, *, explaining: bool) -> Assessment:
        schema = verdict_schema(conversation.prompt, rationale=explaining)
        fields = {
            "max_tokens": conversation.prompt.max_new_tokens,
            "response_format": response_format(schema),
        }
        reply = await self.chat.answer(conversation, fields)
        answer = parse_verdict(read_text(reply.data), conversation.prompt, rationale=explaining)
        return Assessment(
            answer.rating,
            category=answer.category,
            rationale=answer.rationale,
            notes=("the server gives no scores: the model's rating alone decides",),
        )
