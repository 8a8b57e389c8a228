"""An HTTP client whose images are judged: what a blocked request and a blocked answer look like.

    .venv/bin/python examples/guarded_http.py

The provider is played by a function in this file; with a real one, hand the client to its SDK:
`OpenAI(http_client=guarded_client(guard))`. docs/http.md has the settings.
"""

from __future__ import annotations

import base64
from pathlib import Path

import httpx

from policyguard import Guard
from policyguard.integrations.http import guarded_client

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    with (
        Guard(policy="pictosafe/l3") as guard,
        guarded_client(guard, family="httpx", transport=httpx.MockTransport(provider)) as client,
    ):
        for path in sorted(IMAGES.glob("*.png")):
            url = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
            parts = [{"type": "image_url", "image_url": {"url": url}}]
            asked = {"model": "m", "messages": [{"role": "user", "content": parts}]}
            told("asking about", path, client.post("https://api.example/v1/chat/completions", json=asked))
            made = client.post("https://api.example/v1/images/generations", json={"prompt": path.name})
            told("generating", path, made)


def provider(request: httpx.Request) -> httpx.Response:
    """Describes every picture with the same words, and "generates" the example of that name."""
    if request.url.path.endswith("/generations"):
        name = request.content.decode().split('"')[3]
        code = base64.b64encode((IMAGES / name).read_bytes()).decode()
        return httpx.Response(200, json={"data": [{"b64_json": code}]})
    return httpx.Response(200, json={"choices": [{"message": {"content": "A scene."}}]})


def told(what: str, path: Path, response: httpx.Response) -> None:
    error = response.json().get("error", {}) if response.status_code == 403 else {}
    print(f"{what} {path.name}: {response.status_code} {error.get('message', '')}")


if __name__ == "__main__":
    main()
