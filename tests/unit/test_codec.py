"""The codec: what a caller goes on with is what a replay decodes, and what cannot be kept is refused."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redurable.codec import DEFAULT_LIMIT, NIL, digest, encode, typed
from redurable.errors import PayloadTooLarge, SerialisationError


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Book:
    title: str
    pages: list[int]


class Row(TypedDict):
    a: int
    b: str | None


class Colour(enum.Enum):
    RED = "red"


class Model:
    """As pydantic's models look from outside."""

    def __init__(self, name: str) -> None:
        self.name = name

    def model_dump(self, mode: str) -> dict[str, str]:
        assert mode == "python"
        return {"name": self.name}

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if not isinstance(value["name"], str):
            raise TypeError("name must be text")
        return cls(value["name"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_plain_data_come_back_equal(value: Any) -> None:
    data, settled = typed(Any).settle(value, "it")
    assert settled == value
    assert typed(Any).decode(data, "it") == value
    assert typed(object).decode(data, "it") == value
    assert encode(value, "it") == data


@given(plain)
def test_what_is_settled_settles_to_itself(value: Any) -> None:
    data, settled = typed(Any).settle(value, "it")
    assert typed(Any).settle(settled, "it") == (data, settled)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Point, Point(1, 2)),
        (Book, Book("b", [1])),
        (Row, {"a": 1, "b": None}),
        (Colour, Colour.RED),
        (Model, Model("m")),
        (list[Model], [Model("m")]),
        (dict[str, Model | None], {"a": Model("m"), "b": None}),
        (datetime, datetime(2030, 1, 1, tzinfo=UTC)),
        (uuid.UUID, uuid.UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (dict[int, str], {1: "a"}),
        (Literal["a", 1], 1),
        (None, None),
        (int | str, "x"),
        (Annotated[int, {"unhashable": 1}], 5),
        (bytes, b"\xff"),
    ],
)
def test_annotated_values_come_back_equal_and_of_their_type(annotation: Any, value: Any) -> None:
    data, settled = typed(annotation).settle(value, "it")
    again = typed(annotation).decode(data, "it")
    assert settled == again == value
    assert type(settled) is type(again) is type(value)


def test_live_and_replayed_values_are_of_one_type() -> None:
    assert typed(Any).settle((1, 2), "it")[1] == [1, 2]
    assert typed(Any).settle(Point(1), "it")[1] == {"x": 1, "y": 0}
    assert repr(typed(float).settle(3, "it")[1]) == "3.0"


def test_a_plain_value_is_not_decoded_again() -> None:
    text = "x" * 1000
    assert typed(str).settle(text, "it")[1] is text


@pytest.mark.parametrize(("annotation", "value"), [(int, True), (int, "1"), (Point, {"x": "a"}), (Model, {"name": 1})])
def test_a_value_that_does_not_fit_its_annotation_is_refused_the_first_time(annotation: Any, value: Any) -> None:
    with pytest.raises(SerialisationError, match=r"the result of f does not fit") as caught:
        typed(annotation).settle(value, "the result of f")
    assert caught.value.code == "TYPE_MISMATCH"


@pytest.mark.parametrize("value", [object(), Point, 2**64, "\ud800", lambda: 1, {object(): 1}])
def test_a_value_without_a_stored_form_is_refused(value: Any) -> None:
    for write in (lambda: encode(value, "the payload"), lambda: typed(Any).settle(value, "the payload")):
        with pytest.raises(SerialisationError, match="the payload cannot be stored") as caught:
            write()
        assert caught.value.code == "NOT_SERIALISABLE"


def test_a_value_within_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(SerialisationError):
        encode(value, "the payload")


def test_an_annotation_that_cannot_be_restored_is_refused() -> None:
    with pytest.raises(SerialisationError, match="annotation") as caught:
        typed(list["Nowhere"])  # type: ignore[name-defined]  # noqa: F821 - on purpose
    assert caught.value.code == "TYPE_MISMATCH"


def test_broken_bytes_are_told() -> None:
    with pytest.raises(SerialisationError, match="the journal"):
        typed(Any).decode(b"\xc1", "the journal")


def test_the_limit_is_on_bytes_and_says_what_to_do() -> None:
    assert len(encode(b"x" * (DEFAULT_LIMIT - 5), "it")) == DEFAULT_LIMIT
    for write in (encode, typed(Any).settle):
        with pytest.raises(PayloadTooLarge, match="it is 1,048,577 bytes") as caught:
            write(b"x" * (DEFAULT_LIMIT - 4), "it")
        assert "REDURABLE_MAX_PAYLOAD" in caught.value.hint
    assert encode(None, "it", limit=1) == NIL


@given(st.dictionaries(st.text() | st.integers(0, 99), plain, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[Any, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert digest(value) == digest(backwards)
    assert len(digest(value)) == 16


def test_different_payloads_have_different_digests() -> None:
    assert len({digest(v) for v in (None, 0, 1, "1", [1], {"a": 1}, {"a": 2}, {"b": 1})}) == 8


def test_what_cannot_be_ordered_has_no_digest() -> None:
    with pytest.raises(SerialisationError, match="cannot be compared"):
        digest({(1, 2): 3})


def test_a_codec_is_made_once() -> None:
    assert typed(list[int]) is typed(list[int])


class Line(msgspec.Struct, forbid_unknown_fields=True):
    price: int
    colour: Literal["red", "blue"] = "red"


@dataclasses.dataclass
class Basket:
    lines: list[Line]
    stock: dict[int, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.lines:
            raise ValueError("a basket has `lines`, and this - at home - has none")


@pytest.mark.parametrize(
    ("annotation", "value", "told"),
    [
        (int, "secret", "fit int: expected int, got str"),
        (Basket, {"lines": [{"price": 1}, {"price": "secret"}]}, "fit Basket: lines[1].price: expected int, got str"),
        (Basket, {"lines": [{}]}, "fit Basket: lines[0]: the field price is missing"),
        (Basket, {"lines": [{"price": 1, "tax": 1}]}, "fit Basket: lines[0]: the field tax is not known"),
        (Basket, {"lines": [{"price": 1, "colour": "secret"}]}, "lines[0].colour: none of the values allowed"),
        (Literal["red"], "secret` - at `$.secret", "none of the values allowed"),
        (Basket, {"lines": [{"price": 1}], "stock": {"secret": 1}}, "a key of stock: expected int, got str"),
        (Basket, {"lines": []}, "fit Basket: a basket has `lines`, and this - at home - has none"),
        (list[Basket], [{"lines": []}], "[0]: a basket has `lines`, and this - at home - has none"),
    ],
)
def test_where_what_and_why_it_does_not_fit_are_told_in_our_words(annotation: Any, value: Any, told: str) -> None:
    with pytest.raises(SerialisationError) as caught:
        typed(annotation).decode(encode(value, "it"), "the payload")
    assert caught.value.message.startswith("the payload does not fit ")
    assert caught.value.message.endswith(told)
    assert "secret" not in caught.value.message
