"""How fast intents are stored: thousands in one flush, one after another, and by many tasks at once."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable

from redurable.bench.app import PAYLOAD
from redurable.bench.report import Row, at_least, row
from redurable.bench.run import Run
from redurable.client import Client

__all__ = ["sending"]


async def sending(run: Run) -> list[Row]:
    """Send to a queue that nobody serves."""
    sizes = run.sizes
    each = sizes.bulk // 100

    async def bulk(client: Client) -> int:
        return len(await client.send_many("bench.nobody", [PAYLOAD] * sizes.bulk))

    async def alone(client: Client) -> int:
        for _ in range(sizes.sends):
            await client.send("bench.nobody", PAYLOAD)
        return sizes.sends

    async def together(client: Client) -> int:
        async def one() -> None:
            for _ in range(each):
                await client.send("bench.nobody", PAYLOAD)

        await asyncio.gather(*(one() for _ in range(100)))
        return each * 100

    rows = []
    for name, send, target in (
        ("send_many", bulk, at_least(60_000.0)),
        ("send, one by one, by 100 tasks", together, at_least(20_000.0)),
        # one task: a matter of the machine's round trip, so it stands beside that alone
        ("send, one by one, by one task", alone, None),
    ):
        rates, floors = await _rates(run, send, alone=send is alone)
        rows.append(row(name, "/s", rates, floors, target))
    return rows


async def _rates(run: Run, send: Callable[[Client], Awaitable[int]], *, alone: bool) -> tuple[list[float], list[float]]:
    rates, floors = [], []
    for _ in range(run.repeat):
        # what is awaited alone stands beside the call that is awaited alone
        floors.append(1e3 / (await run.floor_latency())[0] if alone else await run.floor_rate())
        async with run.bed.namespace() as namespace, Client(run.bed.url, namespace=namespace) as client:
            await client.send("bench.nobody", PAYLOAD)
            gc.collect()
            begun = time.perf_counter()
            count = await send(client)
            rates.append(count / (time.perf_counter() - begun))
    return rates, floors
