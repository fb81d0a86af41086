"""Intent ids: what they carry, and that nothing else passes for one."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redurable.errors import NotFound
from redurable.ids import MAX_PARTITIONS, call_text, derived_id, new_id, partition_for, partition_of, promise_text

partitions = st.integers(0, MAX_PARTITIONS - 1)
texts = st.text(st.characters(), max_size=6)  # lone surrogates too: a key is the user's


@given(partitions)
def test_a_fresh_id_is_a_uuid7_that_carries_its_partition(partition: int) -> None:
    text = new_id(partition)
    parsed = uuid.UUID(text)
    assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
    assert partition_of(text) == partition


@given(partitions, st.lists(texts, min_size=1, max_size=3))
def test_a_derived_id_is_a_uuid8_of_its_parts(partition: int, parts: list[str]) -> None:
    text = derived_id(partition, *parts)
    parsed = uuid.UUID(text)
    assert (str(parsed), parsed.version, parsed.variant) == (text, 8, uuid.RFC_4122)
    assert partition_of(text) == partition
    assert derived_id(partition, *parts) == text


@given(st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_different_parts_give_different_ids(one: list[str], other: list[str]) -> None:
    assert (derived_id(0, *one) == derived_id(0, *other)) == (one == other)


@pytest.mark.parametrize(("one", "other"), [(("a", "b"), ("a\0b",)), (("a", ""), ("a",)), (("1:a",), ("a",))])
def test_parts_do_not_run_into_each_other(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert derived_id(0, *one) != derived_id(0, *other)


@given(st.integers(1, MAX_PARTITIONS), texts)
def test_partition_for_stays_in_range_and_is_a_function_of_its_parts(count: int, key: str) -> None:
    assert 0 <= partition_for(count, "q", key) < count
    assert partition_for(count, "q", key) == partition_for(count, "q", key)


def test_partitions_are_used_evenly() -> None:
    seen = [partition_for(16, "q", str(n)) for n in range(1600)]
    assert all(60 < seen.count(p) < 140 for p in range(16))


def test_fresh_ids_differ_and_sort_by_time() -> None:
    ids = [new_id(0) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "76de1e9e-d23f-42ae-adb6-c16f4a5dbbe2",
        "01A1FD3A-7A13-7AA7-89AF-C6B86FF2B1A5",
        "01a1fd30-7013-7007-b6ae-d9b7046a10bd\n",
        "01a1fd30701370078400ee0421cd580a",
        "0192f0c1-2345-71_2-8abc-0123456789ab",
        "0192f0{1-2345-7000-8abc-0123456789a}",
        "0192f0c1-2345-7000-0abc-0123456789ab",
    ],
)
def test_what_is_no_id_is_not_found(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        partition_of(text)
    assert caught.value.code == "INTENT_NOT_FOUND"


def test_the_number_behind_a_promise_is_its_index_everywhere() -> None:
    assert [promise_text("publish#0"), promise_text("publish#2"), promise_text("a-child")] == [
        "publish", "publish#2", "a-child",
    ]  # fmt: skip
    assert [call_text("charge", 1), call_text("charge", "id")] == ["charge#1", "charge#id"]
    assert [call_text("promise publish", 1), call_text("promise publish", 2)] == [
        "promise publish", "promise publish, wait 2",
    ]  # fmt: skip
