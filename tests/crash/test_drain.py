"""How a worker process goes: told to, orphaned, stalled, or with a thread that does not listen."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


async def test_sigterm_lets_the_step_in_flight_end_and_hands_the_rest_back_uncounted(fleet: Fleet) -> None:
    (leaver,) = await fleet.start(1)
    intent = await fleet.client.send("gated", {"gate": "on", "before": 1, "after": 2})
    await fleet.line(intent, "gated99")
    leaver.terminate()
    await fleet.event("worker.draining", pid=leaver.pid)
    fleet.open("on")
    assert await leaver.ended() == 0
    info = await fleet.client.get(intent)
    assert (info.status.value, info.attempt, info.losses) == ("SUBMITTED", 1, 0)
    assert info.step == "gated#99", "the step in flight was recorded first"
    assert not await fleet.client.workers()
    await fleet.start(1)
    assert await fleet.client.wait_for(intent, 40) == [0, 99, 100, 101]
    assert (await fleet.client.get(intent)).losses == 0
    steps = [line.step for line in fleet.ledger(intent)]
    assert len(steps) == len(set(steps)), "no step ran twice"
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_a_step_longer_than_the_grace_is_handed_back_uncounted(fleet: Fleet) -> None:
    (leaver,) = await fleet.start(1, grace=0.3)
    intent = await fleet.client.send("gated", {"gate": "late", "before": 1, "after": 0})
    await fleet.line(intent, "gated99")
    leaver.terminate()
    assert await leaver.ended(20) == 0, "the grace that it would have by itself is 30 s"
    info = await fleet.client.get(intent)
    assert (info.status.value, info.losses) == ("SUBMITTED", 0)
    fleet.open("late")
    await fleet.start(1)
    assert await fleet.client.wait_for(intent, 40) == [0, 99]
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_children_of_a_killed_parent_drain_by_themselves(fleet: Fleet) -> None:
    parent = fleet.supervise(2)
    await fleet.started(2)
    children = [e["pid"] for e in fleet.events("worker.started")]
    intent = await fleet.client.send("gated", {"gate": "orphans", "before": 1})
    held = await fleet.line(intent, "gated99")
    parent.kill()
    for pid in children:
        await fleet.event("worker.orphaned", pid=pid)
    fleet.open("orphans")
    for pid in children:
        await fleet.event("worker.stopped", pid=pid)
        await until(lambda pid=pid: not _there(pid))  # type: ignore[misc]
    info = await fleet.client.get(intent)
    assert (info.status.value, info.losses, info.step) == ("SUBMITTED", 0, "gated#99")
    (heir,) = await fleet.start(1)
    assert await fleet.client.wait_for(intent, 40) == [0, 99, 100, 101]
    assert held.pid != heir.pid
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_a_handler_that_blocks_the_loop_is_named_and_keeps_its_lease(fleet: Fleet) -> None:
    (blocked, _) = await fleet.start(2, lease=1.0)
    del blocked
    intent = await fleet.client.send("blocking", {"seconds": 3.5})
    line = await fleet.line(intent, "work0")
    told = await fleet.event("loop.blocked", intent=intent)
    soonest = told["now"] - line.at
    assert (told["handler"], told["intent"]) == ("tests.crash.app.blocking", intent)
    assert "time.sleep(payload" in told["stack"], "the guilty line is in the stack"
    assert await fleet.client.wait_for(intent, 40) == "unblocked"
    info = await fleet.client.get(intent)
    assert (info.attempt, info.losses) == (1, 0), "renewal does not need the loop"
    for _ in range(8):  # the best of a few, on a loaded machine
        if soonest < 1.0:
            break
        another = await fleet.client.send("blocking", {"seconds": 1.5})
        line = await fleet.line(another, "work0")
        soonest = min(soonest, (await fleet.event("loop.blocked", intent=another))["now"] - line.at)
        await fleet.client.wait_for(another, 40)
    assert soonest < 1.0, "within a second"
    await fleet.reap()
    assert set(await check_all(await fleet.store())) == {"COMPLETED"}


async def test_a_loop_that_stalls_for_good_ends_the_process_and_the_work_is_recovered(fleet: Fleet) -> None:
    (stalling,) = await fleet.start(1, stall=1.5)
    intent = await fleet.client.send("blocking", {"seconds": 60, "once": True})
    await fleet.line(intent, "work0")
    await fleet.start(1)
    assert await stalling.ended() == 70
    told = await fleet.event("worker.stalled", pid=stalling.pid)
    assert "time.sleep(payload" in told["stack"]
    assert "Thread 0x" in fleet.log(), "all stacks are dumped"
    assert await fleet.client.wait_for(intent, 40) == "unblocked"
    info = await fleet.client.get(intent)
    assert (info.attempt, [line.step for line in fleet.ledger(intent)]) == (2, ["work0", "work1"])
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_a_stuck_sync_handler_is_abandoned_fenced_and_counted(fleet: Fleet) -> None:
    (leaver,) = await fleet.start(1, grace=0.3)
    intent = await fleet.client.send("stuck", {"gate": "never-for-the-first"})
    await fleet.line(intent, "stuck")
    leaver.terminate()
    told = await fleet.event("handler.abandoned", pid=leaver.pid)
    assert (told["intent"], told["handler"]) == (intent, "tests.crash.app.stuck")
    assert await leaver.ended() == 0, "the stuck thread does not keep the process"
    assert (await fleet.client.get(intent)).status.value == "SUBMITTED"
    fleet.open("never-for-the-first")
    await fleet.start(1)
    assert await fleet.client.wait_for(intent, 40) == "attempt 2"
    assert (await fleet.client.get(intent)).losses == 0
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_a_second_ctrl_c_ends_all_at_once_and_nothing_is_lost(fleet: Fleet) -> None:
    parent = fleet.supervise(2)
    await fleet.started(2)
    intents = [await fleet.client.send("gated", {"gate": "two"}) for _ in range(6)]
    await until(lambda: sum(line.step == "gated99" for line in fleet.ledger()) == 6)
    os.kill(parent.pid, signal.SIGINT)
    await until(lambda: len(fleet.events("worker.draining")) == 2)
    await asyncio.sleep(0.4)  # a terminal may tell twice of one Ctrl+C: that is no second one
    os.kill(parent.pid, signal.SIGINT)
    assert await parent.ended(20) == 130, "the grace is 30 s"
    fleet.open("two")
    await fleet.start(1)
    for intent in intents:
        assert await asyncio.wait_for(fleet.client.wait_for(intent), 30) == [0, 1, 2, 99, 100, 101]
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 6}


async def test_a_child_that_hears_nothing_is_killed_after_the_grace_and_its_work_handed_back(fleet: Fleet) -> None:
    """As `redurable worker` does it, but for the ten seconds that it leaves beyond the grace."""
    code = "from redurable.worker import process; process._LAST = 0.3; from redurable.cli import main; main()"
    words = ["worker", "tests.crash.app", "--url", fleet.url, "--namespace", fleet.namespace, "--grace", "0.2"]
    parent = fleet._start([sys.executable, "-c", code, *words, "--log-format", "json"], {}, "parent")
    child = (await fleet.event("worker.started", 60))["pid"]
    intent = await fleet.client.send("gated", {"gate": "three"})
    await fleet.line(intent, "gated99")
    os.kill(child, signal.SIGSTOP)
    parent.terminate()
    assert await parent.ended() == 0
    assert not _there(child)
    assert (await fleet.client.get(intent)).status.value == "SUBMITTED"
    fleet.open("three")
    await fleet.start(1)
    assert await asyncio.wait_for(fleet.client.wait_for(intent), 30) == [0, 1, 2, 99, 100, 101]
    await fleet.reap()


def _there(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
