"""Several guards on the same images: figures by hand, rankings, labels that are wrong, the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.remote.server import ToyServer
from cli.support import picture, program, red
from policyguard.authoring.compare import Comparison, compare_guards
from policyguard.authoring.compare_page import comparison_page
from policyguard.authoring.labels import load_labels
from policyguard.backends import Backend, Stage, build_backend
from policyguard.backends.cascade import CascadeBackend
from policyguard.cache import CachedBackend, MemoryCache
from policyguard.cli import main
from policyguard.errors import ConfigurationError, PolicyError
from policyguard.policy import Policy, load_policy, parse_policy
from policyguard.testing import FakeBackend
from support.weakened import Noisy, scenes

pytest.importorskip("sklearn")
Captured = pytest.CaptureFixture[str]
RULES = [
    {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
    {"id": "gore", "title": "Gore", "unsafe": ["blood"], "threshold": 0.2},
]


def policy(**changes: object) -> Policy:
    head = {"id": "house", "version": "1.0.0", "title": "House rules", "rules": RULES}
    return parse_policy(head | changes)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Four pictures whose score is their red; the CSV file of their labels."""
    for name, shade in (("a", 250), ("b", 100), ("c", 200), ("d", 0)):
        (tmp_path / f"{name}.png").write_bytes(picture(shade))
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "image,label,rule\na.png,unsafe,arms;gore\nb.png,violates,arms\nc.png,safe,\nd.png,complies,\n"
    )
    return labels


def compared(labels: Path, *backends: Backend, under: Policy | None = None) -> Comparison:
    under = under or policy()
    known = load_labels(labels, under.resolve())
    images = [label.image for label in known.all]
    named = [(backend.model.id if index else "first", backend) for index, backend in enumerate(backends)]
    return compare_guards(under, images, named, labels=known, names=[image.name for image in images])


def test_figures_are_those_worked_out_by_hand(shop: Path) -> None:
    (guard,) = compared(shop, FakeBackend(red, rules={"arms": 0.75, "gore": 0.25})).guards
    assert guard.figures is not None
    assert guard.rules is not None
    # Red is 0.98, 0.39, 0.78 and 0; from 0.5 on it violates.
    assert (guard.figures.recall.value, guard.figures.precision.value) == (0.5, 0.5)
    assert guard.figures.auc.value == 0.75
    # r = 0.75 * red against 0.5, and 0.25 * red against 0.2.
    assert guard.rules["arms"].recall.value == 0.5
    assert guard.rules["gore"].recall.value == 1.0
    assert guard.rules["gore"].precision.value == 1.0
    assert guard.rules["gore"].auc.value == 1.0
    assert guard.confusion == {
        ("arms", "arms"): 1,
        ("gore", "arms"): 1,
        ("arms", "complies"): 1,
        ("complies", "arms"): 1,
        ("complies", "complies"): 1,
    }
    assert guard.asked == 4, "the scores of rules come with the first answer"


def test_guards_are_held_against_each_other_pair_by_pair(shop: Path) -> None:
    result = compared(shop, FakeBackend(red), FakeBackend(lambda request: 1 - red(request)))
    (pair,) = result.pairs
    assert pair.agreement == 0.0
    assert pair.paired is not None
    assert pair.paired[:2] == (2, 2)
    assert len(result.disagreements) == 4
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert found["disagreements"][0]["label"] == "arms, gore", (
        "an unsafe image that one lets pass comes first"
    )
    assert found["guards"][0]["outcomes"] == {"violates": 2, "complies": 2}


def test_rules_that_differ_are_told_from_outcomes_that_differ(shop: Path) -> None:
    strict = FakeBackend(1.0, rules={"arms": 0.9, "gore": 0.1})
    wide = FakeBackend(1.0, rules={"arms": 0.7, "gore": 0.3})
    (pair,) = compared(shop, strict, wide).pairs
    assert pair.agreement == 1.0
    assert len(pair.differing) == 4


def test_a_guard_without_scores_gets_the_figures_of_its_ratings_alone(shop: Path) -> None:
    from policyguard.assessment import Assessment, Rating

    def rated(request: object) -> Assessment:
        return Assessment(Rating.UNSAFE if red(request) > 0.5 else Rating.SAFE)  # type: ignore[arg-type]

    lenient = policy(defaults={"without_scores": "ratings"})
    (guard,) = compared(shop, backend := FakeBackend(rated), under=lenient).guards
    assert len(backend.requests) == 4  # for scores of rules there is nobody to ask
    assert guard.figures is not None
    assert guard.figures.recall.value == 0.5
    assert (guard.figures.auc.value, guard.calibration_error) == (None, None)


def test_images_without_a_label_are_judged_and_left_out_of_the_figures(shop: Path) -> None:
    labels = load_labels(shop, policy().resolve())
    extra = shop.parent / "e.png"
    extra.write_bytes(picture(77))
    images = [*(label.image for label in labels.all), extra]
    result = compare_guards(policy(), images, [("fake", FakeBackend(red))], labels=labels)
    assert len(result.guards[0].verdicts) == 5
    assert result.guards[0].figures is not None
    assert result.guards[0].figures.images == 4
    assert "1 of 5 images have no label" in result.notes[0]


def test_a_class_without_an_example_is_named(shop: Path) -> None:
    shop.write_text("image,label\na.png,unsafe\nb.png,unsafe\n")
    result = compared(shop, FakeBackend(red))
    assert result.notes == (f"{shop} has no safe image: figures that need one are missing",)


def test_without_a_guard_there_is_nothing_to_compare(shop: Path) -> None:
    with pytest.raises(ConfigurationError, match="no guard"):
        compared(shop)


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        ("image,label\ngone.png,safe", 2, "there is no image"),
        ("image,label\na.png,safe\n./a.png,safe", 3, "has a label already, on line 2"),
        ("image,label\na.png,nasty", 2, "'nasty' is no label"),
        ("image,label\n,safe", 2, "names no image"),
        ("image,lable\na.png,safe", 1, "did you mean 'label'?"),
        ("image\na.png", 1, "names no column 'label'"),
        ("image,label,rule\na.png,unsafe,arm", 2, "did you mean 'arms'?"),
        ("image,label,rule\na.png,safe,arms", 2, "one is wrong"),
        ("image,label\na.png,safe,more", 2, "more cells"),
        ('image,label\n"a.png,safe', None, "not CSV"),
    ],
)
def test_a_wrong_label_is_named_with_its_row(shop: Path, rows: str, line: int | None, said: str) -> None:
    shop.write_text(rows)
    with pytest.raises(PolicyError) as caught:
        load_labels(shop, policy().resolve())
    (problem,) = caught.value.problems
    assert problem.line == line
    assert problem.file == str(shop)
    assert said in problem.message


def test_a_spreadsheet_s_byte_order_mark_and_spaces_are_no_mistake(shop: Path) -> None:
    shop.write_text("image , label\na.png , Unsafe \n", encoding="utf-8-sig")
    (label,) = load_labels(shop, policy().resolve()).all
    assert (label.unsafe, label.rules, label.line) == (True, None, 2)


def test_labels_of_images_that_were_not_named_are_refused(shop: Path) -> None:
    labels = load_labels(shop, policy().resolve())
    with pytest.raises(PolicyError, match=r"labels.csv:3: .*b.png is labelled and not among the images"):
        compare_guards(policy(), [labels.all[0].image], [("fake", FakeBackend(red))], labels=labels)


def test_two_labels_for_one_picture_are_refused_whatever_its_files_are_called(shop: Path) -> None:
    (shop.parent / "copy.png").write_bytes((shop.parent / "a.png").read_bytes())
    shop.write_text("image,label\na.png,unsafe\ncopy.png,safe\nd.png,safe\n")
    with pytest.raises(
        PolicyError, match=r"labels.csv:3: .*copy.png is the same picture as .*a.png on line 2"
    ):
        compared(shop, FakeBackend(red))
    shop.write_text("image,label\na.png,unsafe\ncopy.png,unsafe\nd.png,safe\n")
    assert len(compared(shop, FakeBackend(red)).images) == 3
    for name in ("a.png", "copy.png"):  # not pictures at all: what a host answers where they were
        (shop.parent / name).write_text("<html>not found</html>")
    shop.write_text("image,label\na.png,unsafe\ncopy.png,safe\nd.png,safe\n")
    assert len(compared(shop, FakeBackend(red)).images) == 3


def test_policy_tests_are_labels_too(shop: Path) -> None:
    (shop.parent / "house.yaml").write_text(
        "id: house\nversion: 1.0.0\ntitle: House rules\nrules:\n"
        "  - {id: arms, title: Arms, unsafe: [weapons]}\n"
        "  - {id: gore, title: Gore, unsafe: [blood], threshold: 0.2}\n"
    )
    cases = shop.with_name("cases.yaml")
    cases.write_text(
        "policies: {house: house.yaml}\nimages:\n"
        "  - {image: a.png, expect: {house: {findings: [gore]}}}\n"
        "  - {image: c.png, expect: {house: {outcome: undecided}}}\n"
        "pairs:\n  - {unsafe: b.png, safe: d.png, rule: arms}\n"
    )
    labels = load_labels(cases, policy().resolve())
    found = [(label.image.name, label.unsafe, label.rules, label.line) for label in labels.all]
    assert found == [("a.png", True, ("gore",), 3), ("b.png", True, ("arms",), 6), ("d.png", False, (), 6)]
    with pytest.raises(ConfigurationError, match="tests no policy that reads as 'other'"):
        load_labels(cases, policy(id="other", title="Other").resolve())


def test_the_page_has_plots_and_disagreements_and_no_picture_unless_asked(shop: Path) -> None:
    result = compared(shop, FakeBackend(red), FakeBackend(lambda request: 1 - red(request)))
    page = comparison_page(result)
    assert page.count("data:image/svg+xml") == 4  # curves, reliability, and the confusion of each guard
    assert "data:image/jpeg" not in page
    assert "can be one end of its interval" in page
    assert "the score, from 0 to 1: how sure the guard is that the image violates" in page
    images = [label.image for label in load_labels(shop, policy().resolve()).all]
    shown = comparison_page(result, thumbnails=images.__getitem__)
    assert shown.count("data:image/jpeg") == shown.count('<label class="blurred"') == 4
    assert "<script" not in shown


def test_names_cannot_add_to_the_page_or_be_read_as_formulas(shop: Path) -> None:
    known = load_labels(shop, policy().resolve())
    images = [label.image for label in known.all]
    evil = "<script>alert(1)</script>$\\frac{1}{$ 🙂_x"
    result = compare_guards(
        policy(), images, [(evil, FakeBackend(red)), ("_b", FakeBackend(0.9))], labels=known
    )
    page = comparison_page(result)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_is_the_same_whenever_it_is_made(shop: Path) -> None:
    def made() -> str:
        return re.sub(
            r'<td class="number">0\.\d{3}</td>', "", comparison_page(compared(shop, FakeBackend(red)))
        )

    assert made() == made()


def test_a_row_of_guards_shows_what_it_saves_and_lets_pass_and_is_asked_once(shop: Path) -> None:
    cheap, strong = FakeBackend(red, rules={"arms": 1.0, "gore": 0.0}), FakeBackend(1.0)
    row = CascadeBackend(
        [Stage(backend=cheap, band=(0, 0.9), name="cheap"), Stage(backend=strong, name="strong")]
    )
    labels = load_labels(shop, policy().resolve())
    images = [label.image for label in labels.all]
    alone = FakeBackend(0.0)
    prices = {"cheap": 1.0, "strong": 10.0, "alone": 10.0}
    guards: list[tuple[str, Backend]] = [("row", row), ("alone", alone)]
    result = compare_guards(policy(), images, guards, labels=labels, prices=prices)
    assert result.guards[0].stages == {"cheap": 4, "strong": 3}
    assert (result.guards[0].cost, result.guards[1].cost) == (34.0, 40.0)
    assert len(strong.requests) == 3
    assert result.pairs[0].let_pass == (0, 4)
    assert result.guards[0].rules is not None
    assert result.guards[0].rules["arms"].recall.value == 1.0
    assert result.guards[0].rules["arms"].auc.value is None
    assert "strong: 0.75 requests per image" in comparison_page(result)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Backend]:
    """Backends in the place of models, by name."""
    backends: dict[str, Backend] = {}
    monkeypatch.setattr("policyguard.backends.build_backend", lambda model, **_: backends[model])
    return backends


@pytest.fixture
def house(shop: Path) -> str:
    file = shop.with_name("house.yaml")
    file.write_text(
        "id: house\nversion: 1.0.0\ntitle: House\nrules:\n  - {id: arms, title: Arms, unsafe: [weapons]}\n"
    )
    return str(file)


def test_the_command_prints_figures_and_writes_a_report(
    shop: Path, house: str, served: dict[str, Backend], capsys: Captured
) -> None:
    shop.write_text(shop.read_text().replace(";gore", ""))
    served |= {"one": FakeBackend(red), "two": FakeBackend(lambda request: 1 - red(request))}
    report = shop.with_name("report.html")
    arguments = ["compare", "-p", house, "--models", "one,two", "--labels", str(shop)]
    assert main([*arguments, "--price", "one=0.5", "--html", str(report)]) == 0
    printed = capsys.readouterr()
    assert re.search(r"recall +0\.500 \[.*0\.500 \[", printed.out)
    assert re.search(r"cost per image +0\.5 +–", printed.out)
    assert (
        "one and two: 0.0% alike, 4 images differ; they let pass 2 and 2 that the other stops; right alone"
        in printed.out
    )
    assert "2 and 2 times, p 1" in printed.out
    assert "data:image/svg" in report.read_text()
    for backend in (served["one"], served["two"]):
        assert isinstance(backend, FakeBackend)
        backend.closed = False  # each run of the program has models of its own
    assert main([*arguments, "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranking"] == ["one", "two"]


def test_the_command_compares_without_labels(
    shop: Path, house: str, served: dict[str, Backend], capsys: Captured
) -> None:
    served |= {"one": FakeBackend(red), "two": FakeBackend(1.0)}
    assert main(["compare", "-p", house, "--models", "one", "--models", "two", str(shop.parent)]) == 0
    printed = capsys.readouterr().out
    assert "4 images\n" in printed
    assert "precision" not in printed
    assert "one and two: 50.0% alike, 2 images differ" in printed


def test_the_command_names_what_could_not_be_judged(
    shop: Path, house: str, served: dict[str, Backend], capsys: Captured
) -> None:
    served |= {"one": FakeBackend(red), "two": FakeBackend(1.0)}
    broken, page = shop.with_name("broken.png"), shop.with_name("page.html")
    broken.write_bytes(b"no picture")
    arguments = ["compare", "-p", house, "--models", "one,two", "--html", str(page)]
    assert main([*arguments, str(broken), str(shop.parent)]) == 0
    printed = capsys.readouterr().err
    assert "could not be judged:\n" in printed
    assert printed.count(f"  {broken}: ") == 1
    assert f"<li>{broken}: " in page.read_text()


def test_an_image_that_several_guards_cannot_judge_counts_once_with_each_one_s_reason(shop: Path) -> None:
    from policyguard.assessment import Failure, FailureKind

    def fails(why: str) -> FakeBackend:
        return FakeBackend(Failure(FailureKind.ERROR, why))

    images = [shop.with_name(f"{name}.png") for name in "ab"]
    guards = {"one": fails("down"), "two": fails("busy"), "three": FakeBackend(red)}
    found = compare_guards(policy(), images, guards.items()).unjudged
    assert [str(image) for image in images] == [name for name, _ in found]
    assert all(re.fullmatch("one: .*down; two: .*busy", why) for _, why in found)
    guards = {"one": fails("down"), "two": fails("down")}
    found = compare_guards(policy(), images, guards.items()).unjudged
    assert all(why.endswith("down") and ";" not in why for _, why in found)


def test_the_key_of_one_server_is_not_sent_to_another(
    shop: Path, house: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-one")
    monkeypatch.setenv("TWO", "sk-two")
    with ToyServer() as one, ToyServer() as two:
        one.api_key, two.api_key = "sk-one", "sk-two"
        first, second = (f"toy-guard@{server.url}" for server in (one, two))
        ask = ["compare", "-p", house, str(shop.with_name("a.png")), "--models"]
        assert main([*ask, first]) == 0
        assert main([*ask, f"{first},{second}"]) == 2
        printed = capsys.readouterr().err
        assert (
            f"POLICYGUARD_API_KEY is sent to none of several servers: {first}, {second} are asked" in printed
        )
        assert "refuses requests without an API key" in printed
        keys = ["--key-variable", f"{first}=POLICYGUARD_API_KEY", "--key-variable", f"{second}=TWO"]
        assert main([*ask, f"{first},{second}", *keys]) == 0
        assert "is sent to none" not in capsys.readouterr().err
        assert main([*ask, first, "--key-variable", "toy-guard=TWO"]) == 2
        assert f"write it as --models does: {first}" in capsys.readouterr().err


def test_the_command_refuses_a_path_that_is_not_there(
    shop: Path, house: str, served: dict[str, Backend], capsys: Captured
) -> None:
    served["one"] = FakeBackend(red)
    assert main(["compare", "-p", house, "--models", "one", "nowhere", str(shop.parent)]) == 2
    assert "there is no 'nowhere'" in capsys.readouterr().err


def test_the_stages_of_the_project_file_are_compared_as_one_guard(
    shop: Path, house: str, served: dict[str, Backend], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.parent)
    arguments = ["compare", "-p", house, "--models", "two,stages", "--labels", str(shop)]
    shop.write_text(shop.read_text().replace(";gore", ""))
    assert main(arguments) == 2
    assert "the project file, and it has none" in capsys.readouterr().err
    served |= {"one": FakeBackend(red), "two": FakeBackend(red)}
    shop.with_name("policyguard.toml").write_text(
        '[[stages]]\nmodel = "one"\nband = [0, 0.9]\n[[stages]]\nmodel = "two"\n'
    )
    for backend in served.values():
        backend.close = lambda: None  # type: ignore[method-assign]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "stages: one was asked 1.00 times an image\nstages: two was asked 0.75 times an image" in printed
    assert "two and stages: 100.0% alike" in printed
    assert main([*arguments, "-f", "json"]) == 0
    guards = {guard["name"]: guard for guard in json.loads(capsys.readouterr().out)["guards"]}
    assert guards["stages"]["asked_by_stage"] == {"one": 4, "two": 3}
    assert guards["two"]["asked_by_stage"] is None


def test_a_band_is_measured_on_labels_and_read_by_stages(
    tmp_path: Path, house: str, served: dict[str, Backend], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["image,label"]
    for shade in [*range(60), *range(150, 210)]:
        (tmp_path / f"{shade}.png").write_bytes(picture(shade))
        rows.append(f"{shade}.png,{'safe' if shade < 100 else 'unsafe'}")
    labels, band = tmp_path / "many.csv", tmp_path / "one.band.json"
    labels.write_text("\n".join(rows))
    served |= {"one": FakeBackend(red), "two": FakeBackend(red)}
    arguments = ["calibrate", "-p", house, "--model", "one", "--labels", str(labels)]
    assert main([*arguments, "--band", str(band)]) == 2
    assert "60 unsafe images cannot show" in capsys.readouterr().err
    assert main([*arguments]) == 2
    assert "there is no --target" in capsys.readouterr().err
    allowed = ["--misses", "0.05", "--false-alarms", "0.05", "--band", str(band)]
    served["one"] = FakeBackend(red)
    assert main([*arguments, *allowed]) == 0
    assert "60 unsafe and 60 safe images" in capsys.readouterr().err
    served["one"] = FakeBackend(red)
    (tmp_path / "policyguard.toml").write_text(
        f'policy = "{house}"\n[[stages]]\nmodel = "one"\nband = "one.band.json"\nmisses = 0.05\n'
        '[[stages]]\nmodel = "two"\n'
    )
    monkeypatch.chdir(tmp_path)
    main(["check", "0.png", "200.png", "--quiet"])
    assert isinstance(served["two"], FakeBackend)
    assert not served["two"].requests


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--models", "one,one"], "names 'one' twice"),
        (["--models", "one,"], "empty name"),
        (["--models", "one", "--price", "two=1"], "which --models does not"),
        (["--models", "one", "--price", "one=-1"], "takes MODEL=PRICE"),
        (["--models", "one", "--thumbnails"], "goes with --html"),
        (["--models", "one"], "there are no images"),
    ],
)
def test_the_command_refuses_what_cannot_work(
    house: str, served: dict[str, Backend], options: list[str], said: str, capsys: Captured
) -> None:
    assert main(["compare", "-p", house, *options]) == 2
    assert said in capsys.readouterr().err


def test_wrong_labels_are_refused_before_a_model_is_loaded(shop: Path, house: str) -> None:
    shop.write_text("image,label\ngone.png,safe\n")
    run = program("compare", "-p", house, "--models", "no/such-model", "--labels", str(shop))
    assert run.returncode == 2
    assert f"{shop}:2: there is no image" in run.stderr


@pytest.fixture(scope="module")
def pico() -> CachedBackend:
    return CachedBackend(build_backend("pico"), MemoryCache(max_entries=1000, ttl=None), owns_inner=True)


def test_pico_and_two_weakened_copies_are_ranked_as_they_were_weakened(
    pico: CachedBackend, tmp_path: Path
) -> None:
    labels = scenes(tmp_path, 60, seed=11)
    under = load_policy("pictosafe/l4")
    known = load_labels(labels, under.resolve())
    images = [label.image for label in known.all]
    guards: list[tuple[str, Callable[[], Backend]]] = [
        ("weakest", lambda: Noisy(pico, 9.0)),
        ("pico", lambda: pico),
        ("weaker", lambda: Noisy(pico, 3.0)),
    ]
    result = compare_guards(under, images, ((name, make()) for name, make in guards), labels=known)
    assert [guard.name for guard in result.ranking] == ["pico", "weaker", "weakest"]
    exact = [sum(f.value or 0 for f in (g.figures.auc, g.figures.f1)) for g in result.ranking if g.figures]
    assert exact == sorted(exact, reverse=True)
