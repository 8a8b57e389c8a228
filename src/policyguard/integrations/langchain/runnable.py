"""A step of a chain that judges the images which pass through it.

Covered: all that goes in, in whichever shape (``sites``), with invoke, batch and stream, blocking and not.
What this step tells callbacks and tracers holds no image. Not covered: what other steps tell them, the chain
around this step among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from langchain_core.messages import BaseMessageChunk
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.config import (
    RunnableConfig,
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

from policyguard.errors import ConfigurationError, ImageError
from policyguard.integrations.langchain.hold import Hold, joined
from policyguard.integrations.langchain.settle import check_replace_with, settle, violation
from policyguard.integrations.langchain.sites import sites_of, without_images
from policyguard.integrations.screen import Memo, Screen, ScreenResult
from policyguard.strict.arguments import InOneProcess
from policyguard.verdict import PolicyViolation

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForChainRun

    from policyguard.guard import Guard
    from policyguard.images.fetch import Fetcher
    from policyguard.integrations.extract import ImageSite
    from policyguard.integrations.screen import FileLedger
    from policyguard.integrations.screen.altered import PassOn, ReplaceWith

__all__ = ["GuardRunnable"]

OnResult: TypeAlias = Callable[[ScreenResult], object]
_END = object()
_NO_INPUT = {"input": ""}  # a stream has begun before its input is complete


class GuardRunnable(InOneProcess, Runnable[Any, Any]):
    """Lets through what holds no blocked image: ``prompt | GuardRunnable(guard) | model``.

    Args:
        guard: judges. Its policies' ``outcomes`` say what becomes of images that cannot be judged.
        on_block: ``"raise"`` (PolicyViolation) or ``"replace"`` (another one takes the image's place;
            where its shape has none, a message loses its content, and any other value raises), or
            ``"watch"``: all is judged and reported, and passes.
        replace_with: ``"placeholder"``, ``"blur"`` or ``"pixelate"``.
        urls: ``"reject"`` (an image by URL is UNSCANNABLE) or ``"fetch"``: the bytes that were judged go on.
        links, fetcher, files, max_images, documents, pass_on: see ``Screen``. Paths pass as paths.
        on_result: called with the ScreenResult of each value, also when it is then blocked. The result holds
            the images of the value: keep ``to_dict()`` of it.
        name: the name of its runs; default: ``GuardRunnable``.

    Takes strings, messages, prompt values, images, and lists and dicts of them; returns the same object where
    nothing is replaced. Raises PolicyViolation, and ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        on_block: Literal["raise", "replace", "watch"] = "raise",
        replace_with: ReplaceWith = "placeholder",
        urls: Literal["reject", "fetch"] = "reject",
        links: Literal["pass", "block"] = "pass",
        fetcher: Fetcher | None = None,
        files: FileLedger | None = None,
        max_images: int = 100,
        documents: Literal["block", "pass"] = "block",
        pass_on: PassOn = "judged",
        on_result: OnResult | None = None,
        name: str | None = None,
    ) -> None:
        if on_block not in ("raise", "replace", "watch"):
            raise ConfigurationError(f"on_block is {on_block!r}; it must be 'raise', 'replace' or 'watch'")
        check_replace_with(replace_with)
        self.name = name
        self._screen = Screen(
            guard,
            urls=urls,
            links=links,
            fetcher=fetcher,
            files=files,
            max_images=max_images,
            documents=documents,
            watch=on_block == "watch",
            pass_on=pass_on,
        )
        self._links = links == "block"
        self._replace_with = replace_with if on_block == "replace" else None
        self._on_result = on_result

    @property
    def InputType(self) -> Any:  # noqa: N802 (Runnable's name)
        return Any

    @property
    def OutputType(self) -> Any:  # noqa: N802
        return Any

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        sites = sites_of(input)
        passed: list[Any] = []

        def judge(_: Any) -> Any:
            passed.append(self._settled(input, self._screen.screen(sites)))
            return self._traced(passed[0], input, sites)

        self._call_with_config(judge, without_images(input, sites), config)
        return passed[0]

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        sites = await asyncio.to_thread(sites_of, input)
        passed: list[Any] = []

        async def judge(_: Any) -> Any:
            result = await self._screen.ascreen(sites)
            passed.append(await asyncio.to_thread(self._settled, input, result) if sites else input)
            return self._traced(passed[0], input, sites)

        await self._acall_with_config(judge, without_images(input, sites), config)
        return passed[0]

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        return self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async def one() -> AsyncIterator[Any]:
            yield input

        async for piece in self.atransform(one(), config, **kwargs):
            yield piece

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Pieces of text pass at once; from the first piece of an image on, all are held until judged."""
        hold, memo, pieces = Hold(links=self._links), Memo(), iter(input)
        piece = next(pieces, _END)  # what comes before starts first, and its run with it
        run = _Run(self, config)
        try:
            while piece is not _END:
                for ready in hold.feed(piece) if _grows(piece) else self._whole(piece, memo):
                    run.pieces.append(ready)
                    yield ready
                piece = next(pieces, _END)
            if hold.passed or hold.held:
                sites, all_of_it = _at_the_end(hold)
                result = self._screen.screen(sites, memo=memo)
                for ready in self._rest(hold, all_of_it, result):
                    run.pieces.append(ready)
                    yield ready
        except GeneratorExit:
            run.ended()
            raise
        except BaseException as error:
            run.failed(error)
            raise
        run.ended()

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """``transform`` for event loops."""
        hold, memo, pieces = Hold(links=self._links), Memo(), aiter(input)
        piece = await anext(pieces, _END)
        run = await _AsyncRun.start(self, config)
        try:
            while piece is not _END:
                for ready in hold.feed(piece) if _grows(piece) else await self._awhole(piece, memo):
                    run.pieces.append(ready)
                    yield ready
                piece = await anext(pieces, _END)
            if hold.passed or hold.held:
                sites, all_of_it = await asyncio.to_thread(_at_the_end, hold)
                result = await self._screen.ascreen(sites, memo=memo)
                for ready in await asyncio.to_thread(self._rest, hold, all_of_it, result):
                    run.pieces.append(ready)
                    yield ready
        except GeneratorExit:
            await run.ended()
            raise
        except BaseException as error:
            await run.failed(error)
            raise
        await run.ended()

    def _settled(self, value: Any, result: ScreenResult) -> Any:
        if self._on_result is not None:
            self._on_result(result)
        return settle(value, result, self._replace_with)

    def _traced(self, passed: Any, value: Any, sites: list[ImageSite]) -> Any:
        return without_images(passed, sites if passed is value else sites_of(passed))

    def _whole(self, value: Any, memo: Memo) -> list[Any]:
        return [self._settled(value, self._screen.screen(sites_of(value), memo=memo))]

    async def _awhole(self, value: Any, memo: Memo) -> list[Any]:
        sites = await asyncio.to_thread(sites_of, value)
        result = await self._screen.ascreen(sites, memo=memo)
        return [await asyncio.to_thread(self._settled, value, result)]

    def _rest(self, hold: Hold, all_of_it: Any, result: ScreenResult) -> list[Any]:
        """What may pass of the pieces that are held, now that all is judged."""
        if self._on_result is not None:
            self._on_result(result)
        if not hold.passed:
            changed = settle(all_of_it, result, self._replace_with)
            return hold.held if changed is all_of_it else [changed]
        if result.watched:
            return hold.held
        if result.blocked and self._replace_with is None:
            raise violation(result)
        if not result.blocked and not any(item.passed is not None for item in result.items):
            return hold.held
        # Some of the pieces have passed, so another image can only stand in those that are held.
        held = joined(hold.held) if hold.held else None
        sites = self._screen.judged(sites_of(held))
        if len(sites) != len(result.items):
            problem = "what was judged cannot take the place of an image in pieces that have passed"
            raise violation(result) if result.blocked else ImageError(problem)
        pairs = zip(result.items, sites, strict=True)
        moved = tuple(replace(item, site=site) for item, site in pairs)
        return [settle(held, ScreenResult(moved), self._replace_with)]


class _Run:
    """The run of one stream, as callbacks and tracers see it: without images."""

    def __init__(self, step: GuardRunnable, config: RunnableConfig | None) -> None:
        config = ensure_config(config)
        manager = get_callback_manager_for_config(config)
        name, run_id = config.get("run_name") or step.get_name(), config.pop("run_id", None)
        self._run = manager.on_chain_start(None, _NO_INPUT, name=name, run_id=run_id)
        self.pieces: list[Any] = []

    def ended(self) -> None:
        self._run.on_chain_end(_output(self.pieces))

    def failed(self, error: BaseException) -> None:
        self._run.on_chain_error(error)


class _AsyncRun:
    """``_Run`` for event loops."""

    def __init__(self, run: AsyncCallbackManagerForChainRun) -> None:
        self._run = run
        self.pieces: list[Any] = []

    @classmethod
    async def start(cls, step: GuardRunnable, config: RunnableConfig | None) -> _AsyncRun:
        config = ensure_config(config)
        manager = get_async_callback_manager_for_config(config)
        name, run_id = config.get("run_name") or step.get_name(), config.pop("run_id", None)
        return cls(await manager.on_chain_start(None, _NO_INPUT, name=name, run_id=run_id))

    async def ended(self) -> None:
        await self._run.on_chain_end(_output(self.pieces))

    async def failed(self, error: BaseException) -> None:
        await self._run.on_chain_error(error)


def _output(pieces: list[Any]) -> Any:
    if not pieces:
        return None
    value = joined(pieces)
    return without_images(value, sites_of(value))


def _grows(piece: Any) -> bool:
    """Whether a piece may be one of many that make up one value."""
    return isinstance(piece, str | BaseMessageChunk | Mapping)


def _at_the_end(hold: Hold) -> tuple[list[ImageSite], Any]:
    all_of_it = joined([*hold.passed, *hold.held])
    return sites_of(all_of_it), all_of_it


def _order(runnable: Any) -> list[str]:
    """What a chain consists of: "guard", "other" for all between two guards, "inside" for a step with a guard
    somewhere in it."""
    if isinstance(runnable, RunnableSequence):
        steps = [name for step in runnable.steps for name in _order(step)]
        return [name for name, before in zip(steps, [None, *steps], strict=False) if name != before]
    if isinstance(runnable, RunnableBinding):
        return _order(runnable.bound)
    if isinstance(runnable, GuardRunnable):
        return ["guard"]
    return ["inside" if isinstance(runnable, Runnable) and _guards_in(runnable) else "other"]


def _guards_in(whole: Runnable[Any, Any]) -> bool:
    """Whether a guard is among the steps that ``whole`` holds in its fields."""
    stack: list[Any] = [whole]
    seen: set[int] = set()
    while stack:
        value = stack.pop()
        if isinstance(value, GuardRunnable):
            return True
        if not isinstance(value, Runnable | Mapping | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        fields = vars(value) if isinstance(value, Runnable) else value
        stack += fields.values() if isinstance(fields, Mapping) else fields
    return False


def _refuse_fallbacks_past_a_guard() -> None:
    """Fallbacks get the input of the chain that failed, and a block is a failure to them as any other."""
    initial = RunnableWithFallbacks.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 (a method)
        initial(self, *args, **kwargs)
        handled = self.exceptions_to_handle
        if PolicyViolation in handled or not any(issubclass(PolicyViolation, kind) for kind in handled):
            return
        order = _order(self.runnable)
        if "inside" in order or (
            "guard" in order and any(_order(fallback) != order for fallback in self.fallbacks)
        ):
            raise ConfigurationError(
                "a chain with a guard in it has a fallback without one, which would get what was blocked",
                hint="put the guard outside: guard | model.with_fallbacks([other]); or guard the fallback in "
                "the same place, or leave PolicyViolation out of exceptions_to_handle; where the fallback is "
                "your answer to a block, name PolicyViolation there",
            )

    RunnableWithFallbacks.__init__ = __init__  # type: ignore[method-assign]


_refuse_fallbacks_past_a_guard()
