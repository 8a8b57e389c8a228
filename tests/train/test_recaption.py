"""Recaption: two steps per image, checked, one finished row after the other on the disk."""

from __future__ import annotations

import asyncio
import base64
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
from typing import Any

import pytest
from PIL import Image

from policyguard.cli import main
from policyguard.errors import ConfigurationError
from policyguard.images import decode
from policyguard.train.data import CaptionRow, passes_judgement, read_rows
from policyguard.train.recaption import REQUEST, Message, Report, ScriptedChat, Task, recaption, sample_page
from policyguard.train.recaption.chat import ChatError, OpenAIChat, Reply, ServerDownError
from policyguard.train.recaption.checks import caption_problem, edit_problem, is_refusal, kept_share
from policyguard.train.recaption.local_chat import LocalChat
from policyguard.train.recaption.prompts import edit_request
from policyguard.train.recipe import Checks

MINIMAL = Checks(min_kept=0.6, min_growth=0.8, max_growth=2.0)
BASE = "A person holds an object in a dim room with a brown table and two chairs."
EDIT = "A person holds a bloody knife in a dim room with a brown table and two chairs."
ROOT = Path(__file__).parents[2]


def images(folder: Path, count: int) -> list[Task]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:02}.png")
    return [Task(path, "drawn", "CC0-1.0") for path in sorted(folder.glob("*.png"))]


def run(tasks: Sequence[Task], out: Path, base: Any = None, edit: Any = None, **options: Any) -> Report:
    captioner = ScriptedChat(base or (lambda messages, seed: BASE), model="base")
    editor = ScriptedChat(edit or (lambda messages, seed: EDIT), model="frank")
    settings = {"mode": "minimal", "request": REQUEST, "checks": MINIMAL, "workers": 3} | options
    return asyncio.run(recaption(tasks, out, captioner=captioner, editor=editor, **settings))


def rows_of(out: Path) -> list[CaptionRow]:
    read = read_rows(out, CaptionRow)
    assert not read.problems
    return list(read.rows)


def test_each_image_gets_a_row_with_both_captions_and_where_they_come_from(tmp_path: Path) -> None:
    report = run(images(tmp_path / "in", 5), tmp_path / "rows" / "captions.jsonl")
    rows = rows_of(report.out)
    assert len(rows) == 5
    row = rows[0]
    assert (row.caption, row.base_caption, row.status, row.mode) == (EDIT, BASE, "edited", "minimal/1")
    assert (row.captioner, row.editor, row.prompt, row.source) == ("base", "frank", REQUEST, "drawn")
    assert (report.out.parent / row.image).is_file()
    assert row.kept_share == pytest.approx(14 / 16, abs=1e-4)
    assert report.tokens["frank", "out"] == 5 * len(EDIT.split())


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with describing this image.",
        "Sorry, I can't describe it.",
        "As an AI, I do not describe such things.",
        "I am unable to provide a description of it.",
        "Unfortunately I can't say what it shows.",
        "I won't describe this.",
        "I cannot respond to this content due to safety policies.",
    ],
)
def test_a_refusal_is_found(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        "A sorry sight: a man lies on the ground, unable to stand.",
        "A sign reads: we cannot help you here. A child looks at it.",
        "A safe stands in the corner beside an unsafe ladder.",
    ],
)
def test_a_description_is_no_refusal(text: str) -> None:
    if "we cannot help" not in text:  # words on a sign may look like one; then the attempt is repeated
        assert not is_refusal(text)
    assert passes_judgement(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("Knife.", "empty"),
        ("I'm sorry, I cannot help with this image.", "a refusal"),
        (BASE + " This picture violates the policy.", "passes judgement"),
        (BASE + " Unsafe.", "passes judgement"),
        (BASE + " <|im_end|>", "holds control tokens or hidden characters"),
        (BASE + " \u202egnp", "holds control tokens or hidden characters"),
        ("word " * 7000, "too long"),
    ],
)
def test_what_is_wrong_with_a_caption_has_a_name(text: str, fault: str) -> None:
    assert caption_problem(Reply(text)) == fault


def test_an_answer_that_was_cut_short_is_no_caption() -> None:
    assert caption_problem(Reply(BASE, cut=True)) == "cut short"


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (EDIT, None),
        (BASE, None),
        ("A person holds a bloody knife.", "shrunk"),
        (f"{BASE} {EDIT} {EDIT}", "grown"),
        (
            "Somebody bleeding is shown near furniture while another one flees from there quickly.",
            "kept too little",
        ),
        (" ".join(reversed(BASE.split())), "kept too little"),
    ],
)
def test_an_edit_must_stay_close_to_the_base_caption(edit: str, fault: str | None) -> None:
    assert edit_problem(BASE, Reply(edit), MINIMAL) == fault


def test_kept_share_counts_words_in_order() -> None:
    assert kept_share("a b c d", "a x b d") == 0.75
    assert kept_share("a b", "b a") == 0.5
    assert kept_share("A, b!", "a b") == 1.0


def test_the_two_modes_ask_for_what_the_paper_s_two_texts_ask_for() -> None:
    picture = Image.new("RGB", (8, 8))
    (minimal,) = edit_request("minimal", BASE, picture)
    (supplement,) = edit_request("supplement", BASE, picture)
    assert "fewest changes" in minimal.text
    assert "neutral" in minimal.text
    assert "leave out what has nothing to do" in supplement.text
    assert all(message.text.endswith(BASE) and message.frame is picture for message in (minimal, supplement))


def test_an_edit_that_fails_is_tried_again_with_another_seed_and_then_the_base_caption_is_kept_and_marked(
    tmp_path: Path,
) -> None:
    seeds: list[int] = []

    def edit(messages: Sequence[Message], seed: int) -> str:
        seeds.append(seed)
        pixel = messages[0].frame.getpixel((0, 0))  # type: ignore[union-attr]
        return EDIT if pixel == (0, 0, 0) and len(set(seeds)) > 1 else "I cannot help with that."

    report = run(images(tmp_path / "in", 2), tmp_path / "out.jsonl", edit=edit, workers=1)
    first, second = rows_of(report.out)
    assert (first.status, first.caption) == ("edited", EDIT)
    assert (second.status, second.caption, second.kept_share) == ("kept", BASE, 1.0)
    assert report.rejected["edit a refusal"] == 4
    assert len(set(seeds)) == len(seeds)


def test_an_image_that_the_base_model_refuses_is_named_and_has_no_row(tmp_path: Path) -> None:
    def base(messages: Sequence[Message], seed: int) -> str:
        return "I'm sorry, I can't." if messages[0].frame.getpixel((0, 0)) == (1, 0, 0) else BASE  # type: ignore[union-attr]

    report = run(images(tmp_path / "in", 3), tmp_path / "out.jsonl", base=base)
    assert len(rows_of(report.out)) == 2
    assert "01.png: base gave no base caption: a refusal" in str(report.problems[0])


def test_missing_and_broken_images_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    tasks = images(tmp_path / "in", 3)
    tasks[0].path.unlink()
    tasks[1].path.write_bytes(b"no picture")
    changed = Task(tasks[2].path, "drawn", "CC0-1.0", sha256="0" * 64)
    report = run([*tasks, changed], tmp_path / "out.jsonl")
    assert len(rows_of(report.out)) == 1
    said = "\n".join(map(str, report.problems))
    assert "00.png" in said
    assert "01.png" in said
    assert "is not the one that `sha256` names" in said


def test_a_second_run_asks_only_about_what_is_not_done(tmp_path: Path) -> None:
    tasks = images(tmp_path / "in", 6)
    run(tasks[:4], tmp_path / "out.jsonl")
    asked: list[int] = []
    report = run(tasks, tmp_path / "out.jsonl", edit=lambda messages, seed: asked.append(seed) or EDIT)
    assert len(asked) == 2
    assert (report.reused, report.statuses["edited"]) == (4, 2)
    assert len({row.sha256 for row in rows_of(report.out)}) == 6


def test_the_same_picture_under_two_names_is_captioned_once(tmp_path: Path) -> None:
    tasks = images(tmp_path / "in", 1)
    other = tmp_path / "in" / "again.png"
    other.write_bytes(tasks[0].path.read_bytes())
    run([*tasks, Task(other, "drawn", "CC0-1.0")], tmp_path / "out.jsonl")
    assert len(rows_of(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize("change", [{"mode": "supplement"}, {"request": "What does it show?"}])
def test_captions_of_another_kind_are_not_gone_on_with(tmp_path: Path, change: dict[str, str]) -> None:
    tasks = images(tmp_path / "in", 2)
    run(tasks[:1], tmp_path / "out.jsonl")
    with pytest.raises(ConfigurationError, match="name another file") as caught:
        run(tasks, tmp_path / "out.jsonl", **change)
    assert "edited by frank" in str(caught.value)
    assert len(rows_of(tmp_path / "out.jsonl")) == 1


def test_a_line_that_a_kill_cut_short_is_done_again_and_a_line_that_is_no_row_stops_the_run(
    tmp_path: Path,
) -> None:
    tasks, out = images(tmp_path / "in", 3), tmp_path / "out.jsonl"
    run(tasks, out)
    whole = out.read_bytes()
    out.write_bytes(whole[:-40])
    assert run(tasks, out).statuses["edited"] == 1
    assert len(rows_of(out)) == 3
    out.write_bytes(whole + b"{}\n")
    with pytest.raises(ConfigurationError, match="not rows"):
        run(tasks, out)
    assert out.read_bytes() == whole + b"{}\n"


def test_kill_9_in_the_middle_loses_no_finished_row(tmp_path: Path) -> None:
    tasks = images(tmp_path / "in", 20)
    out = tmp_path / "out.jsonl"
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
from policyguard.train.recaption import REQUEST, ScriptedChat, Task, recaption
from policyguard.train.recipe import Checks
count = 0
def edit(messages, seed):
    global count
    count += 1
    if count == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return {EDIT!r}
tasks = [Task(path, "drawn", "CC0-1.0") for path in sorted(Path(sys.argv[1]).glob("*.png"))]
asyncio.run(recaption(tasks, Path(sys.argv[2]), captioner=ScriptedChat(lambda m, s: {BASE!r}, model="base"),
    editor=ScriptedChat(edit, model="frank"), mode="minimal", request=REQUEST, checks=Checks(),
    workers=1))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", script, str(tmp_path / "in"), str(out)]
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert len(rows_of(out)) == 8
    report = run(tasks, out)
    assert (report.reused, report.statuses["edited"]) == (8, 12)
    assert len({row.sha256 for row in rows_of(out)}) == 20


def test_a_server_that_is_down_stops_the_job_after_a_few_images_and_finished_rows_stay(
    tmp_path: Path,
) -> None:
    calls = 0

    def edit(messages: Sequence[Message], seed: int) -> str:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise ServerDownError("the connection to gpu:8000 failed")
        return EDIT

    with pytest.raises(ConfigurationError, match="gpu:8000") as caught:
        run(images(tmp_path / "in", 20), tmp_path / "out.jsonl", edit=edit, workers=1)
    assert calls == 5
    assert "2 finished rows" in str(caught.value.hint)
    assert len(rows_of(tmp_path / "out.jsonl")) == 2


def test_no_more_images_are_worked_on_at_once_than_asked_for(tmp_path: Path) -> None:
    running, most = 0, 0

    class Slow(ScriptedChat):
        async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.002)
            running -= 1
            return Reply(BASE)

    chat = Slow(lambda messages, seed: BASE)
    asyncio.run(
        recaption(
            images(tmp_path / "in", 12), tmp_path / "out.jsonl", captioner=chat, editor=chat, mode="minimal",
            request=REQUEST, checks=MINIMAL, workers=4,
        )
    )  # fmt: skip
    assert most == 4


def test_the_page_is_self_contained_escapes_what_models_say_and_shows_pictures_only_on_request(
    tmp_path: Path,
) -> None:
    attack = f"{EDIT} <script>alert(1)</script> <img src=http://evil/x> \u200b"
    row = CaptionRow(
        image="in/00.png", sha256="0" * 64, source="drawn", licence="CC0-1.0", prompt=REQUEST,
        caption=attack, base_caption=BASE, status="edited", kept_share=0.9,
    )  # fmt: skip
    images(tmp_path / "in", 1)
    plain = sample_page([row] * 3, tmp_path, count=2)
    assert "<script" not in plain
    assert "<img" not in plain
    assert "\u200b" not in plain
    assert "<ins>bloody knife</ins>" in plain or "<ins>a bloody knife</ins>" in plain
    assert "2 of 3 rows" in plain
    shown = sample_page([row], tmp_path, images=True)
    assert len(re.findall("<img", shown)) == 1
    assert "blur(14px)" in shown
    assert not re.findall(r'(?:src|href)="(?!data:)', shown)


# Over HTTP, against a loopback server that speaks chat completions.


class Model(ThreadingHTTPServer):
    """Answers as the base model or as the editor, by the name asked for; ``faults`` come first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.faults: list[Callable[[BaseHTTPRequestHandler], None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.server.faults:
            self.server.faults.pop(0)(self)
            return
        parts = body["messages"][0]["content"]
        data = base64.b64decode(parts[0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert decode(data).size == (8, 8)
        text = BASE if body["model"] == "base" else EDIT
        self.answer(
            200,
            {
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 50, "completion_tokens": 20},
            },
        )

    def answer(self, status: int, data: object, **headers: str) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Model]:
    with Model() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server_url: str, **options: Any) -> Reply:
    async def once() -> Reply:
        chat = OpenAIChat("base", server_url, **{"first_wait": 0.01, "timeout": 100.0} | options)
        try:
            return await chat.reply([Message("user", "Describe.", Image.new("RGB", (8, 8)))], seed=7)
        finally:
            await chat.close()

    return asyncio.run(once())


def fault(status: int, data: object = None, **headers: str) -> Callable[[Any], None]:
    return lambda handler: handler.answer(
        status, {"error": {"message": "no"}} if data is None else data, **headers
    )


def test_a_chat_over_http_sends_picture_sampling_and_seed_and_counts_tokens(server: Model) -> None:
    reply = ask(server.url, temperature=0.7, max_tokens=99, api_key="secret")
    assert reply == Reply(BASE, 50, 20)
    (body,) = server.asked
    assert (body["temperature"], body["max_tokens"], body["seed"], body["model"]) == (0.7, 99, 7, "base")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(server: Model, status: int) -> None:
    server.faults += [fault(status), fault(200, b"not json")]
    assert ask(server.url).text == BASE
    assert len(server.asked) == 3


def test_retries_end(server: Model) -> None:
    server.faults += [fault(503)] * 9
    with pytest.raises(ServerDownError, match="also after 3 attempts"):
        ask(server.url, attempts=3)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 404, 307])
def test_a_wrong_set_up_is_said_at_once_without_the_key(server: Model, status: int) -> None:
    server.faults.append(fault(status, {"error": {"message": "bad key hunter2"}}, Location="http://x/"))
    with pytest.raises(ConfigurationError) as caught:
        ask(server.url, api_key="hunter2")
    assert "hunter2" not in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"choices": []},
        {"choices": [{"message": {"content": None}}]},
        {"choices": "x"},
        {"choices": [None]},
    ],
)
def test_an_answer_without_a_text_is_this_picture_s_problem(server: Model, data: object) -> None:
    server.faults.append(fault(200, data))
    with pytest.raises(ChatError, match="holds no text"):
        ask(server.url)


def test_an_answer_without_end_is_not_read_to_its_end(server: Model) -> None:
    server.faults.append(fault(200, b" " * (9 << 20)))
    with pytest.raises(ChatError, match="longer than 8 MiB"):
        ask(server.url)


def test_a_server_that_never_answers_is_given_up(server: Model) -> None:
    gate = threading.Event()
    server.faults += [lambda handler: gate.wait() and None] * 2
    try:
        with pytest.raises(ServerDownError, match="did not answer within"):
            ask(server.url, timeout=0.2, attempts=2)
    finally:
        gate.set()


def recipe(tmp_path: Path, url: str, **changes: Any) -> Path:
    chat = {"base_url": url, "attempts": 1, "timeout": 100.0}
    values = {
        "stage": "recaption",
        "out": str(tmp_path / "captions.jsonl"),
        "images": {"folder": str(tmp_path / "in"), "source": "drawn", "licence": "CC0-1.0"},
        "captioner": {"model": "base"} | chat,
        "editor": {"model": "frank"} | chat,
        "mode": "minimal",
    } | changes
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(values))
    return path


def test_the_command_captions_a_folder_over_a_server_and_writes_rows_that_sft_reads_and_a_page(
    tmp_path: Path, server: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "in", 4)
    path = recipe(tmp_path, server.url)
    assert main(["train", "recaption", str(path), "--dry-run"]) == 0
    assert "4 images, edited in mode 'minimal'" in capsys.readouterr().out
    assert not server.asked
    page = tmp_path / "page.html"
    assert main(["train", "recaption", str(path), "--page", str(page), "--thumbnails"]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 images captioned" in said
    assert "frank: 200 tokens read, 80 written" in said
    assert len(rows_of(tmp_path / "captions.jsonl")) == 4
    assert page.read_text().count("<img") == 4
    assert main(["train", "validate", str(tmp_path / "captions.jsonl")]) == 0


def test_the_command_takes_images_and_provenance_from_label_rows(tmp_path: Path, server: Model) -> None:
    from support.training import label_rows

    rows = label_rows(tmp_path / "data", count=2)
    for path in (tmp_path / "data" / "images").iterdir():
        decode(path).frames[0].resize((8, 8)).save(path)
    from policyguard.strict.files import sha256_of

    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for line in lines:
        line["sha256"] = sha256_of(tmp_path / "data" / line["image"])
        line["split"] = "test"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = recipe(tmp_path, server.url, images={"rows": str(rows)})
    assert main(["train", "recaption", str(path)]) == 0
    captions = rows_of(tmp_path / "captions.jsonl")
    assert {row.split for row in captions} == {"test"}
    assert {row.sha256 for row in captions} == {line["sha256"] for line in lines}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": {"folder": "/none", "source": "x", "licence": "y"}}, "no images"),
        ({"images": {"folder": "in"}}, "where the images come from"),
        ({"images": {}}, "either `rows` or a `folder`"),
        ({"images": {"rows": "/none.jsonl"}}, "cannot be read"),
        ({"request": "Is this picture safe?"}, "asks for a judgement"),
        ({"mode": "gentle"}, "mode"),
        ({"captoiner": {}}, "did you mean `captioner:`"),
        ({"checks": {"min_growth": 3.0}}, "min_growth is over max_growth"),
        ({"editor": {"model": "x", "base_url": "ftp://x"}}, "editor.base_url is not an http or https"),
        ({"captioner": {"model": "x", "base_url": "none"}}, "in this process, captioner.base_url=null"),
    ],
)
def test_mistakes_in_a_recipe_are_said_before_a_model_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    images(tmp_path / "in", 1)
    assert main(["train", "recaption", str(recipe(tmp_path, "http://127.0.0.1:9/v1", **changes))]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "captions.jsonl").exists()


def test_a_dead_server_ends_the_command_with_2_and_no_half_written_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "in", 8)
    assert main(["train", "recaption", str(recipe(tmp_path, "http://127.0.0.1:9/v1"))]) == 2
    assert "start the same command again" in capsys.readouterr().err
    assert not (tmp_path / "captions.jsonl").exists()


def test_a_local_model_answers_through_its_chat_template() -> None:
    from support.tiny_models import tiny_model

    chat = LocalChat(str(tiny_model("qwen2_5_vl")), max_tokens=4, device="cpu", dtype="float32")
    messages = [Message("user", "Describe.", Image.new("RGB", (64, 64), "red"))]
    first, again, other = (asyncio.run(chat.reply(messages, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first.cut
    assert first.answer_tokens == 4
    assert (first.prompt_tokens or 0) > 10


def test_a_local_model_without_a_chat_template_is_refused_before_the_first_picture(tmp_path: Path) -> None:
    from support.tiny_models import tiny_model

    folder = tmp_path / "model"
    shutil.copytree(tiny_model("qwen2_5_vl"), folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigurationError, match="no chat template"):
        LocalChat(str(folder), device="cpu")


def test_a_model_in_this_process_that_babbles_leaves_no_caption_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.tiny_models import tiny_model

    images(tmp_path / "in", 1)
    local = {"model": str(tiny_model("qwen3_vl")), "max_tokens": 4, "device": "cpu"}
    path = recipe(tmp_path, "", captioner=local, editor=local, checks={"retries": 0})
    assert main(["train", "recaption", str(path)]) == 1
    assert "gave no base caption: cut short" in capsys.readouterr().err
    assert not (tmp_path / "captions.jsonl").exists()


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "training-data.md").read_text()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "training-data.md", "exec"), {})
    assert rows_of(tmp_path / "runs" / "captions.jsonl")


def test_the_commands_of_the_guide_are_commands() -> None:
    page = (ROOT / "docs" / "training-data.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("policyguard train ")]
    assert len(lines) >= 8
    for line in lines:
        help_ = (ROOT / "docs" / "cli" / f"train-{line.split()[2]}.md").read_text()
        for option in re.findall(r"--[a-z-]+", line):
            assert option in help_, line


def test_bad_rows_and_pictures_of_other_formats_are_named_and_end_with_1(
    tmp_path: Path, server: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(images(tmp_path / "data", 2), tmp_path / "rows.jsonl").out
    good = json.loads(rows.read_text().splitlines()[0])
    bad = [good | {"status": "maybe"}, good | {"image": "x" * 300 + ".png", "sha256": "0" * 64}]
    rows.write_text(rows.read_text() + "".join(json.dumps(line) + "\n" for line in bad))
    path = recipe(tmp_path, server.url, images={"rows": str(rows)})
    for extra in (["--dry-run"], []):
        assert main(["train", "recaption", str(path), *extra]) == 1
        said = capsys.readouterr().err
        assert "rows.jsonl:3: status: expected plain, edited or kept, found the text 'maybe'" in said
        assert "there is no such image" in said
    assert len(rows_of(tmp_path / "captions.jsonl")) == 2
    images(tmp_path / "in", 1)
    (tmp_path / "in" / "scan.tiff").write_bytes(b"II*")
    assert main(["train", "recaption", str(recipe(tmp_path, server.url)), "--dry-run"]) == 1
    assert "scan.tiff: a .tiff file is not opened: save it as PNG or JPEG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "page", "said"),
    [
        ({"out": "in"}, "p.html", "out: {0}/in is a folder"),
        ({"out": "r.yaml/c.jsonl"}, "p.html", "because {0}/r.yaml is a file"),
        ({"images": {"rows": "rows.jsonl"}, "out": "rows.jsonl"}, "p.html", "is the file of images.rows"),
        ({}, "in", "--page: {0}/in is a folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_a_model_is_asked(
    tmp_path: Path, server: Model, capsys: pytest.CaptureFixture[str], changes: Any, page: str, said: str
) -> None:
    run(images(tmp_path / "in", 1), tmp_path / "rows.jsonl")
    if "images" in changes:
        changes = changes | {"images": {"rows": str(tmp_path / "rows.jsonl")}}
    changes = changes | ({"out": str(tmp_path / changes["out"])} if "out" in changes else {})
    path = recipe(tmp_path, server.url, **changes)
    assert main(["train", "recaption", str(path), "--page", str(tmp_path / page)]) == 2
    assert said.format(tmp_path) in capsys.readouterr().err
    assert not server.asked
