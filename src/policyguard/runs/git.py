"""Questions to git: which files changed, where the work tree begins, who the user is.

Covered: a ref from a build's variables cannot become an option or a path (it is resolved to a commit first,
behind ``--end-of-options``), names of files arrive as bytes between NULs, no pager, no external diff,
no other repository that the environment names.
Not covered: git itself, which reads the configuration of the repository it is started in.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from policyguard.errors import UsageError

__all__ = ["changed_since", "is_tracked", "top_level", "user_name"]

_FETCH = (
    "the clone is too shallow; fetch the whole history: `fetch-depth: 0` for actions/checkout, "
    "`GIT_DEPTH: 0` in GitLab, `git fetch --unshallow` elsewhere"
)
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in hooks, and relative to another folder


def changed_since(ref: str, folder: Path) -> set[str]:
    """Real paths of what differs from the merge base of HEAD and ``ref`` in the work tree.

    Added, modified, renamed and unmerged files, committed or not, and untracked files that git does not
    ignore. A submodule or a repository in the work tree that differs is its folder. Deleted files are left
    out. Raises UsageError.
    """
    top = top_level(folder)
    if top is None:
        raise UsageError(
            f"--changed-since needs git, and {str(folder)!r} is not in a git work tree",
            hint="run it in a checkout, or leave --changed-since out to check every image",
        )
    base = _merge_base(ref, top)
    diff = ("diff", "--name-only", "-z", "--no-relative", "--no-renames", "--no-ext-diff", "--no-textconv")
    changed = _lines(top, *diff, "--ignore-submodules=none", "--diff-filter=AMTU", base, "--")
    untracked = _lines(top, "ls-files", "--others", "--exclude-standard", "-z", "--")
    return {os.path.realpath(top / name) for name in (*changed, *untracked)}


def top_level(folder: Path) -> Path | None:
    """The root of the git work tree around ``folder``; None outside of one. Raises UsageError without git."""
    done = _git(folder, "rev-parse", "--show-toplevel")
    if done.returncode:
        message = _message(done)
        if "dubious ownership" in message or "safe.directory" in message:
            raise UsageError(
                f"git does not trust this folder: {message}",
                hint=f"git config --global --add safe.directory {folder}",
            )
        return None
    return Path(os.fsdecode(done.stdout.rstrip(b"\n")))


def is_tracked(file: Path) -> bool:
    """Whether git has ``file`` under version control. False where git is not installed."""
    try:
        return not _git(file.parent, "ls-files", "--error-unmatch", "--", file.name).returncode
    except UsageError:
        return False


def user_name(folder: Path) -> str | None:
    """``user.name`` as git knows it in ``folder``."""
    try:
        done = _git(folder, "config", "--get", "user.name")
    except UsageError:
        return None
    return done.stdout.decode("utf-8", "replace").strip() or None


def _merge_base(ref: str, top: Path) -> str:
    resolved = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if resolved.returncode or not ref:
        raise UsageError(
            f"git knows no commit called {ref!r}",
            hint=_FETCH
            if _shallow(top)
            else "check the name, or fetch it: `git fetch origin BRANCH`; "
            "a remote branch is called origin/BRANCH",
        )
    commit = resolved.stdout.decode("ascii").strip()
    base = _git(top, "merge-base", commit, "HEAD")
    if base.returncode:
        raise UsageError(
            f"{ref!r} and HEAD have no commit in common",
            hint=_FETCH if _shallow(top) else "name a branch or commit that HEAD descends from",
        )
    return base.stdout.decode("ascii").strip()


def _shallow(top: Path) -> bool:
    return _git(top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"


def _lines(top: Path, *arguments: str) -> list[str]:
    done = _git(top, *arguments)
    if done.returncode:
        raise UsageError(f"git {arguments[0]} failed: {_message(done)}")
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _message(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[0].removeprefix("fatal: ") if lines else f"exit code {done.returncode}"


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(  # noqa: S603 (a fixed program; see the top for what reaches its arguments)
            ["git", "--no-pager", "-C", str(folder), *arguments],  # noqa: S607 (the git that the user has)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError(
            "git is needed for this and is not installed", hint="install git, or leave --changed-since out"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the ref
        raise UsageError(f"git cannot be started: {error}") from None
