"""A worker that is frozen past its lease and goes on: another has taken its intents, and it may write nothing more."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio
LEASE = 1.0


async def test_a_thawed_zombie_is_refused_its_record_and_its_handler_is_unwound(fleet: Fleet) -> None:
    (zombie,) = await fleet.start(1, lease=LEASE)
    intent = await fleet.client.send("gated", {"gate": "first", "before": 2, "after": 3})
    held = await fleet.line(intent, "gated99")
    zombie.freeze()
    (other,) = await fleet.start(1, lease=LEASE)
    taken = await fleet.line(intent, "gated99", count=2, within=20)
    assert (held.pid, taken.pid) == (zombie.pid, other.pid)
    assert taken.epoch > held.epoch
    fleet.open("first")  # both bodies may end now: the zombie's record is late
    assert await fleet.client.wait_for(intent, 10) == [0, 1, 99, 100, 101, 102]
    before = await fleet.client.history(intent)
    zombie.thaw()
    fenced = await fleet.event("attempt.fenced", pid=zombie.pid, intent=intent)
    assert fenced["word"] in ("FENCED", "LOST")
    await fleet.event("attempt.ended", pid=zombie.pid, intent=intent, ended="lost")
    assert await fleet.client.history(intent) == before, "nothing was written after the thaw"
    late = [line for line in fleet.ledger(intent) if line.pid == zombie.pid]
    assert max(int(line.step.lstrip("workgated")) for line in late) == 99, "the zombie's handler went no further"
    assert (await fleet.client.get(intent)).attempt == 2
    # it is a good worker again
    other.terminate()
    await other.ended()
    assert await fleet.client.call("steps", {"n": 3}, timeout=10) == 120
    assert not fleet.events("worker.stalled")
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 2}


async def test_the_settle_of_a_zombie_is_refused_and_the_other_result_stands(fleet: Fleet) -> None:
    (zombie,) = await fleet.start(1, lease=LEASE)
    intent = await fleet.client.send("settling", {"gate": "last"})
    await fleet.event("attempt.started", intent=intent)
    await fleet.line(intent, "work0")
    await asyncio.sleep(0.1)  # its one record is through: what is left to it is the settle
    zombie.freeze()
    (other,) = await fleet.start(1, lease=LEASE)
    await until(lambda: fleet.events("attempt.started", pid=other.pid), 20)
    fleet.open("last")
    assert await fleet.client.wait_for(intent, 10) == 2, "the attempt that won"
    zombie.thaw()
    await fleet.event("attempt.fenced", pid=zombie.pid, intent=intent)
    await fleet.event("attempt.ended", pid=zombie.pid, intent=intent, ended="lost")
    assert await fleet.client.wait_for(intent, 10) == 2
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}
