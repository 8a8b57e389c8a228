"""A mapping that keeps what was used last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from policyguard.strict.lru import LruDict


def test_the_entry_used_longest_ago_goes_first() -> None:
    kept: LruDict[str, int] = LruDict(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert (kept.get("b"), kept.values()) == (None, [1, 3])
    kept.put("a", 4)
    assert kept.values() == [3, 4]


def test_entries_are_bounded_by_weight_and_the_last_one_stays_however_heavy() -> None:
    kept: LruDict[str, str] = LruDict(4, weigh=len)
    for text in ("aa", "bb", "c"):
        kept.put(text, text)
    assert (kept.values(), kept.weight) == (["bb", "c"], 3)
    kept.put("heavy", "heavy")
    assert (kept.values(), kept.weight) == (["heavy"], 5)
    assert (kept.pop("heavy"), kept.pop("heavy"), kept.weight) == ("heavy", None, 0)


def test_what_many_threads_ask_for_is_made_once() -> None:
    kept: LruDict[str, object] = LruDict(1)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: kept.get_or_make("key", object), range(100)))
    assert len(set(map(id, made))) == 1
    assert (kept.clear(), len(kept), "key" in kept) == (1, 0, False)
