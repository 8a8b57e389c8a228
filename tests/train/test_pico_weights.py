"""The weights that ship: standard files, small, read alike by the stock classes, and good at their job."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from random import Random

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from evaluate import UNDECIDED, Examiner, Guard
from export import LIMIT, verify
from outside import evaluation_sets
from policyguard.pictosafe.randompolicies import draw_sample
from policyguard.pictosafe.world import GROUP_NAMES, NAMES
from stages import Settings, Workshop
from suites import SUITES
from tokens import WORDS

PICO = Path(str(files("policyguard"))) / "models" / "pico"


@pytest.fixture(scope="module")
def examiner() -> Examiner:
    return Examiner(Guard(PICO), count=60, seed=123)


def test_the_checkpoint_is_small_and_holds_standard_files_only() -> None:
    names = {path.name for path in PICO.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    assert not [name for name in names if name.endswith((".py", ".bin", ".pt", ".pkl"))]
    assert sum(path.stat().st_size for path in PICO.iterdir()) <= LIMIT


def test_its_tokenizer_has_every_word_of_the_world_as_one_token(examiner: Examiner) -> None:
    tokenizer = examiner.guard.vocabulary.tokenizer
    said = [*WORDS, *(f" {concept}" for concept in (*NAMES, *GROUP_NAMES))]
    assert not [word for word in said if len(tokenizer.encode(word, add_special_tokens=False)) != 1]


def test_the_card_counts_its_parameters_right(examiner: Examiner) -> None:
    count = sum(parameter.numel() for parameter in examiner.guard.model.parameters())
    assert f"{count / 1e6:.1f} M parameters" in (PICO / "README.md").read_text()


def test_the_stock_forward_pass_and_chat_template_agree_with_training() -> None:
    assert verify(PICO, rows=2) < 1e-3


@pytest.mark.parametrize("suite", ["fresh", "held-out policies", "edit pairs", "exempt pairs"])
def test_it_judges_fresh_scenes_under_random_policies(examiner: Examiner, suite: str) -> None:
    truth, answers = examiner.judge(SUITES[suite](Random(suite), 60))
    assert (truth == answers).mean() > 0.88


def test_a_large_rendering_is_judged_like_its_original(examiner: Examiner) -> None:
    samples = SUITES["fresh"](Random(8), 60)
    (_, small), (_, large) = (examiner.judge(samples, scale=scale) for scale in (1, 4))
    assert (small == large).mean() > 0.95


def test_it_does_not_decide_about_pictures_from_outside(examiner: Examiner) -> None:
    rng = Random(9)
    pictures = [
        picture for pictures in evaluation_sets(3, seed=9, glyphs=False).values() for picture in pictures
    ]
    answers = examiner.guard.answers([draw_sample(rng)[1] for _ in pictures], pictures)
    assert np.mean(answers == UNDECIDED) > 0.95


def test_a_run_goes_on_from_a_model_s_weights(examiner: Examiner, tmp_path: Path) -> None:
    import torch

    work, fresh = (Workshop(Settings(tmp_path, start=start)) for start in (PICO, None))
    theirs = examiner.guard.model.state_dict()
    assert all(torch.equal(weights, theirs[name]) for name, weights in work.model.state_dict().items())
    assert not work.model.model.language_model.embed_tokens.weight.requires_grad
    assert work.settings.apart(1.0) < fresh.settings.apart(1.0)
