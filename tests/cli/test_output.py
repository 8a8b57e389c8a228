"""Names of files and words of models come from strangers: they are shown, and do nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.text import Text

from cli.support import Run, Terminal, house_rules, picture
from policyguard import Guard
from policyguard.assessment import Assessment, Rating
from policyguard.cli.errors import print_error, warn
from policyguard.cli.options import Format
from policyguard.cli.output import print_table, shortened
from policyguard.runs.sources import Source
from policyguard.strict.text import one_line, printable
from policyguard.testing import FakeBackend

NAMES = {
    "markup": "[red]x[/red].png",
    "closing markup": "[/].png",
    "link markup": "[link=https://example.org]x[/link].png",
    "emoji code": ":skull:.png",
    "escape sequence": "\x1b[31m\x1b]0;title\x07x.png",
    "C1 control": "\x9b31mx.png",
    "line break": "a\nblock violates b.png",
    "carriage return": "blocked\rallowed.png",
    "backspace": "ab\b\bcd.png",
    "right-to-left override": "gnp\u202egnp.exe",
    "undecodable byte": os.fsdecode(b"caf\xe9.png"),
    "wide": "写真写真.png",
    "combining": "e\u0301\u0301\u0301.png",
    "long": "x" * 300 + ".png",
    "blank": " .png",
    "command to GitHub": "::stop-commands::x",
    "command behind blanks": "  ::error::x",
    "command of the older form": "a ##[add-mask]x.png",
    "command to Azure": "x##vso[task.setvariable variable=a]b.png",
}


@pytest.fixture
def strangers(guard: Guard) -> Callable[..., Run]:
    def run(*names: str, **options: object) -> Run:
        return Run(guard, [Source(name, picture()) for name in names], **options)  # type: ignore[arg-type]

    return run


def harmless(text: str) -> bool:
    """Nothing steers a terminal, or is a command to GitHub's or Azure's runner, which read each line."""
    commands = any(line.strip().startswith("::") or re.search(r"##\w*\[", line) for line in text.splitlines())
    return not commands and all(char.isprintable() or char == "\n" for char in text)


def test_a_long_run_prints_lines_in_a_terminal_too() -> None:
    from cli.support import Terminal
    from policyguard.cli.options import Format
    from policyguard.cli.output import open_writer

    stream = Terminal()
    open_writer(Format.TEXT, stream, [], count=100_000)
    assert "Lines" in type(open_writer(Format.TEXT, stream, [], count=100_000)).__name__


def test_names_are_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    print_table(("id", "family", "about"), [(name, "Qwen2.5-VL", "many words " * 9)], stream)
    plain = Text.from_ansi(stream.getvalue()).plain
    assert name in plain
    assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("photos/beach.png", "photos/beach.png"),
        ("photos/2026/11/30/beach.png", "photos/…/beach.png"),
        ("holidays-in-italy/beach-by-night.png", "…/beach-by-night.png"),
        ("photos/an-image-that-somebody-uploaded.png", "an-image-tha…ploaded.png"),
    ],
)
def test_a_long_path_is_shortened_in_its_middle(path: str, expected: str) -> None:
    assert shortened(path, 24) == expected


def test_a_long_name_of_wide_characters_is_shortened_to_the_width() -> None:
    short = shortened("海辺の写真です海辺の写真です.png", 23)
    assert cell_len(short) <= 23
    assert short.startswith("海辺")
    assert short.endswith(".png")


def test_a_long_path_takes_one_line_of_a_narrow_terminal(
    strangers: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    name = "a/folder/in/a/folder/with-an-image-that-somebody-uploaded-and-never-renamed.png"
    lines = Text.from_ansi(strangers(name, "plain.png", terminal=True).out).plain.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert len([line for line in lines if line.strip()]) <= 5


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_one_line_per_image_and_no_control_characters_in_a_pipe(
    strangers: Callable[..., Run], name: str
) -> None:
    run = strangers(name, "plain.png", terminal=False)
    out = run.out
    assert harmless(out)
    assert harmless(run.err)
    first, second = out.splitlines()
    assert first.startswith(printable(name))
    assert second.startswith("plain.png")
    out.encode()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_no_name_steers_a_terminal(
    strangers: Callable[..., Run], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("NO_COLOR", "1")
    run = strangers(name, "plain.png", terminal=True)
    lines = run.out.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert all(map(harmless, lines))
    assert any(line.startswith(printable(name)) for line in lines)


@pytest.mark.parametrize("style", [Format.JSON, Format.JSONL])
def test_json_gives_every_name_back_as_it_is(strangers: Callable[..., Run], style: Format) -> None:
    out = strangers(*NAMES.values(), terminal=False, style=style).out
    assert out.isascii()
    assert harmless(out)
    read = json.loads(out) if style is Format.JSON else [json.loads(line) for line in out.splitlines()]
    assert list(NAMES.values()) == [verdict["source"] for verdict in read]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_image_that_cannot_be_judged_is_named_harmlessly_on_stderr(
    guard: Guard, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(guard, [Source(name, b"nonsense")], terminal=False, style=Format.JSON)
    assert printable(name) in run.err
    assert harmless(run.err)
    warn(name)
    print_error(f"first\n{name}", hint=name)
    assert harmless(capsys.readouterr().err)


def test_columns_stay_aligned_beside_wide_names(strangers: Callable[..., Run]) -> None:
    names = ["写真.png", "a.png", "日本語の長い名前.png"]
    lines = strangers(*names, terminal=False).out.splitlines()
    assert 1 == len({cell_len(line[: line.index("allow")]) for line in lines})


def test_what_a_model_says_steers_nothing_either() -> None:
    said = Assessment(Rating.UNSAFE, 0.9, rationale="[red]\x1b[2J\nsafe.png  allow  complies")
    guard = Guard(house_rules(), backend=FakeBackend(said))
    for terminal in (False, True):
        run = Run(guard, [Source("a.png", picture())], terminal=terminal)
        assert "\x1b[2J" not in run.out
        assert r"[red]\x1b[2J safe.png" in run.out


def test_printable_leaves_what_can_be_seen_alone() -> None:
    for text in ("plain", "Größe", "写真", "🙂", "a b", "narrow\u202fblank"):
        assert text == printable(text)
    assert r"\x1b\u202e\n\udce9" == printable("\x1b\u202e\n\udce9")
    assert "\u3000:\\x3aerror::" == printable("\u3000::error::")
    assert "## a [b] a::b http://[::1]" == printable("## a [b] a::b http://[::1]")
    assert "a b" == one_line(" a\n\t b ")
