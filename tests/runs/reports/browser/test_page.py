"""The HTML report in a browser: what a reader sees and can do with the mouse, the keyboard and a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from policyguard.runs.reports.text import visible_line
from policyguard.runs.run import ImageStatus
from runs.reports.browser.conftest import FAINT, look
from runs.reports.support import every_kind, finding, image, many, run_info, stopped
from runs.reports.test_html import HOSTILE, hostile_run, picture, with_hash

pytestmark = pytest.mark.browser

Visit = Callable[..., WebDriver]


def all_of(driver: WebDriver | WebElement, selector: str) -> list[WebElement]:
    return driver.find_elements(By.CSS_SELECTOR, selector)


def one(driver: WebDriver, selector: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, selector)


def names(driver: WebDriver) -> list[str]:
    return [button.text.removeprefix("▸ ").removeprefix("▾ ") for button in all_of(driver, ".open")]


def tick(driver: WebDriver, status: str) -> None:
    one(driver, f".chip.{status} input").click()


def test_the_worst_images_come_first(visit: Visit) -> None:
    driver = visit(**stopped())
    assert [
        "failed", "failed", "failed", "failed", "unjudged", "unchecked", "flagged", "accepted",
        "passed", "passed", "passed",
    ] == [badge.text for badge in all_of(driver, ".badge")]  # fmt: skip
    assert "stopped (timeout)" == one(driver, ".ending").text
    assert not one(driver, ".pages").is_displayed()


def test_an_image_that_was_let_through_unjudged_says_so_in_the_list(visit: Visit) -> None:
    driver = visit()
    one(driver, "#search").send_keys("let-through")
    assert (
        "the server is down – could not be judged, and its policy does not block it"
        == one(driver, ".why div").text
    )


def test_search_finds_names_and_what_the_model_says(visit: Visit) -> None:
    driver = visit()
    one(driver, "#search").send_keys("LIES on the table")
    assert ["art/gun.png"] == names(driver)
    assert "1 of 10 images" == one(driver, "#count").text
    one(driver, "#search").clear()
    one(driver, "#search").send_keys("ads/")
    assert ["ads/smoke.png", "ads/clip.gif"] == names(driver)


def test_filters_by_status_policy_and_rule_work_together(visit: Visit) -> None:
    driver = visit()
    tick(driver, "failed")
    tick(driver, "flagged")
    assert ["art/gun.png", "art/two.png", "ads/smoke.png", "art/nameless.png", "art/pills.png"] == names(
        driver
    )
    Select(one(driver, "#rule")).select_by_visible_text("Drugs · house/drugs")
    assert ["art/two.png", "art/pills.png"] == names(driver)
    Select(one(driver, "#policy")).select_by_visible_text("team/ads")
    assert [] == names(driver)
    assert "0 of 10 images" == one(driver, "#count").text


def test_columns_sort_both_ways_and_say_so(visit: Visit) -> None:
    driver = visit()
    head = one(driver, "[data-sort=path]")
    head.click()
    assert sorted(names(driver)) == names(driver)
    assert "ascending" == one(driver, "th.path").get_attribute("aria-sort")
    head.click()
    assert sorted(names(driver), reverse=True) == names(driver)
    assert "descending" == one(driver, "th.path").get_attribute("aria-sort")


def test_an_image_opens_with_its_findings_and_the_policy_s_text_beside_them(visit: Visit) -> None:
    driver = visit()
    first = all_of(driver, ".open")[0]
    first.click()
    assert "true" == first.get_attribute("aria-expanded")
    left, right = all_of(driver, ".details .columns > div")
    assert "Weapons 0.910 breaks it: block" in left.text
    assert "A gun lies on the table." in left.text
    assert "A. Weapons\nMust not show:\n- guns\n- knives as weapons\nMay show:\n- kitchens" in right.text
    assert left.rect["x"] + left.rect["width"] <= right.rect["x"]
    first.click()
    assert [] == all_of(driver, ".details")


def test_the_bar_is_as_long_as_the_score_and_its_mark_stands_at_the_threshold(visit: Visit) -> None:
    driver = visit([image("a.png", ImageStatus.FAILED, finding("drugs", 0.8))])
    one(driver, ".open").click()
    bar, fill, mark = (one(driver, f".finding .bar{part}").rect for part in ("", " i", " b"))
    assert 0.8 == pytest.approx(fill["width"] / bar["width"], abs=0.01)
    assert 0.7 == pytest.approx((mark["x"] - bar["x"]) / bar["width"], abs=0.01)


def test_without_scores_the_table_has_three_columns_and_opens_over_their_whole_width(visit: Visit) -> None:
    driver = visit([image("a.png", ImageStatus.FAILED, finding(score=None)), image("b.png")])
    assert ["image", "status", "why"] == [head.text.split()[0] for head in all_of(driver, "#table thead th")]
    assert 3 == len(all_of(driver, "#body tr:first-child td"))
    assert [] == all_of(driver, ".score, svg.plot")
    one(driver, ".open").click()
    assert "Weapons breaks it: block" in one(driver, ".details .finding").text
    whole, details = one(driver, "#table").rect, one(driver, ".details > td").rect
    assert whole["width"] == pytest.approx(details["width"], abs=2)
    assert "without scores" in one(driver, "section[aria-labelledby=scores]").text


def test_everything_can_be_done_with_the_keyboard(visit: Visit) -> None:
    driver = visit()
    keys = ActionChains(driver)
    # Past the links to three sections, to the first filter: failed.
    keys.send_keys(Keys.TAB * 4).send_keys(Keys.SPACE).perform()
    assert {"failed"} == {badge.text for badge in all_of(driver, ".badge")}
    for _ in range(40):
        if driver.switch_to.active_element.get_attribute("class") == "open":
            break
        ActionChains(driver).send_keys(Keys.TAB).perform()
    ActionChains(driver).send_keys(Keys.ENTER).perform()
    assert 1 == len(all_of(driver, ".details"))
    outline = driver.switch_to.active_element.value_of_css_property("outline-style")
    assert "none" != outline


def test_letters_go_to_the_search_and_from_image_to_image(visit: Visit) -> None:
    driver = visit()
    ActionChains(driver).send_keys("jj").perform()
    buttons = all_of(driver, ".open")
    assert driver.switch_to.active_element == buttons[1]
    ActionChains(driver).send_keys("k").send_keys(Keys.ENTER).perform()
    assert driver.switch_to.active_element == buttons[0]
    assert buttons[0].get_dom_attribute("aria-expanded") == "true"
    ActionChains(driver).send_keys("/").send_keys("jk/").perform()
    assert one(driver, "#search").get_property("value") == "jk/"


def test_every_control_has_a_name(visit: Visit) -> None:
    driver = visit()
    controls = [node for node in all_of(driver, "input, select, button") if node.is_displayed()]
    assert len(controls) > 15
    assert [] == [control.get_attribute("outerHTML") for control in controls if not control.accessible_name]


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_are_shown_as_words(words: str, visit: Visit) -> None:
    images, info, ending = hostile_run(words)
    driver = visit(images, info=info, **ending)
    for button in all_of(driver, ".open"):
        button.click()
    for element in all_of(driver, "summary"):
        element.click()
    assert " ".join(visible_line(words).split()) in names(driver)
    page = one(driver, "body").text
    assert page.count(visible_line(words)) > 8
    assert 0 == len(all_of(driver, "img, iframe, object, svg [onload]"))
    assert 4 == len(all_of(driver, "script"))


def test_a_thumbnail_is_blurred_until_it_is_clicked(visit: Visit, tmp_path: Path) -> None:
    failed = with_hash(image("a.jpg", ImageStatus.FAILED, finding()), picture(tmp_path / "a.jpg"))
    driver = visit([failed], option=":thumbnails")
    assert [] == all_of(driver, "img")
    one(driver, ".open").click()
    shot, button = one(driver, ".thumbnail img"), one(driver, ".thumbnail")
    assert (96, 72) == (shot.rect["width"], shot.rect["height"])
    assert "blur(14px)" == shot.value_of_css_property("filter")
    button.click()
    assert "none" == shot.value_of_css_property("filter")
    button.send_keys(Keys.ENTER)
    assert "blur(14px)" == shot.value_of_css_property("filter")


def test_ten_thousand_images_stay_usable(visit: Visit) -> None:
    driver = visit(list(many(10_000)))
    assert 100 == len(all_of(driver, ".open"))
    assert "page 1 of 100" == one(driver, "#page").text
    elements = len(all_of(driver, "*"))
    one(driver, "#search").send_keys("009999")
    assert ["art/009999.png"] == names(driver)
    one(driver, "#search").clear()
    one(driver, "#next").click()
    assert "page 2 of 100" == one(driver, "#page").text
    one(driver, "[data-sort=score]").click()
    assert "page 1 of 100" == one(driver, "#page").text
    assert len(all_of(driver, "*")) <= elements < 10_000  # those of one page, not of all images


def test_pages_lead_to_every_image(visit: Visit) -> None:
    driver = visit([image(f"{number:03}.png") for number in range(250)])
    found = names(driver)
    while one(driver, "#next").is_enabled():
        one(driver, "#next").click()
        found += names(driver)
    assert [f"{number:03}.png" for number in range(250)] == found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_the_screen_and_can_be_read(width: int, theme: str, visit: Visit, tmp_path: Path) -> None:
    long = [image("very/" + "long-" * 40 + "name.png", ImageStatus.FAILED, finding(), rationale="word " * 80)]
    look_first = [*long, *every_kind()]
    driver = visit(look_first, **stopped())
    look(driver, width, theme)
    for button in all_of(driver, ".open")[:2]:
        button.click()
    for element in all_of(driver, "summary"):
        element.click()
    wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    assert [] == driver.execute_script(FAINT)


def test_the_rules_of_an_image_that_only_came_close_are_told_apart(visit: Visit) -> None:
    closest = finding(score=0.4, violates=False, attributed=False)
    driver = visit([image("a.png", ImageStatus.PASSED, closest)], info=replace(run_info(), images=1))
    one(driver, ".open").click()
    assert "Weapons 0.400 closest, does not break it" in one(driver, ".details").text
    assert [] == all_of(driver, ".rule.broken")


def test_a_blocked_image_under_its_closest_rule_says_what_that_is(visit: Visit) -> None:
    closest = finding(score=0.4, attributed=False)
    driver = visit([image("a.png", ImageStatus.FAILED, closest)], info=replace(run_info(), images=1))
    one(driver, ".open").click()
    assert "Weapons 0.400 closest rule: the image reaches the policy's threshold, and no rule its own" in (
        one(driver, ".details").text
    )
