"""The examples that need packages of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest
from PIL import Image

from backends.remote.server import ToyServer
from images.support import exif
from integrations.http.pictures import GREEN, RED, colour_guard, picture
from policyguard import Guard
from policyguard.assessment import Failure, FailureKind
from policyguard.images import decode
from policyguard.testing import FakeBackend
from support.examples import ROOT, example

pytestmark = pytest.mark.sdk
testclient = pytest.importorskip("fastapi.testclient")
fastapi = pytest.importorskip("fastapi")


def upload(guard: Guard, data: bytes, field: str = "picture") -> Any:
    client = testclient.TestClient(example("fastapi_upload").build_app(guard))
    return client.post("/pictures", files={field: ("x.png", data, "image/png")})


def test_an_upload_that_complies_reaches_the_handler() -> None:
    response = upload(colour_guard()[0], picture(GREEN))
    assert (200, {"bytes": len(picture(GREEN)), "action": "allow"}) == (response.status_code, response.json())


def test_the_handler_gets_what_was_judged() -> None:
    """A phone's picture, lying on its side: upright, and without the place where it was taken."""
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), GREEN).save(buffer, "JPEG", exif=b"Exif\0\0" + exif(6))
    taken: list[Any] = []

    def handled(**options: Any) -> Any:
        module = example("fastapi_upload")
        app = fastapi.FastAPI()
        judged = fastapi.Depends(module.guarded_upload(colour_guard()[0], **options))

        @app.post("/")
        async def receive(picture: Any = judged) -> None:
            taken.append(picture.data)

        testclient.TestClient(app).post("/", files={"picture": ("a.jpg", buffer.getvalue(), "image/jpeg")})
        return decode(taken[-1])

    image = handled()
    assert ((16, 24), True, "JPEG") == (image.size, image.is_plain, image.format)
    assert b"Exif" not in taken[-1]
    handled(pass_on="original")
    assert buffer.getvalue() == taken[-1]


def test_an_upload_that_violates_is_answered_with_the_outcome_and_no_score() -> None:
    response = upload(colour_guard()[0], picture(RED))
    assert 403 == response.status_code
    detail = response.json()["detail"]
    assert ({"message", "outcome", "rules"}, "violates") == (set(detail), detail["outcome"])


@pytest.mark.parametrize(
    "data", [b"", b"no image", picture(GREEN)[:40], b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_an_upload_that_is_no_picture_is_unprocessable(data: bytes) -> None:
    response = upload(colour_guard()[0], data)
    assert 422 == response.status_code
    assert "unscannable" == response.json()["detail"]["outcome"]


def test_an_upload_that_is_too_large_is_not_judged() -> None:
    guard, backend = colour_guard()
    assert 422 == upload(guard, picture(GREEN) + bytes(20 * 2**20)).status_code
    assert 0 == backend.calls


def test_an_upload_in_another_field_is_refused() -> None:
    assert 422 == upload(colour_guard()[0], picture(GREEN), "other").status_code


def test_no_upload_passes_while_the_guard_is_down() -> None:
    guard = Guard(policy="safeedit/l3", backend=FakeBackend(Failure(FailureKind.ERROR, "down")))
    assert 503 == upload(guard, picture(GREEN)).status_code


def test_a_key_that_is_revoked_while_the_app_runs_publishes_nothing_and_says_so_in_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ToyServer() as server:
        server.api_key = "sk-1"
        guard = Guard("safeedit/l3", base_url=server.url, model="toy-guard", api_key="sk-1")
        with testclient.TestClient(example("fastapi_upload").build_app(guard)) as client:
            server.api_key = "sk-2"
            response = client.post("/pictures", files={"picture": ("x.png", picture(GREEN), "image/png")})
    assert 503 == response.status_code
    assert response.json()["detail"] == {"message": "blocked", "outcome": "error", "rules": []}
    assert "refuses the API key" in caplog.text
    assert "key" not in response.text


def test_an_outage_at_the_start_ends_no_app_and_publishes_nothing_until_it_is_over() -> None:
    with ToyServer() as server:
        guard = Guard("safeedit/l3", base_url=server.url, model="toy-guard")
        app = example("fastapi_upload").build_app(guard)
        upload = {"picture": ("x.png", picture(GREEN), "image/png")}
        server.fault = lambda handler, answer: handler.send_json(503, {"error": {"message": "starting"}})
        server.fault_at = lambda path, body: True
        with testclient.TestClient(app) as client:
            assert 503 == client.post("/pictures", files=upload).status_code
            server.fault = None
            server.context = 100_000
            assert 200 == client.post("/pictures", files=upload).status_code


class LazyBackend(FakeBackend):
    warmed = False

    def warm(self) -> None:
        self.warmed = True


def test_the_model_is_loaded_before_the_first_upload() -> None:
    backend = LazyBackend()
    app = example("fastapi_upload").build_app(Guard(policy="pictosafe/l3", backend=backend))
    with testclient.TestClient(app):
        assert backend.warmed


def test_the_app_that_uvicorn_loads_is_guarded_by_pico() -> None:
    client = testclient.TestClient(example("fastapi_upload").app)
    for name, status in (("camera", 200), ("dagger", 403)):
        data = (ROOT / "examples" / "images" / f"pair-{name}.png").read_bytes()
        assert status == client.post("/pictures", files={"picture": data}).status_code


def test_the_agent_answers_one_wish_and_not_the_other() -> None:
    pytest.importorskip("langchain.agents")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "examples" / "langchain_agent.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "camera: Here is your picture." in done.stdout
    assert "dagger: [1 image(s) blocked by PolicyGuard" in done.stdout


def test_a_real_pipeline_of_diffusers_is_guarded() -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(num_train_timesteps=4))
    backend = FakeBackend(0.01).enqueue(0.01, 0.99)
    guarded = example("diffusers_guard").GuardedPipeline(
        pipeline, Guard(policy="safeedit/l3", backend=backend)
    )
    out = guarded(batch_size=3, num_inference_steps=2)
    assert [False, True, False] == out.blocked
    assert (8, 8) == out.images[1].size
    assert {(128, 128, 128)} == {out.images[1].getpixel((x, y)) for x in range(8) for y in range(8)}
    assert out.images == out.pipeline_output["images"]
    with tempfile.TemporaryDirectory() as folder:
        guarded.save_pretrained(folder)  # the pipeline's own
