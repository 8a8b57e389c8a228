"""Broken and hostile files that build on others: each refused at its place, in few words, quickly."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.compose_cases import BASE, CASES, CHANGE
from policyguard.errors import PolicyError
from policyguard.policy import load_policy
from support.work import calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("policies")
    (made / "x").mkdir()
    one = "id: {}\nversion: 1.0.0\nextends: {}\n"
    texts = {
        "base": BASE,
        "ring1": one.format("r1", "ring2.yaml"),
        "ring2": one.format("r2", "ring3.yaml"),
        "ring3": one.format("r3", "ring1.yaml"),
        "broken": BASE.replace("id: base", "id: !!str base"),
        "list": "- a\n",
        "large": BASE + "#" * 300_000,
    }
    texts |= {f"deep{i}": one.format(f"d{i}", f"deep{i + 1}.yaml") for i in range(1, 9)}
    texts["deep9"] = BASE
    for group in range(1, 4):
        names = [f"leaf{group}-{i}.yaml" for i in range(21)]
        texts[f"many{group}"] = one.format(f"m{group}", f"[{', '.join(names)}]")
        texts |= {name.removesuffix(".yaml"): BASE for name in names}
    for name, text in texts.items():
        (made / f"{name}.yaml").write_text(text)
    return made


@pytest.mark.parametrize("name", CASES)
def test_is_refused_at_its_place(name: str, folder: Path) -> None:
    marked, words = CASES[name]
    before, mark, after = marked.partition("¶")
    path = folder / "top.yaml"
    path.write_text(before + after)
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    problems = [problem for problem in caught.value.problems if words in problem.message]
    assert problems, str(caught.value)
    assert all(problem.line and problem.column for problem in caught.value.problems)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 20_000
    if mark:
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        assert place in [(problem.line, problem.column) for problem in problems], str(caught.value)
        assert f"{path}:{place[0]}:{place[1]}: " in str(caught.value)


@pytest.mark.parametrize(
    ("extends", "hint"),
    [
        ("bse.yaml", "did you mean base.yaml?"),
        ("./lower/bse.yaml", "did you mean ./lower/base.yaml?"),
        ("lower/nothing-like-it.yaml", "it starts at the folder of the file that names it, {folder}"),
        (
            "shared/base.yaml",
            "the folder of the file that names it, {folder}, which holds no folder 'shared'",
        ),
    ],
)
def test_a_base_that_is_missing_is_looked_for_from_the_file_that_names_it(
    extends: str, hint: str, folder: Path
) -> None:
    (folder / "lower").mkdir(exist_ok=True)
    (folder / "lower" / "base.yaml").write_text(BASE)
    (folder / "top.yaml").write_text(f"id: a\nversion: 1.0.0\nextends: {extends}\n")
    with pytest.raises(PolicyError, match="there is no such file") as caught:
        load_policy(folder / "top.yaml")
    assert str(caught.value).rstrip(")").endswith(hint.format(folder=folder))


def test_the_base_itself_and_a_layer_that_only_tightens_load(folder: Path) -> None:
    path = folder / "top.yaml"
    path.write_text(
        CHANGE
        + "{threshold: 0.3, status: sensitive, unsafe: {add: [a bow]}, safe: {remove: [a museum piece]}}\n"
        "rules: [{id: x, title: X, unsafe: ['{{ age }}']}]\n"
        "defaults: {threshold: 0.4, min_label_mass: 0.6, undecided_band: [0.2, 0.5]}\n"
        "outcomes: {error: block}\n"
    )
    policy = load_policy(path)
    assert not policy.weakenings
    assert policy.rules[-1].unsafe == ("18",)
    (folder / "eight.yaml").write_text("id: e\nversion: 1.0.0\nextends: deep2.yaml\n")
    assert load_policy(folder / "eight.yaml").rules
    for leaves, wrong in ((19, None), (20, "more than 64 files")):
        names = ["many1.yaml", "many2.yaml", *(f"leaf3-{i}.yaml" for i in range(leaves))]
        path.write_text(f"id: e\nversion: 1.0.0\nextends: [{', '.join(names)}]\n")
        if wrong is None:
            assert load_policy(path).rules
        else:
            with pytest.raises(PolicyError, match=wrong):
                load_policy(path)
    assert len(CASES) >= 100


def test_everything_wrong_in_all_files_is_reported_at_once(folder: Path) -> None:
    (folder / "sick.yaml").write_text(
        BASE.replace("threshold: 0.4", "threshold: 4").replace("[chess]", "chess")
    )
    (folder / "top.yaml").write_text(
        "id: top\nversion: one\nextends: [sick.yaml, base.yaml, nowhere.yaml]\nrules: [{id: x, titel: X}]\n"
        "overrides: {weapons: {status: off}}\ndrop: [gambling]\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(folder / "top.yaml")
    places = {(Path(problem.file).name, problem.field) for problem in caught.value.problems}
    assert places == {
        ("top.yaml", "version"),
        ("top.yaml", "extends[2]"),
        ("top.yaml", "rules[0].titel"),
        ("top.yaml", "overrides.weapons.status"),
        ("top.yaml", "drop[0]"),
        ("sick.yaml", "rules[0].threshold"),
        ("sick.yaml", "rules[1].safe"),
    }


def test_everything_wrong_in_a_layer_is_reported_with_what_it_does_to_its_base(folder: Path) -> None:
    (folder / "top.yaml").write_text(
        "id: top\nversion: one\nextends: base.yaml\nrules: [{id: weapons, title: W, unsafe: [x]}]\n"
        "overrides: {weapons: {threshold: 0.9}, gamblin: {}}\ndrop: [{id: gambling}]\n"
        "outcomes: {error: allow}\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_policy(folder / "top.yaml")
    assert [problem.field for problem in caught.value.problems] == [
        "version",
        "rules[0].id",
        "overrides.weapons.threshold",
        "overrides.gamblin",
        "drop[0]",
        "outcomes.error",
    ]


def test_a_web_of_diamonds_is_composed_once_each(folder: Path) -> None:
    """Every file of a level extends both of the level below: 2 to the 8th ways down, 17 files."""
    for level in range(1, 9):
        for side in "ab":
            below = "base.yaml" if level == 1 else f"[w{level - 1}a.yaml, w{level - 1}b.yaml]"
            text = f"id: w{level}{side}\nversion: 1.0.0\nextends: {below}\n"
            (folder / f"w{level}{side}.yaml").write_text(text)
    assert len(load_policy(folder / "w8a.yaml").rules) == 2
    work = {level: calls(lambda level=level: load_policy(folder / f"w{level}a.yaml")) for level in (2, 4, 8)}
    assert work[8] - work[4] < 3 * (work[4] - work[2])


def test_no_refusal_is_much_work(folder: Path) -> None:
    path = folder / "top.yaml"

    def refuse() -> None:
        with pytest.raises(PolicyError):
            load_policy(path)

    for name, (marked, _) in CASES.items():
        path.write_text(marked.replace("¶", ""))
        assert calls(refuse) < 1_500_000, name
