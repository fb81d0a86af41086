"""
One run: how much is measured, and the pieces that scenarios share (draining a full queue, counting what it took).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redurable.bench.bed import Bed, Workers
from redurable.bench.floor import Floor
from redurable.bench.report import percentile
from redurable.client import Client

__all__ = ["FULL", "QUICK", "Counts", "Drained", "Run", "Sizes", "Stage", "drain"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each a repeat does; *rest* is for how many seconds nothing is done."""

    floor: int = 20_000
    long_intents: int = 400
    steps: int = 50
    intents: int = 10_000
    sequential: int = 2_000
    calls: int = 1_000
    bulk: int = 20_000
    sends: int = 3_000
    kept: int = 10_000
    parked: int = 20_000
    rest: float = 12.0
    kills: int = 3
    freezes: int = 2


QUICK = Sizes(
    floor=10_000, long_intents=200, intents=3_000, sequential=1_000, calls=200, bulk=10_000, sends=1_500, kept=3_000,
    parked=5_000, rest=6.0,
    kills=1, freezes=0,
)  # fmt: skip
FULL = Sizes(parked=100_000, rest=60.0)


@dataclass(frozen=True, slots=True)
class Counts:
    """What server and worker have done so far, or between two looks."""

    worker_cpu: float | None
    server_cpu: float
    wire_in: int
    wire_out: int
    commands: dict[str, int]

    def since(self, before: Counts) -> Counts:
        """Return what was done after *before*."""
        ours = None
        if self.worker_cpu is not None and before.worker_cpu is not None:
            ours = self.worker_cpu - before.worker_cpu
        commands = {n: c - before.commands.get(n, 0) for n, c in self.commands.items()}
        looks = ("info", "config|resetstat")
        return Counts(
            ours,
            self.server_cpu - before.server_cpu,
            self.wire_in - before.wire_in,
            self.wire_out - before.wire_out,
            {n: c for n, c in commands.items() if c and n not in looks},
        )


@dataclass(frozen=True, slots=True)
class Drained:
    """
    One emptied queue; times in s.

    Attributes:
        outcomes: From the first to the last outcome seen. all: From the worker's release to the last.
        work: What server and worker did from the release on. whole: The same and the sending.
    """

    count: int
    outcomes: float
    all: float
    work: Counts
    whole: Counts


@dataclass(frozen=True, slots=True)
class Stage:
    """A client, a warm worker, and the namespace they share."""

    client: Client
    workers: Workers
    namespace: str


class Run:
    """A server, its floor, and how much to measure."""

    def __init__(self, bed: Bed, sizes: Sizes, repeat: int, note: Callable[[str], None]) -> None:
        self.bed = bed
        self.sizes = sizes
        self.repeat = repeat
        self.note = note
        self.floor = Floor(bed.mux, bed.floor_prefix)

    async def floor_rate(self) -> float:
        """Return the floor's rate now."""
        gc.collect()
        return await self.floor.rate(self.sizes.floor)

    async def floor_latency(self) -> tuple[float, float]:
        """Return p50 and p99 of the floor's awaited call now, in ms."""
        took = await self.floor.latencies(self.sizes.sequential)
        return percentile(took, 0.5), percentile(took, 0.99)

    async def counts(self, workers: Workers | None = None) -> Counts:
        """Look at the counters."""
        stats = await self.bed.info("stats")
        return Counts(
            worker_cpu=None if workers is None else workers.cpu(),
            server_cpu=await self.bed.server_cpu(),
            wire_in=int(stats["total_net_input_bytes"]),
            wire_out=int(stats["total_net_output_bytes"]),
            commands=await self.bed.calls(),
        )

    @contextlib.asynccontextmanager
    async def at_work(
        self, handler: str, processes: int = 1, *, metrics: bool = False, within: float = 120.0
    ) -> AsyncIterator[Stage]:
        """A client and a worker that serves *handler*, in a namespace of their own, for *within* seconds at most."""
        async with (
            self.bed.namespace() as namespace,
            self.bed.workers(namespace, handler, processes=processes, metrics=metrics) as workers,
            asyncio.timeout(within),
            Client(self.bed.url, namespace=namespace) as client,
        ):
            yield Stage(client, workers, namespace)


async def drain(run: Run, stage: Stage, queue: str, payloads: Sequence[Any]) -> Drained:
    """Fill *queue* while the worker is frozen, await every outcome, release the worker, and count."""
    client, workers = stage.client, stage.workers
    seen: list[float] = []

    def note(_: asyncio.Task[Any]) -> None:
        seen.append(time.perf_counter())

    before = await run.counts(workers)
    workers.freeze()
    try:
        ids = await client.send_many(queue, payloads)
        waits = [asyncio.ensure_future(client.wait_for(intent)) for intent in ids]
        for wait in waits:
            wait.add_done_callback(note)
        # every waiter has looked, found nothing, and waits to be told: answers come in order
        await asyncio.sleep(0)
        await client.get(ids[-1])
        gc.collect()
        full = await run.counts(workers)
    finally:
        released = time.perf_counter()
        workers.thaw()
    await asyncio.gather(*waits)
    after = await run.counts(workers)
    return Drained(len(ids), seen[-1] - seen[0], seen[-1] - released, after.since(full), after.since(before))
