"""Chromium without a window, and pages to look at in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

from policyguard.runs.run import CheckedImage
from runs.reports.support import every_kind, run_info, written
from support.waiting import wait_until

_INSTALL = (
    "install Chromium and its driver (Debian: apt install chromium chromium-driver), or name them in {}"
)


def _program(variable: str, *names: str) -> str:
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    return found or pytest.fail(_INSTALL.format(variable))


@pytest.fixture(scope="session")
def _driver() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = _program("CHROMIUM", "chromium", "chromium-browser", "google-chrome")
    arguments = ["--headless=new", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium does not start as root with it
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(_program("CHROMEDRIVER", "chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def browser(_driver: WebDriver) -> WebDriver:
    """At 1200 x 900 pixels, in light colours."""
    look(_driver)
    return _driver


def look(driver: WebDriver, width: int = 1200, theme: str = "light") -> None:
    """Change the size and the colours that the reader prefers."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def open_page(browser: WebDriver) -> Iterator[Callable[[Path], WebDriver]]:
    """Open a file. Afterwards, nothing may have gone wrong and nothing have been asked for."""

    def opened(path: Path) -> WebDriver:
        browser.get(path.as_uri())
        # On a busy machine ``get`` can come back before the page's script has run.
        wait_until(lambda: browser.execute_script("return document.readyState") == "complete")
        return browser

    yield opened
    assert [] == browser.get_log("browser")
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((r) => r.name)")
    assert [] == [name for name in asked if not name.startswith("data:")]


@pytest.fixture
def visit(open_page: Callable[[Path], WebDriver], tmp_path: Path) -> Callable[..., WebDriver]:
    """Write a report of a run and open it."""

    def opened(images: list[CheckedImage] | None = None, **options: Any) -> WebDriver:
        options.setdefault("info", run_info(tmp_path))
        text = written(tmp_path, "html", every_kind() if images is None else images, **options)
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        return open_page(path)

    return opened


FAINT = """
// Text whose contrast with what is behind it is under 4.5 (WCAG 2.2, 1.4.3); disabled controls are exempt.
const light = (rgb) => rgb.map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const color = parse(getComputedStyle(node).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color.slice(0, 3);
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")].filter((node) =>
  [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())
  && !node.closest("script, style, noscript, option, :disabled, svg")
  && !node.closest("label")?.querySelector(":disabled") && node.checkVisibility()).filter((node) => {
    const [a, b] = [light(parse(getComputedStyle(node).color).slice(0, 3)), light(behind(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  }).map((node) => node.outerHTML);
"""
