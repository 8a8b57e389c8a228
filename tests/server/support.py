"""The service on a real socket, over policies in a folder and a guard that knows colours."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from images.support import exif
from integrations.http.pictures import GREEN, _judge, data_uri
from policyguard.server.app import Settings, State, configured, create_app
from policyguard.testing import FakeBackend
from support.waiting import wait_until

POLICY = """\
id: tests/{name}
version: {version}
title: Colours
rules:
  - id: red
    title: {title}
    unsafe: [red areas]
  - id: orange
    title: Orange
    unsafe: [orange areas]
    action: flag
"""


def _turned() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), GREEN).save(buffer, "JPEG", exif=b"Exif\0\0" + exif(6))
    return data_uri(buffer.getvalue(), "image/jpeg")


TURNED = _turned()
"""A JPEG that viewers may turn, so that a plain file is passed on in its place."""


def write(folder: Path, name: str = "colours", *, version: str = "1.0.0", title: str = "Red") -> Path:
    """A policy, put into its place in one step."""
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(POLICY.format(name=name, version=version, title=title))
    return fresh.replace(path)


@dataclass
class Service:
    """A running service: its address, and what it is made of."""

    url: str
    state: State
    backend: Any
    folder: Path
    server: uvicorn.Server
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.client.post(path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def check(self, image: bytes, policy: str = "colours", **options: Any) -> httpx.Response:
        return self.post(f"/v1/check?policy={policy}", files={"image": ("a.png", image)}, **options)


@contextmanager
def serving(folder: Path, *, backend: Any = None, **options: Any) -> Iterator[Service]:
    """The service over the policies in ``folder``; it looks at their files only when told to."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.rglob("*.yaml")):
        write(folder)
    backend = FakeBackend(_judge) if backend is None else backend
    settings = Settings(**{"policies": (str(folder),), "backend": backend, "reload_every": None} | options)
    app = create_app(settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(configured(app, settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive())
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=None, trust_env=False, verify=False) as client:
                yield Service(url, app.state.service, backend, folder, server, client)
        finally:
            server.should_exit = True
            thread.join()
