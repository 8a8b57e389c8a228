"""The documentation site in Chromium: it fits, finds what is searched for, and asks no other server."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from runs.reports.browser.conftest import _program, look
from support.waiting import wait_until

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
PAGES = ["", "docs/", "docs/ci/", "docs/cli/check/", "docs/api/policyguard/", "docs/training/"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    command = [sys.executable, ROOT / "docs" / "build.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(Quiet, directory=str(ROOT / "build" / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = _program("CHROMIUM", "chromium", "chromium-browser", "google-chrome")
    resolver = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for argument in ["--headless=new", "--disable-gpu", "--disable-background-networking", resolver]:
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_program("CHROMEDRIVER", "chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_the_screen_take_its_colours_and_ask_no_other_server(
    site: str, driver: WebDriver, width: int, theme: str
) -> None:
    look(driver, width, theme)
    for page in PAGES:
        driver.get(site + page)
        wait_until(lambda: driver.execute_script("return document.readyState") == "complete")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, page
        colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (int(colour.split("(")[1].split(",")[0]) > 128) == (theme == "light")
        asked = driver.execute_script("return performance.getEntriesByType('resource').map((r) => r.name)")
        assert not [name for name in asked if not name.startswith((site, "data:", "blob:"))]
    assert [] == [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"]


TYPING = "return document.activeElement?.shadowRoot?.activeElement?.tagName === 'INPUT'"
FOUND = """
const host = [...document.querySelectorAll("*")].find((node) => node.shadowRoot?.querySelector("input"));
return host ? [...host.shadowRoot.querySelectorAll("a[href]")].map((link) => link.innerText) : [];
"""


@pytest.mark.parametrize("word", ["threshold", "fail-on", "GuardedTransport"])
def test_the_search_finds_words_options_and_classes(site: str, driver: WebDriver, word: str) -> None:
    look(driver)
    driver.get(site)
    driver.find_element(By.CSS_SELECTOR, ".md-search__button").click()
    wait_until(lambda: driver.execute_script(TYPING))
    ActionChains(driver).send_keys(word).perform()
    wait_until(lambda: any(word in text for text in driver.execute_script(FOUND)))
    ActionChains(driver).send_keys(Keys.ENTER).perform()
    wait_until(lambda: driver.current_url.split("?")[0] != site)
    wait_until(lambda: word in driver.execute_script("return document.body.innerText"))
    assert [] == [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"]
