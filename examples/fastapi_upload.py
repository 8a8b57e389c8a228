"""Uploads that are judged before a handler sees them: a dependency for FastAPI.

    pip install '.[transformers]' fastapi python-multipart uvicorn    # '.[remote]' for a server
    uvicorn examples.fastapi_upload:app
    curl -F picture=@examples/images/pair-dagger.png http://127.0.0.1:8000/pictures

``POLICY``, ``POLICYGUARD_MODEL``, ``POLICYGUARD_BASE_URL`` and ``POLICYGUARD_API_KEY`` name your own policy
and guard.

A blocked upload is answered with the outcome and the rules it breaks: 403 if the picture breaks the policy,
422 where it cannot be judged (no picture, too large, an animation that is too long), 503 where the guard
failed, or is not set up rightly any more, such as with a key that was revoked; the log says how. Scores and
fingerprints stay here: they would tell a stranger how to get past them. At most 20 MiB are taken. The handler
gets what was judged as a plain PNG or JPEG without metadata, an animation as it came;
``pass_on="original"`` gives it the upload.
Not covered: the parser of the form has written the upload to a temporary file by then; limit the size of
requests in front of the app.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Depends, FastAPI, HTTPException, UploadFile

from policyguard import Guard, Outcome, PolicyGuardError, Verdict
from policyguard.errors import UnavailableError

_log = logging.getLogger(__name__)
MAX_BYTES = 20 * 2**20
STATUS = {Outcome.VIOLATES: 403, Outcome.ERROR: 503}  # all other outcomes: 422


@dataclass(frozen=True)
class Picture:
    """An upload that may pass. ``data`` shows what was judged."""

    data: bytes
    name: str
    verdict: Verdict


def guarded_upload(
    guard: Guard, pass_on: Literal["judged", "original"] = "judged"
) -> Callable[[UploadFile], Awaitable[Picture]]:
    """A dependency that takes the form's file ``picture`` and gives a ``Picture``."""

    async def picture(picture: UploadFile) -> Picture:
        data = await picture.read(MAX_BYTES + 1)
        try:
            verdict = await guard.acheck(data, normalise=pass_on == "judged")
        except PolicyGuardError:  # a mistake in the set-up, such as a key that was revoked since the start
            _log.exception("no picture can be judged")
            blocked = {"message": "blocked", "outcome": Outcome.ERROR, "rules": []}
            raise HTTPException(503, blocked) from None
        if not verdict.allowed:
            status = STATUS.get(verdict.outcome, 422)
            rules = [finding.title for finding in verdict.findings if finding.violates]
            raise HTTPException(status, {"message": "blocked", "outcome": verdict.outcome, "rules": rules})
        return Picture(verdict.normalised or data, picture.filename or "", verdict)

    return picture


def build_app(guard: Guard) -> FastAPI:
    @asynccontextmanager
    async def warm(_: FastAPI) -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(guard.warm)  # so that no upload waits for the model to load
        except UnavailableError:  # nobody answers yet: until then every upload is blocked, with 503
            _log.exception("the guard model cannot be reached")
        yield

    app = FastAPI(title="Pictures", lifespan=warm)
    judged = Depends(guarded_upload(guard))

    @app.post("/pictures")
    async def receive(picture: Picture = judged) -> dict[str, Any]:
        return {"bytes": len(picture.data), "action": picture.verdict.action}

    return app


def __getattr__(name: str) -> FastAPI:
    if name == "app":  # built when uvicorn asks for it
        return build_app(Guard(policy=os.environ.get("POLICY", "pictosafe/l3")))
    raise AttributeError(name)
