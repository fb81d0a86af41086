"""Intents that wait for a promise: what each costs in Redis and at rest, how fast all are woken, how soon one is."""

from __future__ import annotations

import asyncio
import time

import msgspec

from redurable.bench.app import PAYLOAD
from redurable.bench.memory import used
from redurable.bench.report import Row, at_least, at_most, percentile, row
from redurable.bench.run import Run, Stage
from redurable.store.keys import Keys

__all__ = ["parked"]

_WAVE = 500
_WARM = 30_000  # by then the heap has the size that the collector lets it have


async def parked(run: Run) -> list[Row]:
    """Park many, measure, wake all; then wake them one by one, each when nothing else runs."""
    count, rest = run.sizes.parked, run.sizes.rest
    rates: list[float] = []
    async with run.at_work("waits", within=120 + count / 200 + 3 * rest) as stage:
        # a process grows until its allocator has what it needs at a time
        await _wake(run, stage, await _park(run, stage, min(_WARM, count // 2)))
        without = await _calls_at_rest(run, rest)
        empty = await used(run)
        resident = stage.workers.rss()
        ids = await _park(run, stage, count)
        each = (await used(run) - empty) / count - len(msgspec.msgpack.encode(PAYLOAD))
        calls = await _calls_at_rest(run, rest)
        grown = (stage.workers.rss() - resident) / 2**20
        floors = [await run.floor_rate()]
        rates.append(await _wake(run, stage, ids))
        took = [await _one(run, stage) for _ in range(run.sizes.calls // 4)]
    return [
        row("Redis bytes a parked intent, beside its payload", "B", [each], target=at_most(1228.8)),
        row(f"worker memory grown by {count:,} parked", "MiB", [grown], target=at_most(5.0)),
        row("server calls of an idle worker a minute, nothing parked", "", [without], target=at_most(100.0)),
        row(f"server calls of an idle worker a minute, {count:,} parked", "", [calls], target=at_most(100.0)),
        row("woken to settled, one worker process", "/s", rates, floors, at_least(5000.0)),
        row("resolve to the handler running again, p50", "ms", [percentile(took, 0.5)], target=at_most(2.0)),
        row("resolve to the handler running again, p99", "ms", [percentile(took, 0.99)]),
    ]


async def _calls_at_rest(run: Run, seconds: float) -> float:
    """Return how many commands a minute the server is asked, from scripts too, while there is nothing to do."""
    await asyncio.sleep(min(seconds, 10.0))  # a worker that just had work looks closely for a while
    before = await run.counts()
    await asyncio.sleep(seconds)
    return sum((await run.counts()).since(before).commands.values()) * 60 / seconds


async def _park(run: Run, stage: Stage, count: int) -> list[str]:
    """Send *count* and return when all of them wait."""
    ids = await stage.client.send_many("bench.waits", [PAYLOAD] * count)
    keys, ask = Keys(stage.namespace, 0), run.bed.mux.command
    for intent in ids[:: max(1, count // 50)] + ids[-1:]:
        while await ask("HGET", keys.head(intent), "status") != b"WAITING":  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.002)
    return list(ids)


async def _wake(run: Run, stage: Stage, ids: list[str]) -> float:
    """Resolve all while the worker is frozen, release it; return how many a second have settled from then on."""
    client = stage.client
    waits = [asyncio.ensure_future(client.wait_for(intent)) for intent in ids]
    await client.get(ids[-1])  # every waiter has looked
    stage.workers.freeze()
    try:
        for start in range(0, len(ids), _WAVE):
            await asyncio.gather(*(client.resolve(intent, "go", 1) for intent in ids[start : start + _WAVE]))
    finally:
        begun = time.perf_counter()
        stage.workers.thaw()
    await asyncio.gather(*waits)
    return len(ids) / (time.perf_counter() - begun)


async def _one(run: Run, stage: Stage) -> float:
    """Return the ms from a resolve to the handler that goes on; the clocks are the same machine's."""
    (intent,) = await _park(run, stage, 1)
    await asyncio.sleep(0.004)
    begun = time.time()
    await stage.client.resolve(intent, "go", 1)
    return (float(await stage.client.wait_for(intent)) - begun) * 1e3
