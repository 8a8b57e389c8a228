"""Users' suites: run by a real pytest in a folder of their own, without a model, from recorded answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.support import server_like, short_sighted
from cli.support import picture, red
from policyguard import Guard
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cache.recording import Recording, RecordingBackend, write_recording
from policyguard.testing import FakeBackend
from runs.support import POLICY, pictures

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
ENTRY_POINTS = {"policyguard": "policyguard.runs.pytest_plugin.plugin"}
TEST = """
def test_it(assert_image_allowed):
    assert_image_allowed("{image}"{options})
"""


class Suite:
    """A project with one policy and pictures good.png and bad.png, whose answers are recorded."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root = pytester.path
        pytester.makeini("[pytest]\npolicyguard_policy = ./house.yaml\npolicyguard_replay = answers.json\n")
        (self.root / "house.yaml").write_text(POLICY.format(id="house"))
        pictures(self.root, "good.png", score=0)
        pictures(self.root, "bad.png", score=255)
        self.record(red, "good.png", "bad.png")

    def record(
        self, answer: Callable[[AssessmentRequest], Any] | Any, *images: str, explain: bool = False
    ) -> None:
        backend = RecordingBackend(FakeBackend(answer))
        guard = Guard(str(self.root / "house.yaml"), backend=backend, explain=explain)
        for image in images:
            guard.check(self.root / image)
        write_recording(self.root / "answers.json", Recording(backend.model, backend.entries))

    def test(self, image: str = "good.png", options: str = "", *arguments: str, **outcomes: int) -> str:
        """Run a test of one image; ``outcomes`` is what pytest counts. Gives the output."""
        self.pytester.makepyfile(test_one=TEST.format(image=image, options=options))
        return self.run(*arguments, **outcomes or {"passed": 1})

    def run(self, *arguments: str, **outcomes: int) -> str:
        result = self.pytester.runpytest_inprocess(
            "-p", "policyguard.runs.pytest_plugin.plugin", "-p", "no:cacheprovider", *arguments
        )
        if outcomes:
            result.assert_outcomes(**outcomes)
        return result.stdout.str() + result.stderr.str()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is named, so that it does not matter whether this checkout is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    return Suite(pytester)


def test_an_allowed_image_passes(suite: Suite) -> None:
    suite.test("good.png")


def test_a_blocked_image_fails_with_scores_thresholds_the_rule_s_words_and_how_to_accept_it(
    suite: Suite,
) -> None:
    said = suite.test("bad.png", failed=1)
    for part in (
        "ImageNotAllowedError: bad.png is not allowed",
        "image: 8 x 8, sha256 ",
        "verdict: block (violates, score 1.000) by fake",
        "house 1.0.0, rule arms: Arms (score 1.000, violates from 0.5)",
        "must not show: weapons",
        "to accept it: policyguard baseline update bad.png --reason WHY --until DATE",
        'assert_image_allowed("bad.png")',
    ):
        assert part in said
    assert "pytest_plugin.py" not in said  # the test's line is shown, and not ours


def test_what_a_sensitive_rule_often_allows_elsewhere_is_not_said_to_be_allowed(suite: Suite) -> None:
    (suite.root / "house.yaml").write_text(
        POLICY.format(id="house") + "    status: sensitive\n    safe: [toy weapons]\n"
    )
    suite.record(red, "bad.png")
    said = suite.test("bad.png", failed=1)
    assert "nor, though often allowed: toy weapons" in said
    assert "may show" not in said


def test_the_guard_fixture_gives_verdicts(suite: Suite) -> None:
    suite.pytester.makepyfile("def test_it(guard):\n    assert not guard.check('bad.png').allowed")
    suite.run(passed=1)


def test_every_test_shares_one_backend(suite: Suite) -> None:
    suite.pytester.makepyfile(
        """
        seen = []
        def test_one(guard):
            seen.append(guard.backend)
        def test_two(guard, assert_image_allowed):
            assert guard.backend is seen[0]
            assert assert_image_allowed("good.png").allowed
        """
    )
    suite.run(passed=2)


def test_an_image_that_is_missing_fails(suite: Suite) -> None:
    said = suite.test("gone.png", failed=1)
    assert "gone.png could not be judged" in said


def test_an_image_without_a_recorded_answer_fails_and_is_told_how_to_record(suite: Suite) -> None:
    pictures(suite.root, "new.png", score=7)
    said = suite.test("new.png", failed=1)
    assert "answers.json holds no recorded answer: this image is not in it" in said
    assert "pytest --policyguard-record" in said


def test_an_image_without_a_recorded_answer_fails_even_where_the_policy_lets_errors_through(
    suite: Suite,
) -> None:
    house = suite.root / "house.yaml"
    house.write_text(house.read_text() + "outcomes: {error: allow, unscannable: allow, undecided: allow}\n")
    pictures(suite.root, "new.png", score=7)
    assert "holds no recorded answer" in suite.test("new.png", ", degraded='allow'", failed=1)


def test_a_recorded_answer_does_not_outlive_the_policy_s_wording(suite: Suite) -> None:
    house = suite.root / "house.yaml"
    house.write_text(house.read_text().replace("weapons", "weapons of any kind"))
    assert "not under policy 'house' as it is worded now" in suite.test("good.png", failed=1)


def test_a_recorded_answer_is_decided_afresh_under_a_new_threshold(suite: Suite) -> None:
    suite.record(0.4, "good.png")
    suite.test("good.png")
    house = suite.root / "house.yaml"
    house.write_text(house.read_text() + "defaults: {threshold: 0.3}\n")
    assert "violates from 0.3" in suite.test("good.png", failed=1)


@pytest.mark.parametrize("answer", [server_like, short_sighted])
def test_a_recorded_answer_that_left_scores_unread_is_none_under_a_threshold_that_needs_them(
    suite: Suite, answer: Callable[[AssessmentRequest], Assessment]
) -> None:
    house = suite.root / "house.yaml"
    words = house.read_text()
    house.write_text(words.replace("title: Arms", "title: Arms\n    threshold: 0.6"))
    suite.record(answer, "good.png")
    suite.test("good.png")
    house.write_text(words.replace("title: Arms", "title: Arms\n    threshold: 0.2"))
    said = suite.test("good.png", failed=1)
    assert "the scores that the thresholds of policy 'house' need today were not read" in said
    assert "pytest --policyguard-record" in said


def test_a_fast_answer_is_none_for_a_test_that_wants_reasons(suite: Suite) -> None:
    assert "not in the reading 'explain'" in suite.test("good.png", ", explain=True", failed=1)


def test_the_model_s_reasons_are_shown_where_they_were_asked_for(suite: Suite) -> None:
    suite.record(red, "bad.png", explain=True)
    assert "the model's reasons: scripted" in suite.test("bad.png", ", explain=True", failed=1)


def test_an_image_let_through_unjudged_fails_unless_the_test_allows_that_and_is_listed_then(
    suite: Suite,
) -> None:
    house = suite.root / "house.yaml"
    house.write_text(house.read_text() + "outcomes: {undecided: allow}\n")
    suite.record(Assessment(Rating.UNDECIDED), "good.png")
    said = suite.test("good.png", failed=1)
    assert "good.png could not be judged" in said
    assert "degraded='allow'" in said
    said = suite.test("good.png", ", degraded='allow'")
    assert "test_one.py::test_it: let through unjudged: good.png: allow (undecided)" in said


def test_a_refusal_of_the_model_is_recorded_and_fails(suite: Suite) -> None:
    suite.record(Failure(FailureKind.REFUSED, "I would rather not"), "good.png")
    said = suite.test("good.png", failed=1)
    assert "I would rather not" in said


def test_a_failure_of_the_model_is_not_recorded(suite: Suite) -> None:
    suite.record(Failure(FailureKind.ERROR, "the server is down"), "good.png")
    assert [] == json.loads((suite.root / "answers.json").read_text())["answers"]


def test_a_flagged_image_passes_and_is_listed(suite: Suite) -> None:
    house = suite.root / "house.yaml"
    house.write_text(house.read_text() + "defaults: {action: flag}\n")
    assert "test_one.py::test_it: flagged: bad.png" in suite.test("bad.png")


def test_the_baseline_accepts_an_image_until_its_day(suite: Suite) -> None:
    import hashlib

    entry = {"path": "bad.png", "policy": "house", "rules": ["arms"], "by": "Ann", "reason": "a museum"}
    entry |= {"sha256": hashlib.sha256((suite.root / "bad.png").read_bytes()).hexdigest()}
    baseline = suite.root / ".policyguard-baseline.jsonl"
    baseline.write_text(json.dumps(entry | {"until": "2999-01-01"}) + "\n")
    assert "accepted by Ann until 2999-01-01: bad.png" in suite.test("bad.png")
    baseline.write_text(json.dumps(entry | {"until": "2001-01-01"}) + "\n")
    assert "accepted by Ann until 2001-01-01: a museum" in suite.test("bad.png", failed=1)


def test_a_marker_gives_a_test_its_own_policy(suite: Suite) -> None:
    suite.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.policyguard(policy="pictosafe/l3")
        def test_marked(guard):
            assert [p.id for p in guard.policies] == ["pictosafe/l3"]

        def test_plain(guard):
            assert [p.id for p in guard.policies] == ["house"]

        @pytest.mark.policyguard(policy=["./house.yaml", "pictosafe/l1"])
        class TestSeveral:
            def test_both(self, guard):
                assert len(guard.policies) == 2
        """
    )
    suite.run("--strict-markers", passed=3)


def test_a_marker_with_a_typing_error_fails_its_test(suite: Suite) -> None:
    suite.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.policyguard(polcy="pictosafe/l3")
        def test_it(assert_image_allowed):
            assert_image_allowed("good.png")
        """
    )
    assert "takes policy= and explain=, and nothing else" in suite.run(failed=1)


def test_the_project_file_gives_policies_by_path(suite: Suite) -> None:
    suite.pytester.makeini("[pytest]\npolicyguard_replay = answers.json\n")
    (suite.root / "policyguard.toml").write_text('[[policies]]\npaths = "b*.png"\npolicy = "./house.yaml"\n')
    assert "rule arms" in suite.test("bad.png", failed=1)
    assert "no policy to check images under" in suite.test("good.png", failed=1)


def test_paths_in_the_project_file_hold_for_a_test_in_another_folder(suite: Suite) -> None:
    suite.pytester.makeini("[pytest]\npolicyguard_replay = answers.json\n")
    (suite.root / "policyguard.toml").write_text('policy = "./house.yaml"\n')
    suite.pytester.makepyfile(
        """
        def test_it(assert_image_allowed, tmp_path, monkeypatch, request):
            monkeypatch.chdir(tmp_path)
            assert_image_allowed(request.config.rootpath / "good.png")
        """
    )
    suite.run(passed=1)


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ("policyguard_replay = gone.json\npolicyguard_policy = ./house.yaml", "there is no recording"),
        ("policyguard_replay = answers.json\npolicyguard_policy = ./gone.yaml", "gone.yaml"),
        ("policyguard_replay = answers.json", "no policy to check images under"),
        (
            "policyguard_replay = answers.json\npolicyguard_policy = ./house.yaml\npolicyguard_model = pico",
            "was recorded with model 'fake', and the suite names 'pico'",
        ),
        ("policyguard_policy = ./house.yaml", "POLICYGUARD_MODEL"),
    ],
)
def test_a_set_up_that_cannot_work_fails_tests_with_one_clear_message(
    suite: Suite, ini: str, message: str
) -> None:
    suite.pytester.makeini(f"[pytest]\n{ini}\n")
    assert message in suite.test("good.png", failed=1)
    suite.pytester.makepyfile(test_one="def test_it(guard):\n    pass")
    said = suite.run(errors=1)
    assert message in said
    assert "Traceback" not in said


BROKEN = {
    "no JSON": "{",
    "another file": "[]",
    "another format": '{"policyguard_recording": 3, "model": {}, "answers": []}',
    "no model": '{"policyguard_recording": 1, "answers": []}',
    "no answers": '{"policyguard_recording": 1, "model": {"id": "m"}}',
    "an answer without a key": '{"policyguard_recording": 1, "model": {"id": "m"}, "answers": [{}]}',
    "not a number": '{"policyguard_recording": 1, "model": {"id": "m"}, "answers": [NaN]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_recording_that_cannot_be_understood_answers_nothing(suite: Suite, content: str) -> None:
    (suite.root / "answers.json").write_text(content)
    assert "answers.json is not a recording" in suite.test("good.png", failed=1)


@pytest.mark.parametrize(
    "change",
    [
        {"rating": "fine"},
        {"p_unsafe": "0"},
        {"p_unsafe": True},
        {"rule_scores": [0]},
        {"rule_scores": {"arms": None}},
        {"scoring": "mine"},
        {"rationale": 3},
        {"extra": 1},
        {"reading": "none"},
        {"reading": "explain"},
        {"blind_below": "0"},
        {"cached": True},
    ],
)
def test_an_answer_edited_into_nonsense_spoils_the_recording(suite: Suite, change: dict[str, Any]) -> None:
    file = suite.root / "answers.json"
    content = json.loads(file.read_text())
    content["answers"][0]["answer"] |= change
    file.write_text(json.dumps(content))
    assert "answers.json is not a recording: answer 1" in suite.test("good.png", failed=1)


def test_a_score_out_of_range_in_a_recording_is_an_error_and_no_pass(suite: Suite) -> None:
    file = suite.root / "answers.json"
    content = json.loads(file.read_text())
    for entry in content["answers"]:
        entry["answer"]["p_unsafe"] = -1
    file.write_text(json.dumps(content))
    assert "not probabilities" in suite.test("good.png", failed=1)


def first_format(suite: Suite) -> None:
    """Write the recording as it was before it said for which thresholds an answer was read."""
    file = suite.root / "answers.json"
    content = json.loads(file.read_text()) | {"policyguard_recording": 1}
    for entry in content["answers"]:
        entry["picture"] = entry.pop("frame")
        del entry["decisions"]
    file.write_text(json.dumps(content))


def test_a_recording_of_the_first_format_answers_where_it_holds_enough(suite: Suite) -> None:
    first_format(suite)
    suite.test("good.png")
    suite.test("bad.png", failed=1)


def test_an_answer_of_the_first_format_that_may_have_been_cut_to_thresholds_is_none(suite: Suite) -> None:
    house = suite.root / "house.yaml"
    house.write_text(house.read_text().replace("title: Arms", "title: Arms\n    threshold: 0.2"))
    suite.record(Assessment(Rating.SAFE, 0.3, 1.0, rule_scores={"arms": 0.0}), "good.png")
    suite.test("good.png")
    first_format(suite)
    assert "need today were not read" in suite.test("good.png", failed=1)


def test_answers_for_two_sets_of_thresholds_are_recorded_side_by_side(suite: Suite) -> None:
    house = suite.root / "house.yaml"
    words = house.read_text()
    backend = RecordingBackend(FakeBackend(server_like))
    for threshold in (0.6, 0.2):
        house.write_text(words.replace("title: Arms", f"title: Arms\n    threshold: {threshold}"))
        Guard(str(house), backend=backend).check(suite.root / "good.png")
    write_recording(suite.root / "answers.json", Recording(backend.model, reversed(backend.entries)))
    for threshold, outcomes in ((0.6, {"passed": 1}), (0.2, {"failed": 1})):
        house.write_text(words.replace("title: Arms", f"title: Arms\n    threshold: {threshold}"))
        assert "holds no recorded answer" not in suite.test("good.png", **outcomes)


def test_a_bare_rating_is_replayed_under_the_thresholds_it_was_recorded_for_alone(suite: Suite) -> None:
    suite.record(Assessment(Rating.SAFE), "good.png")
    suite.test("good.png")
    house = suite.root / "house.yaml"
    house.write_text(house.read_text() + "defaults: {threshold: 0.7}\n")
    assert "need today were not read" in suite.test("good.png", failed=1)


def test_a_recording_holds_no_picture(suite: Suite) -> None:
    assert len(picture(255)) < (suite.root / "answers.json").stat().st_size < 4000


def test_record_and_replay_exclude_each_other(suite: Suite) -> None:
    said = suite.run("--policyguard-record=a.json", "--policyguard-replay=b.json")
    assert "--policyguard-record and --policyguard-replay exclude each other" in said


CASES = """\
policies:
  house: {policy}
images:
  - image: good.png
    expect: {{house: complies}}
  - image: bad.png
    note: drawn by hand
    expect: {{house: {bad}}}
pairs:
  - {{unsafe: bad.png, safe: good.png}}
"""


def cases(suite: Suite, name: str = "cases.yaml", bad: str = "violates", policy: str = "house.yaml") -> None:
    (suite.root / name).write_text(CASES.format(bad=bad, policy=policy))


def opted_in(suite: Suite, pattern: str = "cases.yaml") -> None:
    suite.pytester.makeini(f"[pytest]\npolicyguard_replay = answers.json\npolicyguard_cases = {pattern}\n")


def test_cases_are_collected_one_item_for_each_image_or_pair_and_policy(suite: Suite) -> None:
    cases(suite)
    opted_in(suite)
    said = suite.run("-v", passed=3)
    assert "cases.yaml::bad.png / good.png[house]" in said


@pytest.mark.parametrize("name", ["cases.yaml", "policyguard.yaml", "test_cases.yml"])
def test_a_file_of_cases_that_nobody_named_is_left_alone(suite: Suite, name: str) -> None:
    (suite.root / name).write_text("- not: ours\n")
    suite.test("good.png", passed=1)


def test_a_case_that_does_not_hold_fails_with_what_was_expected_and_the_line(suite: Suite) -> None:
    cases(suite, bad="complies")
    opted_in(suite)
    said = suite.run(passed=2, failed=1)
    assert "expected outcome complies, found violates (findings arms)" in said
    assert "cases.yaml:8: bad.png[house]" in said
    assert "note: drawn by hand" in said


def test_a_case_known_to_fail_is_an_xfail_and_one_that_holds_after_all_fails(suite: Suite) -> None:
    opted_in(suite)
    cases(suite, bad="{outcome: complies, xfail: nobody has drawn it anew}")
    suite.run(passed=2, xfailed=1)
    cases(suite, bad="{outcome: violates, xfail: nobody has drawn it anew}")
    assert "this holds now: delete `xfail:`" in suite.run(passed=2, failed=1)


def test_a_case_without_a_recorded_answer_fails_whatever_it_expects(suite: Suite) -> None:
    suite.record(red, "good.png")
    for expected in ("error", "{outcome: violates, xfail: known}"):
        cases(suite, bad=expected)
        opted_in(suite)
        assert "holds no recorded answer" in suite.run(passed=1, failed=2)


def test_a_file_of_cases_that_is_wrong_is_an_error_of_collection(suite: Suite) -> None:
    opted_in(suite)
    cases(suite, policy="gone.yaml")
    said = suite.run(errors=1)
    assert "cases.yaml:2:10: policies.house: there is no file 'gone.yaml'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("pattern", ["gone.yaml", "**/gone*.yaml", "/gone/cases.yaml"])
def test_a_pattern_for_cases_that_finds_nothing_stops_the_run(suite: Suite, pattern: str) -> None:
    opted_in(suite, pattern)
    said = suite.run()
    assert "policyguard_cases: there is no file" in said


def test_patterns_find_cases_in_folders(suite: Suite) -> None:
    (suite.root / "sub").mkdir()
    for name in ("house.yaml", "good.png", "bad.png"):
        (suite.root / name).rename(suite.root / "sub" / name)
    cases(suite, "sub/cases.yaml")
    opted_in(suite, "**/cases.yaml")
    suite.run(passed=3)


def test_a_suite_that_does_not_use_it_loads_none_of_it(suite: Suite) -> None:
    suite.pytester.makepyfile(
        """
        import sys

        def test_it():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert not loaded & {"PIL", "pydantic", "numpy", "torch", "transformers", "httpx", "yaml"}
            ours = {name for name in sys.modules if name.startswith("policyguard.runs.")}
            assert ours == {"policyguard.runs.pytest_plugin", "policyguard.runs.pytest_plugin.plugin"}
        """
    )
    result = suite.pytester.runpytest_subprocess("-p", "policyguard.runs.pytest_plugin.plugin")
    result.assert_outcomes(passed=1)


def installed(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the entry points of pyproject.toml where an installed package has them."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ENTRY_POINTS == project["entry-points"]["pytest11"]
    folder = suite.root / "site" / "policyguard_plugin-1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: policyguard-plugin\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in ENTRY_POINTS.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    monkeypatch.syspath_prepend(suite.root / "site")
    monkeypatch.setenv("PYTHONPATH", f"{suite.root / 'site'}:{ROOT / 'src'}")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")


def test_the_entry_point_loads_it_and_p_no_policyguard_leaves_it_out(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(suite, monkeypatch)
    suite.pytester.makepyfile(test_one=TEST.format(image="good.png", options=""))
    suite.pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    suite.pytester.makepyfile(test_one="def test_it():\n    pass")
    result = suite.pytester.runpytest_subprocess("-p", "no:policyguard", "-W", "ignore")
    result.assert_outcomes(passed=1)


@pytest.mark.timeout(300)  # two workers load the model
def test_a_real_model_is_recorded_by_the_workers_of_xdist_and_replayed_without_one(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(suite, monkeypatch)
    suite.pytester.makeini("[pytest]\npolicyguard_policy = pictosafe/l3\n")
    suite.pytester.makepyfile(
        test_one=f"""
        import pytest

        @pytest.mark.parametrize("name", ["picnic", "beach"])
        def test_it(assert_image_allowed, name):
            assert_image_allowed({str(ROOT / "examples/images")!r} + f"/{{name}}.png")
        """
    )
    run = suite.pytester.runpytest_subprocess
    recorded = run("-n", "2", "--policyguard-model=pico", "--policyguard-record=made/answers.json")
    recorded.assert_outcomes(passed=2)
    recorded.stdout.fnmatch_lines(["2 recorded answers of pico in *made/answers.json"])
    assert 2 == len(json.loads((suite.root / "made/answers.json").read_text())["answers"])

    (suite.root / "conftest.py").write_text(
        "import sys\ndef pytest_unconfigure():\n    assert 'torch' not in sys.modules\n"
    )
    run("-n", "2", "--policyguard-replay=made/answers.json").assert_outcomes(passed=2)


def test_a_recording_that_cannot_be_written_makes_the_run_fail(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    suite.pytester.makeini("[pytest]\npolicyguard_policy = pictosafe/l3\n")
    (suite.root / "taken").write_text("a file where a folder should be")
    suite.pytester.makepyfile(test_one=TEST.format(image=ROOT / "examples/images/picnic.png", options=""))
    # In a process of its own: torch cannot be loaded twice, and a run in this one forgets its modules.
    result = suite.pytester.runpytest_subprocess(
        "-p",
        "policyguard.runs.pytest_plugin.plugin",
        "--policyguard-model=pico",
        "--policyguard-record=taken/a.json",
    )
    result.assert_outcomes(passed=1)
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stdout.fnmatch_lines(["error: the recording *taken/a.json cannot be written: *"])


def test_a_picture_made_in_the_test_is_judged_by_its_pixels(suite: Suite) -> None:
    suite.pytester.makepyfile(
        """
        from PIL import Image

        def test_it(assert_image_allowed):
            assert_image_allowed(Image.new("RGB", (8, 8), (0, 0, 0)))
        """
    )
    suite.run(passed=1)


def test_the_program_names_its_options_in_the_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "policyguard.runs.pytest_plugin.plugin", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    for name in ("--policyguard-model", "--policyguard-record", "--policyguard-replay", "policyguard_cases"):
        assert name in done.stdout
