"""The simpler pages in a browser: in light and dark, on a phone, on paper, with the keyboard."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Pictures
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from policyguard import Guard
from policyguard.authoring import compare_on, compare_policies, diff_page
from policyguard.authoring.bench import load_rows, run_rows
from policyguard.authoring.bench.page import bench_page
from policyguard.authoring.compare import compare_guards
from policyguard.authoring.compare_page import comparison_page
from policyguard.authoring.labels import Label, Labels
from policyguard.backends.base import AssessmentRequest
from policyguard.pictosafe import Sizes, run
from policyguard.policy import parse_policy
from policyguard.testing import FakeBackend
from runs.reports.browser.conftest import FAINT, look
from support.published import parquet

pytestmark = pytest.mark.browser

Open = Callable[[Path], WebDriver]
BEFORE = """
id: house
version: 1.0.0
title: House rules
owner: us
licence: none
rules:
  - {id: red, title: Red things, unsafe: [a red thing], safe: [a red nose]}
"""


def red(request: AssessmentRequest) -> float:
    pixel = request.frame.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel[0] / 255


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for number, level in enumerate((20, 120, 180, 250)):
        name = f"a-long-name-that-no-phone-shows-in-one-line-{number}.png"
        Pictures.new("RGB", (400, 300), (level, 40, 40)).save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


def the_diff(images: list[Path], _: Path) -> str:
    before = parse_policy(BEFORE)
    after = parse_policy(BEFORE.replace("licence: none", "licence: none\ndefaults: {threshold: 0.8}"))
    found = compare_on(before, after, images, backend=FakeBackend(red))
    return diff_page(found, compare_policies(before, after), thumbnails=images.__getitem__)


def the_comparison(images: list[Path], _: Path) -> str:
    labels = Labels(
        Path("labels.csv"),
        "",
        tuple(Label(path, place > 1, None, place) for place, path in enumerate(images)),
    )
    guards = [("straight", FakeBackend(red)), ("inverted", FakeBackend(lambda request: 1 - red(request)))]
    found = compare_guards(parse_policy(BEFORE), images, guards, labels=labels)
    return comparison_page(found, thumbnails=images.__getitem__)


def the_bench(images: list[Path], folder: Path) -> str:
    rows = [
        {
            "image": {"bytes": path.read_bytes(), "path": None},
            "image_path": path.name,
            "safety_label": place % 2,
            "policy_name": 2,
            "policy": "No red thing, whatever it is, may be shown.",
        }
        for place, path in enumerate(images)
    ]
    levels = [f"Policy L{number}" for number in range(1, 6)]
    classes = {"safety_label": ["safe", "unsafe"], "policy_name": levels}
    parquet(folder / "bench" / "test-00000-of-00001.parquet", rows, classes)
    loaded = load_rows("safeedit", folder / "bench")
    return bench_page(run_rows("safeedit", loaded, backend=FakeBackend(red)), thumbnails=True)


def the_toy_bench(_: list[Path], __: Path) -> str:
    guard = Guard("pictosafe/l3", backend=FakeBackend(0.9))
    sizes = Sizes(scenes=6, pairs=2, held_out=2, flips=2)
    return run(guard, sizes=sizes).to_html(
        "a-guard-whose-name-no-phone-shows-in-one-line/v1", thumbnails=True
    )


MAKERS = {"diff": the_diff, "compare": the_comparison, "bench": the_bench, "pictosafe": the_toy_bench}


@pytest.fixture(params=MAKERS)
def page(request: pytest.FixtureRequest, images: list[Path], tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.html"
    path.write_text(MAKERS[request.param](images, tmp_path), encoding="utf-8")
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen_and_can_be_read(width: int, theme: str, page: Path, open_page: Open) -> None:
    driver = open_page(page)
    look(driver, width, theme)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert [] == driver.execute_script(FAINT)
    ground = "rgba(20, 23, 27, 1)" if theme == "dark" else "rgba(255, 255, 255, 1)"
    assert ground == driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")


def test_sections_and_blurred_images_can_be_reached_with_the_keyboard(page: Path, open_page: Open) -> None:
    driver = open_page(page)
    for link in driver.find_elements(By.CSS_SELECTOR, "nav a"):
        assert 1 == len(driver.find_elements(By.CSS_SELECTOR, link.get_dom_attribute("href") or ""))
    ActionChains(driver).send_keys(Keys.TAB).send_keys(Keys.ENTER).perform()
    assert "#" in driver.current_url
    image = driver.find_element(By.CSS_SELECTOR, "label.blurred img")
    assert "blur" in image.value_of_css_property("filter")
    for _ in range(30):
        if driver.switch_to.active_element.get_dom_attribute("type") == "checkbox":
            break
        ActionChains(driver).send_keys(Keys.TAB).perform()
    assert "none" != image.value_of_css_property("outline-style")
    ActionChains(driver).send_keys(Keys.SPACE).perform()
    assert "none" == image.value_of_css_property("filter")


def test_on_paper_it_is_dark_on_white_and_nothing_is_unblurred(page: Path, open_page: Open) -> None:
    driver = open_page(page)
    driver.find_element(By.CSS_SELECTOR, "label.blurred").click()
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    body = driver.find_element(By.TAG_NAME, "body")
    assert "rgba(255, 255, 255, 1)" == body.value_of_css_property("background-color")
    assert "blur" in driver.find_element(By.CSS_SELECTOR, "label.blurred img").value_of_css_property("filter")
    assert not any(link.is_displayed() for link in driver.find_elements(By.CSS_SELECTOR, "nav"))
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
