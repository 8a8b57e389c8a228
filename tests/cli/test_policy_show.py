"""``policyguard policy show`` and ``render``: policies can be read."""

from __future__ import annotations

import json
from pathlib import Path

from cli.support import Captured
from policyguard.cli import main
from policyguard.policy import load_policy


def test_show_says_what_the_rules_are(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good])
    out = capsys.readouterr().out
    for words in (
        "house 1.0.0: House rules",
        "What our shop shows.",
        "A. Arms (arms, threshold 0.6, action flag)",
        "must not show - weapons",
        "may show      - toys",
        "undecided: block",
        "owner         The shop",
    ):
        assert words in out
    assert load_policy(good).resolve().fingerprint in out


def test_show_heads_the_lists_by_what_the_model_is_told(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "house.yaml"
    lists = "unsafe: [guns, swords], safe: [toys]"
    file.write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nrules:\n"
        f"  - {{id: a, title: A, status: exempt, {lists}}}\n"
        f"  - {{id: b, title: B, status: sensitive, {lists}}}\n"
    )
    assert 0 == main(["policy", "show", str(file)])
    out = capsys.readouterr().out
    first, second = out[out.index("A. A") :].split("\n\n")[:2]
    assert ["may show      - guns", "- swords", "- toys"] == [x.strip() for x in first.splitlines()[1:]]
    assert [
        "   must not show - guns",
        "                 - swords",
        "   nor, though often allowed",
        "                 - toys",
    ] == second.rstrip().splitlines()[1:]


def test_show_gives_the_origin_of_each_part_and_the_reason_for_each_weakening(
    layer: str, good: str, capsys: Captured
) -> None:
    assert 0 == main(["policy", "show", layer])
    out = capsys.readouterr().out
    assert f"weapons [{good}:10]" in out
    assert f"replicas on a wall [{layer}:9]" in out
    assert "because: Collectors want to see them." in out
    assert 0 == main(["policy", "show", layer, "-f", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert {"file": layer, "line": 9} == shown["origins"]["rules.arms.safe[1]"]
    assert "Collectors want to see them." == shown["weakenings"][0]["reason"]


def test_render_prints_what_the_model_reads(good: str, capsys: Captured) -> None:
    from policyguard.dialects import SafeguardDialect

    assert 0 == main(["policy", "render", good])
    captured = capsys.readouterr()
    (prompt,) = SafeguardDialect().render(load_policy(good).resolve())
    assert all(part in captured.out for m in prompt.messages for part in m.parts if isinstance(part, str))
    assert "[user]\n<image>\n" in captured.out
    assert captured.out.endswith('[assistant]\n{"rating": "\n')
    assert "tokens without the image (estimated)" in captured.err
    assert 0 == main(["policy", "render", good, "-f", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert prompt.messages[0].parts[0] == shown["messages"][0]["parts"][0]["text"]
    assert {"A": "arms"} == shown["categories"]


def test_render_for_a_model_uses_its_own_template_and_tokenizer(capsys: Captured) -> None:
    assert 0 == main(["policy", "render", "pictosafe/l3", "--model", "pico"])
    captured = capsys.readouterr()
    assert captured.out.startswith("<|im_start|>system\n A no weapons, explosives.")
    assert "counted by the tokenizer of pico" in captured.err


def test_render_refuses_a_dialect_that_cannot_say_it(good: str, capsys: Captured) -> None:
    assert 2 == main(["policy", "render", good, "--dialect", "pico"])
    assert "pictosafe" in capsys.readouterr().err
