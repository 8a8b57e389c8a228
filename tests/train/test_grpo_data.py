"""GRPO's prompts: both labels under every policy text, adjacent twins, variants, filter, watch."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from policyguard.dialects import PicoDialect
from policyguard.errors import ConfigurationError, PolicyGuardError
from policyguard.pictosafe.rules import PictoPolicy, is_unsafe, symbolic_level, violating
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.policy import ResolvedPolicy, load_policy
from policyguard.train.data import LabelRow
from policyguard.train.difficulty import Measured, filter_units, measure_units
from policyguard.train.grpo_data import Prompt, Units, build_units
from policyguard.train.recipe import Difficulty, Variants, Watch
from policyguard.train.rows import Located
from policyguard.train.variants import read_wordings, rename, reorder, reword
from policyguard.train.watch import collapse_of, watch_callback
from support.training import BROKEN, POLICY

RESOLVED = POLICY.resolve()
ALL = Variants(swap=1.0, exempt=0.5, subset=0.5, rename=0.5, reorder=0.5, reword=0.5)
NONE = Variants(swap=0, exempt=0, subset=0, rename=0, reorder=0, reword=0)


def item(
    number: int, label: str, rules: tuple[str, ...], policy: ResolvedPolicy, pair: str | None = None
) -> Located[LabelRow]:
    row = LabelRow(
        image=f"{number}.png",
        sha256=f"{number:064x}",
        source="drawn",
        licence="CC0-1.0",
        policy="x",
        label=label,  # type: ignore[arg-type]
        category=rules[0] if rules else None,
        violations=rules,
        pair_id=pair,
    )
    return Located(row, Path(f"{number}.png"), policy)


def fits(policy: ResolvedPolicy) -> bool:
    return True


def pico_fits(policy: ResolvedPolicy) -> bool:
    try:
        return bool(PicoDialect().render(policy))
    except PolicyGuardError:
        return False


def build(items: list[Located[LabelRow]], settings: Variants, *, seed: int = 0) -> Units:
    return build_units(items, settings, wordings={}, fits=fits, seed=seed)


def coloured(count: int) -> list[Located[LabelRow]]:
    """As many unsafe rows (three rules in turn) as safe ones."""
    rules = list(BROKEN.values())
    unsafe = [item(number, "unsafe", (rules[number % 3],), RESOLVED) for number in range(count)]
    return unsafe + [item(count + number, "safe", (), RESOLVED) for number in range(count)]


@pytest.fixture(scope="module")
def scenes() -> tuple[list[Located[LabelRow]], dict[Path, Scene]]:
    """PictoSafe scenes under three levels, with exact violations."""
    rng = random.Random(0)
    levels = ("pictosafe/l2", "pictosafe/l3", "pictosafe/l5")
    resolved = {level: load_policy(level).resolve() for level in levels}
    shown, rows = {}, []
    for number in range(150):
        scene = draw_scene(rng)
        shown[Path(f"{number}.png")] = scene
        for level in levels:
            rules = tuple(dict.fromkeys(rule for rule, _ in violating(symbolic_level(level), scene)))
            rows.append(item(number, "unsafe" if rules else "safe", rules, resolved[level]))
    return rows, shown


def text_classifier_accuracy(units: Units) -> float:
    """Of the best classifier there can be that sees the policy's text alone."""
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for prompt in units.prompts:
        by_text[prompt.policy.text][prompt.label] += 1
    return sum(max(labels.values()) for labels in by_text.values()) / len(units.prompts)


@pytest.mark.parametrize("settings", [ALL, NONE], ids=["variants", "plain"])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_classifier_that_sees_only_the_text_is_right_half_of_the_time(
    seed: int, settings: Variants, scenes: tuple[list[Located[LabelRow]], dict[Path, Scene]]
) -> None:
    units = build_units(scenes[0], settings, wordings={}, fits=pico_fits, seed=seed)
    assert len(units.prompts) > 150
    assert text_classifier_accuracy(units) == 0.5


def test_every_aligned_pair_of_prompts_holds_both_labels_under_one_text() -> None:
    prompts = build(coloured(30), ALL).prompts
    for first, second in zip(prompts[::2], prompts[1::2], strict=True):
        assert {first.label, second.label} == {"safe", "unsafe"}
        assert first.policy.text == second.policy.text


@pytest.mark.parametrize("seed", range(4))
def test_no_variant_changes_the_label_of_an_image(
    seed: int, scenes: tuple[list[Located[LabelRow]], dict[Path, Scene]]
) -> None:
    rows, shown = scenes
    units = build_units(rows, ALL, wordings={}, fits=pico_fits, seed=seed)
    for prompt in units.prompts:
        symbols = PictoPolicy.from_resolved(prompt.policy)
        assert is_unsafe(symbols, shown[prompt.path]) is (prompt.label == "unsafe")
        if prompt.label == "unsafe":
            assert {rule for rule, _ in violating(symbols, shown[prompt.path])} == set(prompt.categories)


def test_swapped_images_have_both_labels_so_the_image_alone_says_nothing() -> None:
    units = build(
        [item(number, "unsafe", (list(BROKEN.values())[number % 3],), RESOLVED) for number in range(30)], ALL
    )
    swaps = [half for half in units.halves if half.kind == "swap"]
    assert len(swaps) >= 20
    labels: dict[Path, set[str]] = defaultdict(set)
    for half in swaps:
        for prompt in half.prompts:
            labels[prompt.path].add(prompt.label)
    assert all(found == {"safe", "unsafe"} for found in labels.values())
    assert all(one.unit == other.unit for one, other in zip(swaps[::2], swaps[1::2], strict=True))


def test_the_two_images_of_an_edit_pair_stand_side_by_side_under_one_policy() -> None:
    rows = [item(0, "unsafe", ("warm",), RESOLVED, "p"), item(1, "safe", (), RESOLVED, "p"), *coloured(9)[2:]]
    (pair,) = [half for half in build(rows, ALL).halves if half.kind == "pair"]
    assert (pair.first.path.name, pair.second.path.name) == ("0.png", "1.png")


def test_an_image_with_other_labels_under_other_policies_is_asked_under_both_in_one_unit(
    scenes: tuple[list[Located[LabelRow]], dict[Path, Scene]],
) -> None:
    units = build_units(scenes[0], NONE, wordings={}, fits=pico_fits, seed=0)
    across = [half for half in units.halves if half.kind == "across"]
    assert len(across) > 20
    for one, other in zip(across[::2], across[1::2], strict=True):
        assert one.unit == other.unit
        assert one.first.path == other.second.path
        assert one.first.policy.text != other.second.policy.text


def test_rows_of_a_policy_with_one_label_are_dropped_and_counted() -> None:
    anarchy = load_policy("safeedit/l1").resolve()
    rows = [*coloured(4), *(item(100 + number, "safe", (), anarchy) for number in range(7))]
    units = build(rows, NONE)
    assert units.dropped == 7
    assert {prompt.policy.id for prompt in units.prompts} == {"colours"}


def test_the_rarer_label_is_repeated_and_no_row_is_lost() -> None:
    rows = [item(0, "unsafe", ("warm",), RESOLVED), *(item(n, "safe", (), RESOLVED) for n in range(1, 8))]
    units = build(rows, NONE)
    assert (len(units), units.dropped) == (7, 0)
    assert text_classifier_accuracy(units) == 0.5


def test_letters_follow_the_new_order_and_categories_stay_rule_ids() -> None:
    rng = random.Random(1)
    turned = reorder(RESOLVED, rng)
    assert turned.text != RESOLVED.text
    assert set(turned.keys.values()) == set(RESOLVED.keys.values())


def test_renaming_hides_titles_but_no_item_and_rewording_uses_given_wordings_only() -> None:
    rng = random.Random(1)
    hidden = rename(RESOLVED, rng)
    assert "Warm" not in hidden.text
    assert all(word in hidden.text for word in ("red", "lime", "violet"))
    said = reword(RESOLVED, rng, {"red": ["scarlet", "crimson"]})
    words = {word for rule in said.rules for word in rule.unsafe}
    assert words - {"red", "scarlet", "crimson"} == {"orange", "green", "lime", "blue", "violet"}


def test_wordings_of_another_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wordings.json").write_text('{"red": "scarlet"}')
    with pytest.raises(ConfigurationError, match="lists of texts"):
        read_wordings(str(tmp_path / "wordings.json"))


class Answers:
    """The share of right answers to the first prompt of each half: always, at times, never; others always."""

    def __init__(self, units: Units) -> None:
        order = zip(units.halves, [1.0, 0.5, 0.0] * 4, strict=True)
        self._shares = {half.first.path: share for half, share in order}
        self.asked: list[Prompt] = []
        self.left = 10**6

    def __call__(self, prompts: Sequence[Prompt]) -> list[float]:
        if self.left < len(prompts):
            raise KeyboardInterrupt
        self.left -= len(prompts)
        self.asked += prompts
        return [self._shares.get(prompt.path, 1.0) for prompt in prompts]


def test_the_filter_drops_halves_that_teach_nothing_keeps_balance_and_measures_once(tmp_path: Path) -> None:
    units = build(coloured(12), NONE)
    answers = Answers(units)
    for _ in range(2):
        measured = measure_units(units, shares=answers, folder=tmp_path, run="r", batch=4)
        assert len(answers.asked) == 24  # the second time it is read from the file
        kept = filter_units(units, Difficulty(filter=True, keep_at_most_easy=0.25), measured, seed=0)
        assert [half.first for half in measured].count(0.5) == 4
        assert len(kept) == 5
        assert text_classifier_accuracy(kept) == 0.5
    measure_units(units, shares=answers, folder=tmp_path, run="another model", batch=4)
    assert len(answers.asked) == 48


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_measuring_and_all_get_the_same_filter(world: int, tmp_path: Path) -> None:
    units = build(coloured(12), NONE)
    answers = [Answers(units) for _ in range(world)]

    def measure(rank: int) -> list[Measured]:
        return measure_units(
            units, shares=answers[rank], folder=tmp_path, run="r", batch=5, rank=rank, world=world
        )

    with ThreadPoolExecutor(world) as pool:
        measured = list(pool.map(measure, range(world)))
    assert all(one == measured[0] for one in measured)
    assert [len(one.asked) for one in answers] == [24 // world] * world


def test_measuring_that_was_stopped_goes_on_with_what_is_written_also_on_fewer_ranks(tmp_path: Path) -> None:
    units = build(coloured(12), NONE)
    first, second = Answers(units), Answers(units)
    first.left = 7
    with pytest.raises(KeyboardInterrupt):
        measure_units(units, shares=first, folder=tmp_path, run="r", batch=3, rank=0, world=2)
    with (tmp_path / "difficulty-0.jsonl").open("a") as file:
        file.write('{"prompt": "cut sho')
    measured = measure_units(units, shares=second, folder=tmp_path, run="r", batch=1)
    assert len(first.asked) == 6
    assert len(second.asked) == 24 - 6
    assert measured == measure_units(units, shares=Answers(units), folder=tmp_path / "other", run="r")


def test_a_filter_that_would_leave_nothing_keeps_all() -> None:
    units = build(coloured(4), NONE)
    assert filter_units(units, Difficulty(filter=True), [Measured(1.0, 1.0)] * len(units), seed=0) == units


@pytest.mark.parametrize(
    ("seen", "collapsed"),
    [
        ({"recall_safe": 0.0, "recall_unsafe": 1.0}, True),
        ({"recall_safe": 1.0, "recall_unsafe": 0.01}, True),
        ({"recall_safe": 0.6, "recall_unsafe": 0.6, "zero_variance": 0.99}, True),
        ({"recall_safe": 0.6, "recall_unsafe": 0.6, "zero_variance": 0.5}, False),
        ({"recall_safe": 0.06}, False),
        ({"recall_safe": 0.6, "recall_unsafe": 0.6, "readable": 0.01}, True),
    ],
)
def test_one_answer_or_no_variance_is_a_collapse(seen: dict[str, float], collapsed: bool) -> None:
    assert (collapse_of(seen, Watch()) is not None) is collapsed


def test_that_nothing_can_be_read_is_said_before_recalls_that_follow_from_it() -> None:
    figures = {"recall_safe": 0.0, "recall_unsafe": 0.0, "readable": 0.0, "zero_variance": 1.0}
    assert "0.000 of the answers can be read" in (collapse_of(figures, Watch()) or "")


def test_the_watch_stops_after_patience_and_grace_and_logs_each_step(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    watch = watch_callback(Watch(patience=3, grace=5), tmp_path / "watch.jsonl")
    control, state = TrainerControl(), TrainerState()
    collapsed = {"reward": 0.5, "verdict/recall_safe": 1.0, "verdict/recall_unsafe": 0.0, "entropy": 0.1}
    healthy = collapsed | {"verdict/recall_unsafe": 0.5}
    stops = []
    for step, logs in enumerate(
        [collapsed, collapsed, healthy, collapsed, collapsed, {"loss": 1.0}, collapsed], 1
    ):
        state.global_step = step
        watch.on_log(None, state, control, logs=logs)
        stops.append(control.should_training_stop)
    assert stops == [False] * 6 + [True]
    assert "recall of unsafe is 0.000" in watch.stopped
    assert len([json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]) == 6


def test_a_resumed_run_repeats_no_line_of_the_watch_and_goes_on_counting(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    log, state = tmp_path / "watch.jsonl", TrainerState()
    collapsed = {"reward": 0.5, "verdict/recall_safe": 1.0, "verdict/recall_unsafe": 0.0, "entropy": math.nan}
    for first, last in ((1, 4), (3, 4)):  # killed after update 4, with a checkpoint after 2
        watch, control = watch_callback(Watch(patience=4, grace=0), log), TrainerControl()
        state.global_step = first - 1
        watch.on_train_begin(None, state, control)
        for state.global_step in range(first, last + 1):
            watch.on_log(None, state, control, logs=collapsed)
        assert control.should_training_stop
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]


def test_lone_rows_are_kept_in_twos_of_both_labels_only_where_asked_for() -> None:
    policies = [load_policy(name).resolve() for name in ("safeedit/l2", "safeedit/l3", "safeedit/l4")]
    rows = [
        item(0, "unsafe", (policies[0].rules[0].id,), policies[0]),
        item(1, "safe", (), policies[1]),
        item(2, "safe", (), policies[2]),
    ]
    assert (len(build(rows, NONE)), build(rows, NONE).dropped) == (0, 3)
    kept = build(rows, NONE.model_copy(update={"lone": "keep"}))
    assert [prompt.label for prompt in kept.prompts] == ["unsafe", "safe"]
    assert kept.dropped == 1


def test_rows_of_one_label_make_prompts_where_asked_for() -> None:
    rows = [item(number, "safe", (), RESOLVED) for number in range(6)]
    kept = build(rows, ALL.model_copy(update={"lone": "keep"}))
    assert [prompt.label for prompt in kept.prompts] == ["safe"] * 6
