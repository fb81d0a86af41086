"""A worker that is frozen past its lease and goes on: another has taken its intents, and it may write nothing more."""

from __future__ import annotations

import pytest

from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio
LEASE = 1.0


async def test_a_thawed_zombie_is_refused_record_and_settle_and_its_handlers_are_unwound(fleet: Fleet) -> None:
    (zombie,) = await fleet.start(1, lease=LEASE)
    recording = await fleet.client.send("gated", {"gate": "on", "before": 2, "after": 3})
    settling = await fleet.client.send("settling", {"gate": "on"})
    held = await fleet.line(recording, "gated99")

    async def recorded() -> bool:
        return len(await fleet.client.history(settling)) == 1

    await until(recorded)  # its one step is through: what is left to it is the settle
    zombie.freeze()
    (other,) = await fleet.start(1, lease=LEASE)
    taken = await fleet.line(recording, "gated99", count=2, within=20)
    await until(lambda: fleet.events("attempt.started", pid=other.pid, intent=settling), 20)
    assert (held.pid, taken.pid) == (zombie.pid, other.pid)
    assert taken.epoch > held.epoch
    fleet.open("on")  # all may go on now: what the zombie has to say is late
    assert await fleet.client.wait_for(recording, 10) == [0, 1, 99, 100, 101, 102]
    assert await fleet.client.wait_for(settling, 10) == 2, "the result of the second attempt"
    before = [await fleet.client.history(i) for i in (recording, settling)]
    zombie.thaw()
    for intent in (recording, settling):
        fenced = await fleet.event("attempt.fenced", pid=zombie.pid, intent=intent)
        assert fenced["word"] in ("FENCED", "LOST")
        await fleet.event("attempt.ended", pid=zombie.pid, intent=intent, ended="lost")
    assert [await fleet.client.history(i) for i in (recording, settling)] == before, "nothing was written"
    assert await fleet.client.wait_for(settling, 10) == 2
    late = [line for line in fleet.ledger(recording) if line.pid == zombie.pid]
    assert [line.step for line in late] == ["work0", "work1", "gated99"], "the zombie's handler went no further"
    assert {(await fleet.client.get(i)).attempt for i in (recording, settling)} == {2}
    # it is a good worker again
    other.terminate()
    await other.ended()
    assert await fleet.client.call("steps", {"n": 3}, timeout=10) == 120
    assert not fleet.events("worker.stalled")
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 3}
