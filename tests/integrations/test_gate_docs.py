"""docs/gate.md runs, and its adapters take what pipelines and image services really give."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as Pictures

from cli.support import house_rules, picture, red
from policyguard import Guard
from policyguard.integrations.gate import Attempt, GateResult
from policyguard.testing import FakeBackend

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gate.md"


def block(number: int) -> dict[str, Any]:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert 3 == len(blocks)
    names: dict[str, Any] = {}
    exec(compile(blocks[number], str(PAGE), "exec"), names)
    return names


def guard() -> Guard:
    return Guard(house_rules(), backend=FakeBackend(red))


def test_the_first_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert "breaks Weapons" in block(0)["result"].attempts[0].discarded[0]
    assert "1 None" in capsys.readouterr().out


def test_the_table_has_the_fields_of_a_result() -> None:
    rows = "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE))
    named = {name.removesuffix("()") for name in re.findall(r"`([\w()]+)`", rows)}
    assert {name for name in dir(GateResult) if not name.startswith("_")} == named - {"GateResult"}
    assert {"number", "hint", "verdicts", "findings", "discarded"} <= set(dir(Attempt))


class Pipeline:
    """Draws a red picture, and a black one once the negative prompt names arms."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def __call__(self, *, prompt: str, negative_prompt: str | None) -> Any:
        colour = (0, 0, 0) if negative_prompt == "Arms" else (255, 0, 0)
        return self.output([Pictures.new("RGB", (8, 8), colour)])


def plain_output(images: list[Pictures.Image]) -> Any:
    return SimpleNamespace(images=images)


def diffusers_output(images: list[Pictures.Image]) -> Any:
    diffusers = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_output")
    return diffusers.StableDiffusionPipelineOutput(images=images, nsfw_content_detected=[False])


@pytest.mark.parametrize("output", [plain_output, diffusers_output])
def test_a_pipeline_s_picture_comes_out_once_its_hint_worked(output: Any) -> None:
    result = block(1)["draw"](Pipeline(output), "a fair", guard())
    assert [None, "Arms"] == [attempt.hint for attempt in result.attempts]
    assert (0, 0, 0) == result.image.getpixel((0, 0))


def plain_answer(content: dict[str, Any]) -> Any:
    return SimpleNamespace(data=[SimpleNamespace(**item) for item in content["data"]])


def openai_answer(content: dict[str, Any]) -> Any:
    return pytest.importorskip("openai.types").ImagesResponse.model_validate(content)


@pytest.mark.parametrize("answer", [plain_answer, openai_answer])
def test_a_service_s_picture_comes_out_once_its_hint_worked(answer: Any) -> None:
    prompts = []

    async def generate(*, model: str, prompt: str) -> Any:
        prompts.append(prompt)
        content = picture(0 if "Arms" in prompt else 255)
        return answer({"created": 1, "data": [{"b64_json": base64.b64encode(content).decode()}]})

    client = SimpleNamespace(images=SimpleNamespace(generate=generate))
    result = asyncio.run(block(2)["draw"](client, "a fair", guard()))
    assert "a fair" == prompts[0]
    assert prompts[1].startswith("a fair\n\nThe last image broke these rules")
    assert Pictures.open(io.BytesIO(result.image)).size == (8, 8)  # noqa: TID251 (bytes of a whole picture)
