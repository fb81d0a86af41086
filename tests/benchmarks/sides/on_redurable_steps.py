"""Ours as an engine: `redurable worker` as it comes, uvloop installed."""

import asyncio
import contextlib
import sys
from typing import Any

from kit import RESULT, URL, Steps, first_time, median, percentile

from redurable import Client, handler, step
from redurable.bench.app import floor


@step
async def work() -> str:
    return RESULT


@handler(queue="steps")
async def steps(count: int) -> int:
    for _ in range(count):
        await work()
    return count


@handler(queue="timed")
async def timed(count: int) -> tuple[list[float], list[float]]:
    return await floor().beside(count, work)


@step
async def last(mark: str) -> None:
    if first_time(mark):
        await asyncio.sleep(600)


@handler(queue="hang")
async def hang(mark: str) -> None:
    for _ in range(24):
        await work()
    await last(mark)


class Redurable(Steps):
    name = "redurable"
    packages = ("redurable", "redis", "hiredis", "uvloop")
    settings = (("redurable worker MODULE", "as it comes: 100 intents at a time, README.md"),)
    uvloop = True

    def worker(self, *, defaults: bool) -> list[str]:
        command = [sys.executable, "-m", "redurable", "worker", "on_redurable_steps"]
        return [*command, "--url", URL, "--accept", "persistence"]

    async def open(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        self.client = await self.stack.enter_async_context(Client(URL))

    async def close(self) -> None:
        await self.stack.aclose()

    async def start(self, handler: str, argument: Any) -> Any:
        return await self.client.call(handler, argument)

    async def measure_sequential(self, count: int) -> dict[str, float]:
        """One step after another, timed by the handler; and the bare call, by turns with them."""
        async with self.working(1):
            await self.start("timed", 20)
            bare, took = await self.start("timed", count)
        return {"value": median(took), "p99": percentile(took, 0.99), "bare": median(bare)}

    async def send_hang(self, mark: str) -> None:
        await self.client.send("hang", mark)


SIDE = Redurable()
