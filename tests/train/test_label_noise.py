"""No augmentation makes a label false: measured on PictoSafe, where every label can be computed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from policyguard.dialects import PicoDialect
from policyguard.errors import PolicyGuardError
from policyguard.pictosafe.render import Renderer, styles
from policyguard.pictosafe.rules import is_unsafe, violating
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.policy import ResolvedPolicy, load_policy
from policyguard.strict.files import sha256_of
from policyguard.train.assess_data import augment
from policyguard.train.data import LabelRow, read_rows
from policyguard.train.grpo_data import build_units
from policyguard.train.importers import import_rows
from policyguard.train.preflight import inspect_recipe
from policyguard.train.recipe import Augment, Data, Variants, load_recipe
from policyguard.train.rows import Located, gather
from support.training import recipe, write_recipe

LEVEL = "pictosafe/l5"
ALL = Variants(swap=1.0, exempt=1.0, subset=1.0, rename=0, reorder=1.0, reword=0)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Scene]]:
    """300 scenes in folders called after one rule that each breaks, imported; and the scenes by hash."""
    folder = tmp_path_factory.mktemp("noise")
    rng, renderer, policy = random.Random(0), Renderer(styles()[0]), load_policy(LEVEL).resolve()
    scenes = {}
    for number in range(300):
        scene = draw_scene(rng)
        broken = violating(policy, scene)
        place = folder / "in" / (f"unsafe/{broken[0][0]}" if broken else "safe")
        place.mkdir(parents=True, exist_ok=True)
        renderer.draw(scene).save(place / f"{number}.png")
        scenes[sha256_of(place / f"{number}.png")] = scene
    import_rows("folder", folder / "in", folder / "out", policy=LEVEL, licence="CC0-1.0", origin="drawn")
    return folder / "out" / "rows.jsonl", scenes


def rows_of(path: Path, **changes: object) -> list[Located[LabelRow]]:
    rows = gather(Data(rows=[str(path)], held_out=0.0), LabelRow, seed=0, inspect=lambda item: None)
    return [Located(row.row.model_copy(update=changes), row.path, row.policy) for row in rows.train]


def fits(policy: ResolvedPolicy) -> bool:
    try:
        return bool(PicoDialect().render(policy))
    except PolicyGuardError:
        return False


def noise(labels: Iterable[tuple[Path, ResolvedPolicy, str]], scenes: dict[str, Scene]) -> float:
    """Share of labels that PictoSafe's own are not."""
    wrong = [is_unsafe(policy, scenes[path.stem]) != (label == "unsafe") for path, policy, label in labels]
    assert len(wrong) > 200
    return sum(wrong) / len(wrong)


def grpo_labels(rows: list[Located[LabelRow]]) -> list[tuple[Path, ResolvedPolicy, str]]:
    units = build_units(rows, ALL, wordings={}, fits=fits, seed=1)
    return [(prompt.path, prompt.policy, prompt.label) for prompt in units.prompts]


def assess_labels(rows: list[Located[LabelRow]]) -> list[tuple[Path, ResolvedPolicy, str]]:
    examples = augment(rows, Augment(exceptions=1.0, irrelevant=1.0), seed=1)
    return [(example.path, example.policy, str(example.answer.rating)) for example in examples]


def test_a_folder_of_one_rule_per_image_gives_no_false_prompt(
    imported: tuple[Path, dict[str, Scene]],
) -> None:
    path, scenes = imported
    rows = rows_of(path)
    assert not any(row.row.complete for row in rows if row.row.label == "unsafe")
    assert noise(grpo_labels(rows), scenes) == noise(assess_labels(rows), scenes) == 0.0


def test_the_measure_sees_what_a_false_claim_of_completeness_would_do(
    imported: tuple[Path, dict[str, Scene]],
) -> None:
    path, scenes = imported
    rows = rows_of(path, complete=True)
    assert noise(grpo_labels(rows), scenes) > 0.02
    assert noise(assess_labels(rows), scenes) > 0.02


def test_complete_rows_are_swapped_and_excepted_and_stay_true(
    imported: tuple[Path, dict[str, Scene]],
) -> None:
    path, scenes = imported
    rows = []
    for item in rows_of(path):
        assert item.policy is not None
        broken = tuple(dict.fromkeys(rule for rule, _ in violating(item.policy, scenes[item.path.stem])))
        update = {"violations": broken, "complete": True} if broken else {}
        rows.append(Located(item.row.model_copy(update=update), item.path, item.policy))
    units = build_units(rows, ALL, wordings={}, fits=fits, seed=1)
    examples = augment(rows, Augment(exceptions=1.0, irrelevant=1.0), seed=1)
    assert sum(half.kind == "swap" for half in units.halves) > 50
    assert sum(example.kind == "exception" for example in examples) > 50
    assert noise(grpo_labels(rows), scenes) == noise(assess_labels(rows), scenes) == 0.0


def row(**fields: object) -> LabelRow:
    where = {"image": "x", "sha256": "0" * 64, "source": "x", "licence": "x", "policy": LEVEL}
    return LabelRow.model_validate(where | {"label": "unsafe"} | fields)


def test_a_row_is_complete_if_it_says_so_or_lists_violations() -> None:
    assert (
        row(category="a").knows_all is row(category="a", violations=["a"], complete=False).knows_all is False
    )
    assert row(category="a", complete=True).knows_all is row(violations=["a", "b"]).knows_all is True
    assert row(label="safe").knows_all is True
    with pytest.raises(ValueError, match="complete"):
        row(complete=True)


def test_a_table_may_list_all_violations_or_say_that_one_category_is_all(tmp_path: Path) -> None:
    renderer, rng = Renderer(styles()[0]), random.Random(1)
    for number in range(4):
        renderer.draw(draw_scene(rng)).save(tmp_path / f"{number}.png")
    rules = [rule.id for rule in load_policy(LEVEL).resolve().rules]
    (tmp_path / "labels.csv").write_text(
        "path,label,category,violations,complete\n"
        f"0.png,unsafe,{rules[0]},,\n"
        f"1.png,unsafe,{rules[0]},,true\n"
        f"2.png,unsafe,,{rules[0]}; {rules[1]},\n"
        f"3.png,unsafe,,{rules[0]}; {rules[1]},no\n"
    )
    import_rows(
        "folder", tmp_path / "labels.csv", tmp_path / "out", policy=LEVEL, licence="x", origin="x", copy=False
    )
    rows = read_rows(tmp_path / "out/rows.jsonl", LabelRow).rows
    assert [row.knows_all for row in sorted(rows, key=lambda row: row.image)] == [False, True, True, False]
    assert {row.violations for row in rows} == {None, (rules[0], rules[1])}


@pytest.mark.parametrize(("stage", "what"), [("grpo", "swap"), ("assess", "exceptions")])
def test_a_dry_run_says_how_many_rows_are_left_out_of_what(
    stage: str, what: str, imported: tuple[Path, dict[str, Scene]], tmp_path: Path
) -> None:
    path, _ = imported
    changes = {"dialect": "pico"}
    if stage == "grpo":
        changes |= {"rollout": {"group": 4, "max_tokens": 8}}  # type: ignore[dict-item]
    values = recipe(stage, "pico", path, tmp_path / "out", optim={"batch": 8}, **changes)
    loaded = load_recipe(write_recipe(tmp_path / "run.yaml", values))
    unsafe = sum(row.row.label == "unsafe" for row in rows_of(path))
    assert loaded is not None
    (note,) = [note for note in inspect_recipe(loaded).notes if "complete" in note]  # type: ignore[arg-type]
    assert what in note
    assert int(note.split()[0]) <= unsafe
