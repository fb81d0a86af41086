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
    """One intent, its steps one after another, timed by the handler."""
    count = run.sizes.sequential
    p50, p99, floors = [], [], []
    async with run.at_work("timed") as stage:
        await stage.client.call("bench.timed", 200)
        for _ in range(run.repeat):
            floors.append(await run.floor_latency() * 1e3)
            took = await stage.client.call("bench.timed", count)
            p50.append(percentile(took, 0.5) / 1e6)
            p99.append(percentile(took, 0.99) / 1e6)
    return [
        row("awaited step, one after another, p50", "ms", p50, floors, at_most(1.5, "ratio")),
        row("awaited step, one after another, p99", "ms", p99, floors),
    ]


async def idle(run: Run) -> list[Row]:
    """No-op intents sent to an idle system, each when the one before has long ended."""
    rng = random.Random(1)
    p50, p99, floors = [], [], []
    async with run.at_work("noop") as stage:
        for _ in range(50):
            await stage.client.call("bench.noop", PAYLOAD)
        for _ in range(run.repeat):
            floors.append(await run.floor_latency() * 1e3)
            took = []
            for _ in range(run.sizes.calls):
                await asyncio.sleep(rng.uniform(0.0005, 0.003))
                begun = time.perf_counter()
                await stage.client.call("bench.noop", PAYLOAD)
                took.append((time.perf_counter() - begun) * 1e3)
            p50.append(percentile(took, 0.5))
            p99.append(percentile(took, 0.99))
    return [
        row("send to result, idle system, p50", "ms", p50, floors, at_most(0.5)),
        row("send to result, idle system, p99", "ms", p99, floors, at_most(1.2)),
    ]
