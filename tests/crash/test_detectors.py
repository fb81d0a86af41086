"""
The three detectors: how fast each is, what it counts, and whom it spares.

Times are from the SIGKILL to the ledger line of the step that another process carries on with. On a loaded machine a
single figure says little, so the best of a few is held against the limit.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest
import redis

from redurable.errors import IntentFailed
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


async def _judging(fleet: Fleet) -> None:
    """Return once the workers judge: on a server younger than 10 s they spare everybody for 5 s after their start."""
    store = await fleet.store()
    age = int((await store.mux.command("INFO", "server")).decode().split("uptime_in_seconds:")[1].split()[0])
    newest = max(e["now"] for e in fleet.events("worker.started"))
    if age - (time.monotonic() - newest) < 11:
        await asyncio.sleep(max(0.0, newest + 5.5 - time.monotonic()))


async def _takeover(fleet: Fleet, gate: str, kill: Any) -> float:
    """Hold an intent at *gate*, kill its owner; return the seconds until another process runs the step."""
    intent = await fleet.client.send("gated", {"gate": gate})
    held = await fleet.line(intent, "gated99")
    at = kill(held.pid)
    taken = await fleet.line(intent, "gated99", count=2, within=60)
    assert taken.pid != held.pid
    fleet.open(gate)
    assert await fleet.client.wait_for(intent, 40) == [0, 1, 2, 99, 100, 101]
    info = await fleet.client.get(intent)
    assert info.attempt == 2
    assert [line.step for line in fleet.ledger(intent)].count("work0") == 1
    return taken.at - at


async def _best_takeover(fleet: Fleet, limit: float, ready: Callable[[], Awaitable[object]]) -> list[float]:
    """Return how long takeovers took: two at least, and more, up to eight, until one is within *limit*."""
    times: list[float] = []
    while len(times) < 2 or (min(times) >= limit and len(times) < 8):
        await ready()
        times.append(await _takeover(fleet, f"gate{len(times)}", _sigkill))
    return times


def _sigkill(pid: int) -> float:
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return at


async def test_a_parent_hands_a_dead_childs_work_to_another_within_100_ms(fleet: Fleet) -> None:
    fleet.supervise(2)
    deaths = itertools.count()
    times = await _best_takeover(fleet, 0.1, lambda: fleet.started(2 + next(deaths)))
    print("parent:", [f"{t * 1000:.0f} ms" for t in times])
    assert min(times) < 0.1, times
    # told when all has been handed back
    await until(lambda: len(fleet.events("worker.lost", by="parent")) == len(times))
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": len(times)}


async def test_peers_take_over_within_250_ms(fleet: Fleet) -> None:
    async def three() -> None:
        alive = sum(process.alive for process in fleet.processes)
        await fleet.start(3 - alive)
        await _judging(fleet)

    times = await _best_takeover(fleet, 0.25, three)
    print("peers:", [f"{t * 1000:.0f} ms" for t in times])
    assert min(times) < 0.25, times
    assert {e["by"] for e in fleet.events("worker.lost")} == {"peers"}
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": len(times)}


async def test_a_worker_whose_subscriptions_are_cut_is_back_before_anyone_looks_twice(fleet: Fleet) -> None:
    await fleet.start(3)
    await _judging(fleet)
    for tries in range(1, 6):  # a loaded machine may keep it from its processor for the 80 ms that it has
        gate, before = f"spared{tries}", len(fleet.events("worker.lost"))
        intent = await fleet.client.send("gated", {"gate": gate})
        held = await fleet.line(intent, "gated99")
        cut = 0
        for _ in range(10):
            cut += _cut_subscriptions(fleet, held.pid)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        fleet.open(gate)
        await fleet.client.wait_for(intent, 30)
        info = await fleet.client.get(intent)
        if spared := len(fleet.events("worker.lost")) == before:
            break
    assert spared, fleet.events("worker.lost")
    assert cut >= 10
    assert (info.attempt, info.losses) == (1, 0)
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": tries}


async def test_a_false_death_is_taken_back_by_the_next_renewal(fleet: Fleet) -> None:
    workers = await fleet.start(2)
    await _judging(fleet)
    intent = await fleet.client.send("gated", {"gate": "second"})
    held = await fleet.line(intent, "gated99")
    frozen = next(w for w in workers if w.pid == held.pid)
    frozen.freeze()
    assert _cut_subscriptions(fleet, held.pid) == 2, "one from the loop, one from the renewal thread"
    taken = await fleet.line(intent, "gated99", count=2)
    assert taken.pid != held.pid
    assert (await fleet.client.get(intent)).losses == 1
    frozen.thaw()
    await fleet.event("attempt.fenced", intent=intent, pid=held.pid)

    async def forgiven() -> bool:
        return (await fleet.client.get(intent)).losses == 0

    await until(forgiven, 60)
    fleet.open("second")
    assert await fleet.client.wait_for(intent, 40) == [0, 1, 2, 99, 100, 101]
    assert (await fleet.client.get(intent)).attempt == 2
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_a_hung_worker_is_found_by_its_lease_at_a_second_look(fleet: Fleet) -> None:
    workers = await fleet.start(2, lease=1.0)
    await _judging(fleet)
    intent = await fleet.client.send("gated", {"gate": "hung"})
    held = await fleet.line(intent, "gated99")
    next(w for w in workers if w.pid == held.pid).freeze()
    began = time.monotonic()
    taken = await fleet.line(intent, "gated99", count=2)
    print(f"lease of 1 s: {taken.at - began:.2f} s")
    assert 1.5 < taken.at - began < 9.0, "not before two looks a lease apart; a lease of 10 s would take longer"
    assert (await fleet.client.get(intent)).losses == 1
    fleet.open("hung")
    await fleet.client.wait_for(intent, 40)
    next(w for w in workers if w.pid == held.pid).thaw()
    await fleet.event("attempt.fenced", intent=intent, pid=held.pid)
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


async def test_losses_make_a_suspect_at_two_and_end_the_intent_at_three(fleet: Fleet) -> None:
    fleet.supervise(1)
    intent = await fleet.client.send("gated", {"gate": "doomed", "before": 1})
    owners = []
    for count in (1, 2, 3):
        line = await fleet.line(intent, "gated99", count=count, within=60)
        info = await fleet.client.get(intent)
        assert (info.attempt, info.losses) == (count, count - 1)
        owners.append(info.worker)
        _sigkill(line.pid)
    with pytest.raises(IntentFailed) as failed:
        await fleet.client.wait_for(intent, 40)
    error = failed.value.error
    assert error.code == "DELIVERY_ATTEMPTS_EXHAUSTED"
    assert owners[-1] in error.message
    assert "work#0" in error.message
    await until(lambda: len(fleet.events("worker.lost")) == 3)
    words = [e["taken"] for e in fleet.events("worker.lost")]
    assert words == [{"OK": 1}, {"SUSPECT": 1}, {"FAILED": 1}]
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"FAILED": 1}


async def test_progress_between_losses_forgives_them(fleet: Fleet) -> None:
    fleet.supervise(1)
    intent = await fleet.client.send("slow", {"n": 3})
    for n in range(3):
        line = await fleet.line(intent, f"gated{n}", within=60)
        if n:
            assert (await fleet.client.get(intent)).losses == 1
        _sigkill(line.pid)
        line = await fleet.line(intent, f"gated{n}", count=2, within=60)
        fleet.open(f"slow{n}")
    assert await fleet.client.wait_for(intent, 40) == 3
    assert (await fleet.client.get(intent)).attempt == 4
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": 1}


def _cut_subscriptions(fleet: Fleet, pid: int) -> int:
    """Cut every connection of the process *pid* that is subscribed to anything; return how many there were."""
    ports = {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.raddr}
    with redis.Redis(port=fleet.server.port or 0, protocol=2) as knife:
        theirs = [c for c in knife.client_list(_type="pubsub") if int(c["addr"].rsplit(":", 1)[1]) in ports]
        for client in theirs:
            knife.client_kill_filter(_id=client["id"])
    return len(theirs)
