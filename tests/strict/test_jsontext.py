"""JSON is read so that no two readers can see two things in it."""

from __future__ import annotations

import pytest

from policyguard.strict.jsontext import DuplicateKeyError, JsonError, parse_json, parse_object


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "holds the key 'c' twice"),
        ('{"a": NaN}', "holds NaN, which is not JSON"),
        ("[-Infinity]", "holds -Infinity, which is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        (b'"\xff"', "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not JSON: Expecting value at character 1"),
        ('{"a": 1}\n{', "is not JSON: Extra data at line 2, character 1"),
        ("1" * 10_000, "is not read: Exceeds the limit"),
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(data: str | bytes, message: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(data)
    assert str(caught.value).startswith(message)


def test_an_object_is_asked_for_where_one_is_needed() -> None:
    assert parse_object('{"a": [1, 2.5, null, "\\u00e9"]}') == {"a": [1, 2.5, None, "é"]}
    with pytest.raises(JsonError, match="is not a JSON object"):
        parse_object("[]")


def test_infinities_are_read_only_where_the_caller_says_so() -> None:
    assert parse_json("[Infinity]", constants=True) == [float("inf")]
    with pytest.raises(JsonError, match="twice"):
        parse_json('{"a": Infinity, "a": 1}', constants=True)


def test_a_key_that_stands_twice_among_very_many_is_found_in_one_pass() -> None:
    """A server may send megabytes of them; comparing each with all before it would take hours."""
    keys = [f'"k{number}": 0' for number in range(300_000)]
    with pytest.raises(DuplicateKeyError, match="k299999"):
        parse_json(f"{{{', '.join([*keys, keys[-1]])}}}")
