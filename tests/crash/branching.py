"""
Trees of children under random SIGKILLs, in two sizes: every child once, every outcome once, nothing left by a cancel.

A tree of width w and depth d has 1 + w + ... + w**d intents: with 100 and 2 a root, 100 children, 10,000
grandchildren. Judged by the journals: who was called by whom, who was heard, what was undone.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from typing import Any

from redurable.model import Arrived, Called, Entry, Status, StepDone
from redurable.store.server import PrivateServer
from tests.crash.killing import Drill
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

__all__ = ["cancel_drill", "strike_while", "tree_drill"]

_WORKERS = 3


async def tree_drill(plan: Drill) -> dict[str, Any]:
    """
    Let a tree grow while workers die: *plan.intents* children of each node, *plan.steps* levels of them.

    Asserted: the root returns the number of leaves; each child was called once, by one parent, and heard once by it;
    everything is COMPLETED; nothing else is left in Redis.
    """
    width, depth, began = plan.intents, plan.steps, time.monotonic()
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            await fleet.start(_WORKERS, concurrency=plan.concurrency)
            payload = {"name": "r", "width": width, "depth": depth, "pause": plan.pause}
            root = await fleet.client.send("tree", payload)
            async with asyncio.timeout(plan.within):
                waiting = asyncio.ensure_future(fleet.client.wait_for(root))
                gone = await strike_while(fleet, plan, waiting)
                assert await waiting == width**depth
                grown = time.monotonic() - began
                await _quiet(fleet)
            found = await _journals(fleet)
            assert len(found) == _size(width, depth)
            _heard_once(found)
            assert sum(isinstance(e, Arrived) for entries in found.values() for e in entries) == len(found) - 1
            await fleet.reap(60)
            assert await check_all(await fleet.store()) == {"COMPLETED": len(found)}
            return _figures(fleet, found, gone, grown, began)


async def cancel_drill(plan: Drill) -> dict[str, Any]:
    """
    Cancel the root of a tree, all of whose leaves wait, and kill workers from then on.

    Asserted: nothing is open; each intent is CANCELED and was undone once; nobody heard a child twice.
    """
    width, depth, began = plan.intents, plan.steps, time.monotonic()
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            await fleet.start(_WORKERS, concurrency=plan.concurrency)
            payload = {"name": "r", "width": width, "depth": depth, "pause": plan.pause, "waits": True}
            root = await fleet.client.send("tree", payload)
            size = _size(width, depth)

            async def waiting() -> bool:
                found = await fleet.client.list(limit=2 * size)
                return len(found) == size and all(i.status is Status.WAITING for i in found)

            await until(waiting, plan.within, 0.05 + size / 10_000)
            asked = time.monotonic()
            await fleet.client.cancel(root)
            over = asyncio.ensure_future(_quiet(fleet, plan.within))
            gone = await strike_while(fleet, plan, over)
            await over
            took = time.monotonic() - asked
            found = await _journals(fleet)
            _heard_once(found)
            for intent, entries in found.items():
                undone = [e for e in entries if isinstance(e, StepDone) and e.name == "undo"]
                assert len(undone) == 1, f"{intent} was undone {len(undone)} times"
            await fleet.reap(60)
            assert await check_all(await fleet.store()) == {"CANCELED": size}
            return _figures(fleet, found, gone, took, began)


async def strike_while(fleet: Fleet, plan: Drill, going: asyncio.Future[Any]) -> int:
    """Kill a process at a time, at a moment that it cannot know, and start another; at most until *going* is done."""
    dice = random.Random(plan.seed)
    gone: set[int] = set()

    def enough() -> list[int]:
        alive = [e["pid"] for e in fleet.events("worker.started") if e["pid"] not in gone]
        return alive if len(alive) >= _WORKERS - 1 else []

    while len(gone) < plan.kills:
        await asyncio.wait([going], timeout=plan.pace * (0.5 + dice.random()))
        victims = await until(enough, 60)
        if going.done():
            break
        victim = dice.choice(victims)
        os.kill(victim, signal.SIGKILL)
        gone.add(victim)
        fleet.spawn(concurrency=plan.concurrency)
    await fleet.serving({p.pid for p in fleet.processes if p.pid not in gone})
    return len(gone)


def _size(width: int, depth: int) -> int:
    return sum(width**n for n in range(depth + 1))


async def _quiet(fleet: Fleet, within: float = 60.0) -> None:
    """Return when nothing is open and nobody owes anything."""

    async def over() -> bool:
        store = await fleet.store()
        owed = sum([await store.mux.command("ZCARD", keys.timers) for keys in store.keys])
        return not owed and all(i.status.final for i in await fleet.client.list(limit=100_000))

    await until(over, within, 0.1)


async def _journals(fleet: Fleet) -> dict[str, list[Entry]]:
    """Return the journal of every intent."""
    found = await fleet.client.list(limit=100_000)
    return {i.id: [entry for _, entry in await fleet.client.history(i.id)] for i in found}


def _heard_once(found: dict[str, list[Entry]]) -> None:
    """Assert that every child was called once, by one parent, and heard once by it."""
    called: Counter[str] = Counter()
    for intent, entries in found.items():
        mine = [e.child for e in entries if isinstance(e, Called)]
        called.update(mine)
        heard = [e.key for e in entries if isinstance(e, Arrived) and "#" not in e.key]
        assert len(heard) == len(set(heard)), f"{intent} heard a child twice"
        assert set(heard) <= set(mine)
    assert max(called.values()) == 1
    assert set(called) <= set(found)


def _figures(fleet: Fleet, found: dict[str, list[Entry]], gone: int, took: float, began: float) -> dict[str, Any]:
    bodies = Counter((line.intent, line.step) for line in fleet.ledger())
    return {
        "intents": len(found),
        "kills": gone,
        "seconds of work": round(took, 1),
        "bodies begun again": sum(count - 1 for count in bodies.values()),
        "troubles": [e for n in ("task.failed", "loop.failed") for e in fleet.events(n)],
        "seconds in all": round(time.monotonic() - began, 1),
    }
