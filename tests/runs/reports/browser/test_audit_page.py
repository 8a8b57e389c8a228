"""The report of an audit in a browser: in light and dark, on a phone, on paper, with the keyboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Pictures
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from policyguard.runs.audit.report import Asked, make_report
from policyguard.runs.audit.rows import Audit
from runs.reports.browser.conftest import FAINT, look
from support.audits import row, unjudged, write_many, write_rows

pytestmark = pytest.mark.browser

Open = Callable[[Path], WebDriver]


def all_of(driver: WebDriver | WebElement, selector: str) -> list[WebElement]:
    return driver.find_elements(By.CSS_SELECTOR, selector)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    audit = Audit.open(write_many(tmp_path / "audit", 3_000, per_part=500))
    asked = Asked(sample=100, labels=tmp_path / "labels.csv")
    make_report(audit, tmp_path / "report", asked)
    rows = (tmp_path / "labels.csv").read_text().replace(",,,n100s0", ",safe,,n100s0")
    (tmp_path / "labels.csv").write_text(rows)
    make_report(audit, tmp_path / "report", Asked(labels=tmp_path / "labels.csv"))
    return tmp_path / "report/report.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen_and_can_be_read(width: int, theme: str, page: Path, open_page: Open) -> None:
    driver = open_page(page)
    look(driver, width, theme)
    for element in all_of(driver, "summary"):
        element.click()
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert [] == driver.execute_script(FAINT)


def test_every_part_can_be_reached_with_the_keyboard(page: Path, open_page: Open) -> None:
    driver = open_page(page)
    links = all_of(driver, "nav a")
    words = "Overview Categories Scores Labels Prompts Columns Duplicates Drift Examples How it was made"
    assert words == " ".join(link.text for link in links)
    for link in links:
        assert 1 == len(all_of(driver, link.get_dom_attribute("href") or ""))
    ActionChains(driver).send_keys(Keys.TAB).send_keys(Keys.ENTER).perform()
    assert driver.current_url.endswith("#overview")
    for _ in range(60):
        if driver.switch_to.active_element.tag_name == "summary":
            break
        ActionChains(driver).send_keys(Keys.TAB).perform()
    assert "none" != driver.switch_to.active_element.value_of_css_property("outline-style")
    ActionChains(driver).send_keys(Keys.ENTER).perform()
    assert all_of(driver, "details[open]")


def test_on_paper_everything_is_shown_and_nothing_is_unblurred(page: Path, open_page: Open) -> None:
    driver = open_page(page)
    folded = all_of(driver, "details td")[0]
    shown = "return arguments[0].checkVisibility() && arguments[0].getBoundingClientRect().height > 0"
    assert not driver.execute_script(shown, folded)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert driver.execute_script(shown, folded)
    assert not any(element.is_displayed() for element in all_of(driver, "nav, summary"))
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")


def test_every_plot_and_control_has_a_name(page: Path, open_page: Open) -> None:
    driver = open_page(page)
    named = all_of(driver, "svg, a, input, summary")
    assert len(named) > 15
    assert [] == [element.get_attribute("outerHTML") for element in named if not element.accessible_name]


def test_an_example_s_image_is_blurred_until_it_is_clicked(tmp_path: Path, open_page: Open) -> None:
    buffer = io.BytesIO()
    Pictures.new("RGB", (96, 72), (200, 30, 30)).save(buffer, "JPEG")
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    audit = Audit.open(write_rows(tmp_path / "audit", [row("a.png", 0.9), row("b.png"), unjudged("c.png")]))
    make_report(audit, tmp_path / "report", Asked(), thumbnail=lambda example: uri)
    driver = open_page(tmp_path / "report/report.html")
    shot = all_of(driver, "label.blurred img")[0]
    assert "blur(14px)" == shot.value_of_css_property("filter")
    shot.click()
    assert "none" == shot.value_of_css_property("filter")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert "blur(14px)" == shot.value_of_css_property("filter")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_hostile_words_are_shown_as_words(tmp_path: Path, open_page: Open) -> None:
    words = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"
    found = [{"rule": words, "score": 0.9, "threshold": 0.5, "action": "block"}]
    rows = [
        row(f"{words}.png", 0.9, rules=found, rationale=words, keep_source=words),
        unjudged("b", reason=words),
    ]
    make_report(
        Audit.open(write_rows(tmp_path / "audit", rows, keep=["source"])), tmp_path / "report", Asked()
    )
    driver = open_page(tmp_path / "report/report.html")
    assert [] == all_of(driver, "script, img, iframe")
    assert driver.find_element(By.TAG_NAME, "body").text.count(words) >= 5
