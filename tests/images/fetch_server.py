"""A TLS server on loopback that behaves as a test tells it to, and a certificate authority to trust it by."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["Server", "Talk", "client_context", "drip", "serve"]

Talk = Callable[[ssl.SSLSocket, str], None]
"""Given the connection and the path that was asked for, says all that the server says."""


@cache
def _certificate() -> Path:
    """A self-signed certificate for good.example and 127.0.0.1, with its key, in one folder."""
    folder = Path(mkdtemp(prefix="policyguard-fetch-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=good.example", "-addext", "subjectAltName=DNS:good.example,IP:127.0.0.1"]
    command = [*request.split(), "-keyout", key, "-out", certificate, *names]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(_certificate() / "cert.pem"))


class Server:
    """``asked`` holds the request heads that came in, ``names`` the names that TLS was asked for."""

    def __init__(self, talk: Talk) -> None:
        self.asked: list[str] = []
        self.names: list[str | None] = []
        self._talk = talk
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate() / "cert.pem", _certificate() / "key.pem")
        context.sni_callback = lambda _, name, __: self.names.append(name)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(raw,), daemon=True).start()

    def _answer(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as sock:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := sock.recv(4096)):
                    return
                head += part
            text = head.decode("latin-1")
            self.asked.append(text)
            self._talk(sock, text.split(" ")[1])

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def serve(talk: Talk) -> Iterator[Server]:
    server = Server(talk)
    try:
        yield server
    finally:
        server.close()


def drip(start: bytes, again: bytes = b"") -> Talk:
    """Says ``start`` and then ``again`` and again, byte by byte, until the other side has gone."""

    def talk(sock: ssl.SSLSocket, _: str) -> None:
        for byte in itertools.chain(start, itertools.cycle(again)):
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
        sock.recv(1)

    return talk
