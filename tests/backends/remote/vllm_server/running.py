"""A real vLLM server in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, Self

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "integrations" / "vllm" / "serve_cpu.sh"
VENV = ROOT / ".venv-vllm"
QUIET_LOOKS = 1200
"""Looks in a row, half a second apart, at which the log has not grown: then a start has failed."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class RealServer:
    """Serves the model in ``folder`` as ``name``, on a port that stays the same over restarts."""

    def __init__(self, folder: Path, name: str, log: Path, *flags: str) -> None:
        self.name = name
        self.folder = folder
        self._flags = flags
        self.log = log
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start, wait until the server answers, and send a first request, which takes it long.

        A start may take its time, as long as the server's log grows.
        """
        command = [str(SCRIPT), str(self.folder), self.name, str(self.port), *self._flags]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        length = quiet = 0
        while not self._healthy():
            before, length = length, self.log.stat().st_size
            quiet = 0 if length > before else quiet + 1
            if self._process.poll() is not None or quiet > QUIET_LOOKS:
                self.kill()
                lines = self.log.read_text(errors="replace").splitlines()
                cause = [line for line in lines if "Error" in line][:5]
                raise RuntimeError("\n".join(["vLLM did not start:", *cause, "...", *lines[-20:]]))
            time.sleep(0.5)
        messages = [{"role": "user", "content": "hello"}]
        self.post("/v1/chat/completions", {"model": self.name, "messages": messages, "max_tokens": 2})
        return self

    def kill(self) -> None:
        """End the server and its workers at once, as a crash would."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer of a request made without the package under test."""
        request = urllib.request.Request(
            f"{self.root}{path}",
            json.dumps(body, default=bytes.decode).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def _healthy(self) -> bool:
        try:
            response: IO[bytes]
            with urllib.request.urlopen(f"{self.root}/health", timeout=60) as response:
                response.read()
            return True
        except OSError:
            return False
