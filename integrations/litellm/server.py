"""A guardrail for the LiteLLM proxy: its generic guardrail endpoint, answered by a Guard.

    pip install policyguard-vision starlette uvicorn
    python server.py --policy pictosafe/l3 --port 8471

Covered: every image in what LiteLLM sends, in whichever field it stands (``images``, texts, messages, tool
calls). An entry of ``images`` that is neither a data URI nor base64 is UNSCANNABLE, an address too: LiteLLM
would send the address on, and the provider could fetch another image from it than this one. In a request,
an image whose file viewers may show otherwise than it was judged is replaced by a plain PNG or JPEG of what
was judged (``pass_on="judged"``), in the ``structured_messages`` that LiteLLM writes back. An error here
is an HTTP error, which blocks unless LiteLLM is told to ``fail_open``. Not covered: what LiteLLM does not
send (README.md).
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
from typing import Any, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from policyguard import Guard
from policyguard.errors import ImageError
from policyguard.integrations.extract import find_images, replace_images
from policyguard.integrations.screen import Screen, ScreenResult
from policyguard.integrations.screen.altered import PassOn

PATH = "/beta/litellm_basic_guardrail_api"
MAX_BODY = 64 * 2**20
MESSAGES = "/structured_messages/"


def build_app(guard: Guard, *, api_key: str | None = None, pass_on: PassOn = "judged") -> Starlette:
    """The endpoint. ``api_key`` is what LiteLLM has to send as ``x-api-key``; None takes everything."""
    screen = Screen(guard, pass_on=pass_on)

    async def judge(request: Request) -> JSONResponse:
        if api_key is not None and not _same(request.headers.get("x-api-key", ""), api_key):
            return JSONResponse({"error": "the x-api-key is missing or wrong"}, 401)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"more than {MAX_BODY >> 20} MiB"}, 413)
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict) or payload.get("input_type") not in ("request", "response"):
            return JSONResponse({"error": "this is no request of LiteLLM's generic guardrail"}, 400)
        if not isinstance(payload.get("images"), list | None):
            return JSONResponse({"error": "images is no list"}, 400)
        payload = as_images(payload)
        sites = await asyncio.to_thread(find_images, payload)
        result = await screen.ascreen(sites)
        return JSONResponse(await asyncio.to_thread(answer, result, payload))

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"policies": [policy.id for policy in guard.policies]})

    return Starlette(routes=[Route(PATH, judge, methods=["POST"]), Route("/health", health)])


def as_images(payload: dict[str, Any]) -> dict[str, Any]:
    """The request with its ``images`` in a form that says they are images, whatever stands there."""
    images = payload.get("images") or []
    blocks = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {**payload, "images": blocks, "request_headers": None}


def answer(result: ScreenResult, payload: dict[str, Any]) -> dict[str, Any]:
    """What LiteLLM understands, and beside it what was found."""
    counts = {"images_seen": result.images_seen, "images_checked": result.images_checked}
    if not result.allowed:
        verdicts = [item.verdict.to_dict() for item in result.blocked]
        why = "; ".join(item.verdict.summary() for item in result.blocked[:3])
        return blocked(why, {**counts, "verdicts": verdicts})
    passes = {"action": "NONE", "policyguard": {**counts, "action": result.action}}
    new = {item.site.where: item.passed for item in result.items if item.passed is not None}
    if not new or payload["input_type"] == "response":  # LiteLLM takes no other images for an answer
        return passes
    messages = {item.site.data for item in result.items if item.site.where.startswith(MESSAGES)}
    if any(item.passed is not None and item.site.data not in messages for item in result.items):
        return blocked("what was judged cannot be passed on: LiteLLM takes it for messages alone", counts)
    try:
        changed = cast("dict[str, Any]", replace_images(payload, new))
    except ImageError as error:
        return blocked(f"what was judged cannot be passed on: {error.message}", counts)
    return {**passes, "action": "GUARDRAIL_INTERVENED", "structured_messages": changed["structured_messages"]}


def blocked(why: str, details: dict[str, Any]) -> dict[str, Any]:
    return {"action": "BLOCKED", "blocked_reason": f"PolicyGuard: {why}", "policyguard": details}


def _same(sent: str, key: str) -> bool:
    return hmac.compare_digest(sent.encode("utf-8", "replace"), key.encode())


def main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policy", required=True, help="name or path of the policy")
    parser.add_argument("--model", help="the guard model; default: POLICYGUARD_MODEL")
    parser.add_argument("--base-url", help="the server that runs it; default: POLICYGUARD_BASE_URL")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8471)
    parser.add_argument(
        "--pass-on",
        choices=["judged", "original"],
        default="judged",
        help="what goes on of an image that may pass",
    )
    chosen = parser.parse_args()
    guard = Guard(policy=chosen.policy, model=chosen.model, base_url=chosen.base_url).warm()
    key = os.environ.get("POLICYGUARD_LITELLM_KEY") or None
    app = build_app(guard, api_key=key, pass_on=chosen.pass_on)
    uvicorn.run(app, host=chosen.host, port=chosen.port)


if __name__ == "__main__":
    main()
