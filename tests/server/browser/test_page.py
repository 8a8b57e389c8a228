"""The page of the service in Chromium, as a policy owner uses it: by mouse, and only by keyboard."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from integrations.http.pictures import picture
from policyguard.assessment import Assessment, Rating
from policyguard.authoring import load_cases
from policyguard.server.keys import new_key
from policyguard.testing import FakeBackend
from runs.reports.browser.conftest import _program
from server.support import Service, serving, write
from support.waiting import wait_until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = _program("CHROMIUM", "chromium", "chromium-browser", "google-chrome")
    resolver = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for argument in ["--headless=new", "--disable-gpu", "--window-size=1500,1000", resolver]:
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Driver(_program("CHROMEDRIVER", "chromedriver")))
    yield driver
    driver.quit()


class Page:
    """The page, open on a service."""

    def __init__(self, driver: WebDriver, service: Service) -> None:
        self.driver, self.service = driver, service
        driver.get("about:blank")
        driver.get(f"{service.url}/")

    def __call__(self, name: str) -> WebElement:
        return self.driver.find_element("id", name)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def until(self, condition: Callable[[], object]) -> None:
        wait_until(condition)

    def ready(self) -> Page:
        self.until(lambda: self.run("return document.body.dataset.ready"))
        return self

    def said(self, *parts: str) -> None:
        self.until(lambda: all(part in self.text("status") for part in parts))

    def drop(self, name: str, data: bytes) -> None:
        self.run(
            """const bytes = Uint8Array.from(atob(arguments[1]), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], arguments[0], { type: "image/png" }));
            document.getElementById("drop").dispatchEvent(
              new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));""",
            name,
            base64.b64encode(data).decode(),
        )

    @property
    def editor(self) -> WebElement:
        return self.driver.find_element("css selector", ".cm-content")

    def policy(self) -> str:
        lines = self.driver.find_elements("css selector", ".cm-line")
        return "\n".join(str(line.get_property("textContent")) for line in lines)

    def option(self, name: str) -> str:
        """What stands under the image called ``name``."""
        for option in self.driver.find_elements("css selector", "#grid li"):
            if name in option.text:
                return option.text
        return ""

    def messages(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "images").mkdir()
    for name in ("red", "blue"):
        (tmp_path / "images" / f"{name}.png").write_bytes(picture(name))
    write(tmp_path / "policies")
    with (tmp_path / "policies" / "colours.yaml").open("a") as file:
        file.write("defaults:\n  threshold: 0.5\n")
    with serving(tmp_path / "policies", images=tmp_path / "images", write=True) as running:
        yield running


@pytest.fixture
def page(driver: WebDriver, service: Service) -> Page:
    page = Page(driver, service).ready()
    page.said("2 images judged")
    return page


def edit(page: Page, old: str, new: str) -> None:
    """Change the text as an editor's command would: as one edit."""
    assert old in page.policy()
    page.run(
        """const view = document.querySelector(".cm-content").cmTile.view;
        const at = view.state.doc.toString().indexOf(arguments[0]);
        view.dispatch({ changes: { from: at, to: at + arguments[0].length, insert: arguments[1] } });""",
        old,
        new,
    )


def test_nothing_that_the_page_does_is_forbidden_by_its_own_content_policy(page: Page) -> None:
    page.drop("orange.png", picture("orange"))
    page.until(lambda: "flag" in page.option("orange.png"))
    page.editor.click()
    page.editor.send_keys(Keys.CONTROL, Keys.SPACE)
    assert page.messages() == []


def test_an_edit_shows_which_images_flip_and_by_which_rule(page: Page) -> None:
    assert "block" in page.option("red.png")
    page.drop("orange.png", picture("orange"))
    page.until(lambda: "flag" in page.option("orange.png"))
    edit(page, "unsafe: [red areas]", "unsafe: [red areas]\n    action: flag")
    page.said("1 of 3 images change", "the model was not asked")
    assert "was block, violates" in page.option("red.png")
    assert "was" not in page.option("orange.png")
    assert page("by-rule").text.split("\n")[-1] == "red 1 0 0"
    assert page("only-changed").is_displayed()
    page("only-changed").click()
    options = page.driver.find_elements("css selector", "#grid li")
    assert sum(option.is_displayed() for option in options) == 1
    page("revert").click()
    page.said("0 of 3 images change")


def test_mistakes_are_underlined_where_the_loader_finds_them(page: Page) -> None:
    edit(page, "action: flag", "action: flagg")
    page.until(lambda: page.driver.find_elements("css selector", ".cm-lintRange-error"))
    assert page.driver.find_element("css selector", ".cm-lintRange-error").text == "flagg"
    assert "error, line" in page("problems").text
    page.said("cannot be used")
    assert not page("save").is_enabled()
    page.driver.find_element("css selector", "#problems button").click()
    assert page.driver.switch_to.active_element == page.editor


def test_keys_and_values_are_completed(page: Page) -> None:
    page.editor.click()
    page.editor.send_keys(Keys.CONTROL, Keys.END)
    page.editor.send_keys("outc")
    page.until(lambda: page.driver.find_elements("css selector", ".cm-tooltip-autocomplete li"))
    assert "outcomes" in page.driver.find_element("css selector", ".cm-tooltip-autocomplete").text


def test_the_slider_decides_again_without_asking(page: Page) -> None:
    page.run("document.querySelector('#grid li').parentElement.querySelectorAll('li')[1].click()")
    page.until(lambda: "red.png" in page.text("detail-title"))
    calls = page.service.backend.calls
    page("threshold").send_keys(Keys.END)
    page.said("1 of 2 images change", "the model was not asked")
    assert "complies" in page.text("detail-verdict")
    assert page.service.backend.calls == calls
    page("put-threshold").click()
    page.until(lambda: "threshold: 1" in page.policy())
    page.said("1 of 2 images change")


def test_a_model_without_scores_has_no_slider_and_says_what_an_edit_costs(
    driver: WebDriver, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.png").write_bytes(picture("red"))
    write(tmp_path / "policies")
    bare = FakeBackend(Assessment(Rating.UNSAFE))
    with serving(tmp_path / "policies", backend=bare, images=tmp_path / "images") as service:
        page = Page(driver, service).ready()
        page.said("1 image judged", "the model was asked for")
        assert page("threshold").get_attribute("disabled")
        assert "ratings without scores" in page.text("threshold-hint")
        page.drop("mine.png", picture("orange"))
        page.said("1 image judged")
        assert page("threshold").get_attribute("disabled")


def test_a_test_is_kept_and_a_policy_saved(page: Page) -> None:
    page.drop("mine.png", picture("orange"))
    page.until(lambda: "flag" in page.option("mine.png"))
    page("note").send_keys("an orange, seen in a shop")
    page("keep-button").click()
    page.until(lambda: "Kept in" in page.text("kept"))
    (case,) = load_cases(page.service.folder / "cases.yaml").content.images
    assert case.expect["colours"].findings == ("orange",)
    edit(page, "unsafe: [red areas]", "unsafe: [red areas]\n    action: flag")
    page.until(lambda: page("save").is_enabled())
    page("save").click()
    assert "softened from block to flag" in page("saving").text
    page("saving-ok").click()
    assert page("saving").is_displayed(), "it is not saved unless it is said that this is meant"
    page("meant").click()
    page("saving-ok").click()
    page.said("Saved.")
    assert "action: flag\n  - id: orange" in (page.service.folder / "colours.yaml").read_text()
    assert page.service.check(picture("red")).json()["action"] == "flag"


def test_the_reason_for_loosening_a_base_is_asked_for_and_written(
    driver: WebDriver, service: Service
) -> None:
    north = "id: tests/north\nversion: 1.0.0\nextends: colours.yaml\n"
    north += "overrides:\n  orange:\n    title: Orange areas\n"
    (service.folder / "north.yaml").write_text(f"{north}    weakens: clearer\n")
    service.state.policies.poll()
    service.state.policies.poll()
    page = Page(driver, service).ready()
    page.run("location.hash = 'north'; location.reload()")
    page.until(lambda: "tests/north" in page.policy())
    page.said("2 images judged")
    edit(page, "    weakens: clearer\n", "")
    page.until(lambda: "weakens" in page("problems").text and page("save").is_enabled())
    page("save").click()
    page("reason-0").send_keys('marketing asked: "be clear"')
    page("saving-ok").click()
    page.until(lambda: "marketing asked" in (service.folder / "north.yaml").read_text())


def test_all_of_it_works_from_the_keyboard(page: Page) -> None:
    """Tab by Tab from the top: every control is reached, none keeps the focus, the grid moves by arrows."""
    page.run("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    reached = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        active = page.driver.switch_to.active_element
        name = active.get_attribute("id") or active.get_attribute("class") or active.tag_name
        if reached and name == reached[0]:
            break
        reached.append(name)
    expected = [
        "policy",
        "cm-content",
        "add",
        "only-changed",
        "image-",
        "threshold",
        "expected",
        "note",
        "keep-button",
    ]
    places = [next((n for n, name in enumerate(reached) if name.startswith(each)), None) for each in expected]
    assert None not in places, (expected, reached)
    assert places == sorted(places), "in the order of the page"  # type: ignore[type-var]
    first = page.driver.find_element("css selector", "#grid li[tabindex='0']")
    first.send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: "red.png" in page.text("detail-title"))
    page.driver.switch_to.active_element.send_keys(Keys.HOME)
    page.until(lambda: "blue.png" in page.text("detail-title"))


NAMED = {
    "button",
    "checkbox",
    "combobox",
    "slider",
    "textbox",
    "listbox",
    "option",
    "table",
    "dialog",
    "image",
}


def test_a_screen_reader_hears_a_name_for_everything(page: Page) -> None:
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [node for node in tree if not node.get("ignored")]
    roles = {node["role"]["value"] for node in nodes}
    assert {"banner", "main", "region", "heading", "listbox", "option", "slider", "status"} <= roles
    silent = [
        node["role"]["value"]
        for node in nodes
        if node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()
    ]
    assert silent == []
    (slider,) = [node for node in nodes if node["role"]["value"] == "slider"]
    assert slider["name"]["value"] == "Threshold of the policy"
    assert page.run("return document.documentElement.lang") == "en"


def test_what_files_and_policies_say_is_text_and_never_markup(driver: WebDriver, service: Service) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    file = service.folder / "colours.yaml"
    file.write_text(file.read_text().replace("title: Red", f'title: "{evil}"'))
    service.state.policies.poll()
    service.state.policies.poll()
    page = Page(driver, service).ready()
    page.said("2 images judged")
    page.drop(f"{evil}.png", picture("red"))
    page.until(lambda: "block" in page.option(".png\nblock"))
    assert evil in page.text("findings")
    assert page.driver.title == "PolicyGuard: try a policy"


def test_where_keys_are_asked_for_the_page_asks_for_one(driver: WebDriver, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    owner = new_key(keys, "owner", policies=["*"], operator=True)
    (tmp_path / "policies").mkdir()
    with serving(tmp_path / "policies", keys=keys) as service:
        page = Page(driver, service)
        page.until(lambda: page("asking").is_displayed())
        page("key").send_keys("pgk_wrong", Keys.ENTER)
        page.until(lambda: page("asking").is_displayed() and "key" in page.text("status"))
        page("key").clear()
        page("key").send_keys(owner, Keys.ENTER)
        page.ready()
        assert "tests/colours" in page.policy()
        page.drop("red.png", picture("red"))
        page.until(lambda: "block" in page.option("red.png"))
        assert owner not in page.driver.page_source


def test_what_shadows_said_is_listed_by_hash(driver: WebDriver, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    shadow = write(tmp_path, "next")
    shadow.write_text(
        shadow.read_text().replace("unsafe: [red areas]", "unsafe: [red areas]\n    action: flag")
    )
    options: dict[str, Any] = {"shadow": (f"colours={shadow}",), "shadow_share": 1.0}
    with serving(tmp_path / "policies", **options) as service:
        answer = service.check(picture("red")).json()
        wait_until(lambda: service.state.shadows.all[0].to_dict()["recent"])
        page = Page(driver, service).ready()
        page.until(lambda: "1 of 1 compared, 1 differ" in page.text("shadows"))
        assert "By rule: red 1" in page.text("shadows")
        assert answer["evidence"]["image_sha256"][:16] in page.text("shadows")


def test_windows_line_ends_are_kept(driver: WebDriver, service: Service) -> None:
    file = service.folder / "colours.yaml"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    page = Page(driver, service).ready()
    page.said("2 images judged")
    assert not page("revert").is_enabled(), "nothing was edited"
    edit(page, "title: Colours", "title: Colour")
    page.until(lambda: page("save").is_enabled())
    page("save").click()
    assert "Nothing in it loosens" in page("saving").text
    page("saving-ok").click()
    page.said("Saved.")
    assert b"title: Colour\r\n" in file.read_bytes()
    assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n")
