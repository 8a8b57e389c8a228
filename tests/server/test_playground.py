"""What the page asks of the service: what an edit is and does, what may be written, and who is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import policyguard
from integrations.http.pictures import picture
from policyguard.authoring import load_cases
from policyguard.authoring.editor import json_schema
from policyguard.errors import ConfigurationError
from policyguard.images import decode
from policyguard.policy import load_policy
from policyguard.server.keys import new_key
from server.support import Service, serving, write

PAGE = {"X-PolicyGuard": "page"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "policies").mkdir()
    images = tmp_path / "images"
    images.mkdir()
    for name in ("red", "blue", "orange"):
        (images / f"{name}.png").write_bytes(picture(name))
    (images / "notes.txt").write_text("no image")
    with serving(tmp_path / "policies", images=images, write=True) as running:
        yield running


def ask(service: Service, path: str, data: Any, **headers: str) -> httpx.Response:
    return service.post(f"/page-api/{path}", content=json.dumps(data), headers=PAGE | headers)


def start(service: Service) -> dict[str, Any]:
    return dict(service.get("/page-api/start").json())


def ids(service: Service) -> dict[str, str]:
    return {image["name"]: image["id"] for image in start(service)["images"]}


def text_of(service: Service, name: str = "colours") -> dict[str, Any]:
    return dict(service.get(f"/page-api/policies/{name}").json())


def judged(service: Service, text: str, *names: str, **more: Any) -> dict[str, Any]:
    keys = [ids(service)[name] for name in names]
    answer = ask(service, "judge", {"policy": "colours", "text": text, "images": keys} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_page_and_its_parts_are_handed_out_and_fetch_nothing_else(service: Service) -> None:
    page = service.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "<script>" not in page.text
    assert "http" not in page.text.replace("http-equiv", "")
    assert service.get("/").headers["content-security-policy"] != policy, "the nonce is never used twice"
    for part in ("page.js", "editor.js", "style.css"):
        assert service.get(f"/page/{part}").status_code == 200
    assert service.get("/page/editor.LICENCES.txt").status_code == 404
    assert service.get("/page/..%2fapp.py").status_code == 404


def test_the_start_says_what_there_is(service: Service) -> None:
    answer = start(service)
    assert [policy["name"] for policy in answer["policies"]] == ["colours"]
    assert [image["name"] for image in answer["images"]] == ["blue.png", "orange.png", "red.png"]
    assert answer["write"] is True
    assert answer["schema"] == json_schema()


def test_an_edit_is_judged_against_the_saved_policy(service: Service) -> None:
    saved = text_of(service)["text"]
    answer = judged(service, saved, "red.png", "blue.png")
    assert [image["changed"] for image in answer["images"]] == [False, False]
    assert [image["after"]["action"] for image in answer["images"]] == ["block", "allow"]
    assert answer["asked"] == 2
    edit = saved.replace("    unsafe: [red areas]", "    unsafe: [red areas]\n    action: flag")
    answer = judged(service, edit, "red.png", "blue.png")
    red, blue = answer["images"]
    assert (red["changed"], red["direction"], red["rules"]) == (True, -1, ["red"])
    assert (red["before"]["action"], red["after"]["action"]) == ("block", "flag")
    assert blue["changed"] is False
    assert answer["asked"] == 0, "an action is decided from the same scores"


def test_the_slider_decides_again_without_asking(service: Service) -> None:
    saved = text_of(service)["text"]
    calls = judged(service, saved, "red.png") and service.backend.calls
    score = judged(service, saved, "red.png")["images"][0]["after"]["score"]
    answer = judged(service, saved, "red.png", threshold=min(1.0, score + 0.01))
    assert answer["images"][0]["after"]["outcome"] == "complies"
    assert answer["images"][0]["changed"] is True
    assert answer["asked"] == 0
    assert service.backend.calls == calls


@pytest.mark.parametrize("threshold", [0, 1.01, -1, "0.5", None, True])
def test_a_threshold_that_is_none_is_refused(service: Service, threshold: Any) -> None:
    data = {"policy": "colours", "text": text_of(service)["text"], "threshold": threshold}
    answer = ask(service, "judge", data | {"images": [ids(service)["red.png"]]})
    assert answer.status_code == (200 if threshold is None else 422)


def test_a_dropped_image_is_judged_and_shown_and_not_written(service: Service) -> None:
    before = set(service.folder.parent.rglob("*"))
    added = service.post("/page-api/images?name=my.png", content=picture("red"), headers=PAGE).json()
    saved = text_of(service)["text"]
    answer = ask(service, "judge", {"policy": "colours", "text": saved, "images": [added["id"]]}).json()
    assert answer["images"][0]["after"]["outcome"] == "violates"
    shown = service.get(f"/page-api/images/{added['id']}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.headers["cache-control"] == "no-store"
    assert max(decode(shown.content).size) <= 320
    assert set(service.folder.parent.rglob("*")) == before


def test_what_is_no_image_has_its_outcome_and_is_not_shown(service: Service) -> None:
    data = b"<svg onload=alert(1)>"
    key = service.post("/page-api/images?name=x.svg", content=data, headers=PAGE).json()["id"]
    saved = text_of(service)["text"]
    answer = ask(service, "judge", {"policy": "colours", "text": saved, "images": [key]}).json()
    assert answer["images"][0]["after"]["outcome"] == "unscannable"
    assert service.get(f"/page-api/images/{key}").status_code == 422


def test_mistakes_have_their_lines_and_columns(service: Service) -> None:
    saved = text_of(service)["text"]
    edit = saved.replace("    action: flag", "    action: flagg")
    line = edit.splitlines().index("    action: flagg") + 1
    answer = ask(service, "read", {"policy": "colours", "text": edit}).json()
    assert answer["policy"] is None
    problem = answer["problems"][0]
    assert (problem["severity"], problem["line"], problem["column"]) == ("error", line, 13)
    assert "flag" in problem["message"]


def test_a_reading_says_what_the_policy_is_and_what_a_model_reads(service: Service) -> None:
    saved = text_of(service)["text"]
    answer = ask(service, "read", {"policy": "colours", "text": saved.replace("red areas", "crimson")}).json()
    assert [rule["id"] for rule in answer["policy"]["rules"]] == ["red", "orange"]
    assert "crimson" in answer["reads"]["texts"][0]
    assert any("crimson" in change for change in answer["changes"])
    assert answer["loosened"]


def test_saving_asks_about_what_loosens_and_puts_the_policy_in_force(service: Service) -> None:
    file = service.folder / "colours.yaml"
    loaded = text_of(service)
    edit = loaded["text"].replace("unsafe: [red areas]", "unsafe: [red areas]\n    action: flag")
    data = {"policy": "colours", "text": edit, "hash": loaded["hash"]}
    refused = ask(service, "save", data)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "loosens")
    assert file.read_text() == loaded["text"]
    loosened = refused.json()["error"]["loosened"]
    assert any("softened from block to flag" in change for change in loosened)
    saved = ask(service, "save", data | {"loosens": loosened})
    assert saved.status_code == 200
    assert file.read_text() == edit
    assert service.check(picture("red")).json()["action"] == "flag"
    again = ask(service, "save", data | {"loosens": loosened})
    assert again.json()["error"]["code"] == "file_changed", "what it was made from is not there any more"


def test_what_loosens_a_base_needs_its_reason_in_the_file(service: Service) -> None:
    head = "id: tests/north\nversion: 1.0.0\nextends: colours.yaml\n"
    layer = f"{head}overrides:\n  orange:\n    safe:\n      add: [fruit]\n"
    (service.folder / "north.yaml").write_text(head)
    service.state.policies.poll()
    service.state.policies.poll()
    answer = ask(service, "read", {"policy": "north", "text": layer}).json()
    (problem,) = [problem for problem in answer["problems"] if problem["reason"]]
    lines = layer.splitlines()
    lines.insert(
        problem["reason"]["line"] - 1, " " * problem["reason"]["indent"] + 'weakens: "asked for by sales"'
    )
    text = "\n".join(lines)
    assert ask(service, "read", {"policy": "north", "text": text}).json()["policy"] is not None
    assert (
        ask(
            service, "save", {"policy": "north", "text": layer, "hash": text_of(service, "north")["hash"]}
        ).status_code
        == 422
    )


REASONS = [
    ("defaults:\n  threshold: 0.9\n", "weakens"),
    ("drop:\n  - id: orange\n", None),
    ("replace:\n  - id: orange\n    title: Other\n    unsafe: [x]\n", None),
    ("overrides:\n  red:\n    threshold: 0.9\n", "overrides"),
    ("overrides: {red: {threshold: 0.9}}\n", "by hand"),
]


@pytest.mark.parametrize(("edit", "where"), REASONS, ids=lambda value: str(value).split("\n")[0])
def test_the_place_for_a_reason_is_where_the_loader_takes_it(service: Service, edit: str, where: str) -> None:
    text = f"id: tests/north\nversion: 1.0.0\nextends: colours.yaml\n{edit}"
    (service.folder / "north.yaml").write_text("id: tests/north\nversion: 1.0.0\nextends: colours.yaml\n")
    service.state.policies.poll()
    service.state.policies.poll()
    problems = ask(service, "read", {"policy": "north", "text": text}).json()["problems"]
    places = {(p["reason"]["line"], p["reason"]["indent"]) for p in problems if p["reason"]}
    if where == "by hand":
        assert places == set()
        return
    lines = text.splitlines()
    for line, indent in sorted(places, reverse=True):
        lines.insert(line - 1, " " * indent + 'weakens: "a reason"')
    assert places
    answer = ask(service, "read", {"policy": "north", "text": "\n".join(lines)}).json()
    assert answer["policy"] is not None, answer["problems"]


def test_a_test_is_kept_beside_its_policy(service: Service) -> None:
    key = ids(service)["red.png"]
    data = {
        "policy": "colours",
        "image": key,
        "outcome": "violates",
        "findings": ["red"],
        "note": "plain red",
    }
    answer = ask(service, "keep", data).json()
    assert answer["written"] is True
    cases = load_cases(service.folder / "cases.yaml")
    (image,) = cases.content.images
    assert image.note == "plain red"
    assert cases.folder.read(image.image, 10**6) == picture("red")
    dropped = service.post("/page-api/images?name=x", content=picture("orange"), headers=PAGE).json()["id"]
    ask(service, "keep", {"policy": "colours", "image": dropped, "outcome": "violates"})
    assert len(load_cases(service.folder / "cases.yaml").content.images) == 2
    again = ask(service, "keep", {"policy": "colours", "image": dropped, "outcome": "complies"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "cases_wrong")


def test_without_write_nothing_is_written(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        loaded = text_of(service)
        data = {"policy": "colours", "text": loaded["text"] + "# new\n", "hash": loaded["hash"]}
        assert ask(service, "save", data).json()["error"]["code"] == "read_only"
        key = service.post("/page-api/images?name=x", content=picture("red"), headers=PAGE).json()["id"]
        kept = ask(service, "keep", {"policy": "colours", "image": key, "outcome": "violates"}).json()
        assert kept["written"] is False
        assert "outcome: violates" in kept["entry"]
        assert [path.name for path in tmp_path.iterdir()] == ["colours.yaml"]


def test_a_packaged_policy_can_be_tried_and_not_saved(tmp_path: Path) -> None:
    with serving(tmp_path, policies=("pictosafe/l3",), write=True) as service:
        loaded = text_of(service, "pictosafe/l3")
        assert ask(service, "read", {"policy": "pictosafe/l3", "text": loaded["text"]}).json()["policy"]
        data = {"policy": "pictosafe/l3", "text": loaded["text"], "hash": loaded["hash"]}
        assert ask(service, "save", data).json()["error"]["code"] == "packaged"


CALLS = ["start", "policies/colours", "shadows", "images/x"]
FOREIGN: list[tuple[str, dict[str, str]]] = [
    ("a name that was made to point here", {"Host": "evil.example:8765"}),
    ("a name that begins like ours", {"Host": "localhost.evil.example"}),
    ("an address that is not this machine's", {"Host": "192.0.2.7"}),
    ("another site", {"Origin": "https://evil.example"}),
    ("another port", {"Origin": "http://127.0.0.1:1"}),
    ("a sandboxed page", {"Origin": "null"}),
    ("what a browser calls cross-site", {"Sec-Fetch-Site": "cross-site"}),
    ("what a browser calls same-site", {"Sec-Fetch-Site": "same-site"}),
]


@pytest.mark.parametrize(("who", "headers"), FOREIGN, ids=[who for who, _ in FOREIGN])
def test_nobody_else_is_answered(service: Service, who: str, headers: dict[str, str]) -> None:
    for path in CALLS:
        assert service.get(f"/page-api/{path}", headers=headers).status_code in (403, 421), who
    for path in ("read", "judge", "save", "keep", "images"):
        answer = service.post(f"/page-api/{path}", content=b"{}", headers=PAGE | headers)
        assert answer.status_code in (403, 421), who


def test_what_a_form_can_send_is_refused(service: Service) -> None:
    for path in ("read", "judge", "save", "keep", "images"):
        answer = service.post(f"/page-api/{path}", data={"policy": "colours"})
        assert answer.json()["error"]["code"] == "header_missing"


@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.0.0.1:9"])
def test_this_machines_own_names_are_answered(service: Service, host: str) -> None:
    assert service.get("/page-api/start", headers={"Host": host}).status_code == 200


PATHS = ["../colours", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "colours.yaml", "%2e/colours", "a" * 5000]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:20])
def test_no_path_finds_a_file(service: Service, path: str) -> None:
    assert service.get(f"/page-api/policies/{path}").status_code == 404
    for call in ("read", "judge", "save", "keep"):
        data = {
            "policy": path,
            "text": "id: a",
            "images": [path],
            "image": path,
            "outcome": "violates",
            "hash": "",
        }
        assert ask(service, call, data).status_code == 404
    key = ask(service, "judge", {"policy": "colours", "text": text_of(service)["text"], "images": [path]})
    assert key.status_code in (404, 410, 422)
    assert service.get(f"/page-api/images/{path}").status_code in (404, 410)


def test_an_image_that_links_out_of_its_folder_is_not_read(service: Service, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture("red"))
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "up.png").symlink_to("../secret.png")
    for name in ("link.png", "up.png"):
        assert service.get(f"/page-api/images/{ids(service)[name]}").status_code == 404


NONSENSE: list[Any] = [
    None, [], 3, {}, {"policy": 3}, {"policy": ["colours"]}, {"policy": "colours"},
    *({"policy": "colours", "text": text} for text in (3, "\ud800", "x" * 300_000)),
    {"policy": "colours", "text": "a: &a [*a]", "images": ["x"]},
    *({"policy": "colours", "text": "", "images": images} for images in ([[]], ["x"] * 1000)),
    {"policy": "colours", "image": [], "outcome": [], "findings": [[]]},
]  # fmt: skip


@pytest.mark.parametrize("call", ["read", "judge", "save", "keep"])
def test_nonsense_is_refused_and_breaks_nothing(service: Service, call: str) -> None:
    before = text_of(service)
    for data in NONSENSE:
        answer = ask(service, call, data)
        assert answer.status_code in (200, 400, 403, 404, 409, 410, 413, 422), (data, answer.text)
    assert service.post(f"/page-api/{call}", content=b'{"a":1,"a":2}', headers=PAGE).status_code == 400
    assert text_of(service) == before


def test_old_images_make_room(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyguard.server.playground._HELD_IMAGES", 2)
    keys = [
        service.post(f"/page-api/images?name={n}", content=b"%d" % n, headers=PAGE).json()["id"]
        for n in range(3)
    ]
    statuses = [service.get(f"/page-api/images/{key}").status_code for key in keys]
    assert statuses == [410, 422, 422]


def test_a_folder_of_images_that_is_none_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="is not a folder"),
        serving(tmp_path, images=tmp_path / "absent"),
    ):
        pass


def test_a_new_policy_file_that_does_not_load_can_be_mended(service: Service) -> None:
    write(service.folder, "fresh")
    (service.folder / "fresh.yaml").write_text("id: x\n")
    service.state.policies.poll()
    service.state.policies.poll()
    entry = next(policy for policy in start(service)["policies"] if policy["name"] == "fresh")
    assert entry["error"]
    mended = text_of(service)["text"].replace("tests/colours", "tests/fresh")
    key = ids(service)["red.png"]
    answer = ask(service, "judge", {"policy": "fresh", "text": mended, "images": [key]}).json()
    assert answer["images"][0]["changed"] is False, "there is no saved policy to differ from"
    saved = ask(
        service, "save", {"policy": "fresh", "text": mended, "hash": text_of(service, "fresh")["hash"]}
    )
    assert saved.status_code == 200, saved.text
    assert load_policy(service.folder / "fresh.yaml").id == "tests/fresh"


def test_with_keys_the_page_is_for_operators(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    app = new_key(keys, "app", policies=["colours"])
    owner = new_key(keys, "owner", policies=["*"], operator=True)
    (tmp_path / "policies").mkdir()
    with serving(tmp_path / "policies", keys=keys, write=True) as service:
        assert service.get("/").status_code == 200, "it asks for the key itself"
        for path in ("start", "policies/colours", "shadows"):
            for key, status in (("", 401), (app, 403), (owner, 200)):
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                assert service.get(f"/page-api/{path}", headers=headers).status_code == status
        for path in ("read", "judge", "save", "keep", "images"):
            answer = service.post(f"/page-api/{path}", content=b"{}", headers=PAGE | {"X-Api-Key": app})
            assert answer.status_code == 403


def test_an_operator_sees_the_policies_of_its_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    owner = {"Authorization": f"Bearer {new_key(keys, 'owner', policies=['colours'], operator=True)}"}
    (tmp_path / "policies").mkdir()
    write(tmp_path / "policies")
    write(tmp_path / "policies", "other")
    with serving(tmp_path / "policies", keys=keys, write=True) as service:
        listed = service.get("/page-api/start", headers=owner).json()["policies"]
        assert [policy["name"] for policy in listed] == ["colours"]
        assert service.get("/page-api/policies/other", headers=owner).status_code == 403
        for path in ("read", "judge", "save", "keep"):
            assert ask(service, path, {"policy": "other"}, **owner).status_code == 403


def test_the_editor_is_small_and_comes_with_its_licences() -> None:
    page = Path(policyguard.__file__).parent / "server" / "page"
    assert (page / "editor.js").stat().st_size < 450_000
    licences = (page / "editor.LICENCES.txt").read_text()
    build = Path(__file__).parents[2] / "integrations" / "server" / "page"
    wanted = json.loads((build / "package.json").read_text())["devDependencies"]
    bundled = [f"{name} {version} (MIT)" for name, version in wanted.items() if name != "esbuild"]
    assert [line for line in bundled if line not in licences] == []
    assert "registry" not in (build / "package-lock.json").read_text()


NOTES = ["two\nlines", "x" * 2000, "\x07bell", "\ud800", "# not: {a: comment}", "'\"", "=1+1"]


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_a_note_is_written_as_it_is_or_refused(service: Service, note: str) -> None:
    data = {"policy": "colours", "image": ids(service)["red.png"], "outcome": "violates", "note": note}
    answer = ask(service, "keep", data)
    if answer.status_code == 200:
        (image,) = load_cases(service.folder / "cases.yaml").content.images
        assert image.note == " ".join(note.split())
    else:
        assert answer.status_code in (400, 409, 422)
        assert not (service.folder / "cases.yaml").exists()


CASES = [
    "",
    "a: [",
    "policies: 3",
    "images:\n- x",
    "\xff",
    "policies:\n  a: b.yaml\n  a: b.yaml\nimages: []\n",
]


@pytest.mark.parametrize("content", CASES, ids=range(len(CASES)))
def test_a_file_of_cases_that_is_wrong_is_left_alone(service: Service, content: str) -> None:
    file = service.folder / "cases.yaml"
    file.write_bytes(content.encode("latin-1"))
    data = {"policy": "colours", "image": ids(service)["red.png"], "outcome": "violates"}
    answer = ask(service, "keep", data)
    assert (answer.status_code, file.read_bytes()) == (409, content.encode("latin-1"))


def test_an_image_whose_name_no_file_of_cases_may_hold_is_copied(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a: b.png").write_bytes(picture("red"))
    with serving(tmp_path, images=images, write=True) as service:
        data = {"policy": "colours", "image": ids(service)["a: b.png"], "outcome": "violates"}
        assert ask(service, "keep", data).status_code == 200
        (image,) = load_cases(tmp_path / "cases.yaml").content.images
        assert image.image.startswith("cases/")


def test_line_ends_and_texts_that_are_not_utf_8_survive(service: Service) -> None:
    file = service.folder / "colours.yaml"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    loaded = text_of(service)
    assert "\r\n" in loaded["text"]
    edit = loaded["text"] + "# more\r\n"
    assert (
        ask(service, "save", {"policy": "colours", "text": edit, "hash": loaded["hash"]}).status_code == 200
    )
    assert file.read_bytes() == edit.encode()
    file.write_bytes(b"title: \xff\n")
    assert service.get("/page-api/policies/colours").status_code == 422


def test_of_a_folder_with_very_many_images_the_first_are_offered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policyguard.server.playground._MOST_FILES", 2)
    answer = start(service)
    assert (len(answer["images"]), answer["left_out"]) == (2, 1)
