"""Ours as an engine: `redurable worker` as it comes, uvloop installed."""

import asyncio
import contextlib
import sys
import time
from typing import Any

from kit import RESULT, URL, Steps, first_time

from redurable import Client, handler, step


@step
async def work() -> str:
    return RESULT


@handler(queue="steps")
async def steps(count: int) -> int:
    for _ in range(count):
        await work()
    return count


@handler(queue="timed")
async def timed(count: int) -> list[int]:
    took = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        await work()
        took.append(time.perf_counter_ns() - begun)
    return took


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

    async def send_hang(self, mark: str) -> None:
        await self.client.send("hang", mark)


SIDE = Redurable()
