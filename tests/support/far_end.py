"""The far end of the network, on loopback: a proxy behind which a server of ours has another's name.

A program that obeys ``HTTPS_PROXY`` and ``SSL_CERT_FILE`` then runs as it stands, at the address that it
names. A host that is not listed is not there.
"""

from __future__ import annotations

import http.client
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from backends.remote import hosted
from backends.remote.server import ToyServer


class FarEnd(ThreadingHTTPServer):
    """``hosts``: name, such as ``api.openai.com``, and the server here that is reached under it by HTTPS.

    ``folder`` gets a certificate for the names, made by openssl.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, hosts: Mapping[str, ToyServer], folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hosts = hosts
        key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        names = ",".join(f"DNS:{name}" for name in hosts)
        make = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=me"
        )
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(
            [*make.split(), "-addext", f"subjectAltName={names}", *files], check=True, capture_output=True
        )
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.certificate, key)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs that is to find the hosts here."""
        proxy = f"http://127.0.0.1:{self.server_address[1]}"
        return {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(self.certificate)}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up need no report."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FarEnd
    protocol_version = "HTTP/1.1"
    timeout = 100
    near: ToyServer | None = None

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # TLS has a socket of its own, which the server does not know of

    def log_message(self, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.near = self.server.hosts.get(self.path.removesuffix(":443"))
        if self.near is None:
            return self.send_error(502)
        self.send_response(200)
        self.end_headers()
        self.request = self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False
        return None

    def do_GET(self) -> None:
        if self.near is None:
            return self.send_error(502)
        near = http.client.HTTPConnection("127.0.0.1", self.near.server_address[1], timeout=100)
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            near.request(self.command, self.path, body, dict(self.headers))
            reply = near.getresponse()
            data = reply.read()
        finally:
            near.close()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def do_POST(self) -> None:
        self.do_GET()


PORTRAIT = "A woman in an orange space suit looks into the camera."


def stand_in_for_openai(server: ToyServer, key: str) -> None:
    """Let ``server`` be OpenAI with gpt-5-mini: it takes ``key`` and no other, and sees a stranger's face."""
    server.model = hosted.MODELS["gpt_5"]
    server.api_key = key
    server.features -= {"tokenize"}

    def answer(handler: Any, honest: Any) -> None:
        if handler.headers["Authorization"] == f"Bearer {key}":
            handler.send_json(*_of_the_portrait(handler.body, hosted.gpt_5))
        else:
            handler.send_json(
                *hosted.refused("Incorrect API key provided", code="invalid_api_key", status=401)
            )

    server.fault = answer
    server.fault_at = lambda path, body: "completions" in path


def stand_in_for_ollama(server: ToyServer) -> None:
    """Let ``server`` be Ollama. It has the model that was pulled last, and at first none."""
    server.model = ""
    server.features -= {"tokenize"}

    def answer(handler: Any, honest: Any) -> None:
        asked = handler.body.get("model")
        if handler.path == "/api/pull":
            server.model = asked
            handler.send_json(200, {"status": "success"})
        elif handler.path == "/api/show":
            handler.send_json(200, {"template": "{{ .Prompt }}", "capabilities": ["completion", "vision"]})
        elif handler.path == "/v1/models":
            entries = [{"id": server.model, "object": "model", "created": 1754006400, "owned_by": "library"}]
            handler.send_json(200, {"object": "list", "data": entries if server.model else None})
        elif asked != server.model:
            handler.send_json(*hosted.refused(f"model '{asked}' not found", status=404))
        else:
            handler.send_json(*_of_the_portrait(handler.body, hosted.ollama))

    server.fault = answer
    server.fault_at = lambda path, body: path.startswith(("/api/pull", "/api/show", "/v1/"))


def _of_the_portrait(body: dict[str, Any], service: Any) -> tuple[int, Any]:
    status, reply = service(body, "unsafe", "B")
    for choice in reply.get("choices", ()):
        said = choice["message"]["content"]
        choice["message"]["content"] = said.replace("A dagger lies on the table.", PORTRAIT)
    return status, reply
