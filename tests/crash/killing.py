"""
The same crash drill in two sizes: random SIGKILLs over many intents, then the books are compared.

Four processes work: two children of one `redurable worker` (its parent sees them die and replaces them) and two alone
(their peers see them die; the drill replaces them). What is asserted afterwards is in `drill`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from redurable.store.server import PrivateServer
from tests.support.fleet import Fleet, judge, until
from tests.support.invariants import check_all

__all__ = ["Drill", "drill", "strike"]


@dataclass(frozen=True)
class Drill:
    """How much of everything; *pace* is the mean time between kills, *pause* the longest sleep of a step, in s."""

    intents: int
    steps: int
    kills: int
    pace: float
    pause: float
    concurrency: int
    within: float
    seed: int = 0

    def with_(self, **changes: int) -> Drill:
        """Return the drill with some of it changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # the fields that are numbers


def _alive(fleet: Fleet, gone: set[int]) -> list[int]:
    """Return the worker processes that have started and were not killed yet."""
    return [e["pid"] for e in fleet.events("worker.started") if e["pid"] not in gone]


def _enough(fleet: Fleet, gone: set[int]) -> list[int]:
    alive = _alive(fleet, gone)
    return alive if len(alive) >= 4 else []


async def strike(fleet: Fleet, plan: Drill, before: Callable[[int], None] | None = None) -> set[int]:
    """Kill one at a time, at a moment that it cannot know, and tell *before*; go on when there are four again."""
    dice = random.Random(plan.seed)
    gone: set[int] = set()
    while len(gone) < plan.kills:
        victims = await until(lambda: _enough(fleet, gone), 60)
        # whoever took over has to get a step done: three losses without progress would end an intent, rightly
        await asyncio.sleep(0.25 + dice.uniform(0, 2) * plan.pace)
        victim = dice.choice(victims)
        if before is not None:
            before(victim)
        os.kill(victim, signal.SIGKILL)
        gone.add(victim)
        if any(p.pid == victim for p in fleet.processes):
            fleet.spawn(concurrency=plan.concurrency)
    return gone


async def drill(plan: Drill) -> dict[str, Any]:
    """
    Play *plan* and return its figures.

    Asserted: every intent is COMPLETED with its whole result, once; no recorded step's body ran again; no epoch went
    down; nothing is left in Redis but finished intents, and no process is still registered after all have stopped.
    """
    began = time.monotonic()
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            parent = fleet.supervise(2, "--concurrency", str(plan.concurrency))
            await fleet.start(2, concurrency=plan.concurrency)
            await fleet.started(4)
            dice = random.Random(plan.seed + 1)
            payloads = [{"n": plan.steps, "pause": dice.uniform(0, plan.pause)} for _ in range(plan.intents)]
            working = time.monotonic()
            intents = await fleet.client.send_many("steps", payloads)
            striking = asyncio.create_task(strike(fleet, plan))
            async with asyncio.timeout(plan.within):
                results = await asyncio.gather(*(fleet.client.wait_for(i) for i in intents))
                worked = time.monotonic() - working
                struck = striking.done()
                gone = await striking
            assert results == [40 * plan.steps] * plan.intents
            figures: dict[str, Any] = await judge(fleet, list(intents))
            figures |= {"kills": len(gone), "kills were over first": struck, "seconds of work": round(worked, 1)}
            await until(lambda: len(_alive(fleet, gone)) >= 4, 60)
            await fleet.reap()
            assert parent.popen.returncode == 0
            found = await check_all(await fleet.store())
            assert found == {"COMPLETED": plan.intents}
            assert not await fleet.client.workers()
            words = [e["taken"] for e in fleet.events("worker.lost")]
            figures |= {word: sum(w.get(word, 0) for w in words) for word in sorted({k for w in words for k in w})}
            figures["recovered by"] = {by: len(fleet.events("worker.lost", by=by)) for by in ("parent", "peers")}
            figures["troubles"] = [e for n in ("task.failed", "loop.failed") for e in fleet.events(n)]
            assert not figures["troubles"]
    figures["seconds in all"] = round(time.monotonic() - began, 1)
    return figures
