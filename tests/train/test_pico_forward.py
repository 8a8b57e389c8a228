"""pico's training code shows the model what the package shows it, and its forward pass is the stock one."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np  # noqa: E402

from batches import ANSWER, BACKGROUND, OUTSIDE, Collator, Row, text_of, token_targets  # noqa: E402
from export import chat  # noqa: E402
from forward import Forward, patches  # noqa: E402
from losses import WEIGHTS, Teacher, objective  # noqa: E402
from model import TOKENS, Shape, build_model  # noqa: E402
from policyguard.dialects.pico import PicoDialect  # noqa: E402
from policyguard.pictosafe.language import Item  # noqa: E402
from policyguard.pictosafe.rules import PictoPolicy, PictoRule  # noqa: E402
from policyguard.pictosafe.scene import Placement, Scene, draw_scene  # noqa: E402
from policyguard.pictosafe.world import GROUP_NAMES, NAMES  # noqa: E402
from rows import draw_rows  # noqa: E402
from tokens import IMAGE, KEYS, LABELS, Vocabulary, build_tokenizer  # noqa: E402

SMALL = Shape(hidden=32, layers=3, heads=2, kv_heads=1, head_dim=16, vision_hidden=32, vision_layers=1)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(build_tokenizer())


@pytest.fixture(scope="module")
def teacher(vocabulary: Vocabulary) -> Teacher:
    model = build_model(vocabulary.tokenizer, SMALL, seed=0).eval()
    return Teacher(Forward(model, compile=False), vocabulary, Collator(vocabulary))


def test_every_word_of_the_world_is_one_token(vocabulary: Vocabulary) -> None:
    for word in (*(f" {name}" for name in (*NAMES, *GROUP_NAMES)), *KEYS, *LABELS, " exempt", " framed"):
        assert len(vocabulary.ids(word)) == 1


def test_text_outside_the_vocabulary_survives_the_tokenizer(vocabulary: Vocabulary) -> None:
    text = " A no Zeppelins, ähnlich 42!\n"
    assert vocabulary.tokenizer.decode(vocabulary.ids(text)) == text


def test_training_reads_a_policy_exactly_as_the_dialect_renders_it() -> None:
    for row in draw_rows(Random(3), 40, 1):
        (prompt,) = PicoDialect().render(row.policy.to_policy().resolve())
        assert prompt.messages[0].parts == (text_of(row.policy),)


def test_listed_concepts_know_their_section_context_and_rule(vocabulary: Vocabulary) -> None:
    policy = PictoPolicy(
        (
            PictoRule((Item("weapons"), Item("cat", "framed")), (Item("knife", "prohibited"),)),
            PictoRule((Item("dog"),), (), "exempt"),
            PictoRule((Item("dog"),)),
        )
    )
    batch = Collator(vocabulary)([Row(policy, (None,))])
    listed = batch.section[0] >= 0
    assert batch.section[0][listed].tolist() == [0, 1, 5, 0]
    assert batch.key[0][listed].tolist() == [0, 0, 0, 2]


def test_the_answer_is_verdict_first_broken_rule_and_its_pictograms(vocabulary: Vocabulary) -> None:
    policy = PictoPolicy((PictoRule((Item("food"),)), PictoRule((Item("animals"),))))
    places = (Placement("dog", 53, 5, 30, 0, None, 0), Placement("cat", 5, 5, 30, 0, "framed", 1))
    rows = [Row(policy, (Scene(places, 0, 0, 1.0), Scene((), 0, 0, 1.0), None))]
    answers = Collator(vocabulary)(rows).answer[0]
    spoken = [vocabulary.tokenizer.decode([t for t in answer.tolist() if t >= 0]) for answer in answers]
    assert spoken == [" unsafe B cat dog<|im_end|>", " undecided<|im_end|>", " undecided<|im_end|>"]
    assert answers.shape[-1] == ANSWER


def test_tokens_show_the_pictogram_that_covers_them() -> None:
    shows, context, who = token_targets(Scene((Placement("dog", 8, 8, 36, 0, "prohibited", 0),), 0, 0, 1.0))
    grid = shows.reshape(6, 6)
    assert (grid[1, 1], grid[5, 5]) == (NAMES.index("dog"), BACKGROUND)
    assert (context == 2).sum() == (who == 0).sum() == (shows >= 0).sum() > 4
    assert (token_targets(None)[0] == OUTSIDE).all()


def test_tokens_show_the_uppermost_of_pictograms_that_overlap() -> None:
    below, above = Placement("dog", 5, 5, 36, 0, None, 0), Placement("cat", 37, 5, 30, 0, "framed", 0)
    shows, context, _ = token_targets(Scene((below, above), 0, 0, 1.0))
    row, contexts = shows.reshape(6, 6)[1].tolist(), context.reshape(6, 6)[1].tolist()
    dog, cat = NAMES.index("dog"), NAMES.index("cat")
    assert row == [dog, dog, cat, cat, BACKGROUND, BACKGROUND]
    assert contexts == [0, 0, 1, 1, 0, 0]


def test_scrambling_renames_in_the_policy_and_in_the_pictures_alike(teacher: Teacher) -> None:
    batch = teacher.collator(draw_rows(Random(6), 8, 2))
    scrambled = teacher.scramble(batch, 1.0)
    scrambled = replace(scrambled, which=torch.ones_like(scrambled.which))
    images = teacher.image_targets(batch.shows, batch.context, scrambled)
    plain = teacher.image_targets(batch.shows, batch.context)
    on = batch.shows >= 0
    assert (images[on] != plain[on]).any(-1).all()
    assert torch.equal(images[~on], plain[~on])
    row, picture, token = (int(index[0]) for index in on.nonzero(as_tuple=True))
    name = int(batch.shows[row, picture, token])
    group = len(NAMES) + int(teacher.group_of[name])
    free = (
        images[row, picture, token]
        - (plain - teacher.image_targets(batch.shows, 0 * batch.context))[row, picture, token]
    )
    torch.testing.assert_close(free, scrambled.vectors[row, name] + scrambled.vectors[row, group])
    torch.testing.assert_close(teacher.rename(plain, batch, scrambled), images)


def test_some_rows_are_scrambled_whole_some_in_part_and_some_not(teacher: Teacher) -> None:
    batch = teacher.collator(draw_rows(Random(6), 48, 2))
    share = teacher.scramble(batch, 0.6).which.float().mean(1)
    assert ((share == 0) | (share == 1) | ((share > 0.3) & (share < 0.7))).all()
    assert {0.0, 1.0} < {round(float(one), 1) for one in share}


def test_pictures_that_share_a_policy_get_the_logits_they_would_get_alone(
    teacher: Teacher, vocabulary: Vocabulary
) -> None:
    """Rows of several pictures against the stock model, one picture at a time."""
    collate, rows = teacher.collator, draw_rows(Random(1), 3, 2)
    images = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    batch = collate(rows)
    with torch.no_grad():
        pixels = patches(images)
        ours = teacher.verdict_logits(batch, teacher.forward.tower(pixels).view(3, 2, TOKENS, -1))
        for r, row in enumerate(rows):
            text = vocabulary.tokenizer.apply_chat_template(
                chat(text_of(row.policy)), tokenize=False, add_generation_prompt=True
            )
            ids = torch.tensor([vocabulary.ids(text.replace(IMAGE, IMAGE * TOKENS))])
            used = torch.cat(
                (batch.policy_ids[r][~batch.policy_pad[r]], batch.picture_ids[: collate.ask + 1])
            )
            assert ids[0].tolist() == used.tolist()
            for k in range(2):
                values = pixels[2 * r + k].view(144, 3, 1, 64).expand(-1, 3, 2, 64).reshape(144, -1)
                theirs = teacher.forward.model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    pixel_values=values,
                    image_grid_thw=torch.tensor([[1, 12, 12]]),
                    mm_token_type_ids=(ids == vocabulary.id(IMAGE)).int(),
                ).logits[0, -1]
                torch.testing.assert_close(ours[r, k], theirs, atol=1e-4, rtol=1e-3)


def test_every_loss_is_finite_and_reaches_every_layer(teacher: Teacher) -> None:
    batch = teacher.collator(draw_rows(Random(2), 6, 2))
    scrambled = teacher.scramble(batch, 0.5)
    losses = teacher.losses(batch, teacher.symbolic_images(batch, scrambled), scrambled)
    objective(losses, WEIGHTS).backward()
    parameters = dict(teacher.forward.language.layers.named_parameters())
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())
    assert teacher.words.grad is None


def test_undecided_is_asked_of_pictures_without_pictograms_only() -> None:
    collate = Collator(Vocabulary(build_tokenizer()))
    for row in draw_rows(Random(4), 60, 4):
        for scene, verdict in zip(row.pictures, collate([row]).verdict[0].tolist(), strict=True):
            assert (verdict == 2) == (scene is None or not scene.placements)


def test_a_seed_draws_the_same_rows() -> None:
    assert draw_rows(Random(9), 10, 3) == draw_rows(Random(9), 10, 3)
    assert draw_scene(Random(9)) == draw_scene(Random(9))
