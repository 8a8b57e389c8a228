"""Without what only POSIX has: modules, functions and flags that Windows lacks are taken away first.

Not covered: Windows itself: its paths, its locks on open files, its consoles (``cli/test_consoles.py`` has
their encodings). Nothing here was run on it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ELSEWHERE = """
import os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in (
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "chown", "fchmod", "fork", "getuid",
    "killpg", "mkfifo", "register_at_fork", "sched_getaffinity", "setsid", "sysconf", "uname",
):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "setitimer"):
    delattr(signal, name)
os.supports_dir_fd, os.supports_follow_symlinks = set(), set()
"""
CHECKS = """
from pathlib import Path
from PIL import Image
from policyguard import Guard
from policyguard.cache import CachedBackend, SqliteCache
from policyguard.cli import main
from policyguard.testing import FakeBackend
Image.new("RGB", (8, 8), "red").save("red.png")
with Guard("apps/marketplace", backend=FakeBackend(0.9), cache="scores.sqlite") as guard:
    verdicts = list(guard.check_many(["red.png", Path("red.png"), "none.png"]))
assert [str(verdict.outcome) for verdict in verdicts] == ["violates", "violates", "unscannable"], verdicts
assert main(["init", "shop", "--ci", "github"]) == 0
assert main(["policy", "lint", "shop/policies/house-rules.yaml"]) == 0
assert main(["cache", "info", "scores.sqlite"]) == 0
assert main(["quickstart"]) == 0
print("all done")
"""


def test_the_core_and_the_program_need_nothing_that_only_posix_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ELSEWHERE + CHECKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("all done\n"), done.stderr
