"""
The lab: a private server, a worker that can be frozen, and what a piece of work took, by the unit.

What is judged is what a noisy machine leaves alone: CPU of server and worker, and commands; no clock on the wall.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from redurable import Client
from redurable.bench.app import PAYLOAD
from redurable.bench.bed import Bed, Workers
from redurable.bench.run import Run, Sizes
from redurable.config import parse_url
from redurable.store.keys import Keys
from redurable.store.store import Store

APP = "tests.growth.app"
MOST = 2.0  # a cost may be so many times what it was at the smallest size; caches of the machine take a part of that
# what may grow more, how much, and why
KNOWN: dict[tuple[str, str], tuple[float, str]] = {
    # the claim names the streams alone that the read gave from; what is left is the read's: 0.6 us of Redis a stream
    ("queues", "send and run a no-op, alone"): (2.5, "a worker at rest waits for four streams a queue by one command"),
    ("parked", "a second's rest"): (3.0, "the reconciler walks the open ones, so many a second and never more"),
}
_LEAST = 2.0  # us; under it the counters' own grain shows


@dataclass(frozen=True, slots=True)
class Cost:
    """What one unit took: us of CPU in server and worker, commands of the server."""

    server: float
    worker: float
    commands: float


@dataclass(frozen=True, slots=True)
class Line:
    """An operation's cost beside *size* things of an *axis*."""

    axis: str
    operation: str
    size: int
    cost: Cost


def grows(lines: list[Line]) -> list[str]:
    """Return what of an operation's cost, from its smallest size to any larger one, grows more than it may."""
    first = lines[0].cost
    allowed, _ = KNOWN.get((lines[0].axis, lines[0].operation), (MOST, ""))
    found = []
    for part in ("server", "worker", "commands"):
        least = getattr(first, part) if part == "commands" else max(getattr(first, part), _LEAST)
        most = max(getattr(line.cost, part) for line in lines)
        if least and most / least > allowed:
            found.append(f"{part} x {most / least:.1f}")
    return found


class Lab:
    """
    Measures on a server of its own.

    Args:
        most: The largest number of intents. repeat: How often each cost is measured; the median counts.
    """

    def __init__(self, bed: Bed, most: int, repeat: int, note: Callable[[str], None]) -> None:
        self.bed = bed
        self.run = Run(bed, Sizes(), repeat, note)
        self.most = most
        self.repeat = repeat
        self.note = note
        self.unit = min(2000, most)  # operations of one measurement

    def sizes(self, least: int, times: int, most: int | None = None) -> list[int]:
        """Return *least*, and *times* as many, up to *most*."""
        found = [min(least, most or self.most)]
        while found[-1] * times <= (most or self.most):
            found.append(found[-1] * times)
        return found

    @contextlib.asynccontextmanager
    async def stage(self, queues: int = 1, lease: float = 3600.0, partitions: int = 1) -> AsyncIterator[Stage]:
        """
        A worker of all handlers, with *queues* for the no-op, in a namespace of its own, of so many *partitions*.

        One that is frozen for minutes must not be taken for dead: it has a long *lease*.
        """
        os.environ["GROWTH_QUEUES"] = str(queues)
        os.environ["REDURABLE_MAX_JOURNAL_ENTRIES"] = "1_000_000"  # the longest journal here is at the default
        async with (
            self.bed.namespace() as namespace,
            self._made(namespace, partitions),
            self.bed.workers(namespace, "", app=APP, lease=lease) as workers,
            Client(self.bed.url, namespace=namespace) as client,
        ):
            yield Stage(self, client, workers, [Keys(namespace, p) for p in range(partitions)])

    @contextlib.asynccontextmanager
    async def _made(self, namespace: str, partitions: int) -> AsyncIterator[None]:
        """Whoever comes first makes a namespace, and with it the number of its partitions."""
        store = Store(parse_url(self.bed.url), namespace, partitions=partitions)
        try:
            await store.start()
        finally:
            await store.close()
        yield


class Stage:
    """A client and a worker, and what is kept of their intents."""

    def __init__(self, lab: Lab, client: Client, workers: Workers, keys: list[Keys]) -> None:
        self.lab = lab
        self.client = client
        self.workers = workers
        self.keys = keys  # of every partition

    async def cost(
        self,
        work: Callable[[], Awaitable[float]],
        prepare: Callable[[], Awaitable[Any]] | None = None,
        *,
        thaw: bool = True,
    ) -> Cost:
        """
        Return what a unit of *work* costs, which returns how many it did.

        The worker is frozen while we *prepare*, and works then if we *thaw* it.
        """
        costs = []
        for _ in range(self.lab.repeat):
            if prepare is not None:
                self.workers.freeze()
                await prepare()
            before = await self.lab.run.counts(self.workers)
            if thaw:
                self.workers.thaw()
            units = await work()
            spent = (await self.lab.run.counts(self.workers)).since(before)
            polls = spent.commands.get("zcard", 0) + spent.commands.get("xlen", 0)
            costs.append(Cost(
                spent.server_cpu / units * 1e6, (spent.worker_cpu or 0.0) / units * 1e6,
                (sum(spent.commands.values()) - polls) / units,
            ))  # fmt: skip
        return Cost(*(median(getattr(c, part) for c in costs) for part in ("server", "worker", "commands")))

    async def send(self, queue: str, count: int, payload: Any = PAYLOAD, **options: Any) -> list[str]:
        """Send *count* intents."""
        return list(await self.client.send_many(queue, [payload] * count, **options))

    async def done(self) -> int:
        """Return how many have completed."""
        counts = await asyncio.gather(*(self.lab.bed.mux.command("ZCARD", keys.done) for keys in self.keys))
        return sum(map(int, counts))

    async def until_done(self, count: int) -> int:
        """Return how many have completed, once it is *count*."""
        while (now := await self.done()) < count:
            self.workers.check()
            await asyncio.sleep(0.01)
        return now

    async def until_parked(self, queue: str) -> None:
        """Return when nothing of *queue* is in a stream: all that were sent wait, or have ended."""
        lanes = [keys.stream(queue, lane) for keys in self.keys for lane in ("q:normal", "c:-")]
        while any([await self.lab.bed.mux.command("XLEN", lane) for lane in lanes]):
            self.workers.check()
            await asyncio.sleep(0.01)

    async def resolve(self, ids: list[str]) -> None:
        """Give the promise of each its value."""
        for start in range(0, len(ids), 500):
            await asyncio.gather(*(self.client.resolve(intent, "go", 1) for intent in ids[start : start + 500]))
