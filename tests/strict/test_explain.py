"""Pydantic's errors as lines: each mistake once, at its place, with what to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from policyguard.strict.explain import Hints, explain, fields_at


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Leaf(Part):
    name: str
    size: int = 0


class Tree(Part):
    leaf: Leaf | None = None
    leaves: Annotated[tuple[Leaf, ...], BeforeValidator(tuple), Field(max_length=3)] = ()
    map: dict[str, Annotated[Leaf, BeforeValidator(lambda value: value)]] = {}
    way: Literal["up", "down"] = "up"


def lines(value: Mapping[str, Any], hints: Hints) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Tree.model_validate(value)
    return [str(problem) for problem in explain(caught.value, Tree, "f", hints=hints)]


@pytest.mark.parametrize("path", [("leaf",), ("leaves", 0), ("map", "x")])
def test_the_keys_of_a_place_are_found_through_annotations(path: tuple[str | int, ...]) -> None:
    assert fields_at(Tree, path) == ("name", "size")


@pytest.mark.parametrize("path", [("way",), ("leaf", "name", "x"), ("nothing",), ("leaves", 0, "size", 1)])
def test_a_place_that_holds_no_model_has_no_keys(path: tuple[str | int, ...]) -> None:
    assert fields_at(Tree, path) == ()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"leaf": {"nmae": "x"}}, "f: leaf.nmae: unknown key 'nmae': did you mean `name:`?"),
        ({"leaves": [{"title": "x"}]}, "f: leaves[0].title: unknown key 'title': did you mean `name:`?"),
        ({"map": {"a": {"name": 1}}}, "f: map.a.name: expected text, found the number 1: put it in quotes"),
        ({"leaf": {"name": "x", "way": "up"}}, "f: leaf.way: unknown key 'way': it belongs at the top level"),
        ({"way": "don"}, "f: way: expected up or down, found the text 'don': did you mean down?"),
        ({"\x1b[0m": 1}, "f: \\x1b[0m: unknown key '\\x1b[0m': known here are leaf, leaves, map, way"),
    ],
)
def test_a_mistake_is_one_line(value: Mapping[str, Any], line: str) -> None:
    assert lines(value, Hints(synonyms={"title": "name"})) == [line]


def test_the_words_are_those_of_the_file_s_language() -> None:
    homes = {"leaves": "in a leaf", "map": "in a leaf that has a name"}
    assert lines({"leaf": 1, "size": 1}, Hints(syntax="toml", homes=homes)) == [
        "f: leaf: expected a table, found the number 1",
        "f: size: unknown key 'size': it belongs under `leaf` or in a leaf or in a leaf that has a name",
    ]
