"""Edit pairs: judged, edited, checked, reviewed, written; end to end with the packaged model on PictoSafe."""

from __future__ import annotations

import asyncio
import base64
import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from PIL.Image import Image as PILImage

from policyguard import Guard
from policyguard.assessment import Failure, FailureKind
from policyguard.backends.base import AssessmentRequest
from policyguard.cli import main
from policyguard.errors import ConfigurationError
from policyguard.images import decode
from policyguard.pictosafe.benchmark import Sizes
from policyguard.pictosafe.dataset import make
from policyguard.pictosafe.render import Renderer
from policyguard.pictosafe.rules import is_unsafe, symbolic_level
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.policy import parse_policy
from policyguard.strict.files import sha256_of
from policyguard.testing import FakeBackend
from policyguard.train.data import LabelRow, read_rows
from policyguard.train.importers import import_rows
from policyguard.train.pairs import (
    Candidate,
    Decision,
    EditError,
    Limits,
    Order,
    Report,
    compare,
    export_pairs,
    make_pairs,
    read_candidates,
    read_review,
    review_csv,
    review_page,
)
from policyguard.train.pairs.candidate import Labels
from policyguard.train.pairs.difference import Difference, edit_problem
from policyguard.train.pairs.editors import DiffusersEditor, GeminiEditor, PictoEditor, complying
from policyguard.train.pairs.review import columns
from policyguard.train.pairs.sheet import SCRIPT
from policyguard.train.recaption import Task
from policyguard.train.rows import validate_rows

SIDE = 96
HOUSE = {
    "id": "house",
    "version": "1.0.0",
    "title": "House rules",
    "rules": [{"id": "arms", "title": "Arms", "unsafe": ["weapons"], "safe": ["toys"]}],
}


def scene_picture(knife: bool = True) -> PILImage:
    """Grey, with a red square in a corner where ``knife``."""
    picture = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    if knife:
        picture.paste((250, 0, 0), (8, 8, 32, 32))
    return picture


def redness(request: AssessmentRequest) -> float:
    """How unsafe a picture is: 0.9 with a red corner, 0.1 without."""
    pixel = request.frame.getpixel((16, 16))
    assert isinstance(pixel, tuple)
    return 0.9 if pixel[0] > 200 else 0.1


class Scripted:
    """An editor that does what it is told to in a list of functions, the last one for good."""

    name = "scripted"

    def __init__(self, *steps: Callable[[PILImage], PILImage]) -> None:
        self.steps = list(steps)
        self.orders: list[Order] = []

    async def edit(self, order: Order) -> PILImage:
        self.orders.append(order)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return step(order.frame.copy())

    async def close(self) -> None: ...


def remove(picture: PILImage) -> PILImage:
    picture.paste((90, 90, 90), (8, 8, 32, 32))
    return picture


def repaint(picture: PILImage) -> PILImage:
    return Image.new("RGB", picture.size, (200, 200, 90))


def refuse(picture: PILImage) -> PILImage:
    raise EditError("the provider gave no picture (IMAGE_SAFETY)")


def tasks_in(folder: Path, *pictures: PILImage) -> list[Task]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        copy = picture.copy()
        copy.putpixel((90, 90), (number, 0, 0))
        copy.save(folder / f"{number}.png")
    return [Task(path, "drawn", "CC0-1.0") for path in sorted(folder.iterdir())]


def run(tasks: Sequence[Task], out: Path, editor: Any, answer: Any = redness, **options: Any) -> Report:
    guard = Guard(parse_policy(HOUSE), backend=FakeBackend(answer))
    return asyncio.run(
        make_pairs(tasks, out, guards={"house": guard}, editor=editor, **{"workers": 1} | options)
    )


def test_an_unsafe_image_gets_a_safe_twin_and_a_safe_one_is_left_alone(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path / "in", scene_picture(), scene_picture(knife=False))
    editor = Scripted(remove)
    report = run(tasks, tmp_path / "out", editor)
    assert (report.made, report.complied, report.edits) == (1, 1, 1)
    (pair,) = read_candidates(tmp_path / "out")
    assert pair.labels == {"house": Labels(before="unsafe", after="safe")}
    assert (pair.rules, pair.policy, pair.editor, pair.source) == (["arms"], "house", "scripted", "drawn")
    assert (tmp_path / "out" / pair.before).read_bytes() == tasks[0].path.read_bytes()
    twin = decode(tmp_path / "out" / pair.after).frames[0]
    assert twin.getpixel((16, 16)) == (90, 90, 90)
    assert pair.after == pair.before.replace(".png", "_edited.png")
    assert pair.region == pytest.approx(9 / 144, abs=1e-4)
    assert pair.outside == 0.0
    instruction = editor.orders[0].instruction
    assert "must not show: weapons" in instruction
    assert "may show: toys" in instruction
    assert "What a reviewer saw: scripted" in instruction


def test_a_twin_that_still_violates_and_one_that_is_drawn_anew_are_refused_and_the_editor_is_told(
    tmp_path: Path,
) -> None:
    def recolour(picture: PILImage) -> PILImage:
        picture.paste((250, 90, 90), (8, 8, 32, 32))
        return picture

    editor = Scripted(recolour, repaint, lambda picture: picture, remove)
    report = run(tasks_in(tmp_path / "in", scene_picture()), tmp_path / "out", editor, attempts=4)
    assert (report.made, report.edits) == (1, 4)
    said = [order.instruction.splitlines()[-1] for order in editor.orders[1:]]
    assert "still violates (Arms)" in said[0]
    assert "of the image was changed" in said[1]
    assert "nothing was changed" in said[2]
    assert [order.attempt for order in editor.orders] == [0, 1, 2, 3]


def test_a_twin_that_the_guard_could_not_judge_is_no_twin(tmp_path: Path) -> None:
    def answer(request: AssessmentRequest) -> Any:
        return Failure(FailureKind.ERROR, "down") if redness(request) < 0.5 else 0.9

    report = run(tasks_in(tmp_path / "in", scene_picture()), tmp_path / "out", Scripted(remove), answer)
    assert report.made == 0
    assert "could not judge the twin (down)" in str(report.problems[0])
    assert not (tmp_path / "out").exists()


def test_what_gives_no_pair_is_named_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    tasks = tasks_in(tmp_path / "in", scene_picture(), scene_picture(), scene_picture())
    tasks[1].path.write_bytes(b"no picture")
    tasks[2].path.unlink()
    first = run(tasks, tmp_path / "out", Scripted(refuse))
    said = "\n".join(map(str, first.problems))
    assert "IMAGE_SAFETY" in said
    assert "1.png" in said
    assert "2.png: No such file" in said
    assert run(tasks, tmp_path / "out", Scripted(remove)).made == 1
    third = Scripted(remove)
    assert run(tasks, tmp_path / "out", third).reused == 1
    assert not third.orders


def test_an_animation_has_no_single_picture_to_edit(tmp_path: Path) -> None:
    frames = [scene_picture(), scene_picture(knife=False)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    report = run([Task(tmp_path / "x.gif", "drawn", "CC0-1.0")], tmp_path / "out", Scripted(remove))
    assert "animated or transparent" in str(report.problems[0])


def test_kill_9_in_the_middle_loses_no_finished_pair(tmp_path: Path) -> None:
    tasks_in(tmp_path / "in", *[scene_picture()] * 8)
    script = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import importlib.util
spec = importlib.util.spec_from_file_location("pairs_test", sys.argv[3])
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)
count = 0
def edit(picture):
    global count
    count += 1
    if count == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return test.remove(picture)
tasks = [test.Task(path, "drawn", "CC0-1.0") for path in sorted(Path(sys.argv[4]).iterdir())]
test.run(tasks, Path(sys.argv[5]), test.Scripted(edit))
"""
    root = Path(__file__).parents[2]
    arguments = [root / "src", root / "tests", __file__, tmp_path / "in", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], env=os.environ, check=False)
    assert done.returncode == -9
    assert len(read_candidates(tmp_path / "out")) == 4
    path = tmp_path / "out" / "candidates.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id": "cut sho')
    tasks = [Task(path, "drawn", "CC0-1.0") for path in sorted((tmp_path / "in").iterdir())]
    report = run(tasks, tmp_path / "out", Scripted(remove))
    assert (report.reused, report.made) == (4, 4)
    assert len({pair.id for pair in read_candidates(tmp_path / "out")}) == 8


def test_the_difference_is_measured_where_it_is(tmp_path: Path) -> None:
    before = Image.new("RGB", (100, 60), (100, 100, 100))
    after = before.copy()
    after.paste((200, 100, 100), (40, 16, 56, 32))
    found = compare(before, after)
    assert found.region == pytest.approx(256 / 6000)
    assert found.inside == 100.0
    assert found.outside == 0.0
    assert edit_problem(found, Limits()) is None
    noisy = after.point(lambda value: value + 5)
    assert compare(before, noisy).outside == pytest.approx(5.0)
    assert "outside the edit" in str(edit_problem(compare(before, noisy), Limits()))
    assert edit_problem(compare(before, before), Limits()) == "nothing was changed"
    apart = before.copy()
    apart.paste((0, 0, 0), (0, 0, 8, 8))
    apart.paste((0, 0, 0), (88, 48, 96, 56))
    assert compare(before, apart).box > 10 * compare(before, apart).region
    with pytest.raises(ValueError, match="sizes differ"):
        compare(before, before.resize((50, 30)))


def test_a_whole_new_picture_is_no_local_edit() -> None:
    assert "100% of the image" in str(
        edit_problem(compare(scene_picture(), repaint(scene_picture())), Limits())
    )
    assert edit_problem(Difference(0.2, 0.9, 80.0, 1.0), Limits()) is None


# PictoSafe: the exact editor, and the packaged model as guard.


def unsafe_scenes(level: str, count: int, seed: int = 7) -> list[Scene]:
    random, found = Random(seed), []
    while len(found) < count:
        scene = draw_scene(random, count=(2, 4))
        if is_unsafe(symbolic_level(level), scene):
            found.append(scene)
    return found


def test_the_exact_editor_changes_only_what_offends() -> None:
    level = symbolic_level("pictosafe/l3")
    for scene in unsafe_scenes("pictosafe/l3", 30):
        edited = complying(level, scene, Random(0))
        assert edited is not None
        assert not is_unsafe(level, edited)
        assert (edited.background, edited.gain) == (scene.background, scene.gain)
        for old, new in zip(scene.placements, edited.placements, strict=True):
            assert (old.x, old.y, old.size, old.rotation) == (new.x, new.y, new.size, new.rotation)
            if not is_unsafe(level, Scene((old,), 0, 0, 1.0)):
                assert old == new


def draw(folder: Path, scenes: Sequence[Scene]) -> Path:
    folder.mkdir(parents=True)
    renderer, lines = Renderer("noto"), []
    for number, scene in enumerate(scenes):
        renderer.draw(scene).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "style": "noto", "scene": scene.to_dict()})
    (folder / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "scenes.jsonl"


def test_from_unsafe_scenes_to_reviewed_rows_with_pico_as_the_guard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = draw(tmp_path / "in", unsafe_scenes("pictosafe/l3", 3))
    out = tmp_path / "out"
    command = [
        *(
            "train",
            "pairs",
            str(tmp_path / "in"),
            str(out),
            "--policy",
            "pictosafe/l3",
            "--also",
            "pictosafe/l1",
        ),
        *("--also", "pictosafe/l5", "--editor", "pictosafe", "--scenes", str(scenes), "--thumbnails"),
        *("--source", "PictoSafe", "--licence", "Apache-2.0"),
    ]
    code = main(command)
    said = capsys.readouterr()
    pairs = read_candidates(out)
    assert code == (0 if len(pairs) == 3 else 1), said.err
    assert len(pairs) >= 2  # the guard is a model, and may miss one
    for pair in pairs:
        assert pair.labels["pictosafe/l3"] == Labels(before="unsafe", after="safe")
        assert pair.labels["pictosafe/l1"] == Labels(before="safe", after="safe")
        assert 0 < pair.region <= 0.35
        assert pair.outside < 1.0
    assert (out / "review.html").read_text().count("<img") == 2 * len(pairs)

    assert main(["train", "pairs-rows", str(out)]) == 2  # nobody has decided anything
    assert "no pair is accepted" in capsys.readouterr().err
    text = (out / "review.csv").read_text()
    rows = list(csv.reader(io.StringIO(text)))
    for row in rows[1:]:
        row[1] = "accept"
    rows[1][1] = "reject"
    rows[2][rows[0].index("after: pictosafe/l5")] = ""
    with (out / "review.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert main(["train", "pairs-rows", str(out)]) == 0
    printed = capsys.readouterr().out
    kept = len(pairs) - 1
    assert f"{6 * kept - 1} rows of {kept} accepted pairs; 1 were rejected" in printed
    assert not validate_rows(out / "rows.jsonl").problems
    read = read_rows(out / "rows.jsonl", LabelRow).rows
    assert {
        len({row.sha256 for row in read if row.pair_id == pair}) for pair in {r.pair_id for r in read}
    } == {2}
    unsafe = next(row for row in read if row.policy == "pictosafe/l3" and row.label == "unsafe")
    assert unsafe.category in (unsafe.violations or ())

    bench = [json.loads(line) for line in (out / "safeedit.jsonl").read_text().splitlines()]
    assert set(bench[0]) == {"image_path", "safety_label", "policy", "policy_level"}
    assert {row["policy_level"] for row in bench} == {"L1", "L3", "L5"}

    assert main(command) == code  # decisions survive another run
    assert read_review(out / "review.csv", pairs)[0][0].choice == "reject"


def test_rows_of_safeeditbench_s_shape_can_be_imported_again(tmp_path: Path) -> None:
    run(tasks_in(tmp_path / "in", scene_picture()), tmp_path / "out", Scripted(remove))
    (pair,) = read_candidates(tmp_path / "out")
    labels = {"safeedit/l3": Labels(before="unsafe", after="safe")}
    candidate = pair.model_copy(update={"labels": labels, "policy": "safeedit/l3", "rules": []})
    (tmp_path / "out" / "candidates.jsonl").write_text(candidate.model_dump_json(exclude_none=True) + "\n")
    export_pairs(tmp_path / "out", [Decision(pair.id, "accept", labels)])
    import_rows("safeedit", tmp_path / "out" / "safeedit.jsonl", tmp_path / "again")
    ours = read_rows(tmp_path / "out" / "rows.jsonl", LabelRow).rows
    again = read_rows(tmp_path / "again" / "rows.jsonl", LabelRow).rows
    assert [(row.sha256, row.label, row.policy) for row in ours] == [
        (row.sha256, row.label, row.policy) for row in again
    ]
    assert len({row.pair_id for row in again}) == 1


# The review.


def candidates(count: int = 3, policies: Sequence[str] = ("house", 'odd, "policy"')) -> list[Candidate]:
    return [
        Candidate(
            id=f"pair-{number}", before=f"images/{number}.png", after=f"images/{number}_edited.png",
            before_sha256="a" * 64, after_sha256="b" * 64, source="drawn", licence="CC0-1.0",
            policy=policies[0], rules=["arms"],
            labels={name: Labels(before="unsafe", after="safe") for name in policies},
            editor="<b>scripted</b>", guard="fake", instruction="x", attempts=1,
            region=0.1, box=0.1, inside=50.0, outside=0.0,
        )
        for number in range(count)
    ]  # fmt: skip


def test_a_review_round_trips_through_csv(tmp_path: Path) -> None:
    pairs = candidates()
    decisions = [
        Decision("pair-0", "accept", pairs[0].labels, 'fine, "really"\nyes'),
        Decision("pair-1", "reject", {name: Labels(before="safe", after=None) for name in pairs[1].labels}),
        Decision("pair-2", "", pairs[2].labels),
    ]
    path = tmp_path / "review.csv"
    path.write_bytes(review_csv(pairs, decisions).encode())
    read, problems = read_review(path, pairs)
    assert not problems
    assert read == decisions
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as a spreadsheet saves it
    assert read_review(path, pairs)[0] == decisions


def test_wrong_lines_of_a_review_are_named_and_decide_nothing(tmp_path: Path) -> None:
    pairs = candidates(policies=("house",))
    path = tmp_path / "review.csv"
    head = "pair,decision,before: house,after: house,note\r\n"
    path.write_text(
        head + "pair-0,accept,unsafe,safe,\r\npair-0,reject,unsafe,safe,\r\npair-9,accept,,,\r\n"
        "pair-1,maybe,,,\r\npair-2,accept,unsafe,dangerous,\r\npair-1,accept\r\n"
    )
    decisions, problems = read_review(path, pairs)
    assert not decisions
    assert [(problem.line, problem.field) for problem in problems] == [
        (2, "pair"), (3, "pair"), (4, "pair"), (5, "decision"), (6, "after: house"), (7, "pair"),
    ]  # fmt: skip
    for text, said in (
        ("a,b\r\n1,2\r\n", "lacks the columns pair, decision(.|\n)*review the sheet"),
        ("", "lacks the columns pair, decision"),
        (head.replace(",", ";"), "lacks the columns(.|\n)*save it with commas"),
        (head.replace("note", "note,decision"), "the column 'decision' appears twice"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=said):
            read_review(path, pairs)


def test_a_note_is_no_formula_in_a_spreadsheet_and_comes_back_as_it_was(tmp_path: Path) -> None:
    pairs = candidates()
    notes = ["=HYPERLINK(1)", "+1", "-1", "@x", "'=x", "a=b"]
    for note in notes:
        text = review_csv(pairs, [Decision("pair-0", "", pairs[0].labels, note)])
        (tmp_path / "r.csv").write_bytes(text.encode())
        cell = next(csv.DictReader(io.StringIO(text)))["note"]
        assert cell[0] not in "=+-@"
        assert read_review(tmp_path / "r.csv", pairs)[0][0].note == note


def test_the_sheet_escapes_everything_allows_only_its_own_script_and_shows_pictures_only_on_request(
    tmp_path: Path,
) -> None:
    page = review_page(candidates(), [], tmp_path)
    assert "<b>scripted" not in page
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert re.search(r"script-src 'sha256-[\w+/=]+'", html.unescape(page))
    assert "default-src 'none'" in html.unescape(page)


STUB = """
function element(extra) { return Object.assign({dataset: {}, classList: {add() {}, remove() {},
  contains() { return false; }}, scrollIntoView() {}, closest() { return null; }}, extra); }
function label(column, value) {
  return element({textContent: value, className: "label", dataset: {column}});
}
const policies = COLUMNS.slice(2, -1).filter((_, i) => i % 2 === 0).map(name => name.slice(8));
const articles = PAIRS.map(id => {
  const labels = policies.flatMap(p => [label("before: " + p, "unsafe"), label("after: " + p, "safe")]);
  const cells = side => labels.filter(l => l.dataset.column.startsWith(side))
    .map(l => ({querySelector: () => l}));
  return element({id, dataset: {decision: ""}, note: {value: ""},
    querySelectorAll: s => s === ".label" ? labels : s === ".before" ? cells("before")
      : s === ".after" ? cells("after") : [],
    querySelector(s) { return this.note; }});
});
const on = {};
const page = {
  querySelectorAll: s => s === "article" ? articles : COLUMNS.map(textContent => ({textContent})),
  querySelector: () => ({}), addEventListener: (name, f) => { on[name] = f; },
};
const sheet = start(page, {});
const press = (key, code, shiftKey) => on.keydown({key, code: code || "", shiftKey: !!shiftKey,
  target: {}, preventDefault() {}});
press("1", "Digit1"); press("a"); press("@", "Digit2", true); press("r");
articles[2].note.value = '=a "note", with\\nlines';
process.stdout.write(toCsv(sheet.head, sheet.rows()));
"""


def test_the_sheet_s_keys_accept_reject_relabel_and_save_the_csv_that_we_read(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    pairs = candidates()
    told = f"const COLUMNS = {json.dumps(columns(pairs))}, PAIRS = {json.dumps([pair.id for pair in pairs])};"
    (tmp_path / "sheet.js").write_text(SCRIPT + told + STUB)
    done = subprocess.run([node, str(tmp_path / "sheet.js")], capture_output=True, check=True)
    (tmp_path / "review.csv").write_bytes(done.stdout)
    read, problems = read_review(tmp_path / "review.csv", pairs)
    assert not problems
    first, second, third = read
    odd = 'odd, "policy"'
    assert (first.choice, first.labels["house"]) == ("accept", Labels(before="unsafe", after="unsafe"))
    assert (second.choice, second.labels[odd]) == ("reject", Labels(before=None, after="safe"))
    assert (third.choice, third.note) == ("", '=a "note", with\nlines')
    assert done.stdout.decode() == review_csv(pairs, read)


def test_an_accepted_pair_that_does_not_turn_is_said(tmp_path: Path) -> None:
    run(tasks_in(tmp_path / "in", scene_picture()), tmp_path / "out", Scripted(remove))
    (pair,) = read_candidates(tmp_path / "out")
    same = {"pictosafe/l1": Labels(before="safe", after="safe")}
    found = export_pairs(tmp_path / "out", [Decision(pair.id, "accept", same)])
    assert found.unturned == [pair.id]


# Editors.


def order() -> Order:
    return Order(scene_picture(), "0" * 64, parse_policy(HOUSE).resolve(), ("arms",), "Take the knife away.")


class Gemini(ThreadingHTTPServer):
    """Speaks ``:generateContent``; answers with the twin, or with what ``answer`` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), GeminiHandler)
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.answer: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1beta"


class GeminiHandler(BaseHTTPRequestHandler):
    server: Gemini

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("x-goog-api-key")))
        answer = self.server.answer
        if answer is None:
            data = body["contents"][0]["parts"][0]["inlineData"]["data"]
            buffer = io.BytesIO()
            remove(decode(base64.b64decode(data)).frames[0].copy()).save(buffer, "PNG")
            image = {"mimeType": "image/png", "data": base64.b64encode(buffer.getvalue()).decode()}
            parts = [{"text": "Here it is."}, {"inlineData": image}]
            answer = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
        payload = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def gemini() -> Iterator[Gemini]:
    with Gemini() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def edit_by_gemini(server: Gemini) -> PILImage:
    async def once() -> PILImage:
        editor = GeminiEditor(api_key="k3y", base_url=server.url, attempts=1, timeout=100.0)
        try:
            return await editor.edit(order())
        finally:
            await editor.close()

    return asyncio.run(once())


def test_gemini_gets_picture_and_instruction_and_its_picture_is_the_twin(gemini: Gemini) -> None:
    assert edit_by_gemini(gemini).tobytes() == scene_picture(knife=False).tobytes()
    ((path, body, key),) = gemini.asked
    assert path == "/v1beta/models/gemini-2.5-flash-image:generateContent"
    assert key == "k3y"
    assert body["contents"][0]["parts"][1] == {"text": "Take the knife away."}
    assert body["generationConfig"]["responseModalities"] == ["TEXT", "IMAGE"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"candidates": [{"finishReason": "IMAGE_SAFETY"}]}, "IMAGE_SAFETY"),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "PROHIBITED_CONTENT"),
        ({"candidates": [{"content": {"parts": [{"text": "No."}]}, "finishReason": "STOP"}]}, "STOP"),
        ({"candidates": [{"content": {"parts": [{"inlineData": {"data": "!!"}}]}}]}, "not of the form"),
        (
            {"candidates": [{"content": {"parts": [{"inlineData": {"data": "AAAA"}}]}}]},
            "cannot be opened|opened",
        ),
        ({"candidates": ["x"]}, "not of the form"),
        ({}, "no reason given"),
    ],
)
def test_an_answer_of_gemini_without_a_picture_is_an_edit_error_with_its_reason(
    gemini: Gemini, answer: dict[str, Any], said: str
) -> None:
    gemini.answer = answer
    with pytest.raises(EditError, match=said):
        edit_by_gemini(gemini)


def test_gemini_without_a_key_is_a_wrong_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError) as caught:
        GeminiEditor()
    assert "GEMINI_API_KEY" in str(caught.value.hint)


class Pipeline:
    """The call of a diffusers editing pipeline, without the diffusion."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *, image: PILImage, prompt: str, generator: Any, num_inference_steps: int = 50) -> Any:
        self.calls.append({"prompt": prompt, "seed": generator.initial_seed(), "steps": num_inference_steps})
        if isinstance(self.result, Exception):
            raise self.result
        return SimpleNamespace(images=[self.result(image.copy()) if callable(self.result) else self.result])


def test_a_diffusers_pipeline_is_called_as_they_are_called_with_a_seed_per_attempt() -> None:
    pipeline = Pipeline(remove)
    editor = DiffusersEditor("x/edit", pipeline=pipeline, options={"num_inference_steps": 4}, seed=10)
    assert asyncio.run(editor.edit(order())).getpixel((16, 16)) == (90, 90, 90)
    asyncio.run(editor.edit(order().again("too much")))
    assert [(call["seed"], call["steps"]) for call in pipeline.calls] == [(10, 4), (11, 4)]


@pytest.mark.parametrize(
    ("result", "said"),
    [(RuntimeError("CUDA out of memory"), "out of memory"), ("no picture", "no PIL image")],
)
def test_what_goes_wrong_in_a_pipeline_is_an_edit_error(result: Any, said: str) -> None:
    with pytest.raises(EditError, match=said):
        asyncio.run(DiffusersEditor("x/edit", pipeline=Pipeline(result)).edit(order()))


def test_the_exact_editor_refuses_pictures_policies_and_files_that_it_does_not_know(tmp_path: Path) -> None:
    scenes = draw(tmp_path / "in", unsafe_scenes("pictosafe/l3", 1))
    editor = PictoEditor.from_path(scenes)
    with pytest.raises(EditError, match="not known"):
        asyncio.run(editor.edit(order()))
    scenes.write_text('{"image": "0.png"}\n')
    with pytest.raises(ConfigurationError, match="line 1"):
        PictoEditor.from_path(scenes)


def test_the_exact_editor_knows_every_picture_of_a_benchmark_folder(tmp_path: Path) -> None:
    make(tmp_path / "bench", sizes=Sizes(scenes=4, pairs=4, held_out=2))
    editor = PictoEditor.from_path(tmp_path / "bench")
    pictures = sorted((tmp_path / "bench" / "images").iterdir())
    assert {sha256_of(path) for path in pictures} == set(editor._scenes)


@pytest.mark.parametrize("missing", [["--editor", "pictosafe"], ["--editor", "diffusers"]])
def test_an_editor_that_lacks_something_is_said_before_anything_is_written(
    tmp_path: Path, missing: list[str]
) -> None:
    tasks_in(tmp_path / "in", scene_picture())
    told = ["--policy", "pictosafe/l3", "--source", "x", "--licence", "y"]
    assert main(["train", "pairs", str(tmp_path / "in"), str(tmp_path / "out"), *told, *missing]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("folder", "options", "said"),
    [
        ("out", ["--max-region", "-1"], "--max-region: expected a share"),
        ("out", ["--max-outside", "nan"], "--max-outside: expected levels"),
        ("in/0.png", [], "FOLDER: {0}/in/0.png is a file"),
    ],
)
def test_a_wrong_bound_or_place_is_said_before_anything_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, options: list[str], said: str
) -> None:
    tasks_in(tmp_path / "in", scene_picture())
    told = ["--policy", "pictosafe/l3", "--source", "x", "--licence", "y", "--editor", "pictosafe"]
    told += ["--scenes", "none", *options]
    assert main(["train", "pairs", str(tmp_path / "in"), str(tmp_path / folder), *told]) == 2
    assert said.format(tmp_path) in capsys.readouterr().err


def test_more_wrong_lines_than_are_shown_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = candidates()
    (tmp_path / "candidates.jsonl").write_text("".join(f"{pair.model_dump_json()}\n" for pair in pairs))
    text = review_csv(pairs, []) + "pair-x,accept,,,,,\r\n" * 24
    (tmp_path / "review.csv").write_text(text)
    assert main(["train", "pairs-rows", str(tmp_path)]) == 2
    assert "note: and 4 more" in capsys.readouterr().err
