"""Known images: what is found on a list, what that means for the verdict, and which files are read."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pdqhash")
import numpy as np
from PIL import Image as Pictures
from PIL.Image import Resampling, Transpose

from policyguard import Action, ConfigurationError, Guard, Outcome
from policyguard.assessment import Failure, FailureKind
from policyguard.lists import HashList, Hit, _Near, pdq_hashes
from policyguard.runs.job import build_job
from policyguard.runs.project import find_project
from policyguard.runs.selection import select_images
from policyguard.runs.settings import Flags, merge_settings, settings_lines
from policyguard.testing import FakeBackend
from support.guards import policy


def scene(seed: int = 1, side: int = 240) -> Pictures.Image:
    """Blobs of colour, large and small, which PDQ gives a quality of 100."""
    numbers, size = random.Random(seed), (side, side * 3 // 4)
    large, small = (
        Pictures.frombytes("RGB", grid, numbers.randbytes(grid[0] * grid[1] * 3)).resize(
            size, Resampling.BICUBIC
        )
        for grid in ((8, 6), (28, 21))
    )
    return Pictures.blend(large, small, 0.5)


def encoded(image: Pictures.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pdq(image: Pictures.Image) -> str:
    return pdq_hashes([image])[0].tobytes().hex()


def listed(*images: Pictures.Image, **options: Any) -> HashList:
    meaning = {} if options.get("allow") else {"deny": "arms"}
    return HashList(map(pdq, images), **{"kind": "pdq", "name": "known"} | meaning | options)


def exactly(*files: bytes, **options: Any) -> HashList:
    meaning = {} if options.get("allow") else {"deny": "arms"}
    return HashList(map(sha256, files), **{"kind": "sha256", "name": "known"} | meaning | options)


FLAGGING = policy(rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"], "action": "flag"}])


# What a hit means


def test_a_denied_image_violates_the_rule_whatever_the_model_says_and_the_model_is_not_asked() -> None:
    backend, data = FakeBackend(0.0), encoded(scene())
    guard = Guard(policy(), backend=backend, lists=exactly(data))
    verdict = guard.check(data)
    assert (verdict.outcome, verdict.action, verdict.allowed) == (Outcome.VIOLATES, Action.BLOCK, False)
    assert [(finding.rule, finding.score) for finding in verdict.findings] == [("arms", None)]
    assert verdict.to_dict()["evidence"]["known"] == [
        {"list": "known", "rule": "arms", "kind": "sha256", "distance": 0}
    ]
    assert "on list 'known' by sha256" in verdict.evidence.notes
    assert not backend.requests
    assert guard.check(encoded(scene(2))).outcome is Outcome.COMPLIES
    assert len(backend.requests) == 1


def test_a_rule_that_only_flags_leaves_the_rest_to_the_model() -> None:
    data = encoded(scene())
    for score, action in ((0.0, Action.FLAG), (0.9, Action.FLAG)):
        backend = FakeBackend(score)
        verdict = Guard(FLAGGING, backend=backend, lists=exactly(data)).check(data)
        assert (verdict.outcome, verdict.action) == (Outcome.VIOLATES, action)
        assert len(backend.requests) == 1
    rules = [*FLAGGING.rules, {"id": "gore", "title": "Gore", "unsafe": ["blood"]}]
    both = policy(rules=[rule if isinstance(rule, dict) else rule.model_dump(mode="json") for rule in rules])
    backend = FakeBackend(0.9, rules={"gore": 1.0})
    verdict = Guard(both, backend=backend, lists=exactly(data)).check(data)
    assert {finding.rule for finding in verdict.findings} == {"arms", "gore"}
    assert verdict.action is Action.BLOCK


def test_the_very_bytes_of_an_allowed_image_need_no_model() -> None:
    backend, data = FakeBackend(0.99), encoded(scene())
    verdict = Guard(policy(), backend=backend, lists=[exactly(data, allow=True)]).check(data)
    assert (verdict.outcome, verdict.score) == (Outcome.COMPLIES, None)
    assert verdict.evidence.known == ({"list": "known", "rule": None, "kind": "sha256", "distance": 0},)
    assert "no model was asked" in verdict.evidence.notes[0]
    assert not backend.requests


def test_an_image_that_is_merely_like_an_allowed_one_is_marked_and_judged() -> None:
    backend = FakeBackend(0.99)
    verdict = Guard(policy(), backend=backend, lists=listed(scene(), allow=True)).check(scene())
    assert verdict.outcome is Outcome.VIOLATES
    assert verdict.evidence.known[0]["kind"] == "pdq"
    assert len(backend.requests) == 1


@pytest.mark.parametrize("rules", [policy(), FLAGGING], ids=["blocks", "flags"])
def test_deny_goes_before_allow(rules: Any) -> None:
    data = encoded(scene())
    lists = [exactly(data, allow=True, name="fine"), listed(scene())]
    verdict = Guard(rules, backend=FakeBackend(0.0), lists=lists).check(data)
    assert verdict.outcome is Outcome.VIOLATES
    assert [hit["list"] for hit in verdict.evidence.known] == ["fine", "known"]


def test_a_denied_file_that_cannot_be_decoded_is_denied_even_where_such_files_pass(tmp_path: Path) -> None:
    lenient = policy(outcomes={"unscannable": "allow"})
    broken = encoded(scene())[:-40]
    file = tmp_path / "broken.png"
    file.write_bytes(broken)
    guard = Guard(lenient, backend=FakeBackend(), lists=exactly(broken))
    for source in (broken, str(file), file):
        assert guard.check(source).outcome is Outcome.VIOLATES
    assert next(iter(guard.check_many([file]))).outcome is Outcome.VIOLATES
    assert guard.check(encoded(scene(3))[:-40]).outcome is Outcome.UNSCANNABLE
    allowing = Guard(policy(), backend=FakeBackend(), lists=exactly(broken, allow=True))
    assert allowing.check(broken).outcome is Outcome.UNSCANNABLE


def test_an_image_that_cannot_be_looked_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("pdqhash.compute", fails)
    known = HashList(["0" * 64], kind="pdq", deny="arms")
    verdict = Guard(policy(), backend=FakeBackend(0.0), lists=known).check(scene())
    assert verdict.outcome is Outcome.ERROR
    assert not verdict.allowed


def test_each_policy_with_the_rule_is_violated_and_others_are_not() -> None:
    other = policy(id="q", rules=[{"id": "gore", "title": "Gore", "unsafe": ["blood"]}])
    verdict = Guard([policy(), other], backend=FakeBackend(0.0), lists=listed(scene())).check(scene())
    assert [(finding.policy, finding.rule) for finding in verdict.findings] == [("p", "arms")]


def test_batches_and_event_loops_look_images_up_too() -> None:
    backend = FakeBackend(0.0)
    guard = Guard(policy(), backend=backend, lists=listed(scene(1)))
    images = [scene(seed) for seed in (3, 1, 2)]
    expected = [Outcome.COMPLIES, Outcome.VIOLATES, Outcome.COMPLIES]
    assert [verdict.outcome for verdict in guard.check_many(images)] == expected
    assert len(backend.requests) == 2

    async def alone() -> Outcome:
        return (await guard.acheck(scene(1))).outcome

    assert asyncio.run(alone()) is Outcome.VIOLATES


def test_a_cached_score_hides_no_hit_and_another_list_counts_at_once() -> None:
    data, backend = encoded(scene()), FakeBackend(0.0)
    guard = Guard(policy(), backend=backend, cache="memory")
    assert guard.check(data).outcome is Outcome.COMPLIES
    denying = Guard(policy(), backend=guard.backend, lists=listed(scene()))
    assert denying.check(data).outcome is Outcome.VIOLATES
    assert denying.with_policy(policy(id="r")).check(data).outcome is Outcome.VIOLATES
    assert guard.check(data).cached
    assert Guard(policy(), backend=guard.backend, lists=listed(scene(2))).check(data).cached


# What PDQ finds


@pytest.mark.parametrize("way", [None, *Transpose], ids=str)
def test_a_turned_or_mirrored_image_is_found(way: Transpose | None) -> None:
    image = scene() if way is None else scene().transpose(way)
    verdict = Guard(policy(), backend=FakeBackend(0.0), lists=listed(scene())).check(image)
    assert verdict.outcome is Outcome.VIOLATES
    assert verdict.evidence.known[0]["distance"] <= 10


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, "JPEG", quality=30),
        lambda image: encoded(image.resize((90, 70))),
        lambda image: encoded(image.resize((1500, 1100), Resampling.BICUBIC), "JPEG"),
        lambda image: encoded(image.point(lambda level: level * 9 // 10)),
        lambda image: encoded(image, "WEBP", quality=40),
    ],
    ids=["jpeg", "smaller", "larger", "darker", "webp"],
)
def test_an_image_saved_anew_is_found_and_others_are_not(change: Any) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.0), lists=listed(scene()))
    assert guard.check(change(scene())).outcome is Outcome.VIOLATES
    assert all(guard.check(change(scene(seed))).outcome is Outcome.COMPLIES for seed in range(2, 6))


def test_every_frame_of_an_animation_is_looked_up() -> None:
    frames = [scene(seed) for seed in (5, 6, 7)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=500)
    guard = Guard(policy(), backend=FakeBackend(0.0), lists=listed(scene(7)))
    assert guard.check(data).outcome is Outcome.VIOLATES


def test_what_shows_on_one_background_only_is_looked_up() -> None:
    """White strokes on nothing: invisible on white, an image on black."""
    levels = scene().convert("L")
    white = Pictures.merge("RGBA", [Pictures.new("L", levels.size, 255)] * 3 + [levels])
    on_black = Pictures.merge("RGB", [levels] * 3)
    guard = Guard(policy(), backend=FakeBackend(0.0), lists=listed(on_black))
    assert guard.check(encoded(white)).outcome is Outcome.VIOLATES


def test_a_flat_image_is_like_no_other() -> None:
    flat = Pictures.new("RGB", (200, 200), (3, 3, 3))
    assert len(pdq_hashes([flat])) == 0
    guard = Guard(policy(), backend=FakeBackend(0.0), lists=HashList(["0" * 64], kind="pdq", deny="arms"))
    assert guard.check(flat).outcome is Outcome.COMPLIES


def test_the_distance_is_a_setting() -> None:
    near = bytearray(bytes.fromhex(pdq(scene())))
    for bit in range(0, 220, 10):  # 22 bits
        near[bit // 8] ^= 1 << bit % 8
    for distance, outcome in ((22, Outcome.VIOLATES), (21, Outcome.COMPLIES), (31, Outcome.VIOLATES)):
        known = HashList([near.hex()], kind="pdq", deny="arms", distance=distance)
        assert Guard(policy(), backend=FakeBackend(0.0), lists=known).check(scene()).outcome is outcome


@pytest.mark.parametrize("distance", [0, 15, 16, 31, 32, 47])
def test_the_index_finds_what_comparing_with_all_finds(distance: int) -> None:
    numbers = np.random.default_rng(distance)
    rows = numbers.integers(0, 256, (3000, 32), dtype=np.uint8)
    index = _Near(bytearray(rows.tobytes()), distance)
    hits = 0
    for row in rows[:150]:
        bits = np.unpackbits(row)
        bits[numbers.choice(256, numbers.integers(0, 2 * distance + 2), replace=False)] ^= 1
        asked = np.packbits(bits)
        nearest = int(np.unpackbits(rows ^ asked, axis=1).sum(axis=1).min())
        assert index.nearest(asked[None]) == (nearest if nearest <= distance else None)
        hits += nearest <= distance
    assert 30 < hits < 150


def test_hashes_that_share_their_pieces_are_found_too() -> None:
    """A list of a million copies of one image would fill single buckets."""
    rows = np.zeros((300_000, 32), dtype=np.uint8)
    rows[:, 28:] = np.arange(300_000, dtype=np.uint32).view(np.uint8).reshape(-1, 4)
    index = _Near(bytearray(rows.tobytes()), 31)
    asked = np.zeros((1, 32), dtype=np.uint8)
    assert index.nearest(asked) == 0
    asked[0, :4] = 255
    assert index.nearest(asked) is None


def test_two_hashes_that_begin_alike_are_told_apart() -> None:
    same = "ab" * 8
    known = HashList([same + "00" * 24, same + "ff" * 24], kind="sha256", deny="arms")
    assert known.find(same + "00" * 24, None) == Hit("list", "arms", "sha256")
    assert known.find(same + "01" * 24, None) is None
    assert known.find("00" * 32, None) is None
    assert known.find("ff" * 32, None) is None


# Files

A, B = "0f" * 32, "F0" * 32


@pytest.mark.parametrize(
    ("text", "options", "count"),
    [
        (f"{A}\n{B}\n", {"kind": "pdq"}, 2),
        (f"\ufeff# from a friend\r\n\r\n{A}\r\n{A.upper()}\r\n", {"kind": "sha256"}, 1),
        (f"sha256\n{A}\n{B}\n", {}, 2),
        (f"{A}  a photo.jpg\n\\{B} *b.png\n", {"kind": "sha256"}, 2),
        (f"{A},100,bridge.jpg\n{B},60,b.jpg\n", {"kind": "pdq"}, 2),
        (f"pdq,quality\n{A},100\n{B},\n", {}, 2),
        (f'name,PDQ Hash\n"a, b",{A}\n', {}, 1),
        (f"hash\tquality\n{A}\t99.5\n", {"kind": "pdq"}, 1),
        (f"sha256,pdq\n{A},{B}\n{B},\n", {}, 3),
        (f"sha256,pdq\n{A},{B}\n", {"kind": "sha256"}, 1),
        (f"td_raw_indicator,td_type\n{A},HASH_PDQ\n{B},HASH_SHA256\n", {}, 2),
    ],
)
def test_the_formats_that_people_exchange_are_read(
    text: str, options: dict[str, Any], count: int, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    known = HashList.load(tmp_path / "a.csv", deny="arms", **options)
    assert (len(known), known.name, known.skipped) == (count, "a.csv", ())


def test_what_a_file_holds_besides_is_counted(tmp_path: Path) -> None:
    rows = [f"{A},HASH_PDQ,100", f"{B},HASH_PDQ,49", "d41d8cd9,HASH_MD5,", f"{A},HASH_SHA256,"]
    (tmp_path / "a.csv").write_text("\n".join(["indicator,type,quality", *rows]))
    known = HashList.load(tmp_path / "a.csv", deny="arms")
    assert (len(known), known.skipped) == (2, ("1 of a quality below 50", "1 of kind 'HASH_MD5'"))


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        (f"{A}\n{A[:-1]}\n", {"kind": "pdq"}, r"a\.csv:2: '0f.* is not a hash of 64 hex digits"),
        (f"# x\n{A}\n", {}, r"a\.csv:2: the file does not say what its hashes are"),
        (f"hash,quality\n{A},9\n", {}, r"a\.csv:1: the file does not say"),
        (f"pdq\n{A}\n", {"kind": "sha256"}, r"a\.csv:1: the column holds pdq hashes"),
        (f"name,size\nx,{A}\n", {"kind": "pdq"}, r"a\.csv:1: neither a hash"),
        (f"pdq,quality\n{A}\n", {}, r"a\.csv:2: 1 cells under a header of 2"),
        (f"pdq,quality\n{A},good\n", {}, r"a\.csv:2: the quality 'good'"),
        (f"pdq,quality\n{A},-3\n", {}, r"a\.csv:2: the quality '-3'"),
        (f"sha256,pdq\n{A},\n,\n", {}, r"a\.csv:3: there is no hash"),
        (f"pdq,quality\n{A},10\n", {}, "holds no hash to look up: 1 of a quality below 50"),
        ("hash,type\nab,HASH_MD5\n", {}, "holds no hash to look up: 1 of kind 'HASH_MD5'"),
        ("", {"kind": "pdq"}, "holds no hash"),
        ("sha256\n", {}, "holds no hash"),
        ('{"hashes": []}', {"kind": "pdq"}, r"a\.csv:1: neither"),
        ("\x00\x01", {"kind": "pdq"}, r"a\.csv"),
        ("\x89PNG", {"kind": "pdq"}, "not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_its_line(
    text: str, options: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=complaint):
        HashList.load(tmp_path / "a.csv", deny="arms", **options)


def test_a_list_of_the_other_kind_is_refused_and_one_of_its_own_is_not(tmp_path: Path) -> None:
    """It would match nothing, and nobody would know."""
    (tmp_path / "pdq.txt").write_text("\n".join(pdq(scene(seed, side=64)) for seed in range(60)))
    (tmp_path / "sha.txt").write_text("\n".join(sha256(bytes([seed])) for seed in range(60)))
    assert len(HashList.load(tmp_path / "pdq.txt", kind="pdq", deny="arms")) == 60
    assert len(HashList.load(tmp_path / "sha.txt", kind="sha256", deny="arms")) == 60
    with pytest.raises(ConfigurationError, match=r"pdq\.txt: these are no sha256(.|\n)*kind = 'pdq'"):
        HashList.load(tmp_path / "pdq.txt", kind="sha256", deny="arms")
    with pytest.raises(ConfigurationError, match=r"sha\.txt: these are no pdq(.|\n)*kind = 'sha256'"):
        HashList.load(tmp_path / "sha.txt", kind="pdq", deny="arms")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "either deny or allow"),
        ({"deny": "arms", "allow": True}, "either deny or allow"),
        ({"deny": "arms", "distance": 48}, "from 0 to 47"),
        ({"deny": "arms", "distance": True}, "from 0 to 47"),
        ({"deny": "arms", "distance": -1}, "from 0 to 47"),
        ({"deny": "arms", "kind": "md5"}, "'sha256' or 'pdq'"),
    ],
)
def test_settings_of_a_list_that_cannot_work_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        HashList([A], **{"kind": "pdq"} | options)


def test_the_rule_of_a_list_must_be_there_and_forbid_something() -> None:
    known = HashList([A], kind="sha256", deny="amrs", name="ncii")
    with pytest.raises(ConfigurationError, match=r"list 'ncii': there is no rule 'amrs'(.|\n)*mean 'arms'"):
        Guard(policy(), backend=FakeBackend(), lists=known)
    exempt = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "status": "exempt"},
        {"id": "gore", "title": "Gore", "unsafe": ["blood"]},
    ]
    known = HashList([A], kind="sha256", deny="arms")
    with pytest.raises(ConfigurationError, match="exempt"):
        Guard(policy(rules=exempt), backend=FakeBackend(), lists=known)
    with pytest.raises(ConfigurationError, match="no rule 'arms'"):
        Guard(policy(), backend=FakeBackend(), lists=known).with_policy(
            policy(rules=[{"id": "gore", "title": "Gore", "unsafe": ["blood"]}])
        )
    with pytest.raises(ConfigurationError, match="lists hold a str"):
        Guard(policy(), backend=FakeBackend(), lists="hashes.txt")  # type: ignore[arg-type]


def test_lists_of_the_project_file_are_looked_up_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "house.yaml").write_text(
        "id: p\nversion: 1.0.0\ntitle: P\nrules:\n  - {id: arms, title: Arms, unsafe: [weapons]}\n"
    )
    scene(1).save(tmp_path / "a.png")
    scene(2).save(tmp_path / "b.png")
    (tmp_path / "known.csv").write_text(f"pdq,quality\n{pdq(scene(1))},100\n{A},3\n")
    (tmp_path / "policyguard.toml").write_text(
        'policy = "./house.yaml"\n[[lists]]\nfile = "known.csv"\ndeny = "arms"\nname = "ncii"\n'
    )
    settings = merge_settings(Flags(), find_project())
    job = build_job(settings, select_images([], settings), backend=FakeBackend(0.0))
    assert job.notes == ["list 'ncii': 1 of a quality below 50 are not looked up"]
    (group,) = job.groups
    outcomes = [group.guard.check(name).outcome for name in ("a.png", "b.png")]
    assert outcomes == [Outcome.VIOLATES, Outcome.COMPLIES]
    (tmp_path / "policyguard.toml").write_text("\n".join(settings_lines(settings)))
    assert find_project().settings.lists == settings.project.settings.lists
    (tmp_path / "known.csv").write_text("nothing\n")
    with pytest.raises(ConfigurationError, match=r"known\.csv:1: neither"):
        build_job(settings, select_images([], settings), backend=FakeBackend(0.0))


def test_an_image_that_never_got_here_is_on_no_list() -> None:
    guard = Guard(policy(), backend=FakeBackend(), lists=listed(scene()))
    assert guard.judge_failure("x", Failure(FailureKind.ERROR, "away")).outcome is Outcome.ERROR
