"""An audit on Ray: Ray Data maps the parts over a pool of actors, each of which holds a guard.

Ray schedules, restarts and retries; what is done is a file in the audit's folder. So a worker that is killed,
or a node that goes away, costs the parts that were on it, and these are judged again elsewhere.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from policyguard.errors import MissingExtraError, UsageError
from policyguard.runs.audit.parts import Done, Judge, Moved
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.run import Work

__all__ = ["RayEngine"]

_MOST_BLOCKS = 20_000
_LISTENS = 60.0
"""Seconds that the head of a cluster has to take a connection."""


class _Worker:
    """What one actor does: it opens its guard once, and judges the parts that it is given.

    What is wrong with the set-up is handed back as a row: Ray would wrap the exception until nobody knows it.
    """

    def __init__(self, work: Work) -> None:
        self._work, self._stack = work, ExitStack()
        self._opened: tuple[Audit, Judge] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[Any]] = {"part": [], "counts": [], "named": [], "failed": [], "wrong": []}
        try:
            if self._opened is None:
                self._opened = self._stack.enter_context(self._work.judge())
            audit, judge = self._opened
            for done in judge.judge(audit.part(int(number)) for number in batch["part"]):
                counts = [f"{number} {name}" for name, number in done.counts.items()]
                for column, value in zip(
                    out, (done.part, counts, done.named, done.failed or "", ""), strict=True
                ):
                    out[column].append(value)
        except UsageError as error:
            _append(out, -1, [], [error.hint or ""], "", error.message)
        return out


def _join() -> None:
    """Join the cluster at RAY_ADDRESS, or begin one here. Raises UsageError, at once where nobody listens."""
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if server := re.fullmatch(r"\[?([\w.:-]+?)\]?:([0-9]{1,5})", address):
            with socket.create_connection((server[1], int(server[2])), _LISTENS):
                pass  # Ray asks for minutes
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, OverflowError, ray.exceptions.RayError) as error:
        if not address or address == "local":
            raise UsageError(f"Ray cannot begin a cluster on this machine: {error}") from error
        raise UsageError(
            f"no Ray cluster at {address} could be joined: {error}",
            hint="RAY_ADDRESS says where its head is (`ray start --head`). Where a cluster was begun with a "
            "token, set RAY_AUTH_MODE=token, with its token in ~/.ray/auth_token: docs/audit.md#engines",
        ) from error


def _append(columns: dict[str, list[Any]], *values: Any) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Parts over ``workers`` actors (None: one for each CPU of the cluster, or what its GPUs hold).

    A cluster is joined at RAY_ADDRESS, or begun on this machine. The audit's folder, and its source, are at
    the same place for every node.
    """

    workers: int | None = None
    gpus_per_worker: float = 0.0

    def __call__(self, work: Work, numbers: Sequence[int], moved: Moved) -> Iterator[Done]:
        """Raises UsageError for what is wrong with the set-up, MissingExtraError without Ray."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
            from ray.data import ActorPoolStrategy, DataContext
        except ImportError:
            raise MissingExtraError("ray", "ray") from None
        for name in ("ray", "ray.data"):  # the bar is ours
            logging.getLogger(name).setLevel(logging.ERROR)
        began = not ray.is_initialized()
        if began:
            _join()
        context = DataContext.get_current()
        context.enable_progress_bars = False
        try:
            size = self._size(ray.cluster_resources())
            parts = ray.data.from_items(
                [{"part": number} for number in numbers],
                override_num_blocks=min(len(numbers), _MOST_BLOCKS),
            )
            judged = parts.map_batches(
                _Worker,
                fn_constructor_args=(work,),
                batch_size=1,
                compute=ActorPoolStrategy(size=min(size, len(numbers))),
                num_gpus=self.gpus_per_worker or None,
            )
            for row in judged.iter_rows():
                if row["wrong"]:
                    raise UsageError(row["wrong"], hint=row["named"][0] or None)
                done = _as_done(row)
                moved(done.counts)
                yield done
        except ray.exceptions.RayError as error:
            raise UsageError(
                f"Ray gave up: {str(error)[-500:]}", hint="what is done stays: resume"
            ) from error
        finally:
            if began:
                with suppress(Exception):
                    ray.shutdown()

    def _size(self, resources: dict[str, float]) -> int:
        if self.workers is not None:
            return self.workers
        if self.gpus_per_worker:
            fits = int(resources.get("GPU", 0) / self.gpus_per_worker)
            if not fits:
                raise UsageError("the Ray cluster has no GPU for a worker", hint="see --gpus-per-worker")
            return fits
        return max(1, int(resources.get("CPU", 1)))


def _as_done(row: dict[str, Any]) -> Done:
    pairs = (text.split(" ", 1) for text in row["counts"])
    counts = Counter({name: int(number) for number, name in pairs})
    return Done(int(row["part"]), counts, list(row["named"]), row["failed"] or None)
