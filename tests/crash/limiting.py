"""
Limits under random SIGKILLs, in two sizes: how many were inside, and when they began, proved by a ledger outside.

Bodies leave a line where they begin and one where they end; who kills a process leaves one right before. The file is
appended to by all of them, so the order of its lines is the order of what happened.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import defaultdict
from typing import Any

from redurable.store.limits import limits
from redurable.store.server import PrivateServer
from tests.crash.killing import Drill, strike
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

__all__ = ["limit_drill", "rate_drill"]

_KEYS = 8
_MOST = {"handler": 5, "step": 3}
_RATE = 100


async def limit_drill(plan: Drill) -> dict[str, Any]:
    """
    Play *plan*, its intents being of 8 keys; return its figures.

    Asserted: of a key never more than five handlers, or three steps, were inside; each intent completed once; after all
    the kills no place is taken, and five of a key can be inside again.
    """
    began = time.monotonic()
    dice = random.Random(plan.seed + 1)
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            await _begin(fleet, plan)
            payloads = [
                {"key": f"k{n % _KEYS}", "n": plan.steps, "pause": dice.uniform(0, plan.pause)}
                for n in range(plan.intents)
            ]
            intents = await fleet.client.send_many("keyed", payloads)
            striking = asyncio.create_task(strike(fleet, plan, lambda pid: _mark(fleet, pid)))
            async with asyncio.timeout(plan.within):
                results = await asyncio.gather(*(fleet.client.wait_for(i) for i in intents))
                struck = striking.done()
                gone = await striking
            worked = time.monotonic() - began
            assert results == [sum(range(plan.steps))] * plan.intents
            figures = _inside(fleet)
            store = await fleet.store()

            async def free() -> bool:
                return not any(limit.used or limit.waiting for limit in await limits(store))

            await until(free, 90, 0.05)  # an owner that died right after its settle is found out within a minute
            figures["seconds until all were free"] = round(time.monotonic() - began - worked, 1)
            last = {"key": "k0", "n": 0, "gate": "last"}
            again = list(await fleet.client.send_many("keyed", [last] * _MOST["handler"]))
            for intent in again:
                await fleet.line(intent, "in:handler:k0", within=60)
            fleet.open("last")
            await asyncio.gather(*(fleet.client.wait_for(i, 40) for i in again))
            assert _inside(fleet)["most handlers of a key"] == _MOST["handler"], "so many could be, and were"
            await fleet.reap()
            assert await check_all(store) == {"COMPLETED": plan.intents + len(again)}
            _no_troubles(fleet)
    return figures | {
        "kills": len(gone), "kills were over first": struck, "seconds in all": round(time.monotonic() - began, 1)
    }  # fmt: skip


async def rate_drill(plan: Drill) -> dict[str, Any]:
    """
    Play *plan*, whose intents' steps may begin a hundred times a second, all together; return its figures.

    Asserted: no second, wherever it begins, has more than a hundred lines in it; each intent completed once. Times are
    of the server's clock, taken in the bodies; a process that was stopped between its last look at the clock and a
    body's first line is late by that, so one line in a hundred is allowed to be.
    """
    began = time.monotonic()
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            await _begin(fleet, plan)
            intents = await fleet.client.send_many("metered", [{"n": plan.steps}] * plan.intents)
            striking = asyncio.create_task(strike(fleet, plan))
            async with asyncio.timeout(plan.within):
                results = await asyncio.gather(*(fleet.client.wait_for(i) for i in intents))
                struck = striking.done()
                gone = await striking
            assert results == [sum(range(plan.steps))] * plan.intents
            times = sorted(float(line.step[4:]) for line in fleet.ledger() if line.step.startswith("api:"))
            assert len(times) >= plan.intents * plan.steps
            spans = sorted(b - a for a, b in zip(times, times[_RATE:], strict=False))
            closest = min(spans, default=1.0)
            assert spans[len(times) // 100] >= 1.0, f"{_RATE + 1} began within {closest:.4f} s, and too often"
            await fleet.reap()
            assert await check_all(await fleet.store()) == {"COMPLETED": plan.intents}
            _no_troubles(fleet)
    return {
        "began": len(times), "again after a kill": len(times) - plan.intents * plan.steps,
        "a second": round(len(times) / (times[-1] - times[0]), 1),
        f"closest {_RATE + 1}, s": round(closest, 4), "kills": len(gone), "kills were over first": struck,
        "seconds in all": round(time.monotonic() - began, 1),
    }  # fmt: skip


async def _begin(fleet: Fleet, plan: Drill) -> None:
    fleet.supervise(2, "--concurrency", str(plan.concurrency))
    await fleet.start(2, concurrency=plan.concurrency)
    await fleet.started(4)


def _mark(fleet: Fleet, pid: int) -> None:
    """Leave a line in the ledger: what *pid* was inside, it is no more."""
    with (fleet.room / "ledger").open("ab", buffering=0) as ledger:
        ledger.write(f"{time.monotonic():.6f} {pid} 0 {os.getpid()} dead\n".encode())


def _inside(fleet: Fleet) -> dict[str, Any]:
    """Return the most that were inside at a time; AssertionError when it was one too many."""
    inside: dict[str, set[tuple[int, str, int]]] = defaultdict(set)
    most = dict.fromkeys(_MOST, 0)
    dead: set[int] = set()
    again = 0
    seen: set[tuple[str, str]] = set()
    for line in fleet.ledger():
        word, _, room = line.step.partition(":")
        who = (line.pid, line.intent, line.epoch)
        if word == "dead":
            dead.add(line.pid)
            for others in inside.values():
                others -= {other for other in others if other[0] == line.pid}
        elif word == "in" and line.pid not in dead:
            kind = room.partition(":")[0]
            inside[room].add(who)
            again += kind == "handler" and (line.intent, room) in seen
            seen.add((line.intent, room))
            most[kind] = max(most[kind], len(inside[room]))
            assert len(inside[room]) <= _MOST[kind], f"{room}: {inside[room]}"
        elif word == "out":
            inside[room].discard(who)
    return {f"most {kind}s of a key": number for kind, number in most.items()} | {"handlers begun again": again}


def _no_troubles(fleet: Fleet) -> None:
    troubles = [e for n in ("task.failed", "loop.failed") for e in fleet.events(n)]
    assert not troubles, troubles
