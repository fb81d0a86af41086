"""
The axes: what there is more and more of, and the operations whose cost must not follow.

    queued      send, and run, behind a backlog
    finished    run, get, a page of list, beside many
    parked      run, park, wake, rest, beside many
    journal     a step, and the replay of one, in a longer journal
    queues      run in a crowd, run alone, rest, for a worker of more
    partitions  the same, send, a delayed one, list, rest beside one that is held, in a namespace of more
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

from tests.growth.lab import Lab, Line, Stage

__all__ = ["AXES"]

NOOP, WAITS, LONG, HOLDS = "growth.noop.0", "growth.waits", "growth.long", "growth.holds"
TOGETHER = 4  # long intents at a time
_REST = 5.0
_LONG_REST = 30.0
_READS = 2000  # of 200 the counters see less than of the mood of the machine
_CALMING = 10.0  # s; a worker that just had work looks closely for a while


async def _noops(stage: Stage, axis: str, size: int, queues: int = 1, operation: str = "run a no-op") -> Line:
    """Run a unit of no-ops, all at once."""
    each = max(1, stage.lab.unit // queues)
    goal = 0

    async def fill() -> None:
        nonlocal goal
        goal = await stage.done() + each * queues
        for i in range(queues):
            await stage.send(f"growth.noop.{i}", each)

    async def work() -> int:
        await stage.until_done(goal)
        return each * queues

    return Line(axis, operation, size, await stage.cost(work, fill))


async def queued(lab: Lab) -> AsyncIterator[Line]:
    """A backlog in the queue that is sent to and worked at."""
    async with lab.stage() as stage:
        stage.workers.freeze()
        have = 0
        for size in lab.sizes(1000, 10):
            await stage.send(NOOP, size - have)
            have = size
            yield await _send(stage, "queued", size)
            yield await _backlog(stage, size)


async def _send(stage: Stage, axis: str, size: int) -> Line:
    async def send() -> int:
        return len(await stage.send("growth.nobody", stage.lab.unit))

    return Line(axis, "send", size, await stage.cost(send, thaw=False))


async def _backlog(stage: Stage, size: int) -> Line:
    before = 0

    async def refill() -> None:
        nonlocal before
        await asyncio.sleep(0.05)
        before = await stage.done()
        await stage.send(NOOP, stage.lab.unit)

    async def some() -> int:
        done = await stage.until_done(before + stage.lab.unit // 2)
        stage.workers.freeze()
        return done - before

    return Line("queued", "run a no-op of the backlog", size, await stage.cost(some, refill))


async def finished(lab: Lab) -> AsyncIterator[Line]:
    """Completed intents that are kept."""
    async with lab.stage() as stage:
        for size in lab.sizes(1000, 10):
            have = await stage.done()
            ids = await stage.send(NOOP, max(200, size - have))
            await stage.until_done(max(size, have + 200))
            yield await _noops(stage, "finished", size)
            stage.workers.freeze()  # it has no part in these
            yield await _get(stage, size, random.choices(ids, k=_READS))
            yield await _page(stage, "finished", size, "COMPLETED")
            yield await _walk(stage, size)
            stage.workers.thaw()


async def _get(stage: Stage, size: int, ids: list[str]) -> Line:
    async def get() -> int:
        for intent in ids:
            await stage.client.get(intent)
        return len(ids)

    return Line("finished", "get", size, await stage.cost(get, thaw=False))


async def _page(stage: Stage, axis: str, size: int, status: str | None, operation: str = "list: a page of 100") -> Line:
    async def page() -> int:
        for _ in range(5):
            await stage.client.list(status=status, limit=100)
        return 5

    return Line(axis, operation, size, await stage.cost(page, thaw=False))


async def _walk(stage: Stage, size: int) -> Line:
    async def walk() -> int:
        await stage.client.deployments.list()
        return await stage.done()

    return Line("finished", "deployments: an intent passed", size, await stage.cost(walk, thaw=False))


async def parked(lab: Lab) -> AsyncIterator[Line]:
    """Intents that wait for a promise."""
    async with lab.stage() as stage:
        have = 0
        for size in lab.sizes(1000, 10):
            await stage.send(WAITS, size - have)
            await stage.until_parked(WAITS)
            have = size
            yield await _noops(stage, "parked", size)
            for line in await _park_and_wake(stage, size):
                yield line
            yield await _at_rest(stage, "parked", size)


async def _park_and_wake(stage: Stage, size: int) -> list[Line]:
    unit = stage.lab.unit
    ids: list[str] = []

    async def park() -> int:
        ids.extend(await stage.send(WAITS, unit))
        await stage.until_parked(WAITS)
        return unit

    async def resolve() -> None:
        await stage.resolve([ids.pop() for _ in range(unit)])

    async def wake() -> int:
        await stage.until_parked(WAITS)
        return unit

    parking = Line("parked", "send and park", size, await stage.cost(park))
    return [parking, Line("parked", "wake and run to its end", size, await stage.cost(wake, resolve))]


async def journal(lab: Lab) -> AsyncIterator[Line]:
    """Steps in one journal, a few intents at a time; a step's cost has its share of the intent's."""
    async with lab.stage() as stage:
        for size in lab.sizes(10, 10, min(100_000, lab.most)):
            for line in await _step_and_replay(stage, size):
                yield line


async def _step_and_replay(stage: Stage, size: int) -> list[Line]:
    rounds = max(1, 200 // size)
    ids: list[str] = []

    async def steps() -> int:
        for _ in range(rounds):
            ids.extend(await stage.send(LONG, TOGETHER, size))
            await stage.until_parked(LONG)
        return rounds * TOGETHER * size

    async def resolve() -> None:
        await stage.resolve([ids.pop() for _ in range(rounds * TOGETHER)])

    async def replay() -> int:
        await stage.until_parked(LONG)
        return rounds * TOGETHER * size

    step = Line("journal", "a step", size, await stage.cost(steps))
    return [step, Line("journal", "the replay of a step", size, await stage.cost(replay, resolve))]


async def queues(lab: Lab) -> AsyncIterator[Line]:
    """Queues that one worker serves."""
    for size in (1, 4, 16, 64):
        async with lab.stage(size, lease=10.0) as stage:  # as it is served: sweeps look at leases every 2.5 s
            yield await _noops(stage, "queues", size, size, "run a no-op, in a crowd")
            yield await _alone(stage, "queues", size, size)
            yield await _at_rest(stage, "queues", size)


async def _alone(stage: Stage, axis: str, size: int, queues: int = 1) -> Line:
    async def alone() -> int:
        for i in range(128):
            await stage.client.call(f"growth.noop.{i % queues}", "")
        return 128

    return Line(axis, "send and run a no-op, alone", size, await stage.cost(alone))


async def _at_rest(stage: Stage, axis: str, size: int, operation: str = "a second's rest", calm: bool = True) -> Line:
    async def rest() -> int:
        await asyncio.sleep(_REST)
        return int(_REST)

    if calm:
        await asyncio.sleep(_CALMING)
    return Line(axis, operation, size, await stage.cost(rest))


async def partitions(lab: Lab) -> AsyncIterator[Line]:
    """Partitions of the namespace; what is worked at lies in all of them, what is held in one."""
    for size in (1, 4, 16):
        async with lab.stage(lease=10.0, partitions=size) as stage:
            yield await _noops(stage, "partitions", size, operation="run a no-op, in a crowd")
            yield await _alone(stage, "partitions", size)
            yield await _delayed(stage, size)
            yield await _rest_of_partitions(stage, size)
            await stage.send(HOLDS, 1, 600.0)
            await asyncio.sleep(_CALMING)  # what was found empty is looked at seldom again
            yield await _at_rest(stage, "partitions", size, "a second beside one that is held", calm=False)
            stage.workers.freeze()  # it has no part in these
            yield await _send(stage, "partitions", size)
            yield await _page(stage, "partitions", size, "COMPLETED")
            yield await _page(stage, "partitions", size, None, "list: a page of 100, of all")


async def _delayed(stage: Stage, size: int) -> Line:
    async def delayed() -> int:
        for _ in range(64):
            await stage.client.call(NOOP, "", delay=0.02)
        return 64

    return Line("partitions", "a delayed intent, alone", size, await stage.cost(delayed))


async def _rest_of_partitions(stage: Stage, size: int) -> Line:
    """A worker's rest, by the partition and minute: each partition has a blocking read, and looks of its own."""

    async def rest() -> float:
        await asyncio.sleep(_LONG_REST)
        return _LONG_REST / 60 * size

    await asyncio.sleep(_CALMING)
    return Line("partitions", "a minute's rest, a partition", size, await stage.cost(rest))


AXES: dict[str, Callable[[Lab], AsyncIterator[Line]]] = {
    "queued": queued,
    "finished": finished,
    "parked": parked,
    "journal": journal,
    "queues": queues,
    "partitions": partitions,
}
