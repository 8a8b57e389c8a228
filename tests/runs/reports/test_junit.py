"""JUnit XML: valid, and read back by another parser."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import junitparser
import pytest
import xmlschema

from policyguard.authoring import CaseReport, CaseResult, Status
from policyguard.runs.reports.junit import write_cases
from policyguard.runs.run import ImageStatus, Unchecked
from runs.reports.support import every_kind, finding, image, stopped, written

SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "schemas" / "junit.xsd")


def read(text: str) -> junitparser.JUnitXml:
    return junitparser.JUnitXml.fromstring(text.encode())


def results(text: str) -> dict[str, tuple[str, str]]:
    """Image -> kind of result and its message."""
    found = {}
    for suite in read(text):
        for case in suite:
            kinds = [(type(result).__name__, result.message) for result in case.result]
            assert len(kinds) <= 1
            found[case.name] = kinds[0] if kinds else ("Passed", "")
    return found


@pytest.mark.parametrize("ending", [{}, stopped()], ids=["whole", "stopped"])
def test_it_is_valid(tmp_path: Path, ending: dict[str, Any]) -> None:
    SCHEMA.validate(written(tmp_path, "junit", every_kind(), **ending))


def test_a_run_without_images_is_valid(tmp_path: Path) -> None:
    text = written(tmp_path, "junit", [])
    SCHEMA.validate(text)
    assert [] == list(read(text))


def test_each_image_is_a_case_with_the_result_that_fits_its_status(tmp_path: Path) -> None:
    found = results(written(tmp_path, "junit", every_kind()))
    assert {
        "art/fine.png": "Passed",
        "art/gun.png": "Failure",
        "art/two.png": "Failure",
        "art/pills.png": "Passed",
        "art/museum.png": "Skipped",
        "art/broken.png": "Error",
        "art/let-through.png": "Passed",
        "art/nameless.png": "Failure",
        "ads/smoke.png": "Failure",
        "ads/clip.gif": "Passed",
    } == {name: kind for name, (kind, _) in found.items()}
    assert "Weapons (0.91)" == found["art/gun.png"][1]
    assert "accepted by Ann until 2027-06-30: museum piece" == found["art/museum.png"][1]
    assert "the file is not an image" == found["art/broken.png"][1]


def test_the_counts_of_each_suite_are_those_of_its_cases(tmp_path: Path) -> None:
    suites = list(read(written(tmp_path, "junit", every_kind(), **stopped())))
    assert ["house", "house, team/ads", "not checked", "set-up"] == [suite.name for suite in suites]
    for suite in suites:
        said = (suite.tests, suite.failures, suite.errors, suite.skipped)
        suite.update_statistics()
        assert said == (suite.tests, suite.failures, suite.errors, suite.skipped), suite.name


def test_an_image_that_was_not_reached_is_an_error(tmp_path: Path) -> None:
    late = (Unchecked("b.png", "the run was out of time"),)
    text = written(tmp_path, "junit", [image("a.png")], unchecked=late)
    assert ("Error", "the run was out of time") == results(text)["b.png"]


def test_a_flagged_image_is_named_in_the_output_of_its_suite(tmp_path: Path) -> None:
    text = written(tmp_path, "junit", [image("p.png", ImageStatus.FLAGGED, finding("drugs", 0.8))])
    assert "<system-out>flagged: p.png: Drugs (0.80)\n</system-out>" in text


@pytest.mark.parametrize(
    "name", ["\x00\x01\x1b[31m", "\ud800", "\ufffe\uffff", "]]>", "a\r\nb", "<&\"'>", "\x85"]
)
def test_a_character_that_xml_cannot_hold_does_not_break_it(name: str, tmp_path: Path) -> None:
    broken = image(f"{name}.png", ImageStatus.FAILED, finding(), rationale=name, reason=name)
    text = written(tmp_path, "junit", [broken])
    SCHEMA.validate(text)
    ((_, (kind, message)),) = results(text).items()
    assert ("Failure", True) == (kind, message.startswith("Weapons (0.91)"))


def test_the_machine_is_not_named(tmp_path: Path) -> None:
    (suite,) = read(written(tmp_path, "junit", [image()]))
    assert "localhost" == suite.hostname


def test_policy_tests_say_what_failed_and_what_is_known_to(tmp_path: Path) -> None:
    verdict = image(reason="the server is down").verdict
    results = (
        CaseResult(
            "red.png", "house", Status.FAILED, ("expected outcome complies",), (verdict,), note="n\nm"
        ),
        CaseResult("black.png", "house", Status.XFAILED, ("no",), (verdict,), xfail='<later> & "quoted"'),
        CaseResult("brown.png", "house", Status.PASSED, (), (verdict,), line=5),
        CaseResult("grey.png", "house", Status.XPASSED, (), (verdict,), xfail="later"),
        CaseResult("blue.png", "house", Status.ERROR, ("expected outcome complies",), (verdict,)),
    )
    path = tmp_path / "cases.xml"
    write_cases(path, CaseReport("cases.yaml", "tiny/guard", {"house": "house.yaml"}, results, 5, 1.0))
    (suite,) = ET.parse(path).getroot()
    assert ("5", "2", "1", "1") == tuple(suite.attrib[n] for n in ("tests", "failures", "errors", "skipped"))
    cases = {case.attrib["name"]: case for case in suite}
    messages = {name: [inner.attrib["message"] for inner in case] for name, case in cases.items()}
    assert {
        "red.png": ["expected outcome complies"],
        "black.png": ['xfail: <later> & "quoted" (no)'],
        "brown.png": [],
        "grey.png": ["this holds now: delete `xfail:` (later)"],
        "blue.png": ["the server is down"],
    } == messages
    assert ("house", "5") == (cases["brown.png"].attrib["classname"], cases["brown.png"].attrib["line"])
    assert ["n m", "cases.yaml"] == [cases["red.png"][0].text, cases["red.png"].attrib["file"]]
