"""Writes the summary as a comment on the pull request, and on later runs changes that comment.

Run as `python3 -I comment.py`, with nothing installed. Reads POLICYGUARD_MARKDOWN (the summary's file),
POLICYGUARD_MARK (tells the comments of several jobs apart), GITHUB_TOKEN, and what Actions sets.

Covered: the token goes to GITHUB_API_URL alone, and no redirect is followed. Without a pull request, or
without the right to write (a pull request from a fork), it says so in the log and ends in 0: the check
decides about the job, and not the comment. The summary is sent as data; escaping what strangers named is the
report's work.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LIMIT = 65_000
PAGES = 20
PER_PAGE = 100


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_NoRedirect)


def api(method: str, path: str, data: dict[str, str] | None = None) -> Any:
    """One call of GitHub's API. Raises OSError (of which URLError is one) or ValueError."""
    base = os.environ.get("GITHUB_API_URL", "https://api.github.com")
    request = urllib.request.Request(  # noqa: S310 (the address is the runner's)
        f"{base}{path}",
        method=method,
        data=None if data is None else json.dumps(data).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ.get('GITHUB_TOKEN', '')}",
            "Content-Type": "application/json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    with OPENER.open(request, timeout=30) as answer:
        return json.load(answer)


def pull_request() -> int | None:
    """The number of the pull request that the workflow runs for."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    number = (event.get("pull_request") or {}).get("number")
    return number if isinstance(number, int) else None


def earlier(repository: str, number: int, mark: str) -> int | None:
    """The comment of an earlier run. One that a person wrote around the same mark is left alone."""
    for page in range(1, PAGES + 1):
        comments = api("GET", f"/repos/{repository}/issues/{number}/comments?per_page={PER_PAGE}&page={page}")
        for comment in comments:
            if str(comment.get("body", "")).startswith(mark) and comment.get("user", {}).get("type") == "Bot":
                return int(comment["id"])
        if len(comments) < PER_PAGE:
            break
    return None


def body(mark: str) -> str:
    text = Path(os.environ["POLICYGUARD_MARKDOWN"]).read_text(encoding="utf-8")
    whole = f"{mark}\n{text}"
    if len(whole) <= LIMIT:
        return whole
    return whole[:LIMIT].rpartition("\n")[0] + "\n\n(cut here: the whole is in the job's summary)\n"


def main() -> int:
    name = hashlib.sha256(os.environ.get("POLICYGUARD_MARK", "").encode()).hexdigest()[:16]
    mark = f"<!-- policyguard {name} -->"
    try:
        number = pull_request()
        if number is None:
            print("no pull request to comment on")
            return 0
        repository = os.environ["GITHUB_REPOSITORY"]
        known = earlier(repository, number, mark)
        if known is None:
            api("POST", f"/repos/{repository}/issues/{number}/comments", {"body": body(mark)})
        else:
            api("PATCH", f"/repos/{repository}/issues/comments/{known}", {"body": body(mark)})
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            why = "the token may not write to it; that takes `pull-requests: write`, which forks never have"
        else:
            why = f"GitHub answered {error.code}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}".replace("\n", " ")
    else:
        print(f"commented on pull request {number}")
        return 0
    print(f"::notice::no comment on the pull request: {why}. The summary of the job has the same text.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
