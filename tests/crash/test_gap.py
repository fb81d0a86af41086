"""A journal whose tail is gone behind a running attempt, as after a failover: nothing may be written after the gap."""

from __future__ import annotations

import asyncio

import pytest

from redurable.model import Claimed, StepDone
from tests.support.fleet import Fleet
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


async def _cut_tail(fleet: Fleet, intent: str, keep: int) -> None:
    store = await fleet.store()
    await store.mux.command("LTRIM", store.keys_of(intent).journal(intent), 0, keep - 1)


async def test_a_cut_tail_is_noticed_and_the_intent_is_replayed_to_its_end(fleet: Fleet) -> None:
    await fleet.start(1)
    intent = await fleet.client.send("gated", {"gate": "on", "before": 5, "after": 2})
    await fleet.line(intent, "gated99")
    whole = await fleet.client.history(intent)
    assert len(whole) == 5
    await _cut_tail(fleet, intent, 3)
    fleet.open("on")
    assert await fleet.client.wait_for(intent, 40) == [0, 1, 2, 3, 4, 99, 100, 101]
    fenced = await fleet.event("attempt.fenced", intent=intent)
    assert fenced["word"] == "REGRESSED"
    entries = [entry for _, entry in await fleet.client.history(intent)]
    kinds = [f"work{e.n}" if isinstance(e, StepDone) and e.name == "work" else type(e).__name__ for e in entries]
    # the gated step's result was not appended to the journal that had lost its predecessors
    assert kinds == [
        "work0", "work1", "work2", "Claimed", "work3", "work4", "StepDone", "work100", "work101",
    ]  # fmt: skip
    assert isinstance(entries[3], Claimed)
    ran = [line.step for line in fleet.ledger(intent)]
    assert [ran.count(f"work{n}") for n in range(5)] == [1, 1, 1, 2, 2], "only what was lost ran again"
    info = await fleet.client.get(intent)
    assert (info.attempt, info.losses) == (2, 0), "it is handed back uncounted"
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_a_server_that_comes_back_without_the_tail_is_noticed_before_the_next_record(lone_fleet: Fleet) -> None:
    fleet = lone_fleet
    await fleet.start(1)
    intent = await fleet.client.send("gated", {"gate": "never", "before": 5, "after": 0})
    first = await fleet.line(intent, "gated99")
    await _cut_tail(fleet, intent, 2)
    await asyncio.to_thread(fleet.server.restart)
    # its body still waits: nothing is recorded that could be refused
    await fleet.event("attempt.fenced", 60, intent=intent, word="REGRESSED")
    again = await fleet.line(intent, "gated99", count=2)
    assert again.epoch > first.epoch
    fleet.open("never")
    assert await fleet.client.wait_for(intent, 40) == [0, 1, 2, 3, 4, 99]
    assert (await fleet.client.get(intent)).losses == 0
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}
