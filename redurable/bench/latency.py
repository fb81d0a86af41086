"""How long one step takes when it is awaited, and how long it is from a send to its result when nothing else runs."""

from __future__ import annotations

import asyncio
import random
import time

from redurable.bench.app import PAYLOAD
from redurable.bench.report import Row, at_most, percentile, row
from redurable.bench.run import Run

__all__ = ["idle", "sequential"]


async def sequential(run: Run) -> list[Row]:
    """One intent, its steps one after another, timed by the handler, and by turns with them the floor."""
    count = run.sizes.sequential
    ours: list[tuple[float, float]] = []
    floors: list[tuple[float, float]] = []
    async with run.at_work("timed") as stage:
        await stage.client.call("bench.timed", 200)
        for _ in range(run.repeat):
            bare, took = await stage.client.call("bench.timed", count)
            floors.append((percentile(bare, 0.5), percentile(bare, 0.99)))
            ours.append((percentile(took, 0.5), percentile(took, 0.99)))
    p50, p99 = zip(*ours, strict=True)
    floor50, floor99 = zip(*floors, strict=True)
    return [
        row("awaited step, one after another, p50", "ms", p50, floor50, at_most(1.4, "ratio")),
        row("awaited step, one after another, p99", "ms", p99, floor99),
    ]


async def idle(run: Run) -> list[Row]:
    """No-op intents sent to an idle system, each when the one before has long ended; the floor rests as long."""
    rng = random.Random(1)
    ours: list[tuple[float, float]] = []
    floors: list[tuple[float, float]] = []

    def rest() -> float:
        return rng.uniform(0.0005, 0.003)

    async with run.at_work("noop") as stage:
        for _ in range(50):
            await stage.client.call("bench.noop", PAYLOAD)
        for _ in range(run.repeat):
            cold = await run.floor.latencies(run.sizes.calls, rest)
            floors.append((percentile(cold, 0.5), percentile(cold, 0.99)))
            took = []
            for _ in range(run.sizes.calls):
                await asyncio.sleep(rest())
                begun = time.perf_counter()
                await stage.client.call("bench.noop", PAYLOAD)
                took.append((time.perf_counter() - begun) * 1e3)
            ours.append((percentile(took, 0.5), percentile(took, 0.99)))
    p50, p99 = zip(*ours, strict=True)
    floor50, floor99 = zip(*floors, strict=True)
    return [
        row("send to result, idle system, p50", "ms", p50, floor50, at_most(0.5)),
        row("send to result, idle system, p99", "ms", p99, floor99, at_most(1.2)),
    ]
