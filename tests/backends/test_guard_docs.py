"""docs/guards.md lists what the registry knows; run this file to write its table anew."""

from __future__ import annotations

from pathlib import Path

from policyguard.backends.registry import known_models, resolve_model
from policyguard.dialects import dialect_names, get_dialect

PAGE = Path(__file__).parents[2] / "docs" / "guards.md"
BEGIN, END = "<!-- models -->\n", "<!-- end of models -->\n"


def table() -> str:
    lines = ["| model | short names | dialect | size | licence | gated | vLLM | advice |", "|" + "---|" * 8]
    for known in known_models():
        cells = (
            f"`{known.id}`",
            ", ".join(f"`{alias}`" for alias in known.aliases),
            f"`{known.dialect}`",
            known.size or "",
            known.licence or "see its page",
            "yes" if known.gated else "",
            "yes" if known.served else "no",
            known.advice or known.about,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def split() -> tuple[str, str, str]:
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    inside, tail = rest.split(END)
    return head, inside, tail


def test_the_table_is_the_registrys_own() -> None:
    assert split()[1] == table(), "run: python tests/backends/test_guard_docs.py"


def test_every_dialect_is_explained_and_every_slot_of_a_wording_file_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in dialect_names():
        assert f"`{name}`" in text
        slots = getattr(get_dialect(name), "_words", None)
        for slot in () if slots is None else slots.texts:
            assert f"`{slot}`" in text, (name, slot)


def test_at_least_twenty_short_names_of_twelve_families_resolve_to_a_hub_id_in_its_own_dialect() -> None:
    aliases = [(alias, known) for known in known_models() for alias in known.aliases]
    assert len(aliases) >= 20
    assert len({known.family for _, known in aliases}) >= 12
    for alias, known in aliases:
        assert resolve_model(alias) is known
        assert get_dialect(known.dialect).name == known.dialect


if __name__ == "__main__":
    head, _, tail = split()
    PAGE.write_text(head + BEGIN + table() + END + tail, encoding="utf-8")
