"""How long one step takes when it is awaited, and how long it is from a send to its result, at rest and under load."""

from __future__ import annotations

import asyncio
import random
import time

from redurable.bench.app import PAYLOAD
from redurable.bench.report import Row, at_most, percentile, row
from redurable.bench.run import Run
from redurable.client import Client

__all__ = ["idle_and_loaded", "sequential"]

_TASKS = 100
_LATE = 2e-3  # s that timers of a loop may be late


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


async def idle_and_loaded(run: Run) -> list[Row]:
    """From a send to its result, when nothing else runs and when half of all that a worker can do does."""
    return [*await _idle(run), *await _loaded(run)]


async def _idle(run: Run) -> list[Row]:
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


async def _loaded(run: Run) -> list[Row]:
    """No-op intents sent at even times, half as many a second as one worker is seen to do for as many callers."""
    count = run.sizes.intents // 2
    ours: list[tuple[float, float]] = []
    floors: list[tuple[float, float]] = []
    rates = []
    async with run.at_work("noop") as stage:
        await _pressed(stage.client, 1000)
        for _ in range(run.repeat):
            floors.append(await run.floor_latency())
            rates.append(await _pressed(stage.client, count) / 2)
            took = await _at(rates[-1], stage.client, count)
            ours.append((percentile(took, 0.5), percentile(took, 0.99)))
    p50, p99 = zip(*ours, strict=True)
    floor50, floor99 = zip(*floors, strict=True)
    return [
        row("send to result, half of full load, p50", "ms", p50, floor50, rates=rates),
        row("send to result, half of full load, p99", "ms", p99, floor99, rates=rates),
    ]


async def _pressed(client: Client, count: int) -> float:
    """Return how many no-op intents a second are done for callers that send again as soon as they have a result."""

    async def one() -> None:
        for _ in range(count // _TASKS):
            await client.call("bench.noop", PAYLOAD)

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(_TASKS)))
    return count // _TASKS * _TASKS / (time.perf_counter() - begun)


async def _at(rate: float, client: Client, count: int) -> list[float]:
    """
    Send *count* no-op intents, *rate* a second whatever becomes of them; return the ms of each.

    One that this process is late to send counts from when it was to be sent: what makes the sender wait makes users
    wait (Tene: How NOT to Measure Latency, 2013).
    """
    took: list[float] = []

    async def one(begun: float) -> None:
        await client.call("bench.noop", PAYLOAD)
        took.append((time.perf_counter() - begun) * 1e3)

    start, calls = time.perf_counter(), list[asyncio.Task[None]]()
    while len(calls) < count:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        for k in range(len(calls), min(count, int((now - start) * rate))):
            planned = start + k / rate
            calls.append(asyncio.create_task(one(planned if now - planned > _LATE else now)))
    await asyncio.gather(*calls)
    return took
