"""``train.evaluate``: own label rows, judged by the guard itself and held against their labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.errors import ConfigurationError
from policyguard.metrics import Answer
from policyguard.policy import Policy, parse_policy
from policyguard.strict.files import sha256_of
from policyguard.testing import FakeBackend
from policyguard.train.data import LabelRow, write_rows
from policyguard.train.evaluate import OTHERS, Evaluation, choose, few, judge
from policyguard.train.policies import write_policies
from support.training import POLICY, label_rows, provenance


def colour(request: AssessmentRequest) -> tuple[int, ...]:
    pixel = request.frame.getpixel((1, 1))
    assert isinstance(pixel, tuple)
    return pixel


def right(request: AssessmentRequest) -> float:
    """The label of ``label_rows``: white is safe."""
    return 0.1 if min(colour(request)) > 200 else 0.9


def evaluate(
    rows: Path, answer: Callable[[AssessmentRequest], object] | float, **options: bool
) -> Evaluation:
    return judge(choose(rows, split="all").items, FakeBackend(answer), **options)  # type: ignore[arg-type]


def test_a_guard_that_is_always_right_gets_all_of_every_figure(tmp_path: Path) -> None:
    report = evaluate(label_rows(tmp_path, count=16), right)
    values = report.values()
    assert (values["rows"], values["silent"]) == (16, 0)
    for name in ("accuracy", "balanced_accuracy", "f1", "recall", "specificity", "auc", "edit_pairs"):
        assert values[name] == 1.0, name
    assert report.edit_pairs[0] == 8
    figure = report.figures.accuracy
    assert figure.low is not None
    assert 0.7 < figure.low < 0.9  # sixteen images promise no more


def test_a_guard_that_calls_everything_one_thing_is_right_half_of_the_time_and_gets_no_pair(
    tmp_path: Path,
) -> None:
    rows = label_rows(tmp_path, count=16)
    for answer, recalls in ((0.1, (0.0, 1.0)), (0.9, (1.0, 0.0))):
        values = evaluate(rows, answer).values()
        assert values["balanced_accuracy"] == 0.5
        assert (values["recall"], values["specificity"]) == recalls
        assert values["edit_pairs"] == 0.0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Failure(FailureKind.ERROR, "the answer is not one JSON object"), "error"),
        (Failure(FailureKind.REFUSED, "I cannot help with that"), "refused"),
        (Failure(FailureKind.UNSCANNABLE, "the processor does not take it"), "unscannable"),
        (Assessment(Rating.UNDECIDED, p_undecided=1.0), "undecided"),
    ],
)
def test_what_has_no_answer_is_wrong_whatever_the_label(
    answer: Assessment | Failure, outcome: str, tmp_path: Path
) -> None:
    report = evaluate(label_rows(tmp_path, count=8), lambda request: answer)
    assert report.silent == {outcome: 8}
    values = report.values()
    assert values["accuracy"] == values["recall"] == values["specificity"] == 0.0
    assert not any(item.right for item in report.judged)


def test_a_policy_that_lets_undecided_images_pass_makes_no_right_answer_of_them(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, count=8)
    lax = POLICY.model_dump(mode="json", exclude_defaults=True) | {"outcomes": {"undecided": "allow"}}
    write_policies(tmp_path, {"colours": parse_policy(lax)})
    report = evaluate(rows, lambda request: Assessment(Rating.UNDECIDED, p_undecided=1.0))
    assert {item.answer for item in report.judged} == {Answer.UNDECIDED}
    assert report.values()["specificity"] == 0.0


def test_rows_about_which_a_server_cannot_be_asked_are_in_no_figure_and_are_named(tmp_path: Path) -> None:
    down = Failure(FailureKind.ERROR, "the server is down", retryable=True)
    report = evaluate(
        label_rows(tmp_path, count=8), lambda request: down if right(request) < 0.5 else right(request)
    )
    assert len(report.judged) == len(report.unasked) == 4
    assert "the server is down" in str(report.unasked[0])


def test_a_missing_image_and_another_file_in_its_place_are_named_and_left_out(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, count=8)
    names = [json.loads(line)["image"] for line in rows.read_text().splitlines()]
    (tmp_path / names[0]).unlink()
    Image.new("RGB", (9, 9)).save(tmp_path / names[1])
    chosen = choose(rows, split="all")
    assert len(chosen.items) == 6
    said = " ".join(map(str, chosen.problems))
    assert f"{names[0]} under #colours: there is no such image" in said
    assert f"{names[1]} under #colours: the file is not the one" in said


def policy_pairs(folder: Path, count: int) -> Path:
    """``count`` red pictures, each unsafe under a policy against warm colours and safe under another."""
    cold: Policy = parse_policy(
        {
            "id": "cold",
            "version": "1.0.0",
            "title": "Cold",
            "rules": [{"id": "cold", "unsafe": ["blue"], "title": "C"}],
        }
    )
    write_policies(folder, {"colours": POLICY, "cold": cold})
    rows = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (32, 32), (220, number, 20)).save(path)
        where = provenance(path, folder)
        rows.append(LabelRow(**where, policy="#colours", label="unsafe", category="warm"))  # type: ignore[arg-type]
        rows.append(LabelRow(**where, policy="#cold", label="safe"))  # type: ignore[arg-type]
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def test_a_guard_that_does_not_read_its_policy_gets_no_policy_pair(tmp_path: Path) -> None:
    rows = policy_pairs(tmp_path, 12)
    blind = evaluate(rows, 0.9)
    count, figure = blind.policy_pairs
    assert (count, figure.value) == (12, 0.0)
    assert blind.values()["accuracy"] == 0.5
    reads = evaluate(rows, lambda request: 0.9 if request.policy.id == "colours" else 0.1)
    assert reads.policy_pairs[1].value == 1.0
    assert set(reads.by_policy) == {"#colours", "#cold"}
    assert reads.edit_pairs == (0, (None, None, None))


def test_small_groups_share_their_figures(tmp_path: Path) -> None:
    report = evaluate(policy_pairs(tmp_path, 4), 0.9)
    assert set(report.by_policy) == {OTHERS}
    assert report.by_policy[OTHERS].images == 8


def test_the_rule_that_is_named_is_held_against_the_row_s(tmp_path: Path) -> None:
    report = evaluate(label_rows(tmp_path, count=12), right)  # it always names the first rule: warm
    assert report.named.value == pytest.approx(2 / 6)


def test_explanations_that_cannot_be_read_are_counted_and_take_no_rating_back(tmp_path: Path) -> None:
    def broken(request: AssessmentRequest) -> Assessment:
        assert request.reading is Reading.EXPLAIN
        return Assessment(
            Rating.UNSAFE,
            0.9,
            1.0,
            rule_scores={"warm": 1.0, "fresh": 0.0, "cold": 0.0},
            reading=Reading.EXPLAIN,
            notes=("the explanation could not be read: cut off",),
        )

    report = evaluate(label_rows(tmp_path, count=8), broken, explain=True)
    assert report.unread.value == 1.0
    assert report.values()["recall"] == 1.0
    assert evaluate(label_rows(tmp_path, count=8), right).unread.value is None


def test_ctrl_c_keeps_what_was_judged(tmp_path: Path) -> None:
    items = choose(label_rows(tmp_path, count=16), split="all").items

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    report = judge(items, FakeBackend(right), progress=stop)
    assert report.stopped
    assert len(report.judged) == 5
    assert report.values()["accuracy"] == 1.0


def test_policies_with_few_rows_each_are_judged_at_the_same_time_and_keep_their_order(tmp_path: Path) -> None:
    rows = policy_pairs(tmp_path, 6)
    backend = FakeBackend(lambda request: 0.9 if request.policy.id == "colours" else 0.1, preferred_workers=8)
    report = judge(choose(rows, split="all").items, backend)
    assert [item.row.policy for item in report.judged] == ["#colours", "#cold"] * 6
    assert report.values()["accuracy"] == 1.0


def test_a_wrong_set_up_is_raised_and_no_row_of_it_counts(tmp_path: Path) -> None:
    items = choose(policy_pairs(tmp_path, 4), split="all").items
    for workers in (1, 8):
        with pytest.raises(ConfigurationError, match="no such model"):
            judge(items, FakeBackend(ConfigurationError("no such model"), preferred_workers=workers))


def test_by_default_no_row_of_the_training_side_is_judged(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, count=8)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for line, side in zip(lines, ["train"] * 4 + ["validation"] * 2 + ["test"] * 2, strict=True):
        line |= {"split": side}
        line.pop("pair_id")
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {item.row.split for item in choose(rows).items} == {"validation", "test"}
    assert choose(rows).left_out == {"train": 4}
    assert len(choose(rows, split="train").items) == 4
    assert len(choose(rows, split="all").items) == 8
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    with pytest.raises(ConfigurationError, match=r"no good rows on the side 'held-out': it has 4 of train"):
        choose(rows)


def test_rows_without_a_split_are_on_the_side_that_the_training_run_drew(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, count=16)
    model = tmp_path / "model"
    (model / "training").mkdir(parents=True)
    record = {"data": {"rows": sha256_of(rows)}, "recipe": {"seed": 0, "data": {"held_out": 0.5}}}
    (model / "training/record.json").write_text(json.dumps(record))
    chosen = choose(rows, model=model)
    assert chosen.notes == [f"{model} was trained on this file, on its rows of the side train"]
    assert 0 < len(chosen.items) < 16
    assert chosen.left_out["train"] + len(chosen.items) == 16
    assert len(choose(rows).items) == 16


def test_few_rows_are_the_same_each_time_and_keep_pairs_whole(tmp_path: Path) -> None:
    items = choose(label_rows(tmp_path, count=16), split="all").items
    kept = few(items, 5)
    assert kept == few(items, 5)
    assert len(kept) == 4
    assert sorted(item.row.pair_id or "" for item in kept) == sorted(
        2 * sorted({item.row.pair_id or "" for item in kept})
    )
    assert len(few(items, 1)) == 1
    assert few(items, 99) == items


def test_two_labels_of_one_image_under_one_policy_are_refused(tmp_path: Path) -> None:
    rows = label_rows(tmp_path, count=4)
    first = json.loads(rows.read_text().splitlines()[1])
    other = first | {"label": "unsafe", "category": "warm", "violations": ["warm"]}
    rows.write_text(rows.read_text() + json.dumps(other) + "\n")
    with pytest.raises(ConfigurationError, match="both safe and unsafe"):
        choose(rows, split="all")


def test_every_row_is_in_the_report_with_what_the_guard_said(tmp_path: Path) -> None:
    told = evaluate(label_rows(tmp_path, count=4), right).to_dict()
    json.dumps(told, allow_nan=False)
    assert [row["right"] for row in told["rows"]] == [True] * 4
    assert {"image", "policy", "label", "outcome", "score", "rules", "reason"} <= told["rows"][0].keys()
    assert told["edit_pairs"]["pairs"] == 2
