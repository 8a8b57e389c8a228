"""docs/guards.md and sensors.md list what the registry knows; run this file to write their tables anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policyguard.backends.published import MEASURES, SYSTEMS
from policyguard.backends.registry import KnownModel, known_models, resolve_model
from policyguard.backends.sensors.nudenet import NudeNet
from policyguard.backends.sensors.open_nsfw import OpenNsfw
from policyguard.backends.sensors.services import OmniModeration, SafeSearch
from policyguard.dialects import dialect_names, get_dialect
from policyguard.policy import load_policy, packaged_policies

PAGE = Path(__file__).parents[2] / "docs" / "guards.md"
SENSORS = PAGE.with_name("sensors.md")


def table() -> str:
    heads = "| model | short names | dialect | size | licence | gated | vLLM | limits | advice |"
    lines = [heads, "|" + "---|" * 9]
    for known in (known for known in known_models() if known.sensor is None):
        cells = (
            f"`{known.id}`",
            ", ".join(f"`{alias}`" for alias in known.aliases),
            f"`{known.dialect}`",
            known.size or "",
            known.licence or "see its page",
            "yes" if known.gated else "",
            "yes" if known.served else "no",
            ", ".join(limits(known)),
            known.advice or known.about,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def limits(known: KnownModel) -> Iterator[str]:
    if known.context is not None:
        yield f"{known.context:,} tokens"
    if (most := get_dialect(known.dialect).limits.max_rules) is not None:
        yield f"{most} rules at once"


def systems_table() -> str:
    heads = ["system", "state", "how, or why not", *MEASURES]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for system in SYSTEMS:
        figures = [str(system.figures.get(measure, "")) for measure in MEASURES]
        lines.append(f"| {' | '.join((system.name, system.state, system.how, *figures))} |")
    return "\n".join([*lines, "", *(f"- **{name}** {about}" for name, about in MEASURES.items())]) + "\n"


def sensor_table() -> str:
    lines = ["| name | looks at | size | licence | advice |", "|" + "---|" * 5]
    for known in (known for known in known_models() if known.sensor is not None):
        name = known.aliases[0] if known.aliases else known.id
        origin = "" if name == known.id else f" ({known.id})"
        facts = (known.size or "", known.licence or "see its page", known.advice)
        lines.append(f"| {' | '.join((f'`{name}`{origin}', known.about, *facts))} |")
    return "\n".join(lines) + "\n"


TABLES = [(PAGE, "models", table), (PAGE, "systems", systems_table), (SENSORS, "sensors", sensor_table)]


def split(page: Path, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    inside, tail = rest.split(end)
    return head + begin, inside, end + tail


@pytest.mark.parametrize(("page", "name", "made"), TABLES)
def test_the_tables_are_the_registrys_own(page: Path, name: str, made: Callable[[], str]) -> None:
    assert split(page, name)[1] == made(), "run: python tests/backends/test_guard_docs.py"


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
        assert known.sensor or get_dialect(known.dialect).name == known.dialect


NAMED_BY_THE_PAPERS = """
SafeGuard-VL-RL SafeGuard-VL-SFT SafeGuard-VL-Full LlavaGuard-v1.2-0.5B LlavaGuard-v1.2-7B LlavaGuard-7B
LlavaGuard-13B LlavaGuard-34B QwenGuard-3B QwenGuard-7B ShieldGemma Llama_Guard OpenAI_moderation SafeWatch
AIR-Bench Qwen2.5-VL-7B Qwen2-VL-7B LLaVA-v1.6-7B LLaVA-7B LLaVA-13B LLaVA-34B InstructBLIP GLM-4V-9B NudeNet
NSFW_classifiers MultiHeaded SD_Filter LAION Q16 CogVLM Moondream2 MiniGPT-4 GPT-4 Idefics2
"""


@pytest.mark.parametrize("name", NAMED_BY_THE_PAPERS.split())
def test_every_system_that_the_papers_name_has_a_row(name: str) -> None:
    assert [
        system for system in SYSTEMS if system.name.startswith(name.replace("_", " ").replace("SD ", "SD_"))
    ]


def test_systems_name_models_that_are_known_and_say_why_where_one_is_not_possible() -> None:
    aliases = {alias for known in known_models() for alias in (known.id, *known.aliases)}
    for system in SYSTEMS:
        assert system.how
        assert set(system.figures) <= set(MEASURES)
        first = system.how.replace(";", ",").split(",")[0].split(" or ")[0]
        assert system.state == "not possible" or first in aliases or " " in first, system


@pytest.mark.parametrize("name", packaged_policies())
def test_packaged_policies_name_signals_that_their_sensor_has(name: str) -> None:
    fixed = {sensor.name: sensor.signals for sensor in (OpenNsfw, NudeNet, OmniModeration, SafeSearch)}
    labels = {
        known.aliases[0] if known.aliases else known.id: known.about
        for known in known_models()
        if known.sensor in ("classifier", "clip")
    }
    for rule in load_policy(name).rules:
        for signal in rule.signals:
            sensor, _, wanted = signal.partition("/")
            assert wanted in (fixed.get(sensor) or labels[sensor]), signal


if __name__ == "__main__":
    for page, name, made in TABLES:
        head, _, tail = split(page, name)
        page.write_text(head + made() + tail, encoding="utf-8")
