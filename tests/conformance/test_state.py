"""The state of a session: what is read, written, deleted and listed, by whom, and when others see it."""

from __future__ import annotations

from typing import Any

import pytest

from redurable.errors import WrongState
from tests.conformance.conftest import Site

pytestmark = pytest.mark.anyio


async def test_what_one_writes_the_next_reads(s: Site) -> None:
    assert await s.call("state", [["get", "x"]], key="st-1") == ["none"]
    assert await s.call("state", [["set", "x", {"a": [1]}], ["get", "x"]], key="st-1") == [{"a": [1]}]
    assert await s.call("state", [["get", "x"]], key="st-1") == [{"a": [1]}]


async def test_names_are_listed_and_deleted(s: Site) -> None:
    writes = [["set", name, 1] for name in "bac"]
    assert await s.call("state", [*writes, ["keys"], ["delete", "a"], ["keys"]], key="st-2") == [
        ["a", "b", "c"], ["b", "c"]]  # fmt: skip
    assert await s.call("state", [["keys"], ["get", "a"]], key="st-2") == [["b", "c"], "none"]
    assert await s.call("state", [["delete", "b"], ["delete", "c"], ["keys"]], key="st-2") == [[]]


async def test_sessions_and_queues_have_states_of_their_own(s: Site) -> None:
    await s.call("state", [["set", "x", 1]], key="st-3")
    assert await s.call("state", [["get", "x"]], key="st-4") == ["none"]
    assert await s.call("keyed", {"n": 1}, key="st-3") == 0


async def test_what_a_failed_one_wrote_is_gone_but_not_what_it_had_shown(s: Site) -> None:
    await s.call("state", [["set", "x", "old"]], key="st-5")
    failed = await s.send("state", [["set", "x", "new"], ["fail"]], key="st-5")
    assert (await s.failure(failed)).status == "FAILED"
    assert await s.call("state", [["get", "x"]], key="st-5") == ["old"]
    parked = await s.send("state", [["set", "x", "parked"], ["nap"], ["set", "x", "lost"], ["fail"]], key="st-5")
    assert (await s.failure(parked)).status == "FAILED"
    assert await s.call("state", [["get", "x"]], key="st-5") == ["parked"]


async def test_a_replay_reads_what_was_read_first(s: Site) -> None:
    read: list[list[Any]] = [["get", "x"], ["set", "x", 2], ["nap"], ["get", "x"]]
    await s.call("state", [["set", "x", 1]], key="st-6")
    assert await s.call("state", read, key="st-6") == [1, 2]


async def test_one_that_is_shared_reads_beside_the_holder_and_does_not_write(s: Site) -> None:
    await s.call("state", [["set", "x", 1]], key="st-7")
    holder = await s.send("state", [["set", "x", 2], ["hold", "st-7"]], key="st-7")
    await s.line(holder, "st-7")
    assert await s.call("state", "x", key="st-7", type="reader", shared=True) == 1
    failure = await s.failure(await s.send("state", "x", key="st-7", type="vandal", shared=True))
    assert failure.code == "STATE_READ_ONLY"
    s.fleet.open("st-7")
    assert await s.result(holder) == []
    assert await s.call("state", "x", key="st-7", type="reader", shared=True) == 2


async def test_an_operator_reads_it_and_writes_it_while_nobody_else_may(s: Site) -> None:
    await s.call("state", [["set", "x", 1]], key="st-8")
    outside = s.client.state("cf.state", "st-8")
    assert await outside.get("x") == 1
    await outside.set("x", 10)
    assert await s.call("state", [["get", "x"]], key="st-8") == [10]
    holder = await s.send("state", [["hold", "st-8"]], key="st-8")
    await s.line(holder, "st-8")
    with pytest.raises(WrongState):
        await outside.set("x", 11)
    s.fleet.open("st-8")
    await s.result(holder)


async def test_without_a_session_there_is_none(s: Site) -> None:
    failure = await s.failure(await s.send("state", [["get", "x"]]))
    assert failure.code == "NO_SESSION"
