"""Attempts to make a policy read a file outside of its policy root: none succeeds."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policyguard.errors import PolicyError
from policyguard.policy import Policy, load_policy, parse_policy
from policyguard.strict import inside as inside_module
from policyguard.strict.inside import OutsideError, find_root, read_inside

GOOD = "id: {id}\nversion: 1.0.0\ntitle: T\nrules:\n  - {{id: w, title: W, unsafe: [{word}]}}\n"
TOP = "id: top\nversion: 1.0.0\ntitle: Top\nextends: {}\n"
SECRET = "the-secret-word"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A policy root with a base, and beside it a file that no policy in the root may read."""
    made = tmp_path / "repo"
    for folder in ("policies/deep/er", "base", "Team"):
        (made / folder).mkdir(parents=True)
    (made / "policyguard.toml").touch()
    (made / "base" / "house.yaml").write_text(GOOD.format(id="house", word="knives"))
    for folder in (tmp_path, tmp_path / "repository", tmp_path / "outside"):
        folder.mkdir(exist_ok=True)
        (folder / "secret.yaml").write_text(GOOD.format(id="secret", word=SECRET))
    return made


def attempt(root: Path, extends: str, folder: str = "policies") -> Policy:
    path = root / folder / "top.yaml"
    path.write_text(TOP.format(extends))
    return load_policy(path)


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as caught:
        load()
    assert SECRET not in str(caught.value)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# Names of the file `secret.yaml` that lies beside the root, as seen from `policies/`. {out}: its folder.
ESCAPES = {
    "one step too many": "../../secret.yaml",
    "through a folder that is there": "deep/../../../secret.yaml",
    "through a folder that is not there": "nowhere/../../../secret.yaml",
    "many steps": "../../../../../../../../../../../../etc/passwd.yaml",
    "out and in again": "../../repo/../secret.yaml",
    "out and back into the root": "../../repo/base/house.yaml",
    "with dots between": "./.././../secret.yaml",
    "with double slashes": "..//..//secret.yaml",
    "with a slash at the start": "/secret.yaml",
    "with two slashes at the start": "//secret.yaml",
    "an absolute path": "{out}/secret.yaml",
    "an absolute path inside the root": "{out}/repo/base/house.yaml",
    "an absolute path with steps": "{out}/repo/../secret.yaml",
    "a system file": "/etc/passwd",
    "the environment of the process": "/proc/self/environ",
    "the folder of the process": "/proc/self/cwd/secret.yaml",
    "a device": "/dev/stdin",
    "a folder whose name starts like the root's": "../../repository/secret.yaml",
    "home": "~/secret.yaml",
    "somebody's home": "~root/secret.yaml",
    "a variable": "$HOME/../secret.yaml",
    "a variable in braces": "./${{HOME}}/secret.yaml",
    "a Windows drive": "C:/secret.yaml",
    "a Windows drive without a slash": "C:secret.yaml",
    "backslashes": "..\\..\\secret.yaml",
    "mixed slashes": "..\\../secret.yaml",
    "a Windows network path": "\\\\server\\share\\secret.yaml",
    "a network path": "//server/share/secret.yaml",
    "a device path of Windows": "\\\\?\\C:\\secret.yaml",
    "a stream of Windows": "house.yaml::$DATA.yaml",
    "a file URL": "file:///secret.yaml",
    "a web address": "https://example.com/secret.yaml",
    "percent signs": "%2e%2e/%2e%2e/secret.yaml",
    "percent signs twice": "%252e%252e/%252e%252e/secret.yaml",
    "percent signs for slashes": "..%2f..%2fsecret.yaml",
    "full-width dots": "\uff0e\uff0e/\uff0e\uff0e/secret.yaml",
    "a look-alike slash": "..\u2215..\u2215secret.yaml",
    "three dots": ".../.../secret.yaml",
    "four dots": "..../secret.yaml",
    "dots with a blank": ".. /.. /secret.yaml",
    "a blank in front": "./ ../../secret.yaml",
    "a packaged name that climbs": "safeedit/../../secret",
    "a packaged name that climbs to a file": "safeedit/../../../secret.yaml",
    "a packaged name that is absolute": "safeedit//etc/passwd",
    "a name in capitals": "SAFEEDIT/L3",
    "an installed name that climbs": "acme/../../secret",
    "a file in another case": "../team/house.yaml",
    "a folder": "../base/",
    "the root itself": "../",
    "itself": "top.yaml",
    "a very long name": "./" + "x/" * 3000 + "secret.yaml",
    "glob characters": "../../*.yaml",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_path_that_leads_out_is_refused(name: str, root: Path) -> None:
    text = ESCAPES[name].format(out=root.parent)
    said = refused(lambda: attempt(root, quoted(text)))
    assert f"{root}/policies/top.yaml:4:10: extends: " in said


@pytest.mark.parametrize("name", ESCAPES)
def test_it_is_refused_in_a_file_that_is_extended_too(name: str, root: Path) -> None:
    text = ESCAPES[name].format(out=root.parent)
    (root / "policies" / "top.yaml").write_text(TOP.format(quoted(text)))
    (root / "base" / "middle.yaml").write_text(TOP.format("../policies/top.yaml"))
    refused(lambda: attempt(root, "../base/middle.yaml", "Team"))


@pytest.mark.parametrize("escape", ['"../../secret.yaml\\0"', '"..\\/..\\/secret.yaml"', '"x\\u0000.yaml"'])
def test_escapes_in_quotes_lead_nowhere(escape: str, root: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        attempt(root, escape)
    assert SECRET not in str(caught.value)


def test_the_list_is_long_enough() -> None:
    assert len(ESCAPES) >= 40


# Links.

LINKS: dict[str, tuple[str, str, str]] = {
    # name: (where the link lies in the root, what it points to, what is extended from `policies/`)
    "to a file outside": ("policies/link.yaml", "../../secret.yaml", "link.yaml"),
    "to an absolute file": ("policies/link.yaml", "{out}/secret.yaml", "link.yaml"),
    "to an absolute file inside": ("policies/link.yaml", "{out}/repo/base/house.yaml", "link.yaml"),
    "to a folder outside": ("policies/link", "../../outside", "link/secret.yaml"),
    "to an absolute folder": ("policies/link", "{out}/outside", "link/secret.yaml"),
    "to the folder above the root": ("policies/link", "../..", "link/secret.yaml"),
    "to the root of the system": ("policies/link", "/", "link/etc/passwd.yaml"),
    "to a folder inside, and up from there": ("policies/link", "deep/er", "link/../../../../secret.yaml"),
    "to itself": ("policies/link.yaml", "link.yaml", "link.yaml"),
    "to a folder that holds it": ("policies/link", "../policies", "link/" * 30 + "../base/house.yaml"),
    "to the process": ("policies/link", "/proc/self/cwd", "link/secret.yaml"),
    "to an open file": ("policies/link.yaml", "/proc/self/fd/0", "link.yaml"),
    "to nothing": ("policies/link.yaml", "nowhere.yaml", "link.yaml"),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_out_is_refused(name: str, root: Path) -> None:
    place, target, extended = LINKS[name]
    (root / place).symlink_to(target.format(out=root.parent))
    refused(lambda: attempt(root, extended))


def test_a_chain_of_links_that_leads_out_is_refused(root: Path) -> None:
    (root / "policies" / "a.yaml").symlink_to("deep/b.yaml")
    (root / "policies" / "deep" / "b.yaml").symlink_to("er/c.yaml")
    (root / "policies" / "deep" / "er" / "c.yaml").symlink_to("../../../../secret.yaml")
    assert "leads out of the policy root" in refused(lambda: attempt(root, "a.yaml"))


def test_the_file_first_named_may_not_be_a_link_that_leads_out_either(root: Path) -> None:
    link = root / "policies" / "link.yaml"
    link.symlink_to("../../secret.yaml")
    assert "leads out of the policy root" in refused(lambda: load_policy(link))


def test_a_link_that_is_swapped_while_it_is_read_leads_nowhere(root: Path) -> None:
    """Two threads: one swaps a folder for a link out of the root, one loads. No load reads the secret."""
    inner, link = root / "policies" / "x", root / "policies" / "y"
    inner.mkdir()
    (inner / "secret.yaml").write_text(GOOD.format(id="inner", word="knives"))
    link.symlink_to("../../outside")
    (root / "policies" / "top.yaml").write_text(TOP.format("x/secret.yaml"))
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for old, new in (("x", "z"), ("y", "x"), ("x", "y"), ("z", "x")):
                (root / "policies" / old).replace(root / "policies" / new)

    swapper = threading.Thread(target=swap)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    swapper.start()
    read = stopped = 0
    try:
        while read + stopped < 200 or (min(read, stopped) < 20 and read + stopped < 50_000):
            try:
                data, _found = read_inside(str(root), ("policies", "x", "secret.yaml"))
            except OSError:
                stopped += 1
            else:
                read += 1
                assert SECRET.encode() not in data
    finally:
        done.set()
        swapper.join()
        sys.setswitchinterval(interval)
    print(f"{read} reads found the file inside, {stopped} were stopped, none left the root")
    assert read
    assert stopped


def test_where_folders_cannot_be_opened_relatively_links_out_are_refused_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside_module, "_RELATIVE", False)
    (root / "policies" / "link").symlink_to("../../outside")
    (root / "policies" / "good").symlink_to("../base")
    for parts in (("policies", "link", "secret.yaml"), ("..", "secret.yaml"), ("policies", "..", "..", "x")):
        with pytest.raises(OutsideError):
            read_inside(str(root), parts)
    data, found = read_inside(str(root), ("policies", "good", "house.yaml"))
    assert b"knives" in data
    assert found == ("base", "house.yaml")


# What is allowed.


@pytest.mark.parametrize(
    "path",
    [
        "../base/house.yaml",
        "./../base/house.yaml",
        "deep/../../base//house.yaml",
        "../policies/../base/house.yaml",
    ],
)
def test_steps_up_inside_the_root_are_fine(path: str, root: Path) -> None:
    assert attempt(root, path).rules[0].unsafe == ("knives",)


def test_links_inside_the_root_are_followed(root: Path) -> None:
    (root / "policies" / "link.yaml").symlink_to("../base/house.yaml")
    (root / "policies" / "folder").symlink_to("../base")
    assert attempt(root, "[link.yaml, folder/house.yaml]").rules[0].id == "w"


def test_the_root_is_the_nearest_marked_folder_else_the_folder_of_the_file(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_root(str(inner)) == str(inner)
    (tmp_path / "a" / ".git").write_text("gitdir: elsewhere")
    assert find_root(str(inner)) == str(tmp_path / "a")
    (inner / "policyguard.toml").touch()
    assert find_root(str(inner)) == str(inner)


def test_a_root_can_be_given(root: Path) -> None:
    path = root / "policies" / "top.yaml"
    path.write_text(TOP.format("../base/house.yaml"))
    assert load_policy(path, root=root.parent).rules[0].id == "w"
    assert "leads out" in refused(lambda: load_policy(path, root=root / "policies"))
    assert "lies outside of the policy root" in refused(lambda: load_policy(path, root=root / "base"))
    assert "not a folder" in refused(lambda: load_policy(path, root=root / "nowhere"))
    path.write_text(TOP.format("../../secret.yaml"))
    assert SECRET in load_policy(path, root=root.parent).rules[0].unsafe


def test_the_packaged_library_bounds_packaged_policies(root: Path) -> None:
    assert "packaged" in refused(lambda: parse_policy(_top("../pyproject.yaml")))
    values: dict[str, Any] = _top("policies/top.yaml")
    (root / "policies" / "top.yaml").write_text(GOOD.format(id="a", word="x"))
    assert parse_policy(values, root=root).rules[0].id == "w"
    refused(lambda: parse_policy(_top("../secret.yaml"), root=root))


def _top(extends: str) -> dict[str, Any]:
    return {"id": "top", "version": "1.0.0", "extends": extends}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_or_a_device_that_is_extended_is_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "policies" / "pipe.yaml")
    assert "a device or a pipe" in refused(lambda: attempt(root, "pipe.yaml"))
