"""
Waits under kill -9: children once each, outcomes once each, one winner of a race whoever looks at it.

The quick size; larger trees with `-m soak`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from typing import Any

import pytest

from redurable.model import Arrived, Called, Entry, Status, StepDone
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

pytestmark = [pytest.mark.anyio, pytest.mark.crash]


async def strike(fleet: Fleet, kills: int, seed: int, pause: float = 0.4) -> None:
    """Kill a process at a time, at a moment that it cannot know, and start another."""
    dice = random.Random(seed)
    gone: set[int] = set()
    for _ in range(kills):
        await asyncio.sleep(pause * (0.5 + dice.random()))
        alive = await until(lambda: [e["pid"] for e in fleet.events("worker.started") if e["pid"] not in gone], 20)
        victim = dice.choice(alive)
        os.kill(victim, signal.SIGKILL)
        gone.add(victim)
        await fleet.start()


async def journals(fleet: Fleet) -> dict[str, list[Entry]]:
    """Return the journal of every intent."""
    found = await fleet.client.list(limit=100_000)
    return {i.id: [entry for _, entry in await fleet.client.history(i.id)] for i in found}


def heard_once(found: dict[str, list[Entry]]) -> None:
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


async def quiet(fleet: Fleet) -> None:
    """Return when nothing is open and nobody owes anything."""

    async def over() -> bool:
        store = await fleet.store()
        owed = sum([await store.mux.command("ZCARD", keys.timers) for keys in store.keys])
        return not owed and all(i.status.final for i in await fleet.client.list(limit=100_000))

    await until(over, 40, 0.1)


async def grown(fleet: Fleet, kills: int, **payload: Any) -> None:
    await fleet.start(3)
    root = await fleet.client.send("tree", {"name": "r", **payload})
    await asyncio.gather(strike(fleet, kills, seed=3), fleet.client.wait_for(root, 50))
    leaves = payload["width"] ** payload["depth"]
    assert await fleet.client.wait_for(root) == leaves
    await quiet(fleet)
    found = await journals(fleet)
    assert len(found) == sum(payload["width"] ** n for n in range(payload["depth"] + 1))
    heard_once(found)
    assert sum(isinstance(e, Arrived) for entries in found.values() for e in entries) == len(found) - 1
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"COMPLETED": len(found)}


async def test_a_tree_of_children_is_started_once_and_heard_once_whatever_dies(fleet: Fleet) -> None:
    await grown(fleet, 4, width=5, depth=2, pause=0.05)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_larger_tree_too(fleet: Fleet) -> None:
    await grown(fleet, 20, width=20, depth=2, pause=0.1)


async def test_a_cancel_at_the_root_leaves_nothing_open_and_undoes_each_once(fleet: Fleet) -> None:
    await fleet.start(3)
    root = await fleet.client.send("tree", {"name": "r", "width": 4, "depth": 2, "waits": True})

    async def waiting() -> bool:
        found = await fleet.client.list(limit=1000)
        return len(found) == 21 and all(i.status is Status.WAITING for i in found)

    await until(waiting, 30, 0.05)
    await fleet.client.cancel(root)
    await strike(fleet, 3, seed=5, pause=0.1)
    await quiet(fleet)
    found = await journals(fleet)
    heard_once(found)
    for intent, entries in found.items():
        undone = [e for e in entries if isinstance(e, StepDone) and e.name == "undo"]
        assert len(undone) == 1, f"{intent} was undone {len(undone)} times"
    await fleet.reap()
    assert await check_all(await fleet.store()) == {"CANCELED": 21}


@pytest.mark.parametrize("winner", ["answer", "late"])
async def test_a_race_replayed_after_kills_has_one_winner(fleet: Fleet, winner: str) -> None:
    await fleet.start(2)
    late = 60 if winner == "answer" else 1.1
    ids = await fleet.client.send_many("race", [{"late": late, "n": 100}] * 10)
    if winner == "answer":
        await asyncio.gather(*(fleet.client.resolve(i, "answer", 1) for i in ids))
    # from here on all of them have some seconds of work
    await until(lambda: sum(line.step == f"won:{winner}" for line in fleet.ledger()) >= len(ids), 20)
    _, *results = await asyncio.gather(
        strike(fleet, 4, seed=9, pause=0.1), *(fleet.client.wait_for(i, 50) for i in ids)
    )
    assert results == [winner] * len(ids)
    seen = Counter(line.step for line in fleet.ledger() if line.step.startswith("won:"))
    assert set(seen) == {f"won:{winner}"}
    assert seen[f"won:{winner}"] > len(ids), "no kill made anybody look again"
