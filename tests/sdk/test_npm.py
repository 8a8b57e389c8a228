"""OpenAI's npm SDK asks the service for moderations; ``run.py`` says where it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from integrations.http.pictures import GREEN, RED, data_uri, picture
from server.support import serving

MODULES = os.environ.get("POLICYGUARD_NODE_MODULES", "")
pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(not MODULES or shutil.which("node") is None, reason="needs node and the npm SDK"),
]

PROGRAM = """
import OpenAI from 'openai';
const [baseURL, green, red] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'unused', maxRetries: 0 });
const image = (url) => [{ type: 'image_url', image_url: { url } }];
const told = [];
for (const input of [image(green), image(red), 'a text']) {
  const { model, results: [result] } = await client.moderations.create({ model: 'colours', input });
  told.push([model, result.flagged, result.categories.red ?? null, result.categories.violence]);
}
try {
  await client.moderations.create({ model: 'colors', input: image(green) });
} catch (error) {
  told.push([error instanceof OpenAI.NotFoundError, error.message]);
}
console.log(JSON.stringify(told));
"""


def test_the_npm_sdk_reads_what_the_service_answers(tmp_path: Path) -> None:
    program = tmp_path / "program.mjs"
    program.write_text(PROGRAM)
    (tmp_path / "node_modules").symlink_to(MODULES)
    with serving(tmp_path / "policies") as service:
        images = [data_uri(picture(colour)) for colour in (GREEN, RED)]
        command = ["node", str(program), f"{service.url}/v1", *images]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    green, red, text, unknown = json.loads(done.stdout)
    assert ["colours", False, False, None] == green
    assert ["colours", True, True, None] == red
    assert ["colours", True, None, None] == text
    assert unknown[0]
    assert "did you mean 'colours'" in unknown[1]
