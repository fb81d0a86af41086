"""What a type's JSON Schema refuses, its decoder would refuse too; the rest is let pass."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from redurable.codec import encode, plain, typed
from redurable.errors import SerialisationError
from redurable.forms import described, example, misfit, schema_of


class Colour(Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: float = 0.0
    tags: list[str] = []


@dataclass
class Nested:
    point: Point
    kind: Literal["a", "b"]
    extra: dict[str, int] | None = None


Short = Annotated[str, msgspec.Meta(min_length=1, max_length=3, pattern="^[a-z]+$")]
Small = Annotated[int, msgspec.Meta(ge=1, lt=10)]
FITS: list[tuple[Any, Any]] = [
    (bool, True), (int, 3), (float, 3), (str, "x"), (None, None), (Any, object), (int | None, None),
    (list[int], [1, 2]), (dict[str, int], {"a": 1}), (tuple[int, str], [1, "a"]), (Colour, "red"), (Short, "ab"),
    (Small, 1), (Point, {"x": 1}), (Nested, {"point": {"x": 1, "tags": ["t"]}, "kind": "a"}), (bytes, "aGk="),
]  # fmt: skip
WRONG: list[tuple[Any, Any]] = [
    (bool, 1), (int, True), (int, 1.5), (float, "1"), (str, 1), (None, 0), (int | None, "1"), (list[int], [1, "2"]),
    (list[int], {"a": 1}), (dict[str, int], {"a": "1"}), (tuple[int, str], [1, 2]), (Colour, "blue"), (Short, ""),
    (Short, "abcd"), (Short, "AB"), (Small, 0), (Small, 10), (Point, {}), (Point, {"x": "1"}), (Point, [1]),
    (Nested, {"point": {"x": 1, "tags": [1]}, "kind": "a"}), (Nested, {"point": {"x": 1}, "kind": "c"}),
    (Nested, {"kind": "a"}), (Nested, {"point": {"x": 1}, "kind": "a", "extra": {"n": "1"}}),
]  # fmt: skip


def schema(kind: Any) -> Any:
    return msgspec.json.decode(schema_of(kind) or b"{}")


@pytest.mark.parametrize(("kind", "value"), FITS)
def test_what_fits_is_let_pass(kind: Any, value: Any) -> None:
    assert misfit(value, schema(kind)) is None


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_what_does_not_fit_is_refused_as_the_type_itself_would(kind: Any, value: Any) -> None:
    assert misfit(value, schema(kind)) is not None
    with pytest.raises(SerialisationError):
        typed(kind).decode(encode(value, "it"), "it")


def test_the_place_is_named_but_not_the_value() -> None:
    assert misfit({"point": {"x": "secret"}, "kind": "a"}, schema(Nested)) == (
        "the value.point.x must be an integer, not a string"
    )


def test_a_pydantic_like_model_brings_its_own() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    assert misfit({}, schema(Model)) == "the value lacks 'n'"
    assert misfit([{"n": 1}], schema(list[Model])) is None
    assert misfit([{"n": "1"}], schema(list[Model])) is not None


def test_a_type_without_a_schema_allows_anything_here() -> None:
    class Odd:
        pass

    assert schema_of(Odd) == b""


def test_data_is_held_against_a_schema_as_json_would_say_it() -> None:
    import datetime

    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert misfit(plain(encode({"at": moment, 1: b"x"}, "it")), {"type": "object"}) is None
    assert misfit(plain(encode(moment, "it")), schema(datetime.datetime)) is None


@pytest.mark.parametrize(
    ("kind", "words", "json"),
    [
        (bool, "boolean", "true"),
        (int | None, "integer or null", "1"),
        (Colour, '"red"', '"red"'),
        (list[Point], "[{tags?: [string, ...], x: integer, y?: number}, ...]", "[]"),
        (dict[str, int], "object", "{}"),
        (Any, "anything", '"..."'),
    ],
)
def test_what_would_fit_is_told_in_words_and_by_an_example(kind: Any, words: str, json: str) -> None:
    assert described(schema(kind)) == words
    assert example(schema(kind)) == json


@pytest.mark.parametrize("kind", [Nested, Point, Colour, int | None, list[Nested], dict[str, Point]])
def test_an_example_fits(kind: Any) -> None:
    assert misfit(msgspec.json.decode(example(schema(kind))), schema(kind)) is None
