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
    taken = await fleet.line(recording, "gated99", count=2, within=60)
    await until(lambda: fleet.events("attempt.started", pid=other.pid, intent=settling), 60)
    assert (held.pid, taken.pid) == (zombie.pid, other.pid)
    assert taken.epoch > held.epoch
    fleet.open("on")  # all may go on now: what the zombie has to say is late
    assert await fleet.client.wait_for(recording, 40) == [0, 1, 99, 100, 101, 102]
    assert await fleet.client.wait_for(settling, 40) == 2, "the result of the second attempt"
    before = [await fleet.client.history(i) for i in (recording, settling)]
    zombie.thaw()
    for intent in (recording, settling):
        fenced = await fleet.event("attempt.fenced", pid=zombie.pid, intent=intent)
        assert fenced["word"] in ("FENCED", "LOST")
        await fleet.event("attempt.ended", pid=zombie.pid, intent=intent, ended="lost")
    assert [await fleet.client.history(i) for i in (recording, settling)] == before, "nothing was written"
    assert await fleet.client.wait_for(settling, 40) == 2
    late = [line for line in fleet.ledger(recording) if line.pid == zombie.pid]
    assert [line.step for line in late] == ["work0", "work1", "gated99"], "the zombie's handler went no further"
    assert {(await fleet.client.get(i)).attempt for i in (recording, settling)} == {2}
    # it is a good worker again
    other.terminate()
    await other.ended()
    assert await fleet.client.call("steps", {"n": 3}, timeout=40) == 120
    assert not fleet.events("worker.stalled")
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 3}


@pytest.mark.parametrize("most", [3, 2])
async def test_what_comes_to_a_frozen_process_that_waits_for_work_is_done_by_another(fleet: Fleet, most: int) -> None:
    (zombie,) = await fleet.start(1, lease=LEASE, target="tests.crash.app:steps")
    assert await fleet.client.call("steps", {"n": 1}, timeout=40) == 40
    store = await fleet.store()

    async def waits() -> bool:
        return b"blocked_clients:1" in await store.mux.command("INFO", "clients")

    await until(waits)
    zombie.freeze()
    send, payload = fleet.client.send, {"n": 2}
    ids = [await send("steps", payload, max_delivery_attempts=most) for _ in range(3)]
    # the server claims the first for it; but one that a loss would make a suspect the process has to ask for
    at_work = [(await fleet.client.get(i)).attempt for i in ids]
    assert at_work == ([1, 0, 0] if most > 2 else [0, 0, 0])
    await fleet.start(1, lease=LEASE, target="tests.crash.app:steps")
    assert [await fleet.client.wait_for(i, 40) for i in ids] == [80, 80, 80]
    zombie.thaw()
    if most > 2:
        await fleet.event("attempt.ended", pid=zombie.pid, intent=ids[0], ended="lost")
    assert zombie.pid not in {line.pid for intent in ids for line in fleet.ledger(intent)}, "its handler did not begin"
    assert [(await fleet.client.get(i)).attempt for i in ids] == [a + 1 for a in at_work]
    await fleet.reap()
    assert await check_all(store) == {"COMPLETED": 4}
